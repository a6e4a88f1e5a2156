"""The path of docs/teaching.md through nbgrader, from quickstart to exported grades, run once: the
same exercise comes out, its checks' words are on the feedback page, and kvlab's marks come in."""

import csv
import html
import os
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest

from kvlab.course.exercises import ALL
from kvlab.course.grading import notebooks
from kvlab.shell.cli import ROOT, main
from tests.course.test_marks import question, row, saved
from tests.hostile import ANSWERS

pytest.importorskip("nbgrader", reason="needs nbgrader: pip install .[class]")

NAME = "06_kv_cache.ipynb"
CHAPTER = {e.number: e for e in ALL if e.chapter == "6"}
KVLAB = f'#!/bin/sh\nexec "{sys.executable}" -c "{{}}" "$@"\n'.format(
    "import sys; from kvlab.shell.cli import main; sys.exit(main(sys.argv[1:]))"
)
PATCHED = """
class Always:
    passed = True

check = lambda *answer: Always()
def for_the_6th_token(): pass
"""
TOM = {
    "6.1": "class KVCache:\n    pass",
    "6.3": 'def audit(*lent):\n    return "reuses"',
    "6.6": PATCHED,
}
ANN = {"6.1": ANSWERS["6.1"], "6.3": ANSWERS["6.3"]}


def blocks():
    """What the page says to type, block by block, but for what installs."""
    page = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    section = page.split("\n## nbgrader\n")[1].split("\n## ")[0]
    typed = re.findall(r"```\n(.*?)```", section, re.S)
    return [re.sub(r"^pip .*\n", "", block, flags=re.M) for block in typed]


