"""Packed rows on a GPU: the Triton kernel beside torch's attention, and a whole model's tokens.

Not yet measured: nobody has run it on a GPU. `--tiny` runs all of it on a CPU.

python -m benchmarks.pruned_gpu --out benchmarks/results/pruned_gpu.json
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.common import TINY, arguments, over, random_model, record
from benchmarks.pruned import (
    SPARSITIES,
    check,
    packed_cache,
    packed_name,
    packed_of,
    random_rows,
    several,
)
from kvlab import KVCache, ModelConfig, Transformer, attend, compiled_decode, decode
from kvlab.measure import decode_work, interleaved, roofline
from kvlab.measure.progress_bar import progress
from kvlab.pack.rows import n_kept, row_bytes

# 8.03 billion parameters, the shape of Llama 3's smaller model
EIGHT_BILLION = ModelConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, n_layers=32, n_heads=32,
    n_kv_heads=8, head_dim=128, max_positions=1 << 17, rope_theta=500000.0,
)  # fmt: skip
BASE = "sdpa, grouped heads"
# what is asked of packed rows: 80 % of what their bytes allow, and 1.5 times at 70 % in long texts
TARGET_SHARE, TARGET_RATIO, LONG = 0.8, 1.5, 32768
STEPS = 8


def main() -> None:
    args = arguments(__doc__).parse_args()
    if not torch.cuda.is_available() and not args.tiny:
        print("This needs a CUDA device, and torch sees none; --tiny tries the code on a CPU.")
        sys.exit(2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    lengths = (256, 512) if args.tiny else (4096, 16384, 32768, 65536, 131072)
    batches = (1, 2) if args.tiny else (1, 4, 8, 32)
    heads, width = (2, 16) if args.tiny else (8, 128)
    context, batch = (256, 2) if args.tiny else (32768, 8)
    roof = roofline(device, dtype, rounds=5)
    cases = [(n, b) for n in lengths for b in batches]
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    with progress() as show:
        for i, (tokens, n_rows) in enumerate(cases):
            show(i, f"{tokens} tokens, {n_rows} rows", len(cases) + 1)
            needed = 3 * 2 * n_rows * heads * tokens * width * dtype.itemsize
            if device == "cuda" and needed > torch.cuda.mem_get_info()[0]:
                left_out.append(f"{tokens} tokens, {n_rows} rows: no memory")
                continue
            rows += attention(tokens, n_rows, heads, width, dtype, device, args.rounds)
        show(len(cases), "a whole model", len(cases) + 1)
        model = random_model(TINY if args.tiny else EIGHT_BILLION, device=device, dtype=dtype)
        rows += decoding(model, context, batch, args.rounds, roof.gigabytes_per_second)
    record(
        "benchmarks.pruned_gpu", args.out, rows, parameters=model.config.n_params,
        dtype=str(dtype), copy_gigabytes_per_second=round(roof.gigabytes_per_second, 1),
        kv_heads=heads, query_heads_per_kv_head=4, width=width, left_out=left_out,
    )  # fmt: skip


@torch.inference_mode()
def attention(
    tokens: int, n_rows: int, heads: int, width: int, dtype: torch.dtype, device: str, rounds: int
) -> Iterator[dict[str, Any]]:
    """One new token's attention in each of some rows, beside what its bytes allow."""
    torch.manual_seed(0)
    dense = KVCache(1, n_rows, heads, tokens, width, dtype=dtype, device=device)
    random_rows(dense, tokens)
    q_BHSD = torch.randn(n_rows, 4 * heads, 1, width, dtype=dtype, device=device)
    caches = {packed_name(s): packed_of(dense, s) for s in SPARSITIES}
    k_BGTD, v_BGTD = dense.k_LBGTD[0], dense.v_LBGTD[0]
    runs = {
        BASE: lambda: F.scaled_dot_product_attention(q_BHSD, k_BGTD, v_BGTD, enable_gqa=True),
        "our dense decode": lambda: attend(q_BHSD, dense.read(0)).out_BHSD,
        **{
            what: lambda c=cache: attend(q_BHSD, c.read(0), backend="rows").out_BHSD
            for what, cache in caches.items()
        },
    }
    if tokens * n_rows <= 8192:  # to compare, rows are unpacked
        for what, cache in (dict.fromkeys(runs, dense) | caches).items():
            want = attend(q_BHSD, cache.read(0), backend="sdpa").out_BHSD.float()
            check(what, runs[what](), want, 3e-2)
    seconds = interleaved(runs, rounds=3 * rounds, warm_up=3)
    for what, found in seconds.items():
        read = caches.get(what, dense).live_bytes
        bound, ratio = dense.live_bytes / read, over(seconds[BASE], found)
        yield {
            "what": "attention",
            "tokens": tokens,
            "rows": n_rows,
            "name": what,
            "microseconds": round(1e6 * statistics.median(found), 1),
            **ratio,
            "ratio_our_dense": over(seconds["our dense decode"], found)["ratio"],
            "bound": round(bound, 3),
            "share_of_bound": round(ratio["ratio"] / bound, 3),
            "gigabytes_per_second": round(read / statistics.median(found) / 1e9, 1),
            "target_share": TARGET_SHARE if what in caches else None,
            "target": TARGET_RATIO if what == packed_name(0.7) and tokens >= LONG else None,
        }


