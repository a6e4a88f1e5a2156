"""The two notebooks of a chapter, made from its exercises: what is solved, and what is to be.

A chapter is a folder `course/chNN`. Its `__init__.py` names the notebook and holds the text at its
top; each exercise's file gives a statement, an answer cell and a check cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvlab.course.author.spec import Exercise
from kvlab.course.author.variant import for_student

Notebook = dict[str, Any]

SETUP = "import torch\n\nfrom kvlab import check, hint"
OF = '\n\nimport os\n\nos.environ["KVLAB_STUDENT"] = {!r}  # whose notebook this is'
DONE = """## Done?

`python3 -m kvlab grade exercises/{name}.ipynb` in a terminal prints your marks. It runs each answer
in a process of its own, with other random cases than the checks above."""
DONE_OWN = """## Done?

Save the notebook and hand it in. When it is graded, each answer runs in a process of its own, with
other random cases than the checks above."""


def solutions(
    name: str,
    introduction: str,
    exercises: Sequence[Exercise],
    own: bool = False,
    student: str = "",
) -> Notebook:
    """A chapter's notebook with every exercise solved; `own` where a teacher's are among them.

    With a `student`, exercises that differ by student are theirs, and it says whose it is.
    """
    made = [_text(introduction.strip()), _code(SETUP + (OF.format(student) if student else ""))]
    for exercise in (for_student(e, student) for e in exercises):
        made += [_text(statement_of(exercise)), *_answered(exercise)]
    made.append(_text(DONE_OWN if own else DONE.format(name=name)))
    for i, cell in enumerate(made, 1):
        cell["id"] = f"cell-{i:02d}"
    # strict nbval passes over a cell without a count
    for count, cell in enumerate((c for c in made if c["cell_type"] == "code"), 1):
        cell["execution_count"] = count
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    if student:
        metadata["kvlab"] = {"student": student}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def statement_of(exercise: Exercise) -> str:
    """An exercise's text as the notebooks show it."""
    points = "1 point" if exercise.points == 1 else f"{exercise.points} points"
    return (
        f"## {exercise.number} {exercise.title}\n\n*{points}, about {exercise.minutes} minutes*\n\n"
        f"{exercise.statement.strip()}"
    )


def _answered(exercise: Exercise) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer's cell and the check's, with nbgrader's metadata."""
    common = {"schema_version": 3, "task": False}
    answer = {"grade_id": exercise.grade_id, "grade": False, "locked": False, "solution": True}
    graded = {
        "grade_id": f"{exercise.grade_id}_check", "grade": True, "locked": True, "solution": False,
        "points": exercise.points,
    }  # fmt: skip
    # Once, in the cell that the learner has: nbgrader's feedback shows the words of the assertion,
    # and of a cell that ends with one no other output.
    shown = f'verdict = check("{exercise.number}", {exercise.name})\nverdict'
    asserted = "assert verdict.passed, verdict"
    hidden = f"{shown}\n### BEGIN HIDDEN TESTS\n{asserted}\n### END HIDDEN TESTS"
    return _code(exercise.cell, common | answer), _code(hidden, common | graded)


def _text(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source.splitlines(keepends=True)}


def _code(source: str, grader: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "metadata": {} if grader is None else {"nbgrader": grader},
        "source": source.splitlines(keepends=True),
        "outputs": [],
    }
