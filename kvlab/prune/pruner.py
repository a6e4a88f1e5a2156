"""Thinning a cache: what a score may look at, which tokens or elements stay, and doing it.

B rows, H query heads, G key/value heads, R = H / G, W observed queries, T slots, D head width.

Three words. A score says what each token (or element, or channel) is worth, higher is better; it is
a function of `Evidence`. A selection turns scores into a mask of an exact size. A policy joins the
two with a budget, and says what is protected and when it is applied: `Evict` drops whole tokens,
`Sparsify` zeroes elements or channels. Protection is a part of the mask and never a large score, so
that no tie can evict a protected token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from kvlab import ops
from kvlab.cache import KVCache
from kvlab.pack.rows import n_kept

# Numbers of one block of attention weights, when those of a whole prompt are summed.
BLOCK = 1 << 24


@dataclass(frozen=True)
class Evidence:
    """All that a score may look at: one layer of the cache, and what its score declared to need.

    Padding and empty slots have position -1. `seen_B` counts each row's tokens so far, evicted ones
    too. `q_BHWD` are the latest queries, as attention uses them (turned by rope), and `q_pos_BW`
    their positions, -1 where a row has seen fewer. `mass_BGT` is what the score's mass function
    gave each token, summed over all queries and the heads of a group. `turns` is how far rope turns
    each pair of channels per position, (D/2,); `o_CI` the output projection's weight. `step` is 0
    after the prompt and counts decoded tokens after that. `n_B` is how many tokens each head may
    keep, where whole tokens are chosen.
    """

    layer: int
    n_layers: int
    k_BGTD: Tensor
    v_BGTD: Tensor
    pos_BGT: Tensor
    seen_B: tuple[int, ...]
    q_BHWD: Tensor | None = None
    q_pos_BW: Tensor | None = None
    mass_BGT: Tensor | None = None
    turns: Tensor | None = None
    o_CI: Tensor | None = None
    step: int = 0
    n_B: tuple[int, ...] | None = None

    @property
    def valid_BGT(self) -> Tensor:
        """Which slots hold a token."""
        return self.pos_BGT >= 0

    @property
    def age_BGT(self) -> Tensor:
        """How many tokens came after each one; of slots without a token, more than of any."""
        return self.seen_B11 - 1 - self.pos_BGT

    @property
    def seen_B11(self) -> Tensor:
        return torch.tensor(self.seen_B, device=self.pos_BGT.device)[:, None, None]

    @property
    def q_BGRWD(self) -> Tensor:
        """The queries beside the keys that they share.

        Raises: ValueError when there are none, or when the groups do not divide.
        """
        if self.q_BHWD is None:
            raise ValueError(
                "This score looks at queries that were not collected; declare how many it needs: "
                "@needs(queries=32)."
            )
        n_heads, n_groups = self.q_BHWD.shape[1], self.k_BGTD.shape[1]
        if n_heads % n_groups:
            raise ValueError(
                f"{n_heads} query heads came with {n_groups} key/value heads; the first must be a "
                "multiple of the second."
            )
        return self.q_BHWD.unflatten(1, (n_groups, -1))

    def logits_BGRWT(self) -> Tensor:
        """Scaled products of queries and keys in float32 or wider, -inf where not allowed."""
        k_BG1DT = ops.wide(self.k_BGTD)[:, :, None].transpose(-1, -2)
        logits = ops.wide(self.q_BGRWD) @ k_BG1DT * self.k_BGTD.shape[-1] ** -0.5
        allowed_BGWT = (self.pos_BGT[:, :, None] >= 0) & (
            self.pos_BGT[:, :, None] <= self.q_pos_BW[:, None, :, None]
        )
        return logits.masked_fill(~allowed_BGWT[:, :, None], float("-inf"))

    def weights_BGRWT(self) -> Tensor:
        """Causal attention weights of the observed queries; 0 for a query that is not there."""
        return self.softmax(self.logits_BGRWT())

    def softmax(self, logits_BGRWT: Tensor) -> Tensor:
        """Softmax over slots; all 0 where nothing may be seen."""
        nothing = logits_BGRWT.isneginf().all(-1, keepdim=True)
        return logits_BGRWT.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)

    def over_queries(self, x_BGRWT: Tensor) -> Tensor:
        """Mean over the queries that are there. Shapes: -> (B, G, R, T)."""
        n_B = (self.q_pos_BW >= 0).sum(-1).clamp(min=1)
        return x_BGRWT.sum(3) / n_B[:, None, None, None]

    def over_group(self, x_BGR: Tensor, how: str = "mean") -> Tensor:
        """Sum, mean or max over the R heads that share keys. Shapes: (B, G, R, ...) -> (B, G, ...).

        Heads that share one key/value head share its fate, so their opinions become one here.
        """
        reduce = {"sum": Tensor.sum, "mean": Tensor.mean, "max": Tensor.amax}
        if how not in reduce:
            raise ValueError(f"over_group was asked for {how!r}; it knows {', '.join(reduce)}.")
        return reduce[how](x_BGR, 2)


Score = Callable[[Evidence], Tensor]


def attention(e: Evidence) -> Tensor:
    """The mass function of plain attention: the weights themselves."""
    return e.weights_BGRWT()


@dataclass(frozen=True)
class Needs:
    """What is collected for a score: see `needs`."""

    queries: int = 0
    mass: Score | None = None
    rope: bool = False
    output: bool = False
    before: bool = False


def needs(
    *,
    queries: int = 0,
    mass: Score | None = None,
    rope: bool = False,
    output: bool = False,
    before: bool = False,
) -> Callable[[Score], Score]:
    """Declare what a score looks at beside keys, values and positions.

    `queries`: the latest so many. A shorter prompt has fewer, and the score gets those. `mass`: a
    function of `Evidence` that gives each block of queries its weights (B, G, R, W, T); their sum
    over all queries is kept up while text is read, so the cache must be watched from its first
    token. `rope` and `output`: `turns` and `o_CI`. `before`: it judges only tokens before its
    queries, so a row that must lose some has to be longer than these.
    It also changes a score's window: `needs(queries=64)(partial(snapkv))`.
    """
    if type(queries) is not int or queries < 0:
        raise ValueError(f"A score asks for {queries!r} queries; expected 0 or more.")

    def declare(score: Score) -> Score:
        score.needs = Needs(queries, mass, rope, output, before or needs_of(score).before)
        return score

    return declare


def needs_of(score: Score) -> Needs:
    """What a score declared; a `partial` needs what its function needs."""
    while not hasattr(score, "needs") and isinstance(score, partial):
        score = score.func
    return getattr(score, "needs", Needs())


def check_window(kept: int, seen: int, window: int) -> None:
    """Refuse to judge a row's tokens by as many queries as it has."""
    if kept < seen <= window:
        raise ValueError(
            f"A row of {seen} tokens is to keep {kept}, but the {window} queries that judge those "
            "before them are all it has. Use a shorter window: needs(queries=...)(partial(score))."
        )


