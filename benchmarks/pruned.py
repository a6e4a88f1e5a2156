"""Packed rows and evicted tokens: attention, packing, and whole models, beside dense ones.

python -m benchmarks.pruned --out benchmarks/results/pruned.json
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import SHAPE, TINY, arguments, over, random_model, record
from benchmarks.packed_work import work
from benchmarks.tables import pruned as as_markdown
from kvlab import (
    KVCache,
    ModelConfig,
    Transformer,
    attend,
    compiled_decode,
    decode,
    prefill,
)
from kvlab.fast.fused import compiled_attention
from kvlab.measure import clock, interleaved, threads
from kvlab.measure.progress_bar import progress
from kvlab.pack import PackedKVCache, PerToken
from kvlab.pack.rows import n_kept

SPARSITIES = (0.5, 0.7, 0.9)
DTYPES = {"float32": torch.float32, "float16": torch.float16}
# what is asked of a ratio to our best dense attention
TARGETS = {
    ("packed 70 %", "float32"): 1.8,
    ("packed 90 %", "float32"): 3.0,
    ("packed 70 %", "float16"): 1.6,
    ("packed 90 %", "float16"): 2.5,
    ("a quarter kept", "float32"): 3.5,
    ("a quarter kept", "float16"): 3.5,
}
FROM_TOKENS = 4096  # in shorter texts nothing is claimed
# of whole steps at 70 %, and of packing as a share of reading a prompt and of a step
TARGET_DECODE, TARGET_PROMPT, TARGET_STEP = 1.3, 0.05, 0.03
DENSE = ("dense, numba", "dense, sdpa", "dense, torch matmul")
INDEX = ", by index"  # a byte for each kept number, where the bitmap is fewer bytes
KEPT = ("a quarter kept, numba", "a quarter kept, sdpa")  # the faster one is recorded


def main() -> None:
    args = arguments(__doc__).parse_args()
    lengths = (256, 512) if args.tiny else (512, 4096, 8192, 16384)
    heads, width = (2, 16) if args.tiny else (8, 128)
    config = replace(TINY if args.tiny else SHAPE, max_positions=17000)
    prompt, context = (256, 512) if args.tiny else (4096, 16384)
    parts = {
        **{
            f"attention, {tokens} tokens, {name}": partial(
                attention, tokens, name, heads, width, 3 * args.rounds
            )
            for tokens in lengths
            for name in DTYPES
        },
        "work": partial(work, width, tuple(n_kept(s, width) for s in SPARSITIES), 3 * args.rounds),
        "packing a prompt": partial(packing, config, prompt, min(3, args.rounds)),
        **{
            f"decoding, {name}": partial(decoding, config, context, name, args.rounds)
            for name in DTYPES
        },
    }
    rows: list[dict[str, Any]] = []
    with progress() as show:
        for i, (what, part) in enumerate(parts.items()):
            show(i, what, len(parts))
            rows += part()
    result = record(
        "benchmarks.pruned", args.out, rows, parameters=config.n_params, kv_heads=heads,
        query_heads_per_kv_head=4, width=width, context=context, prompt=prompt,
    )  # fmt: skip
    print("\n".join(as_markdown(result)), file=sys.stderr)


def counts() -> list[int]:
    """One thread, and all."""
    return sorted({1, os.cpu_count() or 1})


# --- attention ----------------------------------------------------------------------------------


def attention(
    tokens: int, name: str, heads: int, width: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """One new token's attention over `tokens`, four query heads to a KV head."""
    dtype, draw = DTYPES[name], torch.Generator().manual_seed(tokens)
    k_BGTD, v_BGTD = torch.randn(2, 1, heads, tokens, width, generator=draw).to(dtype)
    q_BHSD = torch.randn(1, 4 * heads, 1, width, generator=draw).to(dtype)
    dense = KVCache(1, 1, heads, tokens, width, dtype=dtype)
    dense.append(0, k_BGTD, v_BGTD)
    kept = dense.fork()
    kept.keep(
        0, torch.rand(1, 1, tokens, generator=draw).argsort().expand(1, heads, -1) < tokens // 4
    )
    kept.shrink()
    caches = {packed_name(s): packed_of(dense, s) for s in SPARSITIES}
    caches[packed_name(0.7) + INDEX] = packed_of(dense, 0.7, marks="index")
    runs: dict[str, Callable[[], Tensor]] = {
        DENSE[0]: compiled_attention(q_BHSD, dense),
        DENSE[1]: lambda: attend(q_BHSD, dense.read(0), backend="sdpa").out_BHSD,
        DENSE[2]: lambda: grouped_products(q_BHSD, k_BGTD, v_BGTD),
        KEPT[0]: compiled_attention(q_BHSD, kept),
        KEPT[1]: lambda: attend(q_BHSD, kept.read(0), backend="sdpa").out_BHSD,
        **{
            what: lambda c=cache: attend(q_BHSD, c.read(0), backend="rows").out_BHSD
            for what, cache in caches.items()
        },
    }
    same = dict.fromkeys(DENSE, dense) | dict.fromkeys(KEPT, kept) | caches
    for what, run in runs.items():
        want = attend(q_BHSD.float(), as_float32(same[what]), backend="reference").out_BHSD
        check(what, run(), want)
    same["a quarter kept"] = kept
    read = {what: cache.live_bytes for what, cache in same.items()}
    for n_threads in counts():
        with threads(n_threads):
            seconds = interleaved(runs, rounds=fitting(runs, rounds), warm_up=2)
        seconds["a quarter kept"] = min((seconds.pop(way) for way in KEPT), key=statistics.median)
        best = min(DENSE, key=lambda what: statistics.median(seconds[what]))
        for what, found in seconds.items():
            goal = TARGETS.get((what.removesuffix(INDEX), name))
            yield {
                "what": "attention",
                "tokens": tokens,
                "dtype": name,
                "threads": n_threads,
                "name": what,
                "microseconds": round(1e6 * statistics.median(found), 1),
                "best_dense": best,
                **over(seconds[best], found),
                "ratio_matmul": over(seconds[DENSE[2]], found)["ratio"],
                "bytes": round(read[what] / read[DENSE[0]], 4),
                "gigabytes_per_second": round(read[what] / statistics.median(found) / 1e9, 2),
                "target": goal if tokens >= FROM_TOKENS else None,
            }


