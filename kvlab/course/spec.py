"""What an exercise is, and what its author writes it with.

An exercise has laws. A law drives the answer on one random case and returns named values (its
outcome), and says which values were expected. Comparing the two is the judge's business, so that
every failure can name the case, the first wrong index, and the known mistake that gives the very
same outcome. A quiz is an exercise whose answer is a function without arguments.
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

from kvlab.course.answer import Answer, AnswerRaised, NotData, as_data
from kvlab.course.compare import ATOL, RTOL, Hidden, Near, brief
from kvlab.measure import Comparison

Case = Mapping[str, Any]
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Law:
    """One thing that must hold: what to run, and what must come out.

    `expect` also gets the outcome, so that a law may compare an answer with itself. What it
    expects is compared as it is, or is one of `Near`, `AtLeast`, `AtMost`, `Hidden`. `shows`
    writes down the call that was made, for a law that calls with other arguments than the case's.
    """

    name: str
    run: Callable[[Answer, Case], Outcome]
    expect: Callable[[Case, Outcome], Outcome]
    shows: Callable[[Case], str] | None = None


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


def size_of(case: Case) -> int:
    """How large a case is: all numbers in its tensors, and its counts, seeds (_) left out."""
    total = 0
    for name, value in case.items():
        if isinstance(value, torch.Tensor):
            total += value.numel()
        elif type(value) is int and not name.startswith("_"):
            total += value
    return total


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One question: what to define, how it is judged, how it goes wrong.

    `second` is the source of a right answer in another style than the solution's. `size` orders
    cases, so that the smallest failing one is shown. `because` is said to who answered a quiz
    rightly. `allows` names modules of kvlab that an answer may import; one that imports others of
    ours needs them named too. `forbids` names functions of torch that it may not call ("cat",
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
    second: str
    clock: Clock | None = None
    allows: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    size: Callable[[Case], int] = size_of
    n_cases: int = 6
    because: str = ""

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
    `case` holds the inputs that failed, for a reader who wants to try them; never a private case.
    """

    exercise: Exercise
    state: str
    message: str
    mistake: str | None = None
    picture: str = ""
    case: Case | None = field(default=None, compare=False)

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
            inputs = "The inputs that failed: `.case` of this verdict. " if self.case else ""
            lines.append(f'{inputs}For a nudge: hint("{self.exercise.number}")')
        return "\n".join(line for line in lines if line)

    def _repr_html_(self) -> str | None:
        if not self.picture:
            return None
        return f"<pre>{html.escape(repr(self))}</pre>{self.picture}"


# --- laws -----------------------------------------------------------------------------------------


def agrees(
    name: str,
    reference: Callable[..., Any],
    *arguments: str,
    gives: str | tuple[str, ...] = "result",
    rtol: float = RTOL,
    atol: float = ATOL,
) -> Law:
    """The law that an answer gives what a reference gives, called with these entries of a case.

    `gives` names the result in messages: end it in axes ("out_BHSD") for a tensor, so that the
    first wrong number is found by batch, head and position. Several names stand for several
    results.
    """
    names = (gives,) if isinstance(gives, str) else gives

    def outcome(value: Any) -> Outcome:
        return {gives: value} if isinstance(gives, str) else named(value, *names)

    def expect(case: Case, _: Outcome) -> Outcome:
        wanted = outcome(as_data(reference(*(case[a] for a in arguments))))
        return {n: Near(v, rtol, atol) for n, v in wanted.items()}

    return Law(name, lambda answer, case: outcome(answer(*(case[a] for a in arguments))), expect)


def named(value: Any, *names: str) -> Outcome:
    """Several results of one call, by name.

    Raises: NotData when the answer gave another number of them.
    """
    if not isinstance(value, list) or len(value) != len(names):
        raise NotData(
            f"your code returned {brief(value)}; expected {len(names)} results: {', '.join(names)}."
        )
    return dict(zip(names, value, strict=True))


def raised_by(call: Callable[..., Any], *args: Any) -> str:
    """The kind of error that an answer raises, "nothing" if it does not: for an outcome."""
    try:
        call(*args)
    except AnswerRaised as error:
        if is_stub(error):
            raise
        return error.kind
    return "nothing"


def is_stub(raised: AnswerRaised) -> bool:
    """Is it the stub's error, or one like it? torch has a NotImplementedError of its own."""
    return raised.kind == "NotImplementedError" and raised.text in ("", "not answered yet")


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


# --- quizzes: the answer is a function without arguments ------------------------------------------


def choice(*, right: str, wrong: Mapping[str, str], **about: Any) -> Exercise:
    """A multiple choice: the answer returns a letter; each wrong one has its own explanation."""
    letters = sorted([right, *wrong])

    def run(answer: Answer, _: Case) -> Outcome:
        value = answer()
        if not isinstance(value, str) or value.strip().lower() not in letters:
            raise NotData(f"your code returned {brief(value)}; expected one of {letters}.")
        return {"your choice": value.strip().lower()}

    law = Law("the right choice", run, lambda case, _: {"your choice": Hidden(right)})
    return _quiz(right, (law,), wrong, about)


def one_number(
    *, right: float, wrong: Mapping[float, str], within: float = 0.0, **about: Any
) -> Exercise:
    """A question whose answer is one number; each known wrong number has its own explanation."""

    def run(answer: Answer, _: Case) -> Outcome:
        value = answer()
        if type(value) not in (int, float) or math.isnan(value):
            raise NotData(f"your code returned {brief(value)}; expected one number.")
        return {"your number": float(value)}

    expected = Hidden(float(right), within)
    law = Law("the right number", run, lambda case, _: {"your number": expected})
    return _quiz(right, (law,), wrong, about)


def claims(*, right: Sequence[bool], wrong: Sequence[str], **about: Any) -> Exercise:
    """True or false, claim by claim; `wrong` says what to tell who misjudged each of them."""
    right = list(right)

    def law(i: int) -> Law:
        name = f"claim {i + 1}"

        def run(answer: Answer, _: Case) -> Outcome:
            value = answer()
            well_formed = isinstance(value, list) and len(value) == len(right)
            if not well_formed or not all(type(v) is bool for v in value):
                raise NotData(
                    f"your code returned {brief(value)}; expected a list of {len(right)}, each "
                    "True or False."
                )
            return {name: value[i]}

        return Law(name, run, lambda case, _: {name: Hidden(right[i])})

    flipped = [[r if j != i else not r for j, r in enumerate(right)] for i in range(len(right))]
    laws = tuple(law(i) for i in range(len(right)))
    return _quiz(right, laws, list(zip(flipped, wrong, strict=True)), about)


def _quiz(
    right: Any,
    laws: tuple[Law, ...],
    wrong: Mapping[Any, str] | Sequence[tuple[Any, str]],
    about: dict[str, Any],
) -> Exercise:
    pairs = wrong.items() if isinstance(wrong, Mapping) else wrong
    return Exercise(
        **about,
        cases=lambda rng: {},
        n_cases=1,
        laws=laws,
        wrong=[Wrong(lambda value=value: value, says) for value, says in pairs],
        second=f"def {about['name']}():\n    return {right!r}\n",
    )