# --- which tokens stay --------------------------------------------------------------------------


def ranks(score_BGT: Tensor, first_BGT: Tensor, valid_BGT: Tensor) -> Tensor:
    """Each slot's place when the best stays longest: 0, 1, ... along the last axis.

    Protected slots (`first_BGT`) come before all others and slots without a token after all others,
    whatever their scores; of equal ones the older comes first.
    """
    order = score_BGT.argsort(dim=-1, descending=True, stable=True)
    kind = (first_BGT & valid_BGT).byte() + valid_BGT.byte()
    order = order.gather(-1, kind.gather(-1, order).argsort(dim=-1, descending=True, stable=True))
    return _places(order)


def _places(order: Tensor) -> Tensor:
    """The inverse of an order along the last axis."""
    place = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place)


def per_head(score_BGT: Tensor, first_BGT: Tensor, valid_BGT: Tensor, n_B: Tensor) -> Tensor:
    """The best n tokens of each head by itself. Shapes: -> keep_BGT."""
    return (ranks(score_BGT, first_BGT, valid_BGT) < n_B[:, None, None]) & valid_BGT


def all_heads(score_BGT: Tensor, first_BGT: Tensor, valid_BGT: Tensor, n_B: Tensor) -> Tensor:
    """The same n tokens in all heads of a layer, best by the mean of the heads' scores.

    It needs heads that hold the same tokens in the same slots, so no other selection before it: a
    Pruner refuses that.
    """
    mean_BGT = score_BGT.mean(1, keepdim=True).expand_as(score_BGT)
    return per_head(mean_BGT, first_BGT, valid_BGT, n_B)


