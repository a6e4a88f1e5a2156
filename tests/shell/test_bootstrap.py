"""Set-up: what it decides, repairs and says; with a stand-in for pip, and once for real."""

import ast
import contextlib
import errno
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import kvlab.__main__ as entry
from kvlab.shell import bootstrap, cli

PROJECT = bootstrap.ROOT
PACKAGE = PROJECT / "kvlab"
# What an old Python meets first.
STARTING = (
    "__init__.py", "__main__.py", "files.py", "shell/__init__.py", "shell/bootstrap.py",
    "shell/surroundings.py",
)  # fmt: skip
HERE = "{}.{}".format(*sys.version_info[:2])

# A project that pip can install without a network: its build backend writes the wheel itself.
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "kvlab"
version = "0"
dynamic = []
"""
BACKEND = """
import pathlib, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "kvlab-0-py3-none-any.whl"
    info = "kvlab-0.dist-info/"
    files = {
        "kvlab.pth": str(pathlib.Path.cwd()),
        info + "METADATA": "Metadata-Version: 2.1\\nName: kvlab\\nVersion: 0\\n"
        "Provides-Extra: book\\nProvides-Extra: dev\\n",
        info + "WHEEL": "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\n"
        "Tag: py3-none-any\\n",
        info + "RECORD": "",
    }
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
"""
CLI = """
import sys
def parse(argv):
    pass
def main(argv):
    print("ran", argv, sys.prefix)
    return 7
"""


class Machine:
    """Stands in for the programs that set-up runs: venv, ensurepip and pip."""

    def __init__(self):
        self.ran = []
        self.python = HERE  # what the Python of .venv says; "" if it does not run
        self.ensurepip = True
        self.venv_output = ""  # what venv prints as it fails
        self.pip_log = ""  # what pip writes as it fails
        self.fails = ()  # words; pip fails if its command has one of them
        self.torch = ""  # the build of torch that pip brings

    def __call__(self, command, lock=None, **options):
        words = [str(word) for word in command]
        code, out = self.run(words)
        self.ran.append(words)
        return subprocess.CompletedProcess(words, code, out, "")

    def run(self, words):
        if "venv" in words:
            return self.make(Path(words[-1]))
        venv = Path(words[0]).parent.parent
        if not Path(words[0]).exists() or not self.python:
            raise FileNotFoundError(errno.ENOENT, "no such file", words[0])
        if "-c" in words:
            return 0, self.python
        if "--version" in words:
            return (0 if (venv / "pip").exists() else 1), ""
        if "ensurepip" in words:
            if self.ensurepip:
                (venv / "pip").touch()
            return 0, ""
        return self.install(venv, words)

    def make(self, venv):
        if self.venv_output:
            return 1, self.venv_output
        python = bootstrap.venv_python(venv)
        python.parent.mkdir(parents=True)
        python.touch()
        packages(venv).mkdir(parents=True)
        (venv / "pip").touch()
        (venv / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}\nversion = {HERE}.0\n")
        self.python = HERE
        return 0, ""

    def install(self, venv, words):
        if "--log" in words:
            Path(words[words.index("--log") + 1]).write_text(self.pip_log, encoding="utf-8")
        if set(self.fails) & set(words):
            return 1, ""
        if self.torch:
            info = packages(venv) / f"torch-{self.torch}.dist-info"
            info.mkdir(exist_ok=True)
            (info / "INSTALLER").touch()
        return 0, ""

    def installs(self):
        return [words for words in self.ran if "install" in words]

    def makes(self):
        return [words for words in self.ran if "venv" in words]


def packages(venv):
    return venv / ("Lib" if os.name == "nt" else f"lib/python{HERE}") / "site-packages"


def project(root):
    """Writes a small project with this repository's set-up and a command line that only reports."""
    (root / "kvlab" / "shell").mkdir(parents=True)
    for name in STARTING:
        shutil.copy(PACKAGE / name, root / "kvlab" / name)
    (root / "kvlab" / "shell" / "cli.py").write_text(CLI)
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "constraints.txt").write_text("torch==2.13.0\n")
    return root


