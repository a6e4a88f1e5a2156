"""1.2: scores that keep their size at any width.

S tokens that ask, T tokens that are asked, C width of an embedding, D width of a query and a key.
"""

import math

import torch

from kvlab.course.author import Exercise, Near
from kvlab.course.ch01._matrices import matrix, normals

Q = Exercise(
    "1.2",
    "Scores that keep their size",
    "scaled_scores",
    points=2,
    minutes=10,
    difficulty=1,
    statement="""
Every token asks every token: `scores_ST[s, t]` says how well the query of token s fits the key of token t
(here T = S). Project, compare, and divide by a number that depends on a width alone, and not on the scores: it
is chosen such that, where the numbers in queries and keys have spread 1, so have the scores on average, however wide queries and keys are. Mind which of C,
D and S it is made of. About three lines.

With `x_SC = [[1, 2]]`, `w_q = [[1, 0]] * 4` and `w_k = [[0, 1]] * 4` (so D = 4) the only product of a query and a key is
1 · 2, four times, and the score is 8 / √4 = 4.
""",
    hints=(
        "Three steps: project to queries and keys, compare each query with each key, divide. How "
        "many products does one score add up?",
        "All pairs at once are one product of matrices: (S, D) @ (D, T). The divisor is the root "
        "of the number of products in a score, and that is neither C nor S.",
        "q_SD = x_SC @ w_q.T; k_TD = x_SC @ w_k.T; return q_SD @ k_TD.T / w_q.shape[0] ** 0.5",
    ),
    imports=("torch",),
)


@Q.case
def case(rng):
    s, c, d = rng.sample([3, 5, 6, 7, 8], 3)
    normal = normals(rng.randrange(2**31))
    given = {"x_SC": normal(s, c), "w_q": normal(d, c), "w_k": normal(d, c)}
    return {**given, "_seed": rng.randrange(2**31)}


@Q.solution
def scaled_scores(x_SC, w_q, w_k):
    """Return scores_ST: row s belongs to the query of token s. w_q and w_k are (D, C)."""
    ### BEGIN SOLUTION
    q_SD, k_TD = x_SC @ w_q.T, x_SC @ w_k.T
    return q_SD @ k_TD.T / w_q.shape[0] ** 0.5
    ### END SOLUTION


@Q.right
def pair_by_pair(x_SC, w_q, w_k):
    """One pair of tokens after the other."""
    scores_ST = torch.zeros(len(x_SC), len(x_SC), dtype=torch.float64)
    for s, asking_C in enumerate(x_SC):
        for t, asked_C in enumerate(x_SC):
            products = (w_q @ asking_C) * (w_k @ asked_C)
            scores_ST[s, t] = sum(products.tolist()) / math.sqrt(len(products))
    return scores_ST


@Q.also_right
def shrunk_beforehand(x, w_q, w_k):
    shrink = w_q.shape[0] ** -0.25
    keys = [w_k @ token * shrink for token in x]
    rows = []
    for token in x:
        query = w_q @ token * shrink
        rows.append(torch.stack([(query * key).sum() for key in keys]))
    return torch.stack(rows)


Q.agrees("the same as pair by pair", "x_SC", "w_q", "w_k", gives="scores_ST")


@Q.law("random tokens have scores of spread 1 at any width")
def _(answer, case):
    """The rows of the weights have length 1."""
    normal, widths = normals(case["_seed"]), (4, 16, 64, 256)
    w_q, w_k = torch.linalg.qr(normal(2, max(widths), max(widths)))[0]
    seen = {}
    for d in widths:
        scores_ST = matrix(answer(normal(48, max(widths)), w_q[:d], w_k[:d]), "scores_ST")
        spread = scores_ST.std().item()
        seen[f"spread of the scores at D = {d}"] = Near(1.0, rtol=0.0, atol=0.4).of(spread)
    return seen


@Q.law("one token asks itself")
def _(answer, case):
    return {"scores_ST": answer(case["x_SC"][:1], case["w_q"], case["w_k"])}


# --- what goes wrong: most change the divisor ---


def _scores(x_SC, w_q, w_k, *, divisor):
    return (x_SC @ w_q.T) @ (x_SC @ w_k.T).T / divisor(x_SC, w_q)


def _cosine(x_SC, w_q, w_k):
    q_SD, k_TD = x_SC @ w_q.T, x_SC @ w_k.T
    return (q_SD / q_SD.norm(dim=1, keepdim=True)) @ (k_TD / k_TD.norm(dim=1, keepdim=True)).T


def _measured(x_SC, w_q, w_k):
    scores_ST = _scores(x_SC, w_q, w_k, divisor=lambda *_: 1.0)
    return scores_ST / scores_ST.std()


def _weights(x_SC, w_q, w_k):
    return scaled_scores(x_SC, w_q, w_k).softmax(-1)


Q.mistakes(
    _scores,
    {
        "the scores are divided by the spread that these very scores have, so a text of loud tokens "
        "looks like a quiet one. The divisor is made of a width alone.": _measured,
        "these are weights: a softmax was taken. Scores were asked for, and the softmax comes in "
        "1.3.": _weights,
        "the scores are not divided, so they grow with the width: their spread is the root of D.": {
            "divisor": lambda x_SC, w_q: 1.0
        },
        "divided by the root of C, the width of the model. A score adds up D products, one per "
        "channel of a query.": {"divisor": lambda x_SC, w_q: x_SC.shape[1] ** 0.5},
        "divided by D. Spreads add as squares, so the sum of D products spreads like the root of "
        "D.": {"divisor": lambda x_SC, w_q: w_q.shape[0]},
        "divided by the root of the number of tokens. That is no sum over tokens; it is one over "
        "channels.": {"divisor": lambda x_SC, w_q: x_SC.shape[0] ** 0.5},
        "multiplied by the root of D where it should be divided.": {
            "divisor": lambda x_SC, w_q: w_q.shape[0] ** -0.5
        },
        "transposed: rows are those who ask, columns those who are asked. Row s belongs to query "
        "s.": lambda *given: scaled_scores(*given).T,
        "the matrices have shape (D, C), outputs first, as PyTorch stores them; x @ w would need (C, D). "
        "Transpose them: w.T.": lambda x_SC, w_q, w_k: (
            (x_SC @ w_q) @ (x_SC @ w_k).T / w_q.shape[0] ** 0.5
        ),
        "queries are (S, D), and so are keys: (T, D). To compare each with each, the second has to "
        "be (D, T): k_TD.T.": lambda x_SC, w_q, w_k: (
            (x_SC @ w_q.T) @ (x_SC @ w_k.T) / w_q.shape[0] ** 0.5
        ),
        "queries and keys are cut to length 1, which makes it a cosine. A key may be loud; only "
        "the width is divided out.": _cosine,
    },
)
