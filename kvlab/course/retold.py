"""The calls that a law made on a class of the answer's, so that its author can make them again.

A class is judged by what its objects do one call after the other. What is kept are those calls,
with what they were given, up to the one that failed: the first that, had it been answered rightly,
would have made the difference vanish. Where no single call would have, all are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from kvlab.course.author.spec import Case, Exercise, Outcome, Run
from kvlab.course.sandbox.answer import Answer, AnswerRaised, NotData
from kvlab.course.sandbox.loan import Lent

MOST = 200  # calls
KEEPING = ("make", "hold")  # what they give is an object, which gets the next number


class Step(NamedTuple):
    """One call: of the class itself, of a method, or ("now") a look at what was held."""

    on: int | None  # which object, in the order in which they were made; None: the class
    how: str
    method: str
    args: tuple[Any, ...]


class Calls(dict):
    """A case's own entries, and the calls that were made on a class. `on(Class)` makes them again.

    `steps` are the calls; `lent` is what the last `on` lent, as it was left.
    """

    def __init__(self, case: Case, steps: list[Step], name: str) -> None:
        super().__init__(case)
        self.steps, self.name = steps, name
        self.lent: list[Lent] = []

    def on(self, answer: Callable[..., Any]) -> Any:
        """Make the calls on a class, and return what the last of them gives.

        An error of the class's own in the last call comes as it is; before it, it is passed over.
        Raises: ValueError for something that cannot be called.
        """
        if not callable(answer):
            raise ValueError(
                f"on was given a {type(answer).__name__}; expected {self.name} itself."
            )
        steps, things, given = copy.deepcopy(self.steps), [], None
        self.lent = lent_in(steps)
        for i, step in enumerate(steps):
            target = answer if step.on is None else things[step.on]
            try:
                given = target if step.how == "now" else _method(target, step)(*step.args)
            except Exception as error:
                if i == len(steps) - 1 or step.how in KEEPING:
                    raise
                given = error
            if step.how in KEEPING:
                things.append(given)
        return given

    def __repr__(self) -> str:
        n_made, lines = 0, []
        for step in self.steps:
            target = self.name if step.on is None else f"x{step.on}"
            line = f"{target}.{step.method}" if step.method else target
            line += "" if step.how == "now" else f"({', '.join(map(_brief, step.args))})"
            if step.how in KEEPING:
                line, n_made = f"x{n_made} = {line}", n_made + 1
            lines.append(line)
        return "\n".join(lines)


def lent_in(steps: list[Step]) -> list[Lent]:
    """What is lent in some calls, each thing once."""
    return list({id(a): a for step in steps for a in step.args if isinstance(a, Lent)}.values())


def calls(
    exercise: Exercise, run: Run, answer: Answer, case: Case, wrong: Callable[[Outcome], str]
) -> Calls | None:
    """The calls of a law that does not hold, to the one that failed.

    None where they are too many, or do not go wrong twice alike. `wrong` is as in `recall.call`.
    """
    tale = _Tale()
    given = {name: value for name, value in case.items() if not name.startswith("_")}
    try:
        name = wrong(run(_Told(tale, answer), case))
    except _TooMany:
        return None
    except Exception:  # in the last call, or at the law that took its result apart
        return Calls(given, tale.steps, exercise.name) if tale.steps else None
    if not name or not tale.steps:
        return None
    n = _failed(exercise, run, tale, case, lambda outcome: wrong(outcome) == name)
    return Calls(given, tale.steps[:n], exercise.name)


def _failed(
    exercise: Exercise, run: Run, tale: _Tale, case: Case, as_before: Callable[[Outcome], bool]
) -> int:
    """How many calls there are up to the one that failed."""

    def goes(results: list[Any]) -> bool:
        return as_before(run(_Told(_Replay(results), None), case))

    every = len(tale.steps)
    try:
        if not goes(tale.results):  # the law looks at what was lent, too
            return every
        right = exercise.of_right(partial(_driven, tale.steps), case)
    except Exception:
        return every
    for i, result in enumerate(right):
        if tale.steps[i].how not in KEEPING:
            try:
                if not goes([*tale.results[:i], result, *tale.results[i + 1 :]]):
                    return i + 1
            except Exception:  # without it the law gets nowhere: this one is not it
                continue
    return every


def _driven(steps: list[Step], answer: Answer, _: Case) -> list[Any]:
    """What another answer gives for the same calls, errors too, as far as it gets."""
    things, results = [], []
    for step in copy.deepcopy(steps):
        try:
            results.append(_asked(answer if step.on is None else things[step.on], step))
        except (AnswerRaised, NotData) as error:
            if step.how in KEEPING:
                break
            results.append(error)
        if step.how in KEEPING:
            things.append(results[-1])
    return results


def _asked(target: Any, step: Step) -> Any:
    """Make a call of an answer, as the judge does."""
    if step.how == "now":
        return target.now()
    method = target if step.how == "call" and step.on is None else getattr(target, step.how)
    return method(*((step.method,) if step.on is not None else ()), *step.args)


class _TooMany(Exception):
    """A law went on and on, or another way than before."""


class _Tale:
    """Calls as they are made, each with what it was given before it, and what came of it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.results: list[Any] = []
        self._lent: dict[int, Any] = {}
        self._alive: list[Lent] = []  # so that no other object gets their ids

    def add(self, target: Any, step: Step) -> Any:
        if len(self.steps) == MOST:
            raise _TooMany
        self.steps.append(step._replace(args=copy.deepcopy(step.args, self._shared(step.args))))
        try:
            result = _asked(target, step)
        except Exception as error:
            self.results.append(error)
            raise
        self.results.append(result)
        return result if step.how in KEEPING else copy.deepcopy(result)

    def _shared(self, args: tuple[Any, ...]) -> dict[int, Any]:
        """What is lent stays one thing in all calls; numbers are copied at each."""
        for one in args:
            if isinstance(one, Lent) and id(one) not in self._lent:
                self._lent[id(one)] = copy.deepcopy(one)
                self._alive.append(one)
        return dict(self._lent)


