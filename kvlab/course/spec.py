"""What an exercise is, and how an answer is judged.

An exercise has laws. A law drives the answer on one random case and returns named values (its
outcome), and says which values were expected. Comparing the two is the judge's business, so that
every failure can name the case, the first wrong index, and the known mistake that gives the very
same outcome.

Tensors in an outcome bear their axes in their name (`out_BHSD`), which is how the judge can say
"batch 1, head 0, position 3".
"""

from __future__ import annotations

import html
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kvlab.course.answer import (
    Answer,
    AnswerRaised,
    LocalAnswer,
    NotData,
    Object,
    Stopped,
    as_data,
)  # fmt: skip
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


def agrees(name: str, reference: Callable[..., Any], *arguments: str, gives: str = "result") -> Law:
    """The law that an answer gives what a reference gives, called with these entries of a case.

    `gives` names the result in messages: end it in axes ("out_BHSD") for a tensor, so that the
    first wrong number is found by batch, head and position.
    """

    def arguments_of(case: Case) -> list[Any]:
        return [
            case[a].clone() if isinstance(case[a], torch.Tensor) else case[a] for a in arguments
        ]

    return Law(
        name,
        lambda answer, case: {gives: answer(*arguments_of(case))},
        lambda case, _: {gives: as_data(reference(*arguments_of(case)))},
    )


def raised_by(thing: Object, method: str, *args: Any) -> str:
    """The kind of error that a method raises, "nothing" if it does not: for an outcome."""
    try:
        thing.call(method, *args)
    except AnswerRaised as error:
        if _is_stub(error):
            raise
        return error.kind
    return "nothing"


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
    """One question: what to define, how it is judged, how it goes wrong.

    `allows` names modules of kvlab that an answer may import; one that imports others of ours
    needs them named too. `forbids` names functions of torch that it may not call ("cat",
    "scaled_dot_product_attention") and packages that it may not import ("transformers").
    """

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
    forbids: tuple[str, ...] = ()
    size: Callable[[Case], int] = field(default=lambda case: 0)

    @property
    def chapter(self) -> str:
        """The chapter's number, as text."""
        return self.number.split(".")[0]

    @property
    def grade_id(self) -> str:
        """The answer cell's id in the notebook; nbgrader allows no dots."""
        return "q" + self.number.replace(".", "_")


@dataclass(frozen=True)
class Verdict:
    """What the judge found.

    `state` is "passed", "failed", "not answered", "too noisy", "no cell" or "error" (ours).
    """

    exercise: Exercise
    state: str
    message: str
    mistake: str | None = None
    picture: str = ""

    @property
    def passed(self) -> bool:
        return self.state == "passed"

    def __repr__(self) -> str:
        state = "not answered yet" if self.state == "not answered" else self.state
        head = f"{self.exercise.number} {self.exercise.title}: {state}."
        lines = [head, self.message]
        if self.mistake:
            lines.append(f"This is a known mistake: {self.mistake}")
        if self.state == "failed":
            lines.append(f'For a nudge: hint("{self.exercise.number}")')
        return "\n".join(line for line in lines if line)

    def _repr_html_(self) -> str | None:
        if not self.picture:
            return None
        return f"<pre>{html.escape(repr(self))}</pre>{self.picture}"


N_CASES = 6
PRIVATE = "a private case"


def judge(
    exercise: Exercise,
    answer: Answer,
    seed: int | str,
    *,
    clock: bool = True,
    private: Callable[[random.Random], Case] | None = None,
) -> Verdict:
    """Try an answer against every law, from the smallest case to the largest.

    `private` makes as many cases again, which no message describes.
    """
    drawn = [(case, describe(case)) for case in draw(exercise, exercise.cases, seed)]
    if private is not None:
        drawn += [(case, PRIVATE) for case in draw(exercise, private, f"private {seed}")]
    drawn.sort(key=lambda pair: exercise.size(pair[0]))
    held = 0
    try:
        for law in exercise.laws:
            for case, called in drawn:
                broken = _broken(law, answer, case, called)
                if broken is not None:
                    message, outcome, picture = broken
                    mistake = _known_mistake(exercise, law, case, outcome)
                    return Verdict(exercise, "failed", message, mistake, picture)
            held += 1
        if exercise.clock is not None and clock:
            return _timed(exercise, answer, drawn[-1][0])
    except NotAnswered:
        return not_answered(exercise, held)
    except Stopped as stop:
        return Verdict(exercise, "failed", str(stop))
    laws = "; ".join(law.name for law in exercise.laws)
    return Verdict(exercise, "passed", f"Tried on {len(drawn)} random cases: {laws}.")


