"""All exercises by number: the `Q` of every file in the folders chNN beside this one, and of every
file in the folders of one's own that $KVLAB_EXERCISES names.
"""

from __future__ import annotations

import functools
import hashlib
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kvlab.course import loading
from kvlab.course.author.spec import Exercise
from kvlab.course.sandbox.shown import own_folders

HOME = Path(__file__).parent


@dataclass(frozen=True)
class Chapter:
    """A chapter that has exercises: its number, its notebooks' name, the text at their top.

    `folder` is that of one's own exercises, into which its notebooks are written; None for a
    chapter that is all the book's.
    """

    number: str
    notebook: str
    introduction: str
    exercises: tuple[Exercise, ...]
    folder: Path | None = None


def _of_the_book() -> tuple[Chapter, ...]:
    names = (m.name for m in pkgutil.iter_modules([HOME]) if m.ispkg)
    return tuple(_chapter(name) for name in sorted(names) if re.fullmatch(r"ch\d\d", name))


def _chapter(name: str) -> Chapter:
    home, folder = f"kvlab.course.{name}", HOME / name
    package = loading.load(home, folder / "__init__.py")
    files = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    found = []
    for file in files:
        path = folder / f"{file}.py"
        found.append(loading.exercise_of(loading.load(f"{home}.{file}", path), path))
    number = str(int(name[2:]))
    return Chapter(number, package.NOTEBOOK, package.INTRODUCTION, _ordered(found))


def _ordered(exercises: Sequence[Exercise]) -> tuple[Exercise, ...]:
    return tuple(sorted(exercises, key=lambda e: [int(part) for part in e.number.split(".")]))


CHAPTERS: tuple[Chapter, ...] = _of_the_book()
ALL: tuple[Exercise, ...] = tuple(e for chapter in CHAPTERS for e in chapter.exercises)


def chapters() -> tuple[Chapter, ...]:
    """The book's chapters and one's own; one that both have holds the exercises of both.

    Raises: ValueError for a folder or a file that will not do.
    """
    return _with_own(tuple(own_folders()))


@functools.lru_cache(maxsize=16)
def _with_own(folders: tuple[str, ...]) -> tuple[Chapter, ...]:
    found = {chapter.number: chapter for chapter in CHAPTERS}
    for own in loading.own(list(folders)):
        text = loading.INTRODUCTION.format(number=own.number, first=own.exercises[0].number)
        there = found.get(own.number) or Chapter(
            own.number,
            own.notebook or f"{int(own.number):02d}_exercises",
            own.introduction or text,
            (),
        )
        both = loading.twice([*there.exercises, *own.exercises])
        if both:
            raise ValueError(f"{both}; one of them is in {own.folder}, and needs another.")
        found[own.number] = replace(
            there, exercises=_ordered([*there.exercises, *own.exercises]), folder=own.folder
        )
    return tuple(sorted(found.values(), key=lambda c: int(c.number)))


def exercises() -> tuple[Exercise, ...]:
    """The book's exercises and one's own, in order.

    Raises: as `chapters`.
    """
    return tuple(e for chapter in chapters() for e in chapter.exercises)


def own_digest() -> str:
    """What the files of one's own exercises hold, in short: "" where there are none."""
    patterns = ("*.py", "ch*/*.py")
    files = [p for f in own_folders() for like in patterns for p in sorted(Path(f).glob(like))]
    found = hashlib.sha256(b"".join(path.read_bytes() for path in files))
    return found.hexdigest() if files else ""


def find(number: str) -> Exercise:
    """The exercise with this number, like "6.1".

    Raises: ValueError for one that is not there, or that a number without quotes cannot tell.
    """
    everything = exercises()
    if isinstance(number, float) and any(e.number == f"{number}0" for e in everything):
        raise ValueError(
            f'Exercise {number} was asked for as a number, which cannot tell "{number}" from '
            f'"{number}0"; write it in quotes.'
        )
    for exercise in everything:
        if exercise.number == str(number):
            return exercise
    near = [e for e in everything if e.chapter == str(number).split(".")[0]]
    known = ", ".join(e.number for e in near or everything)
    raise ValueError(
        f"Exercise {number!r} was asked for; there are {known}. Those in a folder of a teacher's "
        "own are found where KVLAB_EXERCISES names that folder."
    )
