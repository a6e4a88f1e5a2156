"""Many rows at once: every weight that is read serves them all.

python -m benchmarks.batch --out benchmarks/results/batch.json
"""

from __future__ import annotations

import statistics
import sys

import torch

from benchmarks.common import SHAPE, TINY, arguments, over, random_model, record
from kvlab import compiled_decode, decode, prefill
from kvlab.measure import interleaved

BATCHES, CONTEXT, STEPS = (1, 2, 4, 8, 16, 32), 128, 12


def main() -> None:
    args = arguments(__doc__).parse_args()
    model = random_model(TINY if args.tiny else SHAPE)
    runs = {}
    for batch in BATCHES:
        tokens_BS = torch.randint(0, model.config.vocab_size, (batch, CONTEXT))
        cache = model.new_cache(batch, CONTEXT + STEPS)
        prefill(model, tokens_BS, cache)
        compiled = compiled_decode(model, cache)
        ends = []
        token_B = tokens_BS[:, 0].contiguous()
        for name, step in (("plain", decode), ("compiled", compiled)):

            def run(step=step, cache=cache, token_B=token_B):
                cache.rewind(CONTEXT)
                for _ in range(STEPS):
                    logits_BV = step(model, token_B, cache)
                return logits_BV

            ends.append(run())
            runs[name, batch] = run
        if (ends[0] - ends[1]).abs().max() > 1e-4:
            sys.exit("the two ways give other logits: no speed is quoted")
    # the same number of tokens is asked of each, so that ratios of rounds are ratios of throughput
    seconds = {
        key: tuple(s / key[1] for s in found)
        for key, found in interleaved(runs, rounds=args.rounds).items()
    }
    rows = [
        {
            "name": name,
            "batch": batch,
            "tokens_per_second": round(STEPS / statistics.median(found), 1),
            **over(seconds[name, 1], found),
        }
        for (name, batch), found in seconds.items()
    ]
    record(
        "benchmarks.batch", args.out, rows, parameters=model.config.n_params, context=CONTEXT,
        base="one row, the same step",
    )  # fmt: skip


if __name__ == "__main__":
    main()
