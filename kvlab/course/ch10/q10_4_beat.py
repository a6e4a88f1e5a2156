"""10.4: half the error of magnitude, on queries that are not shown.

R query heads that share a KV head, T tokens, W latest queries, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.course.author import AtMost, Exercise, Near, NotData
from kvlab.course.ch10._contest import first_best, normal

Q = Exercise(
    "10.4",
    "Beat magnitude",
    "choose",
    points=5,
    minutes=20,
    difficulty=3,
    statement="""
One KV head, its keys and values, and the latest W queries of the R heads that share it. Choose exactly `n` elements of the
keys and `n` of the values; where they lie is up to you. The check zeroes the others and measures the relative error of
attention's output for *later* queries, which you do not see; they resemble the ones you got, and see all T tokens.

Pass: at most half the error of the `n` largest elements (magnitude), and half that of `n` random ones, in every case.
Some channels of the keys are large here. That does not mean that anybody asks for them. Roughly 8 lines.
""",
    hints=(
        "In these caches some channels of K are large, and no query asks for them. What do you "
        "have that says so?",
        "Nothing says that each row must keep equally many, or each column. One contest over the "
        "whole matrix, by |element x input|, uses the n best wherever they are.",
        "q_D = q_RWD.abs().mean((0, 1)) and a_T = (q_RWD @ k_TD.T / D**0.5).softmax(-1).mean((0, "
        "1)). Scores: k_TD.abs() * q_D and v_TD.abs() * a_T[:, None]. Mark the n largest of each: "
        "score.flatten().argsort(descending=True, stable=True)[:n], then view_as.",
    ),
)


# --- the two to beat, which are also wrong answers ---


def _largest(score_TD, n):
    return first_best(score_TD.flatten(), n).view_as(score_TD)


@Q.mistake
def magnitude(k_TD, v_TD, q_RWD, n):
    """this is magnitude: the element alone. The channels of K that are large here are those that no
    query asks for."""
    return _largest(k_TD.abs(), n), _largest(v_TD.abs(), n)


@Q.mistake
def chance(k_TD, v_TD, q_RWD, n):
    """this is chance; nothing is looked at."""
    torch_rng = torch.Generator().manual_seed(0)
    return tuple(_largest(torch.rand(x.shape, generator=torch_rng), n) for x in (k_TD, v_TD))


# --- cases ---


@Q.case
def case(rng):
    """A head on which inputs tell clearly: in one draw of twenty chance hides it, and it is left.

    Without this, one right answer of forty was above the bar on one of its cases.
    """
    while True:
        case = _head_with_outliers(rng)
        losses = (_loss(case, *other(*_seen(case))) for other in (magnitude, chance))
        if _loss(case, *choose(*_seen(case))) <= 0.3 * min(losses):
            return case


def _head_with_outliers(rng):
    """A head with outlier channels that no query asks for, and loud values that nobody looks at.

    Later queries are drawn as the latest were: around one direction, with a turn for each head.
    """
    n_heads, n_queries = rng.choice([2, 3]), rng.choice([6, 8])
    n_tokens, width = rng.choice([36, 44]), rng.choice([12, 16])
    k_TD, v_TD = normal(rng, n_tokens, width), normal(rng, n_tokens, width)
    channels = rng.sample(range(width), width // 2)
    loud = rng.sample(range(n_tokens), n_tokens // 2)
    want_RD = 2.5 * normal(rng, 1, width) + 0.5 * normal(rng, n_heads, width)
    want_RD[:, channels] = 0
    spread_D = torch.full((width,), 0.5, dtype=torch.float64)
    spread_D[channels] = 0.05
    k_TD[:, channels] *= 4
    k_TD[loud] -= 0.4 * want_RD.mean(0)
    v_TD[loud] *= 2.5
    queries = want_RD[:, None] + spread_D * normal(rng, n_heads, 2 * n_queries, width)
    return {
        "k_TD": k_TD,
        "v_TD": v_TD,
        "q_RWD": queries[:, :n_queries],
        "n": round(0.4 * n_tokens * width) - rng.randrange(20),
        "_later": queries[:, n_queries:],
    }


def _seen(case):
    return case["k_TD"], case["v_TD"], case["q_RWD"], case["n"]


def _outputs(k_TD, v_TD, q_RWD):
    return (q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5).softmax(-1) @ v_TD


def _loss(case, keep_k_TD, keep_v_TD):
    """Relative error of attention's output for the later queries."""
    k_TD, v_TD, later = case["k_TD"], case["v_TD"], case["_later"]
    dense = _outputs(k_TD, v_TD, later)
    pruned = _outputs(k_TD * keep_k_TD, v_TD * keep_v_TD, later)
    return float((pruned - dense).norm() / dense.norm())


