"""Pipeline parallel: stages of layers, and what stands in for the ends that a stage lacks.

A row of the residual stream is all that goes from a stage to the next. While a later stage works
on some rows of a batch, an earlier one can work on others: see `micro_batches`.

B rows, S new tokens, C model width, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from kvlab.parallel.mesh import Mesh


class Received(nn.Module):
    """In place of the embedding: what the stage before gives for these tokens."""

    def __init__(self, width: int, like: Tensor, mesh: Mesh) -> None:
        super().__init__()
        self.register_buffer("weight", like.new_empty(0, width))  # tells device and precision
        self.mesh = mesh

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """Shapes: tokens_BS -> x_BSC."""
        return self.mesh.receive((*tokens_BS.shape, self.weight.shape[1]), self.weight)


class Handover(nn.Module):
    """In place of the final norm: what comes goes to the next stage."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__()
        self.mesh = mesh

    def forward(self, x_BSC: Tensor) -> Tensor:
        self.mesh.send(x_BSC)
        return x_BSC


class Elsewhere(nn.Module):
    """In place of the head: zeros that take no memory, since the last stage has the logits."""

    def __init__(self, n_tokens: int) -> None:
        super().__init__()
        self.n_tokens = n_tokens

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (..., C) -> (..., V)."""
        return x.new_zeros(()).expand(*x.shape[:-1], self.n_tokens)
