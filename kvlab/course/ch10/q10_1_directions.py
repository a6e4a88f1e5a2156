"""10.1: which elements stay, per token and per channel.

T tokens, D head width.
"""

from __future__ import annotations

import math

import torch

from kvlab.course.author import Exercise
from kvlab.course.ch10._contest import (
    any_best,
    as_good_as_nth,
    first_best,
    last_best,
    normal,
    with_ties,
)

Q = Exercise(
    "10.1",
    "Two directions, an exact count",
    "keep_elements",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
Given a score for each element (higher is better, it may be negative), say which elements stay.

- `"per token"`: each row keeps its best $n$ of D.
- `"per channel"`: each column keeps its best $n$ of each group of `group` consecutive tokens. A last group that is not
  complete stays whole.
- $n$ is the number of competitors × (1 − sparsity), rounded to the nearest whole number as `round` does it (half goes to
  the even neighbour: 2.5 becomes 2, 3.5 becomes 4), and at least 1.
- Of equal scores the first stays. The count is exact, always.

Example: `keep_elements(torch.tensor([[3., 1., 2.]]), 0.4, "per token", 8)` keeps `round(3 * 0.6)` = 2 of three:
`[[True, False, True]]`. Roughly 12 lines.
""",
    hints=(
        "One of the two directions is the other one on the turned matrix. And how many of a row of "
        "10 stay at a sparsity of 0.7?",
        "order = score.argsort(dim=-1, descending=True, stable=True) lists the best places of each "
        "row first; stable keeps the first of equal ones first. The first n of each row of `order` "
        "are the places to mark: torch.zeros_like(score, dtype=torch.bool).scatter(-1, "
        "order[..., :n], True).",
        "n = max(1, round(M * (1 - sparsity))) with M = D per token and M = group per channel. Per "
        "channel: start with keep = all True; for each start in range(0, T - group + 1, group) "
        "take rows = score_TD[start:start + group], and set keep[start:start + group] = "
        "best(rows.T, n).T.",
    ),
)


def _fraction(m, sparsity):
    return m * (1 - sparsity) % 1


# A row's count is one that rounding raises, a group's one that rounding lowers.
SIZES = [
    (width, group, sparsity)
    for width in range(6, 12)
    for group in range(5, 10)
    for sparsity in (0.3, 0.4, 0.6, 0.7)
    if width != group
    and 0.55 < _fraction(width, sparsity) < 0.95
    and 0.05 < _fraction(group, sparsity) < 0.45
]


@Q.case
def case(rng):
    """A text of two or three groups, and one that is not complete."""
    width, group, sparsity = rng.choice(SIZES)
    n_tokens = group * rng.randint(2, 3) + rng.randint(2, group - 1)
    return {
        "score_TD": normal(rng, n_tokens, width),
        "sparsity": sparsity,
        "group": group,
        "_ties": with_ties(rng, n_tokens, width),
    }


@Q.solution
def keep_elements(score_TD, sparsity, direction, group):
    """Return keep_TD: True where an element stays."""

    ### BEGIN SOLUTION
    def best(score, n):
        order = score.argsort(dim=-1, descending=True, stable=True)
        return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order[..., :n], True)

    n_tokens, width = score_TD.shape
    if direction == "per token":
        return best(score_TD, max(1, round(width * (1 - sparsity))))
    n = max(1, round(group * (1 - sparsity)))
    keep_TD = torch.ones_like(score_TD, dtype=torch.bool)
    for start in range(0, n_tokens - group + 1, group):
        keep_TD[start : start + group] = best(score_TD[start : start + group].T, n).T
    return keep_TD
    ### END SOLUTION


@Q.also_right
@Q.right
def by_counting(score_TD, sparsity, direction, group):
    """Places in an order, compared with a count; groups become an axis."""

    def places(score):
        first = score.unsqueeze(-1) < score.unsqueeze(-2)  # who is strictly better
        index = torch.arange(score.shape[-1])
        tie = (score.unsqueeze(-1) == score.unsqueeze(-2)) & (index[None, :] < index[:, None])
        return (first | tie).sum(-1)

    def count(m):
        return max(1, round(m * (1 - sparsity)))

    if direction == "per token":
        return places(score_TD) < count(score_TD.shape[1])
    keep = torch.ones_like(score_TD, dtype=torch.bool)
    n_whole = len(score_TD) // group * group
    parts = score_TD[:n_whole].unflatten(0, (-1, group)).transpose(1, 2)
    keep[:n_whole] = (places(parts) < count(group)).transpose(1, 2).flatten(0, 1)
    return keep


# --- laws ---


def _kept(answer, case, direction, score_TD):
    return answer(score_TD, case["sparsity"], direction, case["group"])


def _both(answer, case, score_TD, of=""):
    ways = ("per token", "per channel")
    return {f"{way}{of}, keep_TD": _kept(answer, case, way, score_TD) for way in ways}


@Q.law("per token: each row keeps its best")
def _(answer, case):
    return {"keep_TD": _kept(answer, case, "per token", case["score_TD"])}


@Q.law("per channel: each column keeps its best in each group")
def _(answer, case):
    return {"keep_TD": _kept(answer, case, "per channel", case["score_TD"])}


@Q.law("equal scores: the count stays exact, and the first stay")
def _(answer, case):
    return _both(answer, case, case["_ties"])


@Q.law("only the order of the scores counts")
def _(answer, case):
    """The same order in other numbers: none is negative, or all lie close together."""
    close_TD = 1 + 1e-9 * case["score_TD"]
    return _both(answer, case, case["score_TD"].exp(), " of exp(score)") | _both(
        answer, case, close_TD, " of 1 + score / 1e9"
    )


@Q.law("at least one stays, however sparse")
def _(answer, case):
    ways = ("per token", "per channel")
    return {
        f"{way} at a sparsity of {sparsity}, keep_TD": answer(
            case["score_TD"], sparsity, way, case["group"]
        )
        for sparsity in (0.97, 1.0)
        for way in ways
    }


@Q.law("a group competes when its last token is there")
def _(answer, case):
    """A text that lacks one token, one of a single group, and one of two."""
    seen, group = {}, case["group"]
    for n_tokens in (group - 1, group, 2 * group):
        name = f"per channel, {n_tokens} tokens in groups of {group}, keep_TD"
        seen[name] = _kept(answer, case, "per channel", case["score_TD"][:n_tokens])
    return seen


@Q.law("half is rounded as round does it")
def _(answer, case):
    """2.5 of five become 2, and 3.5 of seven become 4."""
    x_TD = torch.cat((case["score_TD"], case["_ties"]), dim=1)
    of_five = {
        f"{way}, half of five, keep_TD": answer(x_TD[:, :5], 0.5, way, 5)
        for way in ("per token", "per channel")
    }
    return of_five | {"per token, half of seven, keep_TD": answer(x_TD[:, :7], 0.5, "per token", 5)}


# --- what goes wrong: each changes one thing of this ---


def _rounded(m, sparsity):
    return max(1, round(m * (1 - sparsity)))


def _keep(
    score_TD,
    sparsity,
    direction,
    group,
    *,
    rows="per token",
    count=_rounded,
    best=first_best,
    competes=int.__ge__,  # the tokens that are left, and the group
    stays=True,
):
    width = score_TD.shape[1]
    if direction == rows:
        return best(score_TD, count(width, sparsity))
    keep_TD = torch.full_like(score_TD, stays, dtype=torch.bool)
    for start in range(0, len(score_TD), group):
        part_TD = score_TD[start : start + group]
        if competes(len(score_TD) - start, group):
            keep_TD[start : start + group] = best(part_TD.T, count(len(part_TD), sparsity)).T
    return keep_TD


def _from_the_end(score_TD, sparsity, direction, group):
    best = first_best if direction == "per token" else last_best
    return _keep(score_TD.flip(0), sparsity, direction, group, best=best).flip(0)


Q.mistakes(
    _keep,
    {
        "the two directions are swapped. Per token, each row (a token) keeps n of its D channels; "
        "per channel, each column keeps n of a group of tokens.": {"rows": "per channel"},
        "everything that is at least as large as the n-th stays, so rows with equal scores keep "
        "more than n. Count places, do not compare values.": {"best": as_good_as_nth},
        "the count is cut off (int) and not rounded: 7 elements at a sparsity of 0.6 are 2.8, so 3 "
        "stay.": {"count": lambda m, sparsity: max(1, int(m * (1 - sparsity)))},
        "the count is rounded up (ceil) and not to the nearest whole number.": {
            "count": lambda m, sparsity: max(1, math.ceil(m * (1 - sparsity)))
        },
        "the sparsity is used as the share that stays. It is the share that goes.": {
            "count": lambda m, sparsity: max(1, round(m * sparsity))
        },
        "the smallest scores stay, and the best go.": {
            "best": lambda score, n: first_best(-score, n)
        },
        "the score's absolute value is taken. A score says by itself what is better, below 0 too.": {
            "best": lambda score, n: first_best(score.abs(), n)
        },
        "each column is one contest over the whole text. The count holds in each group of "
        "consecutive tokens.": lambda score_TD, sparsity, direction, group: _keep(
            score_TD, sparsity, direction, len(score_TD)
        ),
        "the last group is pruned although it is not complete. It stays whole until it is.": {
            "competes": lambda n_left, group: True
        },
        "the last group goes if it is not complete. It stays whole until it is.": {"stays": False},
        "the groups are counted from the end of the text, so those at its beginning move with each new "
        "token. Count from the first token.": _from_the_end,
        "per channel the count is taken from D. A column's competitors are the tokens of its group.": (
            lambda score_TD, sparsity, direction, group: _keep(
                score_TD,
                sparsity,
                direction,
                group,
                count=lambda m, sparsity: _rounded(score_TD.shape[1], sparsity),
            )
        ),
        "all elements of the text are one contest. Per token each row has one of its own.": {
            "best": lambda score, n: first_best(score.flatten(), n * len(score)).view_as(score)
        },
        "the mask is the other way round: True says that an element stays.": lambda *given: (
            ~_keep(*given)
        ),
        "scores that differ become equal in float32, or narrower. Compare them as they are.": {
            "best": lambda score, n: first_best(score.float(), n)
        },
        "a group whose last token is the text's last stays whole. It is complete, so it "
        "competes.": {"competes": int.__gt__},
        "nothing stays where the count is rounded to 0. At least one does: max(1, ...).": {
            "count": lambda m, sparsity: round(m * (1 - sparsity))
        },
        "half is always rounded up. `round` takes it to the even neighbour: 2.5 become 2.": {
            "count": lambda m, sparsity: max(1, math.floor(m * (1 - sparsity) + 0.5))
        },
        "of equal scores the last one stays. The first should: a stable sort keeps it.": {
            "best": last_best
        },
        "of equal scores any one stays: topk promises no order among equals. The first should "
        "stay: sort with argsort(..., stable=True).": {"best": any_best},
    },
)
