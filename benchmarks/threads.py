"""What torch's threads cost while they wait for each other, on a quiet machine and on a busy one.

python -m benchmarks.threads --out benchmarks/results/threads.json

OpenMP, whose threads torch uses, reads how they shall wait when torch is imported. So each way has
a process of its own; they take turns, beside none to two neighbours that are never idle, each held
on a core. A round beside none in which the threads had to wait for a core all the same, since some
other program had it, is measured again. Linux alone says so.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import SHAPE, TINY, arguments, over, random_model, record
from kvlab import Transformer, compiled_decode, decode, load, prefill
from kvlab.shell.surroundings import WAITING

# how a process is told before it starts, and the number of its threads; None: one for each core
WAYS: dict[str, tuple[dict[str, str], int | None]] = {
    "one for each core, as OpenMP comes": ({}, None),
    "one for each core, waiting passively": ({WAITING: "PASSIVE"}, None),
    "one thread": ({}, 1),
}
BASE = "one thread"
NEIGHBOURS = (0, 1, 2)
CONTEXT, READ = 64, 256
WAITED = 0.05  # of a round's time for a core, beside no neighbour: more, and it is measured again
TRIES = 20


def main() -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--worker", type=int, help="threads of one way's process; 0: all")
    args = parser.parse_args()
    if args.worker is not None:
        return work(args.worker, args.tiny)
    if args.tiny:
        rows = list(measured(args.rounds, 1, True))
    else:
        rows = list(measured(args.rounds, TRIES, False))
    record(
        "benchmarks.threads", args.out, rows, rounds=args.rounds, context=CONTEXT,
        prompt_tokens=READ, cores=len(os.sched_getaffinity(0)), base=BASE,
    )  # fmt: skip


def measured(rounds: int, tries: int, tiny: bool) -> Iterator[dict[str, Any]]:
    """A row for each work, number of neighbours and way."""
    with processes(tiny) as (workers, neighbours):
        for what in works(tiny, names_only=True):
            for n in NEIGHBOURS:
                taken = {way: [] for way in WAYS}
                with awake(neighbours[:n]):
                    for i in range(rounds):
                        for way in WAYS if i % 2 == 0 else reversed(WAYS):
                            taken[way].append(once(workers[way], what, 1 if n else tries))
                yield from rows_of(what, n, taken)


def rows_of(what: str, n: int, taken: dict[str, list[dict[str, float]]]) -> Iterator[dict]:
    """Milliseconds of one step by the clock and of the processor, and the ratio to one thread."""
    base = [one["wall"] for one in taken[BASE]]
    for way, ones in taken.items():
        row: dict[str, Any] = {"what": what, "neighbours": n, "way": way}
        for name in ("wall", "cpu"):
            found = [1e3 * one[name] for one in ones]
            row[f"{name}_ms"] = round(statistics.median(found), 3)
            row[f"{name}_ms_range"] = [round(min(found), 3), round(max(found), 3)]
        waited = round(statistics.median(one["waited"] for one in ones), 3)
        yield {**row, **over(base, [one["wall"] for one in ones]), "waited": waited}


def once(worker: subprocess.Popen, what: str, tries: int) -> dict[str, float]:
    """Seconds of one step, of the first round that was hardly held up, or else of the best."""
    best: dict[str, float] = {"waited": float("inf")}
    for _ in range(tries):
        worker.stdin.write(what + "\n")
        worker.stdin.flush()
        best = min(best, json.loads(worker.stdout.readline()), key=lambda one: one["waited"])
        if best["waited"] <= WAITED:
            break
    return best


@contextmanager
def processes(tiny: bool) -> Iterator[tuple[dict[str, subprocess.Popen], list[subprocess.Popen]]]:
    """A process for each way, ready, and neighbours, asleep."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-m", "benchmarks.threads", *["--tiny"] * tiny, "--worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = {
        way: subprocess.Popen([*command, str(n or 0)], env={**clean, **told}, **pipes)
        for way, (told, n) in WAYS.items()
    }
    cores = sorted(os.sched_getaffinity(0))
    neighbours = []
    for i in range(max(NEIGHBOURS)):
        neighbours.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        os.sched_setaffinity(neighbours[-1].pid, {cores[i % len(cores)]})
        neighbours[-1].send_signal(signal.SIGSTOP)
    try:
        for worker in workers.values():
            assert worker.stdout.readline() == "ready\n"
        yield workers, neighbours
    finally:
        for process in [*workers.values(), *neighbours]:
            process.kill()
            process.communicate()


@contextmanager
def awake(neighbours: list[subprocess.Popen]) -> Iterator[None]:
    """Neighbours at work for a while."""
    for one in neighbours:
        one.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        for one in neighbours:
            one.send_signal(signal.SIGSTOP)


def work(n_threads: int, tiny: bool) -> None:
    """One way's process: for each line that names some work, do it and answer with its seconds."""
    if n_threads:
        torch.set_num_threads(n_threads)
    runs = works(tiny)
    for run in runs.values():
        run()
    print("ready", flush=True)
    for line in sys.stdin:
        before, start = waiting(), time.perf_counter()
        wall, cpu = runs[line.strip()]()
        waited = (waiting() - before) / (time.perf_counter() - start)
        print(json.dumps({"wall": wall, "cpu": cpu, "waited": waited}), flush=True)


def waiting() -> float:
    """Seconds that this process's threads could have run and had no core, in all."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        total += int(path.read_text().split()[1])
    return total / 1e9


Run = Callable[[], tuple[float, float]]


def works(tiny: bool, names_only: bool = False) -> dict[str, Run | None]:
    """What is measured, by name: each call takes about half a second and says what a step took."""
    names = ["decode step, pocket", "the same, compiled", f"{READ} tokens read, pocket"]
    names.append(f"decode step, {SHAPE.n_params / 1e6:.0f}M parameters")
    if names_only:
        return dict.fromkeys(names)
    pocket = random_model(TINY) if tiny else load("pocket")[0]
    large = pocket if tiny else random_model(SHAPE)
    few = 2 if tiny else None
    runs = [
        steps(pocket, few or 64), steps(pocket, few or 192, compiled=True),
        reading(pocket, few or 12), steps(large, few or 6),
    ]  # fmt: skip
    return dict(zip(names, runs, strict=True))


def steps(model: Transformer, n: int, compiled: bool = False) -> Run:
    """n decode steps behind a context."""
    cache = model.new_cache(1, CONTEXT + n)
    step = compiled_decode(model, cache) if compiled else decode
    token_B = torch.tensor([5])

    def run() -> tuple[float, float]:
        cache.reset()
        prefill(model, torch.full((1, CONTEXT), 5), cache)
        return timed(lambda: step(model, token_B, cache), n)

    return run


def reading(model: Transformer, n: int) -> Run:
    """n times a prompt."""
    cache, tokens_BS = model.new_cache(1, READ), torch.full((1, READ), 5)

    def read() -> None:
        cache.reset()
        prefill(model, tokens_BS, cache)

    return lambda: timed(read, n)


@torch.inference_mode()
def timed(call: Callable[[], object], n: int) -> tuple[float, float]:
    """Seconds by the clock and of the processor that one of n calls takes, on average."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(n):
        call()
    return (time.perf_counter() - wall) / n, (time.process_time() - cpu) / n


if __name__ == "__main__":
    main()
