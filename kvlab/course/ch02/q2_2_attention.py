"""2.2: causal attention where positions, not slots, decide.

B texts, H heads, S queries, T slots, D width of one head.
"""

import torch

from kvlab.course.author import Exercise, Near

Q = Exercise(
    "2.2",
    "Causal attention by positions",
    "causal_attention",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
Now with positions. `q_pos_BS` holds the position of each query and `pos_BT` that of each slot, -1 for padding; texts of a
batch are padded differently, tokens may have been thrown away in between, and slots stand in any order. A query may use a slot when
0 ≤ the slot's position ≤ the query's position. A query that may see nothing gives zeros. Scores are divided by the
square root of D. Roughly 6 lines.

torch's `scaled_dot_product_attention` is not allowed here; `masked_fill` and `softmax` are.
""",
    hints=(
        "The rule has two halves, 0 <= position and position <= the query's position. Give both "
        "tensors of positions the axes (batch, head, query, slot), with 1 where one is missing.",
        "pos = pos_BT[:, None, None, :]; allowed = (pos >= 0) & (pos <= q_pos_BS[:, None, :, "
        "None]). Scores, masked_fill(~allowed, -inf), softmax over the last axis. What comes out "
        "of a row that is all minus infinity?",
        "weights = (q @ k.mT / D**0.5).masked_fill(~allowed, float('-inf')).softmax(-1); weights = "
        "weights.masked_fill(~allowed, 0.0) makes the NaN of rows with nothing to see zeros; "
        "return weights @ v.",
    ),
    forbids=("scaled_dot_product_attention",),
    imports=("torch",),
)


@Q.case
def case(rng):
    """Texts of different lengths, padded in front; one slot of each was thrown away.

    Text 0 has so much padding that its first query is padding, too, and may see nothing. The slots
    of each text are mixed, so that who counts slots goes wrong in another way than who forgets
    that padding is hidden.
    """
    batch, n_heads, n_new = rng.sample([2, 3, 4, 5], 3)
    width, n_slots = rng.choice([6, 7]), rng.choice([8, 9, 10])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(n):
        return torch.randn(batch, n_heads, n, width, generator=torch_rng, dtype=torch.float64)

    pads = [n_slots - n_new + 1] + [rng.randint(1, 2) for _ in range(batch - 1)]
    pos_BT = torch.stack([(torch.arange(n_slots) - p).clamp(min=-1) for p in pads])
    pos_BT[1:, n_slots - n_new :] += 1  # where the gap is, a token was thrown away
    mixed_BT = torch.rand(pos_BT.shape, generator=torch_rng).argsort(-1)
    return {
        "q_BHSD": normal(n_new),
        "k_BHTD": normal(n_slots),
        "v_BHTD": normal(n_slots),
        "q_pos_BS": pos_BT[:, -n_new:].clone(),
        "pos_BT": pos_BT.gather(1, mixed_BT),
    }


@Q.solution
def causal_attention(q_BHSD, k_BHTD, v_BHTD, q_pos_BS, pos_BT):
    """Return out_BHSD: for each query the mixture of the values that it may use."""
    ### BEGIN SOLUTION
    pos_B11T = pos_BT[:, None, None, :]
    allowed_B1ST = (pos_B11T >= 0) & (pos_B11T <= q_pos_BS[:, None, :, None])
    scores_BHST = q_BHSD @ k_BHTD.mT / q_BHSD.shape[-1] ** 0.5
    weights_BHST = scores_BHST.masked_fill(~allowed_B1ST, float("-inf")).softmax(-1)
    return weights_BHST.masked_fill(~allowed_B1ST, 0.0) @ v_BHTD
    ### END SOLUTION


@Q.right
def query_by_query(q_BHSD, k_BHTD, v_BHTD, q_pos_BS, pos_BT):
    """Every query alone, over the slots that it may use and nothing else."""
    out_BHSD = torch.zeros_like(q_BHSD)
    batch, n_heads, n_new, width = q_BHSD.shape
    for b in range(batch):
        for s in range(n_new):
            seen_T = (pos_BT[b] >= 0) & (pos_BT[b] <= q_pos_BS[b, s])
            if seen_T.any():
                for h in range(n_heads):
                    score_T = k_BHTD[b, h, seen_T] @ q_BHSD[b, h, s] / width**0.5
                    out_BHSD[b, h, s] = score_T.softmax(0) @ v_BHTD[b, h, seen_T]
    return out_BHSD


@Q.also_right
def with_lists_of_slots(q_BHSD, k_BHTD, v_BHTD, q_pos_BS, pos_BT):
    out = torch.zeros_like(q_BHSD)
    for b in range(len(q_BHSD)):
        for s, query_at in enumerate(q_pos_BS[b].tolist()):
            slots = [t for t, at in enumerate(pos_BT[b].tolist()) if 0 <= at <= query_at]
            if slots:
                score = torch.einsum("hd,htd->ht", q_BHSD[b, :, s], k_BHTD[b][:, slots])
                weight = torch.exp(torch.log_softmax(score / q_BHSD.shape[-1] ** 0.5, dim=-1))
                out[b, :, s] = torch.einsum("ht,htd->hd", weight, v_BHTD[b][:, slots])
    return out


_GIVEN = ("q_BHSD", "k_BHTD", "v_BHTD", "q_pos_BS", "pos_BT")

Q.agrees("same as query by query", *_GIVEN, gives="out_BHSD")


@Q.law("what no query may see can be anything")
def _(answer, case):
    """Once as it is, and once with very loud keys and values wherever no query may look."""
    unseen_BT = ~_allowed(case["pos_BT"][:, None], case["q_pos_BS"][..., None]).any(1)
    loud = {
        name: case[name].masked_fill(unseen_BT[:, None, :, None], by)
        for name, by in (("k_BHTD", 5e4), ("v_BHTD", 50.0))
    }
    loud_BHSD = answer(*({**case, **loud}[name] for name in _GIVEN))
    calm_BHSD = answer(*(case[name] for name in _GIVEN))
    return {"out_BHSD": Near(calm_BHSD).of(loud_BHSD), "_calm": calm_BHSD}


@Q.law("one text, one head, one query")
def _(answer, case):
    """The last query of text 0, whose slots stand in another order than its positions."""
    q, k, v, q_pos, pos = (case[name][:1] for name in _GIVEN)
    return {"out_BHSD": answer(q[:, :1, -1:], k[:, :1], v[:, :1], q_pos[:, -1:], pos)}


def _one_text(answer, case, q_pos, pos):
    """One text, with these positions of its queries and slots."""
    q, k, v = (case[name][:1] for name in _GIVEN[:3])
    q_pos_BS, pos_BT = torch.tensor([q_pos]), torch.tensor([pos])
    n, t = len(q_pos), len(pos)
    return {"out_BHSD": answer(q[:, :, :n], k[:, :, :t], v[:, :, :t], q_pos_BS, pos_BT)}


@Q.law(
    "all that a query might use was thrown away",
    shows=lambda _: "one text, q_pos_BS [[2]], pos_BT [[-1, 3, 4]]",
)
def _(answer, case):
    return _one_text(answer, case, [2], [-1, 3, 4])


@Q.law(
    "much was thrown away", shows=lambda _: "one text, q_pos_BS [[4, 700]], pos_BT [[500, 0, 3]]"
)
def _(answer, case):
    return _one_text(answer, case, [4, 700], [500, 0, 3])


# --- what goes wrong: each changes one thing of this ---


def _allowed(pos, q_pos):
    return (pos >= 0) & (pos <= q_pos)


def _attend(
    q,
    k,
    v,
    q_pos,
    pos,
    *,
    allows=_allowed,
    scale=True,
    hidden=float("-inf"),
    over=-1,
    mask_after=False,
    zero=True,
):
    allowed = allows(pos[:, None, None, :], q_pos[:, None, :, None])
    score = q @ k.mT / (q.shape[-1] ** 0.5 if scale else 1.0)
    if mask_after:
        return score.softmax(over).masked_fill(~allowed, 0.0) @ v
    weight = score.masked_fill(~allowed, hidden).softmax(over)
    return (weight.nan_to_num(0.0) if zero else weight) @ v


def _counted(pos, q_pos, first):
    """Slots by their number, the first query's being `first`."""
    n_slots, n_new = pos.shape[-1], q_pos.shape[-2]
    return torch.arange(n_slots) <= torch.arange(first, first + n_new)[:, None]


def _divided_again(q, k, v, q_pos, pos):
    allowed = _allowed(pos[:, None, None, :], q_pos[:, None, :, None])
    weight = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1).masked_fill(~allowed, 0.0)
    return (weight / weight.sum(-1, keepdim=True)).nan_to_num(0.0) @ v


