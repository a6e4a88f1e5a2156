"""4.1: one block of a Llama, both halves. S tokens, C width of the stream, F width of the MLP."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kvlab.course.author import AtMost, Exercise, LentFunction, Near

Q = Exercise(
    "4.1",
    "A block",
    "block",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
Write one block: the residual stream `x_SC` goes in, S rows of width C, and comes out with what two halves added to it
(chapter 4, "A block by hand").

- *A norm* divides each row by the root of its mean square, `sqrt(mean of squares + eps)`, and then multiplies channel by
  channel with a scale. The first half's scale is `norm1_C`, the second half's `norm2_C`.
- *The first half* calls `attend(n_SC)` once, on the normed rows of the whole text. What comes back, of the same
  shape, is added to the stream. (It is handed to you: chapter 3 built one.)
- *The second half* norms the stream as it is **now**, and puts it through the MLP:
  `(silu(n @ w_gate_FC.T) * (n @ w_up_FC.T)) @ w_down_CF.T`, with `silu(z) = z * sigmoid(z)`. This, too, is added.

Return the stream, shape (S, C). Roughly 8 lines.

The norm of the row `[3, 4]`, with a scale of ones and `eps = 0`, is `[0.8485, 1.1314]`: its mean square is 12.5.
""",
    hints=(
        "The stream itself is never normed: a half reads a normed copy, and its result is added to "
        "the stream. Which stream does the second half read?",
        "Write norm(x_SC, scale_C) first: x / (x**2).mean(-1, keepdim=True).add(eps).sqrt() * scale. "
        "Then x = x + attend(norm(x, norm1_C)), and the MLP in the same way, on the new x.",
        "x_SC = x_SC + attend(norm(x_SC, norm1_C)); n_SC = norm(x_SC, norm2_C); gate_SF = n_SC @ "
        "w_gate_FC.T; hidden_SF = gate_SF * gate_SF.sigmoid() * (n_SC @ w_up_FC.T); return x_SC + "
        "hidden_SF @ w_down_CF.T, with norm as in the second hint.",
    ),
    imports=("torch",),
)

GIVEN = ("norm1_C", "norm2_C", "w_gate_FC", "w_up_FC", "w_down_CF", "eps")


@Q.case
def case(rng):
    """Sizes all different; an eps that counts; rows of about the width's own size."""
    n_tokens, width, hidden = rng.sample([2, 3, 4, 5, 6, 7], 3)
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    return {
        "x_SC": normal(n_tokens, width) + 0.5,
        "norm1_C": normal(width).abs() + 0.5,
        "norm2_C": normal(width).abs() + 0.5,
        "w_gate_FC": normal(hidden, width),
        "w_up_FC": normal(hidden, width),
        "w_down_CF": normal(width, hidden),
        "eps": rng.choice([0.1, 0.2, 0.3]),
        "_w_CC": normal(width, width),
    }


def attention(case, times=1.0):
    """What is lent for attention: each row is a mean of those up to it, of as many rows as come."""

    def attend(n_SC):
        lent.given_SC = n_SC
        before_S1 = torch.arange(1, len(n_SC) + 1)[:, None]
        return times * (n_SC.cumsum(0) / before_S1) @ case["_w_CC"].T

    lent = LentFunction(attend)
    lent.given_SC = None
    return lent


def given(case, **other):
    """An answer's arguments, with some of the case's own replaced."""
    case = {**case, **other}
    return case["x_SC"], attention(case, case.get("_times", 1.0)), *(case[g] for g in GIVEN)


@Q.solution
def block(x_SC, attend, norm1_C, norm2_C, w_gate_FC, w_up_FC, w_down_CF, eps):
    """Return the stream x_SC after both halves have added to it."""

    ### BEGIN SOLUTION
    def norm(x_SC, scale_C):
        return x_SC / (x_SC.square().mean(-1, keepdim=True) + eps).sqrt() * scale_C

    x_SC = x_SC + attend(norm(x_SC, norm1_C))
    n_SC = norm(x_SC, norm2_C)
    gate_SF, up_SF = n_SC @ w_gate_FC.T, n_SC @ w_up_FC.T
    return x_SC + (gate_SF * gate_SF.sigmoid() * up_SF) @ w_down_CF.T
    ### END SOLUTION


@Q.right
def row_by_row(x_SC, attend, norm1_C, norm2_C, w_gate_FC, w_up_FC, w_down_CF, eps):
    def norm(x_C, scale_C):
        square = sum(float(x) ** 2 for x in x_C) / len(x_C)
        return x_C / (square + eps) ** 0.5 * scale_C

    added_SC = attend(torch.stack([norm(x_C, norm1_C) for x_C in x_SC]))
    rows = []
    for x_C, added_C in zip(x_SC, added_SC, strict=True):
        x_C = x_C + added_C
        n_C = norm(x_C, norm2_C)
        gates_F = [float(w_C @ n_C) for w_C in w_gate_FC]
        ups_F = [float(w_C @ n_C) for w_C in w_up_FC]
        silus_F = [g / (1 + math.exp(-g)) for g in gates_F]
        passed = [s * u for s, u in zip(silus_F, ups_F, strict=True)]
        rows.append(x_C + sum(p * w_C for p, w_C in zip(passed, w_down_CF.T, strict=True)))
    return torch.stack(rows)


@Q.also_right
def by_torchs_own(x, attend, s1, s2, gate, up, down, eps):
    f = torch.nn.functional
    x = x + attend(f.rms_norm(x, s1.shape, s1, eps))
    read = f.rms_norm(x, s2.shape, s2, eps)
    return x.add(f.linear(f.silu(f.linear(read, gate)) * f.linear(read, up), down))


