"""3.2: attention with several heads and an output projection, number by number as torch's."""

import torch
import torch.nn.functional as F

from kvlab.course.author import Exercise, Near

Q = Exercise(
    "3.2",
    "Many heads, as torch has them",
    "many_heads",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
To the sections "Cut a vector into heads" and "Side by side again, and mixed". Compute what
`torch.nn.MultiheadAttention` computes, from the very matrices that it stores:

- `in_w` of shape (3C, C) and `in_b` of shape (3C,) make queries, keys and values in one product, `x @ in_w.T + in_b`:
  the first C numbers of a row are its query, the next C its key, the last C its value.
- Each of the three is cut into `n_heads` heads of D = C / `n_heads` numbers, side by side as in exercise 3.1.
- Every head attends by itself and causally: position i sees positions 0 to i. Scores are divided by the root of D.
- The heads are laid side by side again, and `out_w` (C, C) and `out_b` (C,) mix them: `y @ out_w.T + out_b`.

`x_BSC` is a batch of texts; return `out_BSC`. Attention functions of torch are refused. About eight lines.

With one token nothing is left to choose: each head gives its own value, so `n_heads` makes no difference and the output
is the value times `out_w.T`, plus `out_b`.
""",
    hints=(
        "Which axis must the softmax run over, and which axes are only there side by side, so that heads never meet?",
        "x @ in_w.T + in_b, then .chunk(3, dim=-1). Cut each part into (B, S, H, D), swap to (B, H, S, D). After "
        "softmax(scores) @ v swap back and flatten the last two axes before out_w.",
        "later_SS = torch.ones(S, S, dtype=torch.bool).triu(1); scores = q @ k.transpose(-1, -2) / D**0.5; weights = "
        'scores.masked_fill(later_SS, float("-inf")).softmax(-1); y = (weights @ v).transpose(1, 2).flatten(2); '
        "return y @ out_w.T + out_b",
    ),
    forbids=("scaled_dot_product_attention",),
)
GIVEN = ("x_BSC", "in_w", "in_b", "out_w", "out_b", "n_heads")


@Q.case
def case(rng):
    """Two heads or more, each of two channels or more; no two sizes alike."""
    n_heads, head_dim = rng.choice([(2, 3), (3, 2), (3, 4), (4, 3), (2, 5)])
    width = n_heads * head_dim
    n_rows, n_new = rng.sample([n for n in range(2, 8) if n not in (n_heads, head_dim)], 2)
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape):
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    return {
        "x_BSC": normal(n_rows, n_new, width),
        "in_w": normal(3 * width, width) * 2 * width**-0.5,
        "in_b": normal(3 * width),
        "out_w": normal(width, width) * width**-0.5,
        "out_b": normal(width),
        "n_heads": n_heads,
    }


@Q.solution
def many_heads(x_BSC, in_w, in_b, out_w, out_b, n_heads):
    """What torch.nn.MultiheadAttention gives, causally: out_BSC."""
    ### BEGIN SOLUTION
    n_new, width = x_BSC.shape[1:]
    q_BHSD, k_BHSD, v_BHSD = (
        part_BSC.unflatten(-1, (n_heads, -1)).transpose(1, 2)
        for part_BSC in (x_BSC @ in_w.T + in_b).chunk(3, dim=-1)
    )
    scores_BHSS = q_BHSD @ k_BHSD.transpose(-1, -2) / (width / n_heads) ** 0.5
    later_SS = torch.ones(n_new, n_new, dtype=torch.bool).triu(1)
    weights_BHSS = scores_BHSS.masked_fill(later_SS, float("-inf")).softmax(-1)
    out_BSC = (weights_BHSS @ v_BHSD).transpose(1, 2).flatten(2)
    return out_BSC @ out_w.T + out_b
    ### END SOLUTION


@Q.right
def torchs_own(x_BSC, in_w, in_b, out_w, out_b, n_heads):
    n_new, width = x_BSC.shape[1:]
    x_SBC = x_BSC.transpose(0, 1)
    later_SS = torch.ones(n_new, n_new, dtype=torch.bool).triu(1)
    out_SBC, _ = F.multi_head_attention_forward(
        x_SBC, x_SBC, x_SBC, width, n_heads, in_w, in_b, None, None, False, 0.0, out_w, out_b,
        attn_mask=later_SS, need_weights=False,
    )  # fmt: skip
    return out_SBC.transpose(0, 1)


@Q.also_right
def head_by_head(x, in_w, in_b, out_w, out_b, n_heads):
    width, n = x.shape[-1], x.shape[1]
    d = width // n_heads
    hidden = torch.full((n, n), float("-inf"), dtype=x.dtype).triu(1)
    out = out_b
    for h in range(n_heads):
        rows = [slice(i * width + h * d, i * width + (h + 1) * d) for i in range(3)]
        q, k, v = (torch.einsum("bsc,dc->bsd", x, in_w[r]) + in_b[r] for r in rows)
        share = torch.softmax(torch.einsum("bsd,btd->bst", q, k) / d**0.5 + hidden, -1)
        out = out + torch.bmm(share, v) @ out_w[:, h * d : (h + 1) * d].T
    return out


Q.agrees("the same as torch's", *GIVEN, gives="out_BSC")


@Q.law("one head, as many heads as channels, and one token of one text")
def _(answer, case):
    given = {**case, "n_heads": 1}
    every = {**case, "n_heads": case["x_BSC"].shape[-1]}
    alone = {**case, "x_BSC": case["x_BSC"][:1, :1]}
    kinds = {"one head": given, "C heads": every, "one token": alone}
    return {f"{kind}, out_BSC": answer(*(c[n] for n in GIVEN)) for kind, c in kinds.items()}


@Q.law("what comes later changes nothing before it")
def _(answer, case):
    x_BSC = case["x_BSC"]
    rest = [case[name] for name in GIVEN[1:]]
    whole_BSC = answer(x_BSC, *rest)
    return {"out_BSC": Near(answer(x_BSC[:, :-1], *rest)).of(whole_BSC[:, :-1])}


@Q.law("heads in another order, with their columns of out_w, give the same")
def _(answer, case):
    width, n_heads = case["x_BSC"].shape[-1], case["n_heads"]
    order_C = torch.arange(width).unflatten(0, (n_heads, -1)).flip(0).flatten()
    order_O = torch.cat([order_C + i * width for i in range(3)])
    turned = {
        "in_w": case["in_w"][order_O], "in_b": case["in_b"][order_O],
        "out_w": case["out_w"][:, order_C],
    }  # fmt: skip
    straight_BSC = answer(*(case[name] for name in GIVEN))
    return {"out_BSC": Near(straight_BSC).of(answer(*({**case, **turned}[n] for n in GIVEN)))}


def attended(
    x, in_w, in_b, out_w, out_b, n_heads,
    *,
    project=lambda x, w, b: (x @ w.T + b).chunk(3, dim=-1),
    cut=lambda y, n: y.unflatten(-1, (n, -1)).transpose(1, 2),
    root=lambda width, n: (width / n) ** 0.5,
    sees=lambda n: torch.ones(n, n, dtype=torch.bool).tril(),
    axis=-1,
    merge=lambda y: y.transpose(1, 2).flatten(2),
    mix=lambda y, w, b: y @ w.T + b,
):  # fmt: skip
    """The solution in steps, each of which can go wrong."""
    q, k, v = (cut(part, n_heads) for part in project(x, in_w, in_b))
    scores = q @ k.transpose(-1, -2) / root(x.shape[-1], n_heads)
    if scores.shape[-1] == x.shape[1]:
        scores = scores.masked_fill(~sees(x.shape[1]), float("-inf"))
    return mix(merge(scores.softmax(axis) @ v), out_w, out_b)


def _swapped(i, j, k):
    def project(x, w, b):
        parts = (x @ w.T + b).chunk(3, dim=-1)
        return parts[i], parts[j], parts[k]

    return {"project": project}


Q.mistakes(
    attended,
    {
        "scores are divided by the root of C, the model's width: a score is a sum over the D channels of one head.": {
            "root": lambda width, n: width**0.5
        },
        "scores are not divided by the root of D.": {"root": lambda width, n: 1.0},
        "all channels are one head: cut queries, keys and values into `n_heads` heads first.": {
            "cut": lambda y, n: y[:, None], "root": lambda width, n: width**0.5
        },
        "the rows are cut into (B, H, S, D) at once, which mixes tokens and heads. Cut into (B, S, H, D), then transpose.": {
            "cut": lambda y, n: y.reshape(y.shape[0], n, y.shape[1], -1)
        },
        "neighbouring channels are dealt out to all heads: a head's D numbers stand together.": {
            "cut": lambda y, n: y.unflatten(-1, (-1, n)).permute(0, 3, 1, 2)
        },
        "there is no mask, so a token sees those that come after it.": {
            "sees": lambda n: torch.ones(n, n, dtype=torch.bool)
        },
        "heads are flattened without moving them back behind positions.": {
            "merge": lambda y: y.reshape(y.shape[0], y.shape[2], -1)
        },
        "`out_w` is left out: the heads stand side by side and are never mixed.": {"mix": lambda y, w, b: y},
        "`out_b` is left out.": {"mix": lambda y, w, b: y @ w.T},
        "`out_w` is turned: a linear layer of torch computes y @ w.T.": {"mix": lambda y, w, b: y @ w + b},
        "`in_b` is left out.": {"project": lambda x, w, b: (x @ w.T).chunk(3, dim=-1)},
        "keys and values are swapped: the order is query, key, value.": _swapped(0, 2, 1),
        "queries and keys are swapped: the order is query, key, value.": _swapped(1, 0, 2),
        "`in_w` is read as if each head had its query, key and value side by side. Its first C rows are all heads' queries.": {
            "project": lambda x, w, b: (
                (x @ w.T + b).unflatten(-1, (-1, 3)).unbind(-1)
            )
        },
    },
)  # fmt: skip
