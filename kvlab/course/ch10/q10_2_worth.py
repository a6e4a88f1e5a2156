"""10.2: what an element of the keys, and one of the values, is worth.

G key/value heads, H query heads, R = H / G, T tokens, W latest queries, D head width.
"""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise, as_tensor, named
from kvlab.course.ch10._contest import normal

Q = Exercise(
    "10.2",
    "What an element is worth",
    "output_aware",
    points=5,
    minutes=25,
    difficulty=3,
    statement=r"""
Write the two output-aware scores. You get the keys and values of G heads, and the W latest queries of all H query
heads; the last query is that of the last token. Query heads $0 \ldots R-1$ share KV head 0, the next R share head 1,
and so on.

- A key's score is its size times its channel's input: the mean over the W queries of the query's *size* in that channel,
  added up over the R heads that share the key.
- A value's score is its size times its token's input: the mean over the W queries of the attention weight that the token
  gets, added up over the R heads. Attention is causal: query $w$ stands at token $T - W + w$ and sees the tokens up to
  itself. Logits are divided by the square root of D.

Example with one head, one channel and one query: keys `[2., -1.]`, query `[0.]`: both key scores are 0 (the input is
0), both weights are ½. Values `[4., -6.]` have the scores 2 and 3. Roughly 10 lines.
""",
    hints=(
        "Which input does a key's element meet, one per token or one per channel? And a value's?",
        "q_GRWD = q_HWD.unflatten(0, (G, -1)) puts the R query heads beside the keys they share. "
        "The key's input is q_GRWD.abs().mean(2).sum(1), of shape (G, D). For the values you need "
        "attention weights of shape (G, R, W, T), with a mask: query w is token T - W + w.",
        "logits = q_GRWD @ k_GTD[:, None].transpose(-1, -2) / D**0.5; hide slots t > T - W + w "
        "with masked_fill(..., -inf); a_GT = logits.softmax(-1).mean(2).sum(1). Return "
        "k_GTD.abs() * q_GD[:, None] and v_GTD.abs() * a_GT[..., None].",
    ),
)


@Q.case
def case(rng):
    n_groups, share, n_queries, width = rng.sample([2, 3, 4, 5], 4)
    n_tokens = n_queries + rng.randint(3, 6) + 5
    return {
        "k_GTD": normal(rng, n_groups, n_tokens, width),
        "v_GTD": normal(rng, n_groups, n_tokens, width),
        "q_HWD": normal(rng, n_groups * share, n_queries, width),
        "_channel": rng.randrange(width),
    }


@Q.solution
def output_aware(k_GTD, v_GTD, q_HWD):
    """Return the scores of all keys and of all values: k_score_GTD, v_score_GTD."""
    ### BEGIN SOLUTION
    n_groups, n_tokens, width = k_GTD.shape
    n_queries = q_HWD.shape[1]
    q_GRWD = q_HWD.unflatten(0, (n_groups, -1))
    logits_GRWT = q_GRWD @ k_GTD[:, None].transpose(-1, -2) / width**0.5
    at_W1 = torch.arange(n_tokens - n_queries, n_tokens)[:, None]
    unseen_WT = torch.arange(n_tokens) > at_W1
    weights_GRWT = logits_GRWT.masked_fill(unseen_WT, float("-inf")).softmax(-1)
    q_in_GD = q_GRWD.abs().mean(2).sum(1)
    a_in_GT = weights_GRWT.mean(2).sum(1)
    return k_GTD.abs() * q_in_GD[:, None], v_GTD.abs() * a_in_GT[..., None]
    ### END SOLUTION


@Q.also_right
@Q.right
def head_by_head(k_GTD, v_GTD, q_HWD):
    """Head by head and query by query."""
    n_groups, n_tokens, width = k_GTD.shape
    n_heads, n_queries, _ = q_HWD.shape
    q_in = torch.zeros(n_groups, width, dtype=torch.float64)
    a_in = torch.zeros(n_groups, n_tokens, dtype=torch.float64)
    for h in range(n_heads):
        g = h // (n_heads // n_groups)
        for w in range(n_queries):
            upto = n_tokens - n_queries + w + 1
            q_in[g] += q_HWD[h, w].abs() / n_queries
            a = torch.softmax(k_GTD[g, :upto] @ q_HWD[h, w] / width**0.5, 0)
            a_in[g, :upto] += a / n_queries
    k_score = torch.einsum("gtd,gd->gtd", k_GTD.abs(), q_in)
    return k_score, torch.einsum("gtd,gt->gtd", v_GTD.abs(), a_in)


