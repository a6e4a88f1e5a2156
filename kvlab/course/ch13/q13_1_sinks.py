"""13.1: which tokens are sinks, and what attention gives without them.

H query heads, S queries, T tokens, D head width.
"""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise, Near, named
from kvlab.course.ch13._normal import normal

Q = Exercise(
    "13.1",
    "Remove the sinks",
    "remove_sinks",
    points=4,
    minutes=25,
    difficulty=3,
    statement=r"""
Which tokens of a text are sinks, and what does attention lose without them (chapter 13, "Where attention goes when it has nowhere to go")? `weights_HST` are the attention weights of the latest S queries in H heads on
all T tokens, and `v_HTD` the values, one set for each head. Only the tokens that come **before all S queries**, 0 to T − S − 1, can be sinks.

A token is a **sink** if its weight, the mean over the S queries, is at least `share` in **at least one** head. Evict all sinks from **all** heads: they get no weight, and in each row what is left is scaled up so that it sums to 1 again, as the softmax would have it. Return three things:

- `sinks`, the list of sinks in the order of the text, whole numbers (it may be empty);
- `out_HSD`, the output of attention without them;
- `error`, the length of the difference between the outputs with and without sinks, all heads and queries together, divided by the length of the outputs with them. (The length is the root of the sum of all squares.)

One head, two queries on four tokens with the weights `[.5, .1, .4, 0]` and `[.7, .1, .1, .1]`, and a `share` of 0.5: token 0 has the mean 0.6 and is a sink, and without it the rows are `[0, .2, .8, 0]` and `[0, ⅓, ⅓, ⅓]`. About 8 lines.
""",
    hints=(
        "Which axis is the mean taken over, and which of the two others is asked with \"at least one\"? What must a row sum to when some of its weights are gone?",
        "mean_HT = weights_HST.mean(1); a token is a sink if (mean_HT >= share).any(0), among the first T - S tokens. Set these columns of a copy of the weights to "
        "0 and divide each row by its sum.",
        "n = T - S; is_sink_T = torch.zeros(T, dtype=torch.bool); is_sink_T[:n] = (weights_HST.mean(1)[:, :n] >= share).any(0); left = weights_HST.masked_fill(is_sink_T, 0); "
        "left = left / left.sum(-1, keepdim=True); out = left @ v_HTD; dense = weights_HST @ v_HTD; return is_sink_T.nonzero()[:, 0].tolist(), out, ((out - dense).norm() / dense.norm()).item()",
    ),
    imports=("torch",),
)  # fmt: skip


def _weights(rng, n_heads: int, n_queries: int, n_tokens: int):
    """Causal weights of the latest queries, with two tokens that one head each looks at."""
    logits_HST = normal(rng, n_heads, n_queries, n_tokens)
    early = rng.sample(range(n_tokens - n_queries), 2)
    for head, token in zip(rng.sample(range(n_heads), 2), early, strict=True):
        logits_HST[head, :, token] += rng.uniform(2.5, 3.5)
    logits_HST[:, 0, n_tokens - n_queries] += 4  # a query that looks at itself is no sink
    logits_HST[0, 1, early[0]] += 2  # nor is what one query looks at
    later_ST = torch.ones(n_queries, n_tokens).triu(n_tokens - n_queries + 1).bool()
    return logits_HST.masked_fill(later_ST, float("-inf")).softmax(-1)


@Q.case
def case(rng):
    """A share between the means, so that no rounding decides."""
    n_heads, n_queries, width = rng.sample([2, 3, 4, 5], 3)
    n_tokens = n_queries + rng.randint(5, 8)
    weights_HST = _weights(rng, n_heads, n_queries, n_tokens)
    means = weights_HST.mean(1)[:, : n_tokens - n_queries].amax(0).sort(descending=True).values
    return {
        "weights_HST": weights_HST,
        "v_HTD": normal(rng, n_heads, n_tokens, width),
        "share": float(means[1:3].mean()),
    }


