"""Ways to hold a text's keys and values, each with the step that reads it fastest here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab import Transformer, compiled_decode, decode
from kvlab.cache import Cache
from kvlab.pack import CodesPerChannel, CodesPerToken, PerToken
from kvlab.pack.rows import n_kept

KEPT = 0.25  # of the tokens, where some are evicted
SPARSITY = 0.7  # of the numbers, where rows are packed
BASE = "dense"
GROUP = 32  # channels that share a scale


@dataclass(frozen=True)
class Way:
    """`dtype` is the whole model's; `rules` make an empty cache's keywords of a head's width;
    `kept` is the share of the tokens that stay, and `plain` asks for the plain step."""

    name: str
    dtype: torch.dtype = torch.float32
    rules: Callable[[int], dict] | None = None
    kept: float = 1.0
    plain: bool = False
    says: str = ""

    def cache(self, model: Transformer, n_tokens: int, room: int) -> Cache:
        """A cache after `n_tokens`, of random numbers, which cost a step as much as real ones.

        What is evicted is gone from memory; `room` is how many more tokens fit.
        """
        cache = self.empty(model, n_tokens + room)
        fill(cache, n_tokens)
        if self.kept < 1:
            n = max(1, round(self.kept * n_tokens))
            stay_BGT = torch.zeros(1, cache.n_kv_heads, n_tokens, dtype=torch.bool)
            stay_BGT[..., torch.linspace(0, n_tokens - 1, n).round().long()] = True
            for layer in range(cache.n_layers):
                cache.keep(layer, stay_BGT)
            cache.shrink(cache.used_L[0] + room)
        return cache

    def empty(self, model: Transformer, capacity: int) -> Cache:
        how = self.rules(model.config.head_dim) if self.rules else {}
        return model.new_cache(1, capacity, **how)

    def step(self, model: Transformer, cache: Cache) -> tuple[Callable, str]:
        """The compiled step, or the plain one where there is none for such a cache."""
        if not self.plain:
            with suppress(ValueError):
                return compiled_decode(model, cache), "compiled"
        return decode, "plain"


def _codes(bits: int) -> Callable[[int], dict]:
    def rules(width: int) -> dict:
        group = GROUP if width % GROUP == 0 else width
        return {"k": CodesPerChannel(bits), "v": CodesPerToken(bits, group), "sink": 4}

    return rules


def _rows(width: int) -> dict:
    rule = PerToken(n_kept(SPARSITY, width))
    return {"k": rule, "v": rule, "sink": 4}


WAYS = {
    way.name: way
    for way in (
        Way(BASE, says="keys and values as the model makes them, in float32"),
        Way("dense, plain", plain=True, says="the same, by the step that is not compiled"),
        Way("float16", torch.float16, says="the whole model in float16"),
        Way("int8", rules=_codes(8), says="codes of 8 bits, keys per channel, values per token"),
        Way("4 bits", rules=_codes(4), says="codes of 4 bits, the same way"),
        Way("evicted", kept=KEPT, says=f"{1 - KEPT:.0%} of the tokens evicted, memory given back"),
        Way("packed", rules=_rows, says=f"rows without {SPARSITY:.0%} of their numbers"),
    )
}


def fill(cache: Cache, n_tokens: int) -> None:
    """Append random keys and values to an empty cache."""
    draw = torch.Generator().manual_seed(0)
    for layer in range(cache.n_layers):
        cache.append(layer, *_drawn(cache, n_tokens, draw))


def _drawn(cache: Cache, n_tokens: int, draw: torch.Generator) -> Tensor:
    shape = (2, cache.batch, cache.n_kv_heads, n_tokens, cache.head_dim)
    return torch.randn(shape, generator=draw).to(cache.dtype)
