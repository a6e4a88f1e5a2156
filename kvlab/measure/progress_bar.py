"""A bar for what takes minutes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[float, str, float], None]


SECONDS = 30  # between two lines


def _lines() -> Show:
    """A line each half minute."""
    told = time.monotonic()

    def show(done: float, what: str, total: float) -> None:
        nonlocal told
        if time.monotonic() - told >= SECONDS:
            told = time.monotonic()
            print(f"{done:.4g} of {total}: {what}", file=sys.stderr, flush=True)

    return show


@contextmanager
def progress() -> Iterator[Show]:
    """Give a function of (done, what goes on, of how many): a bar on a terminal, else now and then
    a line, which a file can hold."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda done, what, total: print(
            f"\r{done:.4g} of {total}: {what:60}", end="", file=sys.stderr
        )
        print(file=sys.stderr)
        return
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("")
        yield lambda done, what, total: bar.update(
            task, completed=done, total=total, description=what
        )
