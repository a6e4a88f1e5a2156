"""Which published orderings of pruning methods hold on the pocket model.

    python -m benchmarks.orderings kvlab/pocket/weights runs/seed1/model runs/seed2/model \\
        --out benchmarks/results/orderings.json

A prompt tells five relations of one kind in about 450 tokens and asks for one. Its cache is pruned
once, after the text ("unseen": the question comes later) or after text and question ("visible"),
the latest 32 tokens stay dense, and the answer is read off: right is only the exact value. Every
method gets the same prompts, so two methods are compared prompt by prompt with a sign test.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import record
from kvlab import files, load, pocket, policies, quality
from kvlab.pack import CodesPerChannel, CodesPerToken, rows
from kvlab.pocket import questions
from kvlab.pocket.asking import world_question
from kvlab.prune import (
    Elements,
    Evict,
    Pruner,
    Sparsify,
    Then,
    all_heads,
    density,
    per_channel,
    per_token,
    whole_channels,
)

RECENT, GROUP, WIDTH, HALF = 32, 32, 32, torch.float16
SPARSITIES = (0.5, 0.7, 0.8, 0.9)
TASKS = {"words": "password", "codes": "code"}


# ----------------------------------------------------------------------------------------- methods
@dataclass(frozen=True)
class Method:
    """A way to thin a cache, how sparse it makes all but the window, and its bytes in float16.

    `bytes` is the share of a dense cache's bytes that the thinned part would take when it is packed
    (`kvlab.pack.rows`), metadata included; all but the latest `dense` tokens are thinned.
    """

    name: str
    sparsity: float
    thin: Callable[[Pruner, float], Pruner]
    bytes: float
    dense: int = RECENT


def by_policy(
    make: Callable[[float], quality.Method],
) -> Callable[[Pruner, float], Pruner]:
    """Thin by a policy, which is made for the mean length of the texts."""

    def thin(base: Pruner, n_tokens: float) -> Pruner:
        return quality.pruned(base, make(n_tokens))

    return thin


def elements(k: Elements | None, v: Elements | None, *, sink: int = 0, recent: int = RECENT):
    """Zero elements of keys, of values, or of both."""
    return by_policy(lambda n_tokens: Sparsify(k, v, sink=sink, recent=recent))


def eviction(make: Callable[[float], Evict], sparsity: float):
    """Evict as many tokens as element pruning of this sparsity zeroes numbers."""
    return by_policy(
        lambda n_tokens: make((RECENT + (1 - sparsity) * (n_tokens - RECENT)) / n_tokens)
    )


def in_rows(sparsity: float, width: int = WIDTH) -> float:
    """Bytes of packed rows against dense float16."""
    kept = rows.n_kept(sparsity, width)
    return rows.row_bytes(width, kept, HALF) / (width * HALF.itemsize)


def of_random(what: str) -> Callable[[Any], Tensor]:
    """A score without sense."""

    def random_elements(e) -> Tensor:
        x = getattr(e, what)
        return torch.rand(x.shape, generator=torch.Generator().manual_seed(e.layer))

    return random_elements


def element_methods() -> Iterator[Method]:
    """Directions, scores and halves of the cache, at each sparsity."""
    channel = partial(per_channel, group=GROUP)
    for s in SPARSITIES:
        k = {
            "token": Elements(policies.k_magnitude, s, per_token),
            "token, output-aware": Elements(policies.k_output_aware, s, per_token),
            "channel": Elements(policies.k_magnitude, s, channel),
            "whole channels": Elements(policies.think, s, whole_channels),
            "random": Elements(of_random("k_BGTD"), s, per_token),
        }
        v = {
            "token": Elements(policies.v_magnitude, s, per_token),
            "channel": Elements(policies.v_magnitude, s, channel),
            "channel, output-aware": Elements(policies.v_output_aware, s, channel),
            "whole channels": Elements(policies.think_v, s, whole_channels),
            "random": Elements(of_random("v_BGTD"), s, per_token),
        }
        row, cut = in_rows(s), rows.n_kept(s, WIDTH) / WIDTH
        for name, rule in k.items():
            share = (1 + (cut if name == "whole channels" else row)) / 2
            yield Method(f"K per {name}" if "ran" not in name else "K random", s,
                         elements(rule, None), share)  # fmt: skip
        for name, rule in v.items():
            share = (1 + (cut if name == "whole channels" else row)) / 2
            yield Method(f"V per {name}" if "ran" not in name else "V random", s,
                         elements(None, rule), share)  # fmt: skip
        for name in ("token", "channel", "whole channels", "random"):
            share = cut if name == "whole channels" else row
            yield Method(f"KV per {name}" if "ran" not in name else "KV random", s,
                         elements(k[name], v[name]), share)  # fmt: skip


def window_methods() -> Iterator[Method]:
    """KV per token with windows of several lengths, and with sinks kept dense."""
    for s in (0.7, 0.9):
        k = Elements(policies.k_magnitude, s, per_token)
        v = Elements(policies.v_magnitude, s, per_token)
        for recent in (0, 8, 16, 64):
            yield Method(f"KV per token, window {recent}", s, elements(k, v, recent=recent),
                         in_rows(s), recent)  # fmt: skip
        yield Method("KV per token, 4 sinks", s, elements(k, v, sink=4), in_rows(s), RECENT + 4)


def eviction_methods() -> Iterator[Method]:
    """Whole tokens; `streaming` alone protects sinks."""
    for s in SPARSITIES:
        named = {
            "random": lambda b: Evict(policies.random, b, sink=0),
            "recency": lambda b: Evict(policies.recency, b, sink=0),
            "streaming": lambda b: Evict(policies.streaming, b, sink=4),
            "h2o": lambda b: Evict(policies.h2o, b, sink=0),
            "tova": lambda b: Evict(policies.tova, b, sink=0, select=all_heads),
            "snapkv": lambda b: Evict(policies.snapkv, b, sink=0),
            "pyramidkv": lambda b: policies.pyramidkv(b, sink=0),
            "adakv": lambda b: policies.adakv(b, sink=0),
            "knorm": lambda b: Evict(policies.knorm, b, sink=0),
            "keydiff": lambda b: Evict(policies.keydiff, b, sink=0),
            "expected attention": lambda b: Evict(policies.expected_attention, b, sink=0),
            "vatp": lambda b: Evict(policies.vatp, b, sink=0),
        }
        for name, make in named.items():
            yield Method(f"evict: {name}", s, eviction(make, s), 1 - s)


def quantised_methods() -> Iterator[Method]:
    """Keys per channel over groups of tokens, values per token; pruning of the same bytes beside.

    Source: Liu et al. 2024, "KIVI", section 3.
    """
    for bits, sparsity in ((8, 0.5), (4, 0.75), (2, 0.875)):
        share = rows.code_bytes(WIDTH, bits, HALF) / (WIDTH * HALF.itemsize)
        kivi = quality.Stored(
            CodesPerChannel(bits, GROUP), CodesPerToken(bits, WIDTH), sink=0, recent=RECENT
        )
        yield Method(f"KV in {bits} bits", sparsity, by_policy(lambda _, kivi=kivi: kivi), share)
        k = Elements(policies.k_magnitude, sparsity, per_token)
        v = Elements(policies.v_magnitude, sparsity, per_token)
        if sparsity not in SPARSITIES:
            yield Method("KV per token", sparsity, elements(k, v), in_rows(sparsity))


def methods(tiny: bool) -> list[Method]:
    """All of them, or a few to try the code."""
    found = [
        *element_methods(),
        *window_methods(),
        *eviction_methods(),
        *quantised_methods(),
    ]
    return [m for m in found if m.sparsity >= 0.875] if tiny else found


# ----------------------------------------------------------------------------------------- reading
def prompts(tokenizer, kind: str, n_prompts: int, n_tokens: int, visible: bool) -> quality.Prompts:
    """Five held-out relations among filler, cut before the question or after it."""
    rng = random.Random(f"orderings {kind} {n_tokens}")
    made = [world_question(tokenizer, rng, n_tokens, kind) for _ in range(n_prompts)]
    return quality.asked(tokenizer, made, visible, first=[0])


def measured(folder: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every method on every task of one model."""
    model, tokenizer = load(folder)
    everything = methods(args.tiny)
    collect = Then(
        Evict(policies.h2o, 1.0),
        Evict(policies.expected_attention, 1.0),
        Evict(policies.tova, 1.0),
    )
    for task, kind in TASKS.items():
        for visible in (True, False):
            asked = prompts(tokenizer, kind, args.prompts, args.tokens, visible)
            base = quality.read(model, asked, collect)
            dense = quality.answers(model, quality.pruned(base, None), asked)
            where = {"model": str(folder), "task": task, "question": asked.question}
            right = dense.right_B.tolist()
            yield where | {"method": "dense", "sparsity": 0.0, "right": right, "bytes": 1.0}
            for method in everything:
                yield where | one(model, base, asked, method, dense)


