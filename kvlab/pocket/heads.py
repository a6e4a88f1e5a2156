"""What happens inside the pocket model while it recalls: who looks where, and what may go.

L layers, H query heads, G key/value heads, T slots, D head width.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.generation import decode, prefill
from kvlab.measure.probe import Probe
from kvlab.measure.taps import listen
from kvlab.model import Transformer
from kvlab.pocket import bpe, world
from kvlab.pocket.questions import Item, item, recall_prompts, scored

N_TOKENS = 450
N_RELATIONS = 5


class Needle(NamedTuple):
    """A recall prompt, and where in it the sentence with the answer and the answer stand."""

    item: Item
    sentence: range
    value: range


def needles(tokenizer: Tokenizer, seed: int, n_prompts: int) -> list[Needle]:
    """Make prompts that ask for one password of five, 450 tokens long, and find the answer."""
    made = recall_prompts(tokenizer, seed, n_prompts, N_RELATIONS, N_TOKENS, "password")
    return [located(tokenizer, one) for one in made]


def located(tokenizer: Tokenizer, made: world.RecallPrompt) -> Needle:
    """Find the asked sentence among a prompt's tokens."""
    before, _ = made.prompt.split(f" {made.asked.sentence}", 1)
    first = 1 + len(bpe.ids_of(tokenizer, before))  # after the token that opens the text
    sentence = bpe.ids_of(tokenizer, f" {made.asked.sentence}")
    stem, value = (bpe.ids_of(tokenizer, text) for text in (made.stem, made.value))
    asked = item(tokenizer, made.prompt + made.stem, made.value)
    assert asked.prompt[first : first + len(sentence)] == sentence
    at = first + len(stem)
    return Needle(asked, range(first, first + len(sentence)), range(at, at + len(value)))


@torch.inference_mode()
def read_up_to_last(model: Transformer, prompt: Sequence[int]) -> KVCache:
    """Read all of a prompt but its last token, whose query is the one that answers."""
    cache = model.new_cache(1, len(prompt))
    prefill(model, torch.tensor([prompt[:-1]]), cache)
    return cache


def last_token(prompt: Sequence[int]) -> Tensor:
    """The answering token. Shapes: -> token_B of one row."""
    return torch.tensor([prompt[-1]])


# ---------------------------------------------------------------------------------- retrieval layer
@torch.inference_mode()
def masses(model: Transformer, some: Sequence[Needle]) -> dict[str, Tensor]:
    """Average what the answering query's attention gives to the needle, and to the first token.

    Shapes: (L, H) under "sentence", "value" and "first".
    """
    places = {
        "sentence": lambda one: list(one.sentence),
        "value": lambda one: list(one.value),
        "first": lambda one: [0],
    }
    total = dict.fromkeys(places, 0.0)
    for one in some:
        cache = read_up_to_last(model, one.item.prompt)
        with Probe(model, keep="weights") as seen:
            decode(model, last_token(one.item.prompt), cache, backend="reference")
        weights_LHT = torch.stack([kept[0][0, :, -1] for kept in seen.weights])
        for place, slots_of in places.items():
            total[place] = total[place] + weights_LHT[:, :, slots_of(one)].sum(-1)
    return {place: summed_LH / len(some) for place, summed_LH in total.items()}


def without_attention(model: Transformer, layer: int) -> ExitStack:
    """Let a layer's attention add nothing while the block runs."""
    return listen(model, after=lambda i, out_BSC: torch.zeros_like(out_BSC) if i == layer else None)


def retrieval(
    model: Transformer, tokenizer: Tokenizer, n_prompts: int = 100, seed: int = 1
) -> dict[str, Any]:
    """Find the layer whose heads look at the needle, and take each layer's attention away.

    The best layer is the one with the most of its attention, on average over its heads, on the
    needle's sentence.
    """
    some = needles(tokenizer, seed, n_prompts)
    mass = masses(model, some)
    by_layer_L = mass["sentence"].mean(-1)
    best = int(by_layer_L.argmax())
    items = [one.item for one in some]
    ablated = {}
    for layer in range(model.config.n_layers):
        with without_attention(model, layer):
            ablated[str(layer)] = scored(model, items)
    return {
        "prompts": n_prompts,
        "tokens": N_TOKENS,
        "relations": N_RELATIONS,
        "best_layer": best,
        "mass_on_sentence": round(float(by_layer_L[best]), 4),
        "mass_on_value": round(float(mass["value"].mean(-1)[best]), 4),
        "sentence_by_layer_and_head": _rounded(mass["sentence"]),
        "value_by_layer_and_head": _rounded(mass["value"]),
        "first_token_by_layer_and_head": _rounded(mass["first"]),
        "recall": scored(model, items),
        "recall_without_layer": ablated,
    }


