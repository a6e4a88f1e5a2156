"""Answers from the notebooks and the specifications, for tests that judge them."""

import torch

from kvlab.course.author import spec
from kvlab.course.exercises import ALL
from kvlab.course.grading import notebooks
from kvlab.course.judge import judge
from kvlab.course.sandbox.answer import LocalAnswer
from kvlab.shell.cli import ROOT

SOLUTION = ROOT / "solutions" / "06_kv_cache.ipynb"
STUBS = ROOT / "exercises" / "06_kv_cache.ipynb"
OUT_OF = sum(e.points for e in ALL if e.chapter == "6")
BY_NUMBER = {e.number: e for e in ALL}
ANSWERS = {e.number: e.second for e in ALL}


def run_cell(source, name):
    """What a cell's source defines under a name."""
    namespace = {"torch": torch, "__name__": "answer"}
    exec(source, namespace)
    return namespace[name]


def local(exercise, source, seed=11, clock=False):
    """The verdict on a cell's source, judged in this process."""
    made = LocalAnswer(run_cell(source, exercise.name), exercise.forbids)
    return judge(exercise, made, seed, clock=clock)


def small(**changes):
    """The smallest exercise: the sum of some rows. Its laws are put by the test."""
    parts = {
        "points": 1, "minutes": 1, "difficulty": 1, "hints": ("a", "b", "c"),
        "cases": lambda rng: {"x_ST": torch.full((rng.randint(2, 4), 3), 2.0).double()},
    }  # fmt: skip
    name = changes.pop("name", "sum_rows")
    return spec.Exercise("0.1", "Sum", name, **{**parts, **changes})


def answered(tmp_path, changes):
    """A submission: the learner's notebook with some cells filled in."""
    notebook = notebooks.read(STUBS)
    for cell in notebook["cells"]:
        if notebooks.grade_id(cell) in changes:
            cell["source"] = changes[notebooks.grade_id(cell)]
    path = tmp_path / "submission.ipynb"
    notebooks.write(path, notebook)
    return path
