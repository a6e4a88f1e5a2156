"""What an exercise is, and how an answer is judged.

An exercise has laws. A law drives the answer on one random case and returns named values (its
outcome), and says which values were expected. Comparing the two is the judge's business, so that
every failure can name the case, the first wrong index, and the known mistake that gives the very
same outcome.

Tensors in an outcome bear their axes in their name (`out_BHSD`), which is how the judge can say
"batch 1, head 0, position 3".
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kvlab.course.answer import Answer, AnswerRaised, LocalAnswer, NotData, Stopped
from kvlab.measure import Comparison

Case = Mapping[str, Any]
Outcome = dict[str, Any]

AXES = {
    "L": "layer",
    "B": "batch",
    "H": "head",
    "G": "KV head",
    "S": "position",
    "T": "position",
    "N": "new token",
    "D": "channel",
    "V": "token id",
}


@dataclass(frozen=True)
class Law:
    """One thing that must hold: what to run, and what must come out.

    `expect` also gets the outcome, so that a law may compare an answer with itself.
    """

    name: str
    run: Callable[[Answer, Case], Outcome]
    expect: Callable[[Case, Outcome], Outcome]


@dataclass(frozen=True)
class Clock:
    """A claim of speed: measured only when every law holds."""

    name: str
    compare: Callable[[Answer, Case], Comparison]
    at_least: float


@dataclass(frozen=True)
class Wrong:
    """A wrong answer that people really give, and what to tell somebody who gave it."""

    answer: Callable[..., Any]
    says: str


@dataclass(frozen=True)
class Exercise:
    """One question: what to define, how it is judged, how it goes wrong."""

    number: str
    title: str
    name: str
    points: int
    minutes: int
    difficulty: int
    cases: Callable[[random.Random], Case]
    laws: Sequence[Law]
    hints: tuple[str, str, str]
    wrong: Sequence[Wrong]
    clock: Clock | None = None
    allows: tuple[str, ...] = ()
    size: Callable[[Case], int] = field(default=lambda case: 0)

    @property
    def grade_id(self) -> str:
        """The answer cell's id in the notebook; nbgrader allows no dots."""
        return "q" + self.number.replace(".", "_")


@dataclass(frozen=True)
class Verdict:
    """What the judge found.

    `state` is "passed", "failed", "not answered" or "too noisy".
    """

    exercise: Exercise
    state: str
    message: str
    mistake: str | None = None

    @property
    def passed(self) -> bool:
        return self.state == "passed"

    def __repr__(self) -> str:
        head = f"{self.exercise.number} {self.exercise.title}: {self.state}."
        lines = [head, self.message]
        if self.mistake:
            lines.append(f"This is a known mistake: {self.mistake}")
        if self.state == "failed":
            lines.append(f'For a nudge: hint("{self.exercise.number}")')
        return "\n".join(line for line in lines if line)


N_CASES = 6


def judge(exercise: Exercise, answer: Answer, seed: int, *, clock: bool = True) -> Verdict:
    """Try an answer against every law, from the smallest case to the largest."""
    cases = [exercise.cases(random.Random(f"{exercise.number}/{seed}/{i}")) for i in range(N_CASES)]
    cases.sort(key=exercise.size)
    try:
        for law in exercise.laws:
            for case in cases:
                failure = _broken(law, answer, case)
                if failure is not None:
                    message, outcome = failure
                    mistake = _known_mistake(exercise, law, case, outcome)
                    return Verdict(exercise, "failed", message, mistake)
        if exercise.clock is not None and clock:
            return _timed(exercise, answer, cases[-1])
    except NotAnswered:
        return Verdict(exercise, "not answered", "The cell still holds the stub.")
    except Stopped as stop:
        return Verdict(exercise, "failed", str(stop))
    laws = "; ".join(law.name for law in exercise.laws)
    return Verdict(exercise, "passed", f"Tried on {N_CASES} random cases: {laws}.")


class NotAnswered(Exception):
    """The answer raised NotImplementedError: the stub is still there."""


