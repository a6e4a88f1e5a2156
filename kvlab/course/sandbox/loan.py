"""What the judge lends to an answer, by number: it stays in the judge's process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kvlab.course.sandbox.wire import Ref


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
        target = self._lent[number]
        if method not in target.lends:
            raise ValueError(f"this object does not lend {method}")
        try:
            return getattr(target, method)(
                *map(self._own, args), **{name: self._own(v) for name, v in named.items()}
            )
        except ValueError as error:
            raise ValueError(str(error)[:2000]) from None
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}"[:2000]) from None

    def _own(self, value: Any) -> Any:
        return self._lent[value.number] if isinstance(value, (Ref, Borrowed)) else value


class Borrowed:
    """Something of the judge's, seen from the answer: using it asks the judge."""

    def __init__(self, ask: Callable[..., Any], ref: Ref) -> None:
        self._ask, self.number, self._lends = ask, ref.number, ref.lends

    def __getattr__(self, name: str) -> Any:
        if name not in self._lends:
            raise AttributeError(f"this object has {', '.join(self._lends)}; not {name}")
        return lambda *args, **named: self._ask(self.number, name, args, named)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._ask(self.number, "__call__", args, named)