def one(model, base: Pruner, asked: quality.Prompts, method: Method, dense: quality.Answers):
    """One method: thin a fork of the cache, answer, compare."""
    mean = asked.mean_tokens
    pruner = method.thin(base, mean)
    left = density(pruner.cache)
    found = quality.answers(model, pruner, asked)
    return {
        "method": method.name,
        "sparsity": method.sparsity,
        "right": found.right_B.tolist(),
        "kl_nats": round(found.kl_N(dense).mean().item(), 5),
        "tokens_left": round(left.tokens, 4),
        "k_left": round(left.k, 4),
        "v_left": round(left.v, 4),
        "bytes": round((method.dense + (mean - method.dense) * method.bytes) / mean, 4),
    }


@torch.inference_mode()
def identities(folder: Path, args: argparse.Namespace) -> dict[str, bool]:
    """Whether output-aware chooses what magnitude chooses, bit for bit, in every layer."""
    model, tokenizer = load(folder)
    asked = prompts(tokenizer, "password", min(args.prompts, 20), args.tokens, True)
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


# ------------------------------------------------------------------------------------------ claims
@dataclass(frozen=True)
class Claim:
    """A published ordering: one method is better than another at equal sparsity."""

    text: str
    source: str
    better: str
    worse: str
    sparsities: Sequence[float] = SPARSITIES


