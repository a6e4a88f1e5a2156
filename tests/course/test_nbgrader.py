"""nbgrader takes solutions/ as its source: the same exercise comes out, and marks come in."""

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from kvlab.course.exercises import ALL
from kvlab.course.grading import notebooks
from kvlab.shell.cli import ROOT
from tests.hostile import ANSWERS

pytest.importorskip("nbgrader", reason="needs nbgrader: pip install .[class]")

NAME = "06_kv_cache.ipynb"
CHAPTER = [e for e in ALL if e.chapter == "6"]
CONFIG = f"""
c = get_config()
c.CourseDirectory.course_id = "kv"
c.ClearSolutions.code_stub = {{"python": {notebooks.STUB!r}}}
c.ExecutePreprocessor.timeout = 300
c.Execute.timeout = 300
"""


def nbgrader(course, *line):
    tools = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": tools, "PYTHONPATH": str(ROOT),
           "JUPYTER_CONFIG_DIR": str(course / "config")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *line], cwd=course, env=env, capture_output=True,
        text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    (folder / "nbgrader_config.py").write_text(CONFIG)
    (folder / "source" / "kv").mkdir(parents=True)
    shutil.copy(ROOT / "solutions" / NAME, folder / "source" / "kv" / NAME)
    nbgrader(folder, "generate_assignment", "kv", "--create")
    return folder


def test_nbgrader_and_kvlab_release_the_same(course):
    theirs = notebooks.read(course / "release" / "kv" / NAME)["cells"]
    ours = notebooks.read(ROOT / "exercises" / NAME)["cells"]
    assert [notebooks.source(c).rstrip() for c in theirs] == [
        notebooks.source(c).rstrip() for c in ours
    ]
    assert [notebooks.grade_id(c) for c in theirs] == [notebooks.grade_id(c) for c in ours]
    assert notebooks.STUB in (ROOT / "exercises" / NAME).read_text().replace('\\"', '"')


@pytest.mark.slow
def test_nbgrader_marks_a_submission_as_kvlab_does(course):
    released = notebooks.read(course / "release" / "kv" / NAME)
    for cell in released["cells"]:
        if notebooks.grade_id(cell) in ("q6_1", "q6_3"):
            cell["source"] = ANSWERS[notebooks.grade_id(cell)[1:].replace("_", ".")]
    path = course / "submitted" / "ann" / "kv" / NAME
    path.parent.mkdir(parents=True)
    notebooks.write(path, released)
    nbgrader(course, "autograde", "kv", "--student", "ann", "--create")
    with sqlite3.connect(course / "gradebook.db") as book:
        rows = book.execute(
            "select base_cell.name, grade.auto_score from grade join base_cell "
            "on grade.cell_id = base_cell.id"
        ).fetchall()
    marks = {name: score for name, score in rows if name.endswith("_check")}
    expected = {f"{e.grade_id}_check": e.points * (e.number in ("6.1", "6.3")) for e in CHAPTER}
    assert marks == expected
