"""Arguments, refused in one sentence where they come in: what came, and what was expected."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from functools import wraps
from numbers import Integral, Real
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
IDS = (torch.int64, torch.int32)
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
HOLDS = {"mps": (torch.float32, torch.float16)}  # devices that do not hold all of these
_MOST = 2**63 - 1  # what torch takes


def whole(name: str, value: object, least: int | None = 1) -> int:
    """A whole number of at least so much, as Python's own; numpy's are taken, True is not."""
    low = -_MOST if least is None else least
    if isinstance(value, Integral) and not isinstance(value, bool) and low <= value <= _MOST:
        return int(value)
    more = "" if least is None else f" of at least {least}"
    raise ValueError(f"{name} is {shown(value)}; expected a whole number{more}.")


def number(name: str, value: object, fits: Callable[[float], bool], expected: str) -> float:
    """A number that `fits`, which `expected` says in words; neither True nor a text is one."""
    if isinstance(value, Real) and not isinstance(value, bool) and fits(value):
        return float(value)
    raise ValueError(f"{name} is {shown(value)}; expected {expected}.")


def is_positive(value: object) -> bool:
    """Whether it is a number above 0 that float32 can hold."""
    return type(value) in (int, float) and 0 < value < 2.0**127


def kind(name: str, value: object, wanted: type | tuple[type, ...], expected: str) -> None:
    """Refuse what is not of a type, which `expected` says in words."""
    if not isinstance(value, wanted):
        raise ValueError(f"{name} is {shown(value)}; expected {expected}.")


def has(name: str, value: object, what: str, expected: str) -> None:
    """Refuse what lacks an attribute: a class of one's own need not be of our types."""
    if isinstance(value, type) or not hasattr(value, what):
        raise ValueError(f"{name} is {shown(value)}; expected {expected}.")


def functions(**named: object) -> None:
    """Refuse what cannot be called."""
    for name, value in named.items():
        has(name, value, "__call__", "a function")


def cache(name: str, value: object) -> None:
    """Refuse what keys and values cannot be read from."""
    has(name, value, "read", "a cache, as model.new_cache makes it")


def model(name: str, value: object) -> None:
    """Refuse what is no model of ours, and say what makes one of it."""
    if not hasattr(getattr(value, "config", None), "n_kv_heads"):  # others have other names
        cure = "model, tokenizer = kvlab.load(...)"
        if hasattr(value, "get_decoder"):
            cure = "kvlab.load(its folder), or kvlab.hf.cache(model) to work inside it"
        raise ValueError(f"{name} is {shown(value)}; expected a Transformer, as in {cure}.")


def in_one_piece(asked: str, model: object) -> None:
    """Refuse a share of a model, which `kvlab.parallel` made; `asked` says for what."""
    if getattr(model, "mesh", None) is not None:
        raise ValueError(
            f"{asked}, but this model is a share of one that is spread over {model.mesh.size} "
            "processes, and it would leave the others out. Use the whole model for it."
        )


def plain(value: object) -> object:
    """Of a tensor or an array its numbers, as lists; anything else as it is."""
    if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta):
        return value
    return value.tolist() if hasattr(value, "tolist") else value


def ids(name: str, value: object) -> list[int]:
    """Token ids: one whole number, or several."""
    given = plain(value)
    given = [given] if isinstance(given, Integral) else given
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence | Set):
        raise ValueError(f"{name} is {shown(value)}; expected an id, or several as (1, 2), or ().")
    return [whole(f"An id in {name}", i, 0) for i in given]


def logits(value_BV: Tensor) -> None:
    """Refuse logits that are NaN; those on a GPU are not looked at, since that waits."""
    tensor("logits", value_BV, "BV")
    if value_BV.dtype == torch.bool:
        raise ValueError(f"logits is {shown(value_BV)}; expected numbers.")
    if value_BV.device.type == "cpu" and value_BV.numel():
        finite(value_BV.detach().amax())


def finite(most: Tensor) -> None:
    """Refuse logits by the largest of them, which is NaN if any is. Reads the device."""
    if not math.isfinite(most):
        raise ValueError(
            f"The model's logits are not numbers ({float(most)} among them), so no token is the "
            "likeliest. Look for NaN in its weights; where float16 overflows, load it in float32."
        )


