"""How a step reads blocks: single tokens together, and pieces of a length together.

B requests that are read together, H query heads, G key/value heads, R = H / G, S new tokens, T
slots of the longest request, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.kernels import as_numpy
from kvlab.serve.store import BlockStore, Part

_WIDE = np.empty(0, np.float32), np.empty(0, np.float64)  # the types that the kernel works in


class InPlace:
    """Single tokens of some requests, by the kernel that reads blocks where they lie."""

    def __init__(self, store: BlockStore, parts: Sequence[Part]) -> None:
        from kvlab.kernels import blocks

        self._attend, self._store = blocks.attend, store
        used = [p.held + 1 for p in parts]
        self._used_B = np.array(used)
        n_blocks = -(-max(used) // store.size)
        self._table_BK = np.zeros((len(parts), n_blocks), np.int64)  # only its own are looked at
        for table_K, part in zip(self._table_BK, parts, strict=True):
            table_K[: len(part.table)] = part.table[:n_blocks]
        self._like = _WIDE[store.k_LGND.dtype == torch.float64]

    def __call__(self, layer: int, q_BHD: Tensor, k_BGD: Tensor, v_BGD: Tensor) -> Tensor:
        """Write keys and values, and read all. Shapes: out_BHD."""
        out_BHD = torch.empty(q_BHD.shape, dtype=q_BHD.dtype)
        new = as_numpy(q_BHD), as_numpy(k_BGD), as_numpy(v_BGD)
        self.attend(layer, new, as_numpy(out_BHD))
        return out_BHD

    def attend(self, layer: int, new: tuple[np.ndarray, ...], out_BHD: np.ndarray) -> None:
        """The same on arrays, the new ones as (q_BHD, k_BGD, v_BGD)."""
        self._attend(
            new, *self._store.arrays[layer], self._table_BK, self._used_B, self._store.size,
            self._like, out_BHD,
        )  # fmt: skip


class Gathered:
    """The same where there is no such kernel: gathered, padded to the longest."""

    def __init__(self, store: BlockStore, parts: Sequence[Part]) -> None:
        self._store = store
        most = max(p.held + 1 for p in parts)
        self._table_BK = store.tables([p.table for p in parts], most)
        self._seen_B11T = seen(store, parts)

    def __call__(self, layer: int, q_BHD: Tensor, k_BGD: Tensor, v_BGD: Tensor) -> Tensor:
        """Read all, of which the new ones are written already. Shapes: out_BHD."""
        k_BGTD, v_BGTD = self._store.gathered(layer, self._table_BK)
        q_BGRD = q_BHD.unflatten(1, (k_BGTD.shape[1], -1))
        return F.scaled_dot_product_attention(
            q_BGRD, k_BGTD, v_BGTD, attn_mask=self._seen_B11T
        ).flatten(1, 2)


class Pieces:
    """Pieces of some requests, of the same length and after the same number of tokens.

    The beginning of a text is read from what was just computed, a later piece from its blocks.
    """

    def __init__(self, store: BlockStore, parts: Sequence[Part]) -> None:
        self._store, self._table_BK, self._n_new = store, None, parts[0].n_new
        if parts[0].held:
            self._table_BK = store.tables([p.table for p in parts], parts[0].held + self._n_new)
            self._seen_B1ST = seen(store, parts)

    def __call__(self, layer: int, q_SHD: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> Tensor:
        """Read all, of which the new ones are written already. Shapes: out_SHD."""
        q_BHSD, how = self._by_request(q_SHD), {"enable_gqa": q_SHD.shape[1] != k_SGD.shape[1]}
        if self._table_BK is None:
            kv, how["is_causal"] = [self._by_request(x_SGD) for x_SGD in (k_SGD, v_SGD)], True
        else:
            kv, how["attn_mask"] = self._store.gathered(layer, self._table_BK), self._seen_B1ST
        out_BHSD = F.scaled_dot_product_attention(q_BHSD, *kv, **how)
        return out_BHSD.transpose(1, 2).flatten(0, 1)

    def _by_request(self, x_SHD: Tensor) -> Tensor:
        return x_SHD.unflatten(0, (-1, self._n_new)).transpose(1, 2)


def seen(store: BlockStore, parts: Sequence[Part]) -> Tensor:
    """Which slots of their tables the new tokens of some parts see. Shapes: (B, 1, S, T)."""
    most, n_new, device = max(p.held + p.n_new for p in parts), parts[0].n_new, store.device
    slot_T = torch.arange(-(-most // store.size) * store.size, device=device)
    first_B = torch.tensor([p.held for p in parts], device=device)
    pos_BS = first_B[:, None] + torch.arange(n_new, device=device)
    return (slot_T <= pos_BS[..., None])[:, None]
