"""The two notebooks of a chapter, made from its exercises: what is solved, and what is to be.

A chapter is a folder `course/chNN`. Its `__init__.py` names the notebook and holds the text at its
top; each exercise's file gives a statement, an answer cell and a check cell.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvlab.course.author.spec import Exercise

Notebook = dict[str, Any]

SETUP = "import torch\n\nfrom kvlab import check, hint"
DONE = """## Done?

`python3 -m kvlab grade exercises/{name}.ipynb` in a terminal prints your marks. It runs each answer
in a process of its own, with other random cases than the checks above."""


def source_of(answer: Callable[..., Any], name: str, also: Sequence[str] = ()) -> str:
    """The source of a function or class as a cell of its own, under the name that is asked for.

    The imports of its module that it uses are put above it, and those named in `also`. An answer
    that is text stays as it is.
    Raises: ValueError when it uses another name of its module, which a cell would not have.
    """
    module = sys.modules[answer.__module__]
    text = inspect.getsource(answer)
    node = ast.parse(text).body[0]
    own = "\n".join(text.splitlines()[node.lineno - 1 :])  # without decorators
    node.decorator_list = []
    own = re.sub(rf"\b{answer.__name__}\b", name, own)
    used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    imports, other = [], set()
    wanted = used.union(also)
    for statement in ast.parse(inspect.getsource(module)).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found = [a for a in statement.names if (a.asname or a.name.split(".")[0]) in wanted]
            if found and getattr(statement, "module", "") != "__future__":
                statement.names = found
                imports.append(ast.unparse(statement))
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            other |= {statement.name}
        elif isinstance(statement, ast.Assign):
            other |= {t.id for t in statement.targets if isinstance(t, ast.Name)}
    stray = (used & other) - {answer.__name__} - _bound(node)
    if stray:
        raise ValueError(
            f"{answer.__module__}.{answer.__name__} uses {', '.join(sorted(stray))} of its module, "
            "and an answer's cell stands alone. Put it inside."
        )
    head = "\n".join(imports)
    return f"{head}\n\n\n{own}" if head else own


def _bound(node: ast.AST) -> set[str]:
    """Names that a piece of code makes itself."""
    parts = list(ast.walk(node))
    made = {n.id for n in parts if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    made |= {n.arg for n in parts if isinstance(n, ast.arg)}
    return made | {n.name for n in parts if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def solutions(name: str, introduction: str, exercises: Sequence[Exercise]) -> Notebook:
    """A chapter's notebook with every exercise solved."""
    made = [_text(introduction.strip()), _code(SETUP)]
    for exercise in exercises:
        made += [_text(statement_of(exercise)), *_answered(exercise)]
    made.append(_text(DONE.format(name=name)))
    for i, cell in enumerate(made, 1):
        cell["id"] = f"cell-{i:02d}"
    # strict nbval passes over a cell without a count
    for count, cell in enumerate((c for c in made if c["cell_type"] == "code"), 1):
        cell["execution_count"] = count
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
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
    check = f'check("{exercise.number}", {exercise.name})'
    hidden = f"{check}\n### BEGIN HIDDEN TESTS\nassert {check}.passed\n### END HIDDEN TESTS"
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