def _broken(law: Law, answer: Answer, case: Case) -> tuple[str, Outcome] | None:
    """None if the law holds on this case; else what to say, and the outcome."""
    outcome = _outcome(law, answer, case)
    if "raised" in outcome:
        where = f" ({outcome['where']})" if outcome["where"] else ""
        text = f'"{law.name}" on {describe(case)}: your code raised {outcome["raised"]}{where}.'
        return text, outcome
    if "not data" in outcome:
        return f'"{law.name}" on {describe(case)}: {outcome["not data"]}', outcome
    for name, expected in law.expect(case, outcome).items():
        wrong = difference(name, outcome[name], expected)
        if wrong:
            return f'"{law.name}" does not hold on {describe(case)}.\n{wrong}', outcome
    return None


def _outcome(law: Law, answer: Answer, case: Case) -> Outcome:
    try:
        return law.run(answer, case)
    except AnswerRaised as raised:
        if raised.kind == "NotImplementedError":
            raise NotAnswered from None
        return {"raised": str(raised), "kind": raised.kind, "where": raised.where}
    except NotData as bad:
        return {"not data": str(bad)}


def _known_mistake(exercise: Exercise, law: Law, case: Case, outcome: Outcome) -> str | None:
    """What is said of the known wrong answers whose outcome is the very same."""
    says = []
    for wrong in exercise.wrong:
        try:
            theirs = _outcome(law, LocalAnswer(wrong.answer), case)
        except NotAnswered:
            continue
        if _same_outcome(outcome, theirs):
            says.append(wrong.says)
    return " Or: ".join(says) or None


def _same_outcome(a: Outcome, b: Outcome) -> bool:
    if "raised" in a or "raised" in b:
        return (
            a.get("kind") is not None
            and a.get("kind") == b.get("kind")
            and (a.get("raised") == b.get("raised"))
        )
    if a.keys() != b.keys():
        return False
    return all(not difference(name, a[name], b[name]) for name in a)


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


def describe(case: Case) -> str:
    """The numbers of a case, tensors by their shapes."""
    parts = []
    for name, value in case.items():
        if name.startswith("_"):
            continue
        if isinstance(value, torch.Tensor):
            parts.append(f"{name} {tuple(value.shape)}")
        else:
            parts.append(f"{name} {value}")
    return ", ".join(parts)


def difference(name: str, came: Any, expected: Any) -> str | None:
    """What is wrong with a value, in a sentence, or None."""
    if isinstance(expected, torch.Tensor):
        return _tensor_difference(name, came, expected)
    if isinstance(expected, list):
        if not isinstance(came, list) or len(came) != len(expected):
            return f"{name}: expected {_brief(expected)}, got {_brief(came)}."
        for i, (c, e) in enumerate(zip(came, expected, strict=True)):
            wrong = difference(f"{name}[{i}]", c, e)
            if wrong:
                return wrong
        return None
    if isinstance(expected, float) and type(came) in (int, float):
        same = math.isclose(came, expected, rel_tol=1e-9, abs_tol=1e-9)
    else:
        same = type(came) is type(expected) and came == expected
    return None if same else f"{name}: expected {_brief(expected)}, got {_brief(came)}."


def _tensor_difference(name: str, came: Any, expected: torch.Tensor) -> str | None:
    if not isinstance(came, torch.Tensor):
        return f"{name}: expected a tensor of shape {tuple(expected.shape)}, got {_brief(came)}."
    if came.shape != expected.shape:
        return f"{name}: expected shape {tuple(expected.shape)}, got {tuple(came.shape)}."
    if expected.dtype in (torch.int64, torch.bool):
        if came.dtype != expected.dtype:
            return f"{name}: expected {expected.dtype}, got {came.dtype}."
        wrong = came != expected
    else:
        wrong = ~torch.isclose(came.double(), expected.double(), rtol=1e-7, atol=1e-9)
    if not wrong.any():
        return None
    index = tuple(wrong.nonzero()[0].tolist())
    share = f"{int(wrong.sum())} of {wrong.numel()} numbers are wrong"
    return (
        f"{name}: {share}, first at {_where(name, index)}: "
        f"expected {_brief(expected[index].item())}, got {_brief(came[index].item())}."
    )


def _where(name: str, index: tuple[int, ...]) -> str:
    letters = name.split("[")[0].rsplit("_", 1)[-1]
    if len(letters) != len(index) or not set(letters) <= AXES.keys():
        return str(index)
    return ", ".join(f"{AXES[a]} {i}" for a, i in zip(letters, index, strict=True))


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
