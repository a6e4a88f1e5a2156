"""10.3: the latest rows stay dense, the others are pruned as they leave.

T tokens, S new tokens, D head width.
"""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise
from kvlab.course.ch10._contest import (
    any_best,
    as_good_as_nth,
    first_best,
    last_best,
    normal,
    with_ties,
)

Q = Exercise(
    "10.3",
    "A window that stays dense",
    "DenseWindow",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
Rows of one head arrive, many at once or one by one. The latest `window` rows stay untouched. A row that leaves the
window is pruned: it keeps its `n_keep` largest elements in size (of equal ones the first), the others become 0. `read`
gives all rows so far. It must not matter in which pieces the text came. Do not change what you are given: the caller
still has it.

A text shorter than the window stays as it is. A window of 0 protects nothing. With `n_keep` = 0 nothing stays of a row that leaves, with
`n_keep` = D all of it.

Example: `DenseWindow(1, 1)` after `append(torch.tensor([[1., -2.], [3., 4.]]))` reads `[[0., -2.], [3., 4.]]`. Roughly 10
lines.
""",
    hints=(
        "After an append the text has T tokens. How many of them are outside the window, and what "
        "is that number when T is small?",
        "stop = max(0, T - window): the rows 0 to stop - 1 have left. Pruning a row again that is "
        "pruned already changes nothing, so you may prune all of them each time.",
        "append: self.x = x_SD.clone(), or torch.cat((self.x, x_SD)); then rows = self.x[:stop]; "
        "order = rows.abs().argsort(dim=-1, descending=True, stable=True); keep = "
        "torch.zeros_like(rows, dtype=torch.bool).scatter(-1, order[:, :n_keep], True); "
        "self.x[:stop] = rows * keep.",
    ),
)


@Q.case
def case(rng):
    """Two chunks that are longer than the window, and single tokens."""
    width, window = rng.sample([5, 6, 7, 8], 2)
    window -= 3
    chunks = [window + rng.randint(2, 4), 1, window + rng.randint(1, 3), 1, 1]
    return {
        "window": window,
        "n_keep": rng.randint(2, width - 2),
        "chunks": chunks,
        "x_TD": normal(rng, sum(chunks), width),
        "_ties": 1 + with_ties(rng, sum(chunks), width),
    }


@Q.solution
class DenseWindow:
    """Rows whose latest few are dense and whose others are pruned per token."""

    def __init__(self, window, n_keep):
        ### BEGIN SOLUTION
        self.window, self.n_keep = window, n_keep
        self.x_TD = None
        ### END SOLUTION

    def append(self, x_SD):
        """Take S new rows; prune those that leave the window."""
        ### BEGIN SOLUTION
        self.x_TD = x_SD.clone() if self.x_TD is None else torch.cat((self.x_TD, x_SD))
        stop = max(0, len(self.x_TD) - self.window)
        rows = self.x_TD[:stop]
        order = rows.abs().argsort(dim=-1, descending=True, stable=True)
        keep = torch.zeros_like(rows, dtype=torch.bool).scatter(-1, order[:, : self.n_keep], True)
        self.x_TD[:stop] = rows * keep
        ### END SOLUTION

    def read(self):
        """Return all rows so far: x_TD."""
        ### BEGIN SOLUTION
        return self.x_TD
        ### END SOLUTION


@Q.also_right
@Q.right
class TwoStores:
    """Two stores: rows that left are pruned and put away, the others wait."""

    def __init__(self, window, n_keep):
        self.window, self.n_keep = window, n_keep
        self.away, self.waiting = [], []

    def append(self, x_SD):
        for x_D in x_SD:
            self.waiting.append(x_D.clone())
            if len(self.waiting) > self.window:
                row = self.waiting.pop(0)
                order = sorted(range(len(row)), key=lambda d: -abs(float(row[d])))
                for d in order[self.n_keep :]:
                    row[d] = 0
                self.away.append(row)

    def read(self):
        return torch.stack(self.away + self.waiting)


# --- laws ---


def _after(answer, case, parts, **other):
    made = answer.make(*({name: case[name] for name in ("window", "n_keep")} | other).values())
    for part in parts:
        made.call("append", part)
    return made.call("read")


@Q.law("a text that comes at once")
def _(answer, case):
    return {"x_TD": _after(answer, case, [case["x_TD"]])}


@Q.law("rows are pruned as they leave the window")
def _(answer, case):
    """What is there after each chunk."""
    made, seen, n = answer.make(case["window"], case["n_keep"]), {}, 0
    for i, part in enumerate(case["x_TD"].split(case["chunks"])):
        made.call("append", part)
        n += len(part)
        seen[f"after chunk {i} ({n} tokens), x_TD"] = made.call("read")
    return seen


@Q.law("a short text stays whole; a window of 0 protects nothing")
def _(answer, case):
    x_TD = case["x_TD"]
    short = _after(answer, case, [x_TD[:-2]], window=len(x_TD))
    none = _after(answer, case, [x_TD], window=0)
    return {"of a text shorter than the window, x_TD": short, "with a window of 0, x_TD": none}


@Q.law("a row that leaves keeps nothing, or all of it")
def _(answer, case):
    kept = {n: _after(answer, case, [case["x_TD"]], n_keep=n) for n in (0, case["x_TD"].shape[1])}
    return {f"with n_keep {n}, x_TD": x_TD for n, x_TD in kept.items()}


@Q.law("token by token is as at once")
def _(answer, case):
    return {"token by token, x_TD": _after(answer, case, case["x_TD"].split(1))}


@Q.law("of equal sizes the first stays, and n_keep do")
def _(answer, case):
    """Rows of 1, 2 and 3, with a sign by place: which of equals stayed can be seen."""
    x_TD = case["_ties"] * (1 - 2 * (torch.arange(case["_ties"].shape[1]) % 2))
    return {"of rows with equal sizes, x_TD": _after(answer, case, [x_TD], window=0)}


@Q.law("two windows know nothing of each other")
def _(answer, case):
    parts = case["x_TD"].split(case["chunks"])
    one = answer.make(case["window"], case["n_keep"])
    other = answer.make(case["window"] + 1, case["n_keep"] + 1)
    for ours, theirs in zip(parts, parts[::-1], strict=True):
        one.call("append", ours)
        other.call("append", theirs)
    return {
        "of the first window, x_TD": one.call("read"),
        "of the second, x_TD": other.call("read"),
    }


# --- what goes wrong: each changes one method of this ---


class _Window(DenseWindow):
    def append(self, x_SD):
        n_old = 0 if self.x_TD is None else len(self.x_TD)
        self.x_TD = x_SD.clone() if n_old == 0 else torch.cat((self.x_TD, x_SD))
        rows = self.leaving(n_old, len(self.x_TD))
        self.x_TD[rows] *= self.best(self.x_TD[rows])

    def leaving(self, n_old, n):
        """The rows to prune, when n_old have become n."""
        return slice(0, max(0, n - self.window))

    def best(self, rows_TD):
        return first_best(rows_TD.abs(), self.n_keep)


def _from_the_back(self, rows_TD):
    keep_TD = first_best(rows_TD.abs(), self.n_keep)
    return keep_TD if self.n_keep else torch.ones_like(keep_TD)


Q.mistakes(
    _Window,
    {
        "x[:-window] is empty when the window is 0, so nothing is pruned. Count from the front: "
        "x[:len(x) - window].": {"leaving": lambda self, n_old, n: slice(0, -self.window)},
        "len(x) - window is below 0 for a short text, and a negative stop counts from the end: "
        "rows inside the window are pruned. Use max(0, ...).": {
            "leaving": lambda self, n_old, n: slice(0, n - self.window)
        },
        "nothing is ever pruned: a row that leaves the window keeps its n_keep largest elements, and "
        "the others become 0.": {"leaving": lambda self, n_old, n: slice(0)},
        "what belongs to one object is kept on the class, so two of them share it. Set it on self in "
        "__init__.": {"__setattr__": lambda self, name, value: setattr(type(self), name, value)},
        "there is no window: the latest tokens are pruned as well.": {
            "leaving": lambda self, n_old, n: slice(0, n)
        },
        "the window is one token too short.": {
            "leaving": lambda self, n_old, n: slice(0, max(0, n - max(0, self.window - 1)))
        },
        "the window is one token too long.": {
            "leaving": lambda self, n_old, n: slice(0, max(0, n - self.window - 1))
        },
        "only one row is pruned in each append. When S tokens come at once, S leave.": {
            "leaving": lambda self, n_old, n: slice(
                max(0, n - self.window - 1), max(0, n - self.window)
            )
        },
        "pruning happens once, after the first append. Tokens that leave the window later stay "
        "dense for ever.": {
            "leaving": lambda self, n_old, n: slice(0, 0 if n_old else max(0, n - self.window))
        },
        "each chunk has a window of its own, so tokens that an earlier chunk protected are never "
        "pruned. The window is at the end of the text.": {
            "leaving": lambda self, n_old, n: slice(n_old, max(n_old, n - self.window))
        },
        "the first rows are protected, and the latest are pruned. The window is at the end of the text.": {
            "leaving": lambda self, n_old, n: slice(self.window, n)
        },
        "the first row is never pruned: it leaves too.": {
            "leaving": lambda self, n_old, n: slice(1, max(1, n - self.window))
        },
        "`read` gives the rows of the window first. They are the latest: the pruned ones come before "
        "them.": {"read": lambda self: self.x_TD.roll(min(self.window, len(self.x_TD)), 0)},
        "all rows that left share their places. Each row keeps n_keep of its own.": {
            "best": lambda self, rows_TD: first_best(
                rows_TD.abs().flatten(), self.n_keep * len(rows_TD)
            ).view_as(rows_TD)
        },
        "order[:, -n_keep:] is everything when n_keep is 0. Count from the front: a descending sort, and "
        "order[:, :n_keep].": {"best": _from_the_back},
        "of equal sizes the last stays. The first should.": {
            "best": lambda self, rows_TD: last_best(rows_TD.abs(), self.n_keep)
        },
        "the largest elements stay, and not the largest in size: -5 goes before 0.1.": {
            "best": lambda self, rows_TD: first_best(rows_TD, self.n_keep)
        },
        "each column keeps its n_keep largest. Here each row does: a row is a token.": {
            "best": lambda self, rows_TD: first_best(rows_TD.abs().T, self.n_keep).T
        },
        "of equal sizes any one stays: topk promises no order among equals. The first should stay: "
        "sort with argsort(..., stable=True).": {
            "best": lambda self, rows_TD: any_best(rows_TD.abs(), self.n_keep)
        },
        "everything that is as large as the n_keep-th stays, so a row with equal sizes keeps more. "
        "Count places, do not compare values.": {
            "best": lambda self, rows_TD: as_good_as_nth(rows_TD.abs(), self.n_keep)
        },
    },
)
