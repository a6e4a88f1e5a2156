"""7.7: a softmax that is taken block by block. S query rows, T scores of a block, D width."""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise, Near, named

Q = Exercise(
    "7.7",
    "Softmax, block by block",
    "add_block",
    points=5,
    minutes=25,
    difficulty=3,
    statement="""
A long history is read in blocks, and only what was gathered so far is kept between them (chapter 7, "A long history, never held at once"). For each of S query rows that is

- `m_S`: the largest score so far, `-inf` at the beginning;
- `l_S`: the sum of exp(score - m) over all scores so far, 0 at the beginning;
- `o_SD`: the sum of exp(score - m) times the value, over the same scores, *not yet divided*; 0 at the beginning.

Take in one more block, with `scores_ST` and `v_TD`, and return the three anew: `(m_S, l_S, o_SD)`. At the end, `o / l` is what a softmax over all scores would have given, whatever the blocks and their order. Blocks may have
any number of scores, none among them. A score of `-inf` belongs to a token that this row must not see: it counts nothing, and a row that has seen nothing yet keeps `-inf`, 0 and 0. Scores may be as large as
1,000, where exp(score) alone is infinite. Change none of the arguments. About 8 lines.

One row has m = 0, l = 1, o = [4]. A block with the scores [log 2, 0] and the values [1] and [3] makes m = log 2, l = 2, o = [4.5]: what was there is halved, to 0.5 and [2], and the block adds 1 and 0.5, [1] and [1.5].
""",
    hints=(
        "What was added up with another m is wrong by a factor that is the same for the whole row. Which one? And what is -inf - (-inf)?",
        "The new m is the larger of the old one and the largest of the block. Multiply l and o by exp(old m - new m), then add the block's exponentials. Where the "
        "new m is -inf, subtract 0 in its place: exp(-inf - 0) is 0.",
        "new_S = torch.maximum(m_S, scores_ST.amax(-1)) (if the block has no scores, nothing changes); safe_S = new_S.masked_fill(new_S == -inf, 0); "
        "old_S = exp(m_S - safe_S); weights_ST = exp(scores_ST - safe_S[:, None]); return new_S, l_S * old_S + weights_ST.sum(-1), "
        "o_SD * old_S[:, None] + weights_ST @ v_TD.",
    ),
    imports=("torch",),
    size=lambda case: case["scores_ST"].numel(),
)

STATE = ("m_S", "l_S", "o_SD")
LOWEST = float("-inf")


@Q.case
def case(rng):
    """What two blocks left behind, and a third: some rows have a larger score in it, some do not."""
    n_rows, n_scores, width = rng.sample([3, 4, 5, 6, 7], 3)
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))

    def normal(*shape):
        return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

    before_ST, scores_ST = 3 * normal(n_rows, 6), 3 * normal(n_rows, n_scores)
    scores_ST[0] += before_ST[0].amax() - scores_ST[0].amax() + rng.uniform(0.5, 2)
    scores_ST[1] += before_ST[1].amax() - scores_ST[1].amax() - rng.uniform(0.5, 2)
    scores_ST[:, 1] = torch.where(
        torch.rand(n_rows, generator=torch_rng) < 0.4, LOWEST, scores_ST[:, 1]
    )
    state = whole(before_ST, normal(6, width))
    return {
        **dict(zip(STATE, state, strict=True)),
        "scores_ST": scores_ST,
        "v_TD": normal(n_scores, width),
    }


def whole(scores_ST, v_TD):
    """The three of all scores at once, a row at a time."""
    m, l, o = [], [], []  # noqa: E741
    for scores_T in scores_ST:
        seen_T = scores_T > LOWEST
        if not seen_T.any():
            m.append(torch.tensor(LOWEST, dtype=torch.float64))
            l.append(torch.zeros((), dtype=torch.float64))
            o.append(torch.zeros(v_TD.shape[1], dtype=torch.float64))
            continue
        largest = scores_T[seen_T].max()
        weights_T = (scores_T[seen_T] - largest).exp()
        m.append(largest)
        l.append(weights_T.sum())
        o.append(weights_T @ v_TD[seen_T])
    return torch.stack(m), torch.stack(l), torch.stack(o)


