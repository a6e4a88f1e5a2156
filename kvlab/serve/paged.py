"""Keys and values in blocks, and one forward over tokens of many requests at once.

L layers, B requests, H query heads, G key/value heads, R = H / G, S new tokens of all requests, N
slots of all blocks, T slots of the longest request, D head width.

The tokens of a step stand in one row, one request after the other: what treats each token alone,
which is all of the model but attention, neither knows nor cares whose they are. Attention looks up
where its request's keys lie.
"""

from __future__ import annotations

from collections.abc import Sequence
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
            shape = (n_layers, n_kv_heads, n_blocks * size, head_dim)
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

    def slots_of(self, table: Sequence[int], n: int) -> Tensor:
        """The slots of a table's first `n` tokens. Shapes: (n,)."""
        blocks = torch.tensor(table[: -(-n // self.size)])
        slots = blocks[:, None] * self.size + torch.arange(self.size)
        return slots.flatten()[:n].to(self.k_LGND.device)


class StepCache(Cache):
    """What the model writes to and reads from while it computes one step.

    Requests of one new token are read together, padded to the longest; others one by one.
    """

    name, why, unread = "rows", "keys lie in blocks", "nothing else can read blocks"

    def __init__(self, store: BlockStore, parts: Sequence[Part]) -> None:
        self.store, self.n_layers = store, store.n_layers
        self.seen = 0  # positions are always given
        device = store.k_LGND.device
        every = [store.slots_of(p.table, p.computed + p.n_new) for p in parts]
        self.new_S = torch.cat([s[p.computed :] for s, p in zip(every, parts, strict=True)])
        pos = [torch.arange(p.computed, p.computed + p.n_new) for p in parts]
        self.pos_1S = torch.cat(pos)[None].to(device)
        starts = torch.tensor([0, *(p.n_new for p in parts)]).cumsum(0).tolist()
        ones = [i for i, p in enumerate(parts) if p.n_new == 1]
        self._single_B = torch.tensor([starts[i] for i in ones], device=device)
        lengths = [len(every[i]) for i in ones]
        self._slots_BT = torch.zeros(len(ones), max(lengths, default=0), dtype=torch.int64)
        for row, i in enumerate(ones):
            self._slots_BT[row, : lengths[row]] = every[i]
        self._slots_BT = self._slots_BT.to(device)
        seen_BT = torch.arange(max(lengths, default=0)) < torch.tensor(lengths)[:, None]
        self._seen_B11T = seen_BT[:, None, None].to(device) if not seen_BT.all() else None
        self._longer = [
            (slice(starts[i], starts[i + 1]), every[i], _causal(p, device))
            for i, p in enumerate(parts) if p.n_new > 1
        ]  # fmt: skip
        self._layer = 0

    def append(
        self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None = None
    ) -> None:
        """Write the step's new tokens to their slots."""
        self.store.k_LGND[layer].index_copy_(1, self.new_S, k_BGSD[0])
        self.store.v_LGND[layer].index_copy_(1, self.new_S, v_BGSD[0])

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
        k_GND, v_GND = self.store.k_LGND[self._layer], self.store.v_LGND[self._layer]
        n_groups = k_GND.shape[0]
        out_BHSD = torch.empty_like(q_BHSD)
        if len(self._single_B):
            q_BGRD = q_BHSD[0, :, self._single_B].transpose(0, 1).unflatten(1, (n_groups, -1))
            k_BGTD, v_BGTD = (self._gathered(x_GND) for x_GND in (k_GND, v_GND))
            mixed_BGRD = F.scaled_dot_product_attention(
                q_BGRD, k_BGTD, v_BGTD, attn_mask=self._seen_B11T
            )
            out_BHSD[0, :, self._single_B] = mixed_BGRD.flatten(1, 2).transpose(0, 1)
        for new, slots_T, seen_ST in self._longer:
            k_BGTD, v_BGTD = k_GND[None, :, slots_T], v_GND[None, :, slots_T]
            out_BHSD[:, :, new] = F.scaled_dot_product_attention(
                q_BHSD[:, :, new], k_BGTD, v_BGTD, attn_mask=seen_ST, is_causal=seen_ST is None,
                enable_gqa=n_groups != q_BHSD.shape[1],
            )  # fmt: skip
        return out_BHSD

    def _gathered(self, x_GND: Tensor) -> Tensor:
        """The slots of all requests of one new token. Shapes: x_BGTD."""
        n_rows, n_slots = self._slots_BT.shape
        x_GMD = x_GND.index_select(1, self._slots_BT.flatten())
        return x_GMD.unflatten(1, (n_rows, n_slots)).transpose(0, 1)


def _causal(part: Part, device: torch.device) -> Tensor | None:
    """Which slots each new token sees; None where nothing came before, and the triangle will do."""
    if part.computed == 0:
        return None
    slot_T = torch.arange(part.computed + part.n_new, device=device)
    return slot_T <= slot_T[part.computed :, None]
