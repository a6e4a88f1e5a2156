"""A grid that fills: which keys and values each step computes, and which it finds in the cache."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

import anywidget
import traitlets

COMPUTED, REUSED, EMPTY = "#D55E00", "#56B4E9", "#F2F2F2"
_CELL, _LEFT, _TOP = 22, 92, 92


class CacheGrid(anywidget.AnyWidget):
    """One column per token, one row per step; move `step` with the slider, or from Python.

    Step 0 reads the prompt, step i makes the token after the i-th new one. Without a kernel the
    picture of the current step stays, as SVG.
    """

    _esm = Path(__file__).parent / "cache_grid.js"
    _css = Path(__file__).parent / "cache_grid.css"

    n_steps = traitlets.Int(read_only=True).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    cached = traitlets.Bool(True).tag(sync=True)
    status = traitlets.Unicode("", read_only=True).tag(sync=True)
    svg = traitlets.Unicode("", read_only=True).tag(sync=True)

    def __init__(
        self, tokens: Sequence[str], n_prompt: int, *, step: int = 0, cached: bool = True
    ) -> None:
        """`tokens` are the texts of the prompt's tokens and of those that were generated and fed.

        Raises: ValueError when the prompt is longer than the tokens, or the step is not there.
        """
        if not 1 <= n_prompt <= len(tokens):
            raise ValueError(f"n_prompt is {n_prompt}; expected 1 to {len(tokens)} tokens.")
        self.tokens, self.n_prompt = list(tokens), n_prompt
        super().__init__()
        self.set_trait("n_steps", len(tokens) - n_prompt)
        self.cached, self.step = cached, step
        self._draw()

    @traitlets.validate("step")
    def _step_is_there(self, proposal) -> int:
        if not 0 <= proposal["value"] <= self.n_steps:
            raise traitlets.TraitError(
                f"step is {proposal['value']}; expected 0 (the prompt) to {self.n_steps}."
            )
        return proposal["value"]

    @traitlets.observe("step", "cached")
    def _draw(self, _change=None) -> None:
        self.set_trait("status", self._status())
        self.set_trait("svg", draw(self.tokens, self.n_prompt, self.step, self.cached))

    @property
    def computed(self) -> list[int]:
        """Rows computed at each step so far."""
        return [self._computed(i) for i in range(self.step + 1)]

    def _computed(self, step: int) -> int:
        length = self.n_prompt + step
        return 1 if self.cached and step else length

    def _status(self) -> str:
        length, new = self.n_prompt + self.step, self._computed(self.step)
        way = "With a cache" if self.cached else "Without a cache"
        return (
            f"{way}, step {self.step}: {new} of {length} rows computed, {length - new} reused. "
            f"Computed so far: {sum(self.computed)}."
        )

    def __repr__(self) -> str:
        return f"CacheGrid({self._status()})"

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        data, meta = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        # An image, since Jupyter strips inline SVG from a notebook that it does not trust yet.
        image = b64encode(self.svg.encode()).decode()
        words = escape(self._status())
        still = f'<p>{words}</p><img alt="{words}" src="data:image/svg+xml;base64,{image}">'
        return {**data, "text/plain": repr(self), "text/html": still}, meta


def draw(tokens: Sequence[str], n_prompt: int, step: int, cached: bool) -> str:
    """The grid as SVG, with all steps up to `step` filled in."""
    n_steps = len(tokens) - n_prompt + 1
    width, height = max(_LEFT + _CELL * len(tokens) + 48, 420), _TOP + _CELL * n_steps + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" font-family="sans-serif" font-size="12">',
        f"<title>Keys computed and reused up to step {step}, "
        f"{'with' if cached else 'without'} a cache</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for column, token in enumerate(tokens):
        x = _LEFT + _CELL * column + _CELL / 2 + 4
        weight = "normal" if column < n_prompt else "bold"
        parts.append(
            f'<text x="{x}" y="{_TOP - 6}" fill="#222" font-weight="{weight}" '
            f'transform="rotate(-60 {x} {_TOP - 6})">{escape(_visible(token))}</text>'
        )
    for row in range(n_steps):
        y = _TOP + _CELL * row
        name = "prompt" if row == 0 else f"step {row}"
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end" fill="#222">{name}</text>'
        )
        for column in range(len(tokens)):
            parts.append(
                _cell(_LEFT + _CELL * column, y, _state(row, column, n_prompt, step, cached))
            )
    y = height - 28
    for x, state, text in (
        (_LEFT, "computed", "computed in this step"),
        (_LEFT + 170, "reused", "reused from the cache"),
    ):
        parts.append(_cell(x, y, state))
        parts.append(f'<text x="{x + _CELL + 6}" y="{y + 15}" fill="#222">{text}</text>')
    return "".join(parts) + "</svg>"


def _state(row: int, column: int, n_prompt: int, step: int, cached: bool) -> str:
    length = n_prompt + row
    if row > step or column >= length:
        return "empty"
    is_new = row == 0 or column == length - 1
    return "computed" if is_new or not cached else "reused"


def _cell(x: float, y: float, state: str) -> str:
    """A square; computed ones bear a dot, so that colour is not all that tells them apart."""
    fill = {"computed": COMPUTED, "reused": REUSED, "empty": EMPTY}[state]
    square = (
        f'<rect class="{state}" x="{x}" y="{y}" width="{_CELL - 2}" height="{_CELL - 2}" '
        f'fill="{fill}"/>'
    )
    dot = f'<circle cx="{x + 10}" cy="{y + 10}" r="3" fill="white"/>' if state == "computed" else ""
    return square + dot


def _visible(token: str) -> str:
    return token.replace("\n", "\\n").strip(" ") or "(space)"
