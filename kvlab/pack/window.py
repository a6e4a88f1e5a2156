"""Which tokens of a packed cache are packed, and when: sinks, body and window in plain numbers.

A layer's slots are in the tokens' order: `sink` dense ones, the packed body, and a dense tail of at
least `recent` tokens. The tail slides through the dense slots behind the sinks, and goes back to
their beginning when it comes to their end.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvlab import checks


@dataclass
class Stretch:
    """One layer's packed slots, and where its tail begins among the dense ones."""

    packed: int
    tail: int


@dataclass(frozen=True)
class Entry:
    """How new tokens come into a layer: counts of tokens, and places among the dense slots."""

    to_sinks: int  # new ones that become sinks
    leaving: int  # of the tail, to be packed
    through: int  # new ones that are packed at once
    staying: int  # of the tail, left as they are
    joining: int  # new ones that follow these
    begin: int  # where those that stay lie,
    to: int  # and where they, and then the joining ones, go


@dataclass(frozen=True)
class Window:
    """The dense tokens: the first `sink`, and the latest `recent`; the rest is packed, `at_once`
    tokens at a time. Rules hold groups of `unit` tokens."""

    sink: int
    recent: int
    at_once: int
    unit: int = 1

    def __post_init__(self) -> None:
        for name in ("sink", "recent", "at_once", "unit"):
            checks.whole(name, getattr(self, name), None)
        if self.recent < 1 or self.sink < 0:
            raise ValueError(
                f"A window of {self.recent} recent tokens and {self.sink} sinks was asked for; "
                "expected at least 1 (the newest token) and 0."
            )
        if self.unit < 1 or self.at_once < 1 or self.at_once % self.unit:
            raise ValueError(
                f"Tokens were to be packed {self.at_once} at a time, but the rules hold groups "
                f"of {self.unit}; expected a multiple of {max(1, self.unit)}, and groups of at "
                "least 1."
            )

    def empty(self) -> Stretch:
        return Stretch(0, self.sink)

    def dense_slots(self, capacity: int) -> int:
        """Slots that stay dense at most, twice the window so that the tail moves rarely."""
        return min(capacity, self.sink + 2 * (self.recent + self.at_once))

    def due(self, used: int) -> int:
        """Of so many slots, how many are to be packed."""
        return max(0, used - self.sink - self.recent) // self.at_once * self.at_once

    def tail(self, used: int, stretch: Stretch) -> int:
        """Tokens in a layer's tail."""
        return max(0, used - self.sink - stretch.packed)

    def entry(self, used: int, stretch: Stretch, n_new: int, dense_slots: int) -> Entry:
        """How so many new tokens come into a layer that uses `used` slots."""
        to_sinks = min(n_new, max(0, self.sink - used))
        tail = self.tail(used, stretch)
        due = max(0, self.due(used + n_new) - stretch.packed)
        leaving = min(due, tail)
        through = due - leaving
        staying, joining = tail - leaving, n_new - to_sinks - through
        begin = stretch.tail + leaving
        fits = begin + staying + joining <= dense_slots
        to = begin if fits else self.sink
        return Entry(to_sinks, leaving, through, staying, joining, begin, to)
