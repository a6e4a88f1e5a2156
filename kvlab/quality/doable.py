"""What a model can do with all of its cache: what it cannot tells nothing about pruning."""

from __future__ import annotations

import math
from collections.abc import Callable

from kvlab.quality.cells import Asked, Cells, measured
from kvlab.quality.log import Key, Record
from kvlab.quality.methods import DENSE
from kvlab.quality.tasks import TASKS

LEAST = 0.5  # of the prompts, answered rightly by the dense model
GUESSING = 0.9  # of the loss of a model that takes all tokens for alike


def leave_out(
    cells: Cells, done: dict[Key, Record], write: Callable[[Key, Record], None]
) -> dict[str, str]:
    """Take from the cells the tasks that the dense model cannot do; which, and what it did.

    The prompts of the first seed are read. What is measured is written down as any other record.
    Raises: ValueError when no task is left.
    """
    out = {}
    for task in dict.fromkeys(name for name, _ in cells.tasks):
        question = next(q for name, q in cells.tasks if name == task)
        key = (task, question, 0, DENSE, None)
        if key not in done:
            ((_, record),) = measured(cells, key[:3], Asked((), {}, ()), [key])
            write(key, record)
            done[key] = record
        if (why := _cannot(task, done[key], cells.model.config.vocab_size)) is not None:
            out[task] = why
    cells.tasks = [t for t in cells.tasks if t[0] not in out]
    if not cells.tasks:
        said = "; ".join(f"{task}: {why}" for task, why in out.items())
        raise ValueError(
            f"The model, with all of its cache, can do none of the tasks ({said}), so they say "
            "nothing about pruning it. Give it a text that it knows (--text FILE), or measure them "
            "all the same (--all-tasks)."
        )
    return out


def _cannot(task: str, record: Record, vocab_size: int) -> str | None:
    """What the dense model did, where that is too little; None where it can."""
    if TASKS[task].shows == "recall":
        right, n = sum(record["right"]), len(record["right"])
        return f"right in {right} of {n}" if right < LEAST * n else None
    nats = sum(record["nats"]) / len(record["nats"])
    least = math.log(vocab_size)
    if nats < GUESSING * least:
        return None
    return f"{nats:.1f} nats a token, and guessing costs {least:.1f}"