# --- laws: the two halves apart, so that a mistake in one is named whatever the other is ---


def _scores(answer, k_GTD, v_GTD, q_HWD):
    return named(answer(k_GTD, v_GTD, q_HWD), "k_score_GTD", "v_score_GTD")


@Q.law("keys: same as a loop over heads and queries")
def _(answer, case):
    scores = _scores(answer, case["k_GTD"], case["v_GTD"], case["q_HWD"])
    return {"k_score_GTD": scores["k_score_GTD"]}


@Q.law("values: same as a loop over heads and queries")
def _(answer, case):
    scores = _scores(answer, case["k_GTD"], case["v_GTD"], case["q_HWD"])
    return {"v_score_GTD": scores["v_score_GTD"]}


@Q.law("turning signs in keys and queries, or in values, changes no score")
def _(answer, case):
    """Turn one channel's sign in keys and queries, and all values': no product gets larger."""
    sign_D = torch.ones(case["k_GTD"].shape[2], dtype=torch.float64)
    sign_D[case["_channel"]] = -1
    turned = _scores(answer, case["k_GTD"] * sign_D, -case["v_GTD"], case["q_HWD"] * sign_D)
    return {f"turned {name}": score_GTD for name, score_GTD in turned.items()}


@Q.law("with values of 1 the scores of a head's tokens add up to 1")
def _(answer, case):
    """With values of 1 the score is the attention itself; a group adds up that of its R heads."""
    scores = _scores(answer, case["k_GTD"], torch.ones_like(case["v_GTD"]), case["q_HWD"])
    return {"v_score added up over tokens, sum_GD": as_tensor(scores["v_score_GTD"]).sum(1)}


@Q.law("one head and one query; as many queries as tokens")
def _(answer, case):
    k_GTD, v_GTD, q_HWD = case["k_GTD"], case["v_GTD"], case["q_HWD"]
    n_queries = q_HWD.shape[1]
    one = _scores(answer, k_GTD[:1], v_GTD[:1], q_HWD[:1, -1:])
    short = _scores(answer, k_GTD[:, :n_queries], v_GTD[:, :n_queries], q_HWD)
    return {f"of one head and one query, {name}": x_GTD for name, x_GTD in one.items()} | {
        f"of as many queries as tokens, {name}": x_GTD for name, x_GTD in short.items()
    }


# --- what goes wrong: each changes one thing of this ---


def _signed(x):
    return x


def _worth(
    k_GTD,
    v_GTD,
    q_HWD,
    *,
    size_k=torch.abs,
    size_v=torch.abs,
    q_input=None,
    scale=lambda width: width**0.5,
    hidden_after=False,
    axis=-1,
    first=lambda n_tokens, n_queries: n_tokens - n_queries,
    over_queries=torch.mean,
    over_heads=torch.sum,
    seen_by=lambda unseen_WT: len(unseen_WT),
    swapped=False,
):
    (n_groups, n_tokens, width), n_queries = k_GTD.shape, q_HWD.shape[1]
    q_GRWD = q_HWD.unflatten(0, (n_groups, -1))
    logits_GRWT = q_GRWD @ k_GTD[:, None].transpose(-1, -2) / scale(width)
    at_W1 = first(n_tokens, n_queries) + torch.arange(n_queries)[:, None]
    unseen_WT = torch.arange(n_tokens) > at_W1
    if not hidden_after:
        logits_GRWT = logits_GRWT.masked_fill(unseen_WT, float("-inf"))
    weights_GRWT = logits_GRWT.softmax(axis).masked_fill(unseen_WT, 0.0)
    a_GT = over_heads(over_queries(weights_GRWT, 2), 1) * n_queries / seen_by(unseen_WT)
    a_GT1 = a_GT[..., None]
    q_GD = q_input(q_GRWD) if q_input else over_heads(over_queries(q_GRWD.abs(), 2), 1)
    if swapped:
        return k_GTD.abs() * a_GT1, v_GTD.abs() * q_GD[:, None]
    return size_k(k_GTD) * q_GD[:, None], size_v(v_GTD) * a_GT1


