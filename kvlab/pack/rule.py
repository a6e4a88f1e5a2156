"""What a rule is: one way to hold keys or values, for strangers who write their own."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Rule(Protocol):
    """One way to hold keys or values; a class of your own with these can be given as well.

    `Sparsify` needs no more than `unit` and `mask`; what such a rule leaves is counted as uneven
    rows. A rule that also stores something once for all tokens of a head says so in
    `head_bytes(width)`. docs/how-to-add-a-format.md writes a whole one.
    """

    @property
    def unit(self) -> int:
        """How many tokens that follow each other are held together; at least 1."""

    def mask(self, score_BGTD: Tensor) -> Tensor:
        """Which numbers stay: exactly as many in every row, the best by score, of equals the first.

        Shapes: (B, G, T, D) -> booleans of the same shape; T is a multiple of `unit`.
        """

    def encode(self, x_BGTD: Tensor) -> tuple[Tensor, ...]:
        """What is stored of numbers, pruned by their size where the rule prunes.

        Shapes: (B, G, T, D), T a multiple of `unit` -> parts of (B, G, T / unit, ...): the third
        axis is time, so that a cache can write groups of tokens one behind the other. Groups do not
        depend on each other.
        Raises: ValueError for a width that it cannot hold, and for NaN where it has to rank.
        """

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        """The numbers again, 0 where one was dropped. Shapes: -> (B, G, T, D), D = `width`."""

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        """Bytes of `unit` tokens of one head, all parts counted, of numbers of this type."""
