"""Reading a prompt: how near to the rate at which this machine multiplies matrices.

"The products alone" are the model's own matrices times as many rows: the machine's rate for these
shapes, which is below its rate for large squares.

python -m benchmarks.prefill --out benchmarks/results/prefill.json
"""

from __future__ import annotations

import statistics
import sys

import torch
from torch import nn

from benchmarks.common import SHAPE, TINY, arguments, over, peer, random_model, record
from kvlab import Transformer, prefill
from kvlab.measure import interleaved, prefill_work, roofline

PROMPTS, CHUNK = (64, 256, 512, 1024), 128


def main() -> None:
    args = arguments(__doc__).parse_args()
    model = random_model(TINY if args.tiny else SHAPE)
    theirs = peer(model, "sdpa")
    rows = []
    for n in PROMPTS:
        tokens_BS = torch.randint(0, model.config.vocab_size, (1, n))
        runs = {
            "transformers, sdpa": lambda t=tokens_BS: peer_prefill(theirs, t),
            "kvlab, whole": lambda t=tokens_BS: chunked(model, t, t.shape[1]),
            f"kvlab, chunks of {CHUNK}": lambda t=tokens_BS: chunked(model, t, CHUNK),
        }
        want, *ours = (run() for run in runs.values())
        if max(float((got - want).abs().max()) for got in ours) > 1e-4:
            sys.exit("the logits differ: no speed is quoted")
        before = roofline(rounds=3)
        x = torch.randn(n, max(model.config.hidden_size, model.config.intermediate_size))
        runs["the products alone"] = lambda x=x: products(model, x)
        seconds = interleaved(runs, rounds=args.rounds)
        rate = max(before.gigaflops, roofline(rounds=3).gigaflops)
        flops = prefill_work(model.config, prompt=n).flops
        alone = products(model, x)
        for name, found in seconds.items():
            done = alone if name == "the products alone" else flops
            gigaflops = done / statistics.median(found) / 1e9
            rows.append(
                {
                    "prompt_tokens": n,
                    "name": name,
                    "tokens_per_second": round(n / statistics.median(found), 1),
                    "gigaflops": round(gigaflops, 1),
                    "machine_multiplies_gigaflops": round(rate, 1),
                    "share_of_multiplying": round(gigaflops / rate, 3),
                    **over(seconds["kvlab, whole"], found),
                }
            )
    record("benchmarks.prefill", args.out, rows, parameters=model.config.n_params)


def chunked(model: Transformer, tokens_BS: torch.Tensor, size: int) -> torch.Tensor:
    """The last logits, the prompt read `size` tokens at a time."""
    cache = model.new_cache(1, tokens_BS.shape[1])
    for part_BS in tokens_BS.split(size, dim=1):
        logits_BV = prefill(model, part_BS, cache)
    return logits_BV


@torch.inference_mode()
def products(model: Transformer, x: torch.Tensor) -> int:
    """Every matrix of the layers times so many rows, and nothing else; gives the FLOP."""
    flops = 0
    for module in model.model.layers.modules():
        if isinstance(module, nn.Linear):
            module(x[:, : module.in_features].contiguous())
            flops += 2 * len(x) * module.weight.numel()
    return flops


@torch.inference_mode()
def peer_prefill(theirs, tokens_BS: torch.Tensor) -> torch.Tensor:
    """The last logits, as `transformers` makes them."""
    return theirs(tokens_BS, logits_to_keep=1, use_cache=True).logits[:, -1]


if __name__ == "__main__":
    main()