def tensor(
    name: str,
    value: object,
    axes: Sequence[str | int],
    dtypes: tuple[torch.dtype, ...] = (),
    device: torch.device | None = None,
    cure: str = "",
) -> None:
    """Refuse what is no dense tensor of such axes, of one of these types and on this device.

    `axes` are letters, as in "BS", or numbers where the length is known: (2, "S").
    """
    if (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and (value.shape == axes or _has_axes(value, axes))
        and (not dtypes or value.dtype in dtypes)
        and (value.device.type != "meta" if device is None else value.device == device)
    ):
        return
    words = f"({', '.join(map(str, axes))}{',' * (len(axes) == 1)})"
    if dtypes:
        whole = "whole numbers (torch.int64)"
        words += f" of {whole if dtypes is IDS else ' or '.join(map(str, dtypes))}"
    words += "" if device is None else f" on {device}"
    raise ValueError(f"{name} is {shown(value)}; expected a tensor {words}.{cure}")


def _has_axes(value: Tensor, axes: Sequence[str | int]) -> bool:
    pairs = zip(axes, value.shape, strict=False)
    return len(axes) == value.dim() and all(isinstance(n, str) or n == m for n, m in pairs)


def shown(value: object) -> str:
    """A value in a few words: tensors by shape and type, of a long text its beginning."""
    if isinstance(value, Tensor):
        where = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}{where}"
    try:
        text = repr(value)
    except Exception:  # nested too deep, too many digits, or a class's own
        text = ""
    if not text or "\n" in text or " at 0x" in text:
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]} …"


def takes(
    **tests: type | Callable[[str, object], object],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: arguments by name that must be of a type, or that a check of these must pass."""
    of = {
        name: named(kind, test, f"a {test.__name__}") if isinstance(test, type) else test
        for name, test in tests.items()
    }

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        names = list(inspect.signature(function).parameters)

        @wraps(function)
        def called(*args: P.args, **given: P.kwargs) -> R:
            for name, value in (*zip(names, args, strict=False), *given.items()):
                if name in of:
                    of[name](name, value)
            return function(*args, **given)

        return called

    return wrap


def named(test: Callable, *more: object) -> Callable[[str, object], object]:
    """A check of these with its further arguments: `named(whole, 0)`."""
    return lambda name, value: test(name, value, *more)


def or_none(test: Callable[[str, object], object]) -> Callable[[str, object], object]:
    """A check of what may be left out."""
    return lambda name, value: None if value is None else test(name, value)


def listed(name: str, value: object) -> None:
    """Refuse what has no items, and a text, whose items are letters."""
    several = hasattr(value, "__iter__") and not isinstance(value, (str, bytes))
    if isinstance(value, Tensor):  # which says that it can be gone through, whatever it is
        several = value.dim() > 0 and value.layout == torch.strided and not value.is_meta
    if not several:
        raise ValueError(f"{name} is {shown(value)}; expected several, as in a list.")


def numbers(name: str, value: object) -> None:
    """Refuse what are not several numbers."""
    listed(name, value)
    for one in value:
        number(f"One of {name}", one, lambda _: True, "a number")


def device(name: str, value: object) -> torch.device:
    """The device, if it is a CPU or GPU that this machine has; "mps" is Apple's GPU."""
    try:
        wanted = torch.device(value)
    except (RuntimeError, TypeError):
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"{name} is {shown(value)}; expected 'cpu', 'cuda', 'cuda:0' or 'mps'.")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{name} is {shown(value)}, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices here. Use 'cpu', or see `kvlab doctor`."
        )
    if wanted.type == "mps" and ((wanted.index or 0) or not torch.backends.mps.is_available()):
        raise ValueError(
            f"{name} is {shown(value)}, but torch {torch.__version__} sees no such Apple GPU here. "
            "Use 'cpu', or see `kvlab doctor`."
        )
    return wanted


def held(device: torch.device | str, dtype: torch.dtype) -> None:
    """Refuse a type of numbers that a device does not hold."""
    kind = str(device).split(":")[0]
    if dtype not in HOLDS.get(kind, FLOATS) and dtype in FLOATS:
        raise ValueError(
            f"Numbers of {dtype} were asked for on {kind!r}; expected "
            f"{' or '.join(str(t).removeprefix('torch.') for t in HOLDS[kind])} there. Name one: "
            "dtype='float16', or --dtype float16."
        )


def dtype(name: str, value: object) -> torch.dtype | None:
    """A torch type for weights, or None for "auto", the file's own."""
    found = getattr(torch, value, None) if isinstance(value, str) else value
    if value != "auto" and found not in FLOATS:
        raise ValueError(
            f"{name} is {shown(value)}; expected 'float32', 'bfloat16', 'float16', 'float64' or "
            "'auto'."
        )
    return None if value == "auto" else found


@contextmanager
def told(what: str) -> Iterator[None]:
    """Refuse in our words what a library refuses: by bare Exceptions, and by panics in Rust."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic is no Exception
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{what} ({said}).") from None


def finest(x: Tensor) -> Tensor:
    """In the widest floats that the tensor's device holds: float64 but for Apple's GPUs."""
    return x.to(HOLDS.get(x.device.type, FLOATS)[0])
