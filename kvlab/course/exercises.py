"""All exercises of the book, by number: the `EXERCISES` of every module chNN.py beside this one."""

from __future__ import annotations

import importlib
import pkgutil
import re

from kvlab import course
from kvlab.course.spec import Exercise

ALL: tuple[Exercise, ...] = tuple(
    exercise
    for module in sorted(m.name for m in pkgutil.iter_modules(course.__path__))
    if re.fullmatch(r"ch\d\d", module)
    for exercise in importlib.import_module(f"kvlab.course.{module}").EXERCISES
)


def find(number: str) -> Exercise:
    """The exercise with this number, like "6.1"."""
    for exercise in ALL:
        if exercise.number == str(number):
            return exercise
    known = ", ".join(e.number for e in ALL)
    raise ValueError(f"Exercise {number!r} was asked for; there are {known}.")
