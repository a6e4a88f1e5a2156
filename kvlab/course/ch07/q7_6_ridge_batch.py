"""7.6: how many chats bring a step of decode to the ridge, asked with few questions. B chats."""

from __future__ import annotations

import math

from kvlab.course.author import AtMost, Exercise, LentFunction, Near, named

Q = Exercise(
    "7.6",
    "Chats to the ridge",
    "chats_to_the_ridge",
    points=3,
    minutes=15,
    difficulty=2,
    statement="""
From how many chats on is a batch no longer limited by fetching (chapter 7, "Many chats in one call")? `work(B)` returns two numbers, the FLOP and the bytes of a step of decode with B chats; FLOP per byte grow with
B. The machine reads `bytes_per_second` and does `flop_per_second`.

Return two things, `(batch, gain)`: the **smallest** B from 1 to `limit` whose multiplying takes **at least as long** as its fetching, and how many times as many tokens a second this batch gives as one chat does, on a machine that takes exactly the longer of the
two times. If no B up to `limit` does, `batch` is `None` and `gain` that of `limit` chats.

Each question to `work` takes time, and it answers for 1 to `limit` chats only, so look cleverly: at most `3 + 2 x log2(limit)` questions. About 15 lines.

If `work(B)` is `(2 * B, 4 + B)`, and the machine reads 10 bytes and does 10 FLOP a second, then fetching takes `(4 + B) / 10` and multiplying `2 * B / 10` seconds. They are equal at 4 chats, which take 0.8 seconds where one takes 0.5, so the result is `(4, 2.5)`.
""",
    hints=(
        "If 64 chats have reached the ridge, what do you know about 65? And if 32 have not, about 31?",
        "Ask for `limit` first. If the ridge is not reached there, it is reached nowhere. Else keep two numbers, one that has not reached it (0) and one that has "
        "(limit), and look at the middle between them until they are neighbours.",
        "low, high = 0, limit; while high - low > 1: half = (low + high) // 2; if reached(half): high = half else: low = half. "
        "gain = batch * seconds(1) / seconds(batch), with seconds(B) the larger of the two times.",
    ),
    size=lambda case: case["limit"],
)

RESULTS = ("batch", "gain")
NAMES = ("bytes_per_second", "flop_per_second", "limit")


@Q.case
def case(rng):
    """A step of matrices and chats; numbers are powers of two, so that ties are exact.

    At the ridge r = F / R, with matrices of m bytes, 2 B m / (s (m + B k)) FLOP per byte.
    """
    while True:
        matrices = 2 ** rng.randint(20, 24)
        history = rng.choice([0, 1, 3]) * 2 ** rng.randint(8, 12)
        reads = 2.0 ** rng.randint(30, 34)
        ridge = 2 ** rng.randint(2, 5)
        case = {
            "bytes_per_second": reads,
            "flop_per_second": reads * ridge,
            "limit": rng.choice([500, 700, 1000]),
            "_matrices": matrices,
            "_history": history,
            "_flop": 2 if rng.random() < 0.5 else 1,
        }
        found, _ = one_after_the_other(_work(case), *(case[name] for name in NAMES))
        if found and 4 < found < case["limit"] - 3:
            return case


def _work(case, **other):
    """FLOP and bytes of B chats: a number of two bytes each, used `_flop` times a chat.

    With `_shared` some FLOP are done once for all of them, so that more chats always gain more.
    """
    given = {**case, **other}

    def work(B: int) -> tuple[int, int]:
        if isinstance(B, bool) or not isinstance(B, int) or not 1 <= B <= given["limit"]:
            raise ValueError(f"work was asked for {str(B)[:40]} chats; expected 1 to the limit")
        flops = given.get("_shared", 0) + B * given["_flop"] * given["_matrices"]
        return flops, 2 * given["_matrices"] + B * given["_history"]

    return work


@Q.solution
def chats_to_the_ridge(work, bytes_per_second, flop_per_second, limit):
    """Return the smallest batch at the ridge, or None, and its gain over one chat."""

    ### BEGIN SOLUTION
    def times(B):
        flops, size = work(B)
        return size / bytes_per_second, flops / flop_per_second

    def reached(B):
        fetching, multiplying = times(B)
        return multiplying >= fetching

    batch = None
    if reached(limit):
        low, batch = 0, limit
        while batch - low > 1:
            half = (low + batch) // 2
            if reached(half):
                batch = half
            else:
                low = half
    B = batch or limit
    return batch, B * max(times(1)) / max(times(B))
    ### END SOLUTION


@Q.right
def one_after_the_other(work, bytes_per_second, flop_per_second, limit):
    """Every batch in turn."""
    longest = {}
    for B in range(1, limit + 1):
        flops, size = work(B)
        longest[B] = max(flops / flop_per_second, size / bytes_per_second)
        if flops / flop_per_second >= size / bytes_per_second:
            return B, B * longest[1] / longest[B]
    return None, limit * longest[1] / longest[limit]


@Q.also_right
def doubling_first(work, bytes_per_second, flop_per_second, limit):
    known = {}

    def intensity(n):
        known.setdefault(n, work(n))
        return known[n][0] / known[n][1]

    ridge = flop_per_second / bytes_per_second
    below, n = 0, 1
    while intensity(n) < ridge and n < limit:
        below, n = n, min(2 * n, limit)
    found = None
    if intensity(n) >= ridge:
        while n > below + 1:
            middle = below + (n - below) // 2
            if intensity(middle) >= ridge:
                n = middle
            else:
                below = middle
        found = n
    intensity(1)
    pace = {
        k: k / max(known[k][0] / flop_per_second, known[k][1] / bytes_per_second) for k in (1, n)
    }
    return [found, pace[n] / pace[1]]


# --- laws ---


