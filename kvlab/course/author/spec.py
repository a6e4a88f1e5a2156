"""What an exercise is, and how its author says it: one file, one `Exercise`.

An exercise has a right answer and laws. A law drives an answer on one random case and returns named
values (its outcome); the right answer, driven by the same law, says what they should be. The judge
compares the two, so that every failure can name the case, the first wrong index and the mistake.
"""

from __future__ import annotations

import html
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from kvlab.course.author.compare import ATOL, RTOL, Judged, Near, Wanted
from kvlab.course.author.laws import named
from kvlab.course.author.picture import as_image
from kvlab.course.author.source import source_of
from kvlab.course.sandbox.answer import Answer, LocalAnswer, as_data

if TYPE_CHECKING:
    from kvlab.measure import Comparison

Case = Mapping[str, Any]
Outcome = dict[str, Any]
Run = Callable[[Answer, Case], Outcome]
T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Law:
    """One thing that must hold: what to run, and what must come out.

    `expect` also gets the outcome, so that a law may compare an answer with itself. What it
    expects is compared as it is, or is one of `Near`, `AtLeast`, `AtMost`, `Hidden`. `shows`
    writes down the call that was made, for a law that calls with other arguments than the case's.
    """

    name: str
    run: Run
    expect: Callable[[Case, Outcome], Outcome]
    shows: Callable[[Case], str] | None = None


@dataclass
class ByRightAnswer:
    """What a right answer gives when the same law drives it, in place of an expectation.

    Names that begin with _ are not compared, and a value that the law has judged itself
    (`AtMost(3).of(n)`) is held to that. Where all are, the right answer is not asked.
    """

    exercise: Exercise
    run: Run
    rtol: float = RTOL
    atol: float = ATOL
    _last: tuple[Case, Outcome] | None = None

    def __call__(self, case: Case, outcome: Outcome) -> Outcome:
        judged = {name: v.wanted for name, v in outcome.items() if isinstance(v, Judged)}
        if all(name in judged or name.startswith("_") for name in outcome):
            return judged
        last = self._last  # asked again for each known mistake, and by several threads at once
        if last is None or last[0] is not case:
            last = self._last = case, self.exercise.of_right(self.run, case)
        wanted = {}  # in the law's own order, whoever says what must come: the first fault is told
        for name, value in last[1].items():
            if name in judged:
                wanted[name] = judged[name]
            elif not (name.startswith("_") or isinstance(value, Judged)):
                wanted[name] = (
                    value if isinstance(value, Wanted) else Near(value, self.rtol, self.atol)
                )
        return wanted | judged


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


