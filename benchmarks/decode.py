"""Decoding one row: this engine, `transformers`, and how far both are from the memory's limit.

Timed from the first new token to the last, so that reading the prompt does not count.

python -m benchmarks.decode --out benchmarks/results/decode.json
python -m benchmarks.decode --model smollm2 --gguf SmolLM2-135M-Instruct.Q4_1.gguf
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from benchmarks import llama_cpp
from benchmarks.common import (
    SHAPE,
    TINY,
    arguments,
    over,
    peer,
    peer_generate,
    random_model,
    record,
)
from kvlab import Transformer, compiled_decode, int8_weights_, load, stream
from kvlab.measure import decode_work, interleaved, roofline, threads
from kvlab.measure.uncached import stream_uncached

PROMPT, NEW = 32, 64
BASE = "transformers, dynamic cache, sdpa"


class Generation:
    """A way to generate; each call gives the tokens and notes how long decoding took."""

    def __init__(self, run: Callable[[Generation], torch.Tensor]) -> None:
        self._run, self.seconds = run, []

    def __call__(self) -> torch.Tensor:
        self._ticks = []
        tokens_BN = self._run(self)
        self.seconds.append(self._ticks[-1] - self._ticks[-NEW])
        return tokens_BN

    def put(self, _tokens) -> None:
        """A token is there (the name is that of a streamer in `transformers`)."""
        self._ticks.append(time.perf_counter())

    def end(self) -> None:
        pass

    def ours(self, steps: Iterable[torch.Tensor]) -> torch.Tensor:
        """The tokens of a stream of this engine."""
        found = []
        for token_B in steps:
            self.put(token_B)
            found.append(token_B)
        return torch.stack(found, dim=1)


def main() -> None:
    args = _parser().parse_args()
    model = (
        random_model(TINY if args.tiny else SHAPE) if args.model is None else load(args.model)[0]
    )
    config = model.config
    models = {
        "float32": model,
        "bfloat16": copy.deepcopy(model).bfloat16(),
        "float16": copy.deepcopy(model).half(),
        "int8": int8_weights_(copy.deepcopy(model)),
    }
    tokens_BS = torch.randint(0, config.vocab_size, (1, PROMPT))
    runs = variants(models, tokens_BS)
    want = runs[BASE]()
    for name, run in runs.items():
        if not name.endswith(("bfloat16", "float16", "int8")) and not torch.equal(run(), want):
            sys.exit(f"{name} gives other tokens: no speed is quoted")
    errors = {name: error(model, other, want[0]) for name, other in models.items()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = llama_cpp.in_formats(args.gguf, Path(folder)) if args.gguf else {}
        for n_threads in sorted({1, os.cpu_count() or 1}):
            peers = {
                f"llama.cpp, {name}": llama_cpp.Answer(path, tokens_BS[0].tolist(), NEW, n_threads)
                for name, path in files.items()
            }
            with threads(n_threads):
                rows += measured(models, runs | peers, n_threads, args.rounds)
    record(
        "benchmarks.decode", args.out, rows, model=args.model or "random weights",
        parameters=config.n_params, prompt_tokens=PROMPT, new_tokens=NEW, base=BASE,
        logit_errors=errors,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument("--model", help="a checkpoint, as kvlab.load knows it; else random weights")
    parser.add_argument(
        "--gguf", type=Path, help="the same model as a GGUF file: llama.cpp is timed as well"
    )
    return parser


def variants(models: dict[str, Transformer], tokens_BS: torch.Tensor) -> dict[str, Generation]:
    """Everything that is compared."""
    model = models["float32"]
    runs = {}
    for cache, attention in (("dynamic", "sdpa"), ("dynamic", "eager"), ("static", "sdpa")):
        theirs = peer(model, attention)
        runs[f"transformers, {cache} cache, {attention}"] = Generation(
            lambda g, theirs=theirs, cache=cache: peer_generate(theirs, tokens_BS, NEW, cache, g)
        )
    runs["kvlab, no cache"] = Generation(lambda g: g.ours(stream_uncached(model, tokens_BS, NEW)))
    runs["kvlab, plain decode"] = Generation(
        lambda g: g.ours(s.token_B for s in stream(model, tokens_BS, NEW, eos=()))
    )
    for name, other in models.items():
        cache = other.new_cache(1, PROMPT + NEW)
        step = compiled_decode(other, cache)

        def run(g, other=other, cache=cache, step=step):
            cache.reset()
            steps = stream(other, tokens_BS, NEW, cache=cache, decode=step, eos=())
            return g.ours(s.token_B for s in steps)

        runs[f"kvlab, compiled, {name}"] = Generation(run)
    return runs


def measured(models, runs: dict[str, Generation], n_threads: int, rounds: int) -> list[dict]:
    """One row for each variant, beside what the machine reads in the same minutes."""
    reads = [roofline(rounds=3).gigabytes_per_second]
    interleaved(runs, rounds=rounds)
    reads.append(roofline(rounds=3).gigabytes_per_second)
    seconds = {name: run.seconds[-rounds:] for name, run in runs.items()}
    rows = []
    for name, found in seconds.items():
        per_token = statistics.median(found) / (NEW - 1)
        row = {
            "threads": n_threads,
            "name": name,
            "tokens_per_second": round(1 / per_token, 2),
            **over(seconds[BASE], found),
        }
        if name != "kvlab, no cache" and not name.startswith("llama.cpp"):
            kind = name.split(", ")[-1] if "compiled" in name else "float32"
            speed = n_bytes(models[kind], kind) / per_token / 1e9
            row["gigabytes_per_second"] = round(speed, 2)
            row["machine_reads_gigabytes_per_second"] = round(max(reads), 2)
            row["share_of_reading"] = round(speed / max(reads), 3)
        rows.append(row)
    return rows


def n_bytes(model: Transformer, kind: str) -> int:
    """What one step reads, at the middle of a generation."""
    per_number = {"float32": 4, "int8": 1}.get(kind, 2)
    context = PROMPT + NEW // 2
    work = decode_work(model.config, context=context, bytes_per_number=per_number)
    # int8 models keep their keys and values in float32
    more = 3 * context * model.config.kv_bytes_per_token(1) if kind == "int8" else 0
    return work.bytes + more


@torch.inference_mode()
def error(exact: Transformer, other: Transformer, tokens_N: torch.Tensor) -> dict[str, float]:
    """How far a model's logits are from float32's, along the same text."""
    caches = [m.new_cache(1, len(tokens_N)) for m in (exact, other)]
    steps = [compiled_decode(m, c) for m, c in zip((exact, other), caches, strict=True)]
    off, size, same = 0.0, 0.0, 0
    for token in tokens_N[:, None]:
        want, got = (
            step(m, token, c).float()
            for step, m, c in zip(steps, (exact, other), caches, strict=True)
        )
        off, size = max(off, float((got - want).abs().max())), max(size, float(want.abs().max()))
        same += bool(got.argmax() == want.argmax())
    return {
        "largest_error": round(off, 6), "largest_logit": round(size, 3),
        "same_likeliest_token": round(same / len(tokens_N), 3),
    }  # fmt: skip


if __name__ == "__main__":
    main()
