"""What a reader sees while something takes its time: a bar for minutes, a word for seconds."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[float, str, float], None]


SECONDS = 30  # between two lines
PATIENCE = 2.0  # seconds until a word is said


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


@contextmanager
def alive(what: str) -> Iterator[None]:
    """Say on stderr that `what` still goes on: after two seconds, and each half minute from there.

    Nothing is said under pytest, which compares notebooks with stored output.
    """
    done, began = threading.Event(), time.monotonic()

    def watch() -> None:
        wait = PATIENCE
        while not done.wait(wait):
            said = f"kvlab: still {what}, {time.monotonic() - began:.0f} s so far ..."
            print(said, file=sys.stderr, flush=True)
            wait = SECONDS

    if "PYTEST_VERSION" in os.environ:
        yield
        return
    watcher = threading.Thread(target=watch, name="kvlab is alive", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
