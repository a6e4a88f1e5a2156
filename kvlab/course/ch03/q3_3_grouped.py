"""3.3: query heads that share libraries, without a copy of a library for each of them."""

import torch

from kvlab.course.author import Exercise

MOST = (
    100_000  # numbers in one tensor: a library of the large case has 25,600, all its copies 819,200
)

Q = Exercise(
    "3.3",
    "Shared libraries, never copied",
    "shared_attention",
    points=5,
    minutes=25,
    difficulty=3,
    statement=f"""
To the section "Share the libraries". H query heads share G libraries: query heads 0 to H/G - 1 use library 0, the next H/G
use library 1, and so on. `q_BHSD` holds the queries of the last S of T tokens, `k_BGTD` and `v_BGTD` the libraries.
Attend causally: the query of token i sees tokens 0 to i, and the first query belongs to token T - S. Scores are divided by the root of D.
Return `out_BHSD`.

The libraries must be used where they lie: no operation of yours, torch's or numpy's, may make an array of more than {MOST:,} numbers. In the largest
case of `check` a library for each query head would have 819,200; keys as they are have 51,200. Attention functions of torch are refused.

With two queries `[1, 0]` and `[0, 1]` in two heads (S = 1, D = 2), one library of the keys `[0, 0]`, `[0, 0]` and the values
`[2, 0]`, `[0, 4]`, both heads give `[1, 2]`: the weights are one half each. Six to eight lines.
""",
    hints=(
        "Heads that share a library ask the same keys. Could they be more rows of one question?",
        "Make the queries (B, G, R x S, D) with R = H / G: cut the axis of heads into (G, R), then join R and S. One "
        "product with the keys, and (R x S, T) scores a library. `q[:, :, None] @ k[:, :, None]` copies k inside.",
        "q = q_BHSD.unflatten(1, (G, -1)).flatten(2, 3); scores = (q @ k_BGTD.transpose(-1, -2) / D**0.5).unflatten(2, "
        "(-1, S)); seen_ST = torch.arange(T) <= torch.arange(T - S, T)[:, None]; mask, softmax, .flatten(2, 3), "
        "@ v_BGTD, then back: .unflatten(2, (-1, S)).flatten(1, 2)",
    ),
    forbids=("scaled_dot_product_attention", f"tensors over {MOST}"),
)
GIVEN = ("q_BHSD", "k_BGTD", "v_BGTD")


def normal(rng, *shapes):
    torch_rng = torch.Generator().manual_seed(rng)
    return [torch.randn(shape, generator=torch_rng, dtype=torch.float64) for shape in shapes]


@Q.case
def case(rng):
    """Groups that are not as many as their heads; S below T, so that the corner of the mask matters."""
    n_groups, share = rng.choice([(2, 3), (3, 2), (2, 4), (4, 2)])
    n_rows, n_new, width = rng.sample([2, 3, 5, 6], 3)
    n_slots = n_new + rng.randint(2, 5)
    q_BHSD, k_BGTD, v_BGTD = normal(
        rng.randrange(2**31),
        (n_rows, n_groups * share, n_new, width),
        (n_rows, n_groups, n_slots, width),
        (n_rows, n_groups, n_slots, width),
    )
    return {"q_BHSD": 2 * q_BHSD, "k_BGTD": k_BGTD, "v_BGTD": v_BGTD, "_seed": rng.randrange(2**31)}


@Q.solution
def shared_attention(q_BHSD, k_BGTD, v_BGTD):
    """Causal attention of the last S tokens: out_BHSD. Head h uses library h // (H // G)."""
    ### BEGIN SOLUTION
    n_groups, n_slots, width = k_BGTD.shape[1:]
    n_new = q_BHSD.shape[2]
    q_BGQD = q_BHSD.unflatten(1, (n_groups, -1)).flatten(2, 3)  # R heads are R times as many rows
    scores_BGQT = q_BGQD @ k_BGTD.transpose(-1, -2) / width**0.5
    seen_ST = torch.arange(n_slots) <= torch.arange(n_slots - n_new, n_slots)[:, None]
    scores_BGRST = scores_BGQT.unflatten(2, (-1, n_new)).masked_fill(~seen_ST, float("-inf"))
    out_BGQD = scores_BGRST.softmax(-1).flatten(2, 3) @ v_BGTD
    return out_BGQD.unflatten(2, (-1, n_new)).flatten(1, 2)
    ### END SOLUTION


