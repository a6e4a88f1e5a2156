"""What came against what was expected: the difference in a sentence.

Tensors bear their axes at the end of their name (`out_BHSD`), which is how a difference can say
"batch 1, head 0, position 3". The letters are those of docs/notation.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

AXES = {
    "L": "layer",
    "B": "batch",
    "H": "head",
    "G": "KV head",
    "S": "position",
    "T": "slot",
    "P": "prompt token",
    "N": "place",
    "D": "channel",
    "E": "channel",
    "C": "channel",
    "F": "hidden unit",
    "V": "token id",
    "M": "place",
    "X": "byte",
    "W": "query",
    "Q": "query row",
    "R": "query head of the group",
    "I": "input",
    "O": "output",
}
RTOL, ATOL = 1e-9, 1e-9  # a step in float32, which rounds at 6e-8, must show


@dataclass(frozen=True)
class Judged:
    """A value that came, with what a law itself says of it: it needs no right answer beside it."""

    came: Any
    wanted: Wanted


class Wanted:
    """What a value must be, where that is more than equal to a right answer's."""

    def fault(self, name: str, came: Any) -> str | None:
        """What is wrong with what came, in a sentence, or None."""
        raise NotImplementedError

    def of(self, came: Any) -> Judged:
        """A value for a law's outcome that is held to this: `AtMost(3).of(lent.calls)`."""
        return Judged(came, self)


def came(value: Any) -> Any:
    """A value of an outcome without what was asked of it."""
    return value.came if isinstance(value, Judged) else value


@dataclass(frozen=True)
class Near(Wanted):
    """Equal to a number or a tensor within a tolerance of one's own."""

    value: Any
    rtol: float = RTOL
    atol: float = ATOL

    def fault(self, name: str, came: Any) -> str | None:
        return difference(name, came, self.value, self.rtol, self.atol)


@dataclass(frozen=True)
class AtLeast(Wanted):
    """A score that must be reached."""

    bar: float

    def fault(self, name: str, came: Any) -> str | None:
        came = as_number(came)
        held = type(came) in (int, float) and came >= self.bar
        return None if held else _expected(name, self.bar, came, "at least ")


@dataclass(frozen=True)
class AtMost(Wanted):
    """A cost that must not be passed."""

    bar: float

    def fault(self, name: str, came: Any) -> str | None:
        came = as_number(came)
        held = type(came) in (int, float) and came <= self.bar
        return None if held else _expected(name, self.bar, came, "at most ")


@dataclass(frozen=True)
class Hidden(Wanted):
    """Equal to a value that the message must not tell: a quiz's right answer."""

    value: Any
    within: float = 0.0

    def fault(self, name: str, came: Any) -> str | None:
        wrong = difference(name, came, self.value, rtol=0.0, atol=self.within)
        return f"{name}: {brief(came)} is not right." if wrong else None


def describe(case: Mapping[str, Any]) -> str:
    """The numbers of a case, tensors by their shapes; names that begin with _ are left out."""
    parts = []
    for name, value in case.items():
        if name.startswith("_"):
            continue
        shown = tuple(value.shape) if isinstance(value, Tensor) else brief(value)
        parts.append(f"{name} {shown}")
    return ", ".join(parts)


def difference(
    name: str, came: Any, expected: Any, rtol: float = RTOL, atol: float = ATOL
) -> str | None:
    """What is wrong with a value, in a sentence, or None."""
    if isinstance(expected, Wanted):
        return expected.fault(name, came)
    if isinstance(expected, Tensor):
        return _tensor_difference(name, came, expected, rtol, atol)
    if isinstance(expected, (list, tuple, dict)):
        came, expected = (list(x) if isinstance(x, tuple) else x for x in (came, expected))
        if isinstance(expected, list) and isinstance(came, Tensor) and came.dim():
            came = came.tolist()
        return _tree_difference(name, came, expected, rtol, atol)
    came = as_number(came)
    if isinstance(expected, float) and type(came) in (int, float):
        same = _close(came, expected, rtol, atol)
    else:
        same = type(came) is type(expected) and came == expected
        if not same and type(expected) is int and type(came) in (float, bool) and came == expected:
            return f"{name}: expected the whole number {expected}, got {came!r}."
    floats = rtol <= RTOL and type(came) is type(expected) is float
    nearly = floats and _close(came, expected, *_SINGLE)
    return None if same else _expected(name, expected, came) + _NEARLY * nearly


def as_number(came: Any) -> Any:
    """The number in a tensor that is nothing but one; anything else as it is."""
    return came.item() if isinstance(came, Tensor) and came.dim() == 0 else came


def _close(came: int | float, expected: float, rtol: float, atol: float) -> bool:
    try:
        both_nan = math.isnan(came) and math.isnan(expected)
        return both_nan or math.isclose(came, expected, rel_tol=rtol, abs_tol=atol)
    except OverflowError:  # a whole number beyond all floats
        return False


def _tree_difference(
    name: str, came: Any, expected: list | dict, rtol: float, atol: float
) -> str | None:
    def keys(tree: list | dict) -> list:
        return list(tree) if isinstance(tree, dict) else list(range(len(tree)))

    if type(came) is not type(expected) or sorted(keys(came)) != sorted(keys(expected)):
        apart = _apart_at(name, came, expected) if type(came) is type(expected) is list else ""
        return apart or _expected(name, expected, came)
    for key in keys(expected):
        wrong = difference(f"{name}[{key!r}]", came[key], expected[key], rtol, atol)
        if wrong:
            return wrong
    return None


