"""Which elements and channels stay: a score and a rule for keys and for values, and the policy that
zeroes the others.

B rows, G key/value heads, T slots, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kvlab import checks
from kvlab.old._selections import as_rule
from kvlab.pack.body import Body
from kvlab.pack.rules import Channels, PerChannel, PerToken, Rule
from kvlab.prune.evidence import Evidence, Needs, Score, needs_of
from kvlab.prune.masks import Masks, check_counts, check_score, scored
from kvlab.prune.policy import Policy


def per_token(sparsity: float) -> Rule:
    """The best n of each token's D elements."""
    return PerToken(sparsity=sparsity)


def per_channel(sparsity: float, *, group: int = 32) -> Rule:
    """In each channel the best n of each group of tokens.

    Groups count the tokens that are there, from the first that is not protected. One that is not
    complete yet stays dense until it is, so the length of a text need not divide.
    """
    return PerChannel(group=group, sparsity=sparsity)


def whole_channels(sparsity: float) -> Rule:
    """The best n channels of each head, the same for all its tokens, by a score (B, G, D)."""
    return Channels(group=None, sparsity=sparsity)


@dataclass(frozen=True)
class Elements:
    """How keys, or values, lose elements: by which score, how many, and along what.

    `sparsity` is the share that goes, along `select`: `per_token`, `per_channel` (another group:
    `partial(per_channel, group=64)`), both with a score (B, G, T, D), or `whole_channels` with a
    score (B, G, D). Or it is a rule, which says both: `Elements(score, PerToken(19))`. A selection
    of your own is a function of the sparsity that gives a rule.
    """

    score: Score
    sparsity: float | Rule
    select: Callable[[float], Rule] = per_token

    def __post_init__(self) -> None:
        check_score(self.score)
        given = callable(getattr(self.sparsity, "mask", None))
        if not given and (type(self.sparsity) not in (int, float) or not 0 <= self.sparsity < 1):
            raise ValueError(
                f"sparsity is {checks.shown(self.sparsity)}; expected a number from 0 up to, but "
                "not, 1, or a rule like PerToken(19)."
            )
        if given and self.select is not per_token:
            raise ValueError(
                f"{self.sparsity!r} came with select={self.select!r}; a rule says already along "
                "what. Give one of them."
            )
        checks.functions(select=self.select)
        object.__setattr__(self, "select", as_rule(self.select))
        try:
            rule = self.rule
        except TypeError as error:
            raise ValueError(
                f"select is {checks.shown(self.select)}; expected a function of the sparsity that "
                f"gives a rule, like per_token ({error})."
            ) from error
        if rule is not None:
            _check_rule(rule)

    @property
    def rule(self) -> Rule | None:
        """Which elements stay; None where all do."""
        if callable(getattr(self.sparsity, "mask", None)):
            return self.sparsity
        return self.select(self.sparsity) if self.sparsity else None


def _check_rule(rule: object) -> None:
    unit = getattr(rule, "unit", None)
    if type(unit) is not int or unit < 1 or not callable(getattr(rule, "mask", None)):
        if type(unit) is int and unit < 1:
            raise ValueError(f"Groups of {unit} tokens were asked for; expected at least 1.")
        raise ValueError(
            f"{checks.shown(rule)} came as a rule; expected an object with `unit`, a number of "
            "tokens, and `mask(score)`, like PerToken(19)."
        )
    if getattr(rule, "bits", None):
        raise ValueError(
            f"{rule} holds numbers as codes, and Sparsify leaves those that stay as they are. "
            "Prune first, and then hold what is left by this rule: in a PackedKVCache, or with "
            "quality.Stored."
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
        for side in (self.k, self.v):
            if side is not None and not isinstance(side, Elements):
                raise ValueError(
                    f"{checks.shown(side)} came; expected Elements(score, sparsity) or None."
                )
        check_counts(self)

    @property
    def needs(self) -> Needs:
        return _joined([needs_of(side.score) for side in (self.k, self.v) if side is not None])

    @property
    def bodies(self) -> tuple[tuple[Body, ...], tuple[Body, ...]]:
        """By which rule which tokens are held, of keys and of values."""
        return self._bodies(self.k), self._bodies(self.v)

    def _bodies(self, side: Elements | None) -> tuple[Body, ...]:
        rule = None if side is None else side.rule
        return () if rule is None else (Body(rule, self.sink, self.recent, rule.unit),)

    def check(self, seen_B: tuple[int, ...]) -> None:
        """Nothing depends on lengths here: a row shorter than the window stays dense."""

    def masks(self, e: Evidence) -> Masks:
        """Decide for one layer, without touching anything."""
        found, broken = [], torch.zeros((), dtype=torch.bool, device=e.pos_BGT.device)
        shape = e.k_BGTD.shape
        for side, bodies in zip((self.k, self.v), self.bodies, strict=True):
            if not bodies:
                found.append(None)
                continue
            score = scored(side.score, e, (shape, (*shape[:2], shape[3])))
            (body,) = bodies
            found.append(body.mask(score, body.tokens_BGT(e.pos_BGT, e.seen_B)))
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
