"""What one answer may use: time, memory, processes and files.

Standard library alone: an answer's process imports this.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What one answer may use.

    Processor time is the limit that a loop meets; wall time, which a busy machine stretches, is
    for an answer that sleeps. Memory is counted on top of what torch takes.
    """

    call_seconds: float = 180.0
    answer_seconds: float = 600.0
    cpu_seconds: int = 30
    memory_bytes: int = 2**30
    file_bytes: int = 2**20
    folder_bytes: int = 2**24
    processes: int = 16


def set_limits(limits: Limits, level: str, mapped: int) -> None:
    """Bound this process; `mapped` are the bytes of address space that it has already."""
    import resource

    def bound(name: str, value: int, more: int = 0) -> None:
        hard = resource.getrlimit(getattr(resource, name))[1]
        most = value + more if hard == resource.RLIM_INFINITY else min(value + more, hard)
        resource.setrlimit(getattr(resource, name), (min(value, most), most))

    spent = int(time.process_time())  # where there is no fork, torch was loaded in this process
    bound("RLIMIT_CPU", spent + limits.cpu_seconds, more=1)  # a signal first; not to process 1
    bound("RLIMIT_FSIZE", limits.file_bytes)
    bound("RLIMIT_CORE", 0)
    bound("RLIMIT_NOFILE", 128)
    if level in ("namespaces", "bubblewrap"):
        bound("RLIMIT_NPROC", limits.processes)
    elif sys.platform == "linux":
        bound("RLIMIT_NPROC", limits.processes + _my_threads())
    if sys.platform == "linux":
        bound("RLIMIT_AS", mapped + limits.memory_bytes)


def address_space() -> int:
    """Bytes of address space that this process has already; what torch maps, without /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 5 * 2**30


def _my_threads() -> int:
    """How many threads this user runs now; without a sandbox they count against the limit."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == os.getuid():
                found += len(os.listdir(process / "task"))
    return found
