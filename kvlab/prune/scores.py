"""The zoo: what published methods say a token, an element or a channel is worth.

B rows, H query heads, G key/value heads, R = H / G, W observed queries, T slots, D head width.

Each score is one function of `Evidence`, higher is better. A method that is a way of sharing out a
budget rather than a score is such a function (`pyramid`) or a policy (`adakv`, `pyramidkv`).
`evictions` and `sparsities` list them all at one budget. Write your own in the same way; nothing is
registered. Long because it is a list: it is read from a method's name, not from the top.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.checks import finest
from kvlab.ops import wide
from kvlab.pack.rules import Rule
from kvlab.prune.elements import Elements, Sparsify, per_channel, per_token, whole_channels
from kvlab.prune.evidence import Evidence, Score, attention_mass, check_window, needs
from kvlab.prune.hashing import chance
from kvlab.prune.tokens import Evict, across_heads, all_heads, ranks

# --- whole tokens: score_BGT --------------------------------------------------------------------


def random(e: Evidence, *, seed: int = 0) -> Tensor:
    """Chance, the baseline that a method has to beat.

    A token's draw depends on its layer, head and position alone, so it is the same for padded
    rows, for prompts read in chunks and on every device.
    Source: none; kvpress has the same baseline (`RandomPress`).
    """
    head_G1 = torch.arange(e.pos_BGT.shape[1], device=e.pos_BGT.device)[:, None]
    return chance(seed, e.layer, head_G1, e.pos_BGT)


def recency(e: Evidence) -> Tensor:
    """The newest tokens: a sliding window.

    Source: Beltagy et al. 2020, "Longformer", section 3.1. Use it with sink=0.
    """
    return finest(e.pos_BGT)


def streaming(e: Evidence, *, sinks: int = 4) -> Tensor:
    """The first few tokens, then the newest.

    Source: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", section 3.
    Differs: kept keys stay turned to their original positions; the paper turns them by their slot.
    """
    return recency(e) + (e.pos_BGT < sinks) * float(max(e.seen_B, default=0) + 1)


@needs(mass=attention_mass)
def h2o(e: Evidence) -> Tensor:
    """Heavy hitters: attention that a token got from all queries so far.

    Source: Zhang et al. 2023, "H2O", section 4 and algorithm 1.
    Differs: query heads of a group are summed, since they share the token; the paper has one query
    head per key.
    """
    return e.mass_BGT


@needs(mass=attention_mass)
def observed(e: Evidence) -> Tensor:
    """H2O's mass, divided by the number of queries that could see the token.

    Source: kvpress (`ObservedAttentionPress`).
    """
    return e.mass_BGT / (e.age_BGT + 1).clamp(min=1)


@needs(queries=32)
def scissorhands(e: Evidence) -> Tensor:
    """Tokens that were seldom below average: minus the count of queries at position t that gave
    them less than 1 / (t + 1).

    Source: Liu et al. 2023, "Scissorhands", algorithm 2.
    Differs: counts are over the latest W queries at each application, and of a group's heads
    together; the paper drops a fixed number whenever its buffer is full.
    """
    few_BW = 1 / (e.q_pos_BW + 1).clamp(min=1)
    below = e.weights_BGRWT() < few_BW[:, None, None, :, None]
    could = e.pos_BGT[:, :, None] <= e.q_pos_BW[:, None, :, None]
    return -finest((below & could[:, :, None]).sum((2, 3)))


@needs(queries=1)
def tova(e: Evidence) -> Tensor:
    """Attention of the last query, the mean of all heads of the layer.

    Source: Oren et al. 2024, "Transformers are Multi-State RNNs", section 3.2. Use it with
    select=all_heads; the paper protects nothing (sink=0, recent=0).
    """
    mean_B1T = e.weights_BGRWT().mean((1, 2, 3))[:, None]
    return mean_B1T.expand_as(e.pos_BGT)


@needs(queries=32, before=True)
def snapkv(e: Evidence, *, kernel: int = 5, how: str = "mean") -> Tensor:
    """Attention of the latest W queries to the tokens before them, smoothed over neighbours.

    The window's own tokens come before all others. Another window:
    `needs(queries=64)(partial(snapkv))`.
    Raises: ValueError where a row that must lose tokens is not longer than the window.
    Source: Li et al. 2024, "SnapKV", section 4 and listing 1.
    Differs: heads of a group are joined by their mean before selection, where the paper's code
    repeats keys for each query head; average pooling as in kvpress, the paper's listing has both.
    """
    if type(kernel) is not int or kernel % 2 == 0 or kernel < 1:
        raise ValueError(f"A pooling kernel of {kernel!r} was asked for; expected an odd number.")
    _check_window(e)
    seen_BGRT = e.over_queries(e.weights_BGRWT())
    before_BGT = e.valid_BGT & (e.pos_BGT < _oldest(e))
    pooled_BGRT = _pooled(seen_BGRT * before_BGT[:, :, None], e.valid_BGT, kernel)
    return _first(e.over_group(pooled_BGRT, how), ~before_BGT)


def keyformer_weights(e: Evidence, *, start: float = 1.0, slope: float = 0.01) -> Tensor:
    """Softmax of logits with Gumbel noise, at a temperature that rises with each decoded token."""
    logits = e.logits_BGRWT()
    n_heads = logits.shape[1] * logits.shape[2]
    head = torch.arange(n_heads, device=logits.device).view(*logits.shape[1:3], 1, 1)
    q_pos, pos = e.q_pos_BW[:, None, None, :, None], e.pos_BGT[:, :, None, None]
    noise = -(-chance(1, e.layer, head, q_pos, pos).log()).log()
    return e.softmax((logits + noise.to(logits.dtype)) / (start + slope * e.step))


@needs(mass=keyformer_weights)
def keyformer(e: Evidence) -> Tensor:
    """Attention from all queries so far, with noise that allows for tokens already lost.

    Source: Adnan et al. 2024, "Keyformer", equations 8 to 10 and algorithm 1.
    Differs: the temperature rises by a fixed slope (as in KVCache-Factory) and not towards a known
    last step; noise is a hash of layer, head and positions, so a run can be repeated.
    """
    return e.mass_BGT


def knorm(e: Evidence) -> Tensor:
    """Keys with a small norm: they were found to get the most attention.

    Rope only turns a key, so in the first layer a token has the same norm wherever it stands. Where
    only some of equal tokens may stay, rounding chooses between them, and it may choose otherwise
    in a batch than for a row alone.
    Source: Devoto et al. 2024, "A Simple and Effective L2 Norm-Based Strategy", section 3.
    """
    return -wide(e.k_BGTD).norm(dim=-1)


def keydiff(e: Evidence) -> Tensor:
    """Keys that point away from the mean direction of all keys.

    Source: Park et al. 2025, "KeyDiff", equation 4 with the mean of unit keys as anchor.
    """
    unit_BGTD = F.normalize(wide(e.k_BGTD), dim=-1) * e.valid_BGT[..., None]
    n_BG11 = e.valid_BGT.sum(-1)[..., None, None].clamp(min=1)
    return -F.cosine_similarity(
        wide(e.k_BGTD), unit_BGTD.sum(2, keepdim=True) / n_BG11, dim=-1
    )  # fmt: skip


@needs(queries=512, rope=True)
def expected_attention(
    e: Evidence, *, ahead: int = 512, sinks: int = 4, epsilon: float = 0.0
) -> Tensor:
    """Attention that queries still to come are expected to give, times the value's norm.

    Future queries are taken to be normal, with the mean and covariance that the latest queries had
    before rope, turned by the mean turn of the next `ahead` positions.
    Source: Devoto et al. 2025, "Expected Attention", equations 6 to 9; kvpress
    (`ExpectedAttentionPress`), whose rule this is.
    Differs: the statistics are those of at most 512 queries, not of the whole prompt.
    """
    k_BGTD, v_BGTD = wide(e.k_BGTD), wide(e.v_BGTD)
    mean_BGRD, spread_BGRDD = _future_queries(e, ahead, sinks)
    k_BG1TD, width = k_BGTD[:, :, None], k_BGTD.shape[-1]
    logits_BGRT = (k_BG1TD @ mean_BGRD[..., None])[..., 0] / math.sqrt(width)
    logits_BGRT = logits_BGRT + ((k_BG1TD @ spread_BGRDD) * k_BG1TD).sum(-1) / width / 2
    others_BGT = e.pos_BGT >= sinks
    logits_BGRT = logits_BGRT.masked_fill(~others_BGT[:, :, None], float("-inf"))
    score_BGT = e.over_group(e.softmax(logits_BGRT))
    return _first((score_BGT + epsilon) * v_BGTD.norm(dim=-1), ~others_BGT)


def _future_queries(e: Evidence, ahead: int, sinks: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance of queries, turned back by rope and then by the mean future turn."""
    turns = e.turns.to(torch.promote_types(e.q_BHWD.dtype, torch.float32))
    q_BGRWD = e.q_BGRWD.to(turns.dtype)
    q_BGRWD = _turned(q_BGRWD, -e.q_pos_BW[:, None, None, :, None] * turns)
    counted_BW = (e.q_pos_BW >= sinks).to(turns.dtype)
    n_B111 = counted_BW.sum(-1).clamp(min=1)[:, None, None, None]
    counted_B11W1 = counted_BW[:, None, None, :, None]
    mean_BGRD = (q_BGRWD * counted_B11W1).sum(3) / n_B111
    off_BGRWD = (q_BGRWD - mean_BGRD[..., None, :]) * counted_B11W1
    spread_BGRDD = off_BGRWD.transpose(-1, -2) @ off_BGRWD / n_B111[..., None]
    future = e.seen_B11[..., None] + torch.arange(ahead, device=turns.device)[:, None]
    angle_B11AP = (future * turns)[:, None]
    cos, sin = (x.mean(-2) for x in (angle_B11AP.cos(), angle_B11AP.sin()))

    def turn(x_BGRND: Tensor) -> Tensor:
        """The mean turn of each row of the last axis."""
        return _rotated(x_BGRND, cos[..., None, :], sin[..., None, :])

    mean_BGRD = turn(mean_BGRD[..., None, :])[..., 0, :]
    return mean_BGRD, turn(turn(spread_BGRDD).transpose(-1, -2))


