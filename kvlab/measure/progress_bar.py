"""A bar for what takes minutes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[float, str, float], None]


@contextmanager
def progress() -> Iterator[Show]:
    """Give a function of (done, what goes on, of how many): a bar on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda done, what, total: None
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
