"""What a model has inside that pruning meets: sinks, outlier channels, heads that retrieve.

    python -m benchmarks.orderings.inside smollm2 --out benchmarks/results/inside-smollm2.json

L layers, B rows, H query heads, G key/value heads, S tokens, T slots, D head width. The pocket
model's figures of the same kinds stand in its own record (`benchmarks/results/pocket.json`).
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import record
from benchmarks.orderings import asking
from benchmarks.orderings.measuring import BATCH, LARGE_BATCH
from kvlab import Probe, Transformer, hub, load, quality
from kvlab.pocket import questions
from kvlab.pocket.asking import speaks_pocket
from kvlab.prune import Pruner

RECALL, TEXT = "needle", "text"
BESIDE = 100  # the slot of the filler that goes where the first token's eviction is compared


# ------------------------------------------------------------------------------------------- sinks
@torch.inference_mode()
def on_the_first(model: Transformer, texts: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    """Attention on the first token, in each layer: the mean over heads, and the largest head's.

    Over the queries of the second half of each text, where an even spread gives it 1 in some
    hundreds.
    """
    total_LH = 0.0
    for text in texts:
        with Probe(model, keep="weights") as seen:
            model.hidden(torch.tensor([text], device=model.device), backend="reference")
        total_LH = total_LH + torch.stack(
            [kept[0][0, :, len(text) // 2 :, 0].mean(-1) for kept in seen.weights]
        )
    share_LH = total_LH / len(texts)
    return {"mean": _rounded(share_LH.mean(-1)), "largest_head": _rounded(share_LH.amax(-1))}


def without(base: Pruner, slots: Sequence[int], layers: Sequence[int]) -> Pruner:
    """A fork of what was read, with some slots gone from some layers."""
    pruner = quality.pruned(base, None)
    cache = pruner.cache
    keep_BGT = torch.ones(
        cache.batch, cache.k_LBGTD.shape[2], cache.length, dtype=torch.bool, device=cache.device
    )
    keep_BGT[..., list(slots)] = False
    for layer in layers:
        cache.keep(layer, keep_BGT)
    return pruner


def evicted(model: Transformer, batches: Sequence[quality.Prompts]) -> dict[str, Any]:
    """What it costs when the first token goes: everywhere, in a third of the layers, in one.

    KL to the dense cache in nats, the share of tokens whose likeliest successor stays, and right
    answers.
    """
    n = model.config.n_layers
    thirds = {f"layers {a[0]} to {a[-1]}": a for a in _thirds(n)}
    ways = {
        "the first token": ([0], range(n)),
        "the first four tokens": (range(4), range(n)),
        "a token of the filler": ([BESIDE], range(n)),
        **{f"the first token, {name}": ([0], layers) for name, layers in thirds.items()},
        **{f"the first token, layer {i}": ([0], [i]) for i in range(n)},
    }
    found: dict[str, list[dict[str, Tensor]]] = {name: [] for name in ("dense", *ways)}
    for asked in batches:
        base = quality.read(model, asked, quality.needs_of_all([]))
        dense = quality.answers(model, quality.pruned(base, None), asked)
        found["dense"].append(_costs(dense, dense))
        for name, (slots, layers) in ways.items():
            found[name].append(
                _costs(quality.answers(model, without(base, slots, layers), asked), dense)
            )
    return {name: _summed(parts) for name, parts in found.items()}


def _thirds(n: int) -> list[range]:
    cuts = [round(n * i / 3) for i in range(4)]
    return [range(a, b) for a, b in pairwise(cuts) if b > a]


def _costs(answers: quality.Answers, dense: quality.Answers) -> dict[str, Tensor]:
    """What is kept of a batch: numbers, and not a row of the vocabulary for each scored token."""
    return {
        "kl_N": answers.kl_N(dense),
        "same_N": answers.agrees_N(dense),
        "right_B": answers.right_B,
    }


def _summed(parts: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    kl_N, same_N, right_B = (
        torch.cat([part[name] for part in parts]) for name in ("kl_N", "same_N", "right_B")
    )
    return {
        "kl_nats": round(float(kl_N.mean()), 5),
        "same_top": round(float(same_N.float().mean()), 4),
        "right": int(right_B.sum()),
        "of": len(right_B),
    }


# -------------------------------------------------------------------------------------- outliers
@torch.inference_mode()
def outliers(model: Transformer, texts: Sequence[Sequence[int]]) -> dict[str, list[dict]]:
    """Channels of keys before and after rope, and of values, in each layer.

    `ratio` is the largest root mean square of a channel over the median one's, the mean over the
    key/value heads; `kurtosis` that of all numbers of a head (3 for a bell curve); `common` the
    share of the mean vector in a vector's norm, `first` the first token's norm over the median's.
    """
    kept: dict[str, list[list[Tensor]]] = {}
    for text in texts:
        with _projected(model) as before, Probe(model, keep=("keys", "values")) as seen:
            model.hidden(torch.tensor([text], device=model.device))
        width = model.config.head_dim
        sides = {
            "keys before rope": [
                k_BSC[0].unflatten(-1, (-1, width)).transpose(0, 1) for k_BSC in before
            ],
            "keys after rope": [one[0][0] for one in seen.keys],
            "values": [one[0][0] for one in seen.values],
        }
        for name, x_LGSD in sides.items():
            kept.setdefault(name, []).append(x_LGSD)
    return {
        name: [_shape_of([text[i] for text in per_text]) for i in range(model.config.n_layers)]
        for name, per_text in kept.items()
    }


@contextmanager
def _projected(model: Transformer) -> Iterator[list[Tensor]]:
    """What each layer's key projection gives, in the order of the layers."""
    before: list[Tensor] = []
    with ExitStack() as hooks:
        for attention in model.attentions:
            hook = attention.k_proj.register_forward_hook(lambda *passed: before.append(passed[2]))
            hooks.callback(hook.remove)
        yield before


