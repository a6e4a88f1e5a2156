"""`check` and `hint`: what a reader calls in a notebook."""

from __future__ import annotations

import itertools
import secrets
import types
from collections.abc import Callable
from typing import Any

from kvlab.course import progress
from kvlab.course.answer import LocalAnswer, refusal
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
    refused = _refused(exercise, answer, set())
    if refused:
        verdict = Verdict(exercise, "failed", f"{refused}.")
    else:
        verdict = judge(exercise, LocalAnswer(answer, exercise.forbids), f"check {seed}")
    progress.record(verdict)
    return verdict


def _refused(exercise: Exercise, thing: Any, seen: set[int]) -> str | None:
    """What an answer uses that grading will not let it import: by the objects its code names."""
    if id(thing) in seen:
        return None
    seen.add(id(thing))
    if isinstance(thing, type):
        found = (_refused(exercise, part, seen) for part in vars(thing).values())
        return next(filter(None, found), None)
    if not isinstance(thing, types.FunctionType):
        return None
    for name in _names(thing.__code__):
        used = thing.__globals__.get(name)
        home = used.__name__ if isinstance(used, types.ModuleType) else _home(used)
        why = refusal(home, exercise.allows, exercise.forbids)
        why = why or (home == thing.__module__ and _refused(exercise, used, seen))
        if why:
            return why
    return None


def _home(used: Any) -> str:
    """The module a function or class comes from, "" for anything else."""
    known = isinstance(used, (type, types.FunctionType))
    return str(used.__module__) if known else ""


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


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
