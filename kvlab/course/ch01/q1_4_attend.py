"""1.4: one head.

S queries, T pairs of a key and a value, D width of a query and a key, E width of a value.
"""

import math

import torch

from kvlab.course.author import Exercise, Near
from kvlab.course.ch01._matrices import matrix, normals

Q = Exercise(
    "1.4",
    "One head",
    "attend",
    points=3,
    minutes=15,
    difficulty=2,
    statement="""
All of attention for one head: scores (divided as in 1.2), weights, mixture. There are S queries and T pairs of a
key and a value; values have a width E of their own. Scores may be of any size, as in 1.3. `torch.softmax` is allowed
here, `scaled_dot_product_attention` is not. About three lines.

A query of zeros fits all keys alike: with `v_TE = [[1, 0], [3, 2]]` it gets `[[2, 1]]`.

The check also looks whether each number lies between the smallest and the largest value of its channel, and
what happens when the pairs come in another order.
""",
    hints=(
        "Scores, weights, mixture: write the shape that each of the three should have before any "
        "code. The result has E channels. Whose width is E?",
        "Weights are shares of one query's attention: along which axis of (S, T) do they add up "
        "to 1? The divisor belongs to the scores, so it is made of D.",
        "weights_ST = (q_SD @ k_TD.T / q_SD.shape[1] ** 0.5).softmax(dim=1); return weights_ST @ "
        "v_TE",
    ),
    forbids=("scaled_dot_product_attention",),
    imports=("torch",),
)


@Q.case
def case(rng):
    s, t, d, e = rng.sample([2, 3, 4, 5, 6, 7], 4)
    normal = normals(rng.randrange(2**31))
    order_T = torch.tensor([*range(1, t), 0])  # every key and every value moves
    return {"q_SD": normal(s, d), "k_TD": normal(t, d), "v_TE": normal(t, e), "_order_T": order_T}


@Q.solution
def attend(q_SD, k_TD, v_TE):
    """Return out_SE: for each query, the values mixed by its weights."""
    ### BEGIN SOLUTION
    scores_ST = q_SD @ k_TD.T / q_SD.shape[1] ** 0.5
    weights_ST = scores_ST.softmax(dim=-1)
    return weights_ST @ v_TE
    ### END SOLUTION


@Q.right
def number_by_number(q_SD, k_TD, v_TE):
    out_SE = torch.zeros(len(q_SD), v_TE.shape[1], dtype=torch.float64)
    for s, q_D in enumerate(q_SD.tolist()):
        products = [[a * b for a, b in zip(q_D, k_D, strict=True)] for k_D in k_TD.tolist()]
        scores = [sum(some) / math.sqrt(len(q_D)) for some in products]
        lifted = [math.exp(score - max(scores)) for score in scores]
        for t, one in enumerate(lifted):
            out_SE[s] += one / sum(lifted) * v_TE[t]
    return out_SE


@Q.also_right
def query_by_query(q, k, v):
    out = []
    for query in q:
        scores = torch.stack([query.dot(key) for key in k]).div(k.size(1) ** 0.5)
        lifted = (scores - scores.max()).exp()
        out.append((lifted[:, None] * v).sum(0) / lifted.sum())
    return torch.stack(out)


Q.agrees("the same as number by number", "q_SD", "k_TD", "v_TE", gives="out_SE")


@Q.law("a mixture lies between the values")
def _(answer, case):
    out_SE = matrix(answer(case["q_SD"], case["k_TD"], case["v_TE"]), "out_SE")
    below = out_SE < case["v_TE"].amin(0) - 1e-9
    above = out_SE > case["v_TE"].amax(0) + 1e-9
    return {
        "numbers below the smallest value of their channel": Near(0).of(int(below.sum())),
        "numbers above the largest value of their channel": Near(0).of(int(above.sum())),
    }


@Q.law("the order of the pairs does not matter, the pairs do")
def _(answer, case):
    q, k, v, order = case["q_SD"], case["k_TD"], case["v_TE"], case["_order_T"]
    before = matrix(answer(q, k, v), "out_SE")
    keys_only = matrix(answer(q, k[order], v), "out_SE")
    moves = bool(((keys_only - before).abs() > 1e-6).any())
    return {
        "out_SE": Near(before).of(answer(q, k[order], v[order])),
        "the output moves when only the keys are put in another order": Near(True).of(moves),
        "_before": before,
    }


