"""Quizzes: exercises whose answer is a function without arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from kvlab.course.author.compare import Hidden, as_number, brief
from kvlab.course.author.spec import Case, Exercise, Outcome, Wrong
from kvlab.course.sandbox.answer import Answer, NotData


def choice(
    number: str, title: str, name: str, *, right: str, wrong: Mapping[str, str], **about: Any
) -> Exercise:
    """A multiple choice: the answer returns a letter; each wrong one has its own explanation.

    `asks` is the docstring of the answer's cell; the other keywords are those of `Exercise`.
    """
    letters = sorted([right, *wrong])

    def run(answer: Answer, _: Case) -> Outcome:
        value = _given(answer, f"one of {letters}")
        if not isinstance(value, str) or value.strip().lower() not in letters:
            raise NotData(f"your code returned {brief(value)}; expected one of {letters}.")
        return {"your choice": Hidden(right).of(value.strip().lower())}

    return _quiz((number, title, name), right, {"the right choice": run}, wrong.items(), about)


def one_number(
    number: str,
    title: str,
    name: str,
    *,
    right: float,
    wrong: Mapping[float, str],
    within: float = 0.0,
    **about: Any,
) -> Exercise:
    """A question whose answer is one number; each known wrong number has its own explanation.

    `asks` is the docstring of the answer's cell, `solution` how the number comes about, as Python.
    """

    def run(answer: Answer, _: Case) -> Outcome:
        value = as_number(_given(answer, "one number"))
        if type(value) not in (int, float) or math.isnan(value):
            raise NotData(f"your code returned {brief(value)}; expected one number.")
        return {"your number": Hidden(float(right), within).of(float(value))}

    return _quiz((number, title, name), right, {"the right number": run}, wrong.items(), about)


def claims(
    number: str, title: str, name: str, *, right: Sequence[bool], wrong: Sequence[str], **about: Any
) -> Exercise:
    """True or false, claim by claim; `wrong` says what to tell who misjudged each of them.

    `asks` is the docstring of the answer's cell.
    """
    right = list(right)

    def law(i: int) -> Callable[[Answer, Case], Outcome]:
        def run(answer: Answer, _: Case) -> Outcome:
            value = _given(answer, f"a list of {len(right)}, each True or False")
            value = value.tolist() if isinstance(value, Tensor) else value
            well_formed = isinstance(value, list) and len(value) == len(right)
            if not well_formed or not all(type(v) is bool for v in value):
                raise NotData(
                    f"your code returned {brief(value)}; expected a list of {len(right)}, each "
                    "True or False."
                )
            return {f"claim {i + 1}": Hidden(right[i]).of(value[i])}

        return run

    laws = {f"claim {i + 1}": law(i) for i in range(len(right))}
    flipped = [[r if j != i else not r for j, r in enumerate(right)] for i in range(len(right))]
    return _quiz((number, title, name), right, laws, zip(flipped, wrong, strict=True), about)


def _given(answer: Answer, wanted: str) -> Any:
    """What an answer gives; what is no data at all is told with what was wanted instead."""
    try:
        return answer()
    except NotData as bad:
        raise NotData(f"{str(bad).split(';')[0].rstrip('.')}; expected {wanted}.") from None


def _quiz(
    head: tuple[str, str, str],
    right: Any,
    laws: Mapping[str, Callable[[Answer, Case], Outcome]],
    wrong: Iterable[tuple[Any, str]],
    about: dict[str, Any],
) -> Exercise:
    quoted = f'"{right}"' if isinstance(right, str) else repr(right)  # as the formatter has it
    asks, shown = about.pop("asks"), about.pop("solution", quoted)
    exercise = Exercise(*head, cases=lambda rng: {}, n_cases=1, **about)
    for name, run in laws.items():
        exercise.law(name)(run)
    for value, says in wrong:
        exercise.wrong.append(Wrong(lambda value=value: value, says))
    exercise.second = f"def {exercise.name}():\n    return {right!r}\n"
    exercise.cell = (
        f'def {exercise.name}():\n    """{asks}"""\n    ### BEGIN SOLUTION\n'
        f"    return {shown}\n    ### END SOLUTION"
    )
    return exercise
