"""A class: hostile and broken submissions beside honest ones, and what a run leaves behind."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import socket
import stat

import pytest

from kvlab.course.exercises import ALL
from kvlab.course.grading import notebooks, report
from kvlab.course.grading.grade import Rules, grade_all
from kvlab.course.grading.submissions import find_submissions
from kvlab.course.sandbox import walls
from kvlab.shell.cli import ROOT, main
from tests import hostile
from tests.test_files import fifo, null

PAGE = ROOT / "docs" / "grading.md"
pytestmark = pytest.mark.timeout(1800)
TABLE = re.compile(r"(<!-- hostile -->\n).*?(<!-- end -->)", re.S)
SEALED = ("namespaces", "bubblewrap")
STUBS, ANSWERS = hostile.STUBS, hostile.ANSWERS
OUT_OF = sum(e.points for e in ALL if e.chapter == "6")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of the grader over everything in `tests/hostile.py`."""
    if walls.best().name not in SEALED:
        pytest.skip("needs namespaces: without them a hostile answer would harm this machine")
    folder = tmp_path_factory.mktemp("class")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        names = hostile.build(folder, server.getsockname()[1])
        rules = Rules(seed="grade 7", limits=walls.Limits(cpu_seconds=6))
        found = {g.name: g for g in grade_all(find_submissions([folder]), rules, workers=3)}
        with pytest.raises(TimeoutError):
            server.accept()
    return dict(zip(names, (found[name] for name in sorted(found)), strict=True))


def said(graded):
    """Everything a report says of one submission."""
    return "\n".join([graded.note, *(repr(v) for v in graded.verdicts)])


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda c: c[0])
def test_a_hostile_or_broken_submission_gets_what_it_earned(run, case):
    name, _, points, pattern = case
    shares = run[name].level.name == "bubblewrap"  # with its keeper and the one that starts it
    pattern = pattern.replace("FEW", "[1-3]" if shares else "[01]")
    assert run[name].points == points, said(run[name])
    assert re.search(pattern, said(run[name])), said(run[name])
    assert not any(v.state == "error" for v in run[name].verdicts)


def test_the_search_for_references_finds_them_and_nothing_else(tmp_path):
    """Where nothing hides them: in this project, and in one whose folder is called kvlab."""

    def found(top):
        names = {"os": os, "TOP": str(top)}
        exec(hostile.LOOK, names)
        return {os.path.relpath(path, top) for path in names["found"]}

    answers = {f"course/ch06/{path.name}" for path in (ROOT / "kvlab/course/ch06").glob("q6_*.py")}
    assert len(answers) == 8
    assert {p for p in found(ROOT / "kvlab") if p.endswith(".py")} == {"cache.py", *answers}
    for room in ("chapters", "exercises", "solutions"):
        assert found(ROOT / room) == {"06_kv_cache.ipynb"}
    clone = tmp_path / "kvlab"
    packages = clone / ".venv" / "lib" / "python3.11" / "site-packages"
    theirs = [packages / name / "cache.py" for name in ("jedi", "transformers/utils", "joblib")]
    theirs += [clone / "tests" / "test_cache.py", packages / "torch" / "q6_1.h"]
    compiled = "kvlab/course/ch06/__pycache__/q6_1_cache.cpython-311.pyc"
    for path in (*theirs, clone / "kvlab" / "cache.py", clone / compiled):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert found(clone) == {"kvlab/cache.py", compiled}


@pytest.mark.parametrize("name", ["an honest neighbour", "another"])
def test_its_neighbours_in_the_same_run_get_their_marks(run, name):
    assert run[name].points == run[name].out_of == OUT_OF, said(run[name])


def test_nothing_was_written_outside_and_nothing_lives_on(run):
    left = [ROOT / "solutions", ROOT, "/", "/etc", "/usr", "/root", "/var/tmp", "/dev/shm"]
    assert not any(os.path.exists(os.path.join(place, "kvlab-was-here")) for place in left)


