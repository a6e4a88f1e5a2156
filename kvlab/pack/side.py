"""Keys, or values, of a packed cache: dense slots, and the body as a rule holds it.

L layers, B rows of the batch, G key/value heads, T slots, S new tokens, D head width.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from kvlab.pack.rule import Rule
from kvlab.pack.window import Entry, Stretch

# tokens that are packed at once, so that a long prompt needs little memory beside it
_CHUNK = 1024


class Side:
    """Memory is taken once: `dense`, (L, B, G, slots, D), and `body`, the parts that the rule makes
    of tokens, each (L, B, G, tokens / unit, ...)."""

    def __init__(self, rule: Rule, dense_LBGTD: Tensor, n_body: int) -> None:
        self.rule, self.dense = rule, dense_LBGTD
        self.width = dense_LBGTD.shape[-1]
        self.unit_bytes = rule.unit_bytes(self.width, dense_LBGTD.dtype)
        one = rule.encode(dense_LBGTD.new_zeros((1, 1, rule.unit, self.width)))
        lead = (*dense_LBGTD.shape[:3], n_body // rule.unit)
        self.body = tuple(part.new_zeros((*lead, *part.shape[3:])) for part in one)

    @property
    def allocated_bytes(self) -> int:
        return self.dense.nbytes + sum(part.nbytes for part in self.body)

    def shrink(self, n_body: int) -> None:
        """Move the body to memory for so many tokens."""
        self.body = tuple(part[:, :, :, : n_body // self.rule.unit].clone() for part in self.body)

    def fork(self) -> Side:
        twin = copy(self)
        twin.dense, twin.body = self.dense.clone(), tuple(part.clone() for part in self.body)
        return twin

    def pack(
        self, layer: int, how: Entry, stretch: Stretch, x_BGSD: Tensor, pos_BGT: Tensor
    ) -> None:
        """Hold the tokens that leave the tail, and new ones behind them, by the rule.

        Shapes: x_BGSD are all new tokens, pos_BGT the positions of those that are packed.
        """
        rule, total = self.rule, how.leaving + how.through
        stored = self.dense[layer, :, :, stretch.tail : stretch.tail + how.leaving]
        sources = [stored, x_BGSD[:, :, how.to_sinks : how.to_sinks + how.through]]
        chunk = max(1, _CHUNK // rule.unit) * rule.unit
        for low in range(0, total, chunk):
            x_BGTD, of_BGT = _span(sources, low, low + chunk), pos_BGT[:, :, low : low + chunk]
            if rule.unit > 1:  # padding must not sway what a group keeps
                x_BGTD = x_BGTD.where(of_BGT[..., None] >= 0, 0)
            start = (stretch.packed + low) // rule.unit
            for part, new in zip(self.body, rule.encode(x_BGTD), strict=True):
                part[layer, :, :, start : start + new.shape[2]] = new

    def store(self, layer: int, how: Entry, used: int, x_BGSD: Tensor) -> None:
        """Put the new tokens that stay dense behind those that do, once the others are packed."""
        dense_BGTD = self.dense[layer]
        if how.to_sinks:
            dense_BGTD[:, :, used : used + how.to_sinks] = x_BGSD[:, :, : how.to_sinks]
        join = how.to + how.staying
        if how.to != how.begin:
            moved = dense_BGTD[:, :, how.begin : how.begin + how.staying]
            dense_BGTD[:, :, how.to : join] = moved.clone() if join > how.begin else moved
        new_BGSD = x_BGSD[:, :, x_BGSD.shape[2] - how.joining :]
        dense_BGTD[:, :, join : join + how.joining] = new_BGSD

    def unpack(self, layer: int, sinks: int, stretch: Stretch, out_BGTD: Tensor) -> None:
        """Write a layer's used slots, as many as `out_BGTD` has."""
        used, last = out_BGTD.shape[2], sinks + stretch.packed
        dense_BGTD = self.dense[layer]
        if sinks:  # torch calls what nothing was written to a leaf, and then refuses to write
            out_BGTD[:, :, :sinks] = dense_BGTD[:, :, :sinks]
        if stretch.packed:
            n_units = stretch.packed // self.rule.unit
            parts = tuple(part[layer, :, :, :n_units] for part in self.body)
            out_BGTD[:, :, sinks:last] = self.rule.decode(parts, self.width)
        out_BGTD[:, :, last:] = dense_BGTD[:, :, stretch.tail : stretch.tail + used - last]


def _span(pieces: list[Tensor], low: int, high: int) -> Tensor:
    """Tokens low to high of pieces that follow each other in time."""
    found, start = [], 0
    for piece in pieces:
        stop = start + piece.shape[2]
        if low < stop and start < high:
            found.append(piece[:, :, max(0, low - start) : high - start])
        start = stop
    return found[0] if len(found) == 1 else torch.cat(found, 2)
