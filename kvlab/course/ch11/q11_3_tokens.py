"""11.3: whole tokens stay or go, and some are protected.

G key/value heads, T tokens.
"""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise, raised_by
from kvlab.course.ch10._contest import (
    any_best,
    as_good_as_nth,
    first_best,
    last_best,
    normal,
    with_ties,
)

Q = Exercise(
    "11.3",
    "Which tokens stay",
    "choose_tokens",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
Whole tokens. `mass_GT` says how much attention each token got, head by head; it is at least 0 and may be infinite. Each
head keeps exactly `budget` tokens: the first `sinks`, the latest `recent`, and the heaviest of the others (of
equal ones the older). No mass, however large, may push out a protected token.

- With `budget` at least T, everything stays.
- Otherwise a `budget` smaller than `sinks + recent` raises `ValueError`.
- `sinks` or `recent` may be 0.

Example: mass `[[1., 5., 9., 7., 2.]]`, budget 3, 1 sink, 1 recent: `[[True, False, True, False, True]]`. Roughly 10 lines.
""",
    hints=(
        "Two kinds of tokens stay for different reasons. Which of them needs a contest, and over "
        "how many places?",
        "safe_T = (place < sinks) | (place >= T - recent), with place = torch.arange(T). The "
        "others compete for budget - safe_T.sum() places: give the safe ones -inf in the "
        "contest, so that they take no place, and join the two masks with |.",
        "order = mass_GT.masked_fill(safe_T, -inf).argsort(dim=-1, descending=True, stable=True); "
        "heavy = zeros.scatter(-1, order[:, :budget - safe_T.sum()], True); return heavy | safe_T. "
        "Before that: all True if budget >= T; ValueError if budget < sinks + recent.",
    ),
)


@Q.case
def case(rng):
    n_groups, sinks, recent = rng.sample([2, 3, 4], 3)
    heavy = rng.randint(2, 4)
    n_tokens = sinks + recent + recent + heavy + rng.randint(1, 3)
    ties_GT = with_ties(rng, n_groups, n_tokens)
    ties_GT[0] = 0  # a head in which nobody got any attention
    ties_GT[1, :sinks] = 3  # and one in which the sinks got most
    return {
        "mass_GT": normal(rng, n_groups, n_tokens).abs(),
        "budget": sinks + recent + heavy,
        "sinks": sinks,
        "recent": recent,
        "_ties": ties_GT,
    }


@Q.solution
def choose_tokens(mass_GT, budget, sinks, recent):
    """Return keep_GT: True where a token stays."""
    ### BEGIN SOLUTION
    n_tokens = mass_GT.shape[1]
    if budget >= n_tokens:
        return torch.ones_like(mass_GT, dtype=torch.bool)
    if budget < sinks + recent:
        raise ValueError(
            f"a budget of {budget} cannot keep {sinks} sinks and {recent} recent tokens"
        )
    place_T = torch.arange(n_tokens)
    safe_T = (place_T < sinks) | (place_T >= n_tokens - recent)
    contest_GT = mass_GT.masked_fill(safe_T, float("-inf"))
    order = contest_GT.argsort(dim=-1, descending=True, stable=True)
    n_heavy = budget - sinks - recent
    heavy_GT = torch.zeros_like(mass_GT, dtype=torch.bool).scatter(-1, order[:, :n_heavy], True)
    return heavy_GT | safe_T
    ### END SOLUTION


@Q.also_right
@Q.right
def by_sorting(mass_GT, budget, sinks, recent):
    """Protected places first, then the heaviest of the others, by sorting pairs."""
    n_groups, n_tokens = mass_GT.shape
    if budget >= n_tokens:
        return torch.ones(n_groups, n_tokens, dtype=torch.bool)
    if budget < sinks + recent:
        raise ValueError("the protected tokens alone are more than the budget")
    keep = torch.zeros(n_groups, n_tokens, dtype=torch.bool)
    safe = set(range(sinks)) | set(range(n_tokens - recent, n_tokens))
    for g in range(n_groups):
        others = sorted((t for t in range(n_tokens) if t not in safe), key=lambda t: -mass_GT[g, t])
        keep[g, list(safe) + others[: budget - len(safe)]] = True
    return keep


# --- laws ---


@Q.law("sinks, the recent, and the heaviest of the rest")
def _(answer, case):
    """Of a text twice as long too, where more than the budget is left to tell mistakes apart."""
    mass_GT, *rest = (case[n] for n in ("mass_GT", "budget", "sinks", "recent"))
    long_GT = torch.cat((mass_GT, mass_GT + 1), dim=1)
    return {"keep_GT": answer(mass_GT, *rest), "_of a longer text, keep_GT": answer(long_GT, *rest)}


@Q.law("masses that lie close together")
def _(answer, case):
    """The same order in numbers that are one number in float32."""
    given = (case[name] for name in ("budget", "sinks", "recent"))
    return {"of close masses, keep_GT": answer(1 + 1e-9 * case["mass_GT"], *given)}


@Q.law("a budget of exactly sinks + recent")
def _(answer, case):
    """No place is left for a heavy token, and nothing is wrong with that; 0 of 0 keep nothing."""
    mass_GT, sinks, recent = case["mass_GT"], case["sinks"], case["recent"]
    seen = {}
    for first, last in ((sinks, recent), (sinks, 0), (0, recent), (0, 0)):
        name = f"with a budget of {first} + {last}, keep_GT"
        seen[name] = answer(mass_GT, first + last, first, last)
    return seen


@Q.law("equal masses: exactly the budget, and the protected are in it")
def _(answer, case):
    keep_GT = answer(case["_ties"], case["budget"], case["sinks"], case["recent"])
    keep_GT = torch.as_tensor(keep_GT)  # rows of True and False will do
    return {
        "kept in each head": keep_GT.sum(1).tolist(),
        "sinks kept": keep_GT[:, : case["sinks"]].sum().item(),
        "recent kept": keep_GT[:, -case["recent"] :].sum().item(),
    }


Q.agrees(
    "equal masses: the older token stays",
    *("_ties", "budget", "sinks", "recent"),
    gives="keep_GT",
)


@Q.law("no mass is so large that a protected token goes")
def _(answer, case):
    """Mass without end on every token that is not protected."""
    mass_GT = case["mass_GT"].clone()
    mass_GT[:, case["sinks"] : mass_GT.shape[1] - case["recent"]] = float("inf")
    return {"keep_GT": answer(mass_GT, case["budget"], case["sinks"], case["recent"])}


@Q.law("no sinks, nothing recent, room for all, too little room")
def _(answer, case):
    mass_GT, budget, sinks, recent = (case[n] for n in ("mass_GT", "budget", "sinks", "recent"))
    n_tokens = mass_GT.shape[1]
    return {
        "with no recent tokens protected, keep_GT": answer(mass_GT, budget, sinks, 0),
        "with no sinks, keep_GT": answer(mass_GT, budget, 0, recent),
        "with room for all, keep_GT": answer(mass_GT, n_tokens + 1, sinks, recent),
        "raised for a budget of T, and sinks + recent above it": raised_by(
            answer, mass_GT, n_tokens, n_tokens, recent
        ),
        "raised for a budget under sinks + recent": raised_by(
            answer, mass_GT, sinks + recent - 1, sinks, recent
        ),
    }


@Q.law(
    "many equal masses: the oldest of them stay", shows=lambda case: "2 heads of 64 equal masses"
)
def _(answer, case):
    """So many that a sort that promises no order among equals shows it."""
    mass_GT = torch.ones(2, 64, dtype=torch.float64)
    return {"keep_GT": answer(mass_GT, 24, case["sinks"], case["recent"])}


# --- what goes wrong: each changes one thing of this ---


def _choose(
    mass_GT,
    budget,
    sinks,
    recent,
    *,
    best=first_best,
    by_score=None,
    on_top=False,
    contest=lambda mass_GT, safe_T: mass_GT.masked_fill(safe_T, float("-inf")),
    refuses=lambda budget, n_safe, n_tokens: budget < min(n_safe, n_tokens),
):
    n_tokens = mass_GT.shape[1]
    if refuses(budget, sinks + recent, n_tokens):
        raise ValueError("the budget is smaller than what is protected")
    if budget >= n_tokens:
        return torch.ones_like(mass_GT, dtype=torch.bool)
    place_T = torch.arange(n_tokens)
    safe_T = (place_T < sinks) | (place_T >= n_tokens - recent)
    if by_score:
        return best(by_score(mass_GT, safe_T), budget)
    n_heavy = budget if on_top else max(0, budget - int(safe_T.sum()))
    return best(contest(mass_GT, safe_T), n_heavy) | safe_T


def _last_recent(mass_GT, budget, sinks, recent):
    keep_GT = _choose(mass_GT, budget, sinks, recent)
    keep_GT[:, -recent:] = True
    return keep_GT


def _not_shifted(mass_GT, budget, sinks, recent):
    keep_GT = _choose(mass_GT, budget, sinks, recent)
    if budget < mass_GT.shape[1]:
        others = slice(sinks, mass_GT.shape[1] - recent)
        keep_GT[:, others] = False
        order = mass_GT[:, others].argsort(dim=-1, descending=True, stable=True)
        keep_GT.scatter_(1, order[:, : budget - sinks - recent], True)
    return keep_GT


Q.mistakes(
    _choose,
    {
        "protected tokens get a large number added to their mass. A mass that is larger still "
        "evicts them: protect by a mask, not by a score.": {
            "by_score": lambda mass_GT, safe_T: mass_GT + 1e6 * safe_T
        },
        "protected tokens get one large number for a mass. An infinite mass still evicts them: "
        "protect by a mask, not by a score.": {
            "by_score": lambda mass_GT, safe_T: mass_GT.masked_fill(safe_T, 1e9)
        },
        "protected tokens win by a score, infinity or the largest mass + 1. When another mass is "
        "infinite that is no more: a tie decides. Protect by a mask.": {
            "by_score": lambda mass_GT, safe_T: mass_GT.where(~safe_T, mass_GT.max() + 1)
        },
        "protected tokens win by infinity, and topk takes the rest: it promises no order among equals. "
        "Protect by a mask, and let the others compete in a stable sort.": {
            "by_score": lambda mass_GT, safe_T: mass_GT.masked_fill(safe_T, float("inf")),
            "best": any_best,
        },
        "nothing is protected: the heaviest tokens of all stay.": {
            "by_score": lambda mass_GT, safe_T: mass_GT
        },
        "everything stays, whatever the budget. Each head keeps exactly `budget` tokens.": (
            lambda mass_GT, *_: torch.ones_like(mass_GT, dtype=torch.bool)
        ),
        "a budget of exactly sinks + recent raises. It can be kept: nothing but the protected "
        "stays.": {"refuses": lambda budget, n_safe, n_tokens: n_tokens > budget <= n_safe},
        "the budget counts the heavy ones alone, and the protected ones come on top. It counts "
        "everything that a head keeps.": {"on_top": True},
        "protected tokens take part in the contest, and a place that one of them wins is lost: "
        "heads keep less than the budget. Take them out of it first.": {
            "contest": lambda mass_GT, safe_T: mass_GT
        },
        "protected tokens get mass 0 in the contest, and so may others have: of equals the older "
        "wins, which can be a sink. Hide them with -inf.": {
            "contest": lambda mass_GT, safe_T: mass_GT.masked_fill(safe_T, 0.0)
        },
        "the heaviest of all tokens are chosen first and the protected ones added: heads keep more "
        "than the budget. Choose among the others.": {
            "contest": lambda mass_GT, safe_T: mass_GT,
            "on_top": True,
        },
        "all heads keep the same tokens, those with the most mass in all. Each head has a choice "
        "of its own.": lambda mass_GT, *rest: _choose(mass_GT.sum(0).expand_as(mass_GT), *rest),
        "keep[:, -recent:] is everything when recent is 0.": _last_recent,
        "places are those among the tokens behind the sinks: add `sinks` to each.": _not_shifted,
        "the lightest of the others stay. The heaviest should.": {
            "contest": lambda mass_GT, safe_T: (-mass_GT).masked_fill(safe_T, float("-inf"))
        },
        "masses that differ become equal in float32, or narrower. Compare them as they are.": {
            "contest": lambda mass_GT, safe_T: mass_GT.float().masked_fill(safe_T, float("-inf"))
        },
        "a budget smaller than sinks + recent is accepted. It cannot be kept, so raise "
        "ValueError.": {"refuses": lambda budget, n_safe, n_tokens: False},
        "a budget of at least T raises when sinks + recent are more than that. With room for all, "
        "everything stays: ask for that first.": {
            "refuses": lambda budget, n_safe, n_tokens: budget < n_safe
        },
        "everything as heavy as the last that fits stays, so equal masses exceed the budget.": {
            "best": as_good_as_nth
        },
        "of equal masses the newer token stays. The older should.": {"best": last_best},
        "of equal masses any one stays: topk promises no order among equals. The older should: "
        "sort with argsort(..., stable=True).": {"best": any_best},
    },
)
