"""`check` and `hint`: what a reader calls in a notebook."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import Any

from kvlab.course import progress
from kvlab.course.answer import LocalAnswer
from kvlab.course.exercises import find
from kvlab.course.judging import judge
from kvlab.course.spec import Exercise, Verdict

# Which hint comes next, per exercise, is a reader's place in a book and no result depends on it.
_next_hint: dict[str, itertools.count] = {}


def check(number: str, answer: Callable[..., Any], *, seed: int | None = None) -> Verdict:
    """Try an answer on fresh random cases and say what is right or wrong with it.

    The seed is drawn anew each time unless given; grading draws others. What came of it is noted
    for `kvlab progress`, in a file of yours that nothing sends anywhere.
    Raises: ValueError for an unknown exercise, or something that cannot be called.
    """
    exercise = find(number)
    if not callable(answer):
        raise ValueError(
            f"check({number!r}, ...) was given a {type(answer).__name__}; expected the function "
            f"or class {exercise.name} itself, without brackets after it."
        )
    seed = secrets.randbelow(2**32) if seed is None else seed
    verdict = judge(exercise, LocalAnswer(answer, exercise.forbids), f"check {seed}")
    progress.record(verdict)
    return verdict


class Hint:
    """A hint, which a notebook shows as text."""

    def __init__(self, exercise: Exercise, n: int) -> None:
        self._text = (
            f"Hint {n + 1} of {len(exercise.hints)} for {exercise.number}: " + (exercise.hints[n])
        )

    def __repr__(self) -> str:
        return self._text


def hint(number: str, n: int | None = None) -> Hint:
    """The next hint for an exercise, from a nudge to nearly the answer; or hint number `n`."""
    exercise = find(number)
    last = len(exercise.hints)
    if n is not None and not 1 <= n <= last:
        raise ValueError(f"Hint {n} was asked for; exercise {number} has hints 1 to {last}.")
    if n is None:
        n = min(next(_next_hint.setdefault(number, itertools.count(1))), last)
    return Hint(exercise, n - 1)