def across_heads(
    score_BGT: Tensor, first_BGT: Tensor, valid_BGT: Tensor, n_B: Tensor, *, alpha: float = 0.2
) -> Tensor:
    """The best n x G tokens of a layer, whichever heads they are in, but of each head at least its
    best alpha x n.

    Source: Feng et al. 2024, "Ada-KV", algorithm 1 (`adakv` in policies).
    Differs: the paper shares alpha of the budget out equally after counting; here, as in kvpress,
    each head's best alpha x n are safe and the rest compete.
    """
    safe_B = (n_B * alpha + 1e-6).floor().to(n_B.dtype)
    safe_BGT = per_head(score_BGT, first_BGT, valid_BGT, safe_B) | first_BGT
    flat = (x.flatten(1)[:, None] for x in (score_BGT, safe_BGT, valid_BGT))
    return per_head(*flat, n_B * score_BGT.shape[1]).view_as(score_BGT)


def uniform(n: int, room: int, layer: int, n_layers: int) -> int:
    """Every layer keeps the same number."""
    return n


Select = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Layers = Callable[[int, int, int, int], int]


@dataclass(frozen=True)
class Masks:
    """What a policy decided for one layer; None says that all of it stays.

    `tokens_BGT` goes to `KVCache.keep`; `k_BGTD` and `v_BGTD` name the elements that are not
    zeroed (an axis of 1 where a whole row or channel shares its fate). `broken` says on the device
    whether a score was not a number.
    """

    tokens_BGT: Tensor | None = None
    k_BGTD: Tensor | None = None
    v_BGTD: Tensor | None = None
    broken: Tensor | None = None


@dataclass(frozen=True)
class Evict:
    """Keep a budget of whole tokens in each head, those with the best scores; the others go.

    `budget` counts all tokens that a head keeps, protected ones too: whole tokens, or a share in
    (0, 1] of those seen so far, rounded down, in each row by its own length. The first `sink` and
    the latest `recent` tokens are protected. `select` is `per_head`, `all_heads` or `across_heads`;
    `layers` shares the unprotected budget out over layers (`uniform`, `policies.pyramid`). `every`
    is 0 (after the prompt only) or a number of decoded tokens between two evictions.
    Raises: ValueError for a budget under sink + recent: budgets in tokens here, shares when a row's
    length is known.
    """

    score: Score
    budget: int | float
    sink: int = 4
    recent: int = 32
    select: Select = per_head
    every: int = 0
    layers: Layers = uniform

    def __post_init__(self) -> None:
        _check_score(self.score)
        _check_counts(self)
        tokens = type(self.budget) is int and self.budget >= 1
        if not tokens and not (type(self.budget) is float and 0 < self.budget <= 1):
            raise ValueError(
                f"budget is {self.budget!r}; expected tokens (a whole number of at least 1) or a "
                "share of the text (a float above 0, at most 1.0)."
            )
        if tokens:
            self._check_budget(self.budget, "It")

    @property
    def needs(self) -> Needs:
        return needs_of(self.score)

    def tokens(self, seen: int) -> int:
        """How many tokens a row that has seen so many keeps, on a layer's average."""
        if type(self.budget) is int:
            return min(self.budget, seen)
        n = math.floor(self.budget * seen + 1e-9)
        if n < seen:
            self._check_budget(n, f"Of {seen} tokens it")
        return n

    def _check_budget(self, n: int, what: str) -> None:
        if n < max(1, self.sink + self.recent):
            raise ValueError(
                f"A budget of {self.budget} was asked for. {what} keeps {n}, fewer than {self.sink}"
                f" sinks and {self.recent} recent tokens. Give more budget or protect fewer."
            )

    def check(self, seen_B: tuple[int, ...]) -> None:
        """Refuse a budget that is too small, or a window too long, for rows of these lengths."""
        for seen in seen_B:
            kept = self.tokens(seen)
            if self.needs.before:
                check_window(kept, seen, self.needs.queries)

    def masks(self, e: Evidence) -> Masks:
        """Decide for one layer, without touching anything."""
        n_B = [self.tokens(seen) for seen in e.seen_B]
        if all(n == seen for n, seen in zip(n_B, e.seen_B, strict=True)):
            return Masks()
        shared_B = [self._shared(n, seen, e) for n, seen in zip(n_B, e.seen_B, strict=True)]
        score_BGT = _scored(self.score, replace(e, n_B=tuple(shared_B)), (e.pos_BGT.shape,))
        first_BGT = e.valid_BGT & ((e.pos_BGT < self.sink) | (e.age_BGT < self.recent))
        n_B = torch.tensor(shared_B, device=e.pos_BGT.device)
        keep_BGT = self.select(score_BGT, first_BGT, e.valid_BGT, n_B)
        return Masks(keep_BGT, broken=(score_BGT.isnan() & e.valid_BGT).any())

    def _shared(self, n: int, seen: int, e: Evidence) -> int:
        """What this layer keeps of a row's budget n."""
        protected = self.sink + self.recent
        if n == seen:
            return n
        free, room = n - protected, seen - protected
        got = self.layers(free, room, e.layer, e.n_layers)
        if type(got) is not int or not 0 <= got <= room:
            raise ValueError(
                f"{name_of(self.layers)} gave layer {e.layer} {got!r} of {free} tokens on average; "
                f"expected a whole number from 0 to {room}, which is what there is."
            )
        return protected + got