# ------------------------------------------------------------------------- sinks, outlier channels
@torch.inference_mode()
def sinks(
    model: Transformer, tokenizer: Tokenizer, n_prompts: int = 100, seed: int = 1
) -> dict[str, Any]:
    """Measure how much attention the first token gets, and what its eviction costs.

    `of_all_queries` averages over heads and over the queries of the second half of 20 prompts;
    an even spread would give the first token `even`. Beside the first token, one drawn from the
    filler is evicted. KL is that of the first token of the value, whole cache against evicted.
    """
    some = needles(tokenizer, seed, n_prompts)
    rng = random.Random(seed)
    first, filler = [], []
    for one in some:
        told = set(one.sentence)
        other = rng.choice([t for t in range(2, len(one.item.prompt) - 24) if t not in told])
        cache = read_up_to_last(model, one.item.prompt)
        expected_BV = decode(model, last_token(one.item.prompt), cache.fork())
        for cost, slot in ((first, 0), (filler, other)):
            cost.append(_cost(model, one, cache, slot, expected_BV))
    shares = [_on_first(model, one.item.prompt) for one in some[:20]]
    mean_L = torch.stack([share_L for share_L, _ in shares]).mean(0)
    return {
        "prompts": n_prompts,
        "tokens": N_TOKENS,
        "of_all_queries": _rounded(mean_L),
        "even": round(sum(even for _, even in shares) / len(shares), 4),
        "first_token_evicted": _summed(first),
        "filler_token_evicted": _summed(filler),
    }


def _cost(
    model: Transformer, one: Needle, cache: KVCache, slot: int, expected_BV: Tensor
) -> tuple[float, bool]:
    """KL and whether the answer is still right, with one slot gone from every layer."""
    evicted = cache.fork()
    keep_BGT = torch.ones(1, model.config.n_kv_heads, cache.length, dtype=torch.bool)
    keep_BGT[..., slot] = False
    for layer in range(model.config.n_layers):
        evicted.keep(layer, keep_BGT)
    found_BV = decode(model, last_token(one.item.prompt), evicted)
    log_p_BV, log_q_BV = expected_BV.log_softmax(-1), found_BV.log_softmax(-1)
    kl = (log_p_BV.exp() * (log_p_BV - log_q_BV)).sum()
    return float(kl), int(found_BV.argmax(-1)) == one.item.answer[0]


def _summed(costs: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    return {
        "kl": round(sum(kl for kl, _ in costs) / len(costs), 5),
        "right": sum(ok for _, ok in costs),
        "of": len(costs),
    }


def _on_first(model: Transformer, prompt: Sequence[int]) -> tuple[Tensor, float]:
    """Attention on the first token in each layer, and what an even spread would give it."""
    with Probe(model, keep="weights") as seen:
        model(torch.tensor([prompt]), backend="reference")
    later = range(len(prompt) // 2, len(prompt))
    share_L = torch.stack([kept[0][0, :, later.start :, 0].mean() for kept in seen.weights])
    return share_L, sum(1 / (q + 1) for q in later) / len(later)


@torch.inference_mode()
def outliers(
    model: Transformer, tokenizer: Tokenizer, n_prompts: int = 20, seed: int = 1
) -> dict[str, Any]:
    """Compare the channels of cached keys and values of each layer, over all its heads.

    `rms_ratio` is the largest root mean square of a channel over the median one's; `kurtosis` is
    that of all numbers together, 3 for a normal distribution; `first_token` is the norm of the
    first token's vector over the median token's.
    """
    caches = [
        read_up_to_last(model, one.item.prompt) for one in needles(tokenizer, seed, n_prompts)
    ]
    found = {}
    for which in ("keys", "values"):
        rows = []
        for layer in range(model.config.n_layers):
            read = [cache.read(layer) for cache in caches]
            x_NC = torch.cat([_flat(kv.k_BGTD if which == "keys" else kv.v_BGTD) for kv in read])
            norm_N = x_NC.norm(dim=-1)
            starts = torch.tensor([0, *(cache.length for cache in caches[:-1])]).cumsum(0)
            rms_C = x_NC.square().mean(0).sqrt()
            away_NC = x_NC - x_NC.mean()
            rows.append(
                {
                    "rms_ratio": round(float(rms_C.max() / rms_C.median()), 2),
                    "kurtosis": round(
                        float(away_NC.pow(4).mean() / away_NC.square().mean().square()), 2
                    ),
                    "first_token": round(float(norm_N[starts].mean() / norm_N.median()), 2),
                }
            )
        found[which] = rows
    return {"prompts": n_prompts, "tokens": N_TOKENS, **found}


def _flat(x_BGTD: Tensor) -> Tensor:
    """All heads' channels of each token side by side. Shapes: one row -> (T, G x D)."""
    return x_BGTD[0].transpose(0, 1).flatten(1)


def _rounded(x: Tensor) -> list:
    """A tensor as lists of numbers of four digits."""
    return [
        [round(v, 4) for v in row] if isinstance(row, list) else round(row, 4) for row in x.tolist()
    ]
