"""Tensor parallel, from outside: each process keeps its share of every layer's matrices.

The matrices at the entrance of attention and MLP are cut by outputs: q, k and v by heads, gate and
up by numbers. Those at the exit, o and down, are cut by inputs, so that what a process computes is
one term of a sum. The sum over the processes is the only thing that they exchange in a layer: once
after attention, once after the MLP. The vocabulary is cut by tokens.

B rows, S new tokens, C model width, V vocabulary, W the share of it that one process holds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvlab.config import ModelConfig
from kvlab.model import MLP, Attention, Layer
from kvlab.parallel.mesh import Mesh
from kvlab.parallel.shares import Share, split


class VocabularyShare(nn.Module):
    """An embedding of which each process holds the rows of some tokens.

    A token that others hold is a row of zeros here, so that the sum is the embedding.
    """

    def __init__(self, weight_VC: Tensor, n_tokens: int, own: range, mesh: Mesh) -> None:
        super().__init__()
        self.weight = _kept(weight_VC)
        self.n_tokens, self.own, self.mesh = n_tokens, own, mesh

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """Shapes: tokens_BS -> x_BSC. Raises: IndexError for a token that nobody holds."""
        here = (tokens_BS >= self.own.start) & (tokens_BS < self.own.stop)
        known = (tokens_BS >= 0) & (tokens_BS < self.n_tokens)
        rows_BS = (tokens_BS - self.own.start).masked_fill(known & ~here, 0)
        x_BSC = F.embedding(rows_BS, self.weight).masked_fill(~here[..., None], 0)
        return self.mesh.sum(x_BSC)


def split_layer_(layer: Layer, own: Share, mesh: Mesh) -> None:
    """Leave a layer its share of heads and MLP, and let it be summed at both halves' ends."""
    attention: Attention = layer.self_attn
    mlp: MLP = layer.mlp
    width = attention.head_dim
    keep_outputs_(attention.q_proj, own.heads, width)
    keep_outputs_(attention.k_proj, own.kv_heads, width)
    keep_outputs_(attention.v_proj, own.kv_heads, width)
    keep_outputs_(mlp.gate_proj, own.mlp)
    keep_outputs_(mlp.up_proj, own.mlp)
    for linear, inputs, size in ((attention.o_proj, own.heads, width), (mlp.down_proj, own.mlp, 1)):
        keep_inputs_(linear, inputs, size, has_bias=mesh.tp_rank == 0)
        linear.register_forward_hook(lambda _module, _given, x_BSC: mesh.sum(x_BSC))


def keep_outputs_(linear: nn.Linear, own: range, size: int = 1) -> None:
    """Leave a matrix these outputs, of `size` numbers each."""
    kept = slice(own.start * size, own.stop * size)
    linear.weight, linear.out_features = _kept(linear.weight[kept]), len(own) * size
    if linear.bias is not None:
        linear.bias = _kept(linear.bias[kept])


def keep_inputs_(linear: nn.Linear, own: range, size: int, *, has_bias: bool) -> None:
    """Leave a matrix these inputs. Its output is summed, so that one process alone has the bias."""
    kept = slice(own.start * size, own.stop * size)
    linear.weight, linear.in_features = _kept(linear.weight[:, kept]), len(own) * size
    if not has_bias:
        linear.bias = None


def whole_logits(part: Tensor, config: ModelConfig, mesh: Mesh) -> Tensor:
    """Logits over the vocabulary from those over each process's share of it.

    Shares differ by one where they must, and what is exchanged is of one size: the rest is padding.
    Shapes: (..., W) -> (..., V).
    """
    sizes = [len(own) for own in split(config.vocab_size, mesh.tp)]
    parts = mesh.gather(F.pad(part, (0, max(sizes) - part.shape[-1])))
    return torch.cat([x[..., :n] for x, n in zip(parts, sizes, strict=True)], dim=-1)


def _kept(weight: Tensor) -> nn.Parameter:
    """A piece of a weight in memory of its own, so that the rest can go."""
    return nn.Parameter(weight.detach().clone(), requires_grad=False)
