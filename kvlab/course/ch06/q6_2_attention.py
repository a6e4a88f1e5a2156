"""6.2: attention of new tokens over a past, however the text is cut.

B rows of the batch, H query heads, G key/value heads, S new tokens, T slots, D head width, C model
width.

Long because a step over a past goes wrong in many ways, and each of them is named.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.course.author import Exercise, NotData, as_tensor, brief, named, raised_by
from kvlab.ops import apply_rope, rope_angles

Q = Exercise(
    "6.2",
    "Attention with a past",
    "attend_with_past",
    points=4,
    minutes=25,
    difficulty=3,
    statement="""
The heart of the chapter. `x_BSC` holds S new tokens; `k_past_BGTD` and `v_past_BGTD` the T tokens before
them (T may be 0). Project queries, keys and values, turn queries and keys by their positions, put the
new keys and values behind the past ones, and attend causally. However a text is cut into chunks, every
position must come out as if the text had been read at once.

- Weights have shape (heads × D, C): `q = x @ w_q.T`. Its first D numbers belong to head 0, the next D to
  head 1, and so on (cut into (B, S, H, D) and swap two axes). D is the last axis of `k_past_BGTD`, and H follows
  from `w_q`.
- The new tokens stand *behind* the past: what is the position of the first?
- To turn is to rotate pairs of numbers by angles that depend on the position:
  `rope_angles(pos_BS, D, 10000.0, torch.float64)` gives cosine and sine, `apply_rope(x_BHSD, cos, sin)`
  turns. Past keys are turned already.