def fitting(runs: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 8) -> int:
    """As many rounds as fit some seconds, at most `rounds` and at least three."""
    one = sum(clock(run) for run in runs.values())
    return min(rounds, max(3, int(seconds / one)))


def packed_name(sparsity: float) -> str:
    return f"packed {100 * sparsity:.0f} %"


def packed_of(dense: KVCache, sparsity: float, marks: str | None = None) -> PackedKVCache:
    """The same tokens with all but the latest 32 pruned."""
    rule = PerToken(n_kept(sparsity, dense.head_dim), marks=marks)
    return PackedKVCache.of(dense, k=rule, v=rule)


def grouped_products(q_BHSD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor) -> Tensor:
    """Attention as two of torch's matrix products, keys read once for their query heads."""
    q_BGRD = q_BHSD[:, :, 0].unflatten(1, (k_BGTD.shape[1], -1))
    weights_BGRT = (q_BGRD @ k_BGTD.mT * q_BHSD.shape[-1] ** -0.5).softmax(-1)
    return (weights_BGRT @ v_BGTD).flatten(1, 2)[:, :, None]


class as_float32:
    """A layer's tokens in float32, for the reference."""

    reader = None
    in_order = whole = True

    def __init__(self, cache: KVCache) -> None:
        kv = cache.read(0)
        self.k_BGTD, self.v_BGTD, self.pos_BGT = kv.k_BGTD.float(), kv.v_BGTD.float(), kv.pos_BGT


def check(what: str, got: Tensor, want: Tensor, most: float = 1e-2) -> None:
    """No speed without the right result."""
    off = float((got.float() - want).abs().max() / want.abs().max())
    if not off < most:
        sys.exit(f"{what} is off by {off:.2g} of the largest output: no speed is quoted")


# --- packing ------------------------------------------------------------------------------------


def packing(config: ModelConfig, prompt: int, rounds: int) -> Iterator[dict[str, Any]]:
    """What packing a prompt costs beside reading it, and packing a token beside a step."""
    model = random_model(config)
    tokens_BS = torch.randint(0, config.vocab_size, (1, prompt))
    dense = model.new_cache(1, prompt + 128)
    packed = packed_cache(model, 1, prompt + 128, 0.7)

    def read(cache: KVCache) -> None:
        cache.reset()
        prefill(model, tokens_BS, cache)

    def put(cache: KVCache) -> None:
        cache.reset()
        for layer in range(config.n_layers):
            cache.append(layer, *prompt_kv)

    prompt_kv = torch.randn(2, 1, config.n_kv_heads, prompt, config.head_dim)
    runs = {
        "reading": partial(read, dense),
        "reading and packing": partial(read, packed),
        "storing": partial(put, dense.fork()),
        "packing": partial(put, packed.fork()),
    }
    for n_threads in counts():
        with threads(n_threads):
            seconds = interleaved(runs, rounds=rounds)
            each = [
                (p - s) / r
                for p, s, r in zip(
                    seconds["packing"], seconds["storing"], seconds["reading"], strict=True
                )
            ]
            yield {
                "what": "packing a prompt",
                "tokens": prompt,
                "threads": n_threads,
                "share": round(statistics.median(each), 4),
                "share_low": round(min(each), 4),
                "share_high": round(max(each), 4),
                "seconds_reading": round(statistics.median(seconds["reading"]), 3),
                **over(seconds["reading and packing"], seconds["reading"]),
                "target": TARGET_PROMPT,
            }
            yield packing_steps(model, packed, prompt, n_threads)