@pytest.fixture
def root(tmp_path):
    return project(tmp_path / "a project")


@pytest.fixture
def machine(monkeypatch):
    """A bare Python, and a stand-in for everything that set-up runs."""
    machine = Machine()
    monkeypatch.setattr(bootstrap, "wait_for", machine)
    monkeypatch.setattr(bootstrap, "become", lambda command, env: ("inside", command))
    monkeypatch.setattr(bootstrap, "lacking_extra", lambda extras, root: "")
    monkeypatch.setattr(bootstrap, "is_reachable", lambda url, seconds: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("KVLAB_TORCH", raising=False)
    monkeypatch.delenv(bootstrap.STARTS, raising=False)
    return machine


def start(root, *argv):
    return bootstrap.prepare(argv, cli.parse, root)[1]


def said(capsys):
    return capsys.readouterr().err


def one_sentence(text, *parts):
    """The last line, which must hold the given parts; and no traceback before it."""
    assert "Traceback" not in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("kvlab: ")
    for part in parts:
        assert part in last
    return True


# ---------------------------------------------------------------- when it runs pip, and with what


def test_first_start_installs_under_the_constraints_and_goes_on_inside(root, machine, capsys):
    code = start(root, "lab", "--port", "9")
    [pip] = machine.installs()
    assert pip[pip.index("--constraint") + 1] == "constraints.txt"
    assert pip[pip.index("--editable") + 1] == ".[book]"
    python = str(bootstrap.venv_python(root / ".venv"))
    assert code == ("inside", [python, "-P", "-m", "kvlab", "lab", "--port", "9"])
    assert pip[0] == python
    assert {"--no-input", "--disable-pip-version-check"} <= set(pip)
    assert "GB" in said(capsys)


def test_second_start_runs_no_other_program(root, machine, capsys):
    start(root, "lab")
    machine.ran.clear()
    said(capsys)
    assert start(root, "demo")[0] == "inside"
    assert machine.ran == []
    assert said(capsys) == ""


def test_extras_add_up(root, machine):
    start(root, "lab")
    start(root, "test")
    start(root, "lab")
    targets = [words[-1] for words in machine.installs()]
    assert targets == [".[book]", ".[book,dev]"]
    (root / "constraints.txt").write_text("")
    start(root, "lab")
    assert machine.installs()[-1][-1] == ".[book,dev]"


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_changed_inputs_install_again_without_a_new_venv(root, machine, name):
    start(root, "lab")
    with open(root / name, "a") as file:
        file.write("# changed\n")
    start(root, "lab")
    start(root, "lab")
    assert len(machine.installs()) == 2
    assert len(machine.makes()) == 1


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["--version"], ["lab", "--help"]])
def test_help_sets_nothing_up(root, machine, argv):
    assert bootstrap.prepare(argv, cli.parse, root) == (argv, None)
    assert machine.ran == []
    assert not (root / ".venv").exists()


def test_help_after_the_end_of_options_is_not_ours(root, machine):
    assert start(root, "test", "--", "-h")[0] == "inside"


def test_an_environment_that_has_all_is_used(root, machine, monkeypatch):
    monkeypatch.setattr(bootstrap, "lacking_extra", lambda extras, root: None)
    assert bootstrap.prepare(["lab"], cli.parse, root) == (["lab"], None)
    assert machine.ran == []
    assert not (root / ".venv").exists()


def test_another_environment_that_lacks_a_part_is_told_before_one_is_made(
    root, machine, monkeypatch, capsys
):
    monkeypatch.setattr(bootstrap, "lacking_extra", lambda extras, root: extras[-1])
    monkeypatch.setattr(sys, "prefix", "/their/own")
    assert start(root, "test")[0] == "inside"
    first = said(capsys).splitlines()[0]
    assert "/their/own lacks" in first and '-m pip install -e ".[dev]"' in first
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)  # a bare Python is no environment
    (root / "constraints.txt").write_text("torch==2.12.0\n")
    assert start(root, "test")[0] == "inside"
    assert "lacks" not in said(capsys)


