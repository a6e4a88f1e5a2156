"""1.1: three readings of one token.

S tokens, C width of an embedding, D width of a query and a key, E width of a value.
"""

import torch

from kvlab.course.author import Exercise, Near, named
from kvlab.course.ch01._matrices import matrix, normals

Q = Exercise(
    "1.1",
    "Three readings of one token",
    "project",
    points=2,
    minutes=10,
    difficulty=1,
    statement="""
Turn S embeddings into queries, keys and values. Matrices are stored as in PyTorch, outputs first: `w_q` and
`w_k` are (D, C), `w_v` is (E, C), and one token's query is `w_q @ x_C`. Do all tokens at once. About three
lines.

With `x_SC = [[1, 2]]` and `w_q = [[1, 0], [0, 1], [1, 1]]` the query is `[[1, 2, 3]]`.
""",
    hints=(
        "Write the shapes beside each other: x is (S, C), w_q is (D, C), and you want (S, D). "
        "Which axis do they share?",
        "A product of matrices adds over the last axis of the first and the first axis of the "
        "second. For w that has to be C, and C stands last.",
        "q_SD = x_SC @ w_q.T, and the same with w_k and w_v; return the three.",
    ),
    imports=("torch",),
)


@Q.case
def case(rng):
    s, c, d, e = rng.sample([2, 3, 4, 5, 6, 7], 4)
    normal = normals(rng.randrange(2**31))
    return {"x_SC": normal(s, c), "w_q": normal(d, c), "w_k": normal(d, c), "w_v": normal(e, c)}


@Q.solution
def project(x_SC, w_q, w_k, w_v):
    """Return q_SD, k_SD, v_SE."""
    ### BEGIN SOLUTION
    return x_SC @ w_q.T, x_SC @ w_k.T, x_SC @ w_v.T
    ### END SOLUTION


@Q.right
def number_by_number(x_SC, *weights):
    """One dot product per number."""
    rows = [[[sum((w_C * x_C).tolist()) for w_C in w] for x_C in x_SC] for w in weights]
    return [torch.tensor(one, dtype=torch.float64) for one in rows]


@Q.also_right
def by_einsum(x, w_q, w_k, w_v):
    return tuple(torch.einsum("sc,dc->sd", x, w) for w in (w_q, w_k, w_v))


_GIVEN, _GIVES = ("x_SC", "w_q", "w_k", "w_v"), ("q_SD", "k_SD", "v_SE")

Q.agrees("the same as one dot product per number", *_GIVEN, gives=_GIVES)


@Q.law("a token has the same vectors whoever stands before it")
def _(answer, case):
    """The last token read by itself, and as one of all."""
    x_SC, *weights = (case[name] for name in _GIVEN)
    alone = named(answer(x_SC[-1:], *weights), *_GIVES)
    every = named(answer(x_SC, *weights), *_GIVES)
    last = {name: matrix(value, name)[-1:] for name, value in every.items()}
    seen = {name: Near(last[name]).of(value) for name, value in alone.items()}
    return seen | {f"_{name}": value for name, value in last.items()}


@Q.law("queries, keys and values as wide as an embedding")
def _(answer, case):
    """Square matrices are transposed, too."""
    x_SC, *weights = (case[name] for name in _GIVEN)
    n = min(min(w.shape) for w in weights)
    return named(answer(x_SC[:, :n], *(w[:n, :n] for w in weights)), *_GIVES)


@Q.law("values wider than queries, and narrower")
def _(answer, case):
    """A value's width is its own, E."""
    x_SC, w_q, w_k, _ = (case[name] for name in _GIVEN)
    values = {"twice as wide": torch.cat((w_q, w_k)), "one number": w_q[:1]}
    return {
        f"{what}, {name}": found
        for what, w_v in values.items()
        for name, found in named(answer(x_SC, w_q, w_k, w_v), *_GIVES).items()
    }


# --- what goes wrong ---

Q.mistakes(
    None,
    {
        "the matrices have shape (D, C), outputs first, as PyTorch stores them; x @ w would need "
        "(C, D). Transpose them: w.T.": lambda x_SC, *weights: [x_SC @ w for w in weights],
        "reshape is no transposition: it keeps the order of the numbers in memory and cuts the "
        "rows elsewhere. Use w.T.": lambda x_SC, *weights: [
            x_SC @ w.reshape(w.shape[1], w.shape[0]) for w in weights
        ],
        "the keys are made with w_q. A token would then show the very thing that it looks for; "
        "keys have a matrix of their own, w_k.": lambda x_SC, w_q, w_k, w_v: project(
            x_SC, w_q, w_q, w_v
        ),
        "queries and keys are exchanged: w_q makes the queries, which come first, and w_k the "
        "keys.": lambda x_SC, w_q, w_k, w_v: project(x_SC, w_k, w_q, w_v),
        "keys and values are swapped. The order is queries, keys, "
        "values.": lambda x_SC, w_q, w_k, w_v: project(x_SC, w_q, w_v, w_k),
        "the values are the embeddings themselves. What a token hands over is a reading of its "
        "embedding, too: w_v.": lambda x_SC, *weights: [*project(x_SC, *weights)[:2], x_SC.clone()],
        "w @ x_C is for one token. In x_SC every row is a token, and C stands last in both: x_SC @ "
        "w.T does all rows at once.": lambda x_SC, *weights: [w @ x_SC for w in weights],
        "every result lies on its side: a column for each token, not a row. w @ x.T is the "
        "transpose of x @ w.T.": lambda x_SC, *weights: [w @ x_SC.T for w in weights],
        "the values are made with w_k. They have a matrix of their own, w_v, and a width of their "
        "own, E.": lambda x_SC, w_q, w_k, w_v: project(x_SC, w_q, w_k, w_k),
        "only the last token has a query. Every token asks.": lambda x_SC, w_q, w_k, w_v: (
            x_SC[-1:] @ w_q.T,
            x_SC @ w_k.T,
            x_SC @ w_v.T,
        ),
    },
)
