"""When the compiled step pays: whole processes that answer once, with the plain step and with it.

    python -m benchmarks.steps --model smollm2 --out benchmarks/results/steps.json

A process starts, loads the model, makes its step ready, reads a prompt and answers it with so many
tokens. What numba compiles is compiled before the first round and kept, so this is the second use.
The two ways take turns, and what is told of them are pairs of one round. What a first use costs is
not measured here: it says itself that it compiles.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import arguments, over, record
from kvlab import load, stream
from kvlab.fast import choosing
from kvlab.measure import threads

WORKER = "import benchmarks.steps, sys; benchmarks.steps.print_answer(*sys.argv[1:])"
WAYS = ("plain", "compiled")


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--model", action="append", help="default: pocket; again for another")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, nargs="*", default=[16, 64, 256, 1024])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    tokens, rounds = ([4], 1) if args.tiny else (args.tokens, args.rounds)

    def once(*how: Any) -> dict[str, Any]:
        """A toy needs no process of its own."""
        return answered(*how) if args.tiny else answer(*how, args.threads)

    rows = [
        one_row(once, name, args.dtype, n_new, rounds)
        for name in args.model or ["pocket"]
        for n_new in tokens
    ]
    record("benchmarks.steps", args.out, rows, threads_each=args.threads)


def one_row(
    once: Callable[..., dict[str, Any]], name: str, dtype: str, n_new: int, rounds: int
) -> dict[str, Any]:
    """Seconds of whole processes either way, and how they compare."""
    once(name, dtype, n_new, "compiled")  # compiles what is not kept yet
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    worked: dict[str, list[float]] = {way: [] for way in WAYS}
    ready, said = [], {}
    for _ in range(rounds):
        for way in WAYS:
            start, before = time.perf_counter(), processor_seconds()
            found = once(name, dtype, n_new, way)
            seconds[way].append(time.perf_counter() - start)
            worked[way].append(processor_seconds() - before)
            said[way] = found["ids"]
            ready += [found["ready"]] * (way == "compiled")
    return {
        "model": name,
        "dtype": dtype,
        "new_tokens": n_new,
        "gigabytes_read": round(n_new * found["bytes"] / 1e9, 2),
        "seconds": {way: round(statistics.median(times), 3) for way, times in seconds.items()},
        "ready_seconds": round(statistics.median(ready), 3),
        "same_tokens": said["plain"] == said["compiled"],
        **over(seconds["plain"], seconds["compiled"]),
        "processor": {
            "seconds": {way: round(statistics.median(times), 3) for way, times in worked.items()},
            **over(worked["plain"], worked["compiled"]),
        },
    }


def processor_seconds() -> float:
    """What this process and those it waited for have used of a processor, which a busy machine
    stretches less than the clock."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def answer(name: str, dtype: str, n_new: int, way: str, n_threads: int) -> dict[str, Any]:
    line = [sys.executable, "-c", WORKER, name, dtype, str(n_new), way, str(n_threads)]
    return json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


def print_answer(name: str, dtype: str, n_new: str, way: str, n_threads: str) -> None:
    """In a process of its own: one answer in one way."""
    with threads(int(n_threads)):
        print(json.dumps(answered(name, dtype, int(n_new), way)))


def answered(name: str, dtype: str, n_new: int, way: str) -> dict[str, Any]:
    """One answer, and how long its step took to be ready."""
    model, tokenizer = load(name, dtype=dtype)
    ids = tokenizer.chat("Tell me a story about a king and his cat.")
    cache = model.new_cache(1, len(ids) + n_new)
    # for an answer without end the compiled step pays, for none it does not
    step = choosing.step_for(model, cache, 10**9 if way == "compiled" else 0)
    if step.how != way:
        raise SystemExit(f"the {way} step was asked for, but {step.why}")
    steps = stream(model, ids, n_new, cache=cache, decode=step.decode, eos=())
    return {
        "ready": step.seconds,
        "ids": [int(one.token_B[0]) for one in steps],
        "bytes": choosing._read_bytes(model),
    }


if __name__ == "__main__":
    main()
