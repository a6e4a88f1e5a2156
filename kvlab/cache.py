"""Where keys and values live between two steps.

L layers, B rows of the batch, G key/value heads, T slots, S new tokens, D head width.

A used slot holds one token's key and value, and the position that token had in its text, -1 for
padding and for what eviction left empty. Masks are made from these positions, so causality,
padding, eviction and chunked prefill need no other book-keeping: a query at position p may use a
slot exactly when 0 <= pos <= p. The same holds for slots not yet used, in which slot i has position
i while a layer is in order and -1 after that, so a step may look at more slots than are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LayerKV:
    """One layer's used slots, as views into the cache.

    `in_order` says that slot i holds position i in every row and head; `whole`, which follows from
    it, that no used slot is padding or empty. The host knows both without asking the device, and
    attention needs no mask for a single new token of a whole layer.
    """

    k_BGTD: Tensor
    v_BGTD: Tensor
    pos_BGT: Tensor
    in_order: bool
    whole: bool = False
    packed: ClassVar[None] = None  # see pack.layer


class KVCache:
    """Preallocated keys and values of all layers; each layer counts its own used slots.

    Memory is taken once and written in place, so nothing moves while text grows; `keep` evicts,
    and only `shrink` gives memory back. Counters are plain Python numbers: `bytes_written`,
    `bytes_read` (of the views handed out) and `bytes_copied` (keys and values moved from one place
    to another, by `keep`, `shrink` and `fork`).

    A cache made, filled or shrunk in inference mode can be used outside it. Gradients do not flow
    through what was written over, and torch says so in `backward`.
    """

    thins: ClassVar[bool] = True  # whether tokens and elements can be taken out

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
        shape = (n_layers, batch, n_kv_heads, capacity, head_dim)
        names = ("n_layers", "batch", "n_kv_heads", "capacity", "head_dim")
        for name, value in zip(names, shape, strict=True):
            if value < 1:
                raise ValueError(f"A cache with {name} {value} was asked for; expected at least 1.")
        with torch.inference_mode(False):  # else only inference mode could write into it
            self.k_LBGTD = torch.zeros(shape, dtype=dtype, device=device)
            self.v_LBGTD = torch.zeros(shape, dtype=dtype, device=device)
            # While a layer is in order, slot i holds position i: written once, here.
            self.pos_LBGT = torch.empty(shape[:-1], dtype=torch.int64, device=device)
            self.pos_LBGT[:] = torch.arange(capacity, device=device)
        self._start(batch, n_kv_heads, head_dim, dtype)

    def __repr__(self) -> str:
        layers, rows, heads, capacity, width = self.k_LBGTD.shape
        return (
            f"KVCache({layers} layers, {rows} rows, {heads} KV heads of {width}, "
            f"{self.length} of {capacity} slots used)"
        )

    @property
    def n_layers(self) -> int:
        return self.pos_LBGT.shape[0]

    @property
    def batch(self) -> int:
        return self.pos_LBGT.shape[1]

    @property
    def capacity(self) -> int:
        return self.pos_LBGT.shape[3]

    @property
    def n_kv_heads(self) -> int:
        return self._row_shape[1]

    @property
    def head_dim(self) -> int:
        return self._row_shape[2]

    @property
    def device(self) -> torch.device:
        return self.pos_LBGT.device

    @property
    def length(self) -> int:
        """Slots that every layer has filled."""
        return min(self._used_L)

    @property
    def seen(self) -> int:
        """Tokens that every layer was given, padding too: `length` until something is evicted."""
        return min(self._seen_L)

    @property
    def in_order(self) -> bool:
        """Whether slot i holds position i everywhere: no padding, nothing evicted or skipped."""
        return all(self._in_order_L)

    @property
    def counts_positions(self) -> bool:
        """Whether the next token's position is simply `seen`: so until positions are given."""
        return self._counts

    @property
    def live_bytes(self) -> int:
        """Bytes of the keys and values in used slots, without those that eviction left empty."""
        rows = sum(self._used_L) * self.batch * self.k_LBGTD.shape[2] - sum(self._empty_L)
        return 2 * rows * self._bytes_per_row

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the device pays for keys and values, used or not."""
        return self.k_LBGTD.nbytes + self.v_LBGTD.nbytes

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

        `pos_BS` holds their positions, -1 for padding; None means that they follow on, which is
        only possible until positions were given.
        Raises: ValueError when they do not fit; the cache is then as before.
        """
        start = self._used_L[self._layer(layer)]
        self._check_new(k_BGSD, v_BGSD, pos_BS, start)
        stop = start + k_BGSD.shape[2]
        self.k_LBGTD[layer, :, :, start:stop] = k_BGSD
        self.v_LBGTD[layer, :, :, start:stop] = v_BGSD
        self._count(layer, pos_BS, start, stop)
        self.bytes_written += (stop - start) * self._bytes_per_slot

    def read(self, layer: int) -> LayerKV:
        """The used slots of one layer: views, not copies."""
        used = self._used_L[self._layer(layer)]
        self.bytes_read += used * self._bytes_per_slot
        return LayerKV(
            self.k_LBGTD[layer, :, :, :used],
            self.v_LBGTD[layer, :, :, :used],
            self.pos_LBGT[layer, :, :, :used],
            self._in_order_L[layer],
            self._whole_L[layer],
        )

    def advance(self) -> None:
        """Count one token that a compiled step appended to every layer, and read, by itself."""
        for layer in range(self.n_layers):
            self._used_L[layer] += 1
            self._seen_L[layer] += 1
        self.bytes_written += self.n_layers * self._bytes_per_slot
        self.bytes_read += sum(self._used_L) * self._bytes_per_slot

    @property
    def used_L(self) -> tuple[int, ...]:
        """Slots in use, of each layer: they differ when layers were evicted from differently."""
        return tuple(self._used_L)

    @property
    def whole_L(self) -> tuple[bool, ...]:
        """Of each layer, whether no used slot is padding or empty."""
        return tuple(self._whole_L)

    def keep(self, layer: int, keep_BGT: Tensor) -> None:
        """Evict every token of one layer that `keep_BGT` (true: it stays) does not name.

        Those that stay move to the front, in the order they had. Padding goes in any case. Heads
        may keep different numbers: the layer then uses as many slots as the fullest head, and the
        others' last slots are empty, position -1. No memory is freed: see `shrink`.
        Asks the device once how many are left, and waits for the answer.
        Shapes: keep_BGT has one entry per used slot of the layer.
        Raises: ValueError for another shape or type; nothing is then evicted.
        """
        used = self._used_L[self._layer(layer)]
        k_BGTD, v_BGTD = self.k_LBGTD[layer], self.v_LBGTD[layer]
        pos_BGT = self.pos_LBGT[layer]
        if tuple(keep_BGT.shape) != (*pos_BGT.shape[:2], used) or keep_BGT.dtype != torch.bool:
            raise ValueError(
                f"A mask of shape {tuple(keep_BGT.shape)} and type {keep_BGT.dtype} came; expected "
                f"booleans of shape {(*pos_BGT.shape[:2], used)}: rows, KV heads, used slots."
            )
        if used == 0:
            return
        self._check_device(keep_BGT, "The mask")
        keep_BGT = keep_BGT & (pos_BGT[:, :, :used] >= 0)
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
        self._next = self.seen if self._counts else self.next_pos_B()
        from_BGTD = order_BGT[..., :most, None].expand(-1, -1, -1, k_BGTD.shape[-1])
        k_BGTD[:, :, :most] = k_BGTD.gather(2, from_BGTD)
        v_BGTD[:, :, :most] = v_BGTD.gather(2, from_BGTD)
        pos_BGT[:, :, :used] = pos_BGT[:, :, :used].gather(2, order_BGT).where(stays_BGT, -1)
        pos_BGT[:, :, used:] = -1
        self._used_L[layer] = most
        self._kept_at_L[layer] = self._seen_L[layer]
        self._empty_L[layer] = most * count_BG.numel() - total
        self._in_order_L[layer], self._whole_L[layer] = False, least == most
        self.bytes_copied += 2 * moved * self._bytes_per_row

    def next_pos_B(self) -> Tensor:
        """The position that each row's next token will have."""
        if self._counts:
            return self.pos_LBGT.new_full((self.batch,), self.seen)
        used, since = self._used_L[0], self._seen_L[0] - self._kept_at_L[0]
        before = self._next
        if isinstance(before, int):  # filled on the device: sending it a number would wait
            before = self.pos_LBGT.new_full((self.batch,), before)
        if since == 0:
            return before.clone()
        return before.maximum(self.pos_LBGT[0, :, 0, used - since : used].amax(-1) + 1)

    def reset(self) -> None:
        """Forget everything; keep the memory."""
        self.rewind(0)
        self.bytes_written = self.bytes_read = self.bytes_copied = 0

    def rewind(self, seen: int) -> None:
        """Forget the latest tokens, so that `seen` are left. Nothing is copied.

        Raises: ValueError for more than there are, or for so few that tokens evicted since then
        would have to come back. 0 is always possible: an empty cache has lost nothing.
        """
        if seen == 0:
            if not self.in_order:
                self.pos_LBGT[:] = torch.arange(self.capacity, device=self.pos_LBGT.device)
            self._forget()
            return
        evicted_at = max(self._kept_at_L)
        if not evicted_at <= seen <= self.seen:
            lost = f", and evicted some after token {evicted_at}" if evicted_at else ""
            raise ValueError(
                f"Rewinding to {seen} tokens was asked for, but the cache has seen {self.seen}"
                f"{lost}; expected 0 or a number between {evicted_at} and {self.seen}."
            )
        for layer, had in enumerate(self._seen_L):
            used = self._used_L[layer] - (had - seen)
            if not self._in_order_L[layer]:
                self.pos_LBGT[layer, :, :, used : self._used_L[layer]] = -1
            self._used_L[layer], self._seen_L[layer] = used, seen

    def shrink(self, capacity: int | None = None) -> None:
        """Move to smaller memory and give the old back: `capacity` slots, or just the used ones.

        Views that `read` handed out, and steps compiled for this cache, keep the old memory alive
        and must not be used any more: the three buffers are other tensors then. With the capacity
        it has, a cache stays where it is.
        Raises: ValueError when the used slots would not fit, or the cache would grow.
        """
        used = max(self._used_L)
        wanted = max(1, used) if capacity is None else capacity
        if not max(1, used) <= wanted <= self.capacity:
            raise ValueError(
                f"Shrinking to {wanted} slots was asked for, but {used} are used and there are "
                f"{self.capacity}; expected a number between these."
            )
        if wanted == self.capacity:
            return
        with torch.inference_mode(False):
            self.k_LBGTD = self.k_LBGTD[:, :, :, :wanted].clone()
            self.v_LBGTD = self.v_LBGTD[:, :, :, :wanted].clone()
            self.pos_LBGT = self.pos_LBGT[..., :wanted].clone()
        self.bytes_copied += self.live_bytes

    def grow(self, capacity: int) -> None:
        """Move to larger memory: `capacity` slots. For views and compiled steps see `shrink`.

        Raises: ValueError when the cache would shrink.
        """
        if capacity < self.capacity:
            raise ValueError(
                f"Growing to {capacity} slots was asked for, but there are {self.capacity}; "
                "expected at least these."
            )
        more = capacity - self.capacity
        if not more:
            return
        with torch.inference_mode(False):
            self.k_LBGTD = F.pad(self.k_LBGTD, (0, 0, 0, more))
            self.v_LBGTD = F.pad(self.v_LBGTD, (0, 0, 0, more))
            pos_LBGT = F.pad(self.pos_LBGT, (0, more), value=-1)
            slot_T = torch.arange(capacity, device=pos_LBGT.device)
            for layer, in_order in enumerate(self._in_order_L):
                if in_order:
                    pos_LBGT[layer] = slot_T
            self.pos_LBGT = pos_LBGT
        self.bytes_copied += self.live_bytes

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
        for layer, used in enumerate(self._used_L):
            twin.k_LBGTD[layer, :, :, :used] = self.k_LBGTD[layer, :, :, :used]
            twin.v_LBGTD[layer, :, :, :used] = self.v_LBGTD[layer, :, :, :used]
        twin.pos_LBGT.copy_(self.pos_LBGT)
        twin._know(self)
        twin.bytes_copied = self.live_bytes
        return twin

    def _know(self, other: KVCache) -> None:
        """Take over what the host knows of another cache."""
        for name in ("_used_L", "_seen_L", "_kept_at_L", "_empty_L", "_in_order_L", "_whole_L"):
            setattr(self, name, list(getattr(other, name)))
        self._counts, self._next = other._counts, other._next

    def _start(self, batch: int, n_kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        """Sizes that are asked for at every token and layer, and all counters at zero."""
        self.dtype = dtype
        self._row_shape = (batch, n_kv_heads, head_dim)
        self._bytes_per_row = head_dim * dtype.itemsize  # of one key, or of one value
        self._bytes_per_slot = 2 * batch * n_kv_heads * self._bytes_per_row
        self._forget()
        self.bytes_written = self.bytes_read = self.bytes_copied = 0

    def _forget(self) -> None:
        """What the host knows of an empty cache."""
        n_layers = self.n_layers
        self._used_L = [0] * n_layers  # slots in use
        self._seen_L = [0] * n_layers  # tokens given
        self._kept_at_L = [0] * n_layers  # tokens given when something was last evicted
        self._empty_L = [0] * n_layers  # used slots, over rows and heads, that eviction left empty
        self._in_order_L = [True] * n_layers
        self._whole_L = [True] * n_layers
        self._counts = True  # positions were never given
        self._next: int | Tensor = 0  # the position that followed when something was last evicted

    def _layer(self, layer: int) -> int:
        if not 0 <= layer < self.n_layers:
            raise ValueError(
                f"Layer {layer} was asked for; this cache has layers 0 to {self.n_layers - 1}."
            )
        return layer

    def _check_new(self, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None, start: int) -> None:
        """Refuse what cannot be appended to a layer that uses `start` slots."""
        self._check_rows(k_BGSD, v_BGSD)
        n_new = k_BGSD.shape[2]
        if start + n_new > self.capacity:
            self.check_room(n_new)
        if pos_BS is not None:
            self._check_positions(pos_BS, n_new)
        elif not self._counts:
            raise ValueError(
                "Positions were left out, but this cache was given positions, so it cannot count "
                "on by itself. Pass pos_BS."
            )

    def _count(self, layer: int, pos_BS: Tensor | None, start: int, stop: int) -> None:
        """Write the positions of new tokens, and count them."""
        seen = self._seen_L[layer]
        if pos_BS is not None:
            if self._in_order_L[layer]:
                self.pos_LBGT[layer, :, :, stop:] = -1
            self.pos_LBGT[layer, :, :, start:stop] = pos_BS[:, None]
            self._in_order_L[layer] = self._whole_L[layer] = self._counts = False
        elif not self._in_order_L[layer]:
            self.pos_LBGT[layer, :, :, start:stop] = torch.arange(
                seen, seen + stop - start, device=self.pos_LBGT.device
            )
        self._used_L[layer] = stop
        self._seen_L[layer] = seen + stop - start

    def _check_rows(self, k_BGSD: Tensor, v_BGSD: Tensor) -> None:
        rows, heads, width = self._row_shape
        shape = k_BGSD.shape
        wanted = (rows, heads, shape[2] if len(shape) == 4 else 1, width)
        if not shape == v_BGSD.shape == wanted:
            raise ValueError(
                f"Keys of shape {tuple(shape)} and values of shape {tuple(v_BGSD.shape)} "
                f"came; expected {wanted}: rows, KV heads, tokens, width."
            )
        if not k_BGSD.dtype == v_BGSD.dtype == self.dtype:
            raise ValueError(
                f"Keys of type {k_BGSD.dtype} and values of type {v_BGSD.dtype} came to a cache of "
                f"{self.dtype}. Convert them, or make the cache with their type."
            )
        self._check_device(k_BGSD, "Keys")
        self._check_device(v_BGSD, "Values")

    def _check_positions(self, pos_BS: Tensor, n_new: int) -> None:
        wanted = (self.batch, n_new)
        if tuple(pos_BS.shape) != wanted or pos_BS.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"Positions of shape {tuple(pos_BS.shape)} and type {pos_BS.dtype} came; expected "
                f"whole numbers of shape {wanted}: rows, tokens."
            )
        self._check_device(pos_BS, "Positions")

    def _check_device(self, tensor: Tensor, what: str) -> None:
        if tensor.device != self.pos_LBGT.device:
            raise ValueError(
                f"{what} came on {tensor.device}; this cache is on {self.pos_LBGT.device}."
            )