@Q.right
def query_by_query(q_BHSD, k_BGTD, v_BGTD):
    n_rows, n_heads, n_new, width = q_BHSD.shape
    share, n_past = n_heads // k_BGTD.shape[1], k_BGTD.shape[2] - n_new
    out_BHSD = torch.empty_like(q_BHSD)
    for b in range(n_rows):
        for h in range(n_heads):
            for s in range(n_new):
                k_TD = k_BGTD[b, h // share, : n_past + s + 1]
                weights_T = (k_TD @ q_BHSD[b, h, s] / width**0.5).softmax(0)
                out_BHSD[b, h, s] = weights_T @ v_BGTD[b, h // share, : n_past + s + 1]
    return out_BHSD


@Q.also_right
def by_einsum(q, k, v):
    b, h, s, d = q.shape
    g, t = k.shape[1:3]
    score = torch.einsum("bgrsd,bgtd->bgrst", q.reshape(b, g, h // g, s, d), k) * d**-0.5
    hidden = torch.arange(t)[None, :] > torch.arange(s)[:, None] + (t - s)
    score = score + torch.where(hidden, float("-inf"), 0.0)
    return torch.einsum("bgrst,bgtd->bgrsd", torch.softmax(score, -1), v).reshape(b, h, s, d)


Q.agrees("head by head", *GIVEN, gives="out_BHSD")


@Q.law("a library for each head, one for all, and a single token")
def _(answer, case):
    q_BHSD, k_BGTD, v_BGTD = (case[name] for name in GIVEN)
    n_groups, n_new = k_BGTD.shape[1], q_BHSD.shape[2]
    return {
        "H = G, out_BHSD": answer(q_BHSD[:, :n_groups], k_BGTD, v_BGTD),
        "G = 1, out_BHSD": answer(q_BHSD, k_BGTD[:, :1], v_BGTD[:, :1]),
        "S = T, out_BHSD": answer(q_BHSD, k_BGTD[:, :, :n_new], v_BGTD[:, :, :n_new]),
        "S = 1, out_BHSD": answer(q_BHSD[:, :, -1:], k_BGTD, v_BGTD),
        "T = 1, out_BHSD": answer(q_BHSD[:, :, :1], k_BGTD[:, :, :1], v_BGTD[:, :, :1]),
    }


@Q.law("another library moves the heads that use it, and no other")
def _(answer, case):
    q_BHSD, k_BGTD, v_BGTD = (case[name] for name in GIVEN)
    before_BHSD, moved = answer(q_BHSD, k_BGTD, v_BGTD), {}
    for g in range(k_BGTD.shape[1]):
        other_BGTD = v_BGTD.clone()
        other_BGTD[:, g] += 1.0
        after_BHSD = answer(q_BHSD, k_BGTD, other_BGTD)
        moved_H = (after_BHSD - before_BHSD).abs().amax((0, 2, 3)) > 1e-6
        moved[f"heads moved by library {g}"] = moved_H.nonzero().flatten().tolist()
    return moved


def _large(case):
    return "32 query heads, 2 libraries of 400 tokens, D 64, S 1 and 2"


@Q.law("large libraries, used where they lie", shows=_large)
def _(answer, case):
    seen = {}
    for n_new in (1, 2):
        shapes = (1, 32, n_new, 64), (1, 2, 400, 64), (1, 2, 400, 64)
        seen[f"S = {n_new}, out_BHSD"] = answer(*normal(case["_seed"], *shapes))
    return seen


def attended(
    q, k, v,
    *,
    library=lambda h, n_heads, n_groups: h // (n_heads // n_groups),
    of_values=None,
    root=lambda width, n_heads: width**0.5,
    seen=lambda t, s, n_past: t <= s + n_past,
    after=lambda out, n_groups: out,
):  # fmt: skip
    """Head by head; each step can go wrong."""
    (_, n_heads, n_new, width), (n_groups, n_slots) = q.shape, k.shape[1:3]
    mask = seen(torch.arange(n_slots), torch.arange(n_new)[:, None], n_slots - n_new)
    out = torch.empty_like(q)
    for h in range(n_heads):
        g = library(h, n_heads, n_groups)
        g_v = (of_values or library)(h, n_heads, n_groups)
        scores = q[:, h] @ k[:, g].transpose(-1, -2) / root(width, n_heads)
        out[:, h] = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v[:, g_v]
    return after(out, n_groups)


def _mean_of_group(out, n_groups):
    mean = out.unflatten(1, (n_groups, -1)).mean(2, keepdim=True)
    return mean.expand(-1, -1, out.shape[1] // n_groups, -1, -1).flatten(1, 2)


Q.mistakes(
    attended,
    {
        "head h takes library h % G, as if libraries were dealt out in turn: neighbours share one, h // (H // G).": {
            "library": lambda h, n_heads, n_groups: h % n_groups
        },
        "all heads use library 0.": {"library": lambda h, n_heads, n_groups: 0},
        "the libraries are used in the opposite order.": {
            "library": lambda h, n_heads, n_groups: n_groups - 1 - h // (n_heads // n_groups)
        },
        "keys come from the right library, values all from library 0.": {
            "of_values": lambda h, n_heads, n_groups: 0
        },
        "the heads of a group are averaged: they share a library, each with a question and an answer of its own.": {
            "after": _mean_of_group
        },
        "there is no mask: the query of token i sees tokens 0 to i.": {"seen": lambda t, s, n_past: t >= 0 * s},
        "the mask begins at the top left, as if the first query were token 0. It is token T - S.": {
            "seen": lambda t, s, n_past: t <= s
        },
        "scores are not divided by the root of D.": {"root": lambda width, n_heads: 1.0},
        "scores are divided by the root of H x D: a score is a sum over the D channels of one head.": {
            "root": lambda width, n_heads: (n_heads * width) ** 0.5
        },
    },
)  # fmt: skip
