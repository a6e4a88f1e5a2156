"""What came against what was expected: the difference in a sentence, and in a picture.

Tensors bear their axes at the end of their name (`out_BHSD`), which is how a difference can say
"batch 1, head 0, position 3". The letters are those of docs/notation.md.
"""

from __future__ import annotations

import html
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
    "N": "new token",
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
RTOL, ATOL = 1e-7, 1e-9


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
        held = type(came) in (int, float) and came >= self.bar
        return None if held else f"{name}: expected at least {self.bar:g}, got {brief(came)}."


@dataclass(frozen=True)
class AtMost(Wanted):
    """A cost that must not be passed."""

    bar: float

    def fault(self, name: str, came: Any) -> str | None:
        held = type(came) in (int, float) and came <= self.bar
        return None if held else f"{name}: expected at most {self.bar:g}, got {brief(came)}."


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
        return _tree_difference(name, came, expected, rtol, atol)
    if isinstance(expected, float) and type(came) in (int, float):
        both_nan = math.isnan(came) and math.isnan(expected)
        same = both_nan or math.isclose(came, expected, rel_tol=rtol, abs_tol=atol)
    else:
        same = type(came) is type(expected) and came == expected
        if not same and type(expected) is int and came == expected:
            return f"{name}: expected the whole number {expected}, got {came!r}."
    return None if same else f"{name}: expected {brief(expected)}, got {brief(came)}."


def _tree_difference(
    name: str, came: Any, expected: list | dict, rtol: float, atol: float
) -> str | None:
    def keys(tree: list | dict) -> list:
        return list(tree) if isinstance(tree, dict) else list(range(len(tree)))

    if type(came) is not type(expected) or sorted(keys(came)) != sorted(keys(expected)):
        return f"{name}: expected {brief(expected)}, got {brief(came)}."
    for key in keys(expected):
        wrong = difference(f"{name}[{key!r}]", came[key], expected[key], rtol, atol)
        if wrong:
            return wrong
    return None


def _tensor_difference(
    name: str, came: Any, expected: Tensor, rtol: float, atol: float
) -> str | None:
    if not isinstance(came, Tensor):
        return f"{name}: expected a tensor of shape {tuple(expected.shape)}, got {brief(came)}."
    if came.shape != expected.shape:
        return f"{name}: expected shape {tuple(expected.shape)}, got {tuple(came.shape)}."
    if not expected.is_floating_point() and came.dtype != expected.dtype:
        return f"{name}: expected {expected.dtype}, got {came.dtype}."
    wrong = _wrong(came, expected, rtol, atol)
    if not wrong.any():
        return None
    index = tuple(wrong.nonzero()[0].tolist())
    share = f"{int(wrong.sum())} of {wrong.numel()} numbers are wrong"
    return (
        f"{name}: {share}, first at {_where(name, index)}: "
        f"expected {brief(expected[index].item())}, got {brief(came[index].item())}."
    )


def _wrong(came: Tensor, expected: Tensor, rtol: float, atol: float) -> Tensor:
    if not expected.is_floating_point():
        return came != expected
    return ~torch.isclose(came.double(), expected.double(), rtol, atol, equal_nan=True)


def _axes(name: str, n: int) -> str:
    """The letters of a name's axes if they are that many, else ""."""
    letters = name.split("[")[0].rsplit("_", 1)[-1]
    return letters if len(letters) == n and set(letters) <= AXES.keys() else ""


def _where(name: str, index: tuple[int, ...]) -> str:
    letters = _axes(name, len(index))
    if not letters:
        return str(index)
    return ", ".join(f"{AXES[a]} {i}" for a, i in zip(letters, index, strict=True))


def brief(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


MAX_PICTURE = 64
FEATURES = "DECFV"


def picture(name: str, came: Any, expected: Any) -> str:
    """Where two tensors differ, as SVG; "" where there is nothing to draw.

    Features (channels, token ids) at the end are drawn as one: the cell is as dark as the share of
    wrong numbers in it. A column is a place along the last axis that is left, a row is everything
    before it.
    """
    rtol, atol = getattr(expected, "rtol", RTOL), getattr(expected, "atol", ATOL)
    expected = getattr(expected, "value", expected)
    if not isinstance(expected, Tensor) or not isinstance(came, Tensor):
        return ""
    if came.shape != expected.shape or expected.dim() < 2:
        return ""
    letters = _axes(name, expected.dim()) or "?" * expected.dim()
    wrong = _wrong(came, expected, rtol, atol).double()
    if letters[-1] in FEATURES or (letters[-1] == "?" and expected.dim() > 2):
        wrong, letters = wrong.mean(-1), letters[:-1]
    share = wrong.reshape(-1, wrong.shape[-1])[:MAX_PICTURE, :MAX_PICTURE]
    names = [AXES.get(letter, "index") for letter in letters]
    down = f"; down: {' and '.join(names[:-1])}" if names[:-1] else ""
    legend = f"across: {names[-1]}{down}; the redder, the more of its numbers are wrong"
    return _svg(f"{name}: where it is wrong", legend, share)


def _svg(title: str, legend: str, share: Tensor) -> str:
    side, left, top = 14, 10, 40
    cells = [
        f'<rect x="{left + side * x}" y="{top + side * y}" width="{side - 1}" height="{side - 1}" '
        f'fill="#b22" fill-opacity="{0.08 + 0.92 * float(share[y, x]):.2f}"/>'
        for y in range(share.shape[0])
        for x in range(share.shape[1])
    ]
    title, legend = html.escape(title), html.escape(legend)
    width = max(left * 2 + side * share.shape[1], 7 * len(legend))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{top + side * share.shape[0] + 6}" role="img" aria-label="{title}">'
        f'<text x="{left}" y="15" font-size="12" fill="currentColor">{title}</text>'
        f'<text x="{left}" y="31" font-size="12" fill="currentColor">{legend}</text>'
        f"{''.join(cells)}</svg>"
    )
