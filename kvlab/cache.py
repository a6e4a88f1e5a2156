"""Where keys and values live between two steps.

L layers, B rows of the batch, G key/value heads, T slots, S new tokens, D head width.

Slots and their positions are in `slots`, what a class of your own needs is in `protocol`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab import checks
from kvlab.protocol import Cache, LayerKV, Storage
from kvlab.slots import Slots

__all__ = ["Cache", "KVCache", "LayerKV", "new_cache"]


def new_cache(
    n_layers: int,
    batch: int,
    n_kv_heads: int,
    capacity: int,
    head_dim: int,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    k: Storage | None = None,
    v: Storage | None = None,
    **how: object,
) -> Cache:
    """An empty cache: a `KVCache`, or what rules for keys and values say how to hold.

    `k` and `v` are rules as in `kvlab.pack`; `how` goes to the cache that holds by them.
    Raises: ValueError for one rule without the other, or `how` without rules.
    """
    sizes = (n_layers, batch, n_kv_heads, capacity, head_dim)
    if k is None and v is None and not how:
        return KVCache(*sizes, dtype=dtype, device=device)
    if k is None or v is None:
        raise ValueError(
            f"A cache was asked for by {dict(k=k, v=v, **how)}; expected a rule for keys, k=, and "
            "one for values, v=, of which one may be Dense() to stay as it is."
        )
    for rule in (k, v):
        if hasattr(rule, "cache_of"):
            return rule.cache_of(*sizes, k=k, v=v, dtype=dtype, device=device, **how)
    raise ValueError(
        f"Neither {k} nor {v} makes a cache; derive one from kvlab.pack.Format, or make the "
        "cache by its class, as PackedKVCache(...)."
    )


class KVCache(Slots):
    """Preallocated keys and values of all layers; each layer counts its own used slots.

    Memory is taken once and written in place, so nothing moves while text grows; `keep` evicts,
    and only `shrink` gives memory back. Counters are plain Python numbers: `bytes_written`,
    `bytes_read` (of the views handed out) and `bytes_copied` (keys and values moved from one place
    to another, by `keep`, `shrink` and `fork`).

    A cache made, filled or shrunk in inference mode can be used outside it. Gradients do not flow
    through what was written over, and torch says so in `backward`.
    """

    def _take_memory(self) -> None:
        shape = (*self.pos_LBGT.shape, self.head_dim)
        self.k_LBGTD = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.v_LBGTD = torch.zeros_like(self.k_LBGTD)

    def __repr__(self) -> str:
        layers, rows, heads, capacity, width = self.k_LBGTD.shape
        return (
            f"KVCache({layers} layers, {rows} rows, {heads} KV heads of {width}, "
            f"{self.length} of {capacity} slots used)"
        )

    @property
    def live_bytes(self) -> int:
        """Bytes of the keys and values in used slots, without those that eviction left empty."""
        n_heads = self.batch * self.n_kv_heads
        slots = sum(state.used * n_heads - state.empty for state in self.ledger.layers)
        return 2 * slots * self._bytes_per_row

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the device pays for keys and values, used or not."""
        return self.k_LBGTD.nbytes + self.v_LBGTD.nbytes

    def append(
        self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None = None
    ) -> None:
        """Write new tokens into the next free slots of one layer.

        `pos_BS` holds their positions, -1 for padding; None means that they follow on, which is
        only possible until positions were given.
        Raises: ValueError when they do not fit; the cache is then as before.
        """
        self._check_new(layer, k_BGSD, v_BGSD, pos_BS)
        start, n_new = self.ledger[layer].used, k_BGSD.shape[2]
        stop = start + n_new
        self.k_LBGTD[layer, :, :, start:stop] = k_BGSD
        self.v_LBGTD[layer, :, :, start:stop] = v_BGSD
        self._write_positions(layer, pos_BS, n_new)
        self.bytes_written += n_new * self._bytes_per_slot

    def read(self, layer: int) -> LayerKV:
        """The used slots of one layer: views, not copies."""
        state = self.ledger[layer]
        used = state.used
        self.bytes_read += used * self._bytes_per_slot
        return LayerKV(
            self.k_LBGTD[layer, :, :, :used],
            self.v_LBGTD[layer, :, :, :used],
            self.pos_LBGT[layer, :, :, :used],
            state.in_order,
            state.whole,
        )

    def advance(self) -> None:
        """Count one token that a compiled step appended to every layer, and read, by itself."""
        self.ledger.advanced()
        self.bytes_written += self.n_layers * self._bytes_per_slot
        self.bytes_read += sum(self.used_L) * self._bytes_per_slot

    def keep(self, layer: int, keep_BGT: Tensor) -> None:
        """Evict every token of one layer that `keep_BGT` (true: it stays) does not name.

        Those that stay move to the front, in the order they had. Padding goes in any case. Heads
        may keep different numbers: the layer then uses as many slots as the fullest head, and the
        others' last slots are empty, position -1. No memory is freed: see `shrink`.
        Asks the device once how many are left, and waits for the answer.
        Shapes: keep_BGT has one entry per used slot of the layer.
        Raises: ValueError for another shape or type; nothing is then evicted.
        """
        used = self.ledger[layer].used
        shape = (self.batch, self.n_kv_heads, used)
        checks.tensor("keep_BGT", keep_BGT, shape, (torch.bool,), self.device)
        if used == 0:
            return
        keep_BGT = keep_BGT & (self.pos_LBGT[layer, :, :, :used] >= 0)
        count_BG = keep_BGT.sum(-1)
        order_BGT = (~keep_BGT).byte().argsort(dim=-1, stable=True)
        slot_T = torch.arange(used, device=keep_BGT.device)
        stays_BGT = slot_T < count_BG[..., None]
        moved = ((order_BGT != slot_T) & stays_BGT).sum()
        least, most, total, moved = torch.stack(
            (count_BG.min(), count_BG.max(), count_BG.sum(), moved)
        ).tolist()
        if least == used:
            return
        # the position that follows must survive the tokens that could tell it
        self._next = self.seen if self.counts_positions else self.next_pos_B()
        self._to_the_front(layer, order_BGT, stays_BGT, most)
        self.ledger.evicted(layer, most, count_BG.numel(), total)
        self.bytes_copied += 2 * moved * self._bytes_per_row

    def _to_the_front(self, layer: int, order_BGT: Tensor, stays_BGT: Tensor, most: int) -> None:
        """Move the tokens that stay to a layer's first slots, and empty those behind them."""
        pos_BGT, used = self.pos_LBGT[layer], order_BGT.shape[2]
        from_BGTD = order_BGT[..., :most, None].expand(-1, -1, -1, self.head_dim)
        for store_BGTD in (self.k_LBGTD[layer], self.v_LBGTD[layer]):
            store_BGTD[:, :, :most] = store_BGTD.gather(2, from_BGTD)
        pos_BGT[:, :, :used] = pos_BGT[:, :, :used].gather(2, order_BGT).where(stays_BGT, -1)
        pos_BGT[:, :, used:] = -1

    def shrink(self, capacity: int | None = None) -> None:
        """Move to smaller memory and give the old back: `capacity` slots, or just the used ones.

        Views that `read` handed out, and steps compiled for this cache, keep the old memory alive
        and must not be used any more: the three buffers are other tensors then. With the capacity
        it has, a cache stays where it is.
        Raises: ValueError when the used slots would not fit, or the cache would grow.
        """
        wanted = self.ledger.check_shrink(capacity)
        if wanted != self.capacity:
            self._move(wanted)

    def grow(self, capacity: int) -> None:
        """Move to larger memory: `capacity` slots. For views and compiled steps see `shrink`.

        Raises: ValueError when the cache would shrink.
        """
        if checks.whole("The capacity to grow to", capacity, self.capacity) != self.capacity:
            self._move(capacity)

    def _move(self, capacity: int) -> None:
        more = capacity - self.capacity  # fewer if below 0: `pad` then copies what is left
        with torch.inference_mode(False):
            self.k_LBGTD = F.pad(self.k_LBGTD, (0, 0, 0, more))
            self.v_LBGTD = F.pad(self.v_LBGTD, (0, 0, 0, more))
            self.pos_LBGT = F.pad(self.pos_LBGT, (0, more), value=-1)
            slot_T = torch.arange(capacity, device=self.device)
            for layer, state in enumerate(self.ledger.layers):
                if state.in_order:
                    self.pos_LBGT[layer] = slot_T
        self.ledger.capacity = capacity
        self.bytes_copied += self.live_bytes

    def fork(self) -> KVCache:
        """A second cache with the same contents and its own memory."""
        twin = KVCache(*self.k_LBGTD.shape, dtype=self.dtype, device=self.device)
        for layer, used in enumerate(self.used_L):
            twin.k_LBGTD[layer, :, :, :used] = self.k_LBGTD[layer, :, :, :used]
            twin.v_LBGTD[layer, :, :, :used] = self.v_LBGTD[layer, :, :, :used]
        twin.pos_LBGT.copy_(self.pos_LBGT)
        twin._go_on_from(self)
        twin.bytes_copied = self.live_bytes
        return twin
