"""How many bytes a method's leftovers take, all that is stored counted.

B prompts, G key/value heads, T slots, D head width.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.model import Transformer
from kvlab.pack import Dense, Rule, rows
from kvlab.pack.rows import n_kept
from kvlab.prune import (
    Sparsify,
    per_channel,
    per_token,
    seen_in,
    unwrapped,
    whole_channels,
)
from kvlab.quality.methods import Method, Packed, parts_of


def storage(model: Transformer) -> torch.dtype:
    """The type that bytes are counted in: the model's own where it has 16 bits, else float16."""
    return model.dtype if model.dtype.itemsize == 2 else torch.float16


def held_bytes(cache: KVCache, method: Method | None, dtype: torch.dtype) -> int:
    """Bytes of what a method left, packed: all values, marks, scales and zeros, sinks and window.

    Evicted tokens cost nothing and others are counted by head. Pruned elements are counted in the
    format of `pack.rows`; where a reader's own selection, or two rules on one side, keep uneven
    rows, as values, a bitmap and an offset of two bytes a row. Positions are not counted, as in
    KVCache.
    """
    rules = [[], []]
    for part in parts_of(method) if method is not None else ():
        for which, rule in enumerate((part.k, part.v) if isinstance(part, Sparsify) else ()):
            if rule is not None and rule.sparsity:
                rules[which].append((rule, part.sink, part.recent))
    seen_B, total = seen_in(cache), 0
    for layer, used in enumerate(cache.used_L):
        pos_BGT = cache.pos_LBGT[layer, :, :, :used]
        for which, store in enumerate((cache.k_LBGTD, cache.v_LBGTD)):
            held = (method.k_rule, method.v_rule)[which] if isinstance(method, Packed) else Dense()
            if not isinstance(held, Dense):
                total += _rule_bytes(method, held, pos_BGT, store.shape[-1], dtype)
            else:
                x_BGTD = store[layer, :, :, :used]
                total += _side_bytes(rules[which], x_BGTD, pos_BGT, seen_B, dtype)
    return total


def _rule_bytes(method: Packed, rule: Rule, pos_BGT: Tensor, width: int, dtype) -> int:
    total = 0
    for used in (pos_BGT >= 0).sum(-1).flatten().tolist():
        packed = method.packed(used)
        total += packed // rule.unit * rule.unit_bytes(width, dtype)
        total += (used - packed) * width * dtype.itemsize
    return total


def _side_bytes(rules: list, x_BGTD: Tensor, pos_BGT: Tensor, seen_B, dtype) -> int:
    """Bytes of one layer's keys, or values, that the rules thinned."""
    width, valid_BGT = x_BGTD.shape[-1], pos_BGT >= 0
    row = width * dtype.itemsize
    if not rules:
        return int(valid_BGT.sum()) * row
    if len(rules) > 1:
        n = int(valid_BGT.sum())
        kept = int(((x_BGTD != 0) & valid_BGT[..., None]).sum())
        return kept * dtype.itemsize + n * (-(-width // 8) + 2)
    ((rule, sink, recent),) = rules
    seen_B11 = torch.tensor(seen_B, device=pos_BGT.device)[:, None, None]
    ripe_BGT = (pos_BGT >= sink) & (seen_B11 - 1 - pos_BGT >= recent)
    select, settings = unwrapped(rule.select)
    if select is per_channel:
        group = settings.get("group", 32)
        number_BGT = (pos_BGT - sink).div(group, rounding_mode="floor")
        ripe_BGT &= (number_BGT + 1) * group <= seen_B11 - recent - sink
    n_ripe = int(ripe_BGT.sum())
    dense = (int(valid_BGT.sum()) - n_ripe) * row
    n = n_kept(rule.sparsity, width)
    if select is per_token:
        return dense + n_ripe * rows.row_bytes(width, n, dtype)
    if select is whole_channels:
        names = int(ripe_BGT.any(-1).sum()) * -(-width // 8)  # which channels each head keeps
        return dense + n_ripe * n * dtype.itemsize + names
    if select is per_channel:
        return dense + width * _group_bytes(number_BGT, ripe_BGT, rule.sparsity, dtype)
    kept = int(((x_BGTD != 0) & ripe_BGT[..., None]).sum())
    return dense + kept * dtype.itemsize + n_ripe * (-(-width // 8) + 2)


def _group_bytes(number_BGT: Tensor, ripe_BGT: Tensor, sparsity: float, dtype) -> int:
    """Bytes of one channel over all its groups of tokens, some of which eviction made smaller."""
    head_BG1 = torch.arange(ripe_BGT[..., 0].numel(), device=ripe_BGT.device)
    most = max(1, ripe_BGT.shape[-1] + int(number_BGT.max()) + 1)
    key = head_BG1.view(*ripe_BGT.shape[:2], 1) * most + number_BGT
    sizes = Counter(torch.bincount(key[ripe_BGT]).tolist()) if bool(ripe_BGT.any()) else Counter()
    del sizes[0]
    return sum(
        times * rows.row_bytes(-(-size // 8) * 8, n_kept(sparsity, size), dtype)
        for size, times in sizes.items()
    )
