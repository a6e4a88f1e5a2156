"""What a cache saves: the pocket model, greedy, with a cache and without, in one process, in turn.

python -m benchmarks.cache --out benchmarks/results/cache.json
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from pathlib import Path

from kvlab import Transformer, compiled_decode, files, generate, load, stream
from kvlab.measure import machine
from kvlab.pocket.world import recall_prompt
from kvlab.shell.demo import timed_both_ways

LENGTHS = (1, 8, 32, 128, 256, 512)
SHORT_PROMPT, FIT_FROM, FIT_TO = 16, 256, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a cache saves.")
    parser.add_argument("--prompt-tokens", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the result there as well")
    args = parser.parse_args()

    model, tokenizer = load("pocket")
    asked = recall_prompt(
        random.Random(6), lambda s: len(tokenizer.encode(s, special=False)), 4, args.prompt_tokens
    )
    ids = tokenizer.encode(asked.prompt)
    compiled = Compiled(model, ids, max(LENGTHS))
    runs, fast = [], []
    for _ in range(args.pairs):
        runs.append(timed_both_ways(model, ids, max(LENGTHS)))
        fast.append(compiled.seconds())
    if not all(same for _, _, same in runs) or not compiled.agrees:
        sys.exit("the ways gave different tokens: no speed is quoted")
    rows = []
    for n in LENGTHS:
        ratios = [without[n - 1] / cached[n - 1] for cached, without, _ in runs]
        faster = [without[n - 1] / f[n - 1] for (_, without, _), f in zip(runs, fast, strict=True)]
        rows.append(
            {
                "new_tokens": n,
                "seconds_compiled": [round(f[n - 1], 4) for f in fast],
                "ratio_compiled": round(statistics.median(faster), 2),
                "seconds_cached": [round(cached[n - 1], 4) for cached, _, _ in runs],
                "seconds_uncached": [round(without[n - 1], 4) for _, without, _ in runs],
                "ratio": round(statistics.median(ratios), 2),
                "ratio_low": round(min(ratios), 2),
                "ratio_high": round(max(ratios), 2),
                "rows_ratio": round((n * len(ids) + n * (n - 1) // 2) / (len(ids) + n - 1), 2),
            }
        )
        print(rows[-1])
    result = {
        "command": "python -m benchmarks.cache " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "model": "pocket, float32",
        "prompt_tokens": len(ids),
        "rows": rows,
        "growth": growth(model, ids[:SHORT_PROMPT]),
    }
    print(result["growth"])
    if args.out:
        files.write(args.out, json.dumps(result, indent=1) + "\n")


class Compiled:
    """Generating with a cache and the compiled step; `agrees` says whether plain decode does."""

    def __init__(self, model: Transformer, ids: list[int], n_new: int) -> None:
        self._model, self._ids, self._n_new = model, ids, n_new
        self._cache = model.new_cache(1, len(ids) + n_new)
        self._step = compiled_decode(model, self._cache)
        self._want = generate(model, ids, n_new, eos=())[0].tolist()
        self.agrees = True
        self.seconds()

    def seconds(self) -> list[float]:
        """Seconds until each token."""
        self._cache.reset()
        start, found, tokens = time.perf_counter(), [], []
        for step in stream(
            self._model, self._ids, self._n_new, cache=self._cache, decode=self._step, eos=()
        ):
            tokens.append(int(step.token_B[0]))
            found.append(time.perf_counter() - start)
        self.agrees = self.agrees and tokens == self._want
        return found


def growth(model: Transformer, ids: list[int]) -> dict[str, float]:
    """Exponents of total time against length, by least squares over the logarithms.

    One run each, from a prompt that is short beside the answer.
    """
    cached, uncached, _ = timed_both_ways(model, ids, FIT_TO)
    lengths = range(FIT_FROM, FIT_TO + 1, 8)
    found = {}
    for name, seconds in (("cached", cached), ("uncached", uncached)):
        x = [math.log(n) for n in lengths]
        y = [math.log(seconds[n - 1]) for n in lengths]
        found[name] = round(statistics.linear_regression(x, y).slope, 2)
    return {**found, "prompt_tokens": len(ids), "from_tokens": FIT_FROM, "to_tokens": FIT_TO}


if __name__ == "__main__":
    main()
