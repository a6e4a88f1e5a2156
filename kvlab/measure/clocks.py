"""Clocks that can be trusted on a noisy machine.

Things are compared by running them in turn in one process and looking at the ratio of each pair. A
time on its own says more about the machine than about the code.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kvlab import checks


@dataclass(frozen=True)
class Comparison:
    """Seconds of two things run in turn, and the verdict on "the second is faster"."""

    slow_seconds: tuple[float, ...]
    fast_seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("slow_seconds", "fast_seconds"):
            checks.numbers(name, getattr(self, name))
        n_slow, n_fast = len(self.slow_seconds), len(self.fast_seconds)
        if n_slow != n_fast or n_slow == 0:
            raise ValueError(f"{n_slow} and {n_fast} times came; expected pairs, and at least one.")
        if min(*self.slow_seconds, *self.fast_seconds) <= 0:
            raise ValueError(
                "A run took no time that the clock could see; let each call do more work."
            )

    def __str__(self) -> str:
        low, high = self.spread
        sure = f"{self.confidence:.0%}" if self.confidence < 0.99 else "more than 99%"
        return (
            f"{self.ratio:.2f} times as fast: median of {len(self.ratios)} pairs, from {low:.2f} "
            f"to {high:.2f}, between which the true median lies with {sure}"
        )

    @property
    def ratios(self) -> list[float]:
        return [s / f for s, f in zip(self.slow_seconds, self.fast_seconds, strict=True)]

    @property
    def ratio(self) -> float:
        """Median over the pairs of how many times longer the first took."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest ratio."""
        return min(self.ratios), max(self.ratios)

    @property
    def confidence(self) -> float:
        """How sure it is that the true median ratio lies within `spread`.

        A pair falls above or below it like a coin, and it is outside only when all n pairs fall on
        one side: 1 - 2 / 2^n, which is 75 % for three pairs and 94 % for five. Pairs must not
        disturb each other; a machine that is slowed down for all of them still deceives.
        """
        return 1 - 2 ** (1 - len(self.ratios))

    def verdict(self, at_least: float = 1.0) -> str:
        """ "faster", at least so many times; "not faster"; or "too noisy" when pairs disagree.

        A pair holds the claim when its ratio is above 1 and not below `at_least`. Up to a fifth of
        the pairs may differ from the rest. At the very edge of the claim, as when both take the
        same time, each pair falls like a coin and five agree by luck in 12 runs of 32: ask for
        more than 1.
        Raises: ValueError for `at_least` below 1, since a slower thing is never "faster".
        """
        agree = self._held(at_least) / len(self.ratios)
        if agree >= 0.8:
            return "faster"
        return "not faster" if agree <= 0.2 else "too noisy"

    def _held(self, at_least: float) -> int:
        """In how many pairs the claim holds."""
        if not at_least >= 1:
            raise ValueError(
                f'A verdict on "at least {at_least} times as fast" was asked for; expected 1 or '
                "more. To bound a loss, look at `ratio` and `spread`."
            )
        return sum(r > 1 and r >= at_least for r in self.ratios)


def compare(
    slow: Callable[[], object], fast: Callable[[], object], *, pairs: int = 5, warm_up: int = 1
) -> Comparison:
    """Time two functions in turn, after warming both up; the order alternates."""
    seconds = interleaved({"slow": slow, "fast": fast}, rounds=pairs, warm_up=warm_up)
    return Comparison(seconds["slow"], seconds["fast"])


def interleaved(
    runs: Mapping[str, Callable[[], object]], *, rounds: int = 5, warm_up: int = 1
) -> dict[str, tuple[float, ...]]:
    """Seconds of each of several functions, run in turn, every other round in reverse order."""
    checks.kind("runs", runs, Mapping, "functions by name")
    checks.functions(**{str(name): run for name, run in runs.items()})
    rounds, warm_up = checks.whole("rounds", rounds, 0), checks.whole("warm_up", warm_up, 0)
    if rounds < 1 or not runs:
        raise ValueError(f"{rounds} rounds of {len(runs)} runs were asked for; expected one each.")
    for _ in range(warm_up):
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name in runs if i % 2 == 0 else reversed(runs):
            seconds[name].append(clock(runs[name]))
    return {name: tuple(found) for name, found in seconds.items()}


def clock(run: Callable[[], object]) -> float:
    """Seconds that one call takes, device work included."""
    checks.functions(run=run)
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the GPU, which works on after a call returns; nothing to do on a CPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    if torch.backends.mps.is_available():
        torch.mps.synchronize()


@contextmanager
def threads(n: int | None) -> Iterator[None]:
    """Let torch use n threads for a while; None leaves them as they are."""
    if n is not None and (type(n) is not int or n < 1):
        raise ValueError(f"{n!r} threads were asked for; expected a whole number of at least 1.")
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
