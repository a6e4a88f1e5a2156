"""What laws are tried on: texts that a policy prunes, alone and padded, and what that leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.model import Transformer
from kvlab.prune import Evict, Policy, Pruner, Sparsify, parts_of

LONGEST = 4096


@dataclass(frozen=True)
class Case:
    """A policy, a model, and texts of three lengths that the policy can prune."""

    model: Transformer
    policy: Policy
    texts: list[list[int]]

    @classmethod
    def of(cls, model: Transformer, policy: Policy) -> Case:
        least = max(_least(part) for part in parts_of(policy))
        if least + 30 > min(LONGEST, model.config.max_positions):
            raise ValueError(
                f"{policy} thins nothing in texts under {least} tokens, which is too long to "
                "check. Check it with a smaller budget and window: the laws are the same."
            )
        draw = torch.Generator().manual_seed(least)
        texts = [
            torch.randint(1, model.config.vocab_size, (least + more,), generator=draw).tolist()
            for more in (23, 0, 9)
        ]
        return cls(model, policy, texts)

    def pruned(self, texts: Sequence[list[int]], pieces: int = 1) -> KVCache:
        """A cache after the texts were read, in so many pieces, and pruned.

        Padding stands on both sides, and is large: nothing may look at it.
        """
        width = max(map(len, texts))
        before = [(width - len(text)) // 2 for text in texts]
        rows = [
            [0] * n + text + [0] * (width - n - len(text))
            for n, text in zip(before, texts, strict=True)
        ]
        tokens_BS = torch.tensor(rows, device=self.model.device)
        slot_S = torch.arange(width, device=self.model.device)
        pos_BS = torch.stack([slot_S - n for n in before])
        length_B1 = torch.tensor([[len(text)] for text in texts], device=self.model.device)
        pos_BS = pos_BS.where((pos_BS >= 0) & (pos_BS < length_B1), -1)
        cache = self.model.new_cache(len(texts), width)
        with Pruner(self.model, cache, self.policy) as pruner:
            step = -(-width // pieces)
            for at in range(0, width, step):
                pos = pos_BS[:, at : at + step] if len(texts) > 1 else None
                self.model.hidden(tokens_BS[:, at : at + step], pos, cache)
        empty_BT = pos_BS < 0
        for store in (cache.k_LBGTD, cache.v_LBGTD):
            store[:] = store.where(~empty_BT[None, :, None, :, None], 100.0)
        pruner.prune()
        return cache


def _least(part: Evict | Sparsify) -> int:
    """A length of text from which on a policy has something to do, and its score enough to see."""
    dense = part.sink + part.recent
    if isinstance(part, Sparsify):
        return dense + 160
    least = max(dense + 24, part.needs.queries + 40 if part.needs.queries <= 64 else 0, 64)
    if type(part.budget) is int:
        return max(least, part.budget + 24)
    return max(least, math.ceil((dense + 4) / part.budget))


def stays(cache: KVCache, row: int = 0) -> Iterator[tuple[int, int, Tensor, Tensor, Tensor]]:
    """Layer, head, the positions left in their slots' order, and which elements are not 0."""
    for layer, used in enumerate(cache.used_L):
        for head, pos_T in enumerate(cache.pos_LBGT[layer, row, :, :used]):
            there = pos_T >= 0
            k, v = (
                store[layer, row, head, :used][there] != 0
                for store in (cache.k_LBGTD, cache.v_LBGTD)
            )
            yield layer, head, pos_T[there], k, v


def difference(a: KVCache, row_a: int, b: KVCache, row_b: int) -> str | None:
    """Where two caches hold different tokens or elements first, in words."""
    for one, other in zip(stays(a, row_a), stays(b, row_b), strict=True):
        (layer, head, pos, *masks), (_, _, pos_b, *masks_b) = one, other
        at = f"In layer {layer}, head {head}"
        if pos.tolist() != pos_b.tolist():
            one_T, other_T = set(pos.tolist()), set(pos_b.tolist())
            first, second = few(sorted(one_T - other_T)), few(sorted(other_T - one_T))
            return f"{at} tokens {first} stay in the first case only, {second} in the second only"
        for what, mask, mask_b in zip(("keys", "values"), masks, masks_b, strict=True):
            if not torch.equal(mask, mask_b):
                token = int(pos[(mask != mask_b).any(-1)][0])
                return f"{at} other elements of the {what} stay, first in token {token}"
    return None


def few(some: Sequence[int]) -> str:
    text = ", ".join(map(str, some[:4])) or "none"
    return text + (", ..." if len(some) > 4 else "")
