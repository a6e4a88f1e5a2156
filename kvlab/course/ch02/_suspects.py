"""What 2.3 and 2.4 share: one head, and functions of texts x_BSC made with it, clean and leaking.

B texts, S queries and slots, C width of a token's vector.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kvlab.course.author import LentFunction

Attention = Callable[[Tensor], Tensor]
MAX_NUMBERS, MAX_AXIS = 2**12, 64


def lent(function: Attention) -> LentFunction:
    """The function for an answer to call, with inputs of a bounded size.

    Each axis is bounded as well: a text without texts in it has no numbers, and its mask S x S.
    """

    def call(x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError("expected one tensor of floating-point numbers")
        if x.numel() > MAX_NUMBERS or not all(0 < n <= MAX_AXIS for n in x.shape):
            raise ValueError(
                f"a tensor of shape {tuple(x.shape)} came; expected 1 to {MAX_AXIS} along each axis "
                f"and at most {MAX_NUMBERS} numbers"
            )
        return function(x.double())

    return LentFunction(call)


class Head:
    """One head over texts x_BSC, whose parts the suspects put together.

    Inputs pass through tanh, so that no change of a token makes a score overflow.
    """

    def __init__(self, width: int, seed: int) -> None:
        torch_rng = torch.Generator().manual_seed(seed)
        scale = 1.5 * width**-0.5
        w = torch.randn(3, width, width, generator=torch_rng, dtype=torch.float64) * scale
        self._w_q, self._w_k, self._w_v = w

    def scores(self, x_BSC: Tensor) -> Tensor:
        x_BSC = x_BSC.tanh()
        return (x_BSC @ self._w_q) @ (x_BSC @ self._w_k).mT / x_BSC.shape[-1] ** 0.5

    def values(self, x_BSC: Tensor) -> Tensor:
        return x_BSC.tanh() @ self._w_v

    def masked(self, allowed: Callable[[int], Tensor], hidden: float = float("-inf")) -> Attention:
        """Attention over what is allowed in a text of n tokens; a row with nothing to see is 0."""

        def attention(x_BSC: Tensor) -> Tensor:
            scores_BST = self.scores(x_BSC).masked_fill(~allowed(x_BSC.shape[1]), hidden)
            return scores_BST.softmax(-1).nan_to_num(0.0) @ self.values(x_BSC)

        return attention

    def one_by_one(self, x_BSC: Tensor) -> Tensor:
        """Clean: each query meets its own beginning of the text, without a mask."""
        rows = []
        for s in range(x_BSC.shape[1]):
            start_BSC = x_BSC[:, : s + 1]
            rows.append((self.scores(start_BSC)[:, -1:].softmax(-1) @ self.values(start_BSC))[:, 0])
        return torch.stack(rows, dim=1)

    def masked_after(self, x_BSC: Tensor) -> Tensor:
        """What is struck out after the softmax was in the denominator: a leak."""
        return self.scores(x_BSC).softmax(-1).tril() @ self.values(x_BSC)

    def all_minus_later(self, x_BSC: Tensor) -> Tensor:
        """Clean but for rounding: the sum over everything, less the sum over what comes later."""
        mass_BST, v_BSC = 1e3 * self.scores(x_BSC).exp(), self.values(x_BSC)
        later_BST = mass_BST.triu(1)
        mixed_BSC = mass_BST @ v_BSC - later_BST @ v_BSC
        return mixed_BSC / (mass_BST.sum(-1) - later_BST.sum(-1))[..., None]


def square(n: int, shift: int = 0) -> Tensor:
    """Causal for shift 0; `shift` more slots are seen."""
    return torch.ones(n, n, dtype=torch.bool).tril(shift)


def off_by_one(n: int) -> Tensor:
    """Each query sees one token too many."""
    return square(n, 1)


def window(n: int) -> Tensor:
    """Each query and the two before it."""
    return square(n) & ~square(n, -3)


def row_open(row: int, n_rows: int | None = 1) -> Callable[[int], Tensor]:
    """Causal, but for one row (or all from it onwards: None), which sees everything."""

    def allowed(n: int) -> Tensor:
        allowed_ST = square(n)
        allowed_ST[row : None if n_rows is None else row + n_rows] = True
        return allowed_ST

    return allowed
