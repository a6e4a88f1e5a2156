"""What the book's own cells measure: a chapter is run as it stands, and its losing cases are kept.

    python -m benchmarks.chapters 7 --out benchmarks/results/chapter-07.json

Each chapter names what is read of it (`READS`), so that nothing of a cell is written here again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from benchmarks.common import record

CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"
Row = dict[str, Any]


class Reading(NamedTuple):
    """A chapter's file, the names of its cells that are read, and what becomes of them."""

    file: str
    names: tuple[str, ...]
    rows: Callable[[SimpleNamespace], Iterator[Row]]


def slow_decode(its: SimpleNamespace) -> Iterator[Row]:
    """Chapter 7: two rates, two prices, and who guesses what follows."""
    yield {
        "what": "bound", "name": "pocket", "ratio": round(its.pocket_ms / its.least_ms, 3),
        "predicted_ms": round(its.least_ms, 4), "measured_ms": round(its.pocket_ms, 4),
    }  # fmt: skip
    for name, ratio in its.outcome.items():
        yield {"what": "two prices", "name": name, "ratio": round(ratio, 3)}
    for name, gained in its.gained.items():
        price = its.c_five + (its.guess if name == "48 tokens" else 0)
        yield {
            "what": "guessing", "name": name, "right": round(its.right[name], 3),
            "of": its.K, "predicted": round((its.right[name] + 1) / price, 3),
            "ratio": round(gained, 3), "call": round(its.c_five, 3),
        }  # fmt: skip
    for name, prompt in its.prompts.items():
        ends = () if name == "a story" else its.config.eos_ids
        new, accepted = its.speculate(its.tokenizer.encode(prompt), its.copied, 40, ends)
        yield {"what": "copying", "name": name, "tokens": len(new), "calls": 1 + len(accepted)}


def memory(its: SimpleNamespace) -> Iterator[Row]:
    """Chapter 8: a cache that grows by being copied, and what is reserved and not used."""
    for kind, seconds in its.times.items():
        for n, one in zip(its.lengths, seconds, strict=True):
            yield {
                "what": "append", "name": kind.__name__, "tokens": n,
                "microseconds": round(1e6 * one, 1), "ratio": round(one / seconds[0], 2),
            }  # fmt: skip
    for kind in (its.Concatenated, its.Doubled, its.Preallocated):
        _, most, moved = its.grown(kind, 1000)
        yield {"what": "growth", "name": kind.__name__, "moved": moved, "most": max(most)}
    used, reserved = sum(its.used), sum(its.reserved)
    yield {"what": "reserved", "name": "one stretch each", "used": used, "taken": reserved}
    for size in (1, 4, 16, 64, 256):
        taken = sum(size * -(-n // size) for n in its.used)
        yield {"what": "reserved", "name": f"blocks of {size}", "used": used, "taken": taken}


def many_readers(its: SimpleNamespace) -> Iterator[Row]:
    """Chapter 9: who waits, who is served in time, and two processes in place of one."""
    for name, log in its.trials.items():
        gap, first = its.waits(log)
        yield {"what": "waits", "name": name, "gap": round(gap, 1), "first": round(first, 1)}
    for budget, (gap, first) in its.dial.items():
        name = f"pieces, {budget:,} tokens a step"
        yield {"what": "waits", "name": name, "gap": round(gap, 1), "first": round(first, 1)}
    for row in its.report["rows"]:
        yield {
            "what": "in time", "name": row["policy"], "load": row["load"],
            "strict": row["served_strict"], "relaxed": row["served_relaxed"],
        }  # fmt: skip
    for name, way, split in (("shared layers", "tp", (2, 1)), ("two stages", "pp", (1, 2))):
        took = max(each[way].seconds for each in its.found)
        expected = its.whole / its.splits[split].step_seconds
        yield {
            "what": "two processes", "name": name, "expected": round(expected, 3),
            "ratio": round(its.by_one / took, 3),
        }  # fmt: skip


def answers(its: SimpleNamespace) -> Iterator[Row]:
    """Chapter 11: attention against what is missed, and the second question."""
    yield {"what": "attention", "name": "most attended, most missed", "right": its.hits,
           "of": len(its.sentences)}  # fmt: skip
    for name, (words, codes) in its.found.items():
        if name != "mine":
            yield {
                "what": "second question", "name": name, "words": words, "codes": codes,
                "of": its.N,
            }  # fmt: skip


READS = {
    7: Reading(
        "07_slow_decode.ipynb",
        ("pocket_ms", "least_ms", "outcome", "gained", "c_five", "guess", "right", "K", "prompts",
         "config", "speculate", "tokenizer", "copied"),
        slow_decode,
    ),
    8: Reading(
        "08_memory.ipynb",
        ("times", "lengths", "Concatenated", "Doubled", "Preallocated", "grown", "used",
         "reserved"),
        memory,
    ),
    9: Reading(
        "09_many_readers.ipynb",
        ("trials", "waits", "dial", "report", "found", "whole", "splits", "by_one"),
        many_readers,
    ),
    11: Reading("11_answers.ipynb", ("hits", "sentences", "found", "N"), answers),
}  # fmt: skip


def cells(file: str) -> list[str]:
    """The code of a chapter, cell by cell."""
    page = json.loads((CHAPTERS / file).read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in page["cells"] if c["cell_type"] == "code"]


def run(file: str) -> SimpleNamespace:
    """What a chapter's cells leave, run one after the other in the chapters' folder."""
    before, threads = Path.cwd(), torch.get_num_threads()
    names: dict[str, Any] = {"__name__": Path(file).stem, "display": print}
    os.chdir(CHAPTERS)
    try:
        for i, cell in enumerate(cells(file)):
            exec(compile(cell, f"{file}, cell {i}", "exec"), names)
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
    return SimpleNamespace(**names)


def main() -> None:
    """Run a chapter and record what was read of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapter", type=int, choices=sorted(READS))
    parser.add_argument("--out", type=Path, help="write the result there as well")
    args = parser.parse_args()
    out = args.out and args.out.resolve()  # a chapter runs in a folder of its own
    reading = READS[args.chapter]
    rows = list(reading.rows(run(reading.file)))
    record("benchmarks.chapters", out, rows, threads_each=1, load=round(os.getloadavg()[0], 1))


if __name__ == "__main__":
    main()