- H query heads share G key/value heads: head h uses KV head h // (H // G).
- Scores are divided by the square root of D.
""",
    hints=(
        "How far into the text is the first row of x_BSC? The past knows: it has one slot per "
        "token already read.",
        "positions = torch.arange(n_past, n_past + n_new), and cos, sin = rope_angles(positions[None], D, 10000.0, "
        "torch.float64): [None] is the axis of the texts. Turn the new queries and keys by them, then put the new keys behind "
        "the past ones with torch.cat along the slots.",
        "The query at position p may use slot t if t <= p: mask = torch.arange(n_past + n_new) <= "
        "positions[:, None], of shape (S, T). Repeat each KV head for its query heads with "
        "repeat_interleave(H // G, dim=1), then scores, masked_fill(~mask, -inf), softmax, mix.",
    ),
    size=lambda case: case["x_BSC"].numel(),
    allows=("kvlab.ops",),
)


@Q.case
def case(rng):
    batch, n_groups = rng.sample([2, 3], 2)
    width, head_dim = rng.choice([10, 14]), rng.choice([4, 6, 8])
    chunks = [rng.randint(2, 5), 1, rng.randint(2, 4), 1, 1]
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    n_heads = n_groups * (5 - n_groups)  # a share that is not the number of groups
    return {
        "x_BSC": normal(batch, sum(chunks), width),
        "w_q": normal(n_heads * head_dim, width) * width**-0.5,
        "w_k": normal(n_groups * head_dim, width) * width**-0.5,
        "w_v": normal(n_groups * head_dim, width) * width**-0.5,
        "chunks": chunks,
        "_head_dim": head_dim,
        "_groups": n_groups,
    }


@Q.solution
def attend_with_past(x_BSC, w_q, w_k, w_v, k_past_BGTD, v_past_BGTD):
    """Return out_BHSD, and the keys and values of past and new tokens: k_BGTD, v_BGTD."""
    ### BEGIN SOLUTION
    n_new, n_past, width = x_BSC.shape[1], k_past_BGTD.shape[2], k_past_BGTD.shape[3]
    pos_S = torch.arange(n_past, n_past + n_new)
    cos, sin = rope_angles(pos_S[None], width, 10000.0, torch.float64)

    def heads(w):
        return (x_BSC @ w.T).unflatten(-1, (-1, width)).transpose(1, 2)

    q_BHSD = apply_rope(heads(w_q), cos, sin)
    k_BGTD = torch.cat((k_past_BGTD, apply_rope(heads(w_k), cos, sin)), dim=2)
    v_BGTD = torch.cat((v_past_BGTD, heads(w_v)), dim=2)

    share = q_BHSD.shape[1] // k_BGTD.shape[1]
    k_BHTD = k_BGTD.repeat_interleave(share, dim=1)
    v_BHTD = v_BGTD.repeat_interleave(share, dim=1)
    scores_BHST = q_BHSD @ k_BHTD.transpose(-1, -2) / width**0.5
    seen_ST = torch.arange(n_past + n_new) <= pos_S[:, None]
    weights_BHST = scores_BHST.masked_fill(~seen_ST, float("-inf")).softmax(-1)
    return weights_BHST @ v_BHTD, k_BGTD, v_BGTD
    ### END SOLUTION


@Q.right
def query_by_query(x_BSC, w_q, w_k, w_v, k_past_BGTD, v_past_BGTD):
    """A loop over every query, which looks at its own past and nothing else."""
    n_past, width = k_past_BGTD.shape[2:]
    pos_BS = torch.arange(n_past, n_past + x_BSC.shape[1])[None]
    turn = rope_angles(pos_BS, width, 10000.0, torch.float64)
    q_BHSD, k_BGSD, v_BGSD = (
        (x_BSC @ w.T).unflatten(-1, (-1, width)).transpose(1, 2) for w in (w_q, w_k, w_v)
    )
    q_BHSD = apply_rope(q_BHSD, *turn)
    k_BGTD = torch.cat((k_past_BGTD, apply_rope(k_BGSD, *turn)), dim=2)
    v_BGTD = torch.cat((v_past_BGTD, v_BGSD), dim=2)
    out_BHSD, share = torch.empty_like(q_BHSD), q_BHSD.shape[1] // k_BGTD.shape[1]
    for b, h, s in torch.cartesian_prod(*map(torch.arange, q_BHSD.shape[:3])).tolist():
        k_TD, v_TD = (x_BGTD[b, h // share, : n_past + s + 1] for x_BGTD in (k_BGTD, v_BGTD))
        out_BHSD[b, h, s] = (k_TD @ q_BHSD[b, h, s] / width**0.5).softmax(0) @ v_TD
    return out_BHSD, k_BGTD, v_BGTD


@Q.also_right
def by_einsum(x, w_q, w_k, w_v, k_past, v_past):
    b, s, _ = x.shape
    g, past, d = k_past.shape[1:]
    h = w_q.shape[0] // d
    turn = rope_angles(past + torch.arange(s).unsqueeze(0), d, 10000.0, torch.float64)
    q = apply_rope(torch.einsum("bsc,hdc->bhsd", x, w_q.view(h, d, -1)), *turn)
    k = apply_rope(torch.einsum("bsc,gdc->bgsd", x, w_k.view(g, d, -1)), *turn)
    v = torch.einsum("bsc,gdc->bgsd", x, w_v.view(g, d, -1))
    k, v = torch.cat([k_past, k], 2), torch.cat([v_past, v], 2)
    out = torch.zeros(b, h, s, d, dtype=torch.float64)
    for i in range(s):  # one query at a time: no mask is needed
        seen = past + i + 1
        q_i = q[:, :, i].reshape(b, g, h // g, d)
        w = torch.softmax(torch.einsum("bgrd,bgtd->bgrt", q_i, k[:, :, :seen]) * d**-0.5, -1)
        out[:, :, i] = torch.einsum("bgrt,bgtd->bgrd", w, v[:, :, :seen]).reshape(b, h, d)
    return [out, k, v]


# --- laws ---


def _call(answer, case, x_BSC, k_BGTD, v_BGTD):
    return _outcome(answer(x_BSC, case["w_q"], case["w_k"], case["w_v"], k_BGTD, v_BGTD))


def _outcome(got):
    seen = {n: as_tensor(v) for n, v in named(got, "out_BHSD", "k_BGTD", "v_BGTD").items()}
    for name, value in seen.items():
        if not isinstance(value, Tensor) or value.dim() != 4:
            raise NotData(f"your code returned {name} as {brief(value)}; expected 4 axes.")
    return seen


def _past(case, n_past):
    """Keys and values of a past: noise."""
    shape = (case["x_BSC"].shape[0], case["_groups"], n_past, case["_head_dim"])
    torch_rng = torch.Generator().manual_seed(n_past)
    return [torch.randn(shape, generator=torch_rng, dtype=torch.float64) for _ in "kv"]


def at_once(answer, case):
    return _call(answer, case, case["x_BSC"], *_past(case, 0))


@Q.law("one call over the whole text")
def _(answer, case):
    """And two tokens behind a past, not compared: it tells who turns by it from who turns nothing."""
    seen, behind = at_once(answer, case), []
    given = case["x_BSC"][:, :2], *_past(case, 3)
    raised = raised_by(lambda: behind.append(_call(answer, case, *given)))
    return seen | {"_behind a past": behind[0]["k_BGTD"] if behind else raised}


@Q.law(
    "any chunks give the same at every position", expect=lambda case, _: Q.of_right(at_once, case)
)
def _(answer, case):
    k_BGTD, v_BGTD = _past(case, 0)
    outs = []
    for x_BSC in case["x_BSC"].split(case["chunks"], 1):
        out_BHSD, k_BGTD, v_BGTD = _call(answer, case, x_BSC, k_BGTD, v_BGTD).values()
        outs.append(out_BHSD)
    return {"out_BHSD": torch.cat(outs, dim=2), "k_BGTD": k_BGTD, "v_BGTD": v_BGTD}


@Q.law("one text, one head")
def _(answer, case):
    """A batch of one, one key/value head, and as many query heads."""
    x_BSC, head_dim = case["x_BSC"][:1], case["_head_dim"]
    past = [x_BGTD[:1, :1] for x_BGTD in _past(case, 1)]
    matrices = (case[name][:head_dim] for name in ("w_q", "w_k", "w_v"))
    return _outcome(answer(x_BSC, *matrices, *past))


@Q.law("the past is used as it is")
def _(answer, case):
    """One step with a past that is not what the text would give."""
    x_B1C = case["x_BSC"][:, :1]
    out_BHSD, *after = _call(answer, case, x_B1C, *_past(case, 3)).values()
    k_BGTD, v_BGTD = (x_BGTD[:, :, :3] for x_BGTD in after)
    return {"out_BHSD": out_BHSD, "past keys, k_BGTD": k_BGTD, "past values, v_BGTD": v_BGTD}


# --- what goes wrong: each changes one thing of this ---


def _attend(
    *given,
    start=lambda n_past: n_past,
    places=lambda first, n: torch.arange(first, first + n),
    cut=lambda y, width: y.unflatten(-1, (-1, width)).transpose(1, 2),
    turned=("q", "new k"),
    join=lambda past, new: torch.cat((past, new), dim=2),
    seen=lambda slot, pos, n_past: slot <= pos,
    spread=lambda x, share: x.repeat_interleave(share, dim=1),
    root=lambda x, width: width**0.5,
    kept=lambda x, n_new, n_past: x,
):
    x, w_q, w_k, w_v, k_past, v_past = given
    n_new, (n_past, width) = x.shape[1], k_past.shape[2:]

    def turn(x, name, first):
        pos_BS = places(first, x.shape[2])[None]
        return apply_rope(x, *rope_angles(pos_BS, width, 10000.0, x.dtype)) if name in turned else x

    q, k, v = (cut(x @ w.T, width) for w in (w_q, w_k, w_v))
    q, k = turn(q, "q", start(n_past)), turn(k, "new k", start(n_past))
    v = turn(v, "new v", start(n_past))
    k, v = join(turn(k_past, "past k", 0), k), join(v_past, v)
    share = q.shape[1] // k.shape[1]
    score = q @ spread(k, share).transpose(-1, -2) / root(x, width)
    pos = torch.arange(n_past, n_past + n_new)[:, None]
    mask = seen(torch.arange(n_past + n_new), pos, n_past)
    out = score.masked_fill(~mask, float("-inf")).softmax(-1) @ spread(v, share)
    return out, kept(k, n_new, n_past), kept(v, n_new, n_past)


Q.mistakes(
    _attend,
    {
        "positions start again at 0 in every call. The first new token stands behind the past, at "
        "position n_past.": {"start": lambda n_past: 0},
        "the first token's key and value are dropped when the past is put together.": {
            "kept": lambda x, n_new, n_past: x if n_past else x[:, :, 1:]
        },
        "the prompt is attended to but its keys and values are not given back, so the next call "
        "has no past.": {"kept": lambda x, n_new, n_past: x if n_past else x[:, :, :0]},
        "the mask starts at the top left, as if the new queries stood at the start of the text. "
        "It must end at the bottom right.": {
            "seen": lambda slot, pos, n_past: slot <= pos - n_past
        },
        "the offset is counted twice: new tokens are put at twice their distance from the start.": {
            "start": lambda n_past: 2 * n_past
        },
        "past and new keys are turned again in every call. A key is turned once, by its own "
        "position, and then stays as it is.": {"turned": ("q", "new k", "past k")},
        "there is no mask, so tokens of one chunk see those that come after them.": {
            "seen": lambda slot, pos, n_past: slot >= 0 * pos
        },
        "a query does not see its own key. The first one of a text then sees nothing, and its "
        "softmax is nan. It may use slot t if t <= its position.": {
            "seen": lambda slot, pos, n_past: slot < pos
        },
        "nothing is turned: queries and keys need apply_rope by their positions.": {"turned": ()},
        "only the queries are turned. New keys are turned as well, each by its own position.": {
            "turned": ("q",)
        },
        "only the keys are turned. New queries are turned as well, each by its own position.": {
            "turned": ("new k",)
        },
        "positions are one too far. With n_past tokens before it, the first new token stands at "
        "position n_past.": {"start": lambda n_past: n_past + 1},
        "all new tokens are turned by one position, n_past. Each stands one further than the one "
        "before it.": {"places": lambda first, n: torch.full((n,), first)},
        "all new tokens are turned by one position, that of the last. Each has its own, from "
        "n_past on.": {"places": lambda first, n: torch.full((n,), first + n - 1)},
        "scores are not divided by the root of D.": {"root": lambda x, width: 1.0},
        "scores are divided by the root of C, the model's width. A score is a sum over the D "
        "channels of a head: divide by the root of D.": {
            "root": lambda x, width: x.shape[2] ** 0.5
        },
        "scores are divided by D itself, and not by its root.": {"root": lambda x, width: width},
        "the past is given back but never looked at: new tokens attend to one another alone. They "
        "may use every slot up to their own.": {
            "seen": lambda slot, pos, n_past: (slot <= pos) & (slot >= n_past)
        },
        "values are turned as well. Only queries and keys are: a value has no position.": {
            "turned": ("q", "new k", "new v")
        },
        "the projection is cut into (B, H, S, D) at once, which mixes tokens and heads. Cut into "
        "(B, S, H, D), then transpose axes 1 and 2.": {
            "cut": lambda y, width: y.reshape(len(y), -1, y.shape[1], width)
        },
        "only the new keys and values are given back. The next call needs the past ones, too.": {
            "kept": lambda x, n_new, n_past: x[:, :, n_past:]
        },
        "the new keys are put before the past ones. Slot t is the place of token t: the past "
        "comes first.": {"join": lambda past, new: torch.cat((new, past), dim=2)},
        "query heads are paired with the wrong KV heads: neighbours share a KV head "
        "(repeat_interleave), not every G-th (repeat).": {
            "spread": lambda x, share: x.repeat(1, share, 1, 1)
        },
    },
)