def _apart_at(name: str, came: list, expected: list) -> str:
    """Of two lists that begin alike: how long each is, and where they part. "" for others."""
    if brief(came) != brief(expected):
        return ""
    said = f"{name}: expected {len(expected)} entries, got {len(came)}"
    for i, (got, wanted) in enumerate(zip(came, expected, strict=False)):
        if difference("", got, wanted):
            return f"{said}; at {i} expected {brief(wanted)}, got {brief(got)}."
    return f"{said}."


def _tensor_difference(
    name: str, came: Any, expected: Tensor, rtol: float, atol: float
) -> str | None:
    came = as_tensor(came, expected.dtype)
    if not isinstance(came, Tensor):
        got = brief(came)
        if type(came) is list and came and all(isinstance(one, Tensor) for one in came):
            got = f"a list of {len(came)} tensors (torch.stack makes one of them)"
        return f"{name}: expected a tensor of shape {tuple(expected.shape)}, got {got}."
    if came.shape != expected.shape:
        return f"{name}: expected shape {tuple(expected.shape)}, got {tuple(came.shape)}."
    if not expected.is_floating_point() and came.dtype != expected.dtype:
        return f"{name}: expected {expected.dtype}, got {came.dtype}."
    if rtol <= RTOL and expected.dtype == torch.float64 and _is_narrow(came):
        return f"{name} is {came.dtype}; expected {expected.dtype}: {KEEP_DTYPE}."
    wrong = wrong_numbers(came, expected, rtol, atol)
    if not wrong.any():
        return None
    index = tuple(wrong.nonzero()[0].tolist())
    what = "entries" if expected.dtype == torch.bool else "numbers"
    share = f"{int(wrong.sum())} of {wrong.numel()} {what} are wrong"
    first = f"{name}: {share}, first at {_where(name, index)}"
    text = _expected(first, expected[index].item(), came[index].item())
    if rtol <= RTOL and expected.is_floating_point():
        nearly = not wrong_numbers(came, expected, *_SINGLE).any()
        text += _NEARLY * nearly
    return text


_SINGLE = 1e-5, 1e-6  # what is left of float64 after a few steps in float32
_NEARLY = " All agree to about six digits: is one step in float32?"
KEEP_DTYPE = (
    "what is made anew needs the dtype of what was given, as in torch.zeros(n, dtype=x.dtype)"
)


def _is_narrow(came: Tensor) -> bool:
    return came.is_floating_point() and came.dtype != torch.float64


def as_tensor(came: Any, dtype: torch.dtype = torch.float64) -> Any:
    """Nested lists of numbers, or one number, as the tensor that they stand for; others as is."""
    kinds = {torch.bool: (bool,), torch.int64: (int,), torch.float64: (float, int)}
    if isinstance(came, Tensor) or dtype not in kinds:
        return came
    leaves, rest = [], [came]
    while rest:
        one = rest.pop()
        rest.extend(one) if type(one) is list else leaves.append(one)
    if not all(type(leaf) in kinds[dtype] for leaf in leaves):
        return came
    try:
        return torch.tensor(came, dtype=dtype)
    except (ValueError, OverflowError, RuntimeError):  # rows of several lengths; too large
        return came


def wrong_numbers(came: Tensor, expected: Tensor, rtol: float, atol: float) -> Tensor:
    """Which numbers of two tensors of one shape differ."""
    if expected.is_floating_point():
        return ~torch.isclose(came.double(), expected.double(), rtol, atol, equal_nan=True)
    if came.dtype != expected.dtype:  # not all of torch's types can be compared
        return torch.ones_like(expected, dtype=torch.bool)
    return came != expected


def axes_of(name: str, n: int) -> str:
    """The letters of a name's axes if they are that many, else ""."""
    letters = name.split("[")[0].rsplit("_", 1)[-1]
    return letters if len(letters) == n and set(letters) <= AXES.keys() else ""


def _where(name: str, index: tuple[int, ...]) -> str:
    letters = axes_of(name, len(index))
    if not letters:
        return str(index)
    names = [AXES[a] for a in letters]
    if len(names) > 1 and names[-1] == names[-2]:  # moved_SS[i, j]: which of the two is which
        names[-2:] = "row", "column"
    return ", ".join(f"{name} {i}" for name, i in zip(names, index, strict=True))


def brief(value: Any, digits: int = 6) -> str:
    """A value in a few characters."""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, Tensor):
        return f"a tensor or array of shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        text = f"[{', '.join(brief(v, digits) for v in value[:40])}]"
    elif isinstance(value, dict):
        some = list(value.items())[:40]
        text = f"{{{', '.join(f'{brief(k)}: {brief(v, digits)}' for k, v in some)}}}"
    elif isinstance(value, int) and value.bit_length() > 2000:  # Python prints no longer ones
        text = f"a whole number of {value.bit_length()} bits"
    else:
        text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _expected(name: str, expected: Any, came: Any, bar: str = "") -> str:
    """The sentence that tells two values apart, with as many digits as that takes."""
    texts = [(brief(expected, digits), brief(came, digits)) for digits in (6, 9, 12, 17)]
    for wanted, got in texts:
        if wanted != got:
            return f"{name}: expected {bar}{wanted}, got {got}."
    if repr(expected) == repr(came) or type(expected) in (list, dict):
        kinds = f" ({type(expected).__name__})", f" ({type(came).__name__})"
        return f"{name}: expected {bar}{texts[0][0]}{kinds[0]}, got {texts[0][1]}{kinds[1]}."
    return f"{name}: expected {bar}{expected!r}, got {came!r}."
