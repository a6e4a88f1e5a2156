"""The very call of an answer that failed, so that its author can make it again by hand.

A law may call an answer many times, with things that no case holds: a suspect, scores times ten
thousand, a model that counts. The call that failed is the one that, had it been answered rightly,
would have made the difference vanish.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from kvlab.course import retold
from kvlab.course.author.spec import Case, Exercise, Outcome, Run
from kvlab.course.sandbox.answer import Answer, LocalAnswer, LocalObject

MOST = 200  # calls that are looked through
CALL = "_call"  # where an outcome names the call that failed


class _Other(Exception):
    """The law went another way than before, or keeps an object of the answer's."""


class _Recorded:
    """An answer whose calls are written down, each as it was before it was made."""

    def __init__(self, answer: LocalAnswer) -> None:
        self._answer = answer
        self.calls: list[tuple[Any, ...]] = []
        self.results: list[Any] = []

    def __call__(self, *args: Any) -> Any:
        if len(self.calls) == MOST:
            raise _Other
        self.calls.append(copy.deepcopy(args))
        result = self._answer(*args)
        self.results.append(result)
        return copy.deepcopy(result)

    def make(self, *args: Any) -> LocalObject:
        raise _Other


class _Replayed:
    """What the calls gave, one after the other, one of them answered rightly."""

    def __init__(self, results: list[Any], changed: int, right: Any) -> None:
        self._results = [*results]
        self._results[changed] = right
        self._n = 0

    def __call__(self, *args: Any) -> Any:
        if self._n == len(self._results):
            raise _Other
        self._n += 1
        return copy.deepcopy(self._results[self._n - 1])

    make = _Recorded.make


def call(
    exercise: Exercise,
    run: Run,
    answer: LocalAnswer,
    case: Case,
    wrong: Callable[[Outcome], str],
    outcome: Outcome | None = None,
) -> Case | None:
    """The call's arguments, by the names that the answer has for them; of a class, its calls.

    None for what does not go wrong twice alike, and for an answer without such names.

    `wrong` names the first value of an outcome that is not what it should be, "" if all are. A law
    that looked for the call itself says so: its outcome has the arguments under `CALL`.
    """
    if outcome and outcome.get(CALL):
        return _named(answer, tuple(copy.deepcopy(outcome[CALL])))
    seen = _Recorded(answer)
    try:
        name = wrong(run(seen, case))
    except _Other:
        return retold.calls(exercise, run, answer, case, wrong)
    except Exception:  # in the last call, or at the law that took its result apart
        return _named(answer, seen.calls[-1]) if seen.calls else None
    if not name or not seen.calls:
        return None
    for i, args in enumerate(seen.calls):
        try:
            right = exercise.of_right(partial(_asked, copy.deepcopy(args)), case)
            if wrong(run(_Replayed(seen.results, i, right), case)) != name:
                return _named(answer, args)
        except Exception:  # this one is not it: without it the law gets nowhere
            continue
    return _named(answer, seen.calls[-1])


def by_hand(name: str, kept: Case | None) -> str:
    """How the author of an answer of this name makes again what is kept; "" if nothing is."""
    if isinstance(kept, retold.Calls):
        lent = ", `verdict.case.lent` what was lent" if retold.lent_in(kept.steps) else ""
        return f"`verdict.case.on({name})`; `verdict.case` shows the calls{lent}"
    return f"`{name}(**verdict.case)`" if kept else ""


def _asked(args: tuple[Any, ...], answer: Answer, _: Case) -> Any:
    return answer(*args)


def _named(answer: LocalAnswer, args: tuple[Any, ...]) -> Case | None:
    """So that `answer(**named)` is the same call; None where arguments cannot be named."""
    try:
        made = inspect.signature(answer.own).bind(*args)
    except (TypeError, ValueError):
        return None
    kinds = {made.signature.parameters[name].kind for name in made.arguments}
    by_name = kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return dict(made.arguments) if by_name else None
