"""3.1: what a projection returns, cut into heads, and laid side by side again."""

import torch

from kvlab.course.author import Exercise, Near

Q = Exercise(
    "3.1",
    "Split and merge heads",
    "Heads",
    points=3,
    minutes=12,
    difficulty=2,
    statement="""
To the section "Cut a vector into heads". `q_proj` returns one row of H x D numbers a token: first the D numbers of head 0, then those of head 1, and so on.
Attention wants each head by itself, with its own S rows. Afterwards `o_proj` wants one row a token again.

Write both ways as a class. `Heads(head_dim)` knows the width D of one head and no number of heads: queries have
H heads, keys and values have G, and the same object cuts them all.

- `split(x_BSO)` takes (B, S, H x D) and returns (B, H, S, D). O is the width of a row, H x D.
- `merge(x_BHSD)` takes (B, H, S, D) and returns (B, S, H x D). It undoes `split`.

One token of two heads, each three wide: `Heads(3).split` makes `[[[1, 2, 3, 4, 5, 6]]]` into
`[[[[1, 2, 3]], [[4, 5, 6]]]]`, that is (1, 1, 6) into (1, 2, 1, 3).

In the cases of `check` each number says where it belongs: 1204 stands in batch row 1, position 2, head 0, channel 4.
About one line each.
""",
    hints=(
        "No number is changed and none is computed: cut an axis in two, then move one. Which is first?",
        "Cut the last axis into (heads, D), which gives (B, S, H, D); then swap positions and heads. For merge, "
        "do the two steps backwards.",
        "split: x_BSO.unflatten(-1, (-1, self.head_dim)), then .transpose(1, 2). "
        "merge: .transpose(1, 2), then .flatten(2).",
    ),
    n_cases=8,
)


def numbered(n_rows, n_new, n_heads, width):
    """x_BHSD, in which the digits of a number are its batch row, position, head and channel."""
    b, s, h, d = (torch.arange(n, dtype=torch.float64) for n in (n_rows, n_new, n_heads, width))
    return 1000 * b[:, None, None, None] + 100 * s[:, None] + 10 * h[:, None, None] + d


def side_by_side(x_BHSD):
    """Row by row what a projection returns."""
    return torch.cat(tuple(x_BHSD.unbind(1)), dim=-1)


@Q.case
def case(rng):
    """G below H, equal to it, or 1; no two sizes alike, or a single token."""
    n_kv_heads, n_groups = rng.choice([1, 2, 3]), rng.choice([1, 2, 3])
    n_heads = n_kv_heads * n_groups
    n_rows, n_new, width = rng.sample([n for n in range(2, 9) if n not in (n_heads, n_kv_heads)], 3)
    if rng.random() < 0.2:
        n_new = 1
    out_BHSD = numbered(n_rows, n_new, n_heads, width)
    return {
        "head_dim": width,
        "q_BSO": side_by_side(out_BHSD),
        "k_BSO": side_by_side(numbered(n_rows, n_new, n_kv_heads, width)),
        "out_BHSD": out_BHSD,
    }


@Q.solution
class Heads:
    """The heads of one layer: how a row of numbers is cut into them and put together again."""

    def __init__(self, head_dim):
        self.head_dim = head_dim

    def split(self, x_BSO):
        """(B, S, H x D) -> (B, H, S, D); H follows from the width."""
        ### BEGIN SOLUTION
        return x_BSO.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        ### END SOLUTION

    def merge(self, x_BHSD):
        """(B, H, S, D) -> (B, S, H x D)."""
        ### BEGIN SOLUTION
        return x_BHSD.transpose(1, 2).flatten(2)
        ### END SOLUTION


@Q.also_right
class PieceByPiece:
    def __init__(self, width):
        self.width = width

    def split(self, x):
        starts = range(0, x.shape[-1], self.width)
        return torch.stack([x[..., i : i + self.width] for i in starts], dim=1)

    def merge(self, x):
        return torch.cat([x[:, h] for h in range(x.shape[1])], dim=-1)


@Q.law("split cuts queries into H heads, and keys into G")
def _(answer, case):
    heads = answer.make(case["head_dim"])
    cut = {"q_BHSD": "q_BSO", "k_BGSD": "k_BSO"}
    return {name: heads.call("split", case[whole]) for name, whole in cut.items()}


@Q.law("merge lays heads side by side")
def _(answer, case):
    return {"out_BSO": answer.make(case["head_dim"]).call("merge", case["out_BHSD"])}


@Q.law("merge undoes split, of queries and of keys")
def _(answer, case):
    heads = answer.make(case["head_dim"])
    back = {n: heads.call("merge", heads.call("split", case[n])) for n in ("q_BSO", "k_BSO")}
    return {name: Near(case[name]).of(value) for name, value in back.items()}


@Q.law("a token alone is cut as it is among others")
def _(answer, case):
    heads = answer.make(case["head_dim"])
    alone = [heads.call("split", x_BO[:, None]) for x_BO in case["q_BSO"].unbind(1)]
    return {"q_BHSD": Near(heads.call("split", case["q_BSO"])).of(torch.cat(alone, dim=2))}


@Q.law("one head, and one token of one text")
def _(answer, case):
    heads, width = answer.make(case["head_dim"]), case["head_dim"]
    return {
        "one head, q_BHSD": heads.call("split", case["q_BSO"][..., :width]),
        "one head, out_BSO": heads.call("merge", case["out_BHSD"][:, :1]),
        "one token, q_BHSD": heads.call("split", case["q_BSO"][:1, :1]),
        "one token, out_BSO": heads.call("merge", case["out_BHSD"][:1, :, :1]),
    }


@Q.law("each object keeps its own width")
def _(answer, case):
    heads, _narrow = answer.make(case["head_dim"]), answer.make(1)
    return {"q_BHSD": heads.call("split", case["q_BSO"])}


Q.mistakes(
    Heads,
    {
        "split shapes into (B, H, S, D) at once, so a head gets numbers of other tokens: cut the last axis, then swap two.": {
            "split": lambda self, x: x.reshape(x.shape[0], -1, x.shape[1], self.head_dim)
        },
        "split stops after the cut: heads still stand behind positions, as (B, S, H, D).": {
            "split": lambda self, x: x.unflatten(-1, (-1, self.head_dim))
        },
        "split deals neighbouring numbers out to all heads: the last axis is (H, D) and not (D, H).": {
            "split": lambda self, x: x.unflatten(-1, (self.head_dim, -1)).permute(0, 3, 1, 2)
        },
        "split also swaps positions and channels: only the product with queries wants (B, H, D, S), later.": {
            "split": lambda self, x: x.unflatten(-1, (-1, self.head_dim)).permute(0, 2, 3, 1)
        },
        "merge flattens without moving heads back behind positions, so a row gets numbers of other tokens.": {
            "merge": lambda self, x: x.reshape(x.shape[0], x.shape[2], -1)
        },
        "merge puts channels before heads: each head's D numbers belong together, one head after the other.": {
            "merge": lambda self, x: x.permute(0, 2, 3, 1).flatten(2)
        },
        "merge adds the heads up: they stand side by side, and only `o_proj` mixes them.": {
            "merge": lambda self, x: x.sum(1)
        },
        "`view` cannot flatten what was transposed: its numbers lie in another order. `reshape` copies them.": {
            "merge": lambda self, x: x.transpose(1, 2).view(x.shape[0], x.shape[2], -1)
        },
    },
)