@dataclass(eq=False)
class Exercise:
    """One question: what to define, how it is judged, how it goes wrong.

    `name` is what the answer must define. `statement` is the question's text; heading, points and
    minutes are put above it. The rest is added by decorators: `case`, `solution`, `law`, `mistake`
    and, where it is needed, `right`, `also_right` and `timed`. `size` orders cases, so that the
    smallest failing one is shown. `because` is said to who answered a quiz rightly. `allows` names
    modules of kvlab that an answer may import; one that imports others of ours needs them named
    too. `forbids` names functions of torch that it may not call ("cat"), packages that it may not
    import ("transformers"), or how large a tensor may be made ("tensors over 100000"). `imports`
    names what the answer's cell imports though the solution does not need it ("torch").
    """

    number: str
    title: str
    name: str
    points: int = field(kw_only=True)
    minutes: int = field(kw_only=True)
    difficulty: int = field(kw_only=True)
    hints: tuple[str, str, str] = field(kw_only=True)
    statement: str = field(default="", kw_only=True)
    cases: Callable[[random.Random], Case] | None = field(default=None, kw_only=True)
    laws: Sequence[Law] = field(default_factory=list, kw_only=True)
    wrong: Sequence[Wrong] = field(default_factory=list, kw_only=True)
    second: str = field(default="", kw_only=True)
    clock: Clock | None = field(default=None, kw_only=True)
    allows: tuple[str, ...] = field(default=(), kw_only=True)
    forbids: tuple[str, ...] = field(default=(), kw_only=True)
    imports: tuple[str, ...] = field(default=(), kw_only=True)
    size: Callable[[Case], int] = field(default=size_of, kw_only=True)
    n_cases: int = field(default=6, kw_only=True)
    because: str = field(default="", kw_only=True)
    cell: str = field(default="", kw_only=True)
    variant: Callable[[random.Random], Exercise] | None = field(default=None, kw_only=True)
    _right: Callable[..., Any] | None = field(default=None, init=False, repr=False)

    @property
    def chapter(self) -> str:
        """The chapter's number, as text."""
        return self.number.split(".")[0]

    @property
    def grade_id(self) -> str:
        """The answer cell's id in the notebook; nbgrader allows no dots."""
        return "q" + self.number.replace(".", "_")

    # --- what an author adds, each as a decorator ---

    def case(self, make: Callable[[random.Random], Case]) -> Callable[[random.Random], Case]:
        """Draws one random case: what the answer is given, by name; names with _ are not shown."""
        self.cases = make
        return make

    def solution(self, answer: T) -> T:
        """The model answer: the notebooks' cell is made of its source and the imports it uses."""
        self.cell = source_of(answer, self.name, self.imports)
        self._right = self._right or answer
        return answer

    def right(self, answer: T) -> T:
        """The oracle, where it is another than the solution: a loop, say, that hides nothing."""
        self._right = answer
        return answer

    def also_right(self, answer: T) -> T:
        """A right answer in another style than the solution's; it must pass too."""
        self.second = source_of(answer, self.name)
        return answer

    def law(
        self,
        name: str,
        *,
        expect: Callable[[Case, Outcome], Outcome] | None = None,
        rtol: float = RTOL,
        atol: float = ATOL,
        shows: Callable[[Case], str] | None = None,
    ) -> Callable[[Run], Run]:
        """One law: a function that drives an answer on a case and returns named values.

        They must be what the right answer gives, within the tolerance, unless `expect` says what
        they must be, or the law says so itself (`Near(...)`, `AtLeast(...)`, `AtMost(...)` `.of`
        the value).
        """

        def add(run: Run) -> Run:
            known = expect or ByRightAnswer(self, run, rtol, atol)
            self.laws.append(Law(name, run, known, shows))
            return run

        return add

    def agrees(
        self,
        name: str,
        *arguments: str,
        gives: str | tuple[str, ...] = "result",
        reference: Callable[..., Any] | None = None,
        rtol: float = RTOL,
        atol: float = ATOL,
    ) -> None:
        """The law that an answer gives what the right one gives for these entries of a case.

        `gives` names the result in messages: end it in axes ("out_BHSD") for a tensor, so that the
        first wrong number is found by batch, head and position. Several names stand for several
        results. `reference` stands in for the right answer.
        """

        def outcome(value: Any) -> Outcome:
            return {gives: value} if isinstance(gives, str) else named(value, *gives)

        def expect(case: Case, _: Outcome) -> Outcome:
            wanted = outcome(as_data(reference(*(case[a] for a in arguments))))
            return {n: Near(v, rtol, atol) for n, v in wanted.items()}

        law = self.law(name, expect=reference and expect, rtol=rtol, atol=atol)
        law(lambda answer, case: outcome(answer(*(case[a] for a in arguments))))

    def of_right(self, run: Run, case: Case) -> Outcome:
        """What the right answer gives when this drives it, for an `expect` of one's own."""
        return run(LocalAnswer(self._right), case)

    def timed(self, name: str, at_least: float) -> Callable[[Any], Any]:
        """The clock, for a claim of speed: a function of answer and case that compares the two."""

        def add(compare: Callable[[Answer, Case], Comparison]) -> Any:
            self.clock = Clock(name, compare, at_least)
            return compare

        return add

    def mistake(self, answer: T) -> T:
        """A wrong answer that people really give; its docstring is what they are told."""
        says = " ".join((answer.__doc__ or "").split())
        if not says:
            raise ValueError(f"{answer.__name__} has no docstring to tell who gave this answer.")
        self.wrong.append(Wrong(answer, says))
        return answer

    def mistakes(self, base: Callable[..., Any] | None, table: Mapping[str, Any]) -> None:
        """Wrong answers by what to tell who gave them, each a change of `base`.

        A change is a dict of keywords for `base`, or, where that is a class, of methods and
        attributes in place of its own; or it is a function by itself.
        """
        for says, change in table.items():
            if callable(change):
                answer = change
            elif isinstance(base, type):
                answer = type(base.__name__, (base,), dict(change))
            else:
                answer = partial(base, **change)
            answer.__name__ = "_".join(re.findall(r"\w+", says)[:6])
            self.wrong.append(Wrong(answer, says))


@dataclass(frozen=True)
class Verdict:
    """What the judge found.

    `state` is "passed", "failed", "not answered", "too noisy", "no cell", "not judged" (the judge's
    fault) or "error" (the sandbox's); `case`: what failed, `again`: how to make that happen again.
    """

    exercise: Exercise
    state: str
    message: str
    mistake: str | None = None
    picture: str = ""
    case: Case | None = field(default=None, compare=False)
    again: str = field(default="", compare=False)
    held: int = field(default=0, compare=False)  # laws

    @property
    def passed(self) -> bool:
        return self.state == "passed"

    def __repr__(self) -> str:
        state = "not answered yet" if self.state == "not answered" else self.state
        lines = [f"{self.exercise.number} {self.exercise.title}: {state}.", self.message]
        lines += [f"This is a known mistake: {self.mistake}"] if self.mistake else []
        if self.state == "failed":
            by_hand = self.again and f"Again by hand: {self.again}. "
            inputs = by_hand or "The inputs that failed: `verdict.case`. " * bool(self.case)
            lines += [f'{inputs}For a nudge: hint("{self.exercise.number}")']
        return "\n".join(line for line in lines if line)

    def _repr_html_(self) -> str | None:
        text = f"<pre>{html.escape(repr(self))}</pre>"
        return text + as_image(self.picture) if self.picture else None
