"""`check` and `hint`: what a reader calls in a notebook."""

from __future__ import annotations

import dis
import functools
import itertools
import os
import secrets
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from kvlab.course import alone, record
from kvlab.course.author.spec import Exercise, Verdict
from kvlab.course.author.variant import for_student
from kvlab.course.exercises import find
from kvlab.course.judge import judge
from kvlab.course.sandbox.answer import LocalAnswer
from kvlab.course.sandbox.forbid import refusal
from kvlab.measure import threads
from kvlab.measure.progress_bar import alive

# How code fetches a global by its name. Attributes have names too, which say nothing of globals.
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")

# Which hint comes next, per exercise, is a reader's place in a book and no result depends on it.
_next_hint: dict[str, itertools.count] = {}


_NOTHING = object()


def check(
    number: str, answer: Any = _NOTHING, *, seed: int | None = None, student: str | None = None
) -> Verdict:
    """Try an answer on fresh random cases and say what is right or wrong with it.

    `student` is the id by which an exercise that differs by student is drawn, that of KVLAB_STUDENT
    unless given. The seed is drawn anew each time unless given; grading draws others. What came of
    it is noted for `kvlab progress`, in a file of yours that nothing sends anywhere.
    Raises: ValueError for an unknown exercise, or something that cannot be called.
    """
    if callable(number) and isinstance(answer, str):
        exercise = find(answer)
        raise ValueError(f'The two are exchanged: write check("{answer}", {exercise.name}).')
    if callable(number) and answer is _NOTHING:
        name = getattr(number, "__name__", "your_answer")
        raise ValueError(f'check got an answer and no exercise; write check("1.1", {name}), say.')
    exercise = _of(number, student)
    if answer is _NOTHING:
        raise ValueError(
            f'check("{number}") got no answer; write check("{number}", {exercise.name}).'
        )
    if not callable(answer):
        raise ValueError(
            f"check({number!r}, ...) was given something of type {type(answer).__name__}; expected "
            f"the function or class {exercise.name} itself, without brackets after it."
        )
    seed = secrets.randbelow(2**32) if seed is None else seed
    refused = _refused(exercise, answer, set())
    if refused:
        verdict = Verdict(exercise, "failed", f"{refused}.")
    else:
        # more threads slow such small work down
        with threads(1), alive(f"trying your answer to {exercise.number}"):
            own = LocalAnswer(answer, exercise.forbids)
            verdict = judge(exercise, own, f"check {seed}", recalls=True)
    if verdict.passed and (why := alone.warning(answer, exercise.name)):
        verdict = replace(verdict, message=f"{verdict.message}\n{why}")
    record.record(verdict)
    return verdict


def _of(number: str, student: str | None) -> Exercise:
    """The exercise with this number, as this student has it."""
    if not isinstance(student, str | None):
        raise ValueError(f"The student {student!r} was named; expected an id as text.")
    own = os.environ.get("KVLAB_STUDENT", "") if student is None else student
    return for_student(find(number), own)


def _refused(exercise: Exercise, thing: Any, seen: set[int]) -> str | None:
    """What an answer uses that grading will not let it import: by the objects its code names."""
    thing = _inside(thing)
    if id(thing) in seen:
        return None
    seen.add(id(thing))
    for home, used in _uses(thing):
        if home == _home(thing):
            why = _refused(exercise, used, seen)
        else:
            why = refusal(home, exercise.allows, exercise.forbids)
        if why:
            return why
    return None


def _inside(thing: Any) -> Any:
    """The function or class behind a bound method, a partial or an object that can be called."""
    while not isinstance(thing, (type, types.FunctionType)):
        if isinstance(thing, functools.partial):
            thing = thing.func
        else:
            thing = thing.__func__ if isinstance(thing, types.MethodType) else type(thing)
    return thing


def _uses(thing: Any) -> Iterator[tuple[str, Any]]:
    """What a function names, or a class is made of, with the module that each is from."""
    if isinstance(thing, type):
        yield from ((_home(base), base) for base in thing.__bases__)
        yield from ((_home(thing), part) for part in vars(thing).values())
    elif isinstance(thing, types.FunctionType):
        for step in _steps(thing.__code__):
            if step.opname == "IMPORT_NAME":
                yield step.argval, None
            elif step.opname == "LOAD_CONST" and step.argval in sys.modules:
                if step.argval.startswith("kvlab."):  # as importlib and sys.modules are asked
                    yield step.argval, None
            elif step.opname in _LOADS:
                used = thing.__globals__.get(step.argval)
                yield _home(used), used


def _home(used: Any) -> str:
    """The module that something is or comes from, "" for plain values."""
    if isinstance(used, types.ModuleType):
        return used.__name__
    if isinstance(used, type):
        return str(type.__getattribute__(used, "__module__"))  # a class of classes may hide it
    return str(used.__module__) if isinstance(used, types.FunctionType) else ""


def _steps(code: types.CodeType) -> Iterator[dis.Instruction]:
    """The bytecode of a function and of those inside it."""
    yield from dis.get_instructions(code)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _steps(inner)


class Hint:
    """A hint, which a notebook shows as text."""

    def __init__(self, exercise: Exercise, n: int) -> None:
        self.text = exercise.hints[n]
        self._before = f"Hint {n + 1} of {len(exercise.hints)} for {exercise.number}: "

    def __repr__(self) -> str:
        return self._before + self.text


def hint(number: str, n: int | None = None, *, student: str | None = None) -> Hint:
    """The next hint for an exercise, from a nudge to nearly the answer; or hint number `n`.

    `student` is as in `check`.
    """
    exercise = _of(number, student)
    last = len(exercise.hints)
    if n is not None and not 1 <= n <= last:
        raise ValueError(f"Hint {n} was asked for; exercise {number} has hints 1 to {last}.")
    if n is None:
        n = min(next(_next_hint.setdefault(number, itertools.count(1))), last)
    return Hint(exercise, n - 1)