@Q.solution
def add_block(m_S, l_S, o_SD, scores_ST, v_TD):
    """Return m_S, l_S and o_SD with one more block in them."""
    ### BEGIN SOLUTION
    if scores_ST.shape[1] == 0:
        return m_S, l_S, o_SD
    new_S = torch.maximum(m_S, scores_ST.amax(-1))
    safe_S = new_S.masked_fill(new_S == float("-inf"), 0.0)  # exp(-inf - 0) is 0
    old_S = torch.exp(m_S - safe_S)
    weights_ST = torch.exp(scores_ST - safe_S[:, None])
    l_S = l_S * old_S + weights_ST.sum(-1)
    o_SD = o_SD * old_S[:, None] + weights_ST @ v_TD
    return new_S, l_S, o_SD
    ### END SOLUTION


@Q.also_right
def score_by_score(m_S, l_S, o_SD, scores_ST, v_TD):
    m, l, o = m_S.clone(), l_S.clone(), o_SD.clone()  # noqa: E741
    for s in range(scores_ST.shape[0]):
        for t in range(scores_ST.shape[1]):
            score = scores_ST[s, t]
            if score == -torch.inf:
                continue
            if score > m[s]:
                shrink = (m[s] - score).exp() if m[s] > -torch.inf else 0.0
                l[s], o[s], m[s] = l[s] * shrink, o[s] * shrink, score
            weight = (score - m[s]).exp()
            l[s] += weight
            o[s] += weight * v_TD[t]
    return [m, l, o]


# --- laws ---


def _added(answer, *given):
    return named(answer(*given), *STATE)


def _true(found, *blocks):
    """What came, held to the three of all these blocks at once."""
    scores_ST = torch.cat([scores for scores, _ in blocks], dim=1)
    true = whole(scores_ST, torch.cat([v for _, v in blocks]))
    return {n: Near(t).of(found[n]) for n, t in zip(STATE, true, strict=True)}


def _of_case(case):
    return tuple(case[name] for name in (*STATE, "scores_ST", "v_TD"))


def _start(n_rows, width):
    return (
        torch.full((n_rows,), LOWEST, dtype=torch.float64),
        torch.zeros(n_rows, dtype=torch.float64),
        torch.zeros(n_rows, width, dtype=torch.float64),
    )


def _in_turn(answer, blocks):
    """All blocks one after the other, from nothing."""
    found = dict(zip(STATE, _start(len(blocks[0][0]), blocks[0][1].shape[1]), strict=True))
    for block in blocks:
        found = _added(answer, *found.values(), *block)
    return found


@Q.law("one more block", rtol=1e-9)
def _(answer, case):
    return _added(answer, *_of_case(case))


def _blocks(case, sizes, shift=0.0):
    """Blocks of these sizes, of the case's rows and width; the scores lie around `shift`."""
    n_rows, width = case["o_SD"].shape
    torch_rng = torch.Generator().manual_seed(sum(sizes) + case["scores_ST"].shape[1])
    return [
        (
            shift + 3 * torch.randn(n_rows, n, generator=torch_rng, dtype=torch.float64),
            torch.randn(n, width, generator=torch_rng, dtype=torch.float64),
        )
        for n in sizes
    ]


def _law(says, blocks):
    @Q.law(says)
    def _(answer, case):
        made = blocks(case)
        return _true(_in_turn(answer, made), *made)


_law("the first block", lambda case: _blocks(case, [5]))
_law("blocks of any size, one of them empty", lambda case: _blocks(case, [4, 1, 0, 7, 2]))
_law("an empty block comes first", lambda case: _blocks(case, [0, 3]))
_law("scores of a thousand", lambda case: _blocks(case, [3, 4, 2], 1000.0))
_law("scores of minus a thousand", lambda case: _blocks(case, [3, 4, 2], -1000.0))
_law(
    "scores of minus a thousand, then of a thousand",
    lambda case: [*_blocks(case, [3, 2], -1000.0), *_blocks(case, [4], 1000.0)],
)
_law(
    "scores of a thousand, then of minus a thousand",
    lambda case: [*_blocks(case, [3, 2], 1000.0), *_blocks(case, [4], -1000.0)],
)


def _hidden(case, sizes, hide):
    blocks = _blocks(case, sizes)
    for i, rows in hide.items():
        blocks[i][0][rows] = LOWEST
    return blocks