def brief(graded):
    """The first line that says something, without numbers that differ between machines."""
    spoken = [v for v in graded.verdicts if v.state == "failed"]
    lines = spoken[0].message.splitlines() if spoken else [graded.note or "nothing odd"]
    line = re.sub(r"/\S*/(?=\S+\.ipynb)", "", lines[-1])
    return (line if len(line) <= 150 else line[:147] + "...").replace("|", "\\|")


def test_the_table_in_the_docs_is_what_came_out(run):
    earned = {name: points for name, _, points, _ in hostile.CASES}
    assert {name: g.points for name, g in run.items() if name in earned} == earned
    lines = [f"| submission | marks of {OUT_OF} | what the report says |", "|---|---|---|"]
    lines += [f"| {name} | {g.points} | {brief(g)} |" for name, g in run.items()]
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("KVLAB_WRITE_DOCS"):
        table = "\n".join(lines)
        PAGE.write_text(TABLE.sub(lambda m: f"{m[1]}\n{table}\n\n{m[2]}", text), encoding="utf-8")
    written = TABLE.search(PAGE.read_text(encoding="utf-8"))[0].splitlines()

    def marks(rows):
        return [row.split(" | ")[:2] for row in rows if row.startswith("| ")]

    assert marks(written) == marks(lines), "run this file with KVLAB_WRITE_DOCS=1"


# --- the command ------------------------------------------------------------------------------


def stub(**sources):
    return json.dumps(hostile.filled(**sources))


@pytest.fixture
def class_of_three(tmp_path):
    """ann has 6.3, bob has nothing, =cy sent no notebook."""
    for name, text in {"ann": stub(q6_3=ANSWERS["6.3"]), "bob": stub(), "=cy": "?"}.items():
        path = tmp_path / "class" / name / "06_kv_cache.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path / "class"


def test_a_class_that_was_stopped_goes_on(class_of_three, tmp_path, capsys, monkeypatch):
    marks, table = tmp_path / "marks.json", tmp_path / "marks.csv"
    line = ["grade", str(class_of_three), "--json", str(marks), "--csv", str(table)]
    real, asked = report.Journal.add, []

    def add(self, path, row):
        real(self, path, row)
        asked.append(row["name"])
        if len(asked) == 2:
            with open(self.path, "a") as file:
                file.write('{"sha256": "cut o')
            raise KeyboardInterrupt

    monkeypatch.setattr(report.Journal, "add", add)
    assert main([*line, "--workers", "1"]) == 130
    assert not marks.exists() and len(asked) == 2
    kept = f"2 of 3 are kept in {marks}.part; the same command goes on"
    assert kept in capsys.readouterr().err
    assert main(line) == 0
    assert len(asked) == 3 and "2 of 3 were graded before" in capsys.readouterr().err
    found = json.loads(marks.read_text())
    assert found["isolation"] == walls.best().says and found["seed"].startswith("grade ")
    by_name = {r["name"]: r for r in found["notebooks"]}
    assert [by_name[f"{n}/06_kv_cache"]["points"] for n in ("ann", "bob", "=cy")] == [4, 0, 0]
    assert by_name["bob/06_kv_cache"]["questions"][0]["state"] == "not answered"
    assert "not JSON" in by_name["=cy/06_kv_cache"]["note"]
    rows = {r["name"]: r for r in csv.DictReader(io.StringIO(table.read_text()))}
    assert rows["ann/06_kv_cache"]["6.3"] == "4" and "'=cy/06_kv_cache" in rows
    assert sorted(p.name for p in tmp_path.iterdir()) == ["class", "marks.csv", "marks.json"]


