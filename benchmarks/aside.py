"""What the chapters say in passing of a real model, SmolLM2-135M, beside the pocket model.

    python -m benchmarks.aside --out benchmarks/results/aside.json

Chapters 1 and 2 put other attention into it; chapter 1 takes out what all keys share; chapter 10
zeroes elements; chapter 11 drops tokens with a sink and without. B texts, H query heads, G
key/value heads, S tokens, D head width.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import record
from benchmarks.orderings import asking
from benchmarks.orderings.inside import outliers
from kvlab import Evict, Probe, Transformer, generate, load, policies, quality
from kvlab.course.plugging import own_attention
from kvlab.ops import apply_rope, rope_angles
from kvlab.pack.rows import best, n_kept
from kvlab.pocket.world import recall_prompt

PARAGRAPH = (
    "The ferry to the island leaves twice a day in winter and every hour in summer. In winter the "
    "crossing takes longer, because the captain has to steer around the ice that drifts down from "
    "the river. People who live on the island buy what they need for a month at a time, and in a "
    "hard winter they share it with their neighbours until the ferry comes again."
)
FRANCE = "The capital of France is"
Mix = Callable[[Tensor, int], Tensor]
Row = dict[str, Any]


# ---- another attention
def divided(products: Tensor, width: int) -> Tensor:
    """Weights as every model has them."""
    return (products / width**0.5).softmax(-1)


def undivided(products: Tensor, width: int) -> Tensor:
    """Weights without the division by the root of the width."""
    return products.softmax(-1)


def best_key_alone(products: Tensor, width: int) -> Tensor:
    """All of the attention on the best key."""
    return F.one_hot(products.argmax(-1), products.shape[-1]).to(products.dtype)


VARIANTS: dict[str, Mix] = {
    "as it is": divided,
    "not divided": undivided,
    "the best key alone": best_key_alone,
    "no mask": divided,
}


def attention(mix: Mix, masked: bool):
    """An attention for `own_attention` whose weights are made by `mix`."""

    def attend(q_BHSD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor) -> Tensor:
        share, n, D = q_BHSD.shape[1] // k_BGTD.shape[1], q_BHSD.shape[2], q_BHSD.shape[3]
        k_BHTD, v_BHTD = (x.repeat_interleave(share, 1) for x in (k_BGTD, v_BGTD))
        products_BHST = q_BHSD @ k_BHTD.mT
        if masked:
            later_ST = torch.ones(n, k_BHTD.shape[2], dtype=torch.bool)
            later_ST = later_ST.triu(k_BHTD.shape[2] - n + 1)
            products_BHST = products_BHST.masked_fill(later_ST, -torch.inf)
        return mix(products_BHST, D) @ v_BHTD

    return attend


def variants(model: Transformer, tokenizer) -> list[Row]:
    """Loss on a paragraph and what follows a sentence, with each attention in all layers."""
    ids, found = tokenizer.encode(PARAGRAPH), []
    for name, mix in VARIANTS.items():
        with own_attention(model, attention(mix, name != "no mask")), torch.inference_mode():
            logits_SV = model(torch.tensor([ids]))[0, :-1]
            said = generate(model, tokenizer.encode(FRANCE), 6, eos=())[0].tolist()
        loss = F.cross_entropy(logits_SV, torch.tensor(ids[1:]))
        found.append({
            "what": "attention", "name": name, "tokens": len(ids), "nats": round(loss.item(), 3),
            "after_france_is": tokenizer.decode(said),
        })  # fmt: skip
    return found


# ---- what all keys share
@torch.inference_mode()
def shared(model: Transformer, ids: Sequence[int]) -> Row:
    """How much attention moves in each head if the mean of all keys is taken out of them.

    Of the queries of the later half; the mean is taken before rope, and the part is turned again.
    """
    with Probe(model, keep=("queries", "keys")) as seen:
        model(torch.tensor([list(ids)]), backend="reference")
    config, moved = model.config, []
    pos_1S = torch.arange(len(ids))[None]
    cos, sin = rope_angles(pos_1S, config.head_dim, config.rope_theta, torch.float32)
    share, later = config.n_heads // config.n_kv_heads, len(ids) // 2
    hidden_ST = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)[later:]
    for queries, keys in zip(seen.queries, seen.keys, strict=True):
        q_HSD, k_GSD = queries[0][0][:, later:], keys[0][0]
        plain_GSD = apply_rope(k_GSD[None], cos, -sin)[0]
        part_GSD = apply_rope(plain_GSD.mean(1, keepdim=True).expand_as(k_GSD)[None], cos, sin)[0]
        weights = []
        for x_GSD in (k_GSD, k_GSD - part_GSD):
            x_HSD = x_GSD.repeat_interleave(share, 0)
            scores_HST = q_HSD @ x_HSD.mT / config.head_dim**0.5
            weights.append(scores_HST.masked_fill(hidden_ST, -torch.inf).softmax(-1))
        moved += ((weights[0] - weights[1]).abs().sum(-1) / 2).mean(-1).tolist()
    moved.sort()
    return {
        "what": "shared part", "name": "attention that goes elsewhere", "tokens": len(ids),
        "heads": len(moved), "middle": round(moved[len(moved) // 2], 3),
        "more_than_half": sum(m > 0.5 for m in moved),
        "less_than_a_twentieth": sum(m < 0.05 for m in moved),
    }  # fmt: skip


# ---- elements
@torch.inference_mode()
def elements(model: Transformer, ids: Sequence[int], share: float = 0.7, group: int = 32) -> Row:
    """How much of the matrices goes with the smallest elements, per token and per channel.

    The length of what goes over the length of all, the mean over layers and key/value heads.
    """
    with Probe(model, keep=("keys", "values")) as seen:
        model(torch.tensor([list(ids)]), backend="reference")
    found: Row = {"what": "elements", "name": f"the smallest {share:.0%} go", "tokens": len(ids)}
    for name, calls in (("k", seen.keys), ("v", seen.values)):
        lost: dict[str, list[float]] = {"per_token": [], "per_channel": []}
        for x_GSD in (kept[0][0] for kept in calls):
            whole = x_GSD.shape[1] // group * group
            x_GND = x_GSD[:, :whole]
            rows = {
                "per_token": x_GND,
                "per_channel": x_GND.unflatten(1, (-1, group)).transpose(2, 3),
            }
            for way, x in rows.items():
                stay = best(x.abs(), n_kept(share, x.shape[-1]))
                gone = x.masked_fill(stay, 0).flatten(1).norm(dim=-1)
                lost[way] += (gone / x.flatten(1).norm(dim=-1)).tolist()
        found |= {f"{name}_{way}": round(sum(of) / len(of), 3) for way, of in lost.items()}
    return found


def channels(model: Transformer, ids: Sequence[int]) -> Row:
    """The largest channel of keys over the median one: the layers with the least and the most."""
    ratios = [layer["ratio"] for layer in outliers(model, [list(ids)])["keys after rope"]]
    return {"what": "channels", "name": "largest key channel over the median one",
            "least": min(ratios), "most": max(ratios)}  # fmt: skip


# ---- sinks
def sinks(model: Transformer, tokenizer, n_prompts: int, tokens: int, kept: int) -> list[Row]:
    """What is lost when the newest tokens stay, alone and with the first one or four."""
    rows = []
    for task, question in (("text", "unseen"), ("words", "visible")):
        asked = asking.PLAIN[task].make(tokenizer, n_prompts, tokens, question)
        base = quality.read(model, asked, Evict(policies.recency, kept, sink=0, recent=0))
        dense = quality.answers(model, quality.pruned(base, None), asked)
        for n_sinks in (0, 1, 4):
            way = Evict(policies.recency, kept, sink=n_sinks, recent=0)
            found = quality.answers(model, quality.pruned(base, way), asked)
            rows.append({
                "what": "sinks", "name": f"{task}, {n_sinks} sinks", "kept": kept,
                "tokens": tokens, "prompts": n_prompts,
                "kl_nats": round(found.kl_N(dense).mean().item(), 3),
                "right": int(found.right_B.sum()), "right_dense": int(dense.right_B.sum()),
            })  # fmt: skip
    return rows


def main() -> None:
    """Measure all of it and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--out", type=Path, help="write the result there as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load("smollm2", dtype=torch.float32)
    pocket, its_tokenizer = load("pocket")
    ids = tokenizer.encode(PARAGRAPH)
    text = asking.PLAIN["text"].make(tokenizer, 1, 448, "unseen").texts[0]
    story = recall_prompt(
        random.Random(1), lambda t: len(its_tokenizer.encode(t, special=False)),
        n_relations=4, n_tokens=450,
    ).prompt  # fmt: skip
    rows = [{"model": "smollm2"} | row for row in (
        *variants(model, tokenizer), shared(model, ids), elements(model, text),
        channels(model, text), *sinks(model, tokenizer, args.prompts, 400, 100),
    )]  # fmt: skip
    its_ids = its_tokenizer.encode(story)
    rows += [{"model": "pocket"} | row for row in (
        elements(pocket, its_ids), channels(pocket, its_ids),
    )]  # fmt: skip
    record("benchmarks.aside", args.out, rows)


if __name__ == "__main__":
    main()
