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
from pathlib import Path

from kvlab import Transformer, load
from kvlab.demo import timed_both_ways
from kvlab.measure import machine
from kvlab.pocket.world import recall_prompt

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
    runs = [timed_both_ways(model, ids, max(LENGTHS)) for _ in range(args.pairs)]
    if not all(same for _, _, same in runs):
        sys.exit("the two ways gave different tokens: no speed is quoted")
    rows = []
    for n in LENGTHS:
        ratios = [without[n - 1] / cached[n - 1] for cached, without, _ in runs]
        rows.append(
            {
                "new_tokens": n,
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
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


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
