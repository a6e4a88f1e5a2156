"""Where what came differs from what was expected, as a picture."""

from __future__ import annotations

import base64
import html
from typing import Any

from torch import Tensor

from kvlab.course.author.compare import ATOL, AXES, RTOL, axes_of, wrong_numbers

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
    if came.dtype != expected.dtype and not expected.is_floating_point():
        return ""
    letters = axes_of(name, expected.dim()) or "?" * expected.dim()
    wrong = wrong_numbers(came, expected, rtol, atol).double()
    if letters[-1] in FEATURES or (letters[-1] == "?" and expected.dim() > 2):
        wrong, letters = wrong.mean(-1), letters[:-1]
    share = wrong.reshape(-1, wrong.shape[-1])[:MAX_PICTURE, :MAX_PICTURE]
    names = [AXES.get(letter, "index") for letter in letters]
    down = f"; down: {' and '.join(names[:-1])}" if names[:-1] else ""
    legend = f"across: {names[-1]}{down}; the redder, the more of its numbers are wrong"
    return _svg(f"{name}: where it is wrong", legend, share)


def as_image(svg: str) -> str:
    """A drawing as HTML that JupyterLab also shows in a notebook that is not trusted."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="where it is wrong" src="data:image/svg+xml;base64,{data}">'


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
        f'<text x="{left}" y="15" font-size="12" fill="#888">{title}</text>'
        f'<text x="{left}" y="31" font-size="12" fill="#888">{legend}</text>'
        f"{''.join(cells)}</svg>"
    )
