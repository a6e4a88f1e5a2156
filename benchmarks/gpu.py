"""A GPU's step as one CUDA graph, against `transformers` and against the memory's limit.

python -m benchmarks.gpu --out benchmarks/results/gpu.json
"""

from __future__ import annotations

import statistics
import sys

import torch

from benchmarks.common import (
    TINY,
    arguments,
    over,
    peer,
    peer_generate,
    random_model,
    record,
)
from kvlab import ModelConfig, Transformer, compiled_decode, generate, prefill
from kvlab.measure import decode_work, interleaved, roofline

# 1.24 billion parameters, Llama 3.2's smallest shape
BILLION = ModelConfig(
    vocab_size=128256, hidden_size=2048, intermediate_size=8192, n_layers=16, n_heads=32,
    n_kv_heads=8, head_dim=64, max_positions=8192, rope_theta=500000.0, tie_embeddings=True,
)  # fmt: skip
PROMPT, NEW, PROMPTS = 32, 128, (256, 1024, 4096)
BASE = "transformers, dynamic cache, sdpa"


def main() -> None:
    args = arguments(__doc__).parse_args()
    if not torch.cuda.is_available() and not args.tiny:
        print("This needs a CUDA device, and torch sees none; --tiny tries the code on a CPU.")
        sys.exit(2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = random_model(TINY if args.tiny else BILLION, device=device, dtype=dtype)
    roof = roofline(device, dtype, rounds=5)
    agreement = agree(model)
    rows = decoding(model, roof.gigabytes_per_second, args.rounds, device)
    record(
        "benchmarks.gpu", args.out, rows, parameters=model.config.n_params, dtype=str(dtype),
        copy_gigabytes_per_second=round(roof.gigabytes_per_second, 1),
        gigaflops=round(roof.gigaflops), agreement=agreement,
        prefill=prefilling(model, args.rounds, PROMPTS[:1] if args.tiny else PROMPTS),
    )  # fmt: skip


@torch.inference_mode()
def agree(model: Transformer) -> dict[str, float]:
    """How far our prefill and our compiled step are from `transformers`, before any clock runs."""
    theirs = peer(model, "sdpa")
    draw = torch.Generator().manual_seed(0)
    tokens_BS = torch.randint(0, model.config.vocab_size, (1, 200), generator=draw)
    tokens_BS = tokens_BS.to(model.device)
    want = theirs(tokens_BS).logits[0].float()
    cache = model.new_cache(1, 200)
    got = [prefill(model, tokens_BS[:, :100], cache)]
    step = compiled_decode(model, cache)
    got += [step(model, token_B, cache) for token_B in tokens_BS[0, 100:, None]]
    off = (torch.cat(got).float() - want[99:]).abs().max()
    return {"largest_error": round(float(off), 5), "largest_logit": round(float(want.max()), 3)}


def decoding(model: Transformer, read: float, rounds: int, device: str) -> list[dict]:
    """One row, from prompt to last token."""
    tokens_BS = torch.randint(0, model.config.vocab_size, (1, PROMPT), device=device)
    runs = {}
    for cache, attention in (("dynamic", "sdpa"), ("dynamic", "eager"), ("static", "sdpa")):
        theirs = peer(model, attention)
        runs[f"transformers, {cache} cache, {attention}"] = lambda theirs=theirs, cache=cache: (
            peer_generate(theirs, tokens_BS, NEW, cache)
        )
    if device == "cuda":
        compiled = peer(model, "sdpa")
        compiled.forward = torch.compile(compiled.forward, mode="reduce-overhead", fullgraph=True)
        runs["transformers, static cache, torch.compile"] = lambda: peer_generate(
            compiled, tokens_BS, NEW, "static"
        )
    runs["kvlab, plain decode"] = lambda: generate(model, tokens_BS, NEW, eos=())
    cache = model.new_cache(1, PROMPT + NEW)
    step = compiled_decode(model, cache)

    def captured():
        cache.reset()
        return generate(model, tokens_BS, NEW, cache=cache, decode=step, eos=())

    runs[f"kvlab, compiled ({step.how})"] = captured
    seconds = interleaved(runs, rounds=rounds, warm_up=2)
    context, size = PROMPT + NEW // 2, model.dtype.itemsize
    work = decode_work(model.config, context=context, bytes_per_number=size)
    rows = []
    for name, found in seconds.items():
        per_token = statistics.median(found) / NEW
        rows.append(
            {
                "name": name,
                "tokens_per_second": round(1 / per_token, 1),
                **over(seconds[BASE], found),
                "share_of_copy_bandwidth": round(work.bytes / per_token / 1e9 / read, 3),
            }
        )
    return rows


@torch.inference_mode()
def prefilling(model: Transformer, rounds: int, prompts: tuple[int, ...]) -> list[dict]:
    """Reading prompts, ours against `transformers`."""
    theirs, rows = peer(model, "sdpa"), []
    for n in prompts:
        tokens_BS = torch.randint(0, model.config.vocab_size, (1, n), device=model.device)
        cache = model.new_cache(1, n)

        def ours(tokens_BS=tokens_BS, cache=cache):
            cache.reset()
            return prefill(model, tokens_BS, cache)

        runs = {
            "transformers, sdpa": lambda t=tokens_BS: theirs(t, logits_to_keep=1).logits,
            "kvlab": ours,
        }
        seconds = interleaved(runs, rounds=rounds, warm_up=2)
        for name, found in seconds.items():
            milliseconds = round(1e3 * statistics.median(found), 2)
            ratio = over(seconds["transformers, sdpa"], found)
            rows.append({"prompt_tokens": n, "name": name, "milliseconds": milliseconds, **ratio})
    return rows


if __name__ == "__main__":
    main()
