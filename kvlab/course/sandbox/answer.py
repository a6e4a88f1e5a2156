"""An answer as the judge sees it: something to call, and only data comes back.

The judge never touches a learner's object. What a call returns is either data (numbers, text,
tensors, lists and dicts of them) or an object that stays on the answer's side and can only be
called again. `LocalAnswer` runs here, for `check`; `course.remote` elsewhere, for `grade`.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import site
import sys
import sysconfig
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Protocol

import torch

from kvlab.course.sandbox.forbid import without
from kvlab.course.sandbox.kinds import derived, is_one_of
from kvlab.course.sandbox.loan import MAX_BITS, Borrowed, Lent, Loan

MAX_ITEMS = 2**16


class AnswerRaised(Exception):
    """The answer's own code raised."""

    def __init__(self, kind: str, text: str, where: str = "", builtin: str = "") -> None:
        super().__init__(f"{kind}: {text}" if text else kind)
        self.kind, self.text, self.where = kind, text, where
        self.builtin = builtin or kind  # what of Python's own it is made from


def raised(error: BaseException) -> AnswerRaised:
    """An error of the answer's, as the judge is told of it."""
    try:
        text = str(error)[:2000]
    except Exception:  # a number too long to be written down, a __str__ of its own
        text = "its text cannot be shown"
    builtin = next(k.__name__ for k in type(error).__mro__ if k.__module__ == "builtins")
    return AnswerRaised(type(error).__name__, text, last_line(error), builtin)


class NotData(Exception):
    """The answer gave back something that is neither data nor usable."""


class Stopped(Exception):
    """The answer ended early: it took too long, used too much, or its process died."""


class Unavailable(Exception):
    """The answer could not be run at all, which is not its fault."""


class Held(Protocol):
    """Something the answer gave back once and can be looked at again later."""

    def now(self) -> Any: ...


class Object(Protocol):
    """An object on the answer's side."""

    def call(self, method: str, *args: Any) -> Any: ...

    def make(self, method: str, *args: Any) -> Object: ...

    def hold(self, method: str, *args: Any) -> Held: ...


class Answer(Protocol):
    """The function or class that an exercise asked for."""

    def __call__(self, *args: Any) -> Any: ...

    def make(self, *args: Any) -> Object: ...


def as_data(value: Any) -> Any:
    """A value as plain data, tensors copied; what is like a list or a dict becomes one.

    A type of the learner's own, of a tensor or a number too, is refused: it could equal everything.
    """
    if value is None or is_one_of(value, bool, int, float, str):
        if type(value) is int and value.bit_length() > MAX_BITS:
            n_digits = int(value.bit_length() * math.log10(2)) + 1
            raise NotData(f"your code returned a whole number of about {n_digits:,} digits.")
        return value
    if is_one_of(value, Fraction, Decimal):
        try:
            return float(value)
        except OverflowError:
            raise NotData(
                f"your code returned a {type(value).__name__} beyond all floats."
            ) from None
    if is_one_of(value, torch.Tensor, torch.nn.Parameter):
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise NotData(f"your code returned a {value.dtype} tensor of an unusual kind.")
        return value.detach().to("cpu", copy=True).contiguous()
    if (numpy := sys.modules.get("numpy")) and derived(value, numpy.ndarray, numpy.generic):
        return _from_numpy(numpy, value)
    for kind, items in _LISTS.items():
        if derived(value, kind):
            return [as_data(v) for v in items(value)]
    if derived(value, dict):
        plain = dict(dict.items(value))
        odd = [type(key).__name__ for key in plain if not derived(key, str)]
        if odd:
            raise NotData(f"your code returned a dict with {odd[0]} keys; expected texts as keys.")
        return {str.__str__(key): as_data(v) for key, v in plain.items()}
    if derived(value, str):
        return str.__str__(value)
    raise NotData(
        f"your code returned something of type {type(value).__name__}; expected numbers, text, "
        "tensors, or lists, tuples and dicts of them."
    )


# What is like a list, and how its items are had whatever a class of the learner's own says.
_LISTS = {
    list: list.__iter__,
    tuple: tuple.__iter__,  # named ones too, and torch's
    deque: deque.__iter__,
    range: lambda value: value[:MAX_ITEMS],
    type({}.keys()): iter,
    type({}.values()): iter,
}


def _from_numpy(numpy: Any, value: Any) -> Any:
    """An array of any layout, byte order and width as a tensor; one number as a number."""
    array = numpy.asarray(value)
    if array.dtype.kind not in "biufOUS":
        raise NotData(f"your code returned a numpy array of {array.dtype}; expected numbers.")
    if array.dtype.kind in "OUS":
        return as_data(array.tolist())
    if array.dtype.itemsize > 8:  # torch has no float of 80 bits
        array = array.astype(numpy.float64)
    if array.ndim == 0:
        return as_data(array.item())
    own = array.dtype.newbyteorder("=")
    return torch.from_numpy(numpy.array(array, dtype=own, order="C", subok=False))


