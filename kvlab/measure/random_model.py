"""A model without a checkpoint: small, of random weights, where only shapes and laws matter."""

from __future__ import annotations

import torch

from kvlab.config import ModelConfig
from kvlab.model import Transformer

SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "n_layers": 2, "n_heads": 4,
    "n_kv_heads": 2, "head_dim": 16, "max_positions": 8192,
}  # fmt: skip


def random_model(
    seed: int = 0, *, dtype: torch.dtype = torch.float64, spread: float = 1.5, **sizes: object
) -> Transformer:
    """A Llama of two layers, two KV heads and four query heads; `sizes` are a ModelConfig's fields.

    Weights are drawn with a deviation of `spread` over the root of their inputs, large enough that
    tokens differ and attention is not uniform. The caller's own chance is left alone.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # biases are as layers draw them
        model = Transformer(ModelConfig(**{**SIZES, **sizes})).to(dtype).requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() == 2:
            scale = weight.shape[1] ** -0.5
            weight.copy_(torch.randn(weight.shape, generator=draw, dtype=dtype) * scale * spread)
    return model.eval()