# --- which elements stay ------------------------------------------------------------------------


def per_token(score_BGTD: Tensor, place_BGT: Tensor, ripe_B: Tensor, sparsity: float) -> Tensor:
    """The best n of each token's D elements. Shapes: -> keep_BGTD; place -1 stays dense."""
    _check_axes(score_BGTD, 4, "per_token")
    place = _places(score_BGTD.argsort(dim=-1, descending=True, stable=True))
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
    _check_axes(score_BGTD, 4, "per_channel")
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
    place_BGDT = _places(order) - begin[:, :, None]
    return ((place_BGDT < most_BGT[:, :, None]) | dense_BGT[:, :, None]).transpose(-1, -2)


def _dense_ranks(number_BGT: Tensor, dense_BGT: Tensor, last: int) -> Tensor:
    """Group numbers without gaps, so that they are fewer than slots even after evictions."""
    number = number_BGT.masked_fill(dense_BGT, torch.iinfo(torch.int64).max)
    ordered, order = number.sort(dim=-1, stable=True)
    new = torch.zeros_like(ordered)
    new[..., 1:] = (ordered[..., 1:] != ordered[..., :-1]).long()
    ranked = new.cumsum(-1).gather(-1, _places(order))
    return ranked.masked_fill(dense_BGT, last)


def whole_channels(score_BGD: Tensor, place_BGT: Tensor, ripe_B: Tensor, sparsity: float) -> Tensor:
    """The best n channels of each head, the same for all its tokens. Shapes: -> keep_BGTD."""
    _check_axes(score_BGD, 3, "whole_channels")
    place = _places(score_BGD.argsort(dim=-1, descending=True, stable=True))
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
        _check_score(self.score)
        if type(self.sparsity) not in (int, float) or not 0 <= self.sparsity < 1:
            raise ValueError(
                f"sparsity is {self.sparsity!r}; expected a number from 0 up to, but not, 1."
            )


@dataclass(frozen=True)
class Sparsify:
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
        _check_counts(self)

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
            score = _scored(rule.score, e, (shape, (*shape[:2], shape[3])))
            found.append(rule.select(score, place_BGT, ripe_B, rule.sparsity))
            there = e.valid_BGT[..., None] if score.dim() == 4 else True
            broken = broken | (score.isnan() & there).any()
        return Masks(None, *found, broken)


@dataclass(frozen=True)
class Then:
    """Several policies, applied one after the other; each sees what those before it left."""

    parts: tuple[Evict | Sparsify | Then, ...]

    def __init__(self, *parts: Evict | Sparsify | Then) -> None:
        for part in parts:
            _check_policy(part)
        object.__setattr__(self, "parts", tuple(p for part in parts for p in parts_of(part)))


