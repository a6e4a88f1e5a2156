"""11.2: three scores of whole tokens.

G key/value heads, H query heads, R = H / G, T tokens, W latest queries, D head width.
"""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise, named
from kvlab.course.ch11._normal import normal

Q = Exercise(
    "11.2",
    "What a token is worth",
    "token_scores",
    points=5,
    minutes=30,
    difficulty=3,
    statement=r"""
Write three scores for whole tokens, higher is better (chapter 11, "Nine ways to choose tokens"). A layer has read T tokens: `k_GTD` are its keys, and `q_HTD`
the queries of **all** tokens in all H query heads. Query heads $0 \ldots R-1$ share KV head 0, the next R share head 1, and so on. Attention is
causal (query t sees tokens 0 to t), and its logits are divided by the square root of D. Return, in this order:

- `heavy_GT` (the idea of H2O): all attention that a token got, summed over all T queries and over the R heads of the group;
- `latest_GT` (the idea of SnapKV): the same of the latest W queries alone;
- `apart_GT` (KeyDiff): how far a key points away from the others. Divide each key by its length, take the mean of these over the tokens of the head, and return
  **minus** the cosine between the key and that mean (their product, divided by both lengths).

If one head has the keys `[1., 0.]`, `[1., 0.]` and `[0., 2.]`, the mean of the unit keys is `[⅔, ⅓]`, and `apart` is −0.894, −0.894 and
−0.447: the third key stands apart. Roughly 12 lines.
""",
    hints=(
        "Two of the three are sums of the same table of weights, one row for each query. Which rows? And which of the three never looks at a "
        "query?",
        "q_GRTD = q_HTD.unflatten(0, (G, -1)); logits_GRTT = q_GRTD @ k_GTD[:, None].mT / D**0.5, hidden above the diagonal "
        "(torch.ones(T, T).triu(1).bool()), softmax over the last axis. heavy sums over heads (1) and queries (2). For apart you need norms over the last axis.",
        "heavy = weights.sum((1, 2)); latest = weights[:, :, T - W :].sum((1, 2)); unit = k_GTD / k_GTD.norm(dim=-1, keepdim=True); mean_G1D = unit.mean(1, "
        "keepdim=True); apart = -(unit * mean_G1D).sum(-1) / mean_G1D.norm(dim=-1)",
    ),
)


@Q.case
def case(rng):
    n_groups, share, n_latest, width = rng.sample([2, 3, 4, 5], 4)
    n_tokens = n_latest + rng.randint(3, 6)
    return {
        "k_GTD": normal(rng, n_groups, n_tokens, width) + normal(rng, n_groups, 1, width),
        "q_HTD": normal(rng, n_groups * share, n_tokens, width),
        "W": n_latest,
    }


@Q.solution
def token_scores(k_GTD, q_HTD, W):
    """Return heavy_GT, latest_GT and apart_GT."""
    ### BEGIN SOLUTION
    n_groups, n_tokens, width = k_GTD.shape
    q_GRTD = q_HTD.unflatten(0, (n_groups, -1))
    logits_GRTT = q_GRTD @ k_GTD[:, None].transpose(-1, -2) / width**0.5
    later_TT = torch.ones(n_tokens, n_tokens).triu(1).bool()
    weights_GRTT = logits_GRTT.masked_fill(later_TT, float("-inf")).softmax(-1)
    heavy_GT = weights_GRTT.sum((1, 2))
    latest_GT = weights_GRTT[:, :, n_tokens - W :].sum((1, 2))
    unit_GTD = k_GTD / k_GTD.norm(dim=-1, keepdim=True)
    mean_G1D = unit_GTD.mean(1, keepdim=True)
    apart_GT = -(unit_GTD * mean_G1D).sum(-1) / mean_G1D.norm(dim=-1)
    return heavy_GT, latest_GT, apart_GT
    ### END SOLUTION


@Q.also_right
@Q.right
def query_by_query(k_GTD, q_HTD, W):
    """Head by head and query by query; cosines by torch's own function."""
    n_groups, n_tokens, width = k_GTD.shape
    heavy, latest = (torch.zeros(n_groups, n_tokens, dtype=torch.float64) for _ in range(2))
    for h in range(len(q_HTD)):
        g = h * n_groups // len(q_HTD)
        for t in range(n_tokens):
            weights = torch.softmax(k_GTD[g, : t + 1] @ q_HTD[h, t] / width**0.5, 0)
            heavy[g, : t + 1] += weights
            if t >= n_tokens - W:
                latest[g, : t + 1] += weights
    means = torch.nn.functional.normalize(k_GTD, dim=2).sum(1, keepdim=True)
    return heavy, latest, -torch.cosine_similarity(k_GTD, means, dim=2)


# --- laws ---


def _scores(answer, case, **other):
    given = {name: case[name] for name in ("k_GTD", "q_HTD", "W")} | other
    return named(answer(*given.values()), "heavy_GT", "latest_GT", "apart_GT")


for _name in ("heavy_GT", "latest_GT", "apart_GT"):

    @Q.law(f"{_name[:-3]} tokens")
    def _(answer, case, name=_name):
        return {name: _scores(answer, case)[name]}


@Q.law("one head of each kind; all queries are the latest; one is")
def _(answer, case):
    k_GTD, q_HTD = case["k_GTD"], case["q_HTD"]
    n_tokens = k_GTD.shape[1]
    one = _scores(answer, case, k_GTD=k_GTD[:1], q_HTD=q_HTD[:1])
    every = _scores(answer, case, W=n_tokens)
    last = _scores(answer, case, W=1)
    return {f"of one head, {name}": x_GT for name, x_GT in one.items()} | {
        "with W = T, latest_GT": every["latest_GT"],
        "with W = 1, latest_GT": last["latest_GT"],
    }


