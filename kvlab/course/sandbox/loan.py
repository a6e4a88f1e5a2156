"""What the judge lends to an answer, by number: it stays in the judge's process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from kvlab.course.sandbox.wire import Ref

# What may be given to something lent in one call, in numbers, and along one axis of a tensor.
MAX_NUMBERS, MAX_AXIS = 2**14, 2**10
MAX_BITS = 2**12  # of a whole number: above 4,300 digits Python itself writes none down


class Lent:
    """Something of the judge's that an answer may use: only the methods named in `lends`.

    Name "__call__" to let it be called. What a method returns is data, or something lent.
    """

    lends: tuple[str, ...] = ()


class Loan:
    """Everything that is lent to one answer, by number, and the only way to use it."""

    def __init__(self) -> None:
        self._lent: list[Lent] = []

    def add(self, thing: Lent) -> Ref:
        self._lent.append(thing)
        return Ref(len(self._lent) - 1, thing.lends)

    def use(self, number: int, method: str, args: Sequence[Any], named: dict[str, Any]) -> Any:
        """Call a method of something lent; an argument may be something lent as well.

        Raises: ValueError with what went wrong: whatever odd use was made is the answer's mistake.
        """
        target = self._thing(number)
        if method not in target.lends:
            raise ValueError(f"this object does not lend {str(method)[:100]}")
        _bounded([args, named], [MAX_NUMBERS])
        try:
            return getattr(target, method)(
                *map(self._own, args), **{name: self._own(v) for name, v in named.items()}
            )
        except ValueError as error:
            raise ValueError(str(error)[:2000]) from None
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}"[:2000]) from None

    def _own(self, value: Any) -> Any:
        return self._thing(value.number) if isinstance(value, (Ref, Borrowed)) else value

    def _thing(self, number: int) -> Lent:
        if type(number) is not int or not 0 <= number < len(self._lent):
            raise ValueError(f"nothing is lent under the number {str(number)[:100]}")
        return self._lent[number]


def _bounded(value: Any, left: list[int]) -> None:
    """Refuse what is beyond any need of a lent object: it is the judge's memory.

    An axis of a tensor counts as 1 where it is empty, since what is made from the others may be
    as long as they are. `left` are the numbers that may still come.
    Raises: ValueError.
    """
    if isinstance(value, torch.Tensor):
        if max(value.shape, default=0) > MAX_AXIS:
            raise ValueError(f"a tensor of shape {tuple(value.shape)} is beyond any need here")
        left[0] -= math.prod(max(1, n) for n in value.shape)
    elif isinstance(value, str):
        left[0] -= len(value)
    elif isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise ValueError("a whole number of so many digits is beyond any need here")
        left[0] -= 1 + value.bit_length() // 64
    elif isinstance(value, (list, tuple, dict)):
        left[0] -= len(value) + 1
    if left[0] < 0:
        raise ValueError("so many numbers at once are beyond any need here")
    if isinstance(value, (list, tuple)):
        for v in value:
            _bounded(v, left)
    elif isinstance(value, dict):
        _bounded([*value.keys(), *value.values()], left)


class Borrowed:
    """Something of the judge's, seen from the answer: using it asks the judge."""

    def __init__(self, ask: Callable[..., Any], ref: Ref) -> None:
        self._ask, self.number, self._lends = ask, ref.number, ref.lends

    def __getattr__(self, name: str) -> Any:
        if name not in self._lends:
            has = ", ".join(self._lends) or "nothing to ask for, and is to be handed on"
            raise AttributeError(f"this object has {has}; not {name}")
        return lambda *args, **named: self._ask(self.number, name, args, named)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._ask(self.number, "__call__", args, named)