Policy = Evict | Sparsify | Then


def parts_of(policy: Policy | None) -> tuple[Evict | Sparsify, ...]:
    """The single policies of a policy, in the order in which they are applied."""
    if policy is None:
        return ()
    return policy.parts if isinstance(policy, Then) else (policy,)


def check_once(policy: Policy | None) -> None:
    """Refuse a policy that goes on thinning where what it left is to be packed."""
    if any(part.every for part in parts_of(policy)):
        raise ValueError(
            f"{policy} goes on thinning while text is generated, but packed rows stay as they are. "
            "Use every=0, or a cache that is not packed."
        )


def _check_policy(policy: object) -> None:
    if not isinstance(policy, Evict | Sparsify | Then):
        raise ValueError(
            f"{policy!r} came as a policy; expected Evict(score, budget), Sparsify(k=..., v=...) "
            "or Then(...) of these."
        )


def _check_score(score: object) -> None:
    if not callable(score):
        raise ValueError(f"{score!r} came as a score; expected a function of Evidence.")


def _check_counts(policy: Evict | Sparsify) -> None:
    for name in ("sink", "recent", "every"):
        value = getattr(policy, name)
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} is {value!r}; expected a whole number of at least 0.")


def _check_axes(score: Tensor, n_axes: int, select: str) -> None:
    if score.dim() != n_axes:
        raise ValueError(
            f"{select} was given a score of shape {tuple(score.shape)}; expected {n_axes} axes, "
            f"{'(B, G, T, D)' if n_axes == 4 else '(B, G, D)'}."
        )


def _scored(score: Score, e: Evidence, shapes: tuple) -> Tensor:
    got = score(e)
    if not isinstance(got, Tensor) or tuple(got.shape) not in map(tuple, shapes):
        came = f"shape {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        raise ValueError(
            f"The score {name_of(score)} returned {came}; expected a tensor of shape "
            f"{' or '.join(str(tuple(shape)) for shape in shapes)}."
        )
    return got


def name_of(function: Callable) -> str:
    """What a score or a selection is called, under any `partial`."""
    function = unwrapped(function)[0]
    return getattr(function, "__name__", type(function).__name__)


def unwrapped(function: Callable) -> tuple[Callable, dict]:
    """A function, and the settings that `partial` gave it."""
    settings: dict = {}
    while isinstance(function, partial):
        settings = function.keywords | settings
        function = function.func
    return function, settings


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


# --- doing it -----------------------------------------------------------------------------------


