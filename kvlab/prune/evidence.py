"""What a score may look at, and how it says what it needs.

B rows, H query heads, G key/value heads, R = H / G, W observed queries, T slots, D head width.

A score says what each token (or element, or channel) is worth, higher is better; it is a function
of `Evidence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kvlab import checks, ops
from kvlab.prune.missing import CURES, Missing


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

    What was not declared (see `needs`) is there too, and raises ValueError when it is used.
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

    def __post_init__(self) -> None:
        for name in CURES:
            if getattr(self, name) is None:
                object.__setattr__(self, name, Missing(name))

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

    def softmax(self, logits: Tensor) -> Tensor:
        """Softmax over slots, the last axis; all 0 where nothing may be seen."""
        nothing = logits.isneginf().all(-1, keepdim=True)
        return logits.masked_fill(nothing, 0).softmax(-1).masked_fill(nothing, 0)

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
            raise ValueError(
                f"over_group was asked for {checks.shown(how)}; it knows {', '.join(reduce)}."
            )
        return reduce[how](x_BGR, 2)


Score = Callable[[Evidence], Tensor]


def attention_mass(e: Evidence) -> Tensor:
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
    queries = checks.whole("queries, of which a score asks for the latest so many,", queries, 0)
    for name, asked in {"rope": rope, "output": output, "before": before}.items():
        checks.kind(name, asked, bool, "True or False")
    checks.functions(**({} if mass is None else {"mass": mass}))

    def declare(score: Score) -> Score:
        checks.functions(score=score)
        score.needs = Needs(queries, mass, rope, output, before or needs_of(score).before)
        return score

    return declare


def needs_of(score: Score) -> Needs:
    """What a score declared; a `partial` needs what its function needs."""
    while not hasattr(score, "needs") and isinstance(score, partial):
        score = score.func
    return getattr(score, "needs", Needs())


def check_window(kept: int, seen: int, window: int, row: int | None = None) -> None:
    """Refuse to judge a row's tokens by as many queries as it has."""
    kept, seen, window = (checks.whole("A count", n, 0) for n in (kept, seen, window))
    if kept < seen <= window:
        which = "A row" if row is None else f"Row {row}"
        raise ValueError(
            f"{which} of {seen} tokens is to keep {kept}, but the {window} queries that judge "
            "those before them are all it has. Use a shorter window: "
            "needs(queries=...)(partial(score))."
        )
