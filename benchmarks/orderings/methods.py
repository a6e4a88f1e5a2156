"""Ways to thin a cache, each with the share of the dense bytes that it would take when packed.

D width of a head. All methods leave the latest `RECENT` tokens dense unless their name says more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kvlab import policies, quality
from kvlab.pack import CodesPerChannel, CodesPerToken, PerToken, rows
from kvlab.prune import (
    Elements,
    Evict,
    Pruner,
    Sparsify,
    Then,
    all_heads,
    per_channel,
    per_token,
    whole_channels,
)

RECENT, GROUP, HALF = 32, 32, torch.float16
POCKET_WIDTH, SPARSITIES = 32, (0.5, 0.7, 0.8, 0.9)
# What the methods together look at: one reading serves them all.
COLLECT = Then(
    Evict(policies.h2o, 1.0),
    Evict(policies.expected_attention, 1.0),
    Evict(policies.tova, 1.0),
)


@dataclass(frozen=True)
class Method:
    """A way to thin a cache, how sparse it makes all but the window, and its bytes in float16.

    `bytes` is the share of a dense cache's bytes that the thinned part would take when it is packed
    (`kvlab.pack.rows`), metadata included; all but `dense` tokens are thinned.
    """

    name: str
    sparsity: float
    thin: Callable[[Pruner, float], Pruner]
    bytes: float
    dense: int = RECENT


@dataclass(frozen=True)
class Plan:
    """For which width of heads methods are made, and at which sparsities of elements and of tokens.

    `more` adds what only a model with sinks and outlier channels can tell apart.
    """

    width: int = POCKET_WIDTH
    elements: Sequence[float] = SPARSITIES
    windows: Sequence[float] = (0.7, 0.9)
    tokens: Sequence[float] = SPARSITIES
    more: bool = False


WEB = {"elements": (0.5, 0.7), "windows": (0.7,), "tokens": (0.5, 0.7, 0.9), "more": True}


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


def in_rows(sparsity: float, width: int) -> float:
    """Bytes of packed rows against dense float16."""
    kept = rows.n_kept(sparsity, width)
    return rows.row_bytes(width, kept, HALF) / (width * HALF.itemsize)


def of_random(what: str) -> Callable[[Any], Tensor]:
    """A score without sense."""

    def random_elements(e) -> Tensor:
        x = getattr(e, what)
        return torch.rand(x.shape, generator=torch.Generator().manual_seed(e.layer))

    return random_elements


def _named(side: str, rule: str) -> str:
    return f"{side} random" if rule == "random" else f"{side} per {rule}"


def element_methods(plan: Plan) -> Iterator[Method]:
    """Directions, scores and halves of the cache, at each sparsity."""
    channel = partial(per_channel, group=GROUP)
    for s in plan.elements:
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

        def share(name: str, s=s) -> float:
            if name == "whole channels":
                return rows.n_kept(s, plan.width) / plan.width
            return in_rows(s, GROUP if name.startswith("channel") else plan.width)

        for name, rule in k.items():
            yield Method(_named("K", name), s, elements(rule, None), (1 + share(name)) / 2)
        for name, rule in v.items():
            yield Method(_named("V", name), s, elements(None, rule), (1 + share(name)) / 2)
        for name in ("token", "channel", "whole channels", "random"):
            yield Method(_named("KV", name), s, elements(k[name], v[name]), share(name))


def window_methods(plan: Plan) -> Iterator[Method]:
    """KV per token with windows of several lengths, and with sinks kept dense."""
    for s in plan.windows:
        k = Elements(policies.k_magnitude, s, per_token)
        v = Elements(policies.v_magnitude, s, per_token)
        share = in_rows(s, plan.width)
        for recent in (0, 8, 16, 64, *(128,) * plan.more):
            yield Method(f"KV per token, window {recent}", s, elements(k, v, recent=recent),
                         share, recent)  # fmt: skip
        yield Method("KV per token, 4 sinks", s, elements(k, v, sink=4), share, RECENT + 4)


def _evictions(sink: int) -> dict[str, Callable[[float], Evict]]:
    return {
        "random": lambda b: Evict(policies.random, b, sink=sink),
        "recency": lambda b: Evict(policies.recency, b, sink=0),
        "streaming": lambda b: Evict(policies.streaming, b, sink=4),
        "h2o": lambda b: Evict(policies.h2o, b, sink=sink),
        "tova": lambda b: Evict(policies.tova, b, sink=sink, select=all_heads),
        "snapkv": lambda b: Evict(policies.snapkv, b, sink=sink),
        "pyramidkv": lambda b: policies.pyramidkv(b, sink=sink),
        "adakv": lambda b: policies.adakv(b, sink=sink),
        "knorm": lambda b: Evict(policies.knorm, b, sink=sink),
        "keydiff": lambda b: Evict(policies.keydiff, b, sink=sink),
        "expected attention": lambda b: Evict(policies.expected_attention, b, sink=sink),
        "vatp": lambda b: Evict(policies.vatp, b, sink=sink),
    }


def eviction_methods(plan: Plan) -> Iterator[Method]:
    """Whole tokens; `streaming` protects sinks, and so does whatever says so."""
    for s in plan.tokens:
        for name, make in _evictions(0).items():
            yield Method(f"evict: {name}", s, eviction(make, s), 1 - s)
        if plan.more:
            protected = _evictions(4)
            for name in ("random", "h2o", "tova", "snapkv", "knorm", "keydiff",
                         "expected attention"):  # fmt: skip
                yield Method(f"evict: {name}, 4 sinks", s, eviction(protected[name], s), 1 - s)


def quantised_methods(plan: Plan) -> Iterator[Method]:
    """Keys per channel over groups of tokens, values per token; pruning of the same bytes beside.

    Source: Liu et al. 2024, "KIVI", section 3.
    """
    dense = plan.width * HALF.itemsize
    for bits, sparsity in ((8, 0.5), (4, 0.75), (2, 0.875)):
        share = rows.code_bytes(GROUP, bits, HALF) / (GROUP * HALF.itemsize)
        values = CodesPerToken(bits, GROUP)
        kivi = quality.Stored(CodesPerChannel(bits, GROUP), values, sink=0, recent=RECENT)
        yield Method(f"KV in {bits} bits", sparsity, by_policy(lambda _, kivi=kivi: kivi), share)
        if sparsity not in plan.elements:
            k = Elements(policies.k_magnitude, sparsity, per_token)
            v = Elements(policies.v_magnitude, sparsity, per_token)
            yield Method("KV per token", sparsity, elements(k, v), in_rows(sparsity, plan.width))
        if plan.more:
            flat = quality.Stored(values, values, sink=0, recent=RECENT)
            yield Method(f"KV in {bits} bits, keys per token", sparsity,
                         by_policy(lambda _, flat=flat: flat), share)  # fmt: skip
    if plan.more:
        kept = plan.width // 2
        both = quality.Stored(PerToken(kept, bits=4), PerToken(kept, bits=4), sink=0, recent=RECENT)
        yield Method("KV per token, half of the numbers, in 4 bits", 0.5, by_policy(lambda _: both),
                     PerToken(kept, bits=4).unit_bytes(plan.width, HALF) / dense)  # fmt: skip
        yield Method("evict: half by snapkv, 4 sinks, the rest in 4 bits", 0.5,
                     by_policy(_snapkv_in_4_bits), 0.5 * share_of_4_bits())  # fmt: skip


def share_of_4_bits() -> float:
    """Bytes of codes of 4 bits, with scale and zero of each group, against dense float16."""
    return rows.code_bytes(GROUP, 4, HALF) / (GROUP * HALF.itemsize)


def _snapkv_in_4_bits(n_tokens: float) -> quality.Stored:
    keep = Evict(policies.snapkv, (RECENT + 0.5 * (n_tokens - RECENT)) / n_tokens, sink=4)
    codes = CodesPerChannel(4, GROUP), CodesPerToken(4, GROUP)
    return quality.Stored(*codes, keep, sink=0, recent=RECENT)


def methods(tiny: bool, plan: Plan | None = None, named: Sequence[str] = ()) -> list[Method]:
    """All of them, those whose names are given, or a few to try the code."""
    plan = plan or Plan()
    found = [
        *element_methods(plan),
        *window_methods(plan),
        *eviction_methods(plan),
        *quantised_methods(plan),
    ]
    if named:
        found = [m for m in found if m.name in named]
    return [m for m in found if m.sparsity >= 0.875] if tiny else found