def _found(answer, case, **other):
    given = {**case, **other}
    lent = LentFunction(_work(given))
    return named(answer(lent, *(given[name] for name in NAMES)), *RESULTS), lent


@Q.law("the smallest batch, and what it gains")
def _(answer, case):
    return _found(answer, case)[0]


def _at(case, B):
    """The case on a machine on which just B chats reach the ridge, their times being equal."""
    flops, size = _work(case)(B)
    return {**case, "flop_per_second": float(flops), "bytes_per_second": float(size)}


for says, where in (
    ("both times are equal in a batch in the middle", lambda case: 7),
    ("one chat is enough", lambda case: 1),
    ("two chats are needed", lambda case: 2),
    ("the last batch that may be asked for", lambda case: case["limit"]),
    ("the last but one", lambda case: case["limit"] - 1),
):

    @Q.law(says, shows=lambda case, where=where: f"a ridge that {where(case)} chats reach")
    def _(answer, case, where=where):
        found, _ = _found(answer, _at(case, where(case)))
        return {"batch": Near(where(case)).of(found["batch"]), "gain": found["gain"]}


@Q.law(
    "the gain is that of this batch", shows=lambda case: "FLOP that all chats share, and no history"
)
def _(answer, case):
    """Where FLOP only grow with the chats, every batch beyond the ridge gains the same."""
    shared = {**case, "_shared": 9 * case["_matrices"], "_history": 0}
    return _found(answer, _at(shared, 7))[0]


@Q.law("no batch reaches the ridge", shows=lambda case: "a machine that multiplies too fast")
def _(answer, case):
    return _found(answer, case, flop_per_second=1e6 * case["flop_per_second"])[0]


@Q.law("a limit of one chat", shows=lambda case: "limit 1")
def _(answer, case):
    never, _ = _found(answer, case, limit=1)
    enough, _ = _found(answer, {**_at(case, 1), "limit": 1})
    return {**never, **{f"{name}, enough": value for name, value in enough.items()}}


@Q.law("few questions")
def _(answer, case):
    seen = {}
    for what, given in (
        ("", case),
        (", where no batch reaches it", {**case, "flop_per_second": 1e30}),
    ):
        found, lent = _found(answer, given)
        seen[f"_found{what}"] = found
        most = 3 + int(2 * math.log2(case["limit"]))
        seen[f"questions{what}"] = AtMost(most).of(lent.calls)
    return seen


# --- what goes wrong: each changes one thing of this ---


def _search(
    work, bytes_per_second, flop_per_second, limit, *, enough=lambda multiplying, fetching: multiplying >= fetching,
    longer=max, low=0, shift=0, gain=lambda B, one, many: B * one / many, none=lambda limit: None,
    last=lambda limit: limit, checks=True, of=lambda batch, limit: batch,
):  # fmt: skip
    def times(B):
        flops, size = work(B)
        return flops / flop_per_second, size / bytes_per_second

    batch, high = none(limit), limit
    if not checks or enough(*times(limit)):
        at = low
        while high - at > 1:
            half = (at + high) // 2
            at, high = (at, half) if enough(*times(half)) else (half, high)
        batch = high
    B = of(batch, limit) if batch and batch <= limit else last(limit)
    found = gain(B, longer(times(1)), longer(times(B)))
    return batch + shift if isinstance(batch, int) else batch, found


def _powers(work, reads, multiplies, limit):
    n = 1
    while n < limit and work(n)[0] / multiplies < work(n)[1] / reads:
        n = min(2 * n, limit)
    reached = work(n)[0] / multiplies >= work(n)[1] / reads
    one, many = (max(work(b)[0] / multiplies, work(b)[1] / reads) for b in (1, n))
    return n if reached else None, n * one / many


def _of_one(work, reads, multiplies, limit):
    """Extrapolates from one chat, as if keys and values were shared like matrices."""
    flops, size = work(1)
    n = math.ceil((size / reads) / (flops / multiplies))
    if n > limit:
        return None, _search(work, reads, multiplies, limit)[1]
    one, many = (max(work(b)[0] / multiplies, work(b)[1] / reads) for b in (1, n))
    return n, n * one / many


Q.mistakes(
    _search,
    {
        "every batch is tried. FLOP per byte only grow: halve what is left.": one_after_the_other,
        "only powers of two are tried. The smallest batch may lie between them.": _powers,
        "one chat's bytes are taken for the bytes of all. Each chat brings keys and values of its "
        "own: ask `work`.": _of_one,
        "where both times are equal the ridge is reached: at least as long.": {
            "enough": lambda multiplying, fetching: multiplying > fetching
        },
        "that is the last batch below the ridge; the first at it was asked for.": {"shift": -1},
        "one chat may be enough already: begin the search below it.": {"low": 1},
        "a step takes the longer of the two times, not their sum.": {"longer": sum},
        "a step takes the longer of the two times, not the shorter.": {"longer": min},
        "the gain is in tokens a second: B chats get B tokens in their step.": {
            "gain": lambda B, one, many: one / many
        },
        "that is the gain of `limit` chats; the gain of the batch that was found was asked for.": {
            "of": lambda batch, limit: limit
        },
        "the gain says how many times as long the step takes; how many times as many tokens was "
        "asked for.": {"gain": lambda B, one, many: many / one},
        "that is how many tokens come a second; the gain is over one chat.": {
            "gain": lambda B, one, many: B / many
        },
        "where no batch reaches the ridge, the batch is None.": {"none": lambda limit: limit},
        "0 is no batch: where none reaches the ridge, return None.": {"none": lambda limit: 0},
        "where no batch reaches the ridge, the gain is that of `limit` chats.": {
            "last": lambda limit: 1
        },
        "nothing is asked of the limit itself, so it passes for reached where none is.": {
            "checks": False
        },
    },
)
