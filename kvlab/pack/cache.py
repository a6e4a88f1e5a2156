"""A cache whose older tokens are packed: sinks and the recent window dense, what lies between not.

L layers, B rows of the batch, G key/value heads, T slots, S new tokens, D head width, N kept of M.

A rule says how a token's key or value is held once it leaves the window; keys and values each have
their own. What a rule holds is a few tensors whose third axis is time, so the cache takes memory
once and writes in place, whatever the rule is.
"""

from __future__ import annotations

from copy import copy
from math import lcm

import torch
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.pack.body import check_goes_on
from kvlab.pack.layer import PackedLayer
from kvlab.pack.rules import Rule

# tokens that are packed at once, so that a long prompt needs little room beside it
_CHUNK = 1024


class PackedKVCache(KVCache):
    """A KVCache in which tokens are packed when they leave the window, `every` at a time.

    Slots are in the tokens' order: `sinks` dense ones, the packed body, and a dense tail of at
    least `recent` tokens and less than `recent + every`. Of what one call appends, its own read
    sees every number: a prompt read at once is read exactly, and pruned for the calls after it.
    `live_bytes` counts keys and values with their marks, scales and zeros in every used slot,
    window and sinks included; positions are not counted, as in KVCache. `bytes_read` counts stored
    bytes, and `bytes_unpacked` the dense ones written when a backend wanted dense views.
    Raises: ValueError for a rule that cannot hold this head width, or sizes that do not fit.
    """

    thins = False

    def __init__(
        self,
        n_layers: int,
        batch: int,
        n_kv_heads: int,
        capacity: int,
        head_dim: int,
        *,
        k_rule: Rule,
        v_rule: Rule,
        recent: int = 32,
        sinks: int = 0,
        every: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        unit = lcm(k_rule.unit, v_rule.unit)
        every = -(-32 // max(1, unit)) * unit if every is None else every
        _check_sizes(n_layers, batch, n_kv_heads, capacity, head_dim)
        _check_window(recent, sinks, every, unit)
        for rule in (k_rule, v_rule):
            check_goes_on(rule, head_dim)
        self.rules = (k_rule, v_rule)
        self.recent, self.sinks, self.every = recent, sinks, every
        lead = (n_layers, batch, n_kv_heads)
        with torch.inference_mode(False):  # else only inference mode could write into it
            self.pos_LBGT = torch.empty((*lead, capacity), dtype=torch.int64, device=device)
            self.pos_LBGT[:] = torch.arange(capacity, device=device)
            room = min(capacity, sinks + 2 * (recent + every))
            self._dense = [
                torch.zeros((*lead, room, head_dim), dtype=dtype, device=device) for _ in range(2)
            ]
            self._body = [self._room_for(rule, capacity) for rule in self.rules]
        self._unit_bytes = [rule.unit_bytes(head_dim, dtype) for rule in self.rules]
        self._start(batch, n_kv_heads, head_dim, dtype)
        self.bytes_unpacked = 0
        self._scratch: Tensor | None = None

    def __repr__(self) -> str:
        layers, rows_, heads, capacity = self.pos_LBGT.shape
        return (
            f"PackedKVCache({layers} layers, {rows_} rows, {heads} KV heads of "
            f"{self._row_shape[2]}, {self.length} of {capacity} slots used, "
            f"{min(self._packed_L)} packed)"
        )

    @classmethod
    def of(cls, cache: KVCache, *, capacity: int | None = None, **how) -> PackedKVCache:
        """Pack a dense cache, evicted or not; `how` is what the constructor takes by name.

        The dense cache stays as it is.
        """
        layers, batch, heads, slots, width = cache.k_LBGTD.shape
        where = {"dtype": cache.dtype, "device": cache.device}
        twin = cls(layers, batch, heads, capacity or slots, width, **how, **where)
        twin.take(cache)
        return twin

    def take(self, cache: KVCache) -> None:
        """Pack what a dense cache holds, evicted or not, into this one; the dense one stays.

        Raises: ValueError when this one is not empty or another model's, when that does not fit,
        or when numbers cannot be ranked; this one is then as before.
        """
        shapes = [(c.n_layers, *c._row_shape, c.dtype, c.device) for c in (cache, self)]
        if any(self._seen_L) or shapes[0] != shapes[1]:
            raise ValueError(
                f"{cache!r} was to be packed into {self!r}; expected an empty one of the same "
                "layers, rows, heads, width, type and device."
            )
        self.check_room(max(cache.used_L))
        try:
            for layer, used in enumerate(cache.used_L):
                self._take_layer(cache, layer, used)
        except BaseException:
            self.rewind(0)
            raise
        self._know(cache)
        self._fresh = None
        self.bytes_copied += self.live_bytes

    def _take_layer(self, cache: KVCache, layer: int, used: int) -> None:
        k_BGTD, v_BGTD = cache.k_LBGTD[layer, :, :, :used], cache.v_LBGTD[layer, :, :, :used]
        pos_BGT = cache.pos_LBGT[layer, :, :, :used]
        self._take(layer, k_BGTD, v_BGTD, pos_BGT)
        self.pos_LBGT[layer, :, :, :used] = pos_BGT
        if not cache._in_order_L[layer]:
            self._in_order_L[layer] = False
            self.pos_LBGT[layer, :, :, used:] = -1
        self._used_L[layer] = used

    @property
    def packed_L(self) -> tuple[int, ...]:
        """Packed slots of each layer."""
        return tuple(self._packed_L)

    @property
    def live_bytes(self) -> int:
        """Bytes of used slots: dense ones, and packed ones with all that their rule stores."""
        return sum(self._layer_bytes(layer) for layer in range(self.n_layers))

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the device pays: body, dense slots, and what unpacking needs once it ran."""
        held = [*self._dense, *(part for parts in self._body for part in parts)]
        held += [] if self._scratch is None else [self._scratch]
        held += [] if self._fresh is None else list(self._fresh[2:])
        return sum(tensor.nbytes for tensor in held)

    @property
    def k_LBGTD(self) -> Tensor:
        """Not here: older tokens are packed."""
        raise ValueError(
            "The dense memory of a cache was asked for, but this cache is packed. "
            "Read it layer by layer, or use a KVCache."
        )

    v_LBGTD = k_LBGTD

    def append(
        self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None = None
    ) -> None:
        """Add new tokens to one layer, and pack those that leave its window.

        `pos_BS` holds their positions, -1 for padding; None means that they follow on.
        Raises: ValueError when they do not fit or cannot be ranked; the cache is then as
        before.
        """
        start = self._used_L[self._layer(layer)]
        self._check_new(k_BGSD, v_BGSD, pos_BS, start)
        stop, seen = start + k_BGSD.shape[2], self._seen_L[layer]
        new_pos = pos_BS
        if new_pos is None:
            new_pos = torch.arange(seen, seen + stop - start, device=self.pos_LBGT.device)[None]
        batch, heads, _ = self._row_shape
        new_pos = new_pos[:, None].expand(batch, heads, -1)
        before = self._layer_bytes(layer)
        self._take(layer, k_BGSD, v_BGSD, new_pos)
        self._count(layer, pos_BS, start, stop)
        self.bytes_written += max(0, self._layer_bytes(layer) - before)

    def read(self, layer: int) -> PackedLayer:
        """One layer's used slots: dense views when they are asked for, made by unpacking.

        It is good until something is appended to this layer, or another layer is unpacked.
        """
        self._layer(layer)
        self.bytes_read += self._layer_bytes(layer)
        return PackedLayer(self, layer)

    def keep(self, layer: int, keep_BGT: Tensor) -> None:
        """Refused: a packed row cannot be taken out of a group of tokens, nor heads differ."""
        raise ValueError(
            "Tokens were to be evicted from a packed cache, which keeps them in groups. Evict from "
            "a KVCache first, then pack what is left: PackedKVCache.of(cache, …)."
        )

    def rewind(self, seen: int) -> None:
        """Forget the latest tokens, so that `seen` are left. Nothing is unpacked.

        Raises: ValueError for more than there are, or for fewer than the packed ones; 0 is always
        possible.
        """
        least = max(
            had - (used - self.sinks - packed) if packed else 0
            for had, used, packed in zip(self._seen_L, self._used_L, self._packed_L, strict=True)
        )
        if 0 < seen < least:
            raise ValueError(
                f"Rewinding to {seen} tokens was asked for, but the first {least} are packed and "
                f"cannot be the recent window again; expected 0 or at least {least}."
            )
        self._fresh = None
        super().rewind(seen)

    def shrink(self, capacity: int | None = None) -> None:
        """Move the body to smaller memory: room for `capacity` slots, or just the used ones.

        Raises: ValueError when the used slots would not fit, or the cache would grow.
        """
        used = max(self._used_L)
        wanted = max(1, used) if capacity is None else capacity
        if not max(1, used) <= wanted <= self.capacity:
            raise ValueError(
                f"Shrinking to {wanted} slots was asked for, but {used} are used and there are "
                f"{self.capacity}; expected a number between these."
            )
        most = max(self._due(wanted), *self._packed_L, 0)
        with torch.inference_mode(False):
            self.pos_LBGT = self.pos_LBGT[..., :wanted].clone()
            self._body = [
                tuple(part[:, :, :, : most // rule.unit].clone() for part in parts)
                for rule, parts in zip(self.rules, self._body, strict=True)
            ]
        self._scratch = self._fresh = None
        self.bytes_copied += self.live_bytes

    def reset(self) -> None:
        """Forget everything; keep the memory."""
        super().reset()
        self.bytes_unpacked = 0

    def fork(self) -> PackedKVCache:
        """A second cache with the same contents and its own memory."""
        twin = copy(self)
        with torch.inference_mode(False):
            twin.pos_LBGT = self.pos_LBGT.clone()
            twin._dense = [x_LBGTD.clone() for x_LBGTD in self._dense]
            twin._body = [tuple(part.clone() for part in parts) for parts in self._body]
        twin._know(self)
        twin._packed_L, twin._tail_L = list(self._packed_L), list(self._tail_L)
        twin._scratch = None
        twin.bytes_written = twin.bytes_read = twin.bytes_unpacked = 0
        twin.bytes_copied = self.live_bytes
        return twin

    def unpacked(self, layer: int) -> tuple[Tensor, Tensor]:
        """Dense keys and values of one layer's used slots, in memory that the next call reuses."""
        used, (batch, heads, width) = self._used_L[layer], self._row_shape
        fresh = self._fresh if self._fresh is not None and self._fresh[0] == layer else None
        if fresh is not None and fresh[1] == 0:
            return fresh[2][:, :, :used], fresh[3][:, :, :used]
        if self._scratch is None:
            shape = (2, batch, heads, self.capacity, width)
            with torch.inference_mode(False):
                self._scratch = self._dense[0].new_empty(shape)
        first, packed = min(used, self.sinks), self._packed_L[layer]
        tail, rest = self._tail_L[layer], used - first - packed
        for which, rule in enumerate(self.rules):
            x_BGTD, dense_BGTD = self._scratch[which], self._dense[which][layer]
            x_BGTD[:, :, :first] = dense_BGTD[:, :, :first]
            if packed:
                parts = tuple(p[layer, :, :, : packed // rule.unit] for p in self._body[which])
                x_BGTD[:, :, first : first + packed] = rule.decode(parts, width)
            x_BGTD[:, :, first + packed : used] = dense_BGTD[:, :, tail : tail + rest]
            if fresh is not None:
                x_BGTD[:, :, fresh[1] : used] = fresh[2 + which][:, :, : used - fresh[1]]
        self.bytes_unpacked += used * self._bytes_per_slot
        return self._scratch[0, :, :, :used], self._scratch[1, :, :, :used]

    def _forget(self) -> None:
        super()._forget()
        self._packed_L = [0] * self.n_layers  # slots packed
        self._tail_L = [self.sinks] * self.n_layers  # where the tail begins among the dense slots
        # the latest tokens as they came, if some of them are packed already: (layer, slot, k, v)
        self._fresh: tuple[int, int, Tensor, Tensor] | None = None

    def _room_for(self, rule: Rule, capacity: int) -> tuple[Tensor, ...]:
        """Memory for the body, shaped as the rule shapes one unit of tokens."""
        layers, batch, heads = self.pos_LBGT.shape[:3]
        one = rule.encode(self._dense[0].new_zeros((1, 1, rule.unit, self._dense[0].shape[-1])))
        units = self._due(capacity) // rule.unit
        shapes = [(layers, batch, heads, units, *part.shape[3:]) for part in one]
        return tuple(part.new_zeros(shape) for part, shape in zip(one, shapes, strict=True))

    def _due(self, used: int) -> int:
        """Of so many slots, how many are to be packed."""
        return max(0, used - self.sinks - self.recent) // self.every * self.every

    def _layer_bytes(self, layer: int) -> int:
        packed = self._packed_L[layer]
        units = sum(packed // r.unit * n for r, n in zip(self.rules, self._unit_bytes, strict=True))
        batch, heads, _ = self._row_shape
        return units * batch * heads + (self._used_L[layer] - packed) * self._bytes_per_slot

    def _take(self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, new_pos: Tensor) -> None:
        """Pack what leaves the window, then put the other new tokens into the dense slots.

        Counters of slots are the caller's; numbers that cannot be ranked leave the cache as it was.
        """
        used, n_new, packed = self._used_L[layer], k_BGSD.shape[2], self._packed_L[layer]
        first = min(n_new, max(0, self.sinks - used))  # new tokens that become sinks
        tail, rest = self._tail_L[layer], max(0, used - self.sinks - packed)
        leaving = max(0, self._due(used + n_new) - packed)
        old = min(leaving, rest)  # of those that leave, the ones already here
        new = leaving - old
        if leaving:
            slot = self.sinks + packed
            pos = [
                self.pos_LBGT[layer, :, :, slot : slot + old],
                new_pos[:, :, first : first + new],
            ]
            for which, x_BGSD in enumerate((k_BGSD, v_BGSD)):
                stored = self._dense[which][layer, :, :, tail : tail + old]
                sources = [stored, x_BGSD[:, :, first : first + new]]
                self._pack(layer, which, sources, pos, packed)
        left, stay = rest - old, n_new - first - new
        begin, room = tail + old, self._dense[0].shape[3]
        at = begin if begin + left + stay <= room else self.sinks
        for which, x_BGSD in enumerate((k_BGSD, v_BGSD)):
            dense = self._dense[which][layer]
            if first:
                dense[:, :, used : used + first] = x_BGSD[:, :, :first]
            if at != begin:
                moved = dense[:, :, begin : begin + left]
                dense[:, :, at : at + left] = moved.clone() if at + left > begin else moved
                self.bytes_copied += left * self._bytes_per_slot // 2
            dense[:, :, at + left : at + left + stay] = x_BGSD[:, :, first + new :]
        self._tail_L[layer], self._packed_L[layer] = at, packed + leaving
        self._fresh = (layer, used, k_BGSD, v_BGSD) if new else None

    def _pack(
        self, layer: int, which: int, sources: list[Tensor], pos: list[Tensor], packed: int
    ) -> None:
        """Write tokens from two places, one after the other, behind `packed` ones of the body."""
        rule, total = self.rules[which], sum(x.shape[2] for x in sources)
        chunk = max(1, _CHUNK // rule.unit) * rule.unit
        for low in range(0, total, chunk):
            x_BGTD, pos_BGT = _span(sources, low, low + chunk), _span(pos, low, low + chunk)
            if rule.unit > 1:  # padding must not sway what a group keeps
                x_BGTD = x_BGTD.where(pos_BGT[..., None] >= 0, 0)
            start = (packed + low) // rule.unit
            for part, new in zip(self._body[which], rule.encode(x_BGTD), strict=True):
                part[layer, :, :, start : start + new.shape[2]] = new


def _span(pieces: list[Tensor], low: int, high: int) -> Tensor:
    """Tokens low to high of pieces that follow each other in time."""
    found, start = [], 0
    for piece in pieces:
        stop = start + piece.shape[2]
        if low < stop and start < high:
            found.append(piece[:, :, max(0, low - start) : high - start])
        start = stop
    return found[0] if len(found) == 1 else torch.cat(found, 2)


def _check_sizes(*sizes: int) -> None:
    names = ("n_layers", "batch", "n_kv_heads", "capacity", "head_dim")
    for name, value in zip(names, sizes, strict=True):
        if value < 1:
            raise ValueError(f"A cache with {name} {value} was asked for; expected at least 1.")


def _check_window(recent: int, sinks: int, every: int, unit: int) -> None:
    if recent < 1 or sinks < 0:
        raise ValueError(
            f"A window of {recent} recent tokens and {sinks} sinks was asked for; expected at "
            "least 1 (the newest token) and 0."
        )
    if unit < 1 or every < 1 or every % unit:
        raise ValueError(
            f"Tokens were to be packed {every} at a time, but the rules hold groups of {unit}; "
            f"expected a multiple of {max(1, unit)}, and groups of at least 1."
        )
