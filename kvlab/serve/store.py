"""The memory of all blocks: keys and values of every layer, written and read by slots.

L layers, B requests, G key/value heads, K blocks of a table, N slots of all blocks, T slots of the
longest request, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kvlab.kernels import as_numpy, missing


class Part(NamedTuple):
    """One request's share of a step: its blocks, how many tokens they hold, how many are new, and
    how many before them were pruned, so that positions go on."""

    table: Sequence[int]
    held: int
    n_new: int
    dropped: int = 0


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
            self.k_LGND = torch.empty(shape, dtype=dtype, device=device)
            self.v_LGND = torch.empty_like(self.k_LGND)
            self.none_BGTD = self.k_LGND[0][None, :, :0]
        self.clear([n_blocks])  # the others when they are begun
        self.unread = _unread(dtype, self.device)
        if self.unread is None:
            stores = zip(self.k_LGND, self.v_LGND, strict=True)
            self.arrays = [(as_numpy(k_GND), as_numpy(v_GND)) for k_GND, v_GND in stores]

    @property
    def device(self) -> torch.device:
        return self.k_LGND.device

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

    def slots(self, parts: Sequence[Part]) -> Tensor:
        """Slots of the new tokens of some parts, one part after the other. Shapes: (S,)."""
        size = self.size
        found = [
            p.table[i // size] * size + i % size
            for p in parts
            for i in range(p.held, p.held + p.n_new)
        ]
        return torch.tensor(found, device=self.device)

    def write(self, layer: int, slot_S: Tensor, k_SGD: Tensor, v_SGD: Tensor) -> None:
        """Put new keys and values of one layer into slots."""
        self.k_LGND[layer].index_copy_(1, slot_S, k_SGD.transpose(0, 1))
        self.v_LGND[layer].index_copy_(1, slot_S, v_SGD.transpose(0, 1))

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


def _unread(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the kernel for blocks cannot read them where they lie, or None if it can."""
    if device.type != "cpu":
        return f"blocks are on {device}"
    if (reason := missing("blocks")) is not None:
        return reason
    from kvlab.kernels.cpu import reads_float16

    if dtype == torch.float16 and not reads_float16():
        return "this processor has no instruction that reads float16"
    return None
