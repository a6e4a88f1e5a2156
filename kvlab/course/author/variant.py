"""Exercises that differ by student: constants and sizes drawn from the student's id."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable

from kvlab.course.author.spec import Exercise

_SAME = ("number", "title", "name", "points")


def per_student(make: Callable[[random.Random], Exercise]) -> Exercise:
    """An exercise that `make` draws for each student; without a student it is a sample.

    Number, title, name and points must be the same in all of them, statements must not.
    Raises: ValueError for an exercise of which this does not hold.
    """
    exercise = make(random.Random("a sample"))
    exercise.variant = make
    drawn = [for_student(exercise, str(i)) for i in range(20)]
    if len({one.statement for one in drawn}) == 1:
        raise ValueError(
            f"Exercise {exercise.number} has the same statement for every student; expected "
            "constants or sizes in it that `make` draws with its `rng`."
        )
    return exercise


def spelt(student: str) -> str:
    """An id in one spelling: case, blanks and the form of its letters do not count."""
    return " ".join(unicodedata.normalize("NFKC", student).casefold().split())


def for_student(exercise: Exercise, student: str) -> Exercise:
    """The exercise as this student has it: the same for the same id, however it is spelt.

    One that does not differ by student is given back as it is, and so is a sample where no student
    is named ("").
    Raises: ValueError where what is drawn is another exercise.
    """
    called = spelt(student)
    if exercise.variant is None or not called:
        return exercise
    made = exercise.variant(random.Random(f"{exercise.number} of {called}"))
    for part in _SAME:
        came, expected = getattr(made, part, None), getattr(exercise, part)
        if came != expected:
            raise ValueError(
                f"Exercise {exercise.number} has the {part} {came!r} for {student!r}; expected "
                f"{expected!r}, as for everybody."
            )
    return made