class _Replay:
    """The results of calls once more, one after the other."""

    def __init__(self, results: list[Any]) -> None:
        self._results = iter(results)

    def add(self, _target: Any, step: Step) -> Any:
        result = next(self._results, _TooMany())
        if isinstance(result, Exception):
            raise result
        return None if step.how in KEEPING else copy.deepcopy(result)


class _Told:
    """An answer, an object of its or what it holds, whose calls go through a tale."""

    def __init__(self, tale: _Tale | _Replay, target: Any, number: int | None = None) -> None:
        self._tale, self._target, self._number = tale, target, number
        self._made = [0] if number is None else []

    def __call__(self, *args: Any) -> Any:
        return self._add("call", "", args)

    def now(self) -> Any:
        return self._add("now", "", ())

    def call(self, method: str, *args: Any) -> Any:
        return self._add("call", method, args)

    def hold(self, method: str, *args: Any) -> _Told:
        return self._add("hold", method, args)

    def make(self, *args: Any) -> _Told:
        if self._number is None:
            return self._add("make", "", args)
        return self._add("make", args[0], args[1:])

    def _add(self, how: str, method: str, args: tuple[Any, ...]) -> Any:
        result = self._tale.add(self._target, Step(self._number, how, method, args))
        if how not in KEEPING:
            return result
        told = _Told(self._tale, result, self._made[0])
        told._made = self._made
        self._made[0] += 1
        return told


def _method(target: Any, step: Step) -> Callable[..., Any]:
    return getattr(target, step.method) if step.method else target


def _brief(value: Any) -> str:
    """An argument in a line: a tensor by its shape, what is lent by its kind."""
    if isinstance(value, torch.Tensor):
        return f"tensor of {tuple(value.shape)}"
    text = type(value).__name__.lower() if isinstance(value, Lent) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