def packing_steps(
    model: Transformer, packed: PackedKVCache, prompt: int, n_threads: int
) -> dict[str, Any]:
    """Packing per step: 32 tokens at once leave the window, so most steps only store."""
    config, token_B = model.config, torch.zeros(1, dtype=torch.int64)
    random_rows(packed, prompt)
    step = clock_steps(partial(compiled_decode(model, packed), model, token_B, packed), 12)
    put = packed.fork()
    new = torch.randn(2, 1, config.n_kv_heads, 1, config.head_dim)

    def append() -> None:
        for layer in range(config.n_layers):
            put.append(layer, *new)

    found = clock_steps(append, 96)
    base = statistics.median(step)
    return {
        "what": "packing a step",
        "tokens": prompt,
        "threads": n_threads,
        "milliseconds_step": round(1e3 * base, 2),
        "share": round(statistics.fmean(found) / base, 4),
        "share_median": round(statistics.median(found) / base, 4),
        "share_worst": round(max(found) / base, 4),
        "target": TARGET_STEP,
    }


def clock_steps(run: Callable[[], object], n: int) -> list[float]:
    """Seconds of each of n calls, after two that do not count."""
    for _ in range(2):
        run()
    return [clock(run) for _ in range(n)]


# --- whole models -------------------------------------------------------------------------------


def decoding(config: ModelConfig, context: int, name: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Steps of a whole model behind a long text: random rows, as if it had been read."""
    model = random_model(config, dtype=DTYPES[name])
    steps = 4 if context < 1024 else 8
    room, token_B = context + steps * (rounds + 3), torch.zeros(1, dtype=torch.int64)
    runs: dict[str, Callable[[], object]] = {}
    caches = {
        "dense": lambda: model.new_cache(1, room),
        **{packed_name(s): partial(packed_cache, model, 1, room, s) for s in SPARSITIES},
    }
    held: dict[str, KVCache] = {}
    for what, make in caches.items():
        for way in ("plain", "compiled"):
            cache = held[f"{what}, {way}"] = make()
            random_rows(cache, context)
            step = decode if way == "plain" else compiled_decode(model, cache)
            runs[f"{what}, {way}"] = partial(several, step, model, token_B, cache, steps)
    for n_threads in counts():
        for cache in held.values():
            if n_threads > 1:
                random_rows(cache, context)
        with threads(n_threads):
            seconds = interleaved(runs, rounds=fitting(runs, rounds, 20))
        dense = {what: found for what, found in seconds.items() if what.startswith("dense")}
        best = min(dense, key=lambda what: statistics.median(dense[what]))
        for what, found in seconds.items():
            yield {
                "what": "decoding",
                "tokens": context,
                "dtype": name,
                "threads": n_threads,
                "name": what,
                "tokens_per_second": round(steps / statistics.median(found), 2),
                "best_dense": best,
                **over(seconds[best], found),
                "cache_bytes": held[what].live_bytes,
                "target": TARGET_DECODE if what == "packed 70 %, compiled" else None,
            }


def several(step, model: Transformer, token_B: Tensor, cache: KVCache, n: int) -> None:
    for _ in range(n):
        step(model, token_B, cache)


def packed_cache(model: Transformer, batch: int, capacity: int, sparsity: float) -> PackedKVCache:
    """An empty one for this model."""
    config = model.config
    rule = PerToken(n_kept(sparsity, config.head_dim))
    return PackedKVCache(
        config.n_layers, batch, config.n_kv_heads, capacity, config.head_dim, k=rule,
        v=rule, dtype=model.dtype, device=model.device,
    )  # fmt: skip


def random_rows(cache: KVCache, tokens: int) -> None:
    """Fill a cache with random keys and values, which cost attention as much as real ones."""
    cache.reset()
    torch.manual_seed(0)
    shape = (2, cache.batch, cache.n_kv_heads, tokens, cache.head_dim)
    kv = torch.randn(shape, dtype=cache.dtype, device=cache.device)
    for layer in range(cache.n_layers):
        cache.append(layer, *kv)


if __name__ == "__main__":
    main()