@Q.law("scores of ten thousand")
def _(answer, case):
    return {"out_SE": answer(10_000 * case["q_SD"], case["k_TD"], case["v_TE"])}


@Q.law("one query, and one pair")
def _(answer, case):
    q_SD, k_TD, v_TE = case["q_SD"], case["k_TD"], case["v_TE"]
    return {
        "one query, out_SE": answer(q_SD[:1], k_TD, v_TE),
        "one pair, out_SE": answer(q_SD, k_TD[:1], v_TE[:1]),
        "values of width 1, out_SE": answer(q_SD, k_TD, v_TE[:, :1]),
    }


@Q.law("as many queries as keys, and values as wide as keys")
def _(answer, case):
    n = min(len(case["q_SD"]), len(case["k_TD"]))
    k_TD = case["k_TD"][:n]
    return {"out_SE": answer(case["q_SD"][:n], k_TD, k_TD.flip(1))}


# --- what goes wrong: most change one thing of this ---


def _attend(
    q,
    k,
    v,
    *,
    divisor=lambda q, k, v: q.shape[1] ** 0.5,
    weigh=lambda scores_ST: scores_ST.softmax(1),
):
    return weigh(q @ k.T / divisor(q, k, v)) @ v


def _causal(scores_ST):
    later_ST = torch.ones_like(scores_ST).triu(1).bool()
    return scores_ST.masked_fill(later_ST, float("-inf")).softmax(1)


Q.mistakes(
    _attend,
    {
        "the keys are mixed. They only decide the weights; what flows is the "
        "values.": lambda q, k, v: attend(q, k, k),
        "each query gets the one value with the highest score. Attention mixes all of them, each "
        "by its weight.": lambda q, k, v: v[(q @ k.T).argmax(1)],
        "the scores are not divided by the root of D.": {"divisor": lambda q, k, v: 1.0},
        "the scores are divided by D; it should be the root of D, as in 1.2.": {
            "divisor": lambda q, k, v: q.shape[1]
        },
        "the scores are divided by the root of T, the number of keys. A score adds up D products, "
        "one per channel.": {"divisor": lambda q, k, v: k.shape[0] ** 0.5},
        "some keys are hidden from some queries. Nothing is hidden here: every query may use all T "
        "pairs. (Chapter 2 hides some.)": {"weigh": _causal},
        "the table of scores lies on its side: (T, S). Rows are those who ask: q_SD @ "
        "k_TD.T.": lambda q, k, v: attend(k, q, v),
        "axes of length 1 are gone: squeeze() also takes the axis of a single query. The result is "
        "(S, E), whatever S is.": lambda q, k, v: attend(q, k, v).squeeze(),
        "these are the weights, (S, T). What was asked for is what flows: the values mixed by "
        "them, (S, E).": lambda q, k, v: (q @ k.T / q.shape[1] ** 0.5).softmax(1),
        "the scores are divided by the root of E, the width of a value. A score adds up D "
        "products.": {"divisor": lambda q, k, v: v.shape[1] ** 0.5},
        "the weights add up to 1 over the queries. Each query shares out its own attention, over "
        "the keys.": {"weigh": lambda scores_ST: scores_ST.softmax(0)},
        "there is no softmax: the scores themselves mix the values, so weights are negative and do "
        "not add up to 1.": {"weigh": lambda scores_ST: scores_ST},
        "the exponential of a large score is infinite, and infinity by infinity is nan. Subtract each "
        "row's largest score first, as in 1.3, or let torch.softmax do it.": {
            "weigh": lambda scores_ST: scores_ST.exp() / scores_ST.exp().sum(1, keepdim=True)
        },
        "the exponentials are never divided by their sum, so the weights do not add up to 1.": {
            "weigh": torch.exp
        },
        "every value gets the same weight, whoever asks: the queries are not "
        "used.": lambda q, k, v: v.mean(0).expand(len(q), -1),
    },
)