def hand_in(course, student, answers):
    released = notebooks.read(course / "release" / "ch06" / NAME)
    for cell in released["cells"]:
        number = notebooks.grade_id(cell)[1:].replace("_", ".")
        cell["source"] = answers.get(number, cell["source"])
    path = course / "submitted" / student / "ch06" / NAME
    path.parent.mkdir(parents=True)
    notebooks.write(path, released)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nbgrader")
    for name in ("docs", "solutions"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "bin").mkdir()
    (folder / "bin" / "kvlab").write_text(KVLAB)
    (folder / "bin" / "kvlab").chmod(0o755)
    path = [str(folder / "bin"), os.path.dirname(sys.executable), os.environ.get("PATH", "")]
    env = {**os.environ, "PATH": os.pathsep.join(path), "PYTHONPATH": str(ROOT),
           "JUPYTER_CONFIG_DIR": str(folder / "config"), "OMP_NUM_THREADS": "1"}  # fmt: skip

    def typed(block, cwd):
        done = subprocess.run(
            ["sh", "-e"], input=block, cwd=cwd, env=env, capture_output=True, text=True,
            timeout=1500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    making, marking = blocks()
    made = typed(making, folder)
    assert "Success! Your notebook passes all the tests." in made, "validate"
    hand_in(folder / "kv", "ann", ANN)
    hand_in(folder / "kv", "tom", TOM)
    before, after = re.split(r"(?m)^(?=kvlab )", marking)
    typed(before, folder / "kv")
    shutil.copy(folder / "kv" / "gradebook.db", folder / "autograded.db")
    typed(after, folder / "kv")
    return folder / "kv"


def scores(book):
    """Each student's marks by question, as a gradebook counts them."""
    with sqlite3.connect(book) as there:
        rows = there.execute(
            "select whose.student_id, base_cell.name, grade.auto_score from grade "
            "join base_cell on grade.cell_id = base_cell.id "
            "join submitted_notebook came on grade.notebook_id = came.id "
            "join submitted_assignment whose on came.assignment_id = whose.id"
        ).fetchall()
    found = {}
    for student, cell, score in rows:
        number = cell.removesuffix("_check")[1:].replace("_", ".")
        found.setdefault(student, {})[number] = score
    return found


def of(*passed):
    return {n: e.points * (n in passed) for n, e in CHAPTER.items()}


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_nbgrader_and_kvlab_release_the_same(course):
    theirs = notebooks.read(course / "release" / "ch06" / NAME)["cells"]
    ours = notebooks.read(ROOT / "exercises" / NAME)["cells"]
    assert [notebooks.source(c).rstrip() for c in theirs] == [
        notebooks.source(c).rstrip() for c in ours
    ]
    assert [notebooks.grade_id(c) for c in theirs] == [notebooks.grade_id(c) for c in ours]
    assert notebooks.STUB in (ROOT / "exercises" / NAME).read_text().replace('\\"', '"')


def test_nbgrader_marks_a_submission_as_the_checks_in_it_say(course):
    found = scores(course.parent / "autograded.db")
    assert found["ann"] == of("6.1", "6.3")
    assert found["tom"] == of("6.6", "6.7", "6.8"), "its own check said so"


def test_kvlabs_marks_take_their_place_and_are_exported(course):
    assert scores(course / "gradebook.db") == {"ann": of("6.1", "6.3"), "tom": of()}
    with open(course / "grades.csv", newline="") as file:
        grades = {line["student_id"]: float(line["score"]) for line in csv.DictReader(file)}
    assert grades == {"ann": 7, "tom": 0}


def test_the_feedback_page_says_why(course):
    page = (course / "feedback" / "tom" / "ch06" / "06_kv_cache.html").read_text(encoding="utf-8")
    shown = html.unescape(re.sub("<[^>]+>", "", page))
    verdict = r'AssertionError: 6\.1 [^\n]+: failed\.\n"[^\n]+" does not hold on n_layers [^\n]+\n'
    assert re.search(verdict + r"your code raised TypeError: KVCache\(\) takes no arg", shown)
    ours = re.search(r'Comments:\s+"[^"]+" does not hold on n_layers [^\n]+\n([^\n]+)', shown)
    assert ours and "your code raised TypeError: KVCache() takes no arg" in ours[1]
    assert re.search(r"Comments:(?:(?!Comments:).)*This is a known mistake", shown, re.S)


# --- what does not fit the gradebook --------------------------------------------------------------


@pytest.fixture
def put(course, tmp_path, capsys, monkeypatch):
    """Tries marks on a copy of the gradebook: the exit code and what was said."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(course / "gradebook.db", tmp_path / "gradebook.db")

    def run(*rows, more=()):
        path = str(saved(tmp_path / "m.json", *rows))
        return main(["marks", path, "--nbgrader", "gradebook.db", *more]), capsys.readouterr().err

    return run


def test_a_late_submission_a_mark_by_hand_and_a_student_nobody_knew(put, tmp_path):
    with sqlite3.connect(tmp_path / "gradebook.db") as book:
        book.execute("update grade set manual_score = 2")
    came = [
        row("ann/ch06/06_kv_cache", question("6.1"), submitted="2026-05-05T10:00:00"),
        row("李/06_kv_cache", question("6.1", "not judged"), submitted=None),
    ]
    code, said = put(*came, more=["--deadline", "2026-05-04"])
    assert code == 0 and "Marks of 2 students" in said and "New there: 李." in said, said
    found = scores(tmp_path / "gradebook.db")
    assert found["ann"]["6.1"] == 3 and found["李"]["6.1"] == 0 and found["tom"] == of()
    with sqlite3.connect(tmp_path / "gradebook.db") as book:
        late = book.execute("select max(late_submission_penalty) from submitted_notebook")
        assert late.fetchone()[0] == pytest.approx(0.6), "two days begun"
        by_hand = "select count(*) from grade where manual_score = 2"
        assert book.execute(by_hand).fetchone()[0] == 2 * len(CHAPTER)
        unread = book.execute("select auto_score from grade where needs_manual_grade")
        assert 0.0 in [score for (score,) in unread]


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ([row("ann/06", question("5.2"))], (), "has no assignment with chapter 5"),
        ([row("ann/06", question("6.1") | {"out_of": 9})], (), "q6_1_check is worth 3, and these"),
        ([row("ann/06", question("6.1"))], ["--weights", "6=2"], "knows no weights"),
        ([row("ann/06", question("6.1"))], ["--nbgrader", "none.db"], "none.db is not there"),
        ([row("ann/06", question("6.1"))], ["--nbgrader", "m.json"], "no gradebook of nbgrader"),
    ],
)
def test_what_does_not_fit_is_told_and_changes_nothing(put, tmp_path, rows, more, said):
    before = (tmp_path / "gradebook.db").read_bytes()
    code, told = put(*rows, more=more)
    assert code == 1 and said in told, told
    assert (tmp_path / "gradebook.db").read_bytes() == before


def test_a_gradebook_of_another_version_is_refused(put, tmp_path):
    with sqlite3.connect(tmp_path / "gradebook.db") as book:
        book.execute("update alembic_version set version_num = 'old'")
    code, told = put(row("ann/06", question("6.1")))
    assert code == 1 and "nbgrader db upgrade" in told