MUSTAFAR, KIVI = "Joo et al. 2025 (MUSTAFAR)", "Liu et al. 2024 (KIVI)"
CLAIMS = (
    Claim("K: single elements beat whole channels", MUSTAFAR, "K per token",
          "K per whole channels"),
    Claim("V: single elements beat whole channels", MUSTAFAR, "V per token",
          "V per whole channels"),
    Claim("K and V: single elements beat whole channels", MUSTAFAR, "KV per token",
          "KV per whole channels"),
    Claim("K: per token beats per channel", MUSTAFAR, "K per token", "K per channel"),
    Claim("V: per token beats per channel", MUSTAFAR, "V per token", "V per channel"),
    Claim("K per token: output-aware beats magnitude", MUSTAFAR, "K per token, output-aware",
          "K per token"),
    Claim("V per channel: output-aware beats magnitude", MUSTAFAR, "V per channel, output-aware",
          "V per channel"),
    Claim("V tolerates more than K", MUSTAFAR, "V per token", "K per token"),
    Claim("K: magnitude beats random elements", "baseline", "K per token", "K random"),
    Claim("V: magnitude beats random elements", "baseline", "V per token", "V random"),
    Claim("a window of 32 beats none", MUSTAFAR, "KV per token", "KV per token, window 0",
          (0.7, 0.9)),
    Claim("a window of 32 beats one of 8", MUSTAFAR, "KV per token", "KV per token, window 8",
          (0.7, 0.9)),
    Claim("dense sinks help", "Xiao et al. 2024 (StreamingLLM)", "KV per token, 4 sinks",
          "KV per token", (0.7, 0.9)),
    Claim("evicting: sinks and window beat a window", "Xiao et al. 2024 (StreamingLLM)",
          "evict: streaming", "evict: recency"),
    Claim("evicting: h2o beats a window", "Zhang et al. 2023 (H2O)", "evict: h2o",
          "evict: recency"),
    Claim("evicting: snapkv beats h2o", "Li et al. 2024 (SnapKV)", "evict: snapkv", "evict: h2o"),
    Claim("evicting: tova beats h2o", "Oren et al. 2024 (TOVA)", "evict: tova", "evict: h2o"),
    Claim("evicting: snapkv beats random", "baseline", "evict: snapkv", "evict: random"),
    Claim("evicting: knorm beats random", "Devoto et al. 2024", "evict: knorm", "evict: random"),
    Claim("evicting: keydiff beats random", "Park et al. 2025 (KeyDiff)", "evict: keydiff",
          "evict: random"),
    Claim("evicting: expected attention beats snapkv", "Devoto et al. 2025",
          "evict: expected attention", "evict: snapkv"),
    Claim("evicting: a pyramid of budgets beats equal ones", "Cai et al. 2024 (PyramidKV)",
          "evict: pyramidkv", "evict: snapkv"),
    Claim("evicting: budgets across heads beat equal ones", "Feng et al. 2024 (Ada-KV)",
          "evict: adakv", "evict: snapkv"),
    Claim("elements beat evicted tokens at as many numbers", MUSTAFAR, "KV per token",
          "evict: snapkv"),
    Claim("8 bits beat pruning at equal bytes", KIVI, "KV in 8 bits", "KV per token", (0.5,)),
    Claim("4 bits beat pruning at equal bytes", KIVI, "KV in 4 bits", "KV per token", (0.75,)),
    Claim("2 bits beat pruning at equal bytes", KIVI, "KV in 2 bits", "KV per token", (0.875,)),
)  # fmt: skip


