"""2.8: how far back each layer of the pocket model looks, found out by changing tokens.

L layers, S tokens, C width of a token's vector.
"""

from __future__ import annotations

import torch

from kvlab.course.author import AtMost, Exercise, Near, named
from kvlab.course.ch02._windows import TEXTS, ids_of, lent, made_up, pocket_with

Q = Exercise(
    "2.8",
    "How far back does it see?",
    "look_back",
    points=4,
    minutes=25,
    difficulty=3,
    statement="""
Take the pocket model, and find out how far back it sees (chapter 2, "Which masks the rule covers, and which it does not"). Somebody has given each of its
four layers a mask of its own, most of them windows, and you are not told which. `outputs(ids)` reads a text, given as a list of token ids,
and returns `out_LSC`: for each layer what it gives, one row for each of the S tokens. What one layer gives goes into the next. A token always
looks at itself and never at what comes later.

Look at the **last** row, and return two lists with a whole number for each layer, layer 0 first:

- `reach`: how far back the last row of this layer's output reaches. Changing a token makes it move, or not; the earliest
  token that does counts, and the reach is the number of tokens from there to the last one, both counted. It is 1 if the last token
  alone moves it, and S if the first token of the text does.
- `windows`: how far back this layer's *own* mask looks, counted in the same way: 1 is a token that looks at itself alone, 3 one that
  looks two tokens back, whether or not it leaves out the one between. It is `None` where the reach is S, since then the
  mask may look still farther than this text is long.

A row has moved if any of its numbers is another by more than 1e-9; less is rounding. Call `outputs` S + 1 times at most. A change is another token in the same place;
ids go from 0 to 2,047, and every text begins with id 0. Roughly 12 lines.

If every token looks at itself alone in all four layers, the answer is `[1, 1, 1, 1], [1, 1, 1, 1]`.

**Predict first:** with a window of 3 in each of the four layers, on how many tokens does the last row depend in the end? Then look: in a cell of its own,
`from kvlab.course.ch02._windows import ids_of, pocket_with` gives you `outputs = pocket_with(3, 3, 3, 3)` and `ids = ids_of("a text")`.
(Mistral 7B v0.1 has 32 layers with a window of 4,096 each. What would its reach be?)
""",
    hints=(
        "A token that looks two back takes along what that token has taken along in the layer before. So what does a "
        "second layer add to the reach of the first?",
        "Compute the outputs once. For each j put another id at place j of a copy, and see in which layers the last row moves: "
        "the smallest such j gives reach S - j. A window of w adds w - 1 to the reach of the layer before; before layer "
        "0 the reach is 1.",
        "moved_SL = torch.stack([(outputs(ids[:j] + [(ids[j] + 1) % 2048] + ids[j + 1:]) - before)[:, -1].abs().amax(-1) > 1e-9 "
        "for j in range(S)]); reach = [S - moved.tolist().index(True) for moved in moved_SL.T]; windows = [None if r == S else "
        "r - b + 1 for r, b in zip(reach, [1] + reach)].",
    ),
    n_cases=5,
    imports=("torch",),
    size=lambda case: len(case["ids"]),
)
GIVES = ("reach", "windows")


@Q.case
def case(rng):
    """Windows of four different widths, which together do not reach the first token."""
    ids = ids_of(rng.choice(TEXTS))
    return {"ids": ids[: rng.choice([12, 13])], "_windows": rng.sample([1, 2, 3, 4, 5], 4)}


@Q.solution
def look_back(outputs, ids):
    """Return reach and windows: two lists with a number for each layer."""
    ### BEGIN SOLUTION
    S, before_LSC = len(ids), outputs(ids)
    reach = [0] * len(before_LSC)
    for j in reversed(range(S)):
        changed = list(ids)
        changed[j] = (ids[j] + 1) % 2048
        moved_LC = (outputs(changed) - before_LSC)[:, -1].abs() > 1e-9
        for layer, moved_C in enumerate(moved_LC):
            if moved_C.any():
                reach[layer] = S - j
    windows, before = [], 1
    for now in reach:
        windows.append(None if now == S else now - before + 1)
        before = now
    return reach, windows
    ### END SOLUTION


