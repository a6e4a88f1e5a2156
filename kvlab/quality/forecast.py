"""How long a report will take, said before it begins."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from kvlab.quality.cells import Cells
from kvlab.quality.measuring import measure
from kvlab.quality.methods import Shape, window_only

# Less is not worth a word.
WORTH_SAYING = 30


def seconds_for(cells: Cells, n_methods: int, seeds: int, share: float = 1.0) -> float:
    """Seconds that a report takes at most in one process: of each task one prompt is measured, and
    taken for all; `share` is what is not done yet.

    A cell reads its prompts together, which takes less than one after the other.
    """
    total = 0.0
    for task in cells.tasks:
        prompts = cells.prompts(*task, 0)
        cut = {name: getattr(prompts, name)[:1] for name in ("texts", "rests", "scored")}
        one = replace(prompts, **cut, depths=None)
        policy = window_only(Shape(one.mean_tokens, cells.model.config.head_dim, **cells.same))
        marks = [time.perf_counter()]
        for _ in measure(cells.model, one, {"dense": None, "one": policy}):
            marks.append(time.perf_counter())
        each = marks[2] - marks[1]
        total += (marks[1] - marks[0] + n_methods * each) * len(prompts.texts) * seeds
    return total * share


def announce(seconds: float, workers: int = 1) -> None:
    """Say on stderr how long it may take, where that is long enough to wonder."""
    if seconds / workers >= WORTH_SAYING:
        minutes = max(1, round(seconds / workers / 60))
        beside = f", if {workers} workers share the work evenly" * (workers > 1)
        print(
            f"This takes up to {minutes} minute{'s' * (minutes > 1)}{beside}, from a look at one "
            "prompt of each task.",
            file=sys.stderr,
            flush=True,
        )
