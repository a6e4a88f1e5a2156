"""What is known of a cache without looking into it: numbers of slots and tokens, and no tensor.

Each layer counts for itself: in the middle of a forward the first ones are ahead, and layers that
were evicted from differently use different numbers of slots. A cache writes first and tells its
ledger then, so what fails on the way leaves the numbers as they were.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from numbers import Integral

from kvlab import checks


@dataclass
class LayerState:
    """One layer. `in_order`: slot i holds position i everywhere. `whole`, which follows from it:
    no used slot is padding or empty."""

    used: int = 0  # slots in use
    seen: int = 0  # tokens given, padding too
    kept_at: int = 0  # tokens given when something was last evicted
    empty: int = 0  # used slots, over rows and heads, that eviction left empty
    in_order: bool = True
    whole: bool = True


class Ledger:
    """All layers' states, and whether positions are still counted: so until some are given."""

    def __init__(self, n_layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.layers = [LayerState() for _ in range(n_layers)]
        self.counts_positions = True

    def __getitem__(self, layer: int) -> LayerState:
        if not isinstance(layer, Integral) or not 0 <= layer < len(self.layers):
            raise ValueError(
                f"Layer {layer!r} was asked for; this cache has layers 0 to {len(self.layers) - 1}."
            )
        return self.layers[layer]

    @property
    def used_L(self) -> tuple[int, ...]:
        """Slots in use, of each layer: they differ when layers were evicted from differently."""
        return tuple(state.used for state in self.layers)

    @property
    def whole_L(self) -> tuple[bool, ...]:
        """Of each layer, whether no used slot is padding or empty."""
        return tuple(state.whole for state in self.layers)

    @property
    def most_used(self) -> int:
        """Slots of the fullest layer."""
        return max(state.used for state in self.layers)

    @property
    def length(self) -> int:
        """Slots that every layer has filled."""
        return min(state.used for state in self.layers)

    @property
    def seen(self) -> int:
        """Tokens that every layer was given, padding too: `length` until something is evicted."""
        return min(state.seen for state in self.layers)

    @property
    def in_order(self) -> bool:
        """Whether slot i holds position i everywhere: no padding, nothing evicted or skipped."""
        return all(state.in_order for state in self.layers)

    def check_capacity(self, n_new: int) -> None:
        """Refuse `n_new` more tokens that do not fit into every layer."""
        checks.whole("The number of new tokens", n_new, 0)
        free = self.capacity - self.most_used
        if n_new > free:
            raise ValueError(
                f"{n_new} tokens were to be appended, but the cache has {free} of "
                f"{self.capacity} slots free. Make it with a larger capacity, or rewind it."
            )

    def check_shrink(self, capacity: int | None) -> int:
        """The capacity to shrink to, that of the used slots for None."""
        used = self.most_used
        wanted = max(1, used) if capacity is None else checks.whole("capacity", capacity)
        if not max(1, used) <= wanted <= self.capacity:
            raise ValueError(
                f"Shrinking to {wanted} slots was asked for, but {used} are used and there are "
                f"{self.capacity}; expected a number between these."
            )
        return wanted

    def appended(self, layer: int, n_new: int, *, positions_given: bool = False) -> None:
        """Count tokens that were written behind the others of one layer."""
        state = self[layer]
        state.used += n_new
        state.seen += n_new
        if positions_given:
            state.in_order = state.whole = self.counts_positions = False

    def advanced(self) -> None:
        """Count one token that was written to every layer."""
        for layer in range(len(self.layers)):
            self.appended(layer, 1)

    def evicted(self, layer: int, used: int, n_heads: int, n_kept: int) -> None:
        """Count what an eviction left: `n_kept` tokens in so many heads of `used` slots each."""
        state = self[layer]
        state.used, state.kept_at = used, state.seen
        state.empty = used * n_heads - n_kept
        state.in_order, state.whole = False, state.empty == 0

    def rewound(self, seen: int) -> list[range]:
        """Forget the latest tokens, as `Slots.rewind` says; each layer's slots that this frees."""
        checks.whole("The number of tokens to rewind to", seen, None)
        if seen == 0:
            freed = [range(state.used) for state in self.layers]
            self.layers = [LayerState() for _ in self.layers]
            self.counts_positions = True
            return freed
        evicted_at = max(state.kept_at for state in self.layers)
        if not evicted_at <= seen <= self.seen:
            lost = f", and evicted some after token {evicted_at}" if evicted_at else ""
            raise ValueError(
                f"Rewinding to {seen} tokens was asked for, but the cache has seen {self.seen}"
                f"{lost}; expected 0 or a number between {evicted_at} and {self.seen}."
            )
        freed = []
        for state in self.layers:
            used = state.used - (state.seen - seen)
            freed.append(range(used, state.used))
            state.used, state.seen = used, seen
        return freed

    def copy(self, capacity: int | None = None) -> Ledger:
        """The same numbers once more, for a cache of this or another capacity."""
        twin = deepcopy(self)
        twin.capacity = capacity or self.capacity
        return twin