Q.mistakes(
    _worth,
    {
        "this is magnitude: the elements' size alone. Each is worth its size times what meets it, a "
        "channel's queries or a token's attention.": lambda k_GTD, v_GTD, q_HWD: (
            (k_GTD.abs(), v_GTD.abs())
        ),
        "an axis of one is lost: squeeze takes away every axis of size 1, also those that were "
        "asked for.": lambda *given: tuple(x_GTD.squeeze() for x_GTD in _worth(*given)),
        "the elements keep their sign, so a large negative product counts as worthless. Take the "
        "absolute value.": {"size_k": _signed, "size_v": _signed},
        "the queries keep their sign, so inputs of opposite signs cancel. The input is the mean of "
        "the queries' sizes.": {"q_input": lambda q_GRWD: q_GRWD.mean(2).sum(1)},
        "neither keys nor queries are taken by their size: opposite signs cancel, and large "
        "negative products count as worthless.": {
            "size_k": _signed,
            "q_input": lambda q_GRWD: q_GRWD.mean(2).sum(1),
        },
        "queries and heads are added up before their absolute value is taken, so inputs of "
        "opposite signs cancel.": {"q_input": lambda q_GRWD: q_GRWD.mean(2).sum(1).abs()},
        "the absolute value is taken of each head's mean query. Take it of each query first, and "
        "then the mean.": {"q_input": lambda q_GRWD: q_GRWD.mean(2).abs().sum(1)},
        "query heads are put beside the wrong KV heads: neighbours share one (unflatten(0, (G, "
        "R))), not every G-th.": lambda k_GTD, v_GTD, q_HWD: _worth(
            k_GTD, v_GTD, q_HWD.unflatten(0, (-1, len(k_GTD))).transpose(0, 1).flatten(0, 1)
        ),
        "the inputs are swapped: keys are weighed by attention and values by the query.": {
            "swapped": True
        },
        "the two results are in the other order: the keys' scores come first.": lambda *given: (
            _worth(*given)[::-1]
        ),
        "attention has no causal mask: the earlier ones of the W queries see tokens that came "
        "after them.": {"first": lambda n_tokens, n_queries: n_tokens},
        "the mask is off by one: each query sees the token after it.": {
            "first": lambda n_tokens, n_queries: n_tokens - n_queries + 1
        },
        "the mask is off by one: a query does not see its own token. Query w sees the tokens up to "
        "T - W + w, that one included.": {
            "first": lambda n_tokens, n_queries: n_tokens - n_queries - 1
        },
        "the mask takes query w for that of token w. The W queries are the latest: query w stands "
        "at token T - W + w.": {"first": lambda n_tokens, n_queries: 0},
        "logits are not divided by the square root of D.": {"scale": lambda width: 1},
        "logits are divided by D, and not by its square root.": {"scale": lambda width: width},
        "a key's score is divided by the square root of D as well. Only the logits are.": {
            "size_k": lambda k_GTD: k_GTD.abs() / k_GTD.shape[2] ** 0.5
        },
        "later tokens are hidden after the softmax, so a query's weights do not add up to 1. Hide them "
        "before it, with -inf.": {"hidden_after": True},
        "the softmax runs over the queries. Each query divides its attention among the tokens: "
        "softmax(-1).": {"axis": -2},
        "a token's weights are averaged over the queries that see it. The mean is over all W of them.": {
            "seen_by": lambda unseen_WT: (~unseen_WT).sum(0)
        },
        "the root of the mean square, and not the mean of the queries' sizes.": {
            "q_input": lambda q_GRWD: q_GRWD.pow(2).mean(2).sqrt().sum(1)
        },
        "of the heads of a group only the largest input counts. Add them up.": {
            "over_heads": torch.amax
        },
        "only the last query is asked, not all W.": lambda k_GTD, v_GTD, q_HWD: _worth(
            k_GTD, v_GTD, q_HWD[:, -1:]
        ),
        "the W queries are added up. Over queries it is the mean, over the heads of a group the "
        "sum.": {"over_queries": torch.sum},
        "the heads of a group are averaged and not added.": {"over_heads": torch.mean},
        "only the first query head of each group is asked. All R of them read the same key.": (
            lambda k_GTD, v_GTD, q_HWD: _worth(k_GTD, v_GTD, q_HWD[:: len(q_HWD) // len(k_GTD)])
        ),
    },
)
