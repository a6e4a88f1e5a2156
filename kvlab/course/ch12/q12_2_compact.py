"""12.2: kept tokens move to the front, each head's for itself.

B rows of the batch, G key/value heads, T slots, D head width, N kept tokens.
"""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise, Near, named
from kvlab.course.ch12._normal import normal

Q = Exercise(
    "12.2",
    "Compact evicted tokens",
    "compact",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
`keep_BGT` says which tokens stay; each head has its own choice, and heads may keep different numbers. Move what stays to the front,
in the order it had: keys, values and positions. The result has as many slots as the fullest head keeps. A head that keeps fewer has
empty slots at its end: keys and values 0, position -1. Positions are those of the text, whatever the slot.

Example: positions `[0, 1, 2, 3]` of which tokens 1 and 3 stay become `[1, 3]`; beside a head that keeps three, `[1, 3, -1]`. Roughly 8 lines.
""",
    hints=(
        "How many slots does the result need, when heads keep different numbers of tokens? And "
        "which order do the kept ones have to be in?",
        "A stable argsort of ~keep_BGT puts the kept slots first, in the order they had. The "
        "result is as long as the fullest head; a head that keeps fewer has empty slots.",
        "order = (~keep_BGT).byte().argsort(dim=-1, stable=True)[..., :most]; stays = "
        "torch.arange(most) < keep_BGT.sum(-1, keepdim=True). Positions: pos_BGT.gather(-1, "
        "order).where(stays, -1). Keys: k_BGTD.gather(2, order[..., None].expand(-1, -1, -1, D)), "
        "times stays[..., None] for the zeros.",
    ),
)


@Q.case
def case(rng):
    """Heads keep different numbers of tokens; slot 0 goes everywhere, so slots must move."""
    batch, n_groups = rng.sample([2, 3], 2)
    n_slots, width = rng.randint(7, 12), rng.choice([4, 5, 6])
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    keep_BGT = torch.zeros(batch, n_groups, n_slots, dtype=torch.bool)
    for i, keep_T in enumerate(keep_BGT.flatten(0, 1)):
        n_kept = 2 + i % 5
        keep_T[1 + torch.randperm(n_slots - 1, generator=torch_rng)[:n_kept]] = True
    step_BGT = torch.randint(1, 3, (batch, n_groups, n_slots), generator=torch_rng)
    shape = (batch, n_groups, n_slots, width)
    return {
        "k_BGTD": normal(rng.randrange(2**31), *shape),
        "v_BGTD": normal(rng.randrange(2**31), *shape),
        "pos_BGT": step_BGT.cumsum(-1) - 1,  # something was evicted before
        "keep_BGT": keep_BGT,
        "_q_seed": rng.randrange(2**31),
    }


@Q.solution
def compact(k_BGTD, v_BGTD, pos_BGT, keep_BGT):
    """Return k_BGND, v_BGND and pos_BGN: only what stays, N as many as the fullest head keeps."""
    ### BEGIN SOLUTION
    count_BG1 = keep_BGT.sum(-1, keepdim=True)
    most = int(count_BG1.max())
    order_BGN = (~keep_BGT).byte().argsort(dim=-1, stable=True)[..., :most]
    stays_BGN = torch.arange(most) < count_BG1

    def moved(x_BGTD):
        from_BGND = order_BGN[..., None].expand(-1, -1, -1, x_BGTD.shape[-1])
        return x_BGTD.gather(2, from_BGND).where(stays_BGN[..., None], 0)

    return moved(k_BGTD), moved(v_BGTD), pos_BGT.gather(-1, order_BGN).where(stays_BGN, -1)
    ### END SOLUTION


@Q.right
def token_by_token(k_BGTD, v_BGTD, pos_BGT, keep_BGT):
    batch, n_groups, _, width = k_BGTD.shape
    most = int(keep_BGT.sum(-1).max())
    k_BGND, v_BGND = k_BGTD.new_zeros(2, batch, n_groups, most, width)
    pos_BGN = torch.full((batch, n_groups, most), -1)
    for b in range(batch):
        for g in range(n_groups):
            for to, t in enumerate(keep_BGT[b, g].nonzero().flatten().tolist()):
                k_BGND[b, g, to], v_BGND[b, g, to] = k_BGTD[b, g, t], v_BGTD[b, g, t]
                pos_BGN[b, g, to] = pos_BGT[b, g, t]
    return k_BGND, v_BGND, pos_BGN


@Q.also_right
def row_by_row(k_BGTD, v_BGTD, pos_BGT, keep_BGT):
    rows = [(b, g) for b in range(keep_BGT.shape[0]) for g in range(keep_BGT.shape[1])]
    kept = {at: torch.where(keep_BGT[at])[0] for at in rows}
    most = max(len(slots) for slots in kept.values())

    def short(x, empty):
        out = torch.full((*x.shape[:2], most, *x.shape[3:]), empty, dtype=x.dtype)
        for at, slots in kept.items():
            out[at][: len(slots)] = x[at].index_select(0, slots)
        return out

    return short(k_BGTD, 0), short(v_BGTD, 0), short(pos_BGT, -1)


# --- laws ---


GIVEN, RESULTS = ("k_BGTD", "v_BGTD", "pos_BGT", "keep_BGT"), ("k_BGND", "v_BGND", "pos_BGN")

Q.agrees("slots move to the front, positions and order stay", *GIVEN, gives=RESULTS)


@Q.law("attention is that of a mask over all slots")
def _(answer, case):
    k, v, pos = named(answer(*(case[name] for name in GIVEN)), *RESULTS).values()
    batch, n_groups, _, width = case["k_BGTD"].shape
    q_BGD = normal(case["_q_seed"], batch, n_groups, width)
    masked_BGD = _attend(q_BGD, case["k_BGTD"], case["v_BGTD"], case["keep_BGT"])
    out_BGD = _attend(q_BGD, k, v, pos >= 0)
    return {"attention over what is left, out_BGD": Near(masked_BGD).of(out_BGD)}


def _attend(q_BGD, k_BGTD, v_BGTD, seen_BGT):
    scores_BGT = (k_BGTD @ q_BGD[..., None])[..., 0] * q_BGD.shape[-1] ** -0.5
    weights_BGT = scores_BGT.masked_fill(~seen_BGT, float("-inf")).softmax(-1)
    return (weights_BGT[:, :, None] @ v_BGTD)[:, :, 0]


@Q.law("all stay, and heads that keep nothing")
def _(answer, case):
    """One head with a slot, all heads whole, a head without any, and nothing kept by anybody."""
    none_BGT = torch.zeros_like(case["keep_BGT"])
    part_BGT = case["keep_BGT"].clone()
    part_BGT[0, 0] = False
    choices = {"all": ~none_BGT, "all but of the first head": part_BGT, "nothing": none_BGT}
    seen = {}
    for what, keep_BGT in choices.items():
        got = named(answer(*(case[name] for name in GIVEN[:3]), keep_BGT), *RESULTS)
        seen |= {f"kept: {what}, {name}": x for name, x in got.items()}
    return seen


@Q.law("slots in another order than the text: theirs stays")
def _(answer, case):
    flipped = {name: case[name].flip(2) for name in GIVEN}
    return named(answer(*flipped.values()), *RESULTS)


# --- what goes wrong: most change one thing of this ---


def _kept_first(keep):
    return (~keep).byte().argsort(dim=-1, stable=True)


def _fullest(keep):
    return int(keep.sum(-1).max())


def _compact(
    k, v, pos, keep, *, order=_kept_first, length=_fullest, empty=-1, clears=True, clears_pos=True
):
    n = length(keep)
    slots, stays = order(keep)[..., :n], torch.arange(n) < keep.sum(-1, keepdim=True)

    def moved(x):
        x = x.gather(2, slots[..., None].expand(-1, -1, -1, x.shape[-1]))
        return x * stays[..., None] if clears else x

    pos = pos.gather(-1, slots)
    return moved(k), moved(v), pos.where(stays, empty) if clears_pos else pos


def _as_in_the_chapter(k, v, pos, keep):
    return tuple(x[keep].view(*keep.shape[:2], -1, *x.shape[3:]) for x in (k, v, pos))


def _values_stay(k, v, pos, keep):
    k, _, pos = _compact(k, v, pos, keep)
    return k, v[:, :, : k.shape[2]] * (pos >= 0)[..., None], pos


Q.mistakes(
    _compact,
    {
        "heads keep different numbers of tokens, so what is kept is no rectangle. The chapter's "
        "x[keep].view(B, G, -1, D) works only when all keep equally many.": _as_in_the_chapter,
        "empty slots still hold evicted tokens, with their positions. Put 0 into their keys and "
        "values and -1 into their positions.": {"clears": False, "clears_pos": False},
        "empty slots still hold keys and values of evicted tokens. They should be 0.": {
            "clears": False
        },
        "pos_BGT is not moved: each position is the slot that the token had. Something was evicted "
        "before, so slot and position differ.": lambda k, v, pos, keep: _compact(
            k, v, torch.arange(pos.shape[-1]).expand(pos.shape), keep
        ),
        "the tokens that should go are kept. True in keep_BGT means that a token stays.": (
            lambda k, v, pos, keep: _compact(k, v, pos, ~keep)
        ),
        "the result is as long as before, with empty slots at the end. It needs as many as the "
        "fullest head keeps.": {"length": lambda keep: keep.shape[-1]},
        "positions are counted anew. A key was turned by the position it had, and keeps it; only "
        "its slot changes.": lambda k, v, pos, keep: _compact(k, v, keep.cumsum(-1) - 1, keep),
        "the kept tokens are in another order than they were: sort what stays by slot.": {
            "order": lambda keep: (keep * torch.arange(1, keep.shape[-1] + 1)).argsort(
                -1, descending=True
            )
        },
        "keys move and values do not, so weights meet the values of other tokens.": _values_stay,
        "the first head's choice is used for all heads. Each head keeps tokens of its own.": (
            lambda k, v, pos, keep: _compact(k, v, pos, keep[:, :1].expand(keep.shape))
        ),
        "evicted tokens are zeroed where they stand. Nothing is smaller, and a zero key still "
        "takes part in the softmax.": lambda k, v, pos, keep: (
            (k * keep[..., None], v * keep[..., None], pos)
        ),
        "empty slots claim position 0, so a mask made from positions lets them be seen. Empty is "
        "-1.": {"empty": 0},
        "the result is as short as the head that keeps the fewest, and the others lose tokens they "
        "wanted to keep.": {"length": lambda keep: int(keep.sum(-1).min())},
    },
)
