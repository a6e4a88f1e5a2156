"""4.2: which rows a part of a model looks at. S tokens, C width of the stream."""

from __future__ import annotations

import torch

from kvlab.course.author import AtMost, Exercise, LentFunction, Near

Q = Exercise(
    "4.2",
    "Who moves whom?",
    "reach",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
Is a part of a model an MLP, which treats each token alone, or something that looks around (chapter 4, "Which half
knows that other tokens exist?")? You are handed a `part`: `part(x_SC)` gives one row for each row that it gets, all of width C. You cannot
look inside, but you may call it, at most S + 1 times.

Return `moved_SS`, a tensor of `True` and `False`: `moved_SS[i, j]` says whether output row i moves when **input** row j is
changed and all other rows stay. A row has moved if any of its numbers is another by more than 1e-9; less is rounding: some parts do round.
Start from the rows `x_SC` that you are given, and leave them as they are. Roughly 7 lines.

For the sum of all rows so far, `part = lambda x_SC: x_SC.cumsum(0)`, and three rows the answer is

```
[[ True, False, False],
 [ True,  True, False],
 [ True,  True,  True]]
```

One warning: some parts do not see every change. One that norms each row does not see that a row was doubled, one that squares
its numbers does not see that a row was negated, one that subtracts a row's mean does not see that 1 was added to all of its
numbers, and one may look at a single channel.
""",
    hints=(
        "Call the part once as it is. Then change one input row at a time, and compare all output "
        "rows with those of the first call. Which change would every part see?",
        "Loop over j: changed_SC = x_SC.clone(); changed_SC[j] = torch.randn(C), other numbers "
        "altogether. Output rows that differ by more than 1e-9 anywhere make column j.",
        "before_SC = part(x_SC); for each j, moved_SS[:, j] = (part(changed_SC) - "
        "before_SC).abs().amax(-1) > 1e-9, with moved_SS = torch.zeros(S, S, dtype=torch.bool) "
        "before the loop, and changed_SC[j] = torch.randn(C, dtype=x_SC.dtype) on a fresh clone.",
    ),
    imports=("torch",),
)


@Q.case
def case(rng):
    n_tokens, width = rng.sample([3, 4, 5, 6], 2)
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return {
        "x_SC": torch.randn(n_tokens, width, generator=torch_rng, dtype=torch.float64),
        "_w_CC": torch.randn(width, width, generator=torch_rng, dtype=torch.float64),
    }


@Q.solution
def reach(part, x_SC):
    """Return moved_SS: does output row i move when input row j is changed?"""
    ### BEGIN SOLUTION
    n, width = x_SC.shape
    before_SC = part(x_SC)
    moved_SS = torch.zeros(n, n, dtype=torch.bool)
    for j in range(n):
        changed_SC = x_SC.clone()
        changed_SC[j] = torch.randn(width, dtype=x_SC.dtype)
        moved_SS[:, j] = (part(changed_SC) - before_SC).abs().amax(-1) > 1e-9
    return moved_SS
    ### END SOLUTION


@Q.also_right
def column_by_column(part, x):
    def moved_by(j):
        other = torch.stack(
            [x[i] if i != j else x[i].flip(0) * 0.7 + torch.rand(x.shape[1]) for i in range(len(x))]
        )
        return [bool((a - b).abs().max() > 1e-9) for a, b in zip(part(other), before)]

    before = part(x)
    return torch.tensor([moved_by(j) for j in range(len(x))]).T


# --- parts, each with who moves whom: rows i that move, by the row j that is changed ---


def mixed(x_SC, seen_SS):
    """Attention with the same weight on every row that is seen."""
    return seen_SS.double() / seen_SS.sum(-1, keepdim=True).clamp(min=1) @ x_SC


def own(n):
    return torch.eye(n, dtype=torch.bool)


def before(n):
    return torch.ones(n, n).tril().bool()


def last_alone(n):
    return own(n) | (torch.arange(n) == n - 1)[:, None]


def neighbour(n):
    return torch.eye(n, dtype=torch.bool).roll(-1, 1)


def previous(n):
    return own(n) | (torch.eye(n, dtype=torch.bool).roll(1, 0) & before(n))


def last_channel_sees_previous(x_SC, w_CC):
    out_SC = (x_SC @ w_CC).tanh()
    out_SC[1:, -1] += x_SC[:-1, 0]
    return out_SC


def faint(n):
    return own(n) | (torch.arange(n) == 0)[None]


def normed(x_SC):
    """Without an eps, which would let a doubled row be seen; a row of zeros stays one."""
    return x_SC / x_SC.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)


PARTS = {
    "an MLP": (lambda x_SC, w_CC: (x_SC @ w_CC).tanh() @ w_CC, own),
    "a norm": (lambda x_SC, _: normed(x_SC), own),
    "a norm that subtracts the mean": (
        lambda x_SC, w_CC: normed(x_SC - x_SC.mean(-1, keepdim=True)) * w_CC[0],
        own,
    ),
    "an MLP that knows its position": (
        lambda x_SC, w_CC: (x_SC @ w_CC + torch.arange(len(x_SC))[:, None]).sin(),
        own,
    ),
    "causal attention": (
        lambda x_SC, w_CC: mixed(x_SC, before(len(x_SC))) @ w_CC,
        before,
    ),
    "attention without a mask": (
        lambda x_SC, w_CC: mixed(x_SC, before(len(x_SC)) | True) @ w_CC,
        lambda n: torch.ones(n, n, dtype=torch.bool),
    ),
    "attention of the last row alone": (
        lambda x_SC, w_CC: mixed(x_SC, last_alone(len(x_SC))) @ w_CC,
        last_alone,
    ),
    "each row takes the next one's place": (
        lambda x_SC, w_CC: mixed(x_SC, neighbour(len(x_SC))) @ w_CC,
        neighbour,
    ),
    "an MLP with a trace of the first row": (
        lambda x_SC, w_CC: (x_SC @ w_CC).tanh() + 2e-8 * (x_SC @ w_CC).sin()[:1],
        faint,
    ),
    "an MLP whose last channel sees the row before": (last_channel_sees_previous, previous),
    "one channel of each row": (lambda x_SC, w_CC: x_SC[:, -1:] * w_CC[:1].sin(), own),
    "the mean square of each row": (
        lambda x_SC, _: x_SC.square().mean(-1, keepdim=True).repeat(1, x_SC.shape[1]),
        own,
    ),
    "an MLP whose channels add up to nothing": (
        lambda x_SC, w_CC: (x_SC @ w_CC).tanh() - (x_SC @ w_CC).tanh().mean(-1, keepdim=True),
        own,
    ),
    "each row alone, but for rounding": (
        lambda x_SC, _: (x_SC + 1000 * x_SC.sum(0)) - 1000 * x_SC.sum(0),
        own,
    ),
    "nothing of its input": (
        lambda x_SC, w_CC: torch.zeros_like(x_SC) + w_CC[0],
        lambda n: torch.zeros(n, n, dtype=torch.bool),
    ),
}

for name, (function, reached) in PARTS.items():

    @Q.law(f"{name}: who moves whom")
    def _(answer, case, function=function, reached=reached):
        x_SC, w_CC = case["x_SC"], case["_w_CC"]
        lent = LentFunction(lambda given_SC: function(given_SC, w_CC))
        moved_SS = answer(lent, x_SC)
        return {
            "moved_SS": Near(reached(len(x_SC))).of(moved_SS),
            "calls of part": AtMost(len(x_SC) + 1).of(lent.calls),
        }


@Q.law("one row alone", shows=lambda case: f"x_SC (1, {case['x_SC'].shape[1]}), the part torch.sin")
def _(answer, case):
    lent = LentFunction(lambda x_SC: x_SC.sin())
    return {"moved_SS": Near(own(1)).of(answer(lent, case["x_SC"][:1]))}


def _looks_back(x_SC, w_CC):
    """Which rows look back is up to their own first number."""
    out_SC = (x_SC @ w_CC).tanh()
    out_SC[1:] += (x_SC[1:, :1] > 0) * x_SC[:-1]
    return out_SC


@Q.law("a part in which some rows look back: from the rows that are given")
def _(answer, case):
    x_SC, w_CC = case["x_SC"], case["_w_CC"]
    looks_S1 = x_SC[:, :1] > 0
    reached_SS = own(len(x_SC)) | (looks_S1 & previous(len(x_SC)))
    found = answer(LentFunction(lambda given_SC: _looks_back(given_SC, w_CC)), x_SC)
    return {"moved_SS": Near(reached_SS).of(found)}


# --- what goes wrong: each changes one thing of this ---


def _other(x_C):
    return torch.cos(17 * x_C) + torch.arange(len(x_C)).double().sin()


def _reach(
    part, x_SC, *, change=_other, kept=False, beyond=1e-9, compared=None, read=lambda m_SS: m_SS,
    axis=0, judged=lambda far_SC: far_SC.abs().amax(-1), again=False, put=None,
):  # fmt: skip
    n = len(x_SC)
    before_SC = x_SC if compared == "input" else part(x_SC)
    moved_SS, changed_SC = torch.zeros(n, n, dtype=torch.bool), x_SC.clone()
    for j in range(n):
        changed_SC = changed_SC if kept else x_SC.clone()
        if axis == 0:
            changed_SC[j] = put(x_SC, j) if put else change(changed_SC[j])
        else:
            changed_SC[:, j % x_SC.shape[1]] = change(changed_SC[:, j % x_SC.shape[1]])
        before_SC = part(x_SC) if again else before_SC
        moved_SS[:, j] = judged(part(changed_SC) - before_SC) > beyond
    return read(moved_SS)


Q.mistakes(
    _reach,
    {
        "rows and columns are exchanged: [i, j] is output row i and changed input row j.": {
            "read": lambda m_SS: m_SS.T
        },
        "only a row's own change is looked at: which *other* rows move?": {
            "read": lambda m_SS: m_SS & own(len(m_SS))
        },
        "a row's own change is left out: it counts like any other.": {
            "read": lambda m_SS: m_SS & ~own(len(m_SS))
        },
        "the changes add up: start from the given rows again for each j.": {"kept": True},
        "the outputs are compared with the inputs. Compare them with the outputs of the rows as "
        "they were given.": {"compared": "input"},
        "rows are doubled, which a part that norms its rows does not see. Put other numbers "
        "there.": {"change": lambda x_C: 2 * x_C},
        "the same is added to all channels, which a part that subtracts the mean does not see. "
        "Put other numbers there.": {"change": lambda x_C: x_C + 1},
        "only channel 0 is changed, and a part may look at another one. Change the whole row.": {
            "change": lambda x_C: torch.cat((x_C[:1] + 1, x_C[1:]))
        },
        "rows are negated or turned round, which a part that takes the mean of their squares does "
        "not see. Put other numbers there.": {"change": lambda x_C: -x_C},
        "row j is given the numbers of another row, which where there is one row alone is itself. "
        "Put other numbers there.": {"put": lambda x_SC, j: x_SC[(j + 1) % len(x_SC)]},
        "a small move is taken for rounding. More than 1e-9 counts. Or the change that you make "
        "is too small.": {"beyond": 1e-4},
        "rounding is taken for a move. Only more than 1e-9 counts.": {"beyond": 0.0},
        "what is changed is a channel of all rows; j is a row.": {"axis": 1},
        "the moves of a row's channels are added up with their signs, and may cancel: take the "
        "largest absolute one.": {"judged": lambda far_SC: far_SC.sum(-1).abs()},
        "not every number of the output row is looked at, or all of them are asked to move: one is "
        "enough.": {"judged": lambda far_SC: far_SC[:, 0].abs()},
        "the part is called for the unchanged rows in every round: once is enough.": {
            "again": True
        },
    },
)