@pytest.mark.skipif(os.name != "posix", reason="needs devices and pipes")
def test_marks_go_into_a_device_or_a_pipe_and_nothing_lies_beside(
    class_of_three, tmp_path, monkeypatch
):
    shutil.rmtree(class_of_three / "ann")  # nobody answered anything: this is quick
    device = null(tmp_path)
    with fifo(tmp_path) as (pipe, got), monkeypatch.context() as watched:
        watched.setattr(report, "Journal", lambda *where: pytest.fail(f"a journal: {where}"))
        assert main(["grade", str(class_of_three), "--csv", str(device), "--json", str(pipe)]) == 0
    assert len(json.loads(got[0])["notebooks"]) == 2
    assert stat.S_ISCHR(device.lstat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["class", "null", "pipe"]
    marks = tmp_path / "marks.csv"
    marks.write_text("before")
    marks.chmod(0o640)
    (tmp_path / "link.csv").symlink_to(marks)
    assert main(["grade", str(class_of_three), "--csv", str(tmp_path / "link.csv")]) == 0
    assert (tmp_path / "link.csv").is_symlink() and "bob/06_kv_cache" in marks.read_text()
    assert stat.S_IMODE(marks.stat().st_mode) == 0o640


def test_a_journal_of_other_rules_or_another_file_does_not_count(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text("1")
    first = report.Journal(tmp_path / "m", {"chapter": None}, "grade 1")
    first.add(path, {"name": "a", "points": 3})
    again = report.Journal(tmp_path / "m", {"chapter": None}, "grade 2")
    assert again.seed == "grade 1" and list(again.done) == [report.digest(path, "a")]
    path.write_text("2")
    assert report.digest(path, "a") not in again.done
    assert report.digest(path, "b") != report.digest(path, "a")
    assert not report.Journal(tmp_path / "m", {"chapter": "6"}, "grade 2").done


def test_one_notebook_for_a_cluster_job_and_for_gradescope(tmp_path, capsys):
    path = tmp_path / "x.ipynb"
    path.write_text(stub(q6_3=ANSWERS["6.3"]))
    results = tmp_path / "results.json"
    line = ["grade", "--one", str(path), "--json", "--gradescope", str(results)]
    assert main(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notebooks"][0]["points"] == 4
    assert found["notebooks"][0]["isolation"] == walls.best().name
    shown = json.loads(results.read_text())
    assert shown["score"] == 4 and len(shown["tests"]) == 8
    assert walls.best().says in shown["output"]
    assert sum(t["max_score"] for t in shown["tests"]) == OUT_OF
    assert {t["status"] for t in shown["tests"]} == {"passed", "failed"}
    path.write_text("?")
    assert main(["grade", "--one", str(path), "--json"]) == 0
    assert "not JSON" in json.loads(capsys.readouterr().out)["notebooks"][0]["note"]


def test_nothing_is_kept_where_no_file_was_named_and_that_is_said(
    class_of_three, capsys, monkeypatch
):
    from kvlab.course.grading import grade

    def stopped(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(grade, "grade_all", stopped)
    assert main(["grade", str(class_of_three)]) == 130
    assert "nothing is kept" in capsys.readouterr().err


def test_gradescope_gets_a_mark_whatever_was_handed_in(tmp_path, capsys):
    results, folder = tmp_path / "results.json", tmp_path / "submission"
    folder.mkdir()
    line = ["grade", str(folder), "--chapter", "6", "--gradescope", str(results)]

    def shown():
        assert main(line) == 0
        found = json.loads(results.read_text())
        assert sum(t["max_score"] for t in found["tests"]) == OUT_OF
        return found["score"], found["output"]

    for path in (folder, tmp_path / "none.ipynb"):
        line[1] = str(path)
        assert shown()[0] == 0 and str(path) in shown()[1]
    line[1] = str(folder)
    (folder / "mine (2).ipynb").write_text("?")
    score, said = shown()
    assert score == 0 and "is not JSON" in said
    (folder / "renamed.ipynb").write_text(stub(q6_3=ANSWERS["6.3"]))
    score, said = shown()
    assert score == 4 and "2 notebooks came; this is renamed" in said
    (folder / "renamed.ipynb").unlink()
    (folder / "mine (2).ipynb").write_text(stub())
    assert shown()[0] == 0


def test_marks_are_written_before_anything_is_printed(class_of_three, tmp_path, monkeypatch):
    shutil.rmtree(class_of_three / "ann")
    marks = tmp_path / "marks.json"

    def refuses(*said, file=None, **more):
        if file is None:
            assert marks.exists() and (tmp_path / "s.csv").exists()
            raise UnicodeEncodeError("ascii", "x", 0, 1, "not here")

    monkeypatch.setattr("builtins.print", refuses)
    line = ["grade", str(class_of_three), "--json", str(marks), "--per-student"]
    with contextlib.suppress(UnicodeEncodeError, ValueError):
        main([*line, str(tmp_path / "s.csv")])
    monkeypatch.undo()
    assert len(json.loads(marks.read_text())["notebooks"]) == 2
    assert not (tmp_path / "marks.json.part").exists()


CASES_FILE = """
from kvlab.course.exercises import find

def large(rng):
    case = dict(find("6.3").cases(rng))
    return {**case, "n_prompt": 11, "capacity": 11 + case["n_new"] + 2}

CASES = {"6.3": large}
"""
# right for every prompt that the public cases have
SPECIAL = (
    ANSWERS["6.3"]
    + "\nright = audit\n\ndef audit(subject, n_prompt, n_new, capacity):\n"
    + ("    return 'reuses' if n_prompt > 8 else right(subject, n_prompt, n_new, capacity)\n")
)


def test_a_file_of_private_cases_may_call_an_exercise_by_its_old_name():
    from kvlab.course import ch06

    with pytest.warns(FutureWarning, match=r"find\('6.3'\)"):
        assert ch06.AUDIT.number == "6.3"
    with pytest.raises(AttributeError, match="no attribute 'FROBNICATE'"):
        ch06.FROBNICATE  # noqa: B018


AS_OURS = """
from kvlab.course.exercises import find


def make(rng):
    case = dict(find("6.3").cases(rng))
    return {{{}}}


CASES = {{"6.3": make}}
"""


def test_private_cases_count_and_are_not_described(tmp_path, capsys):
    path, cases = tmp_path / "x.ipynb", tmp_path / "cases.py"
    cases.write_text(CASES_FILE)
    path.write_text(stub(q6_3=SPECIAL))
    line = ["grade", "--one", str(path), "--json"]
    main(line)
    assert json.loads(capsys.readouterr().out)["notebooks"][0]["points"] == 4
    main([*line, "--private-cases", str(cases)])
    found = json.loads(capsys.readouterr().out)["notebooks"][0]
    assert found["points"] == 0
    message = found["questions"][2]["message"]
    assert "a private case" in message and "n_prompt" not in message and "11" not in message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("x = 1", "has no CASES"),
        ("CASES = {'9.9': print}", "'9.9'"),
        ("CASES = 3", "has no CASES"),
        ("1/0", "ZeroDivisionError"),
        (
            "CASES = {'6.3': lambda rng: {'n_prompt': 3}}",
            "n_prompt came; expected n_prompt, n_new, capacity, _subjects, _seed (lacks n_new",
        ),
        (AS_OURS.format("**case, 'm': 1"), "_seed, m came; expected n_prompt,"),
        (AS_OURS.format("**case, 'n_new': '3'"), "n_new is of type str; expected int."),
        ("CASES = {'6.3': lambda rng: 7}", "7 came; expected a dict with the entries n_prompt,"),
        ("CASES = {'6.3': lambda rng: {}['x']}", "making one raised KeyError: 'x'."),
        (AS_OURS.format("**case, 'capacity': 0"), "a right answer to 6.3 fails its cases"),
    ],
)
def test_bad_private_cases_are_named(text, named, tmp_path, capsys):
    (tmp_path / "c.py").write_text(text)
    assert main(["grade", str(STUBS), "--private-cases", str(tmp_path / "c.py")]) == 1
    assert named in capsys.readouterr().err


def test_bad_lines_are_named_before_anything_is_graded(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(STUBS, tmp_path / name / "06_kv_cache.ipynb")
    (tmp_path / "a" / ".ipynb_checkpoints").mkdir()
    shutil.copy(STUBS, tmp_path / "a" / ".ipynb_checkpoints" / "06_kv_cache.ipynb")
    two = [str(tmp_path / n / "06_kv_cache.ipynb") for n in "ab"]
    for line, named in [
        ([str(empty)], "has no notebook"),
        (two, "Two notebooks are called 06_kv_cache"),
        ([str(tmp_path / "a"), str(tmp_path / "b")], "Two notebooks are called 06_kv_cache"),
        ([str(tmp_path / "none")], "is not there"),
        (["--one", str(tmp_path)], "is a folder"),
        ([*two, "--gradescope", "r"], "name one notebook"),
        ([two[0], "--chapter", "99"], "'99'"),
        ([two[0], "--workers", "0"], "0 workers"),
        ([two[0], "--json", two[1]], "expected a new file's name"),
        ([two[0], "--csv", str(tmp_path)], "expected a new file's name"),
        ([two[0], "--csv", str(tmp_path / "none" / "x.csv")], "its folder is not there"),
    ]:
        assert main(["grade", *line]) == 1
        seen = capsys.readouterr()
        assert named in seen.err and seen.out == "", (line, seen)
    for line in ([], ["--one", *two], ["--csv", str(tmp_path)]):
        with pytest.raises(SystemExit) as stopped:
            main(["grade", *line])
        assert stopped.value.code == 2 and "after --one" in capsys.readouterr().err
    assert list(find_submissions([tmp_path])) == ["a/06_kv_cache", "b/06_kv_cache"]


def test_a_link_a_pipe_and_a_huge_file_are_not_read(tmp_path):
    (tmp_path / "link.ipynb").symlink_to(ROOT / "solutions" / "06_kv_cache.ipynb")
    os.mkfifo(tmp_path / "pipe.ipynb")
    with open(tmp_path / "06_huge.ipynb", "wb") as file:
        file.truncate(notebooks.MAX_BYTES + 1)
    found = {g.name: g for g in grade_all(find_submissions([tmp_path]), Rules(), workers=1)}
    assert {name: g.points for name, g in found.items()} == {"link": 0, "pipe": 0, "06_huge": 0}
    assert "link" in found["link"].note and "not a file" in found["pipe"].note
    assert "32 is not read" in found["06_huge"].note and found["06_huge"].out_of == OUT_OF
    assert report.digest(tmp_path / "pipe.ipynb", "pipe")


def test_a_fault_of_the_grader_stays_with_its_question(tmp_path, monkeypatch):
    from kvlab.course.grading import grade as module

    real = module.grade_source

    def faulty(exercise, *args, **more):
        if exercise.number == "6.2":
            raise RuntimeError("a bug of ours")
        return real(exercise, *args, **more)

    monkeypatch.setattr(module, "grade_source", faulty)
    path = tmp_path / "x.ipynb"
    path.write_text(stub(q6_3=ANSWERS["6.3"]))
    (graded,) = grade_all({"x": path}, Rules(), workers=1)
    assert graded.points == 4
    assert [v.state for v in graded.verdicts][1] == "error" and "a bug of ours" in said(graded)


def test_a_name_that_steers_a_terminal_is_shown_harmless(tmp_path, capsys):
    folder = tmp_path / "class"
    folder.mkdir()
    (folder / "a\x1b[2Jb\n=1.ipynb").write_text("?")
    assert main(["grade", str(folder), "--csv"]) == 0
    text = capsys.readouterr().out
    assert main(["grade", str(folder)]) == 0
    text += capsys.readouterr().out
    assert "\x1b" not in text and text.count("\ufffd[2Jb\ufffd=1") >= 2


def test_points_of_a_chapter_are_complete():
    assert OUT_OF == 27
