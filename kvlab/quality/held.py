"""How many bytes a method's leftovers take, all that is stored counted.

B prompts, G key/value heads, T slots, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab import checks
from kvlab.cache import KVCache
from kvlab.model import Transformer
from kvlab.pack import Body
from kvlab.prune import seen_in
from kvlab.quality.methods import Method


@checks.takes(model=checks.model)
def storage(model: Transformer) -> torch.dtype:
    """The type that bytes are counted in: the model's own where it has 16 bits, else float16."""
    return model.dtype if model.dtype.itemsize == 2 else torch.float16


@checks.takes(cache=KVCache, dtype=torch.dtype)
def held_bytes(cache: KVCache, method: Method | None, dtype: torch.dtype) -> int:
    """Bytes of what a method left, packed: all values, marks, scales and zeros, sinks and window.

    Evicted tokens cost nothing and others are counted by head, by the bytes of the rule that holds
    them. Where a rule has no form to be stored in, or two rules on one side keep uneven rows, these
    are counted as values, a bitmap and an offset of two bytes a row. Positions are not counted, as
    in KVCache.
    """
    if method is not None and not hasattr(method, "bodies"):
        raise ValueError(
            f"method is {checks.shown(method)}; expected one that says what it holds, such as "
            "Sparsify or Stored, or None."
        )
    sides = ((), ()) if method is None else method.bodies
    seen_B, total = seen_in(cache), 0
    for layer, used in enumerate(cache.used_L):
        pos_BGT = cache.pos_LBGT[layer, :, :, :used]
        for bodies, store in zip(sides, (cache.k_LBGTD, cache.v_LBGTD), strict=True):
            total += _side_bytes(bodies, store[layer, :, :, :used], pos_BGT, seen_B, dtype)
    return total


def _side_bytes(
    bodies: tuple[Body, ...], x_BGTD: Tensor, pos_BGT: Tensor, seen_B: tuple[int, ...], dtype
) -> int:
    """Bytes of one layer's keys, or values."""
    width, there_BGT = x_BGTD.shape[-1], pos_BGT >= 0
    row, n_there = width * dtype.itemsize, int(there_BGT.sum())
    if not bodies:
        return n_there * row
    if len(bodies) > 1:
        return _uneven_bytes(x_BGTD, there_BGT, dtype)
    (body,) = bodies
    tokens_BGT = body.tokens_BGT(pos_BGT, seen_B)
    n_BG = tokens_BGT.sum(-1)
    dense = (n_there - int(n_BG.sum())) * row
    if not hasattr(body.rule, "unit_bytes"):
        return dense + _uneven_bytes(x_BGTD, tokens_BGT, dtype)
    return dense + sum(body.n_bytes(n, width, dtype) for n in n_BG.flatten().tolist())


def _uneven_bytes(x_BGTD: Tensor, tokens_BGT: Tensor, dtype: torch.dtype) -> int:
    """Bytes of rows that keep different numbers: a row says how many it has, and which."""
    kept = int(((x_BGTD != 0) & tokens_BGT[..., None]).sum())
    return kept * dtype.itemsize + int(tokens_BGT.sum()) * (-(-x_BGTD.shape[-1] // 8) + 2)