def _blind_by_position(q, k, v, q_pos, pos):
    out = _attend(q, k, v, q_pos, pos, hidden=-1e9)
    return out.masked_fill((q_pos < 0)[:, None, :, None], 0.0)


Q.mistakes(
    _attend,
    {
        "the scores are not divided by the square root of D.": {"scale": False},
        "the mask comes after the softmax, so what is hidden still counts in the denominator.": {
            "mask_after": True
        },
        "the mask comes after the softmax, and the rest is divided again. Next to a hidden score that is very large "
        "all others are rounded to 0. Mask the scores, before the softmax.": _divided_again,
        "only queries of padding give zeros here. A query of a token may have nothing to see as well, when all that it "
        "might use was thrown away.": _blind_by_position,
        "position 0 is taken for padding: the rule begins with 0 <=.": {
            "allows": lambda pos, q_pos: (pos > 0) & (pos <= q_pos)
        },
        "padding is hidden by its position, and the rest by counting slots. Compare positions in both halves of the "
        "rule.": {
            "allows": lambda pos, q_pos: (
                (pos >= 0) & _counted(pos, q_pos, pos.shape[-1] - q_pos.shape[-2])
            )
        },
        "rows and columns are counted from the top left instead of comparing positions.": {
            "allows": lambda pos, q_pos: _counted(pos, q_pos, first=0)
        },
        "slots are counted, as if slot t held position t. Ask for their positions: some are "
        "padding, and they may stand in any order.": {
            "allows": lambda pos, q_pos: _counted(pos, q_pos, pos.shape[-1] - q_pos.shape[-2])
        },
        "a slot's number is taken for its position: slot t need not hold position t. Compare pos_BT "
        "with the query's position.": {
            "allows": lambda pos, q_pos: torch.arange(pos.shape[-1]) <= q_pos
        },
        "nothing is hidden: every query sees every slot. The positions have to be used.": {
            "allows": lambda pos, q_pos: pos >= -1
        },
        "what may be used is hidden, and the rest is seen. masked_fill writes where its mask is "
        "True: give it ~allowed.": {"allows": lambda pos, q_pos: ~_allowed(pos, q_pos)},
        "the positions of text 0 are used for all texts. Each has its own; keep the first axis.": {
            "allows": lambda pos, q_pos: _allowed(pos[:1], q_pos[:1])
        },
        "the mask has the axes batch, query, slot, and torch lines its batch up with the heads. "
        "Put an axis of length 1 where the heads are: [:, None].": {
            "allows": lambda pos, q_pos: _allowed(pos, q_pos)[:, 0]
        },
        "padding is seen: its position, -1, is smaller than every query's. The rule has a lower "
        "end, too.": {"allows": lambda pos, q_pos: pos <= q_pos},
        "a query does not see its own slot.": {
            "allows": lambda pos, q_pos: (pos >= 0) & (pos < q_pos)
        },
        "a query that may see nothing gives NaN: the softmax of minus infinities only. It must "
        "give zeros.": {"zero": False},
        "hidden scores are a large negative number, so a query that may see nothing mixes all "
        "slots alike. It must give zeros.": {"hidden": -1e9},
        "the softmax runs over the queries; the weights of one query, over its slots, sum to 1.": {
            "over": -2
        },
    },
)