def decoding(
    model: Transformer, context: int, batch: int, rounds: int, read: float
) -> list[dict[str, Any]]:
    """Tokens per second of a whole model, at equal batch and at equal memory for its cache.

    One way at a time, since two caches of this size may not fit: ratios are not of pairs.
    """
    room = context + (rounds + 2) * STEPS + 1
    dense = partial(model.new_cache, batch, room)
    ways = {"dense, plain": (dense, plain), "dense, compiled": (dense, compiled_decode)}
    for sparsity in SPARSITIES:
        more = int(batch / share_of_bytes(model, sparsity))
        for at, n_rows in (("equal batch", batch), ("equal memory", more)):
            make = partial(packed_cache, model, n_rows, room, sparsity)
            ways[f"{packed_name(sparsity)}, plain, {at}"] = make, plain
    rows = [
        {"what": "decoding", "tokens": context, "name": name}
        | speed_of(model, make(), how, context, rounds, read)
        for name, (make, how) in ways.items()
    ]
    best = max(row["tokens_per_second"] for row in rows if row["name"].startswith("dense"))
    return [row | {"ratio": round(row["tokens_per_second"] / best, 3)} for row in rows]


def plain(model: Transformer, cache: KVCache) -> Callable:
    """The step that is not compiled."""
    return decode


def share_of_bytes(model: Transformer, sparsity: float) -> float:
    """Bytes of a packed row against those of a dense one."""
    width = model.config.head_dim
    return row_bytes(width, n_kept(sparsity, width), model.dtype) / (width * model.dtype.itemsize)


def speed_of(
    model: Transformer, cache: KVCache, how: Callable, context: int, rounds: int, read: float
) -> dict[str, Any]:
    """Tokens per second behind a text of random rows, and what reading all bytes once allows."""
    random_rows(cache, context)
    token_B = torch.zeros(cache.batch, dtype=torch.int64, device=model.device)
    run = partial(several, how(model, cache), model, token_B, cache, STEPS)
    found = interleaved({"it": run}, rounds=rounds)["it"]
    work = decode_work(model.config, context=1, bytes_per_number=model.dtype.itemsize)
    return {
        "rows": cache.batch,
        "tokens_per_second": round(cache.batch * STEPS / statistics.median(found), 1),
        "bound_tokens_per_second": round(
            cache.batch * read * 1e9 / (work.bytes + cache.live_bytes), 1
        ),
        "cache_bytes": cache.live_bytes,
    }


if __name__ == "__main__":
    main()
