"""Seconds per token as a line over the length of the text, and where two such lines meet."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 1000
Seconds = Mapping[int, Sequence[float]]  # by length, one a round


class Line(NamedTuple):
    """Seconds per token: `intercept` plus `slope` for each token of the text."""

    intercept: float
    slope: float


def fitted(seconds: Seconds, rounds: Sequence[int]) -> Line:
    """The line of least squares through the medians of some rounds at each length.

    Errors are relative: a millisecond at a short text counts as much as ten at a text that takes
    ten times as long.
    """
    lengths = np.array(sorted(seconds), dtype=float)
    medians = np.array([np.median([seconds[int(n)][r] for r in rounds]) for n in lengths])
    slope, intercept = np.polyfit(lengths, medians, 1, w=1 / medians)
    return Line(float(intercept), float(slope))


def draws_of(n_rounds: int, draws: int = DRAWS, seed: int = 0) -> list[list[int]]:
    """Rounds drawn with return, the same for all ways, so that pairs of one round stay together."""
    rng = random.Random(seed)
    return [[rng.randrange(n_rounds) for _ in range(n_rounds)] for _ in range(draws)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """From the 2.5th to the 97.5th percentile; infinite values are values."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[round(0.025 * last)], ordered[round(0.975 * last)]


class Pays(NamedTuple):
    """From which length on, and up to which, a way takes less time than another; empty: nowhere."""

    first: float
    last: float

    @property
    def nowhere(self) -> bool:
        return not self.first < self.last

    def within(self, shortest: float, longest: float) -> Pays:
        """What of it lies between two lengths: a line says nothing beyond those measured."""
        return Pays(max(self.first, shortest), min(self.last, longest))


def pays(way: Line, base: Line) -> Pays:
    """The lengths at which a way's line lies below the other."""
    ahead, steeper = base.intercept - way.intercept, way.slope - base.slope
    if steeper == 0:
        return Pays(0.0, float("inf")) if ahead > 0 else Pays(0.0, 0.0)
    meet = max(0.0, ahead / steeper)
    return Pays(0.0, meet) if steeper > 0 else Pays(meet, float("inf"))