@Q.law("longer keys point no other way")
def _(answer, case):
    """Each key times a number of its own: directions stay."""
    n_tokens = case["k_GTD"].shape[1]
    louder_T1 = torch.arange(1, n_tokens + 1, dtype=torch.float64)[:, None]
    return {
        "of longer keys, apart_GT": _scores(answer, case, k_GTD=case["k_GTD"] * louder_T1)[
            "apart_GT"
        ]
    }


# --- what goes wrong: each changes one thing of this ---


def _apart(k_GTD):
    unit_GTD = torch.nn.functional.normalize(k_GTD, dim=-1)
    return -torch.cosine_similarity(unit_GTD, unit_GTD.mean(1, keepdim=True), dim=-1)


def _of_others(k_GTD):
    unit_GTD = torch.nn.functional.normalize(k_GTD, dim=-1)
    return unit_GTD.sum(1, keepdim=True) - unit_GTD


def _token_scores(
    k_GTD, q_HTD, W, *, heads=lambda q, n: q.unflatten(0, (n, -1)), above=1,
    scale=lambda width: width**0.5, over_heads=torch.sum, over_queries=torch.sum,
    rows=lambda T, W: slice(T - W, T), apart=_apart, of="queries",
):  # fmt: skip
    n_groups, n_tokens, width = k_GTD.shape
    q_GRTD = heads(q_HTD, n_groups)
    logits = q_GRTD @ k_GTD[:, None].transpose(-1, -2) / scale(width)
    unseen_TT = torch.ones(n_tokens, n_tokens).triu(above).bool()
    weights_GRTT = logits.masked_fill(unseen_TT, float("-inf")).softmax(-1)
    heavy_GT = over_queries(over_heads(weights_GRTT, 1), 1 if of == "queries" else 2)
    latest_GTT = over_heads(weights_GRTT[:, :, rows(n_tokens, W)], 1)
    return heavy_GT, over_queries(latest_GTT, 1), apart(k_GTD)


Q.mistakes(
    _token_scores,
    {
        "the mean over the heads of a group: sum them, each of them reads this token.": {
            "over_heads": torch.mean
        },
        "attention has no causal mask: queries see tokens that came after them.": {"above": 10**6},
        "the mask hides a query's own token. Query t sees the tokens 0 to t, that one included.": {
            "above": 0
        },
        "the mask is off by one: each query sees the token after it.": {"above": 2},
        "logits are not divided by the square root of D.": {"scale": lambda width: 1},
        "logits are divided by D, and not by its square root.": {"scale": lambda width: width},
        "the mean over the queries. A token's score is the sum of what it got.": {
            "over_queries": torch.mean
        },
        "of the heads of a group only the largest weight counts. Add them up.": {
            "over_heads": torch.amax
        },
        "one of the latest W queries is left out.": {"rows": lambda T, W: slice(T - W + 1, T)},
        "the first two scores are exchanged: heavy comes first, then latest.": lambda *given: (
            (lambda heavy, latest, apart: (latest, heavy, apart))(*_token_scores(*given))
        ),
        "the weights are summed along the axis in which they add up to 1: over the tokens of a query, or over "
        "the queries after a softmax over them. The softmax runs over tokens, the sum over queries.": {"of": "tokens"},
        "the first W queries are taken for the latest.": {"rows": lambda T, W: slice(0, W)},
        "only the last query is asked, not the latest W.": {"rows": lambda T, W: slice(T - 1, T)},
        "query heads are put beside the wrong KV heads: neighbours share one (unflatten(0, (G, R))), not "
        "every G-th.": {"heads": lambda q, n: q.unflatten(0, (-1, n)).transpose(0, 1)},
        "the sign: a key that points the way of the others gets the highest score. It is minus the "
        "cosine.": {"apart": lambda k: -_apart(k)},
        "the mean is that of the keys as they are, so long keys count more. Divide each by its length "
        "first.": {
            "apart": lambda k: -torch.cosine_similarity(k, k.mean(1, keepdim=True), dim=-1)
        },
        "a product, and not a cosine: long keys seem to point further. Divide by both lengths.": {
            "apart": lambda k: -(
                k * torch.nn.functional.normalize(k, dim=-1).mean(1, keepdim=True)
            ).sum(-1)
        },
        "the product is divided by the key's length alone. A cosine is divided by the mean's length, too.": {
            "apart": lambda k: -(
                torch.nn.functional.normalize(k, dim=-1)
                * torch.nn.functional.normalize(k, dim=-1).mean(1, keepdim=True)
            ).sum(-1)
        },
        "1 minus the cosine. It orders tokens alike, but minus the cosine is asked for.": {
            "apart": lambda k: 1 + _apart(k)
        },
        "the mean is that of the other keys. It is that of all keys of the head, this one too.": {
            "apart": lambda k: -torch.cosine_similarity(k, _of_others(k), dim=-1)
        },
        "lengths are taken over the tokens. A key's length is the root of the sum over its channels.": {
            "apart": lambda k: -torch.cosine_similarity(
                k, torch.nn.functional.normalize(k, dim=1).mean(1, keepdim=True), dim=-1
            )
        },
        "the mean is taken over the keys of all heads. Each head has keys of its own.": {
            "apart": lambda k: -torch.cosine_similarity(
                k, torch.nn.functional.normalize(k, dim=-1).mean((0, 1), keepdim=True), dim=-1
            )
        },
        "the length of the key: that is another rule. KeyDiff asks where a key points.": {
            "apart": lambda k: -k.norm(dim=-1)
        },
    },
)  # fmt: skip