@Q.solution
def remove_sinks(weights_HST, v_HTD, share):
    """Return the sinks, the output without them and its error."""
    ### BEGIN SOLUTION
    _, n_queries, n_tokens = weights_HST.shape
    is_sink_T = (weights_HST.mean(1) >= share).any(0)
    is_sink_T[n_tokens - n_queries :] = False
    left_HST = weights_HST.masked_fill(is_sink_T, 0)
    left_HST = left_HST / left_HST.sum(-1, keepdim=True)
    dense_HSD, out_HSD = weights_HST @ v_HTD, left_HST @ v_HTD
    error = (out_HSD - dense_HSD).norm() / dense_HSD.norm()
    return is_sink_T.nonzero()[:, 0].tolist(), out_HSD, error.item()
    ### END SOLUTION


@Q.also_right
@Q.right
def row_by_row(weights_HST, v_HTD, share):
    """Tokens, heads and queries in loops, with what stays picked out."""
    n_heads, n_queries, n_tokens = weights_HST.shape
    sinks = []
    for t in range(n_tokens - n_queries):
        if max(float(sum(head[:, t]) / n_queries) for head in weights_HST) >= share:
            sinks.append(t)
    stay = [t for t in range(n_tokens) if t not in sinks]
    out_HSD = torch.zeros(n_heads, n_queries, v_HTD.shape[2], dtype=torch.float64)
    for h in range(n_heads):
        for s in range(n_queries):
            row = weights_HST[h, s, stay]
            out_HSD[h, s] = row @ v_HTD[h, stay] / row.sum()
    dense_HSD = torch.einsum("hst,htd->hsd", weights_HST, v_HTD)
    error = float((out_HSD - dense_HSD).square().sum() / dense_HSD.square().sum()) ** 0.5
    return sinks, out_HSD, error


# --- laws ---

RESULTS = ("sinks", "out_HSD", "error")


def _found(answer, case, **other):
    given = {name: case[name] for name in ("weights_HST", "v_HTD", "share")} | other
    found = named(answer(*given.values()), *RESULTS)
    return found | {"sinks": list(found["sinks"])}


for _name in RESULTS:

    @Q.law({"sinks": "the sinks", "out_HSD": "the output", "error": "the error"}[_name])
    def _(answer, case, name=_name):
        return {name: _found(answer, case)[name]}


@Q.law("no token is a sink: nothing is lost")
def _(answer, case):
    found = _found(answer, case, share=1.5)
    dense_HSD = case["weights_HST"] @ case["v_HTD"]
    return {
        "with a share of 1.5, sinks": Near([]).of(found["sinks"]),
        "with a share of 1.5, out_HSD": Near(dense_HSD).of(found["out_HSD"]),
        "with a share of 1.5, error": Near(0.0).of(float(found["error"])),
    }


@Q.law("the values of sinks do not matter to what is left")
def _(answer, case):
    """Their values are poisoned; the output without them is as it was."""
    before = _found(answer, case)
    v_HTD = case["v_HTD"].clone()
    v_HTD[:, before["sinks"]] = 1e6
    after = _found(answer, case, v_HTD=v_HTD)
    return {"with other values of the sinks, out_HSD": Near(before["out_HSD"]).of(after["out_HSD"])}


@Q.law("a mean of exactly the share is enough; one head, one query")
def _(answer, case):
    """Numbers that are exact in binary, and a case of the smallest kind."""
    weights_HST = torch.tensor(
        [[[0.25, 0.25, 0.25, 0.25, 0.0], [0.25, 0.5, 0.125, 0.0, 0.125]]], dtype=torch.float64
    )
    exact = _found(answer, case, weights_HST=weights_HST, v_HTD=case["v_HTD"][:1, :5], share=0.25)
    weights_HST = torch.tensor([[[0.125, 0.5, 0.375]]], dtype=torch.float64)
    least = _found(answer, case, weights_HST=weights_HST, v_HTD=case["v_HTD"][:1, :3], share=0.3)
    return {f"exactly the share, {name}": x for name, x in exact.items()} | {
        f"one head and query, {name}": x for name, x in least.items()
    }


