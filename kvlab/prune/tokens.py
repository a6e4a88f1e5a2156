"""Which whole tokens stay: selections of an exact size, and the policy that evicts the others.

B rows, G key/value heads, T slots.

A selection turns scores into a mask. Protection is a part of the mask and never a large score, so
that no tie can evict a protected token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real

import torch
from torch import Tensor

from kvlab import checks
from kvlab.pack.body import Body
from kvlab.prune.evidence import Evidence, Needs, Score, check_window, needs_of
from kvlab.prune.masks import (
    Masks,
    check_counts,
    check_score,
    name_of,
    places,
    scored,
    unwrapped,
)
from kvlab.prune.policy import Policy

_three = checks.named(checks.tensor, "BGT")
_masked = checks.takes(score_BGT=_three, first_BGT=_three, valid_BGT=_three, n_B=Tensor)


@_masked
def ranks(score_BGT: Tensor, first_BGT: Tensor, valid_BGT: Tensor) -> Tensor:
    """Each slot's place when the best stays longest: 0, 1, ... along the last axis.

    Protected slots (`first_BGT`) come before all others and slots without a token after all others,
    whatever their scores; of equal ones the older comes first.
    """
    order = score_BGT.argsort(dim=-1, descending=True, stable=True)
    kind = (first_BGT & valid_BGT).byte() + valid_BGT.byte()
    order = order.gather(-1, kind.gather(-1, order).argsort(dim=-1, descending=True, stable=True))
    return places(order)


@_masked
def per_head(score_BGT: Tensor, first_BGT: Tensor, valid_BGT: Tensor, n_B: Tensor) -> Tensor:
    """The best n tokens of each head by itself. Shapes: -> keep_BGT."""
    return (ranks(score_BGT, first_BGT, valid_BGT) < n_B[:, None, None]) & valid_BGT


@_masked
def all_heads(score_BGT: Tensor, first_BGT: Tensor, valid_BGT: Tensor, n_B: Tensor) -> Tensor:
    """The same n tokens in all heads of a layer, best by the mean of the heads' scores.

    It needs heads that hold the same tokens in the same slots, so no other selection before it: a
    Pruner refuses that.
    """
    mean_BGT = score_BGT.mean(1, keepdim=True).expand_as(score_BGT)
    return per_head(mean_BGT, first_BGT, valid_BGT, n_B)


@_masked
def across_heads(
    score_BGT: Tensor, first_BGT: Tensor, valid_BGT: Tensor, n_B: Tensor, *, alpha: float = 0.2
) -> Tensor:
    """The best n x G tokens of a layer, whichever heads they are in, but of each head at least its
    best alpha x n.

    Source: Feng et al. 2024, "Ada-KV", algorithm 1 (`adakv` in scores).
    Differs: the paper shares alpha of the budget out equally after counting; here, as in kvpress,
    each head's best alpha x n are safe and the rest compete.
    """
    safe_B = (n_B * alpha + 1e-6).floor().to(n_B.dtype)
    safe_BGT = per_head(score_BGT, first_BGT, valid_BGT, safe_B) | first_BGT
    flat = (x.flatten(1)[:, None] for x in (score_BGT, safe_BGT, valid_BGT))
    return per_head(*flat, n_B * score_BGT.shape[1]).view_as(score_BGT)


def uniform(n: int, free: int, layer: int, n_layers: int) -> int:
    """Every layer keeps the same number."""
    return n


def as_budget(budget: object) -> int | float:
    """A budget in tokens as Python's int, a share as its float; 256.0 tokens are 256."""
    if isinstance(budget, Real) and not isinstance(budget, bool):
        if isinstance(budget, Integral) or (budget > 1 and float(budget).is_integer()):
            if budget >= 1:
                return int(budget)
        elif 0 < budget <= 1:
            return float(budget)
    raise ValueError(
        f"budget is {checks.shown(budget)}; expected tokens (a whole number of at least 1) or a "
        "share of the text (a float above 0, at most 1.0)."
    )


Select = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Layers = Callable[[int, int, int, int], int]


