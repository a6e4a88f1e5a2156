"""Keys and values in blocks, and one forward over tokens of many requests at once.

L layers, B requests, H query heads, G key/value heads, R = H / G, S new tokens of all requests, N
slots of all blocks, T slots of the longest request, D head width.

The tokens of a step stand in one row, one request after the other: what treats each token alone,
which is all of the model but attention, neither knows nor cares whose they are. Attention looks up
where its request's keys lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.protocol import Cache, LayerKV


class Part(NamedTuple):
    """One request's share of a step: its blocks, what is computed of it, and how much is new."""

    table: Sequence[int]
    computed: int
    n_new: int


class BlockStore:
    """Memory for the keys and values of all blocks, of all layers."""

    def __init__(
        self, n_layers: int, n_kv_heads: int, n_blocks: int, size: int, head_dim: int, *,
        dtype: torch.dtype, device: torch.device | str,
    ) -> None:  # fmt: skip
        self.size, self.n_layers = size, n_layers
        with torch.inference_mode(False):
            # one block more than are given out: it is empty for ever, and fills up short tables
            shape = (n_layers, n_kv_heads, (n_blocks + 1) * size, head_dim)
            self.k_LGND = torch.zeros(shape, dtype=dtype, device=device)
            self.v_LGND = torch.zeros_like(self.k_LGND)

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the device pays."""
        return self.k_LGND.nbytes + self.v_LGND.nbytes

    def copy(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy blocks, (from, to), one after the other."""
        for source, target in copies:
            there, here = self._slots(source), self._slots(target)
            for store_LGND in (self.k_LGND, self.v_LGND):
                store_LGND[:, :, here] = store_LGND[:, :, there]

    def _slots(self, block: int) -> slice:
        return slice(block * self.size, (block + 1) * self.size)

    def clear(self, blocks: Sequence[int]) -> None:
        """Empty blocks that are about to be filled.

        What is not seen has the weight 0, but 0 times what another request left there need not be
        0, if that was infinite.
        """
        if blocks:
            blocks_K = torch.tensor(blocks, device=self.k_LGND.device)
            for store_LGND in (self.k_LGND, self.v_LGND):
                store_LGND.unflatten(2, (-1, self.size)).index_fill_(2, blocks_K, 0)

    def tables(self, tables: Sequence[Sequence[int]], n: int) -> Tensor:
        """Tables of the blocks of `n` tokens, filled up with the empty block. Shapes: (B, K)."""
        n_blocks = -(-n // self.size)
        empty = self.k_LGND.shape[2] // self.size - 1
        rows = [[*table[:n_blocks], *[empty] * (n_blocks - len(table))] for table in tables]
        return torch.tensor(rows, device=self.k_LGND.device)

    def gathered(self, layer: int, table_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer as requests have them. Shapes: k_BGTD, v_BGTD."""
        n_rows, n_blocks = table_BK.shape
        found = []
        for store_LGND in (self.k_LGND, self.v_LGND):
            x_GMZD = (
                store_LGND[layer].unflatten(1, (-1, self.size)).index_select(1, table_BK.flatten())
            )
            x_GBTD = x_GMZD.flatten(1, 2).unflatten(1, (n_rows, n_blocks * self.size))
            found.append(x_GBTD.transpose(0, 1))
        return found[0], found[1]


class StepCache(Cache):
    """What the model writes to and reads from while it computes one step.

    Requests of one new token are read together, padded to the longest; others one by one.
    """

    name, why, unread = "rows", "keys lie in blocks", "nothing else can read blocks"

    def __init__(self, store: BlockStore, parts: Sequence[Part]) -> None:
        self.store, self.n_layers = store, store.n_layers
        self.seen = 0  # positions are always given
        self._layer, device, size = 0, store.k_LGND.device, store.size
        pos = [range(p.computed, p.computed + p.n_new) for p in parts]
        slots = [
            p.table[i // size] * size + i % size for p, r in zip(parts, pos, strict=True) for i in r
        ]
        self.pos_1S, self._new_S = torch.tensor([[i for r in pos for i in r], slots], device=device)
        self.pos_1S = self.pos_1S[None]
        starts = [0, *accumulate(p.n_new for p in parts)]
        single = [i for i, p in enumerate(parts) if p.n_new == 1]
        self._single_B = torch.tensor([starts[i] for i in single], device=device)
        if single:
            most = max(parts[i].computed + 1 for i in single)
            self._table_BK = store.tables([parts[i].table for i in single], most)
            self._seen_B11T = self._seen([parts[i] for i in single], device)
        self._longer = [
            (slice(starts[i], starts[i + 1]), store.tables([p.table], p.computed + p.n_new),
             self._seen([p], device))
            for i, p in enumerate(parts) if p.n_new > 1
        ]  # fmt: skip

    def _seen(self, parts: Sequence[Part], device: torch.device) -> Tensor:
        """Which slots of their tables the new tokens of some parts see. Shapes: (B, 1, S, T)."""
        most, n_new = max(p.computed + p.n_new for p in parts), parts[0].n_new
        slot_T = torch.arange(-(-most // self.store.size) * self.store.size, device=device)
        first_B = torch.tensor([p.computed for p in parts], device=device)
        pos_BS = first_B[:, None] + torch.arange(n_new, device=device)
        return (slot_T <= pos_BS[..., None])[:, None]

    def append(
        self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None = None
    ) -> None:
        """Write the step's new tokens to their slots."""
        self.store.k_LGND[layer].index_copy_(1, self._new_S, k_BGSD[0])
        self.store.v_LGND[layer].index_copy_(1, self._new_S, v_BGSD[0])

    def read(self, layer: int) -> LayerKV:
        """A layer that is read by `attend` below, and holds no tensors to look at."""
        self._layer = layer
        none_BGTD = self.store.k_LGND[layer][None, :, :0]
        return LayerKV(none_BGTD, none_BGTD, self.pos_1S[:, None, :0], False, reader=self)

    def missing(self, q_BHSD: Tensor) -> str | None:
        """Nothing: it reads any queries."""
        return None

    def attend(self, q_BHSD: Tensor, q_pos_BS: Tensor | None) -> Tensor:
        """Attention of each request's new tokens over its own. Shapes: q_BHSD -> out_BHSD."""
        n_groups = self.store.k_LGND.shape[1]
        out_BHSD = torch.empty_like(q_BHSD)
        if len(self._single_B):
            q_BGRD = q_BHSD[0, :, self._single_B].transpose(0, 1).unflatten(1, (n_groups, -1))
            k_BGTD, v_BGTD = self.store.gathered(self._layer, self._table_BK)
            mixed_BGRD = F.scaled_dot_product_attention(
                q_BGRD, k_BGTD, v_BGTD, attn_mask=self._seen_B11T
            )
            out_BHSD[0, :, self._single_B] = mixed_BGRD.flatten(1, 2).transpose(0, 1)
        for new, table_1K, seen_11ST in self._longer:
            k_BGTD, v_BGTD = self.store.gathered(self._layer, table_1K)
            out_BHSD[:, :, new] = F.scaled_dot_product_attention(
                q_BHSD[:, :, new], k_BGTD, v_BGTD, attn_mask=seen_11ST,
                enable_gqa=n_groups != q_BHSD.shape[1],
            )  # fmt: skip
        return out_BHSD
