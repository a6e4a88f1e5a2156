"""A cache whose older tokens are packed: sinks and the recent window dense, what lies between not.

L layers, B rows of the batch, G key/value heads, T slots, S new tokens, D head width, N kept of M.

A rule says how a token's key or value is held once it leaves the window; keys and values each have
their own. What a rule holds is a few tensors whose third axis is time, so the cache takes memory
once and writes in place, whatever the rule is.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from math import lcm

import torch
from torch import Tensor

from kvlab import checks
from kvlab.cache import KVCache
from kvlab.old import Former, renamed
from kvlab.pack.body import check_goes_on, units
from kvlab.pack.layer import PackedLayer
from kvlab.pack.rule import Rule
from kvlab.pack.side import Side
from kvlab.pack.window import Window
from kvlab.slots import Slots

_renamed = renamed(k_rule="k", v_rule="v", sinks="sink", every="at_once")


class PackedKVCache(Slots):
    """A cache in which tokens are packed when they leave the window, `at_once` at a time.

    Slots are in the tokens' order: `sink` dense ones, the packed body, and a dense tail of at
    least `recent` tokens and less than `recent + at_once`. `k` and `v` are the rules that keys and
    values are packed by. Of what one call appends, its own read sees every number: a prompt read at
    once is read exactly, and pruned for the calls after it.
    `live_bytes` counts keys and values with their marks, scales and zeros in every used slot,
    window and sinks included; positions are not counted, as in KVCache. `bytes_read` counts stored
    bytes, and `bytes_unpacked` the dense ones written when a backend wanted dense views.
    Raises: ValueError for a rule that cannot hold this head width, or sizes that do not fit.
    """

    @_renamed
    def __init__(
        self,
        n_layers: int,
        batch: int,
        n_kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        k: Rule,
        v: Rule,
        recent: int = 32,
        sink: int = 0,
        at_once: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        unit = lcm(*units(k=k, v=v))
        at_once = -(-32 // max(1, unit)) * unit if at_once is None else at_once
        self.rules, self.window = (k, v), Window(sink, recent, at_once, unit)
        check_goes_on(k, head_dim), check_goes_on(v, head_dim)
        sizes = (n_layers, batch, n_kv_heads, capacity, head_dim)
        super().__init__(*sizes, dtype=dtype, device=device)
        self._stretches = [self.window.empty() for _ in range(n_layers)]
        self.bytes_unpacked, self._scratch = 0, None
        # the latest tokens as they came, if some of them are packed already: (layer, slot, k, v)
        self._fresh: tuple[int, int, Tensor, Tensor] | None = None

    def _take_memory(self) -> None:
        n_dense, n_body = self.window.dense_slots(self.capacity), self.window.due(self.capacity)
        shape = (*self.pos_LBGT.shape[:3], n_dense, self.head_dim)
        stores = [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.rules]
        self.sides = [Side(*both, n_body) for both in zip(self.rules, stores, strict=True)]

    def __repr__(self) -> str:
        return (
            f"PackedKVCache({self.n_layers} layers, {self.batch} rows, {self.n_kv_heads} KV heads "
            f"of {self.head_dim}, {self.length} of {self.capacity} slots used, "
            f"{min(self.n_packed_L)} packed)"
        )

    @classmethod
    @_renamed
    @checks.takes(cache=KVCache)
    def of(cls, cache: KVCache, *, capacity: int | None = None, **how: object) -> PackedKVCache:
        """Pack a dense cache, which stays as it is; `how` is what the constructor takes by name."""
        sizes = (cache.n_layers, cache.batch, cache.n_kv_heads, capacity or cache.capacity)
        twin = cls(*sizes, cache.head_dim, **how, dtype=cache.dtype, device=cache.device)
        twin.take(cache)
        return twin

    def draft(self, n_prompt: int) -> KVCache:
        """A dense cache beside this empty one, since what is packed cannot be pruned."""
        if self.seen:
            raise ValueError(
                f"A policy came with a packed cache that holds {self.seen} tokens, and what is "
                "packed cannot be pruned. Start with an empty one, or leave prune= out."
            )
        sizes = (self.n_layers, self.batch, self.n_kv_heads, n_prompt, self.head_dim)
        return KVCache(*sizes, dtype=self.dtype, device=self.device)

    def take(self, draft: KVCache) -> None:
        """Pack what a dense cache holds, evicted or not, into this one; the dense one stays.

        Raises: ValueError when this one is not empty or another model's, when that does not fit,
        or when numbers cannot be ranked; this one is then as before.
        """
        sizes = ("n_layers", "batch", "n_kv_heads", "head_dim", "dtype", "device")
        other = any(getattr(self, name) != getattr(draft, name) for name in sizes)
        if other or any(state.seen for state in self.ledger.layers):
            raise ValueError(
                f"{draft!r} was to be packed into {self!r}; expected an empty one of the same "
                "layers, rows, heads, width, type and device."
            )
        self.check_capacity(draft.ledger.most_used)
        try:
            for layer in range(self.n_layers):
                self._take_layer(draft, layer)
        except BaseException:
            self._number_slots()
            self.rewind(0)
            raise
        self._go_on_from(draft)
        self._fresh = None
        self.bytes_copied += self.live_bytes

    def _take_layer(self, draft: KVCache, layer: int) -> None:
        state, stores = draft.ledger[layer], (draft.k_LBGTD, draft.v_LBGTD, draft.pos_LBGT)
        k_BGTD, v_BGTD, pos_BGT = (store[layer, :, :, : state.used] for store in stores)
        self._enter(layer, k_BGTD, v_BGTD, pos_BGT)
        self.pos_LBGT[layer, :, :, : state.used] = pos_BGT
        if not state.in_order:
            self.pos_LBGT[layer, :, :, state.used :] = -1

    @property
    def recent(self) -> int:
        """Latest tokens that stay dense."""
        return self.window.recent

    @property
    def sink(self) -> int:
        """First slots that stay dense."""
        return self.window.sink

    @property
    def at_once(self) -> int:
        """Tokens that are packed together."""
        return self.window.at_once

    @property
    def n_packed_L(self) -> tuple[int, ...]:
        """Packed slots of each layer."""
        return tuple(stretch.packed for stretch in self._stretches)

    sinks, every, packed_L = Former("sink"), Former("at_once"), Former("n_packed_L")

    @property
    def live_bytes(self) -> int:
        """Bytes of used slots: dense ones, and packed ones with all that their rule stores."""
        return sum(self._layer_bytes(layer) for layer in range(self.n_layers))

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the device pays: body, dense slots, and what unpacking needs once it ran."""
        held = [] if self._scratch is None else [self._scratch]
        held += [] if self._fresh is None else list(self._fresh[2:])
        return sum(side.allocated_bytes for side in self.sides) + sum(x.nbytes for x in held)

    def append(
        self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None = None
    ) -> None:
        """Add new tokens to one layer, and pack those that leave its window.

        `pos_BS` holds their positions, -1 for padding; None means that they follow on.
        Raises: ValueError when they do not fit or cannot be ranked; nothing is then changed.
        """
        self._check_new(layer, k_BGSD, v_BGSD, pos_BS)
        n_new, seen, new_BS = k_BGSD.shape[2], self.ledger[layer].seen, pos_BS
        if new_BS is None:
            new_BS = torch.arange(seen, seen + n_new, device=self.device).expand(self.batch, -1)
        before = self._layer_bytes(layer)
        pos_BGS = new_BS[:, None].expand(-1, self.n_kv_heads, -1)
        self._enter(layer, k_BGSD, v_BGSD, pos_BGS)
        self._write_positions(layer, pos_BS, n_new)
        self.bytes_written += max(0, self._layer_bytes(layer) - before)

    def read(self, layer: int) -> PackedLayer:
        """One layer's used slots: dense views when they are asked for, made by unpacking.

        It is good until something is appended to this layer, or another layer is unpacked.
        """
        kv = self.reader(layer)
        self.bytes_read += self._layer_bytes(layer)
        return kv

    def reader(self, layer: int) -> PackedLayer:
        """What `read` gives, without counting it as read."""
        return PackedLayer(self, layer, self.ledger[layer])

    def rewind(self, seen: int) -> None:
        """Forget the latest tokens, so that `seen` are left. Nothing is unpacked.

        Raises: ValueError for more than there are, or for fewer than the packed ones; 0 is always
        possible.
        """
        least = max(
            state.seen - self.window.tail(state.used, stretch) if stretch.packed else 0
            for state, stretch in zip(self.ledger.layers, self._stretches, strict=True)
        )
        if 0 < seen < least:
            raise ValueError(
                f"Rewinding to {seen} tokens was asked for, but the first {least} are packed and "
                f"cannot be the recent window again; expected 0 or at least {least}."
            )
        super().rewind(seen)
        self._fresh = None
        if seen == 0:
            self._stretches = [self.window.empty() for _ in self._stretches]

    def shrink(self, capacity: int | None = None) -> None:
        """Move the body to smaller memory, for `capacity` slots, or just the used ones.

        Raises: ValueError when the used slots would not fit, or the cache would grow.
        """
        wanted = self.ledger.check_shrink(capacity)
        most = max(self.window.due(wanted), *self.n_packed_L)
        with torch.inference_mode(False):
            self.pos_LBGT = self.pos_LBGT[..., :wanted].clone()
            for side in self.sides:
                side.shrink(most)
        self.ledger.capacity = wanted
        self._scratch = self._fresh = None
        self.bytes_copied += self.live_bytes

    def reset(self) -> None:
        """Forget everything; keep the memory."""
        super().reset()
        self.bytes_unpacked = 0

    def fork(self) -> PackedKVCache:
        """A second cache with the same contents and its own memory."""
        twin = copy(self)
        twin._scratch = None
        with torch.inference_mode(False):
            twin.pos_LBGT = self.pos_LBGT.clone()
            twin.sides = [side.fork() for side in self.sides]
        twin._go_on_from(self)
        twin._stretches = [replace(stretch) for stretch in self._stretches]
        twin.bytes_written = twin.bytes_read = twin.bytes_unpacked = 0
        twin.bytes_copied = self.live_bytes
        return twin

    def unpacked(self, layer: int) -> tuple[Tensor, Tensor]:
        """Dense keys and values of one layer's used slots, in memory that the next call reuses."""
        used, stretch = self.ledger[layer].used, self._stretches[layer]
        fresh = self._fresh if self._fresh is not None and self._fresh[0] == layer else None
        if fresh is not None and fresh[1] == 0:
            return fresh[2][:, :, :used], fresh[3][:, :, :used]
        if self._scratch is None:
            shape = (2, self.batch, self.n_kv_heads, self.capacity, self.head_dim)
            with torch.inference_mode(False):
                self._scratch = self.sides[0].dense.new_empty(shape)
        for which, side in enumerate(self.sides):
            out_BGTD = self._scratch[which, :, :, :used]
            side.unpack(layer, min(used, self.sink), stretch, out_BGTD)
            if fresh is not None:
                out_BGTD[:, :, fresh[1] :] = fresh[2 + which][:, :, : used - fresh[1]]
        self.bytes_unpacked += used * self._bytes_per_slot
        return self._scratch[0, :, :, :used], self._scratch[1, :, :, :used]

    def _layer_bytes(self, layer: int) -> int:
        packed, used = self._stretches[layer].packed, self.ledger[layer].used
        units = sum(packed // side.rule.unit * side.unit_bytes for side in self.sides)
        return units * self.batch * self.n_kv_heads + (used - packed) * self._bytes_per_slot

    def _enter(self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BGS: Tensor) -> None:
        """Pack what leaves the window, then put the other new tokens into the dense slots.

        Slots are counted by the caller; numbers that cannot be ranked leave the cache as it was.
        """
        used, n_new, stretch = self.ledger[layer].used, k_BGSD.shape[2], self._stretches[layer]
        how = self.window.entry(used, stretch, n_new, self.sides[0].dense.shape[3])
        both = list(zip(self.sides, (k_BGSD, v_BGSD), strict=True))
        if how.leaving + how.through:
            slot = self.sink + stretch.packed
            left_BGT = self.pos_LBGT[layer, :, :, slot : slot + how.leaving]
            new_BGT = pos_BGS[:, :, how.to_sinks : how.to_sinks + how.through]
            packed_BGT = torch.cat((left_BGT, new_BGT), 2)
            for side, x_BGSD in both:
                side.pack(layer, how, stretch, x_BGSD, packed_BGT)
        for side, x_BGSD in both:
            side.store(layer, how, used, x_BGSD)
        if how.to != how.begin:
            self.bytes_copied += how.staying * self._bytes_per_slot
        stretch.tail, stretch.packed = how.to, stretch.packed + how.leaving + how.through
        self._fresh = (layer, used, k_BGSD, v_BGSD) if how.through else None
