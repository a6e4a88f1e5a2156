"""A grid to click: which key each query may use, and what it makes of it.

L layers, H query heads, S queries, T keys; here the two count the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import traitlets
from torch import Tensor

from kvlab.view import svg
from kvlab.view.panel import Panel

_LEFT, _TOP, _ROOM, _BARS = 92, 96, 400, 210
HIDDEN = "#D9D9D9"


class AttentionGrid(Panel):
    """One row per query, one column per key, in every head; a click takes a query and a key.

    Python draws from scores, so that the mask can be taken away: the weights of a row are then the
    softmax over all its scores.
    """

    n_last = traitlets.Int(read_only=True).tag(sync=True)
    last_layer = traitlets.Int(read_only=True).tag(sync=True)
    last_head = traitlets.Int(read_only=True).tag(sync=True)
    query = traitlets.Int(0).tag(
        sync=True, label="query", max="n_last", spoken="query: the position of the row that looks"
    )
    key = traitlets.Int(0).tag(
        sync=True, label="key", max="n_last", spoken="key: the position that is looked at"
    )
    layer = traitlets.Int(0).tag(sync=True, label="layer", max="last_layer")
    head = traitlets.Int(0).tag(sync=True, label="head", max="last_head")
    masked = traitlets.Bool(True).tag(sync=True, label="with the mask")

    def __init__(
        self, tokens: Sequence[str], scores_LHST: Tensor, *, query: int | None = None, **state: int
    ) -> None:
        """`scores_LHST` are scaled scores before the mask, of every token for every token.

        Raises: ValueError when there is not one row and one column of scores per token.
        """
        n = len(tokens)
        if scores_LHST.dim() != 4 or scores_LHST.shape[-2:] != (n, n) or n == 0:
            raise ValueError(
                f"Scores of shape {tuple(scores_LHST.shape)} came with {n} tokens; expected "
                f"(layers, heads, {n}, {n})."
            )
        self.tokens, self._scores_LHST = list(tokens), scores_LHST.detach().double().cpu()
        self.set_trait("n_last", n - 1)
        self.set_trait("last_layer", scores_LHST.shape[0] - 1)
        self.set_trait("last_head", scores_LHST.shape[1] - 1)
        super().__init__(query=n - 1 if query is None else query, **state)

    @traitlets.validate("query", "key", "layer", "head")
    def _is_there(self, proposal) -> int:
        name = proposal["trait"].name
        last = {"layer": self.last_layer, "head": self.last_head}.get(name, self.n_last)
        if not 0 <= proposal["value"] <= last:
            raise traitlets.TraitError(f"{name} is {proposal['value']}; expected 0 to {last}.")
        return proposal["value"]

    @property
    def weights_ST(self) -> Tensor:
        """The attention weights of this layer and head."""
        scores_ST = self._scores_LHST[self.layer, self.head]
        if self.masked:
            later_ST = torch.ones_like(scores_ST, dtype=torch.bool).triu(1)
            scores_ST = scores_ST.masked_fill(later_ST, float("-inf"))
        return scores_ST.softmax(-1)

    def may(self, query: int, key: int) -> bool:
        """Whether a query may use a key."""
        return key <= query or not self.masked

    def words(self) -> str:
        """What the chosen query may use, and what it gives to the chosen key."""
        last = self.query if self.masked else self.n_last
        asks = f"{svg.visible(self.tokens[self.query])} (position {self.query})"
        about = f"{svg.visible(self.tokens[self.key])} (position {self.key})"
        if self.may(self.query, self.key):
            weight = self.weights_ST[self.query, self.key].item()
            given = f"It gives {about} a weight of {weight:.2f}"
            given += ", and that token comes later." if self.key > self.query else "."
        else:
            given = f"It may not look at {about}, which comes later: weight 0."
        how = "with" if self.masked else "without"
        return (
            f"Layer {self.layer}, head {self.head}, {how} the mask: the query of {asks} may use "
            f"the keys and values of positions 0 to {last}. {given}"
        )

    def picture(self) -> str:
        """The grid, and beside it the chosen row as bars."""
        n = len(self.tokens)
        cell = min(44, _ROOM // n)
        side = cell * n
        weights_ST = self.weights_ST.tolist()
        parts = [
            svg.text(_LEFT - 8, _TOP - 10, "query", anchor="end", fill=svg.GREY),
            svg.text(_LEFT, 14, "key", fill=svg.GREY),
            svg.box(_LEFT - 1, _TOP - 1, side, side, HIDDEN),  # shows between cells as thin lines
        ]
        for i, token in enumerate(self.tokens):
            said, middle = svg.visible(token), cell * (i + 0.5)
            chosen = i == self.key
            parts.append(svg.text(_LEFT + middle + 4, _TOP - 6, said, bold=chosen, turn=-60))
            chosen = i == self.query
            y = _TOP + middle + 4
            parts.append(svg.text(_LEFT - 8, y, said, anchor="end", bold=chosen))
        for i in range(n):
            for j in range(n):
                parts.append(self._cell(i, j, cell, weights_ST[i][j]))
        at = _TOP + cell * self.query - 1
        parts.append(svg.box(_LEFT - 1, at, side, cell, "none", edge=svg.INK))
        at_x = _LEFT + cell * self.key - 1
        parts.append(svg.box(at_x, at, cell, cell, "none", edge=svg.ORANGE))
        parts += self._bars(_LEFT + side + 30, cell, weights_ST[self.query])
        width, height = _LEFT + side + 30 + _BARS, max(_TOP + side + 34, 180)
        parts += _legend(_LEFT, height - 22)
        return svg.page(width, height, self.words(), parts)

    def _cell(self, query: int, key: int, cell: int, weight: float) -> str:
        """A square as dark as its weight; one that may not be used is grey and bears a dot."""
        x, y = _LEFT + cell * key, _TOP + cell * query
        allowed = self.may(query, key)
        fill = svg.shade(weight) if allowed else HIDDEN
        name, pick = "seen" if allowed else "hidden", {"query": query, "key": key}
        drawn = svg.box(x, y, cell - 2, cell - 2, fill, name=name, pick=pick)
        return (
            drawn if allowed else drawn + svg.dot(x + cell / 2 - 1, y + cell / 2 - 1, 2, svg.GREY)
        )

    def _bars(self, left: float, cell: int, weights: list[float]) -> list[str]:
        """The chosen query's weights, one bar for each key."""
        said = f"weights of {svg.visible(self.tokens[self.query])}"
        parts = [svg.text(left, 14, said, bold=True)]
        height = min(cell, (_TOP + cell * len(weights) - 26) / len(weights))
        for j, weight in enumerate(weights):
            y = 26 + height * j
            fill = svg.ORANGE if j == self.key else svg.BLUE
            words = svg.visible(self.tokens[j])
            number = f"{weight:.2f}" if self.may(self.query, j) else "hidden"
            middle = y + height / 2 + 4
            parts.append(svg.text(left + 64, middle, words, anchor="end", bold=j == self.key))
            parts.append(svg.box(left + 70, y + 2, 90 * weight, height - 4, fill))
            parts.append(svg.text(left + 76 + 90 * weight, middle, number))
        return parts


def _legend(x: float, y: float) -> list[str]:
    return [
        svg.box(x, y, 14, 14, svg.shade(0.15)),
        svg.box(x + 16, y, 14, 14, svg.shade(0.9)),
        svg.text(x + 36, y + 12, "small and large weight"),
        svg.box(x + 190, y, 14, 14, HIDDEN),
        svg.dot(x + 197, y + 7, 2, svg.GREY),
        svg.text(x + 210, y + 12, "may not be used"),
    ]
