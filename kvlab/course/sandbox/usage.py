"""The processor time that an answer has had, its processes' together.

Standard library alone: an answer's process imports this.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

_SESSION, _TIMES, _START = 3, slice(11, 15), 19  # in a line of /proc, behind the name
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def counted(child: int) -> float:
    """Seconds of processor time as Linux counts them for its limit; elsewhere 0.

    A process that happens to run at every tick of the clock is charged each tick in full, though
    others had the core in between: the limit ends it long before `wait4` reports as much.
    """
    try:
        return time.clock_gettime(~child << 3)  # a process's clock number 0: CPUCLOCK_PROF
    except OSError:
        return 0.0


class Spent:
    """Seconds of all processes that /proc shows, or of those of one session, ended ones included.

    It has to be asked again and again: of a process that lived and ended between two looks, only
    what a parent has waited for is seen. Looking takes a tenth of the time at most.
    """

    def __init__(self, session: int | None) -> None:
        self._session = session
        self._own: dict[tuple[str, str], int] = {}
        self._waited, self._next = 0, 0.0

    def seconds(self) -> float:
        """What was had so far; 0 where there is no /proc."""
        began = time.monotonic()
        if sys.platform != "linux" or began < self._next:
            return self._sum()
        with contextlib.suppress(OSError):
            for process in os.listdir("/proc"):
                if process.isdigit():
                    self._look(process)
        self._next = began + max(0.05, 10 * (time.monotonic() - began))
        return self._sum()

    def _look(self, process: str) -> None:
        with contextlib.suppress(OSError), open(f"/proc/{process}/stat", "rb") as file:
            parts = file.read().rpartition(b")")[2].split()
            if self._session in (None, int(parts[_SESSION])):
                ticks = [int(part) for part in parts[_TIMES]]
                self._own[process, parts[_START].decode()] = sum(ticks[:2])
                self._waited = max(self._waited, sum(ticks))  # with its children, once they ended

    def _sum(self) -> float:
        return max(self._waited, sum(self._own.values())) / _TICKS
