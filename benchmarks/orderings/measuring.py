"""Every method on every task of one model, in batches that are kept as they come."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.orderings import asking
from benchmarks.orderings.methods import COLLECT, GROUP, RECENT, WEB, Method, Plan, methods
from kvlab import files, policies, quality
from kvlab.pocket.asking import speaks_pocket
from kvlab.prune import Elements, Evict, Pruner, Sparsify, density, per_channel, per_token

BATCH = 100  # prompts of the pocket model that are read at once
LARGE_BATCH = 10  # of a model whose cache has a thousand times the bytes
LISTS = ("right", "kl_nats", "nats")  # an entry for each prompt
SHARES = ("tokens_left", "k_left", "v_left", "bytes")


@dataclass(frozen=True)
class Run:
    """What is measured: prompts in each cell, tokens of each text, which tasks and methods.

    Of each task all questions are, unless some are named.
    """

    prompts: int
    tokens: int
    tiny: bool = False
    tasks: Sequence[str] = ()
    named: Sequence[str] = ()
    questions: Sequence[str] = ()


def plan_of(model, tokenizer) -> Plan:
    """The methods that are worth their time on a model."""
    return Plan(model.config.head_dim, **({} if speaks_pocket(tokenizer) else WEB))


def batches(tokenizer, run: Run) -> Iterator[tuple[dict[str, Any], quality.Prompts]]:
    """Each batch of each cell, with what it is called."""
    pocket = speaks_pocket(tokenizer)
    size = BATCH if pocket else LARGE_BATCH
    for name, task in asking.tasks(pocket).items():
        if run.tasks and name not in run.tasks:
            continue
        for question in task.questions:
            if run.questions and question not in run.questions:
                continue
            every = task.make(tokenizer, run.prompts, run.tokens, question)
            where = {"task": name, "question": question, "tokens": run.tokens}
            for start, part in asking.in_batches(every, size).items():
                yield where | {"start": start}, part


def measured(model, tokenizer, run: Run, keep: Path | None = None) -> Iterator[dict[str, Any]]:
    """A row for each method of each batch; batches that were kept are not measured again."""
    everything = methods(run.tiny, plan_of(model, tokenizer), run.named)
    for where, asked in batches(tokenizer, run):
        name = f"{where['task']}-{where['question']}-{where['tokens']}-{where['start']}.json"
        kept = keep and keep / name
        rows = json.loads(kept.read_text("utf-8")) if kept and kept.exists() else []
        have = {(row["method"], row["sparsity"]) for row in rows}
        lacking = [m for m in everything if (m.name, m.sparsity) not in have]
        if lacking:
            rows += list(_batch(model, asked, where, lacking, bool(rows)))
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                files.write(kept, json.dumps(rows))
            if sys.stderr.isatty():
                print(f"\r{name}: {len(rows)} measured", end="", file=sys.stderr)
        wanted = {(m.name, m.sparsity) for m in everything} | {("dense", 0.0)}
        yield from (row for row in rows if (row["method"], row["sparsity"]) in wanted)


def _batch(model, asked, where, lacking: Sequence[Method], again: bool) -> Iterator[dict[str, Any]]:
    start = time.perf_counter()
    base = quality.read(model, asked, COLLECT)
    dense = quality.answers(model, quality.pruned(base, None), asked)
    if not again:
        yield where | {
            "method": "dense", "sparsity": 0.0, "right": dense.right_B.tolist(),
            "nats": dense.nats_B.tolist(), "kl_nats": [0.0] * len(asked.texts), "tokens_left": 1.0,
            "k_left": 1.0, "v_left": 1.0, "bytes": 1.0,
            "seconds": round(time.perf_counter() - start, 2),
        }  # fmt: skip
    for method in lacking:
        yield where | one(model, base, asked, method, dense)


def one(model, base: Pruner, asked: quality.Prompts, method: Method, dense: quality.Answers):
    """One method: thin a fork of the cache, answer, compare."""
    start, mean = time.perf_counter(), asked.mean_tokens
    pruner = method.thin(base, mean)
    left = density(pruner.cache)
    found = quality.answers(model, pruner, asked)
    return {
        "method": method.name,
        "sparsity": method.sparsity,
        "right": found.right_B.tolist(),
        "kl_nats": [round(kl, 5) for kl in found.mean_B(found.kl_N(dense).double()).tolist()],
        "nats": [round(nats, 4) for nats in found.nats_B.tolist()],
        "tokens_left": round(left.tokens, 4),
        "k_left": round(left.k, 4),
        "v_left": round(left.v, 4),
        "bytes": round((method.dense + (mean - method.dense) * method.bytes) / mean, 4),
        "seconds": round(time.perf_counter() - start, 2),
    }


def joined(rows: Sequence[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """The batches of each cell as one row: lists one after the other, shares as the mean."""
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        key = row["task"], row["question"], row["tokens"], row["method"], row["sparsity"]
        cells.setdefault(key, []).append(row)
    found = []
    for parts in cells.values():
        parts.sort(key=lambda row: row["start"])
        first = {k: v for k, v in parts[0].items() if k not in ("start", "seconds")}
        lists = {name: [one for row in parts for one in row[name]] for name in LISTS}
        n = len(lists["right"])
        shares = {
            name: round(sum(row[name] * len(row["right"]) for row in parts) / n, 4)
            for name in SHARES
        }
        found.append({"model": model} | first | lists | shares)
    return found


@torch.inference_mode()
def identities(model, tokenizer, run: Run) -> dict[str, bool]:
    """Whether output-aware chooses what magnitude chooses, bit for bit, in every layer."""
    first = next(iter(asking.tasks(speaks_pocket(tokenizer)).values()))
    n_prompts = min(run.prompts, 20 if speaks_pocket(tokenizer) else LARGE_BATCH)
    asked = first.make(tokenizer, n_prompts, run.tokens, "visible")
    base = quality.read(model, asked, Evict(policies.snapkv, 1.0))
    channel, same = partial(per_channel, group=GROUP), {}
    pairs = {
        "V per token": ("v", policies.v_magnitude, policies.v_output_aware, per_token),
        "K per channel": ("k", policies.k_magnitude, policies.k_output_aware, channel),
        "K per token": ("k", policies.k_magnitude, policies.k_output_aware, per_token),
        "V per channel": ("v", policies.v_magnitude, policies.v_output_aware, channel),
    }
    for name, (what, plain, aware, select) in pairs.items():
        caches = []
        for score in (plain, aware):
            pruner = base.fork(Sparsify(**{what: Elements(score, 0.7, select)}, recent=RECENT))
            pruner.prune()
            caches.append(getattr(pruner.cache, f"{what}_LBGTD"))
        same[name] = bool(torch.equal(*caches))
    return same
