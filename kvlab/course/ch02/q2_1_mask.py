"""2.1: who may look at whom, as a table. S new tokens, T slots."""

import torch

from kvlab.course.author import Exercise, Near

Q = Exercise(
    "2.1",
    "A rectangular mask",
    "causal_mask",
    points=2,
    minutes=10,
    difficulty=1,
    statement="""
A text has `n_slots` tokens. The last `n_new` of them are new and have queries; all have keys. Return the mask
`allowed_ST`, True where a query may use a slot: row s is the s-th new token, column t is slot t. Roughly 2 lines.

For `causal_mask(2, 5)` it is

```
[[True, True, True, True, False],
 [True, True, True, True, True]]
```
""",
    hints=(
        "The new tokens are the last ones of the text. At which position does the first of them "
        "stand?",
        "Query row s stands at position n_slots - n_new + s. It may use slot t if t is at most "
        "that.",
        "positions = torch.arange(n_slots - n_new, n_slots); return torch.arange(n_slots) <= "
        "positions[:, None]",
    ),
)


@Q.case
def case(rng):
    n_new = rng.randint(3, 6)  # with 2, one too many is all there are
    return {"n_new": n_new, "n_slots": n_new + rng.randint(2, 6)}


@Q.solution
def causal_mask(n_new, n_slots):
    """Which slots each of the last n_new tokens may use: allowed_ST, of True and False."""
    ### BEGIN SOLUTION
    pos_S = torch.arange(n_slots - n_new, n_slots)
    return torch.arange(n_slots) <= pos_S[:, None]
    ### END SOLUTION


@Q.right
def slot_by_slot(n_new, n_slots):
    """May the query use it?"""
    allowed_ST = torch.zeros(n_new, n_slots, dtype=torch.bool)
    for s in range(n_new):
        for t in range(n_slots):
            allowed_ST[s, t] = t <= n_slots - n_new + s
    return allowed_ST


@Q.also_right
def by_lists(n_new, n_slots):
    rows = []
    for s in range(n_new):
        seen = n_slots - n_new + s + 1
        rows.append([True] * seen + [False] * (n_slots - seen))
    return torch.tensor(rows)


Q.agrees("same as slot by slot", "n_new", "n_slots", gives="allowed_ST")


@Q.law("it is the end of the square mask")
def _(answer, case):
    n_new, n_slots = case["n_new"], case["n_slots"]
    last_ST, square_TT = answer(n_new, n_slots), answer(n_slots, n_slots)
    return {
        "mask of the last queries, allowed_ST": Near(square_TT[-n_new:]).of(last_ST),
        "_square": square_TT,
    }


@Q.law(
    "every token is new", shows=lambda case: f"causal_mask({case['n_slots']}, {case['n_slots']})"
)
def _(answer, case):
    return {"allowed_ST": answer(case["n_slots"], case["n_slots"])}


@Q.law("one new token", shows=lambda case: f"causal_mask(1, {case['n_slots']}), causal_mask(1, 1)")
def _(answer, case):
    return {"allowed_ST": answer(1, case["n_slots"]), "a text of one, allowed_ST": answer(1, 1)}


# --- what goes wrong ---


def _numbers(n_new, n_slots):
    return torch.zeros(n_new, n_slots).masked_fill(~causal_mask(n_new, n_slots), float("-inf"))


Q.mistakes(
    None,
    {
        "the mask starts at the top left, as if the new tokens were the first of the text. It must "
        "end at the bottom right.": lambda n_new, n_slots: (
            torch.arange(n_slots) <= torch.arange(n_new)[:, None]
        ),
        "a token may not look at itself here. Its own position belongs to what it may "
        "use.": lambda n_new, n_slots: (
            torch.arange(n_slots) < torch.arange(n_slots - n_new, n_slots)[:, None]
        ),
        "each query sees one token too many: the one after it.": lambda n_new, n_slots: (
            torch.arange(n_slots) <= torch.arange(n_slots - n_new, n_slots)[:, None] + 1
        ),
        "yes and no are the wrong way round: True says that a slot may be used.": lambda *sizes: (
            ~causal_mask(*sizes)
        ),
        "this is the mask of the whole text, a row for every token. Only the last n_new tokens "
        "have queries here.": lambda n_new, n_slots: causal_mask(n_slots, n_slots),
        "rows and columns are exchanged: a row is a query, a column is a slot.": lambda *sizes: (
            causal_mask(*sizes).T
        ),
        "the new tokens see each other and nothing of the past; all older slots may be used, "
        "too.": lambda n_new, n_slots: (
            causal_mask(n_new, n_slots) & (torch.arange(n_slots) >= n_slots - n_new)
        ),
        "nothing is hidden: of several new tokens the first must not see the "
        "others.": lambda n_new, n_slots: torch.ones(n_new, n_slots, dtype=torch.bool),
        "these are numbers to add to the scores (0 and minus infinity); True and False were asked "
        "for.": _numbers,
    },
)
