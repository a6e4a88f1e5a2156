"""2.5: attention against need. L layers, H heads, S queries, T slots, V vocabulary."""

from math import exp

import torch

from kvlab.course.author import Exercise, LentFunction, Near, NotData, brief, named
from kvlab.course.ch02._suspects import square

Q = Exercise(
    "2.5",
    "Looked at, or needed?",
    "rank_words",
    points=4,
    minutes=20,
    difficulty=3,
    statement=r"""
Rank the context words of a prompt in two ways. The last token asks; the context are the positions 0 to `n_tokens - 2`.

- *By attention*: the weight that the **last** token gives to a position, averaged over all layers and heads.
  `weights_LHST` has them all (S and T are both `n_tokens`).
- *By need*: the KL divergence, in nats, from the full prediction to the one with that position hidden. `logits(None)`
  gives the next token's logits_V with nothing hidden, `logits(t)` with position t hidden from the last token.

$$\mathrm{KL} = \sum_{\text{tokens}} p \, (\ln p - \ln p'), \quad p \text{ full}, \; p' \text{ with } t \text{ hidden}$$

Return two lists of positions, each with the largest first, such as `[3, 1, 0, 2], [1, 3, 2, 0]` for five tokens. Roughly 6 lines.
""",
    hints=(
        "Attention: which row of weights_LHST belongs to the token that asks? Need: what does the "
        "model say with nothing hidden, and what with one position hidden?",
        "weights_LHST[:, :, -1].mean((0, 1)) has one number per position; leave the last position "
        "out. For the need, turn logits into log-probabilities with log_softmax(-1) first.",
        "full = logits(None).log_softmax(-1); other = logits(t).log_softmax(-1); kl = (full.exp() "
        "* (full - other)).sum(). Sort range(n_tokens - 1) by each, the largest first.",
    ),
    imports=("torch",),
)


@Q.case
def case(rng):
    """Weights and logits for which every known mistake gives a ranking of its own.

    There are ten words or more, so that other mistakes do not hit on one of those by chance.
    """
    while True:
        words = _some_words(rng)
        answers = (by_hand, *(wrong.answer for wrong in Q.wrong))
        rankings = [rank(*_given(words)) for rank in answers]
        if len({str(ranking) for ranking in rankings}) == len(rankings):
            return words


def _some_words(rng):
    n_layers, n_heads, n_tokens = rng.choice([2, 3]), rng.choice([4, 5]), rng.choice([10, 11, 12])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape):
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    scores_LHST = 2 * normal(n_layers, n_heads, n_tokens, n_tokens)
    weights_LHST = scores_LHST.masked_fill(~square(n_tokens), float("-inf")).softmax(-1)
    full_V = 2 * normal(15)
    without_TV = full_V + normal(n_tokens, 15) * (0.3 + 1.5 * normal(n_tokens, 1).abs())
    # logits are free up to a constant, and each reading of the model may have its own
    logits_TV = torch.cat((without_TV, full_V[None])) + 5 * normal(n_tokens + 1, 1)
    return {"weights_LHST": weights_LHST, "n_tokens": n_tokens, "_logits_TV": logits_TV}


def _given(case, more=0.0, times=1.0):
    """What an answer is called with; to each reading's logits another multiple of `more` is added.

    Before that they are multiplied by `times`.
    Its second function gives the next token's logits, by the position that is hidden.
    """
    rows_TV, n_tokens = case["_logits_TV"], case["n_tokens"]

    def logits(hidden=None):
        if hidden is not None and not 0 <= hidden < n_tokens:
            raise ValueError(f"position {hidden} was to be hidden; there are 0 to {n_tokens - 1}")
        row = n_tokens if hidden is None else hidden
        return times * rows_TV[row] + more * row

    return case["weights_LHST"], LentFunction(logits), n_tokens


@Q.solution
def rank_words(weights_LHST, logits, n_tokens):
    """Return two lists of positions: by attention, and by need."""
    ### BEGIN SOLUTION
    looked_at = weights_LHST[:, :, -1].mean((0, 1)).tolist()
    full_V = logits(None).log_softmax(-1)
    context = range(n_tokens - 1)
    missed = [float((full_V.exp() * (full_V - logits(t).log_softmax(-1))).sum()) for t in context]
    return [sorted(context, key=lambda t: -of[t]) for of in (looked_at, missed)]
    ### END SOLUTION


@Q.right
def by_hand(weights_LHST, logits, n_tokens):
    """Sums over layers, heads and tokens, one by one."""
    looked_at, missed = [], []
    full_V = logits(None).log_softmax(-1).tolist()
    for t in range(n_tokens - 1):
        looked_at.append(sum(float(w) for layer in weights_LHST for w in layer[:, -1, t]))
        other_V = logits(t).log_softmax(-1).tolist()
        missed.append(sum(exp(p) * (p - q) for p, q in zip(full_V, other_V, strict=True)))
    context = range(n_tokens - 1)
    return [sorted(context, key=lambda t, of=of: -of[t]) for of in (looked_at, missed)]


@Q.also_right
def by_kl_div(weights_LHST, logits, n_tokens):
    context = n_tokens - 1
    looked_at = weights_LHST[:, :, -1, :context].flatten(0, 1).sum(0)
    full = torch.softmax(logits(None), -1)
    need = torch.stack(
        [
            torch.nn.functional.kl_div(torch.log_softmax(logits(t), -1), full, reduction="sum")
            for t in range(context)
        ]
    )
    return looked_at.argsort(descending=True).tolist(), need.argsort(descending=True).tolist()


