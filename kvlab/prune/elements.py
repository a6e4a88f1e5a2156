"""Which elements and channels stay: selections along a token, a channel or a head, and the policy
that zeroes the others.

B rows, G key/value heads, T slots, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.pack.rows import n_kept
from kvlab.prune.evidence import Evidence, Needs, Score, needs_of
from kvlab.prune.masks import Masks, check_axes, check_counts, check_score, places, scored
from kvlab.prune.policy import Policy


def per_token(score_BGTD: Tensor, place_BGT: Tensor, ripe_B: Tensor, sparsity: float) -> Tensor:
    """The best n of each token's D elements. Shapes: -> keep_BGTD; place -1 stays dense."""
    check_axes(score_BGTD, 4, "per_token")
    place = places(score_BGTD.argsort(dim=-1, descending=True, stable=True))
    return (place < n_kept(sparsity, score_BGTD.shape[-1])) | (place_BGT < 0)[..., None]


def per_channel(
    score_BGTD: Tensor,
    place_BGT: Tensor,
    ripe_B: Tensor,
    sparsity: float,
    *,
    group: int = 32,
) -> Tensor:
    """In each channel the best n of each group of consecutive tokens. Shapes: -> keep_BGTD.

    Groups count from the first token that is not protected. One that is not complete yet stays
    dense until it is, so the length of a text need not divide.
    """
    check_axes(score_BGTD, 4, "per_channel")
    if type(group) is not int or group < 1:
        raise ValueError(f"Groups of {group!r} tokens were asked for; expected at least 1.")
    n_slots = place_BGT.shape[-1]
    number = place_BGT.div(group, rounding_mode="floor")
    dense_BGT = (place_BGT < 0) | ((number + 1) * group > ripe_B[:, None, None])
    # what stays dense goes to a group of its own, behind all others
    number = _dense_ranks(number, dense_BGT, n_slots)
    count = torch.zeros(*number.shape[:2], n_slots + 1, dtype=torch.int64, device=number.device)
    count.scatter_add_(-1, number, torch.ones_like(number))
    begin = (count.cumsum(-1) - count).gather(-1, number)
    most = torch.tensor([n_kept(sparsity, n) for n in range(group + 1)], device=number.device)
    most_BGT = most[count.gather(-1, number).clamp(max=group)]
    score_BGDT = score_BGTD.transpose(-1, -2)
    order = score_BGDT.argsort(dim=-1, descending=True, stable=True)
    number_BGDT = number[:, :, None].expand_as(score_BGDT)
    order = order.gather(-1, number_BGDT.gather(-1, order).argsort(dim=-1, stable=True))
    place_BGDT = places(order) - begin[:, :, None]
    return ((place_BGDT < most_BGT[:, :, None]) | dense_BGT[:, :, None]).transpose(-1, -2)


def _dense_ranks(number_BGT: Tensor, dense_BGT: Tensor, last: int) -> Tensor:
    """Group numbers without gaps, so that they are fewer than slots even after evictions."""
    number = number_BGT.masked_fill(dense_BGT, torch.iinfo(torch.int64).max)
    ordered, order = number.sort(dim=-1, stable=True)
    new = torch.zeros_like(ordered)
    new[..., 1:] = (ordered[..., 1:] != ordered[..., :-1]).long()
    ranked = new.cumsum(-1).gather(-1, places(order))
    return ranked.masked_fill(dense_BGT, last)


def whole_channels(score_BGD: Tensor, place_BGT: Tensor, ripe_B: Tensor, sparsity: float) -> Tensor:
    """The best n channels of each head, the same for all its tokens. Shapes: -> keep_BGTD."""
    check_axes(score_BGD, 3, "whole_channels")
    place = places(score_BGD.argsort(dim=-1, descending=True, stable=True))
    keep_BG1D = (place < n_kept(sparsity, score_BGD.shape[-1]))[:, :, None]
    return keep_BG1D | (place_BGT < 0)[..., None]


@dataclass(frozen=True)
class Elements:
    """How keys, or values, lose elements: by which score, how many, and along what.

    `select` is `per_token`, `per_channel` (another group: `partial(per_channel, group=64)`), both
    with a score (B, G, T, D), or `whole_channels` with a score (B, G, D).
    """

    score: Score
    sparsity: float
    select: Callable[[Tensor, Tensor, Tensor, float], Tensor] = per_token

    def __post_init__(self) -> None:
        check_score(self.score)
        if type(self.sparsity) not in (int, float) or not 0 <= self.sparsity < 1:
            raise ValueError(
                f"sparsity is {self.sparsity!r}; expected a number from 0 up to, but not, 1."
            )


@dataclass(frozen=True)
class Sparsify(Policy):
    """Zero elements of the keys and of the values, in place.

    The first `sink` and the latest `recent` tokens stay dense. What left the window is pruned at
    the next application and then stays as it is: whoever was pruned to n numbers per row has those
    n as its best again. Zeros save nothing: `live_bytes` stays, and a zeroed key still has logit 0.
    `every` is as in `Evict`. Choose whole channels once (every=0).
    """

    k: Elements | None = None
    v: Elements | None = None
    sink: int = 0
    recent: int = 32
    every: int = 0

    def __post_init__(self) -> None:
        if self.k is None and self.v is None:
            raise ValueError("Nothing is to be pruned; give k=Elements(...), v=Elements(...).")
        for rule in (self.k, self.v):
            if rule is not None and not isinstance(rule, Elements):
                raise ValueError(f"{rule!r} came; expected Elements(score, sparsity) or None.")
        check_counts(self)

    @property
    def needs(self) -> Needs:
        return _joined([needs_of(rule.score) for rule in (self.k, self.v) if rule is not None])

    def check(self, seen_B: tuple[int, ...]) -> None:
        """Nothing depends on lengths here: a row shorter than the window stays dense."""

    def masks(self, e: Evidence) -> Masks:
        """Decide for one layer, without touching anything."""
        ripe_BGT = (e.pos_BGT >= self.sink) & (e.age_BGT >= self.recent)
        place_BGT = (e.pos_BGT - self.sink).where(ripe_BGT, -1)
        ripe_B = (e.seen_B11[:, 0, 0] - self.recent - self.sink).clamp(min=0)
        found, broken = [], torch.zeros((), dtype=torch.bool, device=e.pos_BGT.device)
        for rule in (self.k, self.v):
            if rule is None or rule.sparsity == 0:
                found.append(None)
                continue
            shape = e.k_BGTD.shape
            score = scored(rule.score, e, (shape, (*shape[:2], shape[3])))
            found.append(rule.select(score, place_BGT, ripe_B, rule.sparsity))
            there = e.valid_BGT[..., None] if score.dim() == 4 else True
            broken = broken | (score.isnan() & there).any()
        return Masks(None, *found, broken)


def _joined(wanted: list[Needs]) -> Needs:
    masses = {need.mass for need in wanted if need.mass is not None}
    if len(masses) > 1:
        raise ValueError("The scores of keys and of values need different masses; use Then(...).")
    return Needs(
        max((need.queries for need in wanted), default=0),
        next(iter(masses), None),
        any(need.rope for need in wanted),
        any(need.output for need in wanted),
    )