@Q.solution
def choose(k_TD, v_TD, q_RWD, n):
    """Return two masks with n times True each: keep_k_TD, keep_v_TD."""
    ### BEGIN SOLUTION
    q_in_D = q_RWD.abs().mean((0, 1))
    weights_RWT = (q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5).softmax(-1)
    a_in_T = weights_RWT.mean((0, 1))

    def best(score_TD):
        order = score_TD.flatten().argsort(descending=True, stable=True)
        keep = torch.zeros(score_TD.numel(), dtype=torch.bool)
        keep[order[:n]] = True
        return keep.view_as(score_TD)

    return best(k_TD.abs() * q_in_D), best(v_TD.abs() * a_in_T[:, None])
    ### END SOLUTION


@Q.also_right
def by_squares(k_TD, v_TD, q_RWD, n):
    """Keys row by row, values by their share in the output; then the count is made exact."""
    width = k_TD.shape[1]
    q_D = (q_RWD**2).mean((0, 1)).sqrt()
    a_T = torch.softmax(q_RWD @ k_TD.T / width**0.5, -1).mean((0, 1))

    def largest(score):
        keep = torch.zeros(score.numel(), dtype=torch.bool)
        keep[sorted(range(score.numel()), key=score.flatten().tolist().__getitem__)[-n:]] = True
        return keep.view_as(score)

    return largest((k_TD * q_D) ** 2 * a_T[:, None]), largest((v_TD * a_T[:, None]) ** 2)


# --- laws: they state what must come out, so no right answer is asked ---


def _masks(answer, case):
    masks = answer(*_seen(case))
    if isinstance(masks, list):  # rows of True and False will do
        masks = [torch.as_tensor(m) if isinstance(m, list) else m for m in masks]
    shape = tuple(case["k_TD"].shape)
    well_formed = isinstance(masks, list) and len(masks) == 2
    if not well_formed or not all(
        isinstance(m, Tensor) and tuple(m.shape) == shape and m.dtype == torch.bool for m in masks
    ):
        raise NotData(f"your code returned something else than two masks (True, False) of {shape}.")
    return masks


@Q.law("exactly n elements of each half stay")
def _(answer, case):
    n_k, n_v = (int(keep_TD.sum()) for keep_TD in _masks(answer, case))
    wanted = Near(case["n"])
    return {"kept of the keys": wanted.of(n_k), "kept of the values": wanted.of(n_v)}


def _share(answer, case, other):
    return AtMost(0.5).of(_loss(case, *_masks(answer, case)) / _loss(case, *other(*_seen(case))))


@Q.law("better than random elements")
def _(answer, case):
    share = _share(answer, case, chance)
    return {"error for later queries, as a share of that of random elements": share}


@Q.law("better than magnitude")
def _(answer, case):
    share = _share(answer, case, magnitude)
    return {"error for later queries, as a share of that of magnitude": share}


# --- what else goes wrong: other scores for the elements, or other ways to mark the best ---


def _by_size(x_TD, q_D, a_T1):
    return x_TD.abs()


def _by_query(x_TD, q_D, a_T1):
    return x_TD.abs() * q_D


def _by_attention(x_TD, q_D, a_T1):
    return x_TD.abs() * a_T1


def _choose(
    k_TD,
    v_TD,
    q_RWD,
    n,
    *,
    q_input=torch.abs,
    score_k=_by_query,
    score_v=_by_attention,
    mark=_largest,
):
    q_D = q_input(q_RWD).mean((0, 1))
    a_T1 = (q_RWD @ k_TD.T / k_TD.shape[1] ** 0.5).softmax(-1).mean((0, 1))[:, None]
    return mark(score_k(k_TD, q_D, a_T1), n), mark(score_v(v_TD, q_D, a_T1), n)


Q.mistakes(
    _choose,
    {
        "only the keys are weighed by their input; the values go by size, and the loud ones here "
        "are those that nobody looks at.": {"score_v": _by_size},
        "only the values are weighed by their input; the keys go by size.": {"score_k": _by_size},
        "the inputs are swapped: a key meets the query's channel, a value meets its token's "
        "attention.": {"score_k": _by_attention, "score_v": _by_query},
        "the two masks are in the other order: the one for the keys comes first.": lambda *given: (
            _choose(*given)[::-1]
        ),
        "each row keeps equally many, which makes fewer than n in all. Let all elements of the "
        "matrix compete for the n places.": {
            "mark": lambda score_TD, n: first_best(score_TD, n // len(score_TD))
        },
        "products keep their sign, so the large negative ones go first.": {
            "q_input": lambda q_RWD: q_RWD,
            "score_k": lambda k_TD, q_D, a_T1: k_TD * q_D,
            "score_v": lambda v_TD, q_D, a_T1: v_TD * a_T1,
        },
        "the keys keep their sign, so large negative products go first. A product is worth its size.": {
            "score_k": lambda k_TD, q_D, a_T1: k_TD * q_D
        },
        "the values keep their sign, so the large negative ones go first.": {
            "score_v": lambda v_TD, q_D, a_T1: v_TD * a_T1
        },
        "everything stays. Exactly n elements of each half may.": {
            "mark": lambda score_TD, n: torch.ones_like(score_TD, dtype=torch.bool)
        },
    },
)
