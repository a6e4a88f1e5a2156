"""Exercises' files, the book's and those in folders of one's own: each holds one exercise, `Q`.

A folder of one's own has files like `q20_1_sum.py`, or folders `ch20` with such files, as the book
has them. A file whose name begins with _ holds what several exercises share.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from kvlab.course.author.spec import Exercise

_FILE = re.compile(r"q(\d+)_(\d+)(?:_\w+)?")
_FOLDER = re.compile(r"ch0*(\d+)")
INTRODUCTION = """
# Exercises to chapter {number}

Each question has a cell for your answer and a cell that checks it, on fresh random cases. Keep what
an answer needs in its own cell: when a notebook is graded, each answer runs alone. Stuck? Call
`hint("{first}")`.
"""


@dataclass
class Own:
    """What one's own folders hold of a chapter; its notebooks are written into `folder`."""

    number: str
    folder: Path
    notebook: str = ""
    introduction: str = ""
    exercises: list[Exercise] = field(default_factory=list)


def load(module: str, path: Path) -> ModuleType:
    """Import an exercise's file or a chapter's `__init__`.

    Raises: ValueError that names the file, the line and what went wrong there.
    """
    try:
        importlib.invalidate_caches()
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        line = _line(error, path)
        where = f" (line {line})" if line else ""
        said = str(error) if isinstance(error, SyntaxError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} does not run: {said}{where}.") from error


def _line(error: BaseException, path: Path) -> int | None:
    """The line of a file in which an error came up."""
    if isinstance(error, SyntaxError):
        return None  # it says so itself
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if Path(f.filename).name == path.name]
    return lines[-1] if lines else None


def exercise_of(module: ModuleType, path: Path) -> Exercise:
    """The exercise that a file defines.

    Raises: ValueError where that is none, is not whole, or has another number than the file.
    """
    exercise = getattr(module, "Q", None)
    if not isinstance(exercise, Exercise):
        came = f"a Q of type {type(exercise).__name__}" if hasattr(module, "Q") else "no Q"
        raise ValueError(
            f"{path} is no exercise: it has {came}; expected Q = Exercise(...), as "
            "docs/how-to-add-an-exercise.md shows it."
        )
    chapter, question = _FILE.fullmatch(path.stem).groups()
    number = f"{int(chapter)}.{int(question)}"
    if exercise.number != number:
        raise ValueError(
            f"{path}: the exercise has the number {exercise.number!r}; a file of this name holds "
            f"{number!r}."
        )
    lacking = _lacking(exercise)
    if lacking:
        raise ValueError(f"{path}: exercise {number} has no {', no '.join(lacking)}.")
    return exercise


def _lacking(exercise: Exercise) -> list[str]:
    """What an exercise cannot be handed out or judged without."""
    parts = {
        "statement": exercise.statement.strip(),
        "case (@Q.case)": exercise.cases,
        "solution (@Q.solution)": exercise.cell,
        "law (@Q.law, Q.agrees)": exercise.laws,
        "three hints": len(exercise.hints) == 3 and not isinstance(exercise.hints, str),
        "whole number of points": type(exercise.points) is int and exercise.points > 0,
        "name that a function may have": exercise.name.isidentifier(),
    }
    return [name for name, there in parts.items() if not there]


def own(folders: list[str]) -> list[Own]:
    """The chapters in folders of one's own, each with its exercises in order.

    Raises: ValueError for a folder that is not there or has no exercise, a file that is none, a
    number or an answer's name that is there twice.
    """
    found: dict[str, Own] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "is not there"
            raise ValueError(f"{folder} {what}; expected a folder of exercises ({_LIKE}).")
        before = sum(len(o.exercises) for o in found.values())
        package = _package(folder)
        _enter(found, folder, folder, package, None)
        for inner in sorted(p for p in folder.iterdir() if p.is_dir()):
            chapter = _FOLDER.fullmatch(inner.name)
            if chapter:
                _enter(found, inner, folder, f"{package}.{inner.name}", str(int(chapter[1])))
            elif any(_FILE.fullmatch(p.stem) for p in inner.glob("q*.py")):
                raise ValueError(
                    f"{inner} has exercises and is not named like a chapter's folder (ch20)."
                )
        if before == sum(len(o.exercises) for o in found.values()):
            raise ValueError(f"{folder} has no exercise in it; expected files like {_LIKE}.")
    for chapter in found.values():
        chapter.exercises.sort(key=lambda e: [int(part) for part in e.number.split(".")])
    return sorted(found.values(), key=lambda o: int(o.number))


_LIKE = "q20_1_sum.py, or ch20/q20_1_sum.py"


def _package(folder: Path) -> str:
    """A package of its own for a folder, so that its files may import each other: `from ._x`."""
    name = "kvlab_own_" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    package = sys.modules.setdefault(name, ModuleType(name, "Exercises of one's own."))
    package.__path__ = [str(folder)]
    return name


def _enter(found: dict[str, Own], inner: Path, folder: Path, home: str, chapter: str | None):
    """Read the exercises in one folder."""
    for path in sorted(inner.glob("*.py")):
        named = _FILE.fullmatch(path.stem)
        if path.stem.startswith("_"):
            continue
        if not named or chapter not in (None, str(int(named[1]))):
            like = _LIKE if chapter is None else f"q{chapter}_1_sum.py"
            raise ValueError(
                f"{path} is not named like an exercise ({like}); a file that is none has a name "
                "that begins with _."
            )
        exercise = exercise_of(load(f"{home}.{path.stem}", path), path)
        there = found.setdefault(exercise.chapter, Own(exercise.chapter, folder))
        there.exercises.append(exercise)
    if chapter in found and (inner / "__init__.py").is_file():
        module, path = load(home, inner / "__init__.py"), inner / "__init__.py"
        there = found[chapter]
        there.notebook = getattr(module, "NOTEBOOK", "")
        there.introduction = getattr(module, "INTRODUCTION", "")
        if there.notebook and not re.fullmatch(rf"0*{chapter}_[\w-]+", str(there.notebook)):
            raise ValueError(
                f"{path}: NOTEBOOK is {there.notebook!r}; expected a name that begins with the "
                f"chapter's number, like {int(chapter):02d}_sums."
            )


def twice(exercises: list[Exercise]) -> str:
    """What two exercises of a list share that only one may have, in a sentence, or ""."""
    numbers: dict[str, Exercise] = {}
    names: dict[tuple[str, str], Exercise] = {}
    for exercise in exercises:
        if exercise.number in numbers:
            return f"There are two exercises with the number {exercise.number}"
        numbers[exercise.number] = exercise
        other = names.setdefault((exercise.chapter, exercise.name), exercise)
        if other is not exercise:
            return (
                f"The exercises {other.number} and {exercise.number} both ask for {exercise.name}"
            )
    return ""