@Q.law("attention is given the normed rows of the whole text, once")
def _(answer, case):
    x_SC, attend, *rest = given(case)
    answer(x_SC, attend, *rest)
    return {
        "calls of attend": AtMost(1).of(attend.calls),
        "given to attend, n_SC": attend.given_SC,
    }


@Q.law("the first half alone: an MLP that adds nothing")
def _(answer, case):
    return {"x_SC": answer(*given(case, w_down_CF=torch.zeros_like(case["w_down_CF"])))}


@Q.law("both halves, same as row by row")
def _(answer, case):
    return {"x_SC": answer(*given(case))}


@Q.law("halves that add nothing leave the stream as it is")
def _(answer, case):
    nothing = {"w_down_CF": torch.zeros_like(case["w_down_CF"]), "_times": 0.0}
    return {"x_SC": Near(case["x_SC"]).of(answer(*given(case, **nothing)))}


@Q.law("one token; a row of zeros")
def _(answer, case):
    zero_SC = torch.zeros_like(case["x_SC"])
    return {
        "of one token, x_SC": answer(*given(case, x_SC=case["x_SC"][:1])),
        "of zeros, x_SC": answer(*given(case, x_SC=zero_SC)),
    }


# --- what goes wrong: each changes one thing of this ---


def _root(x_SC, scale_C, eps):
    return x_SC / (x_SC.square().mean(-1, keepdim=True) + eps).sqrt() * scale_C


def _silu(gate):
    return gate * gate.sigmoid()


def _block(
    x_SC, attend, norm1_C, norm2_C, gate, up, down, eps, *, norm=_root, first=None, second=None,
    act=_silu, joined=lambda passes, up: passes * up, kept=(1, 1), onto=None, reads=None, post=False,
):  # fmt: skip
    def mlp(n_SC):
        return joined(act(n_SC @ gate.T), n_SC @ up.T) @ down.T

    if post:
        x_SC = norm(x_SC + attend(x_SC), norm1_C, eps)
        return norm(x_SC + mlp(x_SC), norm2_C, eps)
    n_SC = (first or norm)(x_SC, norm1_C, eps)
    mid_SC = kept[0] * (n_SC if onto == "normed" else x_SC) + attend(n_SC)
    n_SC = (second or norm)(x_SC if reads == "old" else mid_SC, norm2_C, eps)
    base_SC = {"old": x_SC, "normed": n_SC}.get(onto, mid_SC)
    return kept[1] * base_SC + mlp(n_SC)


def _exchanged(x_SC, attend, norm1_C, norm2_C, *rest):
    return _block(x_SC, attend, norm2_C, norm1_C, *rest)


Q.mistakes(
    _block,
    {
        "attention's result takes the place of the stream: it is added to it.": {"kept": (0, 1)},
        "the MLP's result takes the place of the stream: it is added to it.": {"kept": (1, 0)},
        "the MLP reads the stream from before attention. The halves come one after the other.": {
            "reads": "old"
        },
        "the MLP's result is added to the stream that came in, and what attention added is lost.": {
            "onto": "old"
        },
        "the halves add to the normed rows. The stream itself is never normed, only what is read.": {
            "onto": "normed"
        },
        "the norms come after the additions; here each half reads a normed copy, and the stream "
        "stays as it is.": {"post": True},
        "attention is given rows that were not normed.": {"first": lambda x_SC, *_: x_SC},
        "the MLP is given rows that were not normed.": {"second": lambda x_SC, *_: x_SC},
        "the first half's scale serves both: the second half has norm2_C.": (
            lambda x_SC, attend, norm1_C, _, *rest: _block(x_SC, attend, norm1_C, norm1_C, *rest)
        ),
        "the two scales are in each other's place.": _exchanged,
        "the mean is subtracted, as a LayerNorm does. RMSNorm divides and no more.": {
            "norm": lambda x_SC, *rest: _root(x_SC - x_SC.mean(-1, keepdim=True), *rest)
        },
        "the norm divides by the root of the sum of squares; the mean was asked for.": {
            "norm": lambda x_SC, scale_C, eps: (
                x_SC / (x_SC.square().sum(-1, keepdim=True) + eps).sqrt() * scale_C
            )
        },
        "eps is added to the root; it belongs under it, to the mean square.": {
            "norm": lambda x_SC, scale_C, eps: (
                x_SC / (x_SC.square().mean(-1, keepdim=True).sqrt() + eps) * scale_C
            )
        },
        "eps is left out.": {"norm": lambda x_SC, scale_C, _: _root(x_SC, scale_C, 0.0)},
        "the norm runs over tokens, channel by channel: each row has its own mean square.": {
            "norm": lambda x_SC, scale_C, eps: (
                x_SC / (x_SC.square().mean(0, keepdim=True) + eps).sqrt() * scale_C
            )
        },
        "one mean square is taken over all rows: each row has its own.": {
            "norm": lambda x_SC, scale_C, eps: x_SC / (x_SC.square().mean() + eps).sqrt() * scale_C
        },
        "the norms' scales are left out.": {"norm": lambda x_SC, _, eps: _root(x_SC, 1.0, eps)},
        "the wrong one of the two goes through silu: it is the gate.": {
            "act": lambda gate: gate,
            "joined": lambda gate, up: gate * _silu(up),
        },
        "silu(z) is z * sigmoid(z); this is the sigmoid alone.": {"act": torch.sigmoid},
        "that is a ReLU; silu(z) is z * sigmoid(z).": {"act": torch.relu},
        "that is a GELU; silu(z) is z * sigmoid(z).": {"act": torch.nn.functional.gelu},
        "gate and up are added: they are multiplied, number by number.": {
            "joined": lambda passes, up: passes + up
        },
        "up is left out: what passes the gate is up, number by number.": {
            "joined": lambda passes, up: passes
        },
    },
)