def _shape_of(x_GSD: Sequence[Tensor]) -> dict[str, float]:
    """Of one layer, a tensor for each text."""
    x_GND = torch.cat(list(x_GSD), 1)
    rms_GD = x_GND.square().mean(1).sqrt()
    away_GN = (x_GND - x_GND.mean((1, 2), keepdim=True)).flatten(1)
    norm_GN = x_GND.norm(dim=-1)
    first_GB = torch.stack([one_GSD[:, 0].norm(dim=-1) for one_GSD in x_GSD], 1)
    kurtosis_G = away_GN.pow(4).mean(1) / away_GN.square().mean(1).square()
    found = {
        "ratio": rms_GD.amax(-1) / rms_GD.median(-1).values,
        "kurtosis": kurtosis_G,
        "common": x_GND.mean(1).norm(dim=-1) / norm_GN.mean(1),
        "first": first_GB.mean(1) / norm_GN.median(-1).values,
    }
    return {name: round(float(x_G.mean()), 3) for name, x_G in found.items()}


# ------------------------------------------------------------------------------------- retrieval
@torch.inference_mode()
def on_the_needle(model: Transformer, asked: quality.Prompts) -> Tensor:
    """Attention that the answering token's query gives to the fact it asks for. Shape: (L, H)."""
    total_LH = 0.0
    for text, rest in zip(asked.texts, asked.rests, strict=True):
        at = _found(text, rest)
        tokens_BS = torch.tensor([[*text, *rest[:-1]]], device=model.device)
        with Probe(model, keep="weights") as seen:
            model.hidden(tokens_BS, backend="reference")
        total_LH = total_LH + torch.stack(
            [kept[0][0, :, -1, at : at + len(rest)].sum(-1) for kept in seen.weights]
        )
    return total_LH / len(asked.texts)


def _found(text: Sequence[int], sentence: Sequence[int]) -> int:
    """Where in a text a sentence stands."""
    n = len(sentence)
    return next(i for i in range(len(text)) if list(text[i : i + n]) == list(sentence))


@contextmanager
def without_heads(model: Transformer, heads: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Let some (layer, head) add nothing."""
    width = model.config.head_dim
    with ExitStack() as hooks:
        for layer in {layer for layer, _ in heads}:
            gone = [h for at, h in heads if at == layer]

            def silence(_module, given, gone=gone):
                x_BSC = given[0].clone()
                for h in gone:
                    x_BSC[..., h * width : (h + 1) * width] = 0
                return (x_BSC, *given[1:])

            projection = model.attentions[layer].o_proj
            hooks.callback(projection.register_forward_pre_hook(silence).remove)
        yield


def retrieval(model: Transformer, batches: Sequence[quality.Prompts]) -> dict[str, Any]:
    """The heads that look at the needle, and recall without them and without as many others."""
    mass_LH = on_the_needle(model, batches[0])
    layers, heads = mass_LH.shape
    order = mass_LH.flatten().argsort(descending=True).tolist()
    ranked = [(i // heads, i % heads) for i in order]
    others = ranked[len(ranked) // 2 :]
    random.Random(1).shuffle(others)
    silent: dict[str, Any] = {"none": _right(model, batches, [])}
    for n in (1, 2, 4, 8, 16):
        silent[f"the first {n}"] = _right(model, batches, ranked[:n])
        silent[f"{n} of the lower half"] = _right(model, batches, others[:n])
    best = [
        {"layer": a, "head": h, "attention": round(float(mass_LH[a, h]), 4)} for a, h in ranked[:16]
    ]
    return {"heads": layers * heads, "best": best, "right_without": silent}


def _right(model, batches, heads: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Right answers while heads are silent from the first token on."""
    right = []
    with without_heads(model, heads):
        for asked in batches:
            base = quality.read(model, asked, quality.needs_of_all([]))
            right += quality.answers(model, base, asked).right_B.tolist()
    return {"right": sum(right), "of": len(right)}


# ----------------------------------------------------------------------------------------- report
def _rounded(x_L: Tensor) -> list[float]:
    return [round(x, 4) for x in x_L.tolist()]


def _batches(tokenizer, task: str, question: str, n_prompts: int, n_tokens: int):
    size = BATCH if speaks_pocket(tokenizer) else LARGE_BATCH
    made = asking.PLAIN[task].make(tokenizer, n_prompts, n_tokens, question)
    return list(asking.in_batches(made, size).values())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure sinks, outlier channels and retrieving heads of a model, and write them down."""
    parser = argparse.ArgumentParser("python -m benchmarks.orderings.inside")
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--inside", type=int, default=20, help="texts whose attention is looked at")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    model, tokenizer = load(args.model)
    recall = _batches(tokenizer, RECALL, "visible", args.prompts, args.tokens)
    text = _batches(tokenizer, TEXT, "unseen", args.prompts, args.tokens)
    texts = [one for asked in text for one in asked.texts][: args.inside]
    folder = hub.NAMED.get(args.model, Path(args.model))
    record(
        "benchmarks.orderings.inside",
        args.out,
        [],
        model=args.model,
        weights_sha256=questions.sha256(folder / "model.safetensors"),
        prompts=args.prompts,
        tokens=args.tokens,
        texts_looked_at=len(texts),
        attention_on_the_first_token=on_the_first(model, texts),
        evicted_text=evicted(model, text),
        evicted_recall=evicted(model, recall),
        channels=outliers(model, texts),
        retrieval=retrieval(model, recall),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
