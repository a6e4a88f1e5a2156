"""Published orderings of methods, and what pairs of answers to the same prompts say of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.orderings.methods import SPARSITIES


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
    Claim("evicting: sinks kept, random beats random", "Xiao et al. 2024 (StreamingLLM)",
          "evict: random, 4 sinks", "evict: random"),
    Claim("evicting: sinks kept, snapkv beats snapkv", "Xiao et al. 2024 (StreamingLLM)",
          "evict: snapkv, 4 sinks", "evict: snapkv"),
    Claim("a window of 128 beats one of 32", MUSTAFAR, "KV per token, window 128", "KV per token",
          (0.7, 0.9)),
    Claim("4 bits: keys per channel beat keys per token", KIVI, "KV in 4 bits",
          "KV in 4 bits, keys per token", (0.75,)),
    Claim("2 bits: keys per channel beat keys per token", KIVI, "KV in 2 bits",
          "KV in 2 bits, keys per token", (0.875,)),
    Claim("elements beat keydiff at as many numbers", "baseline", "KV per token", "evict: keydiff"),
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


# Method, sparsity, task, question, tokens, model.
Cell = tuple[str, float, str, str, int | None, str]


def _cell(row: dict[str, Any]) -> Cell:
    tokens = row.get("tokens")
    return row["method"], row["sparsity"], row["task"], row["question"], tokens, row["model"]


def judged(found: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each claim at each sparsity, task, time of the question and length, over all models."""
    by = {_cell(row): row for row in found}
    models = sorted({cell[-1] for cell in by})
    where = list(dict.fromkeys(cell[2:5] for cell in by))
    for claim in CLAIMS:
        for s in claim.sparsities:
            for cell in where:
                pairs = [
                    [by.get((name, s, *cell, model)) for name in (claim.better, claim.worse)]
                    for model in models
                ]
                if all(better and worse for better, worse in pairs):
                    yield _judged(claim, s, cell, pairs)


def _judged(claim: Claim, sparsity: float, cell: Sequence[Any], pairs) -> dict[str, Any]:
    task, question, tokens = cell
    won = [_won(better, worse, task) for better, worse in pairs]
    wins, losses = sum(w for w, _ in won), sum(lost for _, lost in won)
    of = sum(len(better["right"]) for better, _ in pairs)
    found = {
        "claim": claim.text,
        "source": claim.source,
        "sparsity": sparsity,
        "task": task,
        "question": question,
        "better_right": sum(sum(better["right"]) for better, _ in pairs),
        "worse_right": sum(sum(worse["right"]) for _, worse in pairs),
        "of": of,
        "wins": wins,
        "losses": losses,
        "p": round(sign_test(wins, losses), 5),
        "verdict": verdict(wins, losses, of, [w - lost for w, lost in won]),
    }
    if tokens is not None:
        means = ("better_kl", "worse_kl")
        found |= {"tokens": tokens} | {
            name: round(sum(map(_mean_kl, side)) / len(pairs), 4)
            for name, side in zip(means, zip(*pairs, strict=True), strict=True)
        }
    return found


def _mean_kl(row: dict[str, Any]) -> float:
    return sum(row["kl_nats"]) / len(row["kl_nats"])


def _won(better: dict[str, Any], worse: dict[str, Any], task: str) -> tuple[int, int]:
    """On how many prompts the one is ahead, and the other.

    An answer is right or wrong. A continued text has no right answer: there the one is ahead that
    is nearer to the dense cache's predictions.
    """
    if task == "text":
        pairs = list(zip(better["kl_nats"], worse["kl_nats"], strict=True))
        return sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    pairs = list(zip(better["right"], worse["right"], strict=True))
    return pairs.count((True, False)), pairs.count((False, True))