@Q.also_right
def by_table(outputs, ids):
    n = len(ids)
    base = outputs(ids)
    moves = []
    for j in range(n):
        other = outputs([*ids[:j], (ids[j] + 1000) % 2048, *ids[j + 1 :]])
        moves.append([torch.dist(a[-1], b[-1], p=float("inf")) > 2e-9 for a, b in zip(base, other)])
    moves = torch.tensor(moves, dtype=torch.int)
    reach = (n - moves.argmax(0)).tolist()
    steps = [far - (reach[i - 1] if i else 1) + 1 for i, far in enumerate(reach)]
    return reach, [step if far < n else None for step, far in zip(steps, reach)]


# --- laws: what is lent is known, so no right answer is needed ---


def _known(n, backs):
    """Reach and windows of layers that look back so far, in a text of n tokens."""
    reach, windows = [1], []
    for back in backs:
        own = n if back is None else back if isinstance(back, int) else back[-1] + 1
        reach.append(min(n, reach[-1] + own - 1))
        windows.append(None if reach[-1] == n else own)
    return reach[1:], windows


def looked(answer, ids, backs, outputs=None):
    function = lent(outputs or pocket_with(*backs))
    found = named(answer(function, list(ids)), *GIVES)
    right = dict(zip(GIVES, _known(len(ids), backs), strict=True))
    seen = {name: Near(right[name]).of(found[name]) for name in GIVES}
    return {**seen, "calls of outputs": AtMost(len(ids) + 1).of(function.calls)}


def _shown(backs):
    return lambda _: f"windows of the four layers: {backs}"


@Q.law(
    "four windows of different widths",
    shows=lambda case: f"{len(case['ids'])} tokens; windows of the four layers: {case['_windows']}",
)
def _(answer, case):
    return looked(answer, case["ids"], case["_windows"])


@Q.law("the pocket model as it is: no windows", shows=_shown("none"))
def _(answer, case):
    return looked(answer, case["ids"][:6], [None] * 4)


@Q.law("layers 0 and 3 have windows, layer 2 has none", shows=_shown("3, 1, none, 2"))
def _(answer, case):
    return looked(answer, case["ids"][:7], (3, 1, None, 2))


LEAVES_OUT = (range(0, 5, 2), 1, range(0, 4, 3), 2)


@Q.law(
    "layers that leave out tokens between", shows=_shown("every second of 5, 1, the first of 4, 2")
)
def _(answer, case):
    return looked(answer, case["ids"][:11], LEAVES_OUT)


@Q.law(
    "the windows reach the first token exactly",
    shows=lambda _: "7 tokens; windows of the four layers: 3, 2, 4, 2",
)
def _(answer, case):
    return looked(answer, case["ids"][:7], (3, 2, 4, 2))


@Q.law("a text of one token", shows=lambda _: "one token, of id 2047")
def _(answer, case):
    return looked(answer, [2047], (3, 2, 4, 1))


@Q.law(
    "a made-up model of one channel: sums of the ids that it sees, once positive and once negative"
)
def _(answer, case):
    ids, backs, seen = case["ids"][:9], (2, 1, 4, 2), {}
    for sign in (1, -1):
        found = looked(answer, ids, backs, made_up(backs, sign * 1e-6))
        seen |= {
            f"{name}, {'positive' if sign > 0 else 'negative'}": of for name, of in found.items()
        }
    return seen


@Q.law(
    "outputs that are rounded",
    shows=lambda _: "the last digits of an output differ from call to call",
)
def _(answer, case):
    backs, n_calls = (2, 1, 3, 2), []
    exact = pocket_with(*backs)

    def rounded(ids):
        n_calls.append(ids)
        return exact(ids) + 1e-11 * len(n_calls)

    return looked(answer, case["ids"][:7], backs, rounded)


