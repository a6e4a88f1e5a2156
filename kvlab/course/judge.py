"""How an answer is judged: every law, on random cases, from the smallest to the largest."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from kvlab.course import recall
from kvlab.course.author.compare import came, describe, difference
from kvlab.course.author.complaints import explained
from kvlab.course.author.laws import is_stub, narrow
from kvlab.course.author.picture import picture
from kvlab.course.author.spec import Case, Exercise, Law, Outcome, Verdict, Wrong
from kvlab.course.sandbox.answer import (
    Answer,
    AnswerRaised,
    LocalAnswer,
    NotData,
    Stopped,
    Unavailable,
)

PRIVATE = "a private case"
# What an outcome holds where there is none. They begin with a space, which no value's name does.
RAISED, NOT_DATA = " raised", " not data"
PLAIN = (torch.Tensor, int, float, str, list, tuple, dict, type(None))  # not what is lent


def judge(
    exercise: Exercise,
    answer: Answer,
    seed: int | str,
    *,
    clock: bool = True,
    private: Callable[[random.Random], Case] | None = None,
    recalls: bool = False,
) -> Verdict:
    """Try an answer against every law.

    A verdict that `recalls` keeps the very call that failed, which takes the law once more.
    `private` makes as many cases again, which no message describes. A fault of the judge's own on
    this very answer, which no law foresaw, is a verdict too: "not judged".
    """
    try:
        return _judged(exercise, answer, seed, clock, private, recalls)
    except Unavailable:
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:500]
        return Verdict(
            exercise,
            "not judged",
            f"The judge met something that it cannot judge ({text}). Read this answer by hand.",
        )


def _judged(
    exercise: Exercise,
    answer: Answer,
    seed: int | str,
    clock: bool,
    private: Callable[[random.Random], Case] | None,
    recalls: bool,
) -> Verdict:
    drawn = [(case, describe(case)) for case in draw(exercise, exercise.cases, seed)]
    if private is not None:
        drawn += [(case, PRIVATE) for case in draw(exercise, private, f"private {seed}")]
    drawn.sort(key=lambda pair: exercise.size(pair[0]))
    held = 0
    try:
        for law in exercise.laws:
            for case, called in drawn:
                failed = _failure(exercise, law, answer, (case, called), drawn, recalls)
                if failed is not None:
                    return replace(failed, held=held)
            held += 1
        if exercise.clock is not None and clock:
            return replace(_timed(exercise, answer, drawn[-1][0]), held=held)
    except NotAnswered:
        return not_answered(exercise, held)
    except Stopped as stop:
        return Verdict(exercise, "failed", str(stop), held=held)
    laws = "; ".join(law.name for law in exercise.laws)
    return Verdict(
        exercise, "passed", exercise.because or f"Tried on {len(drawn)} random cases: {laws}."
    )


def draw(exercise: Exercise, cases: Callable[[random.Random], Case], seed: int | str) -> list[Case]:
    """As many cases as an answer is tried on; the same for the same seed."""
    return [cases(random.Random(f"{exercise.number}/{seed}/{i}")) for i in range(exercise.n_cases)]


def not_answered(exercise: Exercise, held: int = 0) -> Verdict:
    """The verdict on a cell that still holds the stub, or a part of it."""
    text = "The cell still holds the stub."
    if held:
        text = (
            f"A part of the stub is left. What is there holds {held} of {len(exercise.laws)} laws."
        )
    return Verdict(exercise, "not answered", text, held=held)


class NotAnswered(Exception):
    """The answer raised NotImplementedError: the stub is still there."""


def _failure(
    exercise: Exercise,
    law: Law,
    answer: Answer,
    on: tuple[Case, str],
    drawn: list[tuple[Case, str]],
    recalls: bool,
) -> Verdict | None:
    """None if the law holds on this one of the cases; else the verdict, with the known mistake."""
    case, called = on
    outcome = _outcome(law, answer, case)
    text, shown, _ = _fault(law, case, outcome)
    if not text:
        return None
    others = [other for other, _ in drawn if other is not case]
    mistake = _known_mistake(exercise, law, answer, case, outcome, others)
    if called == PRIVATE:  # a picture would show it
        return Verdict(exercise, "failed", _on(law, called, text), mistake)
    inputs = {name: value for name, value in case.items() if not name.startswith("_")}
    again = None
    if recalls:
        again = recall.call(
            exercise, law.run, answer, case, lambda o: _fault(law, case, o)[2], outcome
        )
    if law.shows:
        called = law.shows(case)
    elif again:  # the call that failed need not be with the case's own
        called = describe({n: v for n, v in again.items() if isinstance(v, PLAIN)}) or called
    text = _on(law, called, text)
    how = recall.by_hand(exercise.name, again)
    return Verdict(
        exercise, "failed", text, mistake, shown, inputs if again is None else again, how
    )


def _on(law: Law, called: str, text: str) -> str:
    return f'"{law.name}" does not hold on {called}.\n{text}' if called else text


def _fault(law: Law, case: Case, outcome: Outcome) -> tuple[str, str, str]:
    """What is wrong with an outcome, a picture of it, and which value it is; empty texts if nothing
    is."""
    if RAISED in outcome:
        where = f" ({outcome['where']})" if outcome["where"] else ""
        return (
            f"your code raised {outcome[RAISED]}{where}.{explained(outcome[RAISED])}",
            "",
            "raised",
        )
    if NOT_DATA in outcome:
        return outcome[NOT_DATA], "", "not data"
    for name, expected in law.expect(case, outcome).items():
        value = came(outcome[name])
        wrong = difference(name, value, expected)
        if wrong:
            return wrong, picture(name, value, expected), name
    return "", "", ""


def _outcome(law: Law, answer: Answer, case: Case) -> Outcome:
    try:
        return law.run(answer, case)
    except AnswerRaised as raised:
        if is_stub(raised):
            raise NotAnswered from None
        return {RAISED: str(raised), "kind": raised.kind, "where": raised.where}
    except NotData as bad:
        return {NOT_DATA: str(bad)}
    except (Stopped, Unavailable):
        raise
    except Exception as error:  # a law may take an answer's result apart without looking first
        found = narrow(error) or f"{type(error).__name__}: {error}"
        return {NOT_DATA: f"your code returned something of another form ({found})."}


def _known_mistake(
    exercise: Exercise, law: Law, answer: Answer, case: Case, outcome: Outcome, others: list[Case]
) -> str | None:
    """What is said of the known wrong answers whose outcome is the very same.

    Of several, those that this answer cannot be are left out if others are there: they break a law
    that it holds, or come to something else on another case.
    """
    alike = [w for w in exercise.wrong if _does_as(w.answer, law, case, outcome)]
    if len(alike) > 1:
        before = exercise.laws[: exercise.laws.index(law)]  # this answer holds them on all cases
        alike = [w for w in alike if _holds(before, w.answer, [case, *others])] or alike
    for other in others:
        if len(alike) > 1:
            alike = _alike_on(other, law, answer, alike)
    return " Or: ".join(wrong.says for wrong in alike) or None


def _alike_on(case: Case, law: Law, answer: Answer, alike: list[Wrong]) -> list[Wrong]:
    """Those of several wrong answers to which the same comes on one more case; all if none are."""
    try:
        outcome = _outcome(law, answer, case)
    except (NotAnswered, Stopped):
        return alike
    return [w for w in alike if _does_as(w.answer, law, case, outcome)] or alike


def _does_as(wrong: Callable[..., Any], law: Law, case: Case, outcome: Outcome) -> bool:
    """Whether a known wrong answer gives this outcome too."""
    try:
        return _same_outcome(outcome, _outcome(law, LocalAnswer(wrong), case))
    except NotAnswered:
        return False


def _holds(laws: Sequence[Law], answer: Callable[..., Any], cases: Sequence[Case]) -> bool:
    return not any(
        any(_fault(law, case, _outcome(law, LocalAnswer(answer), case)))
        for case in cases
        for law in laws
    )


def _same_outcome(a: Outcome, b: Outcome) -> bool:
    if RAISED in a or RAISED in b:
        return a.get(RAISED) == b.get(RAISED)
    if a.keys() != b.keys():
        return False
    return all(_same(name, came(a[name]), came(b[name])) for name in a)


def _same(name: str, a: Any, b: Any) -> bool:
    both = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    return not (both and a.dtype != b.dtype) and not difference(name, a, b)


# --- the clock ------------------------------------------------------------------------------------


def _timed(exercise: Exercise, answer: Answer, case: Case) -> Verdict:
    clock = exercise.clock
    comparison = clock.compare(answer, case)
    verdict = comparison.verdict(clock.at_least)
    low, high = comparison.spread
    seen = (
        f"{clock.name}: {comparison.ratio:.1f} times as fast "
        f"(pairs from {low:.1f} to {high:.1f}; at least {clock.at_least:g} is asked for)."
    )
    if verdict == "faster":
        return Verdict(exercise, "passed", f"All laws hold. {seen}")
    if verdict == "too noisy":
        return Verdict(
            exercise, "too noisy", f"All laws hold, but the clock cannot tell: {seen} Run it again."
        )
    return Verdict(exercise, "failed", f"All laws hold, but it is not faster. {seen}")