def as_argument(value: Any) -> Any:
    """What a law may give to an answer: a copy of data.

    Raises: TypeError for anything else, which is the law's mistake.
    """
    try:
        return as_data(value)
    except NotData:
        kind = type(value).__name__
        raise TypeError(
            f"a law gave something of type {kind}; give data, or lend it: see course.lending"
        ) from None


# --- an answer in this process --------------------------------------------------------------------


class LocalAnswer:
    """An answer in this process."""

    def __init__(self, answer: Callable[..., Any], forbids: Sequence[str] = ()) -> None:
        self.own, self._inner = answer, LocalObject(answer, forbids)

    def __call__(self, *args: Any) -> Any:
        return self._inner.call("__call__", *args)

    def make(self, *args: Any) -> LocalObject:
        return self._inner.make("__call__", *args)


class LocalObject:
    """An object of the learner's in this process."""

    def __init__(self, inner: Any, forbids: Sequence[str], loan: Loan | None = None) -> None:
        self._inner, self._forbids, self._loan = inner, forbids, loan or Loan()

    def call(self, method: str, *args: Any) -> Any:
        return as_data(self._run(method, args))

    def make(self, method: str, *args: Any) -> LocalObject:
        return LocalObject(self._run(method, args), self._forbids, self._loan)

    def hold(self, method: str, *args: Any) -> LocalHeld:
        return LocalHeld(self._run(method, args))

    def _run(self, name: str, args: tuple[Any, ...]) -> Any:
        """Call the learner's code; its errors become AnswerRaised, changed inputs too."""
        method = self._inner if name == "__call__" else getattr(self._inner, name, None)
        if not callable(method):
            kind = type(self._inner).__name__
            raise AnswerRaised("AttributeError", f"{kind} has no method {name}")
        given = [self._lend(a) for a in args]
        try:
            with without(self._forbids):
                value = method(*given)
        except KeyboardInterrupt:  # the reader's own
            raise
        except BaseException as error:
            raise raised(error) from None
        refuse_changed(args, given, parameters(method))
        return value

    def _lend(self, value: Any) -> Any:
        """What the answer gets for an argument: a copy of data, or the use of something lent."""
        if isinstance(value, Lent):
            return Borrowed(self._use, self._loan.add(value))
        return as_argument(value)

    def _use(self, number: int, method: str, args: Sequence[Any], named: dict[str, Any]) -> Any:
        own = {n: a if isinstance(a, Borrowed) else as_data(a) for n, a in named.items()}
        given = [a if isinstance(a, Borrowed) else as_data(a) for a in args]  # as over a wire
        return self._lend(self._loan.use(number, method, given, own))


class LocalHeld:
    """Something a local object gave back; `now` reads it again."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def now(self) -> Any:
        return as_data(self._value)


def refuse_changed(before: Sequence[Any], after: Sequence[Any], names: Sequence[str]) -> None:
    """Inputs belong to the caller: an answer that writes into them is wrong.

    `names` are those that the answer has for its arguments, as far as they are known.
    """
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if not (isinstance(old, Lent) or _unchanged(old, new)):
            name = names[i] if i < len(names) else ""
            called = f" ({name})" if name else ""
            copy = f"{name}.clone()" if name and isinstance(old, torch.Tensor) else "a copy"
            raise NotData(f"your code changed its argument number {i + 1}{called}; work on {copy}.")


def parameters(target: Callable[..., Any]) -> list[str]:
    """The names of what something is called with, as far as Python knows them."""
    try:
        return list(inspect.signature(target).parameters)
    except Exception:  # a callable of the learner's own may raise anything when it is looked at
        return []


def _unchanged(old: Any, new: Any) -> bool:
    if isinstance(old, torch.Tensor):
        if type(new) is not torch.Tensor or new.dtype != old.dtype or new.shape != old.shape:
            return False
        old = old.cpu()
        return bool(((old == new) | ((old != old) & (new != new))).all())  # NaN is NaN
    if isinstance(old, (list, tuple)):
        return type(new) is list and len(old) == len(new) and all(map(_unchanged, old, new))
    if isinstance(old, dict):
        same_keys = type(new) is dict and old.keys() == new.keys()
        return same_keys and all(_unchanged(old[key], new[key]) for key in old)
    return type(new) is type(old) and (new == old or old != old)


def last_line(error: BaseException) -> str:
    """Where in the learner's cell an error came from: "line 7: k = x @ w_k"."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not is_a_librarys(f.filename)]
    if not own:
        return ""
    line = f": {own[-1].line}" if own[-1].line else ""
    return f"line {own[-1].lineno}{line}"


def is_a_librarys(file: str) -> bool:
    """Is this code ours, torch's, Python's or an installed package's? By folder, not by name: a
    learner's may be called kvlab too."""
    if file.startswith("<"):  # a cell, but for what Python itself has compiled
        return file.startswith(("<frozen ", "<__array_function__"))
    return os.path.realpath(file).startswith(_libraries())


@functools.cache
def _libraries() -> tuple[str, ...]:
    ours = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    installed = [sysconfig.get_path(p) for p in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed += [*site.getsitepackages(), site.getusersitepackages()]
    folders = (ours, os.path.dirname(torch.__file__), *installed)
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)
