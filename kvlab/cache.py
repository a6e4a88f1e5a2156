"""Where keys and values live between two steps.

L layers, B rows of the batch, G key/value heads, T slots, S new tokens, D head width.

A used slot holds one token's key and value, and the position that token had in its text, -1 for
padding. Masks are made from these positions, so causality, padding and chunked prefill need no
other book-keeping: a query at position p may use a slot exactly when 0 <= pos <= p.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerKV:
    """One layer's used slots, as views into the cache.

    `in_order` says that slot i holds position i in every row and head. The host knows it without
    asking the device, and attention then needs no mask for a single new token.
    """

    k_BGTD: Tensor
    v_BGTD: Tensor
    pos_BGT: Tensor
    in_order: bool


class KVCache:
    """Preallocated keys and values of all layers; each layer counts its own used slots.

    Memory is taken once and written in place, so nothing moves while text grows. Counters are
    plain Python numbers: `bytes_written`, `bytes_read` (of the views handed out) and
    `bytes_copied` (rows moved from one place to another, which only `fork` does).
    """

    def __init__(
        self,
        n_layers: int,
        batch: int,
        n_kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("batch", batch), ("capacity", capacity)):
            if value < 1:
                raise ValueError(f"A cache with {name} {value} was asked for; expected at least 1.")
        shape = (n_layers, batch, n_kv_heads, capacity, head_dim)
        self.k_LBGTD = torch.zeros(shape, dtype=dtype, device=device)
        self.v_LBGTD = torch.zeros(shape, dtype=dtype, device=device)
        # While a layer is in order, slot i holds position i: written once, here.
        self.pos_LBGT = torch.empty(shape[:-1], dtype=torch.int64, device=device)
        self.pos_LBGT[:] = torch.arange(capacity, device=device)
        self._used_L = [0] * n_layers
        self._in_order_L = [True] * n_layers
        self.bytes_written = 0
        self.bytes_read = 0
        self.bytes_copied = 0

    def __repr__(self) -> str:
        layers, rows, heads, capacity, width = self.k_LBGTD.shape
        return (
            f"KVCache({layers} layers, {rows} rows, {heads} KV heads of {width}, "
            f"{self.length} of {capacity} slots used)"
        )

    @property
    def n_layers(self) -> int:
        return self.k_LBGTD.shape[0]

    @property
    def batch(self) -> int:
        return self.k_LBGTD.shape[1]

    @property
    def capacity(self) -> int:
        return self.k_LBGTD.shape[3]

    @property
    def length(self) -> int:
        """Slots that every layer has filled."""
        return min(self._used_L)

    @property
    def in_order(self) -> bool:
        """Whether slot i holds position i everywhere: no padding, nothing skipped."""
        return all(self._in_order_L)

    @property
    def live_bytes(self) -> int:
        """Bytes of the keys and values in used slots."""
        return sum(self._used_L) * self._bytes_per_slot

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the device pays for keys and values, used or not."""
        return self.k_LBGTD.nbytes + self.v_LBGTD.nbytes

    @property
    def _bytes_per_slot(self) -> int:
        return self.allocated_bytes // (self.n_layers * self.capacity)

    def check_room(self, n_new: int) -> None:
        """Refuse `n_new` more tokens that do not fit, before anything is written."""
        free = self.capacity - max(self._used_L)
        if n_new > free:
            raise ValueError(
                f"{n_new} tokens were to be appended, but the cache has {free} of "
                f"{self.capacity} slots free. Make it with a larger capacity, or rewind it."
            )

    def append(
        self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None = None
    ) -> None:
        """Write new tokens into the next free slots of one layer.

        `pos_BS` holds their positions, -1 for padding; None means that they follow on, position =
        slot, which is only possible while the layer is in order.
        Raises: ValueError when they do not fit; the cache is then as before.
        """
        start, n_new = self._used_L[layer], k_BGSD.shape[2]
        stop = start + n_new
        _, rows, heads, _, width = self.k_LBGTD.shape
        if not k_BGSD.shape == v_BGSD.shape == (rows, heads, n_new, width):
            raise ValueError(
                f"Keys of shape {tuple(k_BGSD.shape)} and values of shape {tuple(v_BGSD.shape)} "
                f"came; expected {(rows, heads, n_new, width)}: rows, KV heads, tokens, width."
            )
        if stop > self.capacity:
            self.check_room(n_new)
        if pos_BS is not None:
            self._in_order_L[layer] = False
            self.pos_LBGT[layer, :, :, start:stop] = pos_BS[:, None]
        elif not self._in_order_L[layer]:
            raise ValueError(
                "Positions were left out, but this cache holds padding, so slot and position "
                "differ. Pass pos_BS."
            )
        self.k_LBGTD[layer, :, :, start:stop] = k_BGSD
        self.v_LBGTD[layer, :, :, start:stop] = v_BGSD
        self._used_L[layer] = stop
        self.bytes_written += n_new * self._bytes_per_slot

    def read(self, layer: int) -> LayerKV:
        """The used slots of one layer: views, not copies."""
        used = self._used_L[layer]
        self.bytes_read += used * self._bytes_per_slot
        return LayerKV(
            self.k_LBGTD[layer, :, :, :used],
            self.v_LBGTD[layer, :, :, :used],
            self.pos_LBGT[layer, :, :, :used],
            self._in_order_L[layer],
        )

    def next_pos_B(self) -> Tensor:
        """The position that each row's next token will have."""
        if self.in_order:
            return self.pos_LBGT.new_full((self.batch,), self.length)
        return self.pos_LBGT[0, :, 0, : self.length].amax(-1) + 1

    def reset(self) -> None:
        """Forget everything; keep the memory."""
        self.rewind(0)
        self.bytes_written = self.bytes_read = self.bytes_copied = 0

    def rewind(self, length: int) -> None:
        """Forget every slot from `length` on. Nothing is copied."""
        if not 0 <= length <= self.length:
            raise ValueError(
                f"Rewinding to {length} slots was asked for, but the cache holds {self.length}; "
                "expected a number between 0 and that."
            )
        self._used_L = [length] * self.n_layers
        if length == 0 and not self.in_order:
            self.pos_LBGT[:] = torch.arange(self.capacity, device=self.pos_LBGT.device)
            self._in_order_L = [True] * self.n_layers

    def fork(self) -> KVCache:
        """A second cache with the same contents and its own memory."""
        layers, rows, heads, capacity, width = self.k_LBGTD.shape
        twin = KVCache(
            layers,
            rows,
            heads,
            capacity,
            width,
            dtype=self.k_LBGTD.dtype,
            device=self.k_LBGTD.device,
        )
        used = max(self._used_L)
        twin.k_LBGTD[:, :, :, :used] = self.k_LBGTD[:, :, :, :used]
        twin.v_LBGTD[:, :, :, :used] = self.v_LBGTD[:, :, :, :used]
        twin.pos_LBGT[:, :, :, :used] = self.pos_LBGT[:, :, :, :used]
        twin._used_L = list(self._used_L)
        twin._in_order_L = list(self._in_order_L)
        twin.bytes_copied = self.live_bytes
        return twin
