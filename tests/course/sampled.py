"""Whether the exercises' random cases are ever unlucky: many seeds, not the suite's three.

On every seed both right answers pass, and each named mistake loses and is told by its own name.
What fails is a degenerate case (a weight lost in rounding, two scores that tie), whose cause is
mended where cases are drawn, not by another seed.

    python -m tests.course.sampled                          # all of the book, hours
    python -m tests.course.sampled 6.3 --right 5000         # one exercise, its right answers
    python -m tests.course.sampled --from 1000 --seconds 60 # other seeds, a minute for each
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from kvlab.course.author.spec import Exercise, Wrong
from kvlab.course.exercises import find
from kvlab.course.judge import judge
from kvlab.course.sandbox.answer import LocalAnswer
from tests.course.mutants import with_mutants


def seeds(first: int, n: int, seconds: float) -> Iterator[str]:
    """Seeds one after the other, as long as there is time."""
    end = time.perf_counter() + seconds
    for i in range(first, first + n):
        if time.perf_counter() > end:
            return
        yield f"sampled {i}"


def refused(exercise: Exercise, source: str, seed: str) -> str:
    """Why a right answer is refused on a seed; empty if it passes. The clock is not asked."""
    space: dict[str, Any] = {"torch": torch, "__name__": "answer"}
    exec(source, space)
    verdict = judge(
        exercise, LocalAnswer(space[exercise.name], exercise.forbids), seed, clock=False
    )
    return "" if verdict.passed else repr(verdict)


def missed(exercise: Exercise, answer: Callable[..., Any], says: str, seed: str) -> str:
    """How a named mistake gets away on a seed; empty if it loses by its own name.

    The others are not asked whether they lose alike: that they are told apart is for the suite.
    """
    alone = replace(exercise, wrong=[Wrong(answer, says)])
    for clock in (False, True):  # few need the clock, which is slow
        verdict = judge(alone, LocalAnswer(answer), seed, clock=clock)
        if not verdict.passed or exercise.clock is None:
            break
    if verdict.state != "failed":
        return verdict.state
    return "" if says in (verdict.mistake or "") else f"not named: {verdict!r}"


def sample(exercise: Exercise, asked: argparse.Namespace) -> Iterator[tuple[str, int, list[str]]]:
    """What was tried of an exercise: its name, on how many seeds, and what went wrong."""

    def counted(name: str, n: int, look: Callable[[str], str]) -> tuple[str, int, list[str]]:
        found = [(seed, look(seed)) for seed in seeds(asked.first, n, asked.seconds)]
        return name, len(found), [f"{seed}: {text}" for seed, text in found if text]

    for name, source in (("first answer", exercise.cell), ("second answer", exercise.second)):
        yield counted(name, asked.right, lambda seed, s=source: refused(exercise, s, seed))
    for wrong in exercise.wrong:
        look = lambda seed, w=wrong: missed(exercise, w.answer, w.says, seed)  # noqa: E731
        yield counted(wrong.answer.__name__, asked.wrong, look)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.course.sampled")
    parser.add_argument("numbers", nargs="*", metavar="EXERCISE")
    parser.add_argument("--right", type=int, default=1000, help="seeds for each right answer")
    parser.add_argument("--wrong", type=int, default=200, help="seeds for each named mistake")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--seconds", type=float, default=300, help="for one answer, at most")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    failed = 0
    for exercise in [find(n) for n in asked.numbers] or with_mutants():
        start, told = time.perf_counter(), []
        rows = list(sample(exercise, asked))
        right, wrong = (sum(n for _, n, _ in part) for part in (rows[:2], rows[2:]))
        for name, n, bad in rows:
            failed += len(bad)
            told += [f"    {name}: {len(bad)} of {n}, first on {bad[0]}"] if bad else []
            asked_for = asked.right if name.endswith(" answer") else asked.wrong
            told += [f"    {name}: only {n} in the time"] if n < asked_for else []
        seconds = time.perf_counter() - start
        print(f"{exercise.number}: {right} right, {wrong} wrong answers tried ({seconds:.0f} s)")
        print("\n".join(told), end="\n" if told else "", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