# --- what goes wrong: each changes one thing of this ---


def _every(chosen_T, weights_HST, n_free):
    left_HST = weights_HST.masked_fill(chosen_T, 0)
    return left_HST / left_HST.sum(-1, keepdim=True)


def _remove(
    weights_HST, v_HTD, share, *, mean=lambda w: w.mean(1), enough=torch.ge,
    heads=lambda is_HT: is_HT.any(0), own=False, first=False, top=False, left=_every,
    over=lambda out, dense: dense, size=torch.norm,
):  # fmt: skip
    _, n_queries, n_tokens = weights_HST.shape
    n_free = n_tokens if own else n_tokens - n_queries
    mean_HT = mean(weights_HST)[:, :n_free]
    is_T = torch.zeros(n_tokens, dtype=torch.bool)
    is_T[:n_free] = heads(enough(mean_HT, torch.tensor(share, dtype=torch.float64)))
    if first:
        is_T[1:] = False
    if top and is_T.any():
        best = int(mean_HT.amax(0).argmax())
        is_T = torch.arange(n_tokens) == best
    dense_HSD, out_HSD = weights_HST @ v_HTD, left(is_T, weights_HST, n_free) @ v_HTD
    error = size(out_HSD - dense_HSD) / size(over(out_HSD, dense_HSD))
    return is_T.nonzero()[:, 0].tolist(), out_HSD, error.item()


def _each_head_its_own(weights_HST, v_HTD, share):
    _, n_queries, n_tokens = weights_HST.shape
    is_HT = weights_HST.mean(1) >= share
    is_HT[:, n_tokens - n_queries :] = False
    left_HST = weights_HST.masked_fill(is_HT[:, None], 0)
    left_HST = left_HST / left_HST.sum(-1, keepdim=True)
    dense_HSD, out_HSD = weights_HST @ v_HTD, left_HST @ v_HTD
    error = (out_HSD - dense_HSD).norm() / dense_HSD.norm()
    return is_HT.any(0).nonzero()[:, 0].tolist(), out_HSD, error.item()


Q.mistakes(
    _remove,
    {
        "the mean runs over the heads as well, so a sink of one head is not seen. One head is enough.": {
            "heads": lambda is_HT: is_HT[0], "mean": lambda w: w.mean((0, 1), keepdim=True)[0]
        },
        "all heads must agree there. At least one is enough.": {"heads": lambda is_HT: is_HT.all(0)},
        "what one query looks at is taken for a sink: the mean over the queries counts, not the largest.": {
            "mean": lambda w: w.amax(1)
        },
        "weights are added up over the queries; the share is that of the mean.": {
            "mean": lambda w: w.sum(1)
        },
        "a mean of exactly `share` is enough: at least is >=.": {"enough": torch.gt},
        "the queries' own tokens are counted. Only tokens before all of the queries can be sinks.": {
            "own": True
        },
        "only the first token is asked. Sinks are found, and not known beforehand.": {"first": True},
        "only the strongest sink goes. All tokens that reach the share do.": {"top": True},
        "weights are set to 0 and the rows do not sum to 1 any more. The softmax shares out what an evicted token had.": {
            "left": lambda is_T, w, n: w.masked_fill(is_T, 0)
        },
        "all heads share one scale. Each row sums to 1 by itself.": {
            "left": lambda is_T, w, n: w.masked_fill(is_T, 0) / w.masked_fill(is_T, 0).sum(-1).mean()
        },
        "each head loses its own sinks only. They are evicted from all heads.": _each_head_its_own,
        "the error is divided by the length of the new output; by that with the sinks was asked for.": {
            "over": lambda out, dense: out
        },
        "squares are not added up: the length is the root of the sum of squares.": {
            "size": lambda x: x.abs().sum()
        },
    },
)  # fmt: skip