_law("a row sees nothing of the first block", lambda case: _hidden(case, [3, 4], {0: [0]}))
_law("a row sees nothing of the second block", lambda case: _hidden(case, [3, 4], {1: [1]}))
_law("a row sees nothing at all", lambda case: _hidden(case, [3, 4, 2], {0: [2], 1: [2], 2: [2]}))
_law("no row sees anything", lambda case: _hidden(case, [3, 2], {0: slice(None), 1: slice(None)}))


@Q.law("in the other order the mixture is the same")
def _(answer, case):
    blocks = _hidden(case, [3, 5, 2], {1: [0]})
    there, back = (_in_turn(answer, b) for b in (blocks, blocks[::-1]))
    mixed = {w: f["o_SD"] / f["l_S"][:, None] for w, f in (("there", there), ("back", back))}
    return {"the mixture, out_SD": Near(mixed["there"]).of(mixed["back"]), "_there": there}


@Q.law("the mixture is that of torch's softmax")
def _(answer, case):
    blocks = _blocks(case, [2, 6, 3])
    found = _in_turn(answer, blocks)
    scores_ST, v_TD = (torch.cat(part, dim) for part, dim in zip(zip(*blocks), (1, 0), strict=True))
    true_SD = scores_ST.softmax(-1) @ v_TD
    return {"the mixture, out_SD": Near(true_SD).of(found["o_SD"] / found["l_S"][:, None])}


# --- what goes wrong: each changes one thing of this ---


def _add(
    m_S, l_S, o_SD, scores_ST, v_TD, *, guards=True, largest=torch.maximum, shrinks_l=True,
    shrinks_o=True, shrink=lambda old, new: old - new, divides=False, weigh=True, empty=True,
    per_row=True, subtracts=True, keeps=lambda new, old: new, adds=True,
):  # fmt: skip
    if scores_ST.shape[1] == 0 and empty:
        return m_S, l_S, o_SD
    block_S = scores_ST.amax(-1) if per_row else scores_ST.amax().expand(len(m_S))
    new_S = largest(m_S, block_S)
    safe_S = new_S.masked_fill(new_S == LOWEST, 0.0) if guards else new_S
    safe_S = safe_S if subtracts else torch.zeros_like(safe_S)
    old_S = shrink(m_S, safe_S).exp() if subtracts else torch.ones_like(m_S)
    weights_ST = torch.exp(scores_ST - safe_S[:, None])
    summed_S = l_S * (old_S if shrinks_l else 1) * adds + weights_ST.sum(-1)
    o_SD = o_SD * (old_S if shrinks_o else torch.ones_like(old_S))[:, None] * adds
    o_SD = o_SD + (weights_ST if weigh else weights_ST / weights_ST.sum(-1, keepdim=True)) @ v_TD
    return keeps(new_S, m_S), summed_S, o_SD / summed_S[:, None] if divides else o_SD


def _changes_its_arguments(m_S, l_S, o_SD, scores_ST, v_TD):
    m_new, l_new, o_new = _add(m_S, l_S, o_SD, scores_ST, v_TD)
    return m_new, l_S.copy_(l_new), o_SD.copy_(o_new)


Q.mistakes(
    _add,
    {
        "where a row has seen nothing yet, -inf - (-inf) is no number. Subtract 0 there.": {
            "guards": False
        },
        "the sum is not made smaller when a larger score comes.": {"shrinks_l": False},
        "the mixture is not made smaller when a larger score comes.": {"shrinks_o": False},
        "neither the sum nor the mixture is made smaller when a larger score comes.": {
            "shrinks_l": False,
            "shrinks_o": False,
        },
        "the factor is upside down: what was there was too large, so it is exp(old - new).": {
            "shrink": lambda old, new: torch.where(old == LOWEST, old, new - old)
        },
        "the largest score is that of the block alone. An earlier one may have been larger.": {
            "largest": lambda old, block: block
        },
        "the largest score of earlier blocks is kept though this block has a larger one.": {
            "keeps": lambda new, old: torch.where(old == LOWEST, new, old)
        },
        "one largest score is taken for all rows. Each row has its own.": {"per_row": False},
        "no largest score is subtracted: exp(1000) is infinite.": {"subtracts": False},
        "the mixture is divided by the sum already. That is for the end, when all blocks are "
        "there.": {"divides": True},
        "the block's own softmax is mixed. Its weights are exp(score - m), not divided.": {
            "weigh": False
        },
        "what was gathered before is forgotten.": {"adds": False},
    },
)
