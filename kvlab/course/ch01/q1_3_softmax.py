"""1.3: a softmax that survives. S tokens that ask, T tokens that are asked."""

import torch

from kvlab.course.author import Exercise, Near
from kvlab.course.ch01._matrices import matrix, normals

Q = Exercise(
    "1.3",
    "A softmax that survives",
    "stable_softmax",
    points=3,
    minutes=15,
    difficulty=2,
    statement=r"""
Turn each row of scores into weights: $e^{s_t} / \sum_u e^{s_u}$. Scores may be of any size, ±10,000 for instance. A score
of minus infinity means "hidden" and gets the weight 0; a row in which everything is hidden gets zeros only.
torch's own softmax and its relatives may not be used. About five lines.

`[[0, 0], [10000, 0], [-inf, -inf]]` becomes `[[0.5, 0.5], [1, 0], [0, 0]]`.
""",
    hints=(
        "What is the largest number whose exponential a machine can hold? And what may you "
        "subtract from a row without changing its weights?",
        "Subtract each row's own largest score; then the largest exponential is 1. In a row that "
        "is all minus infinity that gives nan: replace such a maximum by 0, and mind the sum.",
        "top = scores_ST.amax(-1, keepdim=True); top = top.masked_fill(top == float('-inf'), 0.0); "
        "lifted = (scores_ST - top).exp(); total = lifted.sum(-1, keepdim=True); return lifted / "
        "total.masked_fill(total == 0, 1.0)",
    ),
    forbids=("softmax", "log_softmax", "softmin", "logsumexp"),
    imports=("torch",),
)


@Q.case
def case(rng):
    s, t = rng.sample([3, 4, 5, 6, 7], 2)
    normal = normals(rng.randrange(2**31))
    hidden_ST = normal(s, t) > 0.7
    hidden_ST[:, rng.randrange(t)] = False  # somebody is left to look at
    hidden_ST[rng.randrange(s)] = True  # but not for this row
    return {"scores_ST": 2 * normal(s, t), "_hidden_ST": hidden_ST, "_shift_S1": normal(s, 1)}


@Q.solution
def stable_softmax(scores_ST):
    """Return weights_ST: each row adds up to 1, or is all zeros if all of it is hidden."""
    ### BEGIN SOLUTION
    top_S1 = scores_ST.amax(-1, keepdim=True)
    top_S1 = top_S1.masked_fill(top_S1 == float("-inf"), 0.0)
    lifted_ST = (scores_ST - top_S1).exp()
    total_S1 = lifted_ST.sum(-1, keepdim=True)
    return lifted_ST / total_S1.masked_fill(total_S1 == 0, 1.0)
    ### END SOLUTION


@Q.right
def torchs_own(scores_ST):
    """With zeros for rows that may look at nothing."""
    return torch.softmax(scores_ST, dim=-1).nan_to_num(0.0)


@Q.also_right
def row_by_row(scores):
    rows = []
    for row in scores:
        finite = row > float("-inf")
        weights = torch.zeros_like(row)
        if finite.any():
            lifted = torch.exp(row[finite] - max(row[finite].tolist()))
            weights[finite] = lifted / lifted.sum()
        rows.append(weights)
    return torch.stack(rows)


Q.agrees("the same as torch's", "scores_ST", gives="weights_ST")


@Q.law("scores of ten thousand")
def _(answer, case):
    return {"weights_ST": answer(case["scores_ST"] * 1e4)}


@Q.law("adding a number to all scores of a row changes nothing")
def _(answer, case):
    shifted_ST = answer(case["scores_ST"] + 1e4 * case["_shift_S1"])
    weights_ST = answer(case["scores_ST"])
    wanted = Near(weights_ST, rtol=1e-6, atol=1e-9)
    return {"weights_ST": wanted.of(shifted_ST), "_unshifted": weights_ST}


@Q.law("hidden scores, and a row with nothing else")
def _(answer, case):
    huge_ST = case["scores_ST"] * 1e4
    return {"weights_ST": answer(huge_ST.masked_fill(case["_hidden_ST"], float("-inf")))}


@Q.law("hidden scores beside very low ones")
def _(answer, case):
    hidden = float("-inf")
    rows = [[-10000.0, hidden], [hidden, -5000.0], [-9990.0, -10000.0]]
    return {"weights_ST": answer(torch.tensor(rows, dtype=torch.float64))}


@Q.law("hidden scores among ordinary ones")
def _(answer, case):
    hidden_ST = case["_hidden_ST"]
    return {"weights_ST": answer(case["scores_ST"].masked_fill(hidden_ST, float("-inf")))}


