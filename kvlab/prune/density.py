"""What a cache has left, counted.

L layers, B rows, G key/value heads, T slots, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvlab import checks
from kvlab.cache import KVCache

_slots = checks.named(checks.has, "next_pos_B", "a cache with slots, as KVCache")


@checks.takes(cache=_slots)
def seen_in(cache: KVCache) -> tuple[int, ...]:
    """Tokens that each row was given, without padding. Asks the device where rows are padded."""
    if cache.counts_positions:
        return (cache.seen,) * cache.batch
    return tuple(cache.next_pos_B().tolist())


@dataclass(frozen=True)
class Density:
    """What is left: tokens of those seen, and the elements that are not zero of the kept tokens."""

    tokens: float
    k: float
    v: float


@checks.takes(cache=KVCache)
def density(cache: KVCache) -> Density:
    """The true shares of tokens and elements that are left. Reads the device."""
    seen = sum(seen_in(cache)) * cache.n_layers * cache.k_LBGTD.shape[2]
    tokens = elements = 0
    zeros = [0, 0]
    for i, used in enumerate(cache.used_L):
        valid_BGT = cache.pos_LBGT[i, :, :, :used] >= 0
        tokens += int(valid_BGT.sum())
        kv = cache.k_LBGTD[i, :, :, :used], cache.v_LBGTD[i, :, :, :used]
        for j, x_BGTD in enumerate(kv):
            zeros[j] += int(((x_BGTD == 0) & valid_BGT[..., None]).sum())
    elements = max(1, tokens * cache.k_LBGTD.shape[-1])
    return Density(tokens / max(1, seen), *(1 - n / elements for n in zeros))