class Pruner:
    """Applies a policy to one cache, and collects what the policy's scores need.

    ```
    pruner = Pruner(model, cache, policy)
    with pruner:                        # the queries that pass meanwhile are collected
        prefill(model, tokens_BS, cache)
    pruner.prune()                      # again after each decoded token, if policy.every
    ```
    `generate(..., prune=policy)` does just this. Where no score needs queries the `with` block does
    nothing. Text may be read in several forwards.
    Raises: ValueError, before anything is read, for a cache of another model, and on entering the
    block when a score needs the mass of all queries but the cache was filled unwatched.
    """

    def __init__(self, model: nn.Module, cache: KVCache, policy: Policy) -> None:
        _check_policy(policy)
        if not cache.thins:
            raise ValueError(
                f"A packed cache came with {policy}, and what is packed cannot be thinned. Give it "
                "to prefill or generate with prune=, which thin first, or thin a KVCache and pack "
                "what is left: PackedKVCache.of(cache, ...)."
            )
        self.policy, self.cache, self._model = policy, cache, model
        self._parts = parts_of(policy)
        self._layers = [layer.self_attn for layer in model.model.layers]
        if cache.n_layers != len(self._layers):
            raise ValueError(
                f"A cache of {cache.n_layers} layers came with a model of {len(self._layers)}."
            )
        wanted = [part.needs for part in self._parts]
        self._n_queries = max(need.queries for need in wanted)
        masses = {need.mass for need in wanted if need.mass is not None}
        self._rope = _turns(model) if any(need.rope for need in wanted) else None
        self.watches = bool(self._n_queries or masses)
        if self.watches and any(m._compiled_call_impl is not None for m in model.modules()):
            raise ValueError(
                "A policy that looks at queries came with a model that `.compile()` changed, and "
                "compiled code passes no taps: use a model that was not compiled."
            )
        self._q: list[tuple[Tensor, Tensor] | None] = [None] * cache.n_layers
        self._new: list[Tensor | None] = [None] * cache.n_layers
        self._mass: dict[Score, list[Tensor | None]] = {m: [None] * cache.n_layers for m in masses}
        self._hooks: list = []
        self.step = 0

    @property
    def watches_decoding(self) -> bool:
        """Whether decoded tokens must be watched too."""
        return any(p.every and (p.needs.queries or p.needs.mass) for p in self._parts)

    @property
    def again(self) -> bool:
        """Whether anything is applied after the prompt's end."""
        return any(p.every for p in self._parts)

    def check(self, seen_B: tuple[int, ...]) -> None:
        """Refuse budgets too small for rows of these lengths, and an order that cannot work."""
        _check_parts(self._parts, seen_B)

    def fork(self, policy: Policy) -> Pruner:
        """Another policy on a fork of the cache, with what this pruner collected.

        So one reading of a prompt serves any number of policies.
        Raises: ValueError when the policy looks at more than this one's does.
        """
        twin = Pruner(self._model, self.cache.fork(), policy)
        lacking = [mass.__name__ for mass in twin._mass if mass not in self._mass]
        if twin._n_queries > self._n_queries or lacking:
            asked = [f"{twin._n_queries} queries", *(f"the mass {name}" for name in lacking)]
            raise ValueError(
                f"{policy} looks at {' and '.join(asked)}, and this pruner collected "
                f"{self._n_queries} queries and {len(self._mass)} masses; give it a policy that "
                "needs as much, as Then(...) of all of them does."
            )
        twin._q, twin.step = list(self._q), self.step
        twin._mass = {mass: list(self._mass[mass]) for mass in twin._mass}
        return twin

    def __enter__(self) -> Pruner:
        if self._hooks:
            raise ValueError("This pruner watches already.")
        for kept_L in self._mass.values():
            for mass_BGT, used in zip(kept_L, self.cache.used_L, strict=True):
                if used != (0 if mass_BGT is None else mass_BGT.shape[-1]):
                    raise ValueError(
                        f"A score needs the attention mass of all queries, but {used} slots of the "
                        "cache were filled or thinned while nobody watched. Start with an empty "
                        "cache, and let one pruner watch it all."
                    )
        for i, attention in enumerate(self._layers if self.watches else ()):
            self._hooks.append(attention.tap_q.register_forward_hook(self._asked(i)))
            self._hooks.append(attention.register_forward_hook(self._attended(i)))
        return self

    def __exit__(self, *_) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _asked(self, i: int):
        def saw(_module, _inputs, q_BHSD: Tensor) -> None:
            self._new[i] = q_BHSD.detach()

        return saw

    def _attended(self, i: int):
        def saw(_module, _inputs, _output) -> None:
            q_BHSD, self._new[i] = self._new[i], None
            with torch.no_grad():
                self._collect(i, q_BHSD)

        return saw

    def _collect(self, i: int, q_BHSD: Tensor) -> None:
        """Sum up the mass of new queries, and keep the latest."""
        cache, n_new = self.cache, q_BHSD.shape[2]
        used = cache.used_L[i]
        pos_BS = cache.pos_LBGT[i, :, 0, used - n_new : used].clone()
        for mass, kept_L in self._mass.items():
            kept_L[i] = self._summed(i, mass, kept_L[i], q_BHSD, pos_BS)
        if self._n_queries:
            if self._q[i] is not None:
                q_BHSD = torch.cat((self._q[i][0], q_BHSD), 2)
                pos_BS = torch.cat((self._q[i][1], pos_BS), 1)
            self._q[i] = _latest(q_BHSD, pos_BS, self._n_queries)

    def _summed(
        self, i: int, mass: Score, sum_BGT: Tensor | None, q_BHSD: Tensor, pos_BS: Tensor
    ) -> Tensor:
        e = self._evidence(i, ())
        block = max(1, BLOCK // (q_BHSD.shape[0] * q_BHSD.shape[1] * e.pos_BGT.shape[-1]))
        wide = torch.promote_types(q_BHSD.dtype, torch.float32)
        total_BGT = torch.zeros(e.pos_BGT.shape, dtype=wide, device=q_BHSD.device)
        if sum_BGT is not None:
            total_BGT[..., : sum_BGT.shape[-1]] = sum_BGT
        for q_BHWD, pos_BW in zip(q_BHSD.split(block, 2), pos_BS.split(block, 1), strict=True):
            total_BGT += mass(replace(e, q_BHWD=q_BHWD, q_pos_BW=pos_BW)).sum((2, 3))
        return total_BGT

    def _evidence(self, i: int, seen_B: tuple[int, ...], need: Needs | None = None) -> Evidence:
        cache, used = self.cache, self.cache.used_L[i]
        e = Evidence(
            layer=i,
            n_layers=cache.n_layers,
            k_BGTD=cache.k_LBGTD[i, :, :, :used],
            v_BGTD=cache.v_LBGTD[i, :, :, :used],
            pos_BGT=cache.pos_LBGT[i, :, :, :used],
            seen_B=seen_B,
            step=self.step,
        )
        if need is None:
            return e
        found: dict = {"turns": self._rope if need.rope else None}
        if need.queries:
            q_BHWD, pos_BW = self._q[i]
            found |= {
                "q_BHWD": q_BHWD[:, :, -need.queries :], "q_pos_BW": pos_BW[:, -need.queries :],
            }  # fmt: skip
        if need.mass is not None:
            found["mass_BGT"] = self._mass[need.mass][i]
        if need.output:
            found["o_CI"] = _weight(self._layers[i].o_proj)
        return replace(e, **found)

    @torch.no_grad()
    def prune(self) -> None:
        """Apply what is due now: all after the prompt, then every part at its own steps.

        Masks of all layers are made before the first is applied. Asks the device for the rows'
        lengths where they are padded, and whether scores were numbers.
        Raises: ValueError when a score needs what was not collected, is no number or of another
        shape, or a budget is too small; that policy has then changed nothing.
        """
        due = [p for p in self._parts if self.step == 0 or (p.every and self.step % p.every == 0)]
        seen_B = seen_in(self.cache) if due else ()
        _check_parts(due, seen_B)
        for part in due:
            self._check_collected(part)
        for part in due:
            need = part.needs
            masks_L = [
                part.masks(self._evidence(i, seen_B, need)) for i in range(self.cache.n_layers)
            ]
            _check_numbers(part, masks_L)
            for i, masks in enumerate(masks_L):
                self._apply(i, masks)
        self.step += 1

    def _check_collected(self, part: Evict | Sparsify) -> None:
        need = part.needs
        missing = []
        if need.queries and any(q is None for q in self._q):
            missing.append(f"the latest {need.queries} queries")
        if need.mass is not None:
            for mass_BGT, used in zip(self._mass[need.mass], self.cache.used_L, strict=True):
                if mass_BGT is None or mass_BGT.shape[-1] != used:
                    missing.append("the attention mass of all queries")
                    break
        if missing:
            raise ValueError(
                f"{part} needs {' and '.join(missing)}, which nobody collected. Let a Pruner watch "
                "(`with pruner: prefill(...)`), or use prefill(..., prune=) or generate(..., "
                "prune=)."
            )

    def _apply(self, i: int, masks: Masks) -> None:
        cache = self.cache
        used = cache.used_L[i]
        for store, keep_BGTD in ((cache.k_LBGTD, masks.k_BGTD), (cache.v_LBGTD, masks.v_BGTD)):
            if keep_BGTD is not None:
                store[i, :, :, :used].masked_fill_(~keep_BGTD, 0)
        if masks.tokens_BGT is None:
            return
        keep_BGT = masks.tokens_BGT & (cache.pos_LBGT[i, :, :, :used] >= 0)
        cache.keep(i, keep_BGT)
        for kept_L in self._mass.values():
            if kept_L[i] is None or kept_L[i].shape[-1] != used:
                kept_L[i] = None  # nobody watched the latest tokens, so it is out of date
                continue
            order_BGT = (~keep_BGT).byte().argsort(dim=-1, stable=True)[..., : cache.used_L[i]]
            stays_BGT = cache.pos_LBGT[i, :, :, : cache.used_L[i]] >= 0
            kept_L[i] = kept_L[i].gather(-1, order_BGT).where(stays_BGT, 0)


def prune(model: nn.Module, cache: KVCache, policy: Policy) -> None:
    """Apply a policy once, to a cache as it is: for scores that look at the cache alone.

    Raises: ValueError when a score needs queries: those are gone. Use `prefill(..., prune=policy)`
    or a `Pruner`.
    """
    Pruner(model, cache, policy).prune()


def seen_in(cache: KVCache) -> tuple[int, ...]:
    """Tokens that each row was given, without padding. Asks the device where rows are padded."""
    if cache.counts_positions:
        return (cache.seen,) * cache.batch
    return tuple(cache.next_pos_B().tolist())


@dataclass(frozen=True)
class Density:
    """What is left: tokens of those seen, and the elements that are not zero of the kept tokens."""

    tokens: float
    k: float
    v: float


def density(cache: KVCache) -> Density:
    """The true shares of tokens and elements that are left. Reads the device."""
    seen = sum(seen_in(cache)) * cache.n_layers * cache.k_LBGTD.shape[2]
    tokens = elements = 0
    zeros = [0, 0]
    for i, used in enumerate(cache.used_L):
        valid_BGT = cache.pos_LBGT[i, :, :, :used] >= 0
        tokens += int(valid_BGT.sum())
        for j, store in enumerate((cache.k_LBGTD, cache.v_LBGTD)):
            zeros[j] += int(((store[i, :, :, :used] == 0) & valid_BGT[..., None]).sum())
    elements = max(1, tokens * cache.k_LBGTD.shape[-1])
    return Density(tokens / max(1, seen), *(1 - n / elements for n in zeros))


def _check_parts(parts: Sequence[Evict | Sparsify], seen_B: tuple[int, ...]) -> None:
    """Refuse budgets too small for these lengths, and one choice for heads that differ by then."""
    for part in parts:
        part.check(seen_B)
    active = [p for p in parts if isinstance(p, Evict) and any(p.tokens(n) < n for n in seen_B)]
    apart = [p for p in active if not _same_in_all_heads(p)]
    for i, part in enumerate(active):
        before = [p for p in apart if part.every or p in active[:i]]
        if before and _same_in_all_heads(part):
            raise ValueError(
                f"{part} chooses the same tokens for all heads, but {before[0]} leaves each head "
                "its own. Apply it first, and once (every=0), or use select=per_head."
            )


def _same_in_all_heads(policy: Evict) -> bool:
    return unwrapped(policy.select)[0] is all_heads


def _check_numbers(part: Evict | Sparsify, masks_L: list[Masks]) -> None:
    """Asks the device once for all layers."""
    asked = [(i, masks.broken) for i, masks in enumerate(masks_L) if masks.broken is not None]
    if not asked:
        return
    answers = torch.stack([broken for _, broken in asked]).tolist()
    for (i, _), broken in zip(asked, answers, strict=True):
        if broken:
            raise ValueError(
                f"A score of {part} is not a number (NaN) in layer {i}; nothing was pruned."
            )


def _latest(q_BHSD: Tensor, pos_BS: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Each row's latest n queries that are not padding; fewer have position -1 before them."""
    order_BS = (pos_BS >= 0).byte().argsort(dim=-1, stable=True)[:, -n:]
    from_BHSD = order_BS[:, None, :, None].expand(-1, q_BHSD.shape[1], -1, q_BHSD.shape[3])
    return q_BHSD.gather(2, from_BHSD), pos_BS.gather(1, order_BS)


def _turns(model: nn.Module) -> Tensor:
    config = model.config
    return ops.rope_turns(
        config.head_dim, config.rope_theta, config.rope_scaling, device=model.device
    )


def _weight(linear: nn.Module) -> Tensor:
    """A linear layer's weight as floats; int8 ones have a scale per output."""
    scale = getattr(linear, "scale", None)
    return linear.weight if scale is None else linear.weight * scale[:, None]