_GIVES = "by attention", "by need"


@Q.law("same as by hand")
def _(answer, case):
    return named(answer(*_given(case)), *_GIVES)


@Q.law("a constant added to all logits changes nothing")
def _(answer, case):
    """Logits with another constant added in each reading mean the same probabilities."""
    shifted = named(answer(*_given(case, more=3.0)), *_GIVES)
    same = named(answer(*_given(case)), *_GIVES)
    return {name: Near(same[name]).of(shifted[name]) for name in _GIVES} | {"_same": same}


def _kl(p, other):
    return (p.exp() * (p - other)).sum()


def _missed(case, times):
    """What hiding each position costs."""
    _, logits, n_tokens = _given(case, times=times)
    full_V = logits(None).log_softmax(-1)
    return [_kl(full_V, logits(t).log_softmax(-1)).item() for t in range(n_tokens - 1)]


@Q.law("logits so far apart that probabilities are rounded to 0")
def _(answer, case):
    """Positions that cost nothing any more, but for rounding, may stand in any order at the end."""
    given = _given(case, times=300.0)
    n_missed = sum(cost > 1e-3 for cost in _missed(case, 300.0))
    found = named(answer(*given), *_GIVES)["by need"]
    found = found.tolist() if isinstance(found, torch.Tensor) else found
    if not isinstance(found, list) or not all(type(t) is int for t in found):
        raise NotData(f"your code returned {brief(found)} by need; expected a list of positions.")
    return {
        "by need, the positions that are missed": found[:n_missed],
        "by need, the others in ascending order": sorted(found[n_missed:]),
    }


@Q.law("two tokens, of which one is context")
def _(answer, case):
    weights_LHST, logits, _ = _given(case)
    return named(answer(weights_LHST[:, :, :2, :2], logits, 2), *_GIVES)


# --- what goes wrong: each changes one thing of this ---


def _rank(
    weights,
    logits,
    n,
    *,
    looked_at=lambda w: w[:, :, -1].mean((0, 1)),
    need=_kl,
    reads=lambda logits_V: logits_V.log_softmax(-1),
    beyond=1,
    largest_first=True,
):
    full_V, context = reads(logits(None)), range(n - beyond)
    missed_T = torch.stack([need(full_V, reads(logits(t))) for t in context])
    both = looked_at(weights)[: len(context)], missed_T
    return [x.argsort(descending=largest_first, stable=True).tolist() for x in both]


def _as_they_are(logits_V):
    return logits_V


Q.mistakes(
    _rank,
    {
        "attention is averaged over all queries. Earlier tokens are seen by more of them; the last "
        "token alone is asked about.": {"looked_at": lambda w: w.mean((0, 1, 2))},
        "the largest weight of any head is taken; the mean over layers and heads was asked for.": {
            "looked_at": lambda w: w[:, :, -1].amax((0, 1))
        },
        "only the last layer's heads are averaged.": {"looked_at": lambda w: w[-1, :, -1].mean(0)},
        "queries and slots are exchanged: this is who looks at position 0, not whom the last token "
        "looks at.": {"looked_at": lambda w: w[:, :, :, 0].mean((0, 1))},
        "by attention, the positions come in the order of the text. That is the row of the first "
        "token, or the column of the last: both are 0 nearly everywhere. The row of the last token "
        "is [:, :, -1].": {"looked_at": lambda w: w[:, :, 0].mean((0, 1))},
        "the two lists are in each other's place: by attention first, then by "
        "need.": lambda *given: _rank(*given)[::-1],
        "the last token is ranked, too. It is the one that asks; only the n_tokens - 1 before it "
        "are context.": {"beyond": 0},
        "by attention, the last token is ranked, too. It is the one that asks; only the n_tokens - 1 "
        "before it are context.": lambda *given: [_rank(*given, beyond=0)[0], _rank(*given)[1]],
        "the smallest comes first; the largest should.": {"largest_first": False},
        "the divergence is the wrong way round: weigh by the probabilities of the full "
        "prediction.": {"need": lambda p, other: _kl(other, p)},
        "only the likeliest word is looked at. The divergence adds up over the whole vocabulary.": {
            "need": lambda p, other: (p - other)[p.argmax()].abs()
        },
        "only the probability of the likeliest word is compared. The divergence adds up over the "
        "whole vocabulary.": {"need": lambda p, other: (p.exp() - other.exp())[p.argmax()]},
        "probabilities are compared by the sum of their differences. The divergence weighs the "
        "difference of their logarithms by the full prediction.": {
            "need": lambda p, other: (p.exp() - other.exp()).abs().sum()
        },
        "the formula got logits where it needs probabilities and their logarithms: "
        "log_softmax(-1) first, then exp() for p.": {"reads": _as_they_are},
        "logits are taken for probabilities and for their logarithms. Take log_softmax(-1) first, and "
        "exp() of that for p.": {
            "reads": _as_they_are,
            "need": lambda p, other: (p * (p - other)).sum(),
        },
        "logits are compared as they are. They mean something up to a constant only: take "
        "log_softmax first.": {
            "reads": _as_they_are,
            "need": lambda full_V, other_V: (other_V - full_V).abs().sum(),
        },
    },
)
