"""All exercises of the book, by number: the `Q` of every file in the folders chNN beside this one.

A file whose name begins with _ holds what several exercises of a chapter share.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path

from kvlab.course.author.spec import Exercise


@dataclass(frozen=True)
class Chapter:
    """A chapter that has exercises: its number, its notebooks' name, the text at their top."""

    number: str
    notebook: str
    introduction: str
    exercises: tuple[Exercise, ...]


def _chapters() -> tuple[Chapter, ...]:
    names = (m.name for m in pkgutil.iter_modules([Path(__file__).parent]) if m.ispkg)
    return tuple(_chapter(name) for name in sorted(names) if re.fullmatch(r"ch\d\d", name))


def _chapter(name: str) -> Chapter:
    home = f"kvlab.course.{name}"
    package = importlib.import_module(home)
    files = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    found = (importlib.import_module(f"{home}.{file}").Q for file in files)
    ordered = sorted(found, key=lambda e: [int(part) for part in e.number.split(".")])
    number = str(int(name[2:]))
    return Chapter(number, package.NOTEBOOK, package.INTRODUCTION, tuple(ordered))


CHAPTERS: tuple[Chapter, ...] = _chapters()
ALL: tuple[Exercise, ...] = tuple(e for chapter in CHAPTERS for e in chapter.exercises)


def find(number: str) -> Exercise:
    """The exercise with this number, like "6.1"."""
    for exercise in ALL:
        if exercise.number == str(number):
            return exercise
    known = ", ".join(e.number for e in ALL)
    raise ValueError(f"Exercise {number!r} was asked for; there are {known}.")
