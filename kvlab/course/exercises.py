"""All exercises of the book, by number."""

from __future__ import annotations

from kvlab.course import ch06
from kvlab.course.spec import Exercise

ALL: tuple[Exercise, ...] = ch06.EXERCISES


def find(number: str) -> Exercise:
    """The exercise with this number, like "6.1"."""
    for exercise in ALL:
        if exercise.number == str(number):
            return exercise
    known = ", ".join(e.number for e in ALL)
    raise ValueError(f"Exercise {number!r} was asked for; there are {known}.")
