"""Files are written whole or not at all, and nothing is replaced that is no ordinary file."""

import ast
import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from kvlab import files
from kvlab.course.grading import notebooks, report
from kvlab.shell import bootstrap, demo
from kvlab.shell.cli import ROOT

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and owners as POSIX has them")
NOBODY = 65534


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def held(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def umask():
    """A umask that no other test has."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@posix
def test_a_new_file_is_as_new_files_are_here(tmp_path, umask):
    files.write(tmp_path / "a.txt", "één\n")
    with files.writing(str(tmp_path / "b.png")) as part:
        assert part.suffix == ".png" and mode(part) == 0o600
        part.unlink()  # a library may make the file anew, and private
        part.touch(0o600)
        part.write_bytes(b"1")
    assert (tmp_path / "a.txt").read_bytes() == "één\n".encode()
    assert mode(tmp_path / "a.txt") == mode(tmp_path / "b.png") == 0o640
    assert held(tmp_path) == ["a.txt", "b.png"]


@posix
@pytest.mark.parametrize("bits", [0o640, 0o600, 0o666, 0o604])
def test_owner_and_mode_of_a_file_stay(tmp_path, bits):
    path = tmp_path / "marks.csv"
    path.write_text("a long text that was there before")
    path.chmod(bits)
    if os.geteuid() == 0:
        os.chown(path, 4321, 1234)
    before = path.stat()
    files.write(path, "short")
    after = path.stat()
    assert path.read_text() == "short" and held(tmp_path) == ["marks.csv"]
    assert [after.st_mode, after.st_uid, after.st_gid] == [
        before.st_mode, before.st_uid, before.st_gid
    ]  # fmt: skip
    assert after.st_ino != before.st_ino, "not replaced, so it was half written for a while"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a"
    for before in (None, "whole"):
        if before:
            path.write_text(before)
        with pytest.raises(error), files.writing(path) as part:
            part.write_text("ha")
            raise error
        assert held(tmp_path) == (["a"] if before else [])
    assert path.read_text() == "whole"


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    for path, kind in [
        (tmp_path / "none" / "a", FileNotFoundError),
        (tmp_path, IsADirectoryError),
    ]:
        with pytest.raises(kind) as caught, files.writing(path):
            pytest.fail("there was nothing to write to, and work began")
        assert caught.value.filename == str(path) and str(caught.value).endswith(f": {str(path)!r}")
    path = tmp_path / "a"
    with pytest.raises(OSError) as caught, files.writing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(path)
    with pytest.raises(OSError, match="in words"), files.writing(path):
        raise OSError("in words")
    with pytest.raises(FileNotFoundError, match="other"), files.writing(path):
        (tmp_path / "other").read_text()


@posix
def test_a_name_as_long_as_names_may_be(tmp_path):
    for name in ("é" * 125 + ".json", "." + "x" * 254, "a." + "b" * 253, "c" * 255):
        files.write(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name


# --- links ------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("there", [True, False])
def test_of_a_link_the_file_it_leads_to_is_written(tmp_path, there):
    away, here = tmp_path / "away", tmp_path / "here"
    away.mkdir()
    here.mkdir()
    if there:
        (away / "marks.csv").write_text("before")
        (away / "marks.csv").chmod(0o640)
    (here / "second").symlink_to("../away/marks.csv")
    (here / "first").symlink_to("second")
    files.write(here / "first", "after")
    assert os.readlink(here / "first") == "second"
    assert os.readlink(here / "second") == "../away/marks.csv"
    assert (away / "marks.csv").read_text() == "after" and held(away) == ["marks.csv"]
    assert not (away / "marks.csv").is_symlink() and held(here) == ["first", "second"]
    assert not there or mode(away / "marks.csv") == 0o640


@posix
def test_a_link_that_leads_to_itself_is_an_error(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError) as caught:
        files.write(tmp_path / "a", "x")
    assert caught.value.errno == errno.ELOOP and caught.value.filename == str(tmp_path / "a")


# --- what is no ordinary file -------------------------------------------------------------------


def null(tmp_path, name="null"):
    """A device like /dev/null that is not the machine's."""
    path = tmp_path / name
    try:
        os.mknod(path, 0o640 | stat.S_IFCHR, os.makedev(1, 3))
        path.write_text("x")
    except OSError:
        pytest.skip("needs the right to make and use a device")
    return path


@contextlib.contextmanager
def fifo(tmp_path, name="pipe"):
    """A named pipe, and the list that what was read from it is put into."""
    path, got = tmp_path / name, []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    yield path, got
    reader.join(10)
    assert stat.S_ISFIFO(path.lstat().st_mode)


@posix
def test_a_device_stays_a_device(tmp_path):
    path = null(tmp_path)
    (tmp_path / "link.png").symlink_to(path)
    before = path.stat()
    files.write(path, "x" * 10_000)
    with files.writing(tmp_path / "link.png") as part:
        assert part.suffix == ".png" and part.parent != tmp_path
        part.write_bytes(b"x")
    assert path.stat()[:7] == before[:7] and stat.S_ISCHR(path.lstat().st_mode)
    assert held(tmp_path) == ["link.png", "null"]
    assert not files.is_ordinary(path) and not files.is_ordinary(tmp_path / "link.png")
    assert files.is_ordinary(tmp_path / "new")


@posix
def test_a_pipe_is_written_to(tmp_path):
    big = bytes(range(256)) * 1000
    with fifo(tmp_path) as (path, got):
        assert not files.is_ordinary(path)
        files.write(path, big)
    assert got == [big]


@posix
@pytest.mark.parametrize("name", ["/proc/self/fd/{}", "/proc/{pid}/fd/{}", "/dev/fd/{}"])
def test_a_descriptor_is_written_to_where_it_stands(tmp_path, name):
    if not os.path.isdir(os.path.dirname(name.format("", pid=os.getpid()))):
        pytest.skip("this system has no such names")
    path = tmp_path / "out"
    number = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.write(number, b"before ")
        inode = path.stat().st_ino
        given = name.format(number, pid=os.getpid())
        assert not files.is_ordinary(given)
        files.write(given, "middle ")
        files.write(given, "end")
    finally:
        os.close(number)
    assert path.read_text() == "before middle end" and path.stat().st_ino == inode
    assert held(tmp_path) == ["out"]


@posix
@pytest.mark.parametrize("way", ["/dev/stdout", "a link"])
def test_standard_output_that_goes_to_a_file_keeps_its_order(tmp_path, way):
    path = tmp_path / "out"
    if way == "a link":
        way = tmp_path / "link"
        way.symlink_to("/dev/stdout")
    code = (
        "import sys; from kvlab import files; print('first'); "
        "files.write(sys.argv[1], 'second\\n'); print('third')"
    )
    with path.open("w") as out:
        out.write("zeroth\n")
        out.flush()
        env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        line = [sys.executable, "-c", code, way]
        subprocess.run(line, stdout=out, cwd=ROOT, env=env, check=True)
    assert path.read_text() == "zeroth\nfirst\nsecond\nthird\n"


@posix
def test_another_process_its_descriptor_is_written_to_and_not_replaced(tmp_path):
    path = tmp_path / "out"
    with path.open("w") as out:
        other = subprocess.Popen(["sleep", "60"], stdout=out)
    try:
        given, inode = f"/proc/{other.pid}/fd/1", path.stat().st_ino
        if not os.path.exists(given):
            pytest.skip("this system has no such names")
        assert not files.is_ordinary(given)
        files.write(given, "from outside")
    finally:
        other.kill()
        other.wait()
    assert (path.read_text(), path.stat().st_ino, held(tmp_path)) == (
        "from outside", inode, ["out"],
    )  # fmt: skip


# --- what may not be written --------------------------------------------------------------------


def as_nobody(work):
    """Run this as a user without rights, if this is root; what it raises comes back as text."""
    if os.geteuid() != 0:
        work()
        return ""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            work()
        except BaseException as error:
            os.write(writes, f"{type(error).__name__} {error}".encode())
        finally:
            os._exit(0)
    os.close(writes)
    with open(reads, "rb") as told:
        said = told.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def shared():
    """A folder that everybody can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@posix
@pytest.mark.parametrize("bits", [0o555, 0o777])
def test_where_a_file_may_only_be_written_in_place_it_is(shared, bits):
    """0o555: no new file may lie beside it. 0o777: it is root's, and nobody may give it to root."""
    path = shared / "marks.csv"
    path.write_text("a long text that was there before")
    path.chmod(0o666)
    shared.chmod(bits)
    before = path.stat()
    assert as_nobody(lambda: files.write(path, "short")) == ""
    assert path.read_text() == "short" and held(shared) == ["marks.csv"]
    after = path.stat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    if bits == 0o555 or os.geteuid() == 0:
        assert after.st_ino == before.st_ino


@posix
def test_a_folder_and_a_file_that_refuse_are_named_and_stay(shared):
    told = []
    (shared / "kept").write_text("mine")
    (shared / "kept").chmod(0o444)
    if os.geteuid() == 0:
        os.chown(shared / "kept", NOBODY, NOBODY)
    for name, bits in {"new": 0o555, "kept": 0o777}.items():
        shared.chmod(bits)

        def work(name=name):
            with pytest.raises(PermissionError) as caught:
                files.write(shared / name, "x")
            assert caught.value.filename == str(shared / name)

        told.append(as_nobody(work))
    assert told == ["", ""] and held(shared) == ["kept"]
    assert (shared / "kept").read_text() == "mine" and mode(shared / "kept") == 0o444


# --- who writes ---------------------------------------------------------------------------------


def noted(path):
    from kvlab.course import record
    from kvlab.course.author.spec import Verdict
    from kvlab.course.exercises import ALL

    record.record(Verdict(ALL[0], "passed", ""))


def curve(path):
    from kvlab.pocket import curve

    log = path.parent / "log.jsonl"
    log.write_text('{"step": 1, "stage": "one", "tokens": 5, "copy": 1.0, "facts": 0.5}\n')
    assert curve.draw([log], path)
    log.unlink()


def checkpoint(path):
    from kvlab import ModelConfig
    from kvlab.pocket.run import Run
    from kvlab.pocket.schedule import SCHEDULE

    tiny = ModelConfig(
        vocab_size=1024, hidden_size=16, intermediate_size=16, n_layers=1, n_heads=1,
        n_kv_heads=1, head_dim=16, max_positions=64, eos_ids=(0,),
    )  # fmt: skip
    no = object()  # texts and skills, which nothing here asks for
    run = Run(
        0, path.parent, config=tiny, schedule=SCHEDULE[:1], feeder=no, probe=no
    )  # fmt: skip
    run.save()


def measured(path):
    from benchmarks.common import record

    record("benchmarks.none", path, [])


def examined(path):
    from kvlab.pocket import exam

    before = exam.evaluate
    exam.evaluate = lambda folder, n_prompts: {"scores": {}}
    try:
        exam.run("pocket", 1, path, None)
    finally:
        exam.evaluate = before


SIDE = {"seconds_at_token": [0.1, 0.2]}
WRITERS = {
    "marks.csv": lambda path: report.write(path, "x"),
    "a.ipynb": lambda path: notebooks.write(path, {"cells": []}),
    bootstrap.STAMP: lambda path: bootstrap.write_stamp(path.parent, state="made"),
    "progress.json": noted,
    "demo.png": lambda path: demo.plot({"cached": SIDE, "uncached": SIDE}, path),
    "curve.png": curve,
    "checkpoint.pt": checkpoint,
    "decode.json": measured,
    "pocket.json": examined,
}


@posix
@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_goes_through_a_link_and_keeps_the_mode(name, tmp_path, monkeypatch):
    target, folder = tmp_path / "target", tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("KVLAB_DATA", str(folder))
    target.write_text("before")
    target.chmod(0o640)
    (folder / name).symlink_to(target)
    WRITERS[name](folder / name)
    assert held(folder) == [name] and (folder / name).is_symlink()
    assert mode(target) == 0o640 and target.read_bytes() != b"before"
    assert held(tmp_path) == ["folder", "target"]


@posix
@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_writes_into_a_device(name, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("KVLAB_DATA", str(folder))
    path = null(folder, name)
    WRITERS[name](path)
    assert stat.S_ISCHR(path.lstat().st_mode) and held(folder) == [name]


@posix
def test_a_model_is_exported_through_a_link_and_keeps_the_folders_mode(tmp_path):
    from kvlab import export, load

    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    model, tokenizer = load("pocket")
    assert export(model, tokenizer, tmp_path / "link") == tmp_path / "link"
    assert (tmp_path / "link").is_symlink() and mode(tmp_path / "real") == 0o700
    assert "model.safetensors" in held(tmp_path / "real") and len(held(tmp_path)) == 2


@posix
def test_no_log_lies_beside_a_device(tmp_path):
    from kvlab.quality.log import journal

    path = null(tmp_path)
    with journal(path, {}) as (done, write):
        write(("key",), {})
    assert done == {} and held(tmp_path) == ["null"]


# what moves or overwrites a file by itself; `open(..., "a")` adds to one, which is another thing
BY_THEMSELVES = {
    "write_text", "write_bytes", "rename", "renames", "copyfile", "copy", "savefig", "save_file",
}  # fmt: skip
# the others write into /proc, and into the world that a sandbox makes
ALLOWED = {
    "kvlab/files.py", "kvlab/course/sandbox/namespaces.py", "kvlab/course/sandbox/walls.py",
    "benchmarks/breakeven/memory.py",
}  # fmt: skip
IN_MEMORY = ("self.savefig(png,", "figure.savefig(text,")  # pictures for a page


def writes(call):
    """Whether a call writes a file by itself, as far as its text tells."""
    name, text = ast.unparse(call.func), ast.unparse(call)
    *owner, last = name.split(".")
    if last == "open":
        return any(mode in text for mode in ("'w", "'x"))
    if last == "replace":  # of a text it takes two arguments, of a dataclass it is no method
        return name == "os.replace" or bool(owner and len(call.args) == 1 and not call.keywords)
    return bool(owner and last in BY_THEMSELVES and (owner == ["shutil"] or last != "copy"))


@pytest.mark.parametrize("room", ["kvlab", "benchmarks"])
def test_nothing_else_in_the_project_writes_a_file(room):
    for path in (ROOT / room).rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name in ALLOWED:
            continue
        every = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        blocks = [
            range(node.lineno, node.end_lineno + 1)
            for node in every
            if isinstance(node, ast.With) and "files.writing(" in ast.unparse(node.items[0])
        ]
        for node in every:
            if isinstance(node, ast.Call) and not any(node.lineno in block for block in blocks):
                text = ast.unparse(node)
                wrong = writes(node) and not text.startswith(("files.", *IN_MEMORY))
                assert not wrong, f"{name}, line {node.lineno}: {text}; use kvlab.files"


def test_the_folder_of_a_path_whatever_it_leads_to(tmp_path):
    loop, link = tmp_path / "loop", tmp_path / "link"
    loop.symlink_to("loop")
    (tmp_path / "far").mkdir()
    link.symlink_to("far/file")
    here = tmp_path.resolve()
    assert files.folder_of(loop) == files.folder_of(tmp_path / "new") == here
    assert files.folder_of(str(link)) == here / "far"
