"""Clocks that can be trusted on a noisy machine, and the machine they ran on.

Two things are compared by running them in turn in one process and looking at the ratio of each
pair. A time on its own says more about the machine than about the code.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Comparison:
    """Seconds of two things run in turn, and the verdict on "the second is faster"."""

    slow_seconds: tuple[float, ...]
    fast_seconds: tuple[float, ...]

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

    def verdict(self, at_least: float = 1.0) -> str:
        """ "faster", "not faster", or "too noisy" when the pairs disagree about `at_least`."""
        low, high = self.spread
        if low >= at_least:
            return "faster"
        if high < at_least:
            return "not faster"
        agree = sum(r >= at_least for r in self.ratios) / len(self.ratios)
        if agree >= 0.8:
            return "faster"
        return "not faster" if agree <= 0.2 else "too noisy"


def compare(
    slow: Callable[[], object], fast: Callable[[], object], *, pairs: int = 5, warm_up: int = 1
) -> Comparison:
    """Time two functions in turn, after warming both up; the order alternates."""
    for _ in range(warm_up):
        slow()
        fast()
    slow_seconds: list[float] = []
    fast_seconds: list[float] = []
    for i in range(pairs):
        turn = [(slow, slow_seconds), (fast, fast_seconds)]
        for run, seconds in turn if i % 2 == 0 else reversed(turn):
            seconds.append(clock(run))
    return Comparison(tuple(slow_seconds), tuple(fast_seconds))


def clock(run: Callable[[], object]) -> float:
    """Seconds that one call takes, device work included."""
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the GPU, which works on after a call returns; nothing to do on a CPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def machine() -> dict[str, object]:
    """What a number depends on: processor, cores, threads, versions."""
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