def sign_test(wins: int, losses: int) -> float:
    """How often a fair coin gives a split as uneven as this one: the two-sided p-value."""
    n, least = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(least + 1)) / 2**n)


def verdict(wins: int, losses: int, n: int, by_model: Sequence[int]) -> str:
    """What pairs of answers say: by a sign test at 1 %, and by whether all models lean one way."""
    lean = wins - losses
    if sign_test(wins, losses) < 0.01:
        if any(one * lean < 0 for one in by_model):
            return "differs between models"
        return "holds" if lean > 0 else "the opposite holds"
    return "no difference" if abs(lean) <= 0.03 * n else "not decided"


def judged(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each claim at each sparsity, task and time of the question, over all models."""
    by = {(r["method"], r["sparsity"], r["task"], r["question"], r["model"]): r for r in found}
    models = sorted({r["model"] for r in found})
    for claim in CLAIMS:
        for s in claim.sparsities:
            for task in TASKS:
                for question in ("visible", "unseen"):
                    keys = [(s, task, question, model) for model in models]
                    if (claim.better, *keys[0]) not in by or (claim.worse, *keys[0]) not in by:
                        continue
                    pairs = [
                        list(zip(by[claim.better, *key]["right"], by[claim.worse, *key]["right"],
                                 strict=True))
                        for key in keys
                    ]  # fmt: skip
                    yield _judged(claim, s, task, question, pairs)


def _judged(claim: Claim, sparsity: float, task: str, question: str, pairs) -> dict[str, Any]:
    flat = [pair for of_model in pairs for pair in of_model]
    wins, losses = flat.count((True, False)), flat.count((False, True))
    lean = [of_model.count((True, False)) - of_model.count((False, True)) for of_model in pairs]
    return {
        "claim": claim.text,
        "source": claim.source,
        "sparsity": sparsity,
        "task": task,
        "question": question,
        "better_right": sum(a for a, _ in flat),
        "worse_right": sum(b for _, b in flat),
        "of": len(flat),
        "p": round(sign_test(wins, losses), 5),
        "verdict": verdict(wins, losses, len(flat), lean),
    }


# ------------------------------------------------------------------------------------------ report
def summed(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each row with its count and interval in place of the single answers."""
    for row in found:
        right = row.pop("right")
        low, high = quality.wilson(sum(right), len(right))
        yield row | {
            "right": sum(right),
            "of": len(right),
            "low": round(low, 4),
            "high": round(high, 4),
        }


def table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    every = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in every) + "\n"