@needs(queries=32)
def vatp(e: Evidence) -> Tensor:
    """Attention of the latest queries times the L1 norm of the value.

    Source: Guo et al. 2024, "Attention Score is not All You Need for Token Importance Indicator in
    KV Cache Reduction: Value Also Matters", equation 3.
    Differs: attention is that of the latest W queries (the paper adds the norm to H2O's and to
    Scissorhands' attention).
    """
    seen_BGT = e.over_group(e.over_queries(e.weights_BGRWT()))
    return seen_BGT * wide(e.v_BGTD).abs().sum(-1)


@needs(queries=32, output=True)
def criticalkv(
    e: Evidence, *, base: Score = snapkv, first: float = 0.5, epsilon: float = 1e-4
) -> Tensor:
    """Two stages: a share of the budget by another score; the rest by that score times the L1 norm
    of what the value writes into the residual stream.

    `base` may be any score; if it needs more than 32 queries, declare that for this one as well.
    Source: Feng et al. 2025, "Identify Critical KV Cache in LLM Inference from an Output
    Perturbation Perspective", algorithm 1 (CriticalKV).
    """
    score_BGT = base(e)
    n_B = torch.tensor([int(n * first) for n in e.n_B], device=score_BGT.device)
    sure_BGT = torch.zeros_like(e.valid_BGT)
    sure_BGT = ranks(score_BGT, sure_BGT, e.valid_BGT) < n_B[:, None, None].clamp(min=1)
    o_CHD = e.o_CI.unflatten(1, (e.q_BHWD.shape[1], -1)).to(score_BGT.dtype)
    o_GRDC = o_CHD.permute(1, 2, 0).unflatten(0, (e.k_BGTD.shape[1], -1))
    v_BGTD = e.v_BGTD.to(score_BGT.dtype)
    norms = [(v_BGTD @ o_GDC).abs().sum(-1) for o_GDC in o_GRDC.unbind(1)]
    return _first((score_BGT + epsilon) * torch.stack(norms).mean(0), sure_BGT)


