"""A grid that fills: which keys and values each step computes, and which it finds in the cache."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets

from kvlab.view import svg
from kvlab.view.panel import Panel

COLOURS = {"computed": svg.BLUE, "again": svg.ORANGE, "reused": svg.SKY, "empty": svg.PALE}
_CELL, _LEFT, _TOP = 22, 92, 92


class CacheGrid(Panel):
    """One column per token, one row per step; move `step` with the slider, or from Python.

    Step 0 reads the prompt, step i makes the token after the i-th new one.
    """

    n_steps = traitlets.Int(read_only=True).tag(sync=True)
    step = traitlets.Int(0).tag(
        sync=True,
        label="step",
        max="n_steps",
        spoken="step: 0 is the prompt, then one step per new token",
    )
    cached = traitlets.Bool(True).tag(sync=True, label="with a cache")

    def __init__(
        self, tokens: Sequence[str], n_prompt: int, *, step: int = 0, cached: bool = True
    ) -> None:
        """`tokens` are the texts of the prompt's tokens and of those that were generated and fed.

        Raises: ValueError when the prompt is longer than the tokens, or the step is not there.
        """
        if not 1 <= n_prompt <= len(tokens):
            raise ValueError(f"n_prompt is {n_prompt}; expected 1 to {len(tokens)} tokens.")
        self.tokens, self.n_prompt = list(tokens), n_prompt
        self.set_trait("n_steps", len(tokens) - n_prompt)
        super().__init__(step=step, cached=cached)

    @traitlets.validate("step")
    def _step_is_there(self, proposal) -> int:
        if not 0 <= proposal["value"] <= self.n_steps:
            raise traitlets.TraitError(
                f"step is {proposal['value']}; expected 0 (the prompt) to {self.n_steps}."
            )
        return proposal["value"]

    @property
    def computed(self) -> list[int]:
        """Rows computed at each step so far."""
        return [self._computed(i) for i in range(self.step + 1)]

    def _computed(self, step: int) -> int:
        length = self.n_prompt + step
        return 1 if self.cached and step else length

    def words(self) -> str:
        """The step's numbers."""
        length, new = self.n_prompt + self.step, self._computed(self.step)
        way = "With a cache" if self.cached else "Without a cache"
        return (
            f"{way}, step {self.step}: {new} of {length} rows computed, {length - new} reused. "
            f"Computed so far: {sum(self.computed)}."
        )

    def picture(self) -> str:
        """The grid, with all steps up to `step` filled in."""
        n_tokens = len(self.tokens)
        width, height = max(_LEFT + _CELL * n_tokens + 48, 540), _TOP + _CELL * self.n_steps + 66
        parts = []
        for column, token in enumerate(self.tokens):
            x, new = _LEFT + _CELL * column + _CELL / 2 + 4, column >= self.n_prompt
            parts.append(svg.text(x, _TOP - 6, svg.visible(token), bold=new, turn=-60))
        for row in range(self.n_steps + 1):
            y, name = _TOP + _CELL * row, f"step {row}" if row else "prompt"
            parts.append(svg.text(_LEFT - 8, y + 15, name, anchor="end"))
            parts += [
                _cell(_LEFT + _CELL * column, y, self._state(row, column))
                for column in range(n_tokens)
            ]
        for x, state, said in (
            (_LEFT, "computed", "computed for the first time"),
            (_LEFT + 200, "again", "again"),
            (_LEFT + 280, "reused", "reused from the cache"),
        ):
            parts.append(_cell(x, height - 28, state))
            parts.append(svg.text(x + _CELL + 6, height - 13, said))
        how = "with" if self.cached else "without"
        title = f"Keys computed and reused up to step {self.step}, {how} a cache"
        return svg.page(width, height, title, parts)

    def _state(self, row: int, column: int) -> str:
        length = self.n_prompt + row
        if row > self.step or column >= length:
            return "empty"
        if row == 0 or column == length - 1:
            return "computed"
        return "reused" if self.cached else "again"


def _cell(x: float, y: float, state: str) -> str:
    """A square; a dot or a line in it, so that colour is not all that tells them apart."""
    square = svg.box(x, y, _CELL - 2, _CELL - 2, COLOURS[state], name=state)
    if state == "computed":
        return square + svg.dot(x + 10, y + 10, 3, "white")
    if state == "again":
        return square + svg.line(x + 4, y + 10, x + 16, y + 10, "white", 2)
    return square
