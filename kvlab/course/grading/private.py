"""Private cases: a teacher's own, in a file of theirs, tried before anybody is graded by them."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvlab.course.author import entries
from kvlab.course.author.spec import Exercise
from kvlab.course.exercises import exercises, find
from kvlab.course.judge import judge
from kvlab.course.sandbox.answer import LocalAnswer

TRIES = 6


def run_cases(args: argparse.Namespace) -> int:
    """What `kvlab cases` does: print the entries of one exercise's cases, or of all."""
    chosen = exercises() if args.exercise is None else [find(args.exercise)]
    if args.json:
        print(json.dumps([entries.as_data(exercise) for exercise in chosen], indent=1))
        return 0
    print("\n\n".join(map(entries.as_text, chosen)))
    print("\nNames that begin with _ are not shown to learners. See docs/grading.md.")
    return 0


def private_cases(path: str | Path) -> dict[str, Callable[..., Any]]:
    """The teacher's own case makers, by exercise: `CASES = {"6.2": make_case}` in a Python file.

    The file is run here, so it must be one's own. A case must have the entries of the exercise's
    own cases, which `kvlab cases` lists.
    Raises: ValueError for a file without `CASES`, an exercise that is not there, a case with other
    entries, or one that a right answer fails.
    """
    import runpy

    if not Path(path).is_file():
        raise ValueError(f"{path} is not there; expected a Python file with CASES.")
    try:
        found = runpy.run_path(str(path)).get("CASES")
    except Exception as error:
        raise ValueError(f"{path} does not run: {type(error).__name__}: {error}") from None
    numbers = [e.number for e in exercises()]
    if not isinstance(found, dict) or not all(map(callable, found.values())):
        raise ValueError(
            f'{path} has no CASES; expected a dict like {{"{numbers[0]}": make_case}}, where '
            "make_case(rng) gives one case."
        )
    for number, make in found.items():
        if number not in numbers:
            raise ValueError(f"{path} has cases for {number!r}; there are {', '.join(numbers)}.")
        exercise = find(number)
        _hold_to_entries(path, exercise, make)
        _try_private(path, exercise, make)
    return found


def _hold_to_entries(path: str | Path, exercise: Exercise, make: Callable[..., Any]) -> None:
    """A case with other entries is its maker's fault, and must not look like an answer's."""
    known = entries.entries(exercise)
    for i in range(TRIES):
        try:
            case = make(random.Random(f"private {i}"))
        except Exception as error:
            wrong = f"making one raised {type(error).__name__}: {error}."
        else:
            wrong = entries.fault(known, case)
        if wrong:
            raise ValueError(
                f"{path}: a case for {exercise.number} will not do: {wrong} "
                f"`kvlab cases {exercise.number}` lists the entries."
            )


def _try_private(path: str | Path, exercise: Exercise, make: Callable[..., Any]) -> None:
    """A wrong case would cost everybody marks: a right answer must pass it."""
    names: dict[str, Any] = {}
    exec(exercise.second or exercise.cell, names)
    answer = LocalAnswer(names[exercise.name], exercise.forbids)
    try:
        verdict = judge(replace(exercise, cases=make), answer, "private", clock=False)
        wrong = "" if verdict.passed else verdict.message
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        raise ValueError(f"{path}: a right answer to {exercise.number} fails its cases: {wrong}")