def draw(exercise: Exercise, cases: Callable[[random.Random], Case], seed: int | str) -> list[Case]:
    """As many cases as an answer is tried on; the same for the same seed."""
    return [cases(random.Random(f"{exercise.number}/{seed}/{i}")) for i in range(N_CASES)]


def not_answered(exercise: Exercise, held: int = 0) -> Verdict:
    """The verdict on a cell that still holds the stub, or a part of it."""
    text = "The cell still holds the stub."
    if held:
        text = (
            f"A part of the stub is left. What is there holds {held} of {len(exercise.laws)} laws."
        )
    return Verdict(exercise, "not answered", text)


class NotAnswered(Exception):
    """The answer raised NotImplementedError: the stub is still there."""


def _is_stub(raised: AnswerRaised) -> bool:
    """Is it the stub's error, or one like it? torch has a NotImplementedError of its own."""
    text = str(raised).removeprefix(raised.kind).removeprefix(": ")
    return raised.kind == "NotImplementedError" and text in ("", "not answered yet")


def _broken(law: Law, answer: Answer, case: Case, called: str) -> tuple[str, Outcome, str] | None:
    """None if the law holds on this case; else what to say, the outcome, and a picture."""
    outcome = _outcome(law, answer, case)
    if "raised" in outcome:
        where = f" ({outcome['where']})" if outcome["where"] else ""
        text = f'"{law.name}" on {called}: your code raised {outcome["raised"]}{where}.'
        return text, outcome, ""
    if "not data" in outcome:
        return f'"{law.name}" on {called}: {outcome["not data"]}', outcome, ""
    for name, expected in law.expect(case, outcome).items():
        wrong = difference(name, outcome[name], expected)
        if wrong:
            text = f'"{law.name}" does not hold on {called}.\n{wrong}'
            return text, outcome, picture(name, outcome[name], expected)
    return None


def _outcome(law: Law, answer: Answer, case: Case) -> Outcome:
    try:
        return law.run(answer, case)
    except AnswerRaised as raised:
        if _is_stub(raised):
            raise NotAnswered from None
        return {"raised": str(raised), "kind": raised.kind, "where": raised.where}
    except NotData as bad:
        return {"not data": str(bad)}
    except Stopped:
        raise
    except Exception as error:  # a law may take an answer's result apart without looking first
        kind = type(error).__name__
        return {"not data": f"your code returned something of another form ({kind}: {error})."}


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


def paired(slow: Callable[[], Any], fast: Callable[[], Any], pairs: int = 3) -> Comparison:
    """Processor time of two things run in turn, by this thread's own clock.

    Other work on the machine, and waiting for an answer's process, do not count. It suits a claim
    whose work is done by what the judge lends; for work of the answer's own, use
    `measure.compare`.
    """
    seconds: dict[str, list[float]] = {"slow": [], "fast": []}
    for i in range(pairs):
        order = [("slow", slow), ("fast", fast)]
        for name, run in order if i % 2 == 0 else reversed(order):
            start = time.thread_time()
            run()
            seconds[name].append(time.thread_time() - start)
    return Comparison(tuple(seconds["slow"]), tuple(seconds["fast"]))


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


MAX_PICTURE = 64


def picture(name: str, came: Any, expected: Any) -> str:
    """Where two tensors differ, as SVG; "" where there is nothing to draw.

    A column is a place along the last axis but one (a position, mostly), a row is everything
    before it; a cell is as dark as the share of wrong numbers in it.
    """
    if not isinstance(expected, torch.Tensor) or not isinstance(came, torch.Tensor):
        return ""
    if came.shape != expected.shape or expected.dim() < 3:
        return ""
    wrong = ~torch.isclose(came.double(), expected.double(), rtol=1e-7, atol=1e-9)
    share = wrong.double().mean(-1).flatten(0, -2)[:MAX_PICTURE, :MAX_PICTURE]
    side, left, top = 14, 10, 22
    cells = [
        f'<rect x="{left + side * x}" y="{top + side * y}" width="{side - 1}" height="{side - 1}" '
        f'fill="#b22" fill-opacity="{0.08 + 0.92 * float(share[y, x]):.2f}"/>'
        for y in range(share.shape[0])
        for x in range(share.shape[1])
    ]
    letters = name.split("[")[0].rsplit("_", 1)[-1]
    across = AXES.get(letters[-2], "index") if len(letters) == expected.dim() else "index"
    width = max(left * 2 + side * share.shape[1], 320)
    title = f"{html.escape(name)}: where it is wrong (across: {across})"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{top + side * share.shape[0] + 6}" role="img" aria-label="{title}">'
        f'<text x="{left}" y="15" font-size="12" fill="currentColor">{title}</text>'
        f"{''.join(cells)}</svg>"
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
