"""A policy under a budget of bytes, tried on the pocket model and on SmolLM2 where it is installed.

L layers, G key/value heads, H query heads, T tokens, S fed tokens, D head width, V vocabulary.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kvlab import hub, load, quality
from kvlab.cache import KVCache
from kvlab.course.author import pocket_model
from kvlab.course.ch11 import _second
from kvlab.measure.engaging import stored_bytes
from kvlab.measure.probe import Probe
from kvlab.pack import CodesPerChannel, CodesPerToken

BUDGET, RECENT, GROUP = 0.4, 8, 16
N_TEXTS, N_TOKENS = 2, 200
Layers = Sequence[tuple[Tensor, int]]  # of each layer which tokens stay, and in how many bits
Policy = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, int]]


@dataclass(frozen=True)
class Read:
    """A cache that has read a text and a first question, the queries of all layers, and what
    comes then: ids to feed, of which the last is never fed, and what the whole cache says."""

    cache: KVCache
    q_LHTD: Tensor
    rest: list[int]
    dense_logp_SV: Tensor


def installed() -> bool:
    return (hub.NAMED["smollm2"] / "config.json").exists()


# ------------------------------------------------------------------------------------ what is kept
def chosen(policy: Policy, kv_cache: KVCache, q_LHTD: Tensor) -> Layers:
    """What a policy says of each layer of a cache that was read."""
    found = []
    for layer in range(kv_cache.n_layers):
        kv = kv_cache.read(layer)
        found.append(policy(kv.k_BGTD[0].clone(), kv.v_BGTD[0].clone(), q_LHTD[layer].clone()))
    return found


def codes(bits: int) -> dict[str, object]:
    """Rules for keys and values as KIVI has them."""
    return {"k": CodesPerChannel(bits, GROUP), "v": CodesPerToken(bits, GROUP)}


def thinned(kv_cache: KVCache, layers: Layers) -> KVCache:
    """A copy without the tokens that go, whose numbers went through their codes and back."""
    left = kv_cache.fork()
    for layer, (keep_GT, _) in enumerate(layers):
        left.keep(layer, keep_GT[None])
    bits = layers[0][1]
    if bits < 16:
        quality.Stored(**codes(bits), sink=0, recent=RECENT).hold(left)
    return left


def share_of_bytes(kv_cache: KVCache, left: KVCache, bits: int) -> float:
    """The memory of what is left, in float16 and in codes, over that of all tokens in float16.

    The tensors are made, and their storage is counted.
    """
    held = [stored_bytes(_as_stored(one, bits)) for one in _layers(left)]
    return sum(held) / sum(stored_bytes(_as_stored(one, 16)) for one in _layers(kv_cache))


def _layers(kv_cache: KVCache) -> list[tuple[Tensor, Tensor]]:
    kvs = [kv_cache.read(layer) for layer in range(kv_cache.n_layers)]
    return [(kv.k_BGTD, kv.v_BGTD) for kv in kvs]


def _as_stored(one: tuple[Tensor, Tensor], bits: int) -> list[object]:
    """Keys and values of a layer: whole groups as codes, the latest tokens as they are."""
    n_tokens = one[0].shape[2]
    n_coded = max(0, n_tokens - RECENT) // GROUP * GROUP if bits < 16 else 0
    rules = codes(bits).values() if n_coded else (None, None)
    stored: list[object] = []
    for x_BGTD, rule in zip(one, rules, strict=True):
        half_BGTD = x_BGTD.half()
        stored.append(half_BGTD[:, :, n_coded:].clone())
        if rule is not None:
            stored.append(rule.encode(half_BGTD[:, :, :n_coded]))
    return stored


# ------------------------------------------------------------------------------- the pocket model
@torch.inference_mode()
def on_pocket(policy: Policy, seed: int, n: int) -> tuple[float, int, int]:
    """The largest share of bytes, and how many second and first questions are answered."""
    model, _ = pocket_model()
    most, right = 0.0, [0, 0]
    for one in _second.draw(seed, n):
        layers = chosen(policy, one.cache, one.q_LHTD)
        left = thinned(one.cache, layers)
        most = max(most, share_of_bytes(one.cache, left, layers[0][1]))
        for i, (rest, token) in enumerate(one.rests):
            n_tokens = one.q_LHTD.shape[2]
            pos_BS = torch.arange(n_tokens, n_tokens + len(rest))[None]
            logits_BSV = model(torch.tensor([rest]), pos_BS, _with_room(left, len(rest)))
            right[i] += int(logits_BSV[0, -1].argmax()) == token
    return most, right[0], right[1]


def _with_room(left: KVCache, n: int) -> KVCache:
    room = left.fork()
    assert room.capacity >= max(room.used_L) + n
    return room


# ---------------------------------------------------------------------------------------- SmolLM2
_ONE_AT_A_TIME = threading.Lock()


def real_pool() -> list[Read]:
    """Texts that SmolLM2 has read; nothing hooks into the model after that."""
    with _ONE_AT_A_TIME:
        return _real_pool()


@cache
def _real_pool() -> list[Read]:
    model, tokenizer = _real_model()
    made = quality.plain_questions(tokenizer, random.Random(13), N_TEXTS, N_TOKENS)
    return [_read(model, tokenizer, one) for one in made]


@cache
def _real_model():
    return load("smollm2")


@torch.inference_mode()
def _read(model, tokenizer, one: quality.Question) -> Read:
    """One password is asked and told; then comes a question about another one."""
    told = dict(re.findall(r"The password of (\w+) is (\w+)\.", one.text))
    first = re.search(r"password of (\w+)\?", one.question)[1]
    second = next(name for name in told if name != first)
    ids = tokenizer.encode(one.text + one.question + one.stem + one.value + ".", special=False)
    rest = f"\nQuestion: What is the password of {second}?\nAnswer: The password of {second} is"
    rest_ids = tokenizer.encode(f"{rest} {told[second]}", special=False)
    ids = [0, *ids]
    kv_cache = model.new_cache(1, len(ids) + len(rest_ids))
    with Probe(model, keep="queries") as seen:
        model.hidden(torch.tensor([ids]), None, kv_cache)
    q_LHTD = torch.stack([calls[0][0] for calls in seen.queries]).clone()
    return Read(kv_cache, q_LHTD, rest_ids, _says(model, kv_cache.fork(), rest_ids, len(ids)))


@torch.inference_mode()
def _says(model, kv_cache: KVCache, rest: list[int], n_tokens: int) -> Tensor:
    pos_BS = torch.arange(n_tokens, n_tokens + len(rest) - 1)[None]
    return model(torch.tensor([rest[:-1]]), pos_BS, kv_cache)[0].log_softmax(-1)


def on_smollm2(policy: Policy, seed: int) -> tuple[float, float]:
    """The share of bytes, and the divergence from the whole cache in nats, on one of the texts."""
    one = real_pool()[seed % N_TEXTS]
    layers = chosen(policy, one.cache, one.q_LHTD)
    left = thinned(one.cache, layers)
    share = share_of_bytes(one.cache, left, layers[0][1])
    logp_SV = _says(_real_model()[0], left, one.rest, one.q_LHTD.shape[2])
    kl_S = (one.dense_logp_SV.exp() * (one.dense_logp_SV - logp_SV)).sum(-1)
    return share, float(kl_S.mean())