# --- what goes wrong: each changes one thing of this ---


def _other(ids, j):
    return [*ids[:j], (ids[j] + 1) % 2048, *ids[j + 1 :]]


def _looks(
    outputs, ids, *,
    change=_other, row=lambda far_LSC: far_LSC[:, -1], beyond=1e-9, judged=lambda far_LC: far_LC.abs().amax(-1),
    reach=lambda moved, n: n - moved.index(True) if True in moved else 0, window=lambda now, before: now - before + 1,
    first=1, whole=lambda now, n, before: now == n, again=False, kept=False,
):  # fmt: skip
    n, base_LSC, ids = len(ids), outputs(ids), list(ids)
    columns, given = [], ids
    for j in reversed(range(n)):
        base_LSC = outputs(ids) if again else base_LSC
        given = change(given if kept else ids, j)
        columns.append((judged(row(outputs(given) - base_LSC)) > beyond).tolist())
    moved = [list(column) for column in zip(*columns[::-1], strict=True)]
    far, windows, before = [reach(of, n) for of in moved], [], first
    for now in far:
        windows.append(None if whole(now, n, before) else window(now, before))
        before = now
    return far, windows


Q.mistakes(
    _looks,
    {
        "the windows are the reach. What a layer gives goes into the next, so the reach grows from layer to "
        "layer; what a layer's own mask adds is the difference, and the token itself.": {
            "window": lambda now, before: now
        },
        "a window counts the token itself, too: the reach grows by one less than the window.": {
            "window": lambda now, before: now - before
        },
        "before layer 0 a token reaches itself: the reach there is 1, not 0.": {"first": 0},
        "the reach counts the last token as well: from token j on it is S - j tokens.": {
            "reach": lambda moved, n: n - 1 - moved.index(True) if True in moved else 0
        },
        "the tokens that move the last row are counted. A layer may leave some out, and the earliest one "
        "counts.": {"reach": lambda moved, n: sum(moved)},
        "that is the latest token that moves the row, not the earliest.": {
            "reach": lambda moved, n: moved[::-1].index(True) + 1
        },
        "all rows are looked at. Each token moves its own row, so that every token seems to count: look at the last row "
        "alone.": {"row": lambda far_LSC: far_LSC.transpose(1, 2).flatten(1)},
        "the first row is looked at. It sees nothing but itself.": {"row": lambda far_LSC: far_LSC[:, 0]},
        "the last layer's reach is given for all layers.": {
            "row": lambda far_LSC: far_LSC[-1:, -1].expand(len(far_LSC), -1)
        },
        "the changes add up: each j starts from the given ids again.": {"kept": True},
        "where the reach is S the window cannot be told: None.": {"whole": lambda now, n, before: False},
        "a layer that adds nothing has a window of 1: None is for a reach of S alone.": {
            "whole": lambda now, n, before: now in (n, before)
        },
        "the layer whose reach is S for the first time has no window that can be told, either: it may look farther than the text is "
        "long.": {"whole": lambda now, n, before: before == n},
        "token j is replaced by id 0, which the first token is already: nothing changes there. Put another id than the "
        "one that stands there.": {"change": lambda ids, j: [*ids[:j], 0, *ids[j + 1 :]]},
        "small moves are overlooked: everything above 1e-9 counts.": {"beyond": 1e-4},
        "rounding is taken for a move: only more than 1e-9 counts.": {"beyond": 0.0},
        "moves are taken without their absolute value, so a row that falls in all its numbers goes unseen, or one is taken for all.": {
            "judged": lambda far_LC: far_LC.sum(-1)
        },
        "the unchanged text is read again in every round: once is enough.": {"again": True},
    },
)  # fmt: skip
