"""From which length on a smaller cache takes less time per token, and what it takes of memory.

    python -m benchmarks.breakeven --model smollm2 --out benchmarks/results/breakeven-smollm2.json

Each way to hold keys and values decodes behind texts of several lengths. In each round all ways
take turns at each length, so that what disturbs the machine disturbs all of them. Seconds per token
are fitted by a line over the length: its intercept is what a step costs however short the text is
(the weights, mostly), its slope what each token of the text adds. A way pays where its line lies
below the dense one's; intervals are over rounds drawn with return. Memory is that of a process for
each way, which reads a prompt. Each measurement is written down at once in a file beside --out, and
a second start goes on from it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.breakeven import memory, report
from benchmarks.breakeven.ways import BASE, WAYS, Way
from benchmarks.common import TINY, arguments, random_model, record
from kvlab import Transformer, load
from kvlab.measure import machine, threads
from kvlab.measure.progress_bar import progress
from kvlab.quality.log import journal

WARM_UP = 2


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--model", default="pocket", help='"pocket", "smollm2", a folder, ...')
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--lengths", type=int, nargs="*", help="of texts; default: four")
    parser.add_argument("--steps", type=int, default=8, help="tokens that are timed at a time")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    try:
        result(args)
    except ValueError as error:
        sys.exit(f"benchmarks.breakeven: {error}")


def result(args: Any) -> dict[str, Any]:
    """Measure what is not in the log, write the result down, and print it for people."""
    models = Models(args.model, args.tiny)
    lengths = checked(args, models.of(torch.float32).config.max_positions)
    names = list(dict.fromkeys((BASE, *args.ways)))
    settings = {
        "model": "tiny" if args.tiny else args.model,
        "steps": args.steps,
        "threads_each": args.threads,
        "cpu": machine()["cpu"],
        "torch": torch.__version__,
    }
    with journal(args.out, settings, "such a measurement") as (done, write), threads(args.threads):
        todo = [
            (name, length, round_)
            for round_ in range(args.rounds)
            for length in lengths
            for name in names
        ]
        with progress() as show:
            for i, key in enumerate(todo):
                show(i, f"{key[0]}, {key[1]} tokens, round {key[2] + 1}", len(todo))
                if key not in done:
                    found = timed(WAYS[key[0]], models, key[1], args.steps)
                    write(key, found)
                    done[key] = found
            for name in names if not args.tiny else ():
                key = (name, "memory", lengths[-1])
                if key not in done:
                    show(len(todo), f"memory of {name}", len(todo))
                    found = memory.measured(args.model, name, lengths[-1], args.threads)
                    write(key, {"memory": found})
                    done[key] = {"memory": found}
    rows = list(report.rows(done, names, lengths, args.rounds))
    longest = models.of(torch.float32).config.max_positions
    made = record(
        "benchmarks.breakeven", args.out, rows, model=settings["model"], lengths=lengths,
        rounds=args.rounds, steps=args.steps, threads_each=args.threads, max_positions=longest,
        ways={name: WAYS[name].says for name in names},
    )  # fmt: skip
    print("\n".join(report.as_text(made)), file=sys.stderr)
    return made


class Models:
    """One model in each type that is asked for."""

    def __init__(self, name: str, tiny: bool) -> None:
        self._name, self._tiny = name, tiny
        self._made: dict[torch.dtype, Transformer] = {}

    def of(self, dtype: torch.dtype) -> Transformer:
        if dtype not in self._made:
            if self._tiny:
                self._made[dtype] = random_model(TINY, dtype=dtype)
            else:
                self._made[dtype] = load(self._name, dtype=dtype)[0]
        return self._made[dtype]


def checked(args: Any, longest: int) -> list[int]:
    """The lengths, or four that are even parts of what the model reads, of 4,096 tokens at most."""
    most = min(longest, 4096 + args.steps + WARM_UP) - args.steps - WARM_UP
    lengths = args.lengths or [most // 8, most // 4, most // 2, most]
    if args.tiny:
        lengths = [96, 192]
    wrong = [n for n in lengths if not 64 <= n <= longest - args.steps - WARM_UP]
    if wrong or len(set(lengths)) < 2:
        raise ValueError(
            f"Lengths {lengths} were asked for; expected two or more of 64 to "
            f"{longest - args.steps - WARM_UP} tokens."
        )
    for name in ("rounds", "steps", "threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}; expected 1 or more.")
    return sorted(set(lengths))


@torch.inference_mode()
def timed(way: Way, models: Models, length: int, n_steps: int) -> dict[str, Any]:
    """Seconds per token behind a text of this length, the median of some steps."""
    model = models.of(way.dtype)
    cache = way.cache(model, length, n_steps + WARM_UP)
    step, how = way.step(model, cache)
    seconds = list(_clocked(step, model, cache, n_steps + WARM_UP))[WARM_UP:]
    return {"seconds": statistics.median(seconds), "step": how, "live_bytes": cache.live_bytes}


def _clocked(step: Any, model: Transformer, cache: Any, n: int) -> Iterator[float]:
    token_B = torch.ones(1, dtype=torch.int64)
    for _ in range(n):
        start = time.perf_counter()
        step(model, token_B, cache)
        yield time.perf_counter() - start


if __name__ == "__main__":
    main()