# --- how a budget is shared out -----------------------------------------------------------------


def pyramid(n: int, free: int, layer: int, n_layers: int, *, beta: float = 20) -> int:
    """Lower layers keep more, by a straight line; the total is n_layers x n exactly.

    The last layer gets n / beta, the first as much more as the last gets less; no layer gets more
    than it has room for.
    Source: Cai et al. 2024, "PyramidKV", equations 3 and 4.
    Differs: whole numbers are found so that the layers' budgets add up; the paper's code rounds
    each layer down by itself.
    """
    if beta < 1:
        raise ValueError(f"beta is {beta}; expected at least 1.")
    least = max(n / beta, 2 * n - free)
    most = 2 * n - least

    def before(i: int) -> int:
        """What the first i layers get together."""
        if n_layers == 1:
            return n * i
        return round(i * most - (most - least) * i * (i - 1) / 2 / (n_layers - 1))

    return min(free, before(layer + 1) - before(layer))


def pyramidkv(budget: int | float, **settings) -> Evict:
    """SnapKV's scores with a pyramid of budgets. Settings are those of `Evict`.

    Source: Cai et al. 2024, "PyramidKV".
    """
    return Evict(snapkv, budget, layers=pyramid, **settings)


def adakv(budget: int | float, *, score: Score = snapkv, alpha: float = 0.2, **settings) -> Evict:
    """A score's best tokens across the heads of a layer, so that heads keep different numbers.

    Source: Feng et al. 2024, "Ada-KV", algorithm 1; see `prune.across_heads`.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected a share from 0 to 1.")
    return Evict(score, budget, select=partial(across_heads, alpha=alpha), **settings)


def evictions(
    budget: int | float, *, sink: int = 4, recent: int = 32, every: int = 0
) -> dict[str, Evict]:
    """Every method that drops tokens, by name, at one budget and with the same protection.

    Exceptions that would otherwise be another method: `recency` protects no sinks.
    """
    same = {"sink": sink, "recent": recent, "every": every}
    scores = [random, streaming, h2o, observed, scissorhands, snapkv, keyformer, knorm, keydiff]
    scores += [expected_attention, vatp, criticalkv]
    scored = {score.__name__: Evict(score, budget, **same) for score in scores}
    return {
        "recency": Evict(recency, budget, sink=0, recent=recent, every=every),
        "tova": Evict(tova, budget, select=all_heads, **same),
        **scored,
        "pyramidkv": pyramidkv(budget, **same),
        "adakv": adakv(budget, **same),
    }


# --- elements: score_BGTD, and channels: score_BGD ----------------------------------------------


def k_magnitude(e: Evidence) -> Tensor:
    """|K|. Source: Joo et al. 2025, "MUSTAFAR", section 3 (per-token magnitude)."""
    return e.k_BGTD.abs()


def v_magnitude(e: Evidence) -> Tensor:
    """|V|. Source: Joo et al. 2025, "MUSTAFAR", section 3 (per-token magnitude)."""
    return e.v_BGTD.abs()


@needs(queries=32)
def k_output_aware(e: Evidence) -> Tensor:
    """|K| times the latest queries' mean |Q| in that channel, summed over the heads of a group.

    Per channel it chooses what magnitude chooses: the factor is the same for all of a channel.
    Source: Joo et al. 2025, "MUSTAFAR", section 3 (output-aware keys).
    Differs: while decoding, all pruned tokens meet the latest W queries; the paper adds up those
    that a token met in the window, and its released code uses only the current one.
    """
    counted_B11W1 = (e.q_pos_BW >= 0)[:, None, None, :, None]
    mean_BGRD = (finest(e.q_BGRWD).abs() * counted_B11W1).sum(3)
    mean_BGRD = mean_BGRD / counted_B11W1.sum(3).clamp(min=1)
    factor_BGD = e.over_group(mean_BGRD, "sum").clamp(min=_LEAST)
    return finest(e.k_BGTD).abs() * factor_BGD[:, :, None]


@needs(queries=32)
def v_output_aware(e: Evidence) -> Tensor:
    """|V| times the attention that the token gets from the latest queries of its group.

    Per token it chooses what magnitude chooses: the factor is the same for all of a token.
    Source: Joo et al. 2025, "MUSTAFAR", section 3 (output-aware values).
    """
    factor_BGT = finest(e.weights_BGRWT()).sum((2, 3)).clamp(min=_LEAST)
    return finest(e.v_BGTD).abs() * factor_BGT[..., None]


@needs(queries=32)
def think(e: Evidence) -> Tensor:
    """Key channels by the norm of what they add to the logits: |Q_d|^2 |K_d|^2. Shapes: -> (B,G,D).

    Source: Xu et al. 2024, "ThinK", equation 6.
    """
    counted_B11W1 = (e.q_pos_BW >= 0)[:, None, None, :, None]
    q_BGD = e.over_group((wide(e.q_BGRWD) ** 2 * counted_B11W1).sum(3))
    return q_BGD * _square_sums(e.k_BGTD, e.valid_BGT)


def think_v(e: Evidence) -> Tensor:
    """Value channels by their norm over tokens, |V_d|^2. Shapes: -> (B, G, D).

    Source: ThinK's value twin as MUSTAFAR's released code has it (`llama_thinv`), where the factor
    of attention is commented out.
    """
    return _square_sums(e.v_BGTD, e.valid_BGT)


def sparsities(
    sparsity: float, *, sink: int = 0, recent: int = 32, every: int = 0, group: int = 32
) -> dict[str, Sparsify]:
    """Every method that zeroes elements, by name: one of keys or values, a direction, a score."""
    in_groups = partial(per_channel, group=group)
    ways: dict[str, tuple[str, Score, Callable[[float], Rule]]] = {
        "k_token_magnitude": ("k", k_magnitude, per_token),
        "k_token_output_aware": ("k", k_output_aware, per_token),
        "k_channel_magnitude": ("k", k_magnitude, in_groups),
        "k_channel_output_aware": ("k", k_output_aware, in_groups),
        "v_token_magnitude": ("v", v_magnitude, per_token),
        "v_token_output_aware": ("v", v_output_aware, per_token),
        "v_channel_magnitude": ("v", v_magnitude, in_groups),
        "v_channel_output_aware": ("v", v_output_aware, in_groups),
        "think": ("k", think, whole_channels),
        "think_v": ("v", think_v, whole_channels),
    }
    same = {"sink": sink, "recent": recent, "every": every}
    return {
        name: Sparsify(**{what: Elements(score, sparsity, select)}, **same)
        for name, (what, score, select) in ways.items()
    }


# --- shared -------------------------------------------------------------------------------------

_LEAST = torch.finfo(torch.float32).tiny  # so that a factor of 0 does not make all equal


def _square_sums(x_BGTD: Tensor, valid_BGT: Tensor) -> Tensor:
    return (wide(x_BGTD) ** 2 * valid_BGT[..., None]).sum(2)


def _first(score_BGT: Tensor, first_BGT: Tensor) -> Tensor:
    """The score, with some tokens above all others of their row."""
    best_B11 = score_BGT.masked_fill(first_BGT, 0).amax((1, 2), keepdim=True)
    return score_BGT.where(~first_BGT, best_B11 + 1)


def _oldest(e: Evidence) -> Tensor:
    """Position of each row's oldest observed query. Shapes: -> (B, 1, 1)."""
    far = torch.iinfo(torch.int64).max
    return e.q_pos_BW.masked_fill(e.q_pos_BW < 0, far).amin(-1)[:, None, None]


def _check_window(e: Evidence) -> None:
    window = e.q_BGRWD.shape[3]
    kept_B = e.n_B if isinstance(e.n_B, tuple) else (0,) * len(e.seen_B)
    for row, (seen, kept) in enumerate(zip(e.seen_B, kept_B, strict=True)):
        check_window(kept, seen, window, row if len(kept_B) > 1 else None)


def _pooled(x_BGRT: Tensor, valid_BGT: Tensor, kernel: int) -> Tensor:
    """Mean over neighbouring tokens; padding between them is stepped over."""
    order = (~valid_BGT).byte().argsort(dim=-1, stable=True)[:, :, None].expand_as(x_BGRT)
    side = kernel // 2
    near = F.avg_pool1d(x_BGRT.gather(-1, order).flatten(1, 2), kernel, stride=1, padding=side)
    return torch.empty_like(x_BGRT).scatter_(-1, order, near.view_as(x_BGRT))


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    return _rotated(x, angle.cos(), angle.sin())


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (channel i, i + D/2) times cosine and sine, each (..., D/2)."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
