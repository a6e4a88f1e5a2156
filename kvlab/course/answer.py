"""An answer as the judge sees it: something to call, and only data comes back.

The judge never touches a learner's object. What a call returns is either data (numbers, text,
tensors, lists of them) or an object that stays on the answer's side and can only be called again.
`LocalAnswer` runs in this process, for `check`; `course.remote` runs the same conversation with
another process, for `grade`.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode


class AnswerRaised(Exception):
    """The answer's own code raised."""

    def __init__(self, kind: str, text: str, where: str = "") -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind = kind
        self.where = where


class NotData(Exception):
    """The answer gave back something that is neither data nor usable."""


class Stopped(Exception):
    """The answer ended early: it took too long, used too much, or its process died."""


class Held(Protocol):
    """Something the answer gave back once and can be looked at again later."""

    def now(self) -> Any: ...


class Object(Protocol):
    """An object on the answer's side."""

    def call(self, method: str, *args: Any) -> Any: ...

    def hold(self, method: str, *args: Any) -> Held: ...


class Answer(Protocol):
    """The function or class that an exercise asked for."""

    def __call__(self, *args: Any) -> Any: ...

    def make(self, *args: Any) -> Object: ...


class Lent:
    """Something of the judge's that an answer may use: only the methods named in `lends`."""

    lends: tuple[str, ...] = ()


def as_data(value: Any) -> Any:
    """A value as plain data, tensors copied.

    A type of the learner's own, even one derived from a tensor or a number, is refused: such a
    thing could claim to be equal to everything.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is torch.Tensor or type(value) is torch.nn.Parameter:
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise NotData(f"your code returned a {value.dtype} tensor of an unusual kind.")
        return value.detach().to("cpu", copy=True).contiguous()
    if type(value) in (list, tuple):
        return [as_data(v) for v in value]
    if hasattr(value, "dtype") and hasattr(value, "item") and type(value).__module__ == "numpy":
        return as_data(value.item()) if value.ndim == 0 else as_data(torch.from_numpy(value))
    raise NotData(
        f"your code returned a {type(value).__name__}; expected numbers, text, tensors, "
        "or lists of them."
    )


class Without(TorchFunctionMode):
    """Refuses calls of torch's functions by name, however they are reached."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self._names = names

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name.split(".")[0] in self._names:
            raise RuntimeError(f"{name} may not be used in this exercise: write it yourself")
        return func(*args, **(kwargs or {}))


def without(names: Sequence[str]) -> contextlib.AbstractContextManager[Any]:
    """A block in which these of torch's functions raise."""
    return Without(frozenset(names)) if names else contextlib.nullcontext()


class LocalAnswer:
    """An answer in this process."""

    def __init__(self, answer: Callable[..., Any], forbids: Sequence[str] = ()) -> None:
        self._answer, self._forbids = answer, forbids

    def __call__(self, *args: Any) -> Any:
        return as_data(_guarded(self._answer, args, self._forbids))

    def make(self, *args: Any) -> LocalObject:
        return LocalObject(_guarded(self._answer, args, self._forbids), self._forbids)


class LocalObject:
    """An object of the learner's in this process."""

    def __init__(self, inner: Any, forbids: Sequence[str] = ()) -> None:
        self._inner, self._forbids = inner, forbids

    def call(self, method: str, *args: Any) -> Any:
        return as_data(_guarded(self._method(method), args, self._forbids))

    def make(self, method: str, *args: Any) -> LocalObject:
        inner = _guarded(self._method(method), args, self._forbids)
        return LocalObject(inner, self._forbids)

    def hold(self, method: str, *args: Any) -> LocalHeld:
        return LocalHeld(_guarded(self._method(method), args, self._forbids))

    def _method(self, name: str) -> Callable[..., Any]:
        found = getattr(self._inner, name, None)
        if not callable(found):
            kind = type(self._inner).__name__
            raise AnswerRaised("AttributeError", f"{kind} has no method {name}")
        return found


class LocalHeld:
    """Something a local object gave back; `now` reads it again."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def now(self) -> Any:
        return as_data(self._value)


def _guarded(
    function: Callable[..., Any], args: tuple[Any, ...], forbids: Sequence[str] = ()
) -> Any:
    """Call the learner's code; its errors become AnswerRaised, changed inputs too."""
    before = [a.clone() if isinstance(a, torch.Tensor) else None for a in args]
    try:
        with without(forbids):
            value = function(*args)
    except Exception as error:
        raise AnswerRaised(type(error).__name__, str(error), last_line(error)) from None
    refuse_changed(before, args)
    return value


def refuse_changed(before: list[torch.Tensor | None], after: tuple[Any, ...] | list[Any]) -> None:
    """Inputs belong to the caller: an answer that writes into them is wrong."""
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if old is not None and not torch.equal(old, new):
            raise NotData(f"your code changed its argument number {i + 1}; work on a copy.")


def last_line(error: BaseException) -> str:
    """Where in the learner's cell an error came from: "line 7: k = x @ w_k"."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "kvlab" not in f.filename and "torch" not in f.filename]
    if not own:
        return ""
    line = f": {own[-1].line}" if own[-1].line else ""
    return f"line {own[-1].lineno}{line}"