@dataclass(frozen=True)
class Evict(Policy):
    """Keep a budget of whole tokens in each head, those with the best scores; the others go.

    `budget` counts all tokens that a head keeps, protected ones too: whole tokens, or a share in
    (0, 1] of those seen so far, rounded down, in each row by its own length. The first `sink` and
    the latest `recent` tokens are protected and stay whatever the share, so a row that is no longer
    than these loses nothing. `select` is `per_head`, `all_heads` or `across_heads`;
    `layers` shares the unprotected budget out over layers (`uniform`, `scores.pyramid`). `every`
    is 0 (after the prompt only) or a number of decoded tokens between two evictions.
    Raises: ValueError for a budget in tokens under sink + recent.
    """

    score: Score
    budget: int | float
    sink: int = 4
    recent: int = 32
    select: Select = per_head
    every: int = 0
    layers: Layers = uniform

    def __post_init__(self) -> None:
        check_score(self.score)
        check_counts(self)
        checks.functions(select=self.select, layers=self.layers)
        object.__setattr__(self, "budget", as_budget(self.budget))
        protected = self.sink + self.recent
        if type(self.budget) is int and self.budget < protected:
            raise ValueError(
                f"A budget of {self.budget} tokens was asked for, fewer than {self.sink} sinks and "
                f"{self.recent} recent tokens. Give more budget or protect fewer."
            )

    @property
    def needs(self) -> Needs:
        return needs_of(self.score)

    @property
    def bodies(self) -> tuple[tuple[Body, ...], tuple[Body, ...]]:
        """What stays is whole: no rule holds it, of keys or of values."""
        return (), ()

    def tokens(self, seen: int) -> int:
        """How many tokens a row that has seen so many keeps, on a layer's average."""
        if type(self.budget) is int:
            return min(self.budget, seen)
        n = math.floor(self.budget * seen + 1e-9)
        return min(seen, max(n, 1, self.sink + self.recent))

    def check(self, seen_B: tuple[int, ...]) -> None:
        """Refuse a window that is too long for rows of these lengths."""
        for row, seen in enumerate(seen_B if self.needs.before else ()):
            which = row if len(seen_B) > 1 else None
            check_window(self.tokens(seen), seen, self.needs.queries, which)

    @property
    def same_in_all_heads(self) -> bool:
        """Whether all heads keep the same tokens, chosen by one score for all."""
        return unwrapped(self.select)[0] is all_heads

    def evicts(self, seen_B: tuple[int, ...]) -> bool:
        return any(self.tokens(seen) < seen for seen in seen_B)

    def masks(self, e: Evidence) -> Masks:
        """Decide for one layer, without touching anything."""
        n_B = [self.tokens(seen) for seen in e.seen_B]
        if all(n == seen for n, seen in zip(n_B, e.seen_B, strict=True)):
            return Masks()
        shared_B = [self._shared(n, seen, e) for n, seen in zip(n_B, e.seen_B, strict=True)]
        score_BGT = scored(self.score, replace(e, n_B=tuple(shared_B)), (e.pos_BGT.shape,))
        first_BGT = e.valid_BGT & ((e.pos_BGT < self.sink) | (e.age_BGT < self.recent))
        n_B = torch.tensor(shared_B, device=e.pos_BGT.device)
        keep_BGT = self.select(score_BGT, first_BGT, e.valid_BGT, n_B)
        return Masks(keep_BGT, broken=(score_BGT.isnan() & e.valid_BGT).any())

    def _shared(self, n: int, seen: int, e: Evidence) -> int:
        """What this layer keeps of a row's budget n."""
        protected = self.sink + self.recent
        if n == seen:
            return n
        wanted, free = n - protected, seen - protected
        got = self.layers(wanted, free, e.layer, e.n_layers)
        if type(got) is not int or not 0 <= got <= free:
            raise ValueError(
                f"{name_of(self.layers)} gave layer {e.layer} {got!r} of {wanted} tokens on "
                f"average; expected a whole number from 0 to {free}, which is what there is."
            )
        return protected + got