@Q.law("equal scores, and a score of 0")
def _(answer, case):
    """All scores 0; then each row's largest score is 0, and the others lie below it."""
    scores_ST = case["scores_ST"]
    top_S1 = scores_ST.amax(-1, keepdim=True)
    return {
        "all scores 0, weights_ST": answer(torch.zeros_like(scores_ST)),
        "the largest score 0, weights_ST": answer(scores_ST - top_S1),
    }


@Q.law("each row adds up to 1, or to 0 where all is hidden")
def _(answer, case):
    """To nine digits: a number in the denominator that is not very small shows."""
    hidden_ST = case["scores_ST"].masked_fill(case["_hidden_ST"], float("-inf"))
    total_S = matrix(answer(hidden_ST), "weights_ST").sum(1)
    some_S = (~case["_hidden_ST"]).any(1).double()
    return {"sums of rows, total_S": Near(some_S, rtol=0.0, atol=1.5e-9).of(total_S)}


@Q.law("one row, and one score a row")
def _(answer, case):
    scores_ST = case["scores_ST"]
    return {
        "row, weights_ST": answer(scores_ST[:1]),
        "column, weights_ST": answer(scores_ST[:, :1]),
    }


# --- what goes wrong: each changes one thing of this ---


def _top(scores_ST):
    """Each row's largest score, 0 where it is minus infinity."""
    return scores_ST.amax(1, keepdim=True).nan_to_num(neginf=0.0)


def _sum(lifted_ST):
    return lifted_ST.sum(1, keepdim=True)


def _sum_or_one(lifted_ST):
    """Each row's sum, 1 for a row of zeros, which stays one."""
    return _sum(lifted_ST).masked_fill(_sum(lifted_ST) == 0, 1.0)


def _softmax(scores_ST, *, top=_top, total=_sum_or_one):
    lifted_ST = (scores_ST - top(scores_ST)).exp()
    return lifted_ST / total(lifted_ST)


Q.mistakes(
    _softmax,
    {
        "the exponential overflows, or every one of a row is 0. Subtract each row's largest score "
        "before it.": {"top": lambda scores_ST: 0.0, "total": _sum},
        "the shares add up to 1 down each column, over those who ask. They should do so along each "
        "row, over those who are asked.": {
            "top": lambda scores_ST: scores_ST.amax(0, keepdim=True),
            "total": lambda lifted_ST: lifted_ST.sum(0, keepdim=True),
        },
        "there is one sum for the whole table. Each row is shared out by itself.": {
            "top": torch.max,
            "total": torch.sum,
        },
        "one maximum is subtracted from all rows. A row far below it is left with zeros only; take "
        "each row's own.": {"top": torch.max, "total": _sum},
        "one maximum is subtracted from all rows, and the nan of a row far below it is made 0: such a "
        "row loses its weights. Take each row's own maximum.": lambda scores_ST: _softmax(
            scores_ST, top=torch.max, total=_sum
        ).nan_to_num(0.0),
        "scores are clamped to a range where the exponential is safe. That changes the weights of "
        "large scores; a shift does not.": lambda scores_ST: _softmax(scores_ST.clamp(-50, 50)),
        "scores are divided by their sum without the exponential. Negative scores then give "
        "negative weights.": lambda scores_ST: scores_ST / _sum(scores_ST),
        "the maximum that is subtracted is never below 0. In a row of scores around -10,000 every "
        "exponential is 0 then: subtract the row's own maximum, whatever its sign.": {
            "top": lambda scores_ST: _top(scores_ST).clamp(min=0)
        },
        "a small number is added to the sum, so the shares add up to less than 1. Treat the row "
        "without anything to see by itself instead.": {
            "total": lambda lifted_ST: _sum(lifted_ST) + 1e-6
        },
        "one maximum per row has shape (S,), and torch lines that up with the columns. With "
        "keepdim=True it is (S, 1), one for each row.": {
            "top": lambda scores_ST: scores_ST.amax(1)
        },
        "torch's max along an axis gives two things, the values and where they stand. Take .values "
        "of it, or use amax.": {"top": lambda scores_ST: scores_ST.max(1, keepdim=True)},
        "a row of nothing but minus infinity gives nan: infinity minus infinity. It should be all "
        "zeros.": {"top": lambda scores_ST: scores_ST.amax(1, keepdim=True)},
        "minus infinity is replaced by a number such as -10,000, and a score that is really as low then "
        "gets as much as a hidden one. Keep minus infinity: its exponential is 0.": lambda scores_ST: (
            _softmax(scores_ST.masked_fill(scores_ST == float("-inf"), -1e4)).masked_fill(
                (scores_ST == float("-inf")).all(1, keepdim=True), 0.0
            )
        ),
        "a row in which everything is hidden comes out as equal shares. That is what a large "
        "negative number in place of minus infinity gives, or 1 / T in place of nan. It should be "
        "all zeros.": lambda scores_ST: _softmax(scores_ST.clamp(min=-1e9)),
    },
)