def in_words(result: dict[str, Any]) -> str:
    """The report as a page."""
    rows_, models = result["rows"], sorted({r["model"] for r in result["rows"]})
    parts = [
        "# Which published orderings hold on the pocket model\n",
        f"Made by `{result['command']}` on {result['machine'].get('cpu', 'this machine')}, torch "
        f"{result['machine']['torch']}. {result['prompts']} prompts a cell and model, "
        f"{len(models)} models trained from different seeds: {', '.join(models)}. Texts of about "
        f"{result['tokens']} tokens with five relations; the latest {RECENT} tokens stay dense. "
        f"Measuring took {sum(result['seconds'].values()) / 60:.0f} minutes.\n",
        "## Output-aware against magnitude, mask by mask (70 %)\n",
        table(
            ["what", "the same elements stay, in models"],
            [[name, f"{n} of {len(models)}"] for name, n in result["identities"].items()],
        ),
        "The first two hold for every model. Output-aware multiplies an element's size by what it "
        "will meet. A row of V per token is one token: all its elements meet the same attention "
        "weight. A column of K per channel is one channel: all its elements meet the same channel "
        "of the query. A positive factor that a whole contest shares changes no rank. The other "
        "two have a factor for each element of the contest.\n",
        "## Claims\n",
        "A verdict takes a sign test over the same prompts at 1 %, and that no model leans the "
        "other way. Numbers are right answers of the first method against the second's.\n",
    ]
    claims: dict[str, dict[tuple, str]] = {}
    for c in result["claims"]:
        cell = f"{c['verdict']} ({c['better_right']} : {c['worse_right']} of {c['of']})"
        claims.setdefault(f"{c['claim']} | {c['source']} | {c['sparsity']:.1%}", {})[
            c["task"], c["question"]
        ] = cell
    columns = [(task, question) for task in TASKS for question in ("visible", "unseen")]
    names = [f"{task}, question {question}" for task, question in columns]
    parts.append(
        table(
            ["claim", "source", "sparsity", *names],
            [[claim, *(cells.get(c, "") for c in columns)] for claim, cells in claims.items()],
        )
    )
    parts.append("## Every method: right answers, all models together\n")
    sums: dict[tuple, dict[tuple, list[int]]] = {}
    for r in rows_:
        cell = sums.setdefault((r["method"], r["sparsity"], r["bytes"]), {})
        total = cell.setdefault((r["task"], r["question"]), [0, 0])
        total[0] += r["right"]
        total[1] += r["of"]
    merged: dict[tuple, dict] = {}
    for (method, s, share), cells in sums.items():
        line = merged.setdefault((method, s), {"bytes": share})
        line.update(cells)
    lines = []
    for (method, s), cells in merged.items():
        shown = []
        for column in columns:
            right, of = cells[column]
            low, high = quality.wilson(right, of)
            shown.append(f"{right / of:.0%} ({low:.0%} to {high:.0%})")
        lines.append([method, f"{s:.1%}", f"{cells['bytes']:.0%}", *shown])
    parts.append(table(["method", "sparsity", "bytes of dense", *names], lines))
    return "\n".join(parts)


def of_model(folder: Path, args: argparse.Namespace) -> tuple[list[dict[str, Any]], float]:
    """One model's rows and the seconds they took: kept from an earlier run, or measured now."""
    what = f"{questions.sha256(folder / 'model.safetensors')[:16]}-{args.prompts}-{args.tokens}"
    kept = args.keep and args.keep / f"{what}{'-tiny' * args.tiny}.json"
    if kept and kept.exists():
        earlier = json.loads(kept.read_text("utf-8"))
        return [row | {"model": str(folder)} for row in earlier["rows"]], earlier["seconds"]
    start, found = time.perf_counter(), []
    for row in measured(folder, args):
        found.append(row)
        if sys.stderr.isatty():
            print(f"\r{folder}: {len(found)} measured", end="", file=sys.stderr)
    seconds = round(time.perf_counter() - start, 1)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        files.write(kept, json.dumps({"seconds": seconds, "rows": found}))
    return found, seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all methods on all models, judge the claims, write JSON and a page."""
    parser = argparse.ArgumentParser("python -m benchmarks.orderings", description=main.__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="folders; default: the shipped model")
    parser.add_argument("--prompts", type=int, default=100, help="in each cell, of each model")
    parser.add_argument("--tokens", type=int, default=450)
    parser.add_argument("--tiny", action="store_true", help="few methods: to try the code, no more")
    parser.add_argument("--keep", type=Path, help="a folder for each model's rows, to go on from")
    parser.add_argument("--out", type=Path, help="JSON goes here, a page of words beside it")
    args = parser.parse_args(argv)
    args.models = args.models or [pocket.path()]
    lacking = [str(folder) for folder in args.models if not (folder / "config.json").exists()]
    if lacking:
        parser.error(f"no Hugging Face files in {', '.join(lacking)}")
    found, seconds = [], {}
    for folder in args.models:
        rows_, seconds[str(folder)] = of_model(folder, args)
        found += rows_
    claims = list(judged(found))
    same = [identities(folder, args) for folder in args.models]
    result = record(
        "benchmarks.orderings",
        args.out,
        list(summed(found)),
        prompts=args.prompts,
        tokens=args.tokens,
        weights_sha256={str(f): questions.sha256(f / "model.safetensors") for f in args.models},
        identities={name: sum(one[name] for one in same) for name in same[0]},
        claims=claims,
        seconds=seconds,
    )
    if args.out and files.is_ordinary(args.out):
        files.write(args.out.with_suffix(".md"), in_words(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