def test_an_installed_package_never_makes_an_environment(root, machine, monkeypatch, capsys):
    (root / "pyproject.toml").unlink()
    monkeypatch.setattr(bootstrap, "lacking_extra", lambda extras, root: extras[-1])
    assert start(root, "test") == 1
    assert one_sentence(said(capsys), "the project's own folder", "python3 -m kvlab test")
    monkeypatch.setattr(bootstrap, "lacking_extra", lambda extras, root: "")
    assert start(root, "demo") == 1
    assert one_sentence(said(capsys), "in the project's folder", '-m pip install "."')
    assert machine.ran == []
    assert not (root / ".venv").exists()


def test_what_an_environment_lacks(root, monkeypatch):
    there = set(bootstrap.MODULES[""])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(bootstrap, "installed_version", lambda name: "2.13.0+cpu")
    assert bootstrap.lacking_extra((), root) is None
    assert bootstrap.lacking_extra(("book", "dev"), root) == "book"
    there |= set(bootstrap.MODULES["book"])
    assert bootstrap.lacking_extra(("book", "dev"), root) == "dev"
    assert bootstrap.lacking_extra(("book",), root) is None
    there.discard("tokenizers")
    assert bootstrap.lacking_extra(("book",), root) == ""


def test_a_torch_that_is_too_old_does_not_count(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(bootstrap, "installed_version", lambda name: "2.9.1+cpu")
    assert bootstrap.lacking_extra((), PROJECT) == ""
    monkeypatch.setattr(bootstrap, "installed_version", lambda name: "2.11.0")
    assert bootstrap.lacking_extra((), PROJECT) is None


# ---------------------------------------------------------------- repairs


def test_a_stamp_needs_everything_to_be_as_it_was(root, machine):
    start(root, "lab")
    venv = root / ".venv"
    whole = bootstrap.read_stamp(venv)
    assert bootstrap.is_done(root, ("book",))
    assert bootstrap.is_done(root, ("book",), inside=True)
    assert not bootstrap.is_done(root, ("dev",))
    for key, wrong in {"state": "made", "root": "/elsewhere", "inputs": "0", "extras": []}.items():
        bootstrap.write_stamp(venv, **{**whole, key: wrong})
        assert not bootstrap.is_done(root, ("book",)), key
    bootstrap.write_stamp(venv, **{**whole, "python": "3.1"})
    assert not bootstrap.is_done(root, ("book",), inside=True)
    bootstrap.write_stamp(venv, **whole)
    (venv / "pyvenv.cfg").write_text("home = /no/such/folder\n")
    assert not bootstrap.is_done(root, ("book",))


def test_a_half_written_stamp_is_none(root, machine):
    start(root, "lab")
    (root / ".venv" / bootstrap.STAMP).write_text('{"state": "do')
    assert bootstrap.read_stamp(root / ".venv") == {}
    start(root, "lab")
    assert (len(machine.makes()), len(machine.installs())) == (1, 2)


def test_pip_cut_off_goes_on_in_the_same_environment(root, machine, monkeypatch):
    machine.torch = "2.13.0"
    start(root, "lab")
    info = packages(root / ".venv") / "torch-2.13.0.dist-info"
    (info / "INSTALLER").unlink()  # as a killed pip leaves it
    kept = packages(root / ".venv") / "numpy-2.0.dist-info"
    kept.mkdir()
    (kept / "INSTALLER").touch()
    monkeypatch.setattr(machine, "install", lambda venv, words: sys.exit("killed"))
    with pytest.raises(SystemExit):
        start(root, "test")
    monkeypatch.undo()
    assert not info.exists()
    assert kept.exists()
    assert not bootstrap.is_done(root, ("book",))


@pytest.mark.parametrize("broken", ["no python", "python does not run", "no pip", "other python"])
def test_a_broken_environment_is_made_anew(root, machine, broken):
    start(root, "lab")
    venv = root / ".venv"
    (venv / "old").mkdir()
    bootstrap.write_stamp(venv, **{**bootstrap.read_stamp(venv), "state": "made"})
    if broken == "no python":
        bootstrap.venv_python(venv).unlink()
    elif broken == "python does not run":
        machine.python = ""
    elif broken == "other python":
        machine.python = "3.99"
    else:
        (venv / "pip").unlink()
        machine.ensurepip = False
    assert start(root, "lab")[0] == "inside"
    assert len(machine.makes()) == 2
    assert not (venv / "old").exists()
    assert bootstrap.is_done(root, ("book",))


def test_an_environment_that_only_lacks_pip_is_kept(root, machine):
    start(root, "lab")
    venv = root / ".venv"
    (venv / bootstrap.STAMP).unlink()
    (venv / "pip").unlink()
    assert start(root, "lab")[0] == "inside"
    assert len(machine.makes()) == 1


def test_an_environment_cut_off_in_the_making_is_made_anew(root, machine):
    venv = root / ".venv"
    venv.mkdir()
    bootstrap.write_stamp(venv, state="making", root=str(root))
    (venv / "half").touch()  # and no pyvenv.cfg yet
    assert start(root, "lab")[0] == "inside"
    assert not (venv / "half").exists()
    bootstrap.write_stamp(venv, state="making", root=str(root))  # pip may be there by half
    assert start(root, "lab")[0] == "inside"
    assert len(machine.makes()) == 2


def test_a_moved_project_gets_a_new_environment(root, machine, capsys):
    start(root, "lab")
    moved = root.parent / "moved"
    root.rename(moved)
    said(capsys)
    assert start(moved, "lab")[0] == "inside"
    heard = said(capsys)
    assert "setting up" in heard and "making it anew" in heard and "up to date" not in heard
    assert len(machine.makes()) == 2
    assert bootstrap.is_done(moved, ("book",))


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_foreign_venv_is_left_alone(root, machine, capsys, kind):
    venv = root / ".venv"
    if kind == "folder":
        venv.mkdir()
        (venv / "thesis.txt").write_text("mine")
    elif kind == "file":
        venv.write_text("mine")
    else:
        venv.symlink_to(root / "nowhere")
    assert start(root, "lab") == 1
    assert one_sentence(said(capsys), str(venv), "move it away")
    assert machine.ran == []
    if kind == "folder":
        assert [path.name for path in venv.iterdir()] == ["thesis.txt"]


def test_nothing_is_deleted_through_a_link(root, machine, capsys, tmp_path):
    """A linked environment that was set up for another folder is somebody else's."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "thesis.txt").write_text("mine")
    bootstrap.write_stamp(shared, state="done", root=str(tmp_path / "elsewhere"))
    before = {path.name: path.read_bytes() for path in shared.iterdir()}
    (root / ".venv").symlink_to(shared)
    assert start(root, "lab") == 1
    assert one_sentence(said(capsys), str(shared), "remove the link")
    assert {path.name: path.read_bytes() for path in shared.iterdir()} == before
    assert machine.ran == []


@pytest.mark.parametrize(("options", "part"), [([], "6.0 GB"), (["--torch", "cpu"], "1.5 GB")])
def test_a_disk_without_room_is_named_before_anything_is_made(
    root, machine, monkeypatch, capsys, options, part
):
    usage = type("Usage", (), {"free": 1_499_000_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert start(root, "lab", *options) == 1
    assert one_sentence(said(capsys), part, "1.5 GB are free", "make room")
    assert machine.ran == [] and not (root / ".venv").exists()


@pytest.mark.parametrize(("options", "part"), [([], "3.0 GB"), (["--torch", "cpu"], "0.4 GB")])
def test_so_is_a_folder_for_temporary_files_on_another_disk(
    root, machine, monkeypatch, capsys, options, part
):
    def usage(folder):
        return type("Usage", (), {"free": 10**10 if Path(folder) == root else 260_000_000})

    monkeypatch.setattr(tempfile, "tempdir", "/elsewhere")
    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert start(root, "lab", *options) == 1
    told = f"about {part} in /elsewhere, and 0.3 GB are free: pip fetches into that folder"
    assert one_sentence(said(capsys), told, "name another by TMPDIR")
    assert machine.ran == [] and not (root / ".venv").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10**10}))
    assert start(root, "lab", *options)[0] == "inside"


@pytest.mark.parametrize("cut_off", [False, True])
def test_an_empty_venv_folder_is_used(root, machine, monkeypatch, cut_off):
    (root / ".venv").mkdir()
    if cut_off:  # killed at its first write
        with monkeypatch.context() as killed:
            killed.setattr(os, "replace", lambda *paths: sys.exit("killed"))
            killed.setattr(Path, "unlink", lambda path: None)
            with pytest.raises(SystemExit):
                bootstrap.write_stamp(root / ".venv", state="making", root=str(root))
        assert len(list((root / ".venv").iterdir())) == 1
    assert start(root, "lab")[0] == "inside"


def test_inside_a_ready_environment_the_command_runs_here(root, machine, monkeypatch):
    start(root, "lab")
    machine.ran.clear()
    monkeypatch.setattr(sys, "prefix", str(root / ".venv"))
    assert start(root, "lab") is None
    assert machine.ran == []


def test_inside_an_outdated_environment_it_is_brought_up_to_date(root, machine, monkeypatch):
    start(root, "lab")
    monkeypatch.setattr(sys, "prefix", str(root / ".venv"))
    assert start(root, "test")[0] == "inside"
    assert len(machine.installs()) == 2
    assert start(root, "test") is None


def test_an_environment_that_never_becomes_ready_is_no_endless_loop(
    root, machine, monkeypatch, capsys
):
    start(root, "lab")
    monkeypatch.setenv(bootstrap.STARTS, "2")  # and this Python still is not the one in .venv
    assert start(root, "lab") == 1
    assert one_sentence(said(capsys), "delete that folder")
    assert bootstrap.STARTS not in os.environ


def test_a_second_set_up_waits_for_the_first(root, machine, capfd):
    done = []
    with bootstrap.locked(root):
        thread = threading.Thread(target=lambda: done.append(start(root, "lab")))
        thread.start()
        heard = ""
        while "waiting" not in heard and thread.is_alive():
            time.sleep(0.01)
            heard += capfd.readouterr().err
        assert "waiting" in heard
        assert machine.ran == [] and done == []
    thread.join(30)
    assert done[0][0] == "inside"


def test_the_one_who_waited_does_not_install_again(root, machine, monkeypatch):
    start(root, "lab")
    machine.ran.clear()
    answers = iter([False, True])  # as before the wait, and after it
    monkeypatch.setattr(bootstrap, "is_done", lambda *arguments, **named: next(answers))
    assert start(root, "lab")[0] == "inside"
    assert machine.ran == []


@pytest.mark.skipif(os.name == "nt", reason="Windows locks a process, not an open file")
def test_a_child_that_outlives_set_up_keeps_the_lock(root):
    with bootstrap.locked(root) as lock:
        code = "import os, sys; os.set_blocking(0, True); print('up', flush=True); sys.stdin.read()"
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(lock,),
        )
        child.stdout.readline()
    with open(root / ".venv.lock", "a") as file:
        assert not bootstrap.try_lock(file.fileno())
        child.communicate()
        assert bootstrap.try_lock(file.fileno())


@pytest.mark.skipif(os.name == "nt", reason="Windows locks a process, not an open file")
def test_programs_are_run_with_the_lock(root):
    with bootstrap.locked(root) as lock:
        code = f"import os; os.fstat({lock}); print('held')"
        assert bootstrap.quietly([sys.executable, "-S", "-c", code], lock).stdout == "held\n"


# ---------------------------------------------------------------- torch for the CPU


@pytest.mark.parametrize(
    ("argv", "rest", "wish"),
    [
        (["lab", "--torch", "cpu"], ["lab"], "cpu"),
        (["--torch", "cpu", "lab", "-x"], ["lab", "-x"], "cpu"),
        (["lab", "--torch=cpu"], ["lab"], "cpu"),
        (["lab"], ["lab"], ""),
        (["test", "--", "--torch", "cpu"], ["test", "--", "--torch", "cpu"], ""),
    ],
)
def test_the_torch_option_is_taken_out(argv, rest, wish):
    assert bootstrap.take_torch(argv, None) == (rest, wish)


@pytest.mark.parametrize(
    "argv", [["lab", "--torch", "cuda"], ["lab", "--torch"], ["lab", "--torch=x"]]
)
def test_an_unknown_build_of_torch_is_an_error(root, machine, capsys, argv):
    assert start(root, *argv) == 2
    assert one_sentence(said(capsys), "takes cpu")
    assert machine.ran == []


def test_an_index_out_of_reach_is_one_line(root, machine, capsys):
    assert start(root, "lab", "--torch", "cpu")[0] == "inside"
    assert said(capsys).count("could not be reached") == 1
    assert [words[-1] for words in machine.installs()] == [".[book]"]


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_cpu_index_serves_torch_alone(root, machine, monkeypatch, how, capsys):
    monkeypatch.setattr(bootstrap, "is_reachable", lambda url, seconds: True)
    machine.torch = "2.13.0+cpu"
    if how == "variable":
        monkeypatch.setenv("KVLAB_TORCH", "cpu")
        start(root, "lab")
    else:
        start(root, "lab", "--torch", "cpu")
    first, second = machine.installs()
    assert first[-3:] == ["--index-url", bootstrap.CPU_INDEX, "torch==2.13.0"]
    assert "--no-deps" in first
    assert "--index-url" not in second
    assert bootstrap.read_stamp(root / ".venv")["torch"] == "2.13.0+cpu"
    assert "changes nothing" not in said(capsys)


def test_a_cpu_index_that_fails_is_no_obstacle(root, machine, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "is_reachable", lambda url, seconds: True)
    machine.fails = ("--index-url",)
    assert start(root, "lab", "--torch", "cpu")[0] == "inside"
    assert "did not serve torch" in said(capsys)
    assert len(machine.installs()) == 2


def test_another_build_that_is_there_stays_and_is_named(root, machine, capsys):
    machine.torch = "2.13.0"
    start(root, "lab")
    said(capsys)
    assert start(root, "lab", "--torch", "cpu")[0] == "inside"
    assert one_sentence(said(capsys), "torch 2.13.0 is already installed", "delete .venv")
    assert len(machine.installs()) == 1


def test_other_systems_have_no_cpu_index(root, machine, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert start(root, "lab", "--torch", "cpu")[0] == "inside"
    assert "index" not in said(capsys)


def test_reaching_an_address(tmp_path):
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    assert bootstrap.is_reachable(address, 5)
    assert not bootstrap.is_reachable(address + "absent", 5)
    server.shutdown()
    server.server_close()
    assert not bootstrap.is_reachable(address, 5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        assert not bootstrap.is_reachable(f"http://127.0.0.1:{silent.getsockname()[1]}/", 0.2)


def test_a_name_that_is_looked_up_for_ever_is_not_waited_for(monkeypatch):
    end = threading.Event()

    def look_up(url, timeout):
        end.wait(60)
        raise OSError

    monkeypatch.setattr(urllib.request, "urlopen", look_up)
    assert not bootstrap.is_reachable("http://x/", 0.1)
    assert not end.is_set()
    end.set()


# ---------------------------------------------------------------- sentences

DEBIAN = (
    "The virtual environment was not created successfully because ensurepip is not\navailable. On"
    " Debian/Ubuntu systems, you need to install the python3-venv package"
)


@pytest.mark.parametrize(
    ("output", "part"),
    [
        (DEBIAN, "sudo apt install python3-venv"),
        ("/usr/bin/python3: No module named venv", "sudo apt install python3-venv"),
        ("Error: [Errno 28] No space left on device", "the disk is full"),
        ("Error: [Errno 13] Permission denied: 'x'", "may not be written to"),
        (
            "Error: Command '['x', '-m', 'ensurepip']' returned 1",
            "could not be made: Error: Command",
        ),
    ],
)
def test_why_there_is_no_virtual_environment(root, machine, capsys, output, part):
    machine.venv_output = output
    assert start(root, "lab") == 1
    assert one_sentence(said(capsys), part)
    assert machine.installs() == []


def log(*lines):
    return "".join(f"2026-11-21T01:34:52,505 {line}\n" for line in lines)


NONE = "  ERROR: No matching distribution found for torch==2.13.0"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            log(
                "  WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by"
                " 'NewConnectionError('<x>: Failed to establish a new connection')': /simple/x/",
                NONE,
            ),
            ["no package index could be reached"],
        ),
        (log("ERROR: HTTPSConnectionPool(host='x'): Read timed out."), ["no package index"]),
        (
            log(NONE, "ERROR: [present-rich] pip subprocess to install build things exited with 1"),
            ["pip found no torch==2.13.0 for Python " + HERE],
        ),
        (
            log("ERROR: Could not install packages: [Errno 28] No space left on device"),
            ["the disk is full"],
        ),
        (
            log("ERROR: Could not install packages: [Errno 13] Permission denied: 'x'"),
            ["may not be written to"],
        ),
        (
            log(
                "  WARNING: Retrying (Retry(total=4, connect=None)) after connection broken by 'x'",
                "ERROR: Cannot install a and b because these package versions conflict.",
                "ERROR: ResolutionImpossible: for help visit x",
            ),
            ["pip failed: Cannot install a and b because these package versions conflict. Mend"],
        ),
        (log("Non-user install", "the last words"), ["pip failed: the last words"]),
        ("", ["pip failed: it left no log"]),
    ],
)
def test_why_pip_failed(root, machine, capsys, text, parts):
    machine.pip_log = text
    machine.fails = ("--editable",)
    assert start(root, "lab") == 1
    path = root / ".venv" / bootstrap.LOG
    mark = [] if "full" in parts[0] else [str(path)]
    assert one_sentence(said(capsys), *parts, *mark)
    assert not bootstrap.is_done(root, ("book",))
    machine.fails = ()
    assert start(root, "lab")[0] == "inside"
    assert not path.exists()


def test_a_full_disk_is_named_whatever_pip_says(root, machine, monkeypatch, capsys):
    machine.fails = ("--editable",)
    machine.pip_log = log("ERROR: something odd")

    def usage(folder):  # there was room until pip came
        return type("Usage", (), {"free": 4096 if machine.installs() else 10**10})

    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert start(root, "lab") == 1
    assert one_sentence(said(capsys), "the disk is full")


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "may not be written to"),
        (errno.EROFS, "may not be written to"),
        (errno.EIO, "set-up failed"),
    ],
)
def test_what_the_system_refuses(root, machine, monkeypatch, capsys, number, part):
    def refuse(*arguments, **named):
        raise OSError(number, os.strerror(number), "x")

    monkeypatch.setattr(bootstrap, "write_stamp", refuse)
    assert start(root, "lab") == 1
    assert one_sentence(said(capsys), part)


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 13)])
def test_too_old_a_python(monkeypatch, capsys, version):
    monkeypatch.setattr(sys, "version_info", version)
    code = entry.main(["lab"])
    monkeypatch.undo()
    assert code == 1
    assert one_sentence(said(capsys), ".".join(map(str, version)), "3.11")


def test_ctrl_c_is_one_line(root, machine, monkeypatch, capsys):
    def interrupt(venv, words):
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "install", interrupt)
    assert start(root, "lab") == 130
    lines = said(capsys).splitlines()
    assert [line for line in lines if "stopped" in line] == lines[-1:]
    monkeypatch.undo()


# ---------------------------------------------------------------- the files themselves


@pytest.mark.parametrize("name", STARTING)
def test_an_old_python_can_read_the_file(name):
    text = (PACKAGE / name).read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 6))
    assert "import annotations" not in text  # grammar to the parser, but an error in 3.6


def test_start_needs_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]);"
        "import kvlab.__main__, kvlab.shell.bootstrap, kvlab.shell.cli, kvlab.shell.lab;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    command = [sys.executable, "-S", "-I", "-c", code, str(PROJECT)]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "kvlab" in names
    assert set(names) - {"kvlab"} <= sys.stdlib_module_names


@pytest.fixture(scope="module")
def settings():
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_oldest_python_is_the_one_that_pip_checks(settings):
    assert settings["requires-python"] == ">={}.{}".format(*entry.NEEDED)


def test_what_set_up_looks_for_is_what_pyproject_names(settings):
    named = {"": settings["dependencies"], **settings["optional-dependencies"]}
    for extra, modules in bootstrap.MODULES.items():
        names = {Requirement(line).name.replace("-", "_") for line in named[extra]}
        assert set(modules) <= names
    floor = next(Requirement(line) for line in named[""] if line.startswith("torch"))
    assert str(floor.specifier).count(">={}.{}".format(*bootstrap.oldest_torch(PROJECT))) == 1


def test_every_dependency_is_pinned_for_pip(settings):
    text = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pins = {}
    for requirement in map(Requirement, lines):
        assert re.fullmatch(r"==[^,*]+", str(requirement.specifier)), requirement
        assert not requirement.extras and not requirement.url, requirement
        pins.setdefault(requirement.name, []).append(Version(str(requirement.specifier)[2:]))
    assert pins["torch"] == [Version("2.13.0")]
    extras = settings["optional-dependencies"]
    for line in [*settings["dependencies"], *extras["book"], *extras["dev"]]:
        wanted = Requirement(line)
        assert all(version in wanted.specifier for version in pins[wanted.name]), line
    assert bootstrap.pinned(PROJECT, "torch") == "torch==2.13.0"


# ---------------------------------------------------------------- for real


def command(*argv):
    """The command line of a bare Python: without `site` it sees no installed package."""
    return [sys.executable, "-S", "-m", "kvlab", *argv]


def offline(**more):
    leave = ("PIP_", "PYTHON", "KVLAB_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(leave)}
    return {**env, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, **more}


def test_a_bare_python_sets_itself_up_and_then_only_starts(root):
    def run(*argv, **more):
        options = {"cwd": root, "env": offline(**more), "capture_output": True, "text": True}
        return subprocess.run(command(*argv), **options, check=False)

    first = run("hello", "--x")
    assert first.returncode == 7, first.stderr
    assert f"ran ['hello', '--x'] {root / '.venv'}" in first.stdout
    assert first.stdout.count("\n") == 1  # pip's own words went to stderr
    assert bootstrap.is_done(root, ("book",))

    second = run("hello", PIP_NO_INPUT="nonsense")  # pip would stumble over that
    assert (second.returncode, second.stderr) == (7, "")

    (root / "constraints.txt").write_text("torch==2.12.0\n")
    third = run("hello")
    assert third.returncode == 7 and "up to date" in third.stderr
    assert run("hello").stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C reaches a whole console there")
def test_ctrl_c_for_real(root):
    process = subprocess.Popen(
        command("hello"),
        cwd=root,
        env=offline(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert "setting up" in process.stderr.readline()
    stamp = root / ".venv" / bootstrap.STAMP
    while not stamp.exists() and process.poll() is None:
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130
    assert one_sentence(text, "stopped")
    assert not bootstrap.is_done(root, ())
