"""Numbered slots with positions: what all our caches are made of.

L layers, B rows of the batch, G key/value heads, T slots, S new tokens, D head width.

A used slot holds one token's key and value, and the position that token had in its text, -1 for
padding and for what eviction left empty. Masks are made from these positions, so causality,
padding, eviction and chunked prefill need no other book-keeping: a query at position p may use a
slot exactly when 0 <= pos <= p. The same holds for slots not yet used, in which slot i has position
i while a layer is in order and -1 after that, so a step may look at more slots than are used.
"""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor

from kvlab import checks
from kvlab.ledger import Ledger
from kvlab.old import Former
from kvlab.protocol import Cache

_CURE = " A cache from model.new_cache goes with its model."


def _told(name: str, doc: str | None = None) -> property:
    return property(attrgetter(f"ledger.{name}"), doc=doc or getattr(Ledger, name).__doc__)


class Slots(Cache):
    """Numbered slots, a ledger of them, and counters: what all our caches have."""

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
        sizes = {
            "n_layers": n_layers, "batch": batch, "n_kv_heads": n_kv_heads, "capacity": capacity,
            "head_dim": head_dim,
        }  # fmt: skip
        for name, value in sizes.items():
            checks.whole(f"{name} of a cache", value)
        checks.kind("dtype", dtype, torch.dtype, "a type of torch's, as torch.float16")
        checks.held(device, dtype)
        self.batch, self.n_kv_heads, self.head_dim, self.dtype = batch, n_kv_heads, head_dim, dtype
        self.ledger = Ledger(n_layers, capacity)
        self._next: int | Tensor = 0  # the position that followed when something was last evicted
        self._bytes_per_row = head_dim * dtype.itemsize  # of one key, or of one value
        self._bytes_per_slot = 2 * batch * n_kv_heads * self._bytes_per_row
        self.bytes_written = self.bytes_read = self.bytes_copied = 0
        with torch.inference_mode(False):  # else only inference mode could write into it
            shape = (n_layers, batch, n_kv_heads, capacity)
            try:
                self.pos_LBGT = torch.empty(shape, dtype=torch.int64, device=device)
                self._take_memory()
            except RuntimeError as error:
                said = str(error).splitlines()[0]
                raise ValueError(f"No memory on {device} for a cache of {sizes}: {said}") from None
        self._number_slots()

    def _take_memory(self) -> None:
        """Make what keys and values are written to."""

    @property
    def n_layers(self) -> int:
        return len(self.ledger.layers)

    @property
    def device(self) -> torch.device:
        return self.pos_LBGT.device

    # what the ledger knows, under the same names
    capacity = _told("capacity", "Slots that there is memory for.")
    counts_positions = _told("counts_positions", "Whether positions follow on: none was given.")
    length, seen, in_order = _told("length"), _told("seen"), _told("in_order")
    used_L, whole_L = _told("used_L"), _told("whole_L")

    def check_capacity(self, n_new: int) -> None:
        """Refuse `n_new` more tokens that do not fit, before anything is written."""
        self.ledger.check_capacity(n_new)

    check_room = Former("check_capacity")

    def next_pos_B(self) -> Tensor:
        """The position that each row's next token will have."""
        if self.counts_positions:
            return self.pos_LBGT.new_full((self.batch,), self.seen)
        first = self.ledger[0]
        since, before = first.seen - first.kept_at, self._next
        if isinstance(before, int):  # filled on the device: sending it a number would wait
            before = self.pos_LBGT.new_full((self.batch,), before)
        if since == 0:
            return before.clone()
        latest_BT = self.pos_LBGT[0, :, 0, first.used - since : first.used]
        return before.maximum(latest_BT.amax(-1) + 1)

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
                self._number_slots()
            self._next = 0
        for layer, freed in enumerate(self.ledger.rewound(seen)):
            if not self.ledger[layer].in_order:
                self.pos_LBGT[layer, :, :, freed.start : freed.stop] = -1

    def _number_slots(self) -> None:
        """While a layer is in order, slot i holds position i: written once, here."""
        self.pos_LBGT[:] = torch.arange(self.capacity, device=self.device)

    def _go_on_from(self, other: Slots) -> None:
        """Take over what another cache of these sizes knows of its slots."""
        self.ledger = other.ledger.copy(self.capacity)
        self._next = other._next

    def _write_positions(self, layer: int, pos_BS: Tensor | None, n_new: int) -> None:
        """The positions of new tokens, which are counted after that."""
        state = self.ledger[layer]
        start, stop = state.used, state.used + n_new
        if pos_BS is not None:
            if state.in_order:
                self.pos_LBGT[layer, :, :, stop:] = -1
            self.pos_LBGT[layer, :, :, start:stop] = pos_BS[:, None]
        elif not state.in_order:
            new_S = torch.arange(state.seen, state.seen + n_new, device=self.device)
            self.pos_LBGT[layer, :, :, start:stop] = new_S
        self.ledger.appended(layer, n_new, positions_given=pos_BS is not None)

    def _check_new(self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None) -> None:
        """Refuse what cannot be appended to a layer."""
        used = self.ledger[layer].used
        n_new = k_BGSD.shape[2] if getattr(k_BGSD, "ndim", None) == 4 else "S"
        shape = (self.batch, self.n_kv_heads, n_new, self.head_dim)
        for name, rows in (("k_BGSD", k_BGSD), ("v_BGSD", v_BGSD)):
            checks.tensor(name, rows, shape, (self.dtype,), self.device, _CURE)
        if used + n_new > self.capacity:
            self.check_capacity(n_new)
        if pos_BS is not None:
            checks.tensor("pos_BS", pos_BS, (self.batch, n_new), checks.IDS, self.device)
        elif not self.counts_positions:
            raise ValueError(
                "Positions were left out, but this cache was given positions, so it cannot count "
                "on by itself. Pass pos_BS."
            )
