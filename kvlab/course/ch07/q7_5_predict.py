"""7.5: two models that were timed predict a third."""

from __future__ import annotations

import numpy as np

from kvlab.course.author import Exercise, Near, named, raised_by

Q = Exercise(
    "7.5",
    "Predict tokens a second",
    "predict",
    points=3,
    minutes=15,
    difficulty=2,
    statement="""
A step starts operations and fetches bytes, and takes `operations x start + bytes / rate` seconds (chapter 7, "The parts do not add up by themselves"). Two models were timed, and tell you the start and the rate; predict a third.

`deep` and `broad` are dicts with `operations`, `bytes` and `seconds`, which are those of **one step**. `other` has `operations`, `bytes` and `chats`: so many chats get one token each in a step, and `bytes` are those of the whole
step. Return four numbers, `(start, rate, tokens_per_second, share)`: seconds for starting an operation, bytes a second, the tokens of all chats of `other` together in a second, and what share of its step is
starting, between 0 and 1.

If the bytes of the two models are in the same proportion as their operations, no two numbers can be told: raise a `ValueError`. About 10 lines.

With `deep` of 500 operations, 10e6 bytes and 0.007 s, and `broad` of 100, 200e6 and 0.041 s, a start takes 1e-5 s and bytes come at 5e9 a second. A model of 300 operations and 60e6 bytes then takes 0.015 s.
""",
    hints=(
        "Two equations with two unknowns. Which ones? Write them down with x for the start and y for the seconds of a byte.",
        "n1 x + b1 y = s1 and n2 x + b2 y = s2. Multiply the first by b2 and the second by b1, and subtract: y is gone. n1 b2 - n2 b1 is what you "
        "divide by; where it is 0, there is no answer.",
        "d = n1 * b2 - n2 * b1; x = (s1 * b2 - s2 * b1) / d; y = (n1 * s2 - n2 * s1) / d; rate = 1 / y; seconds = n * x + b * y; "
        "chats / seconds; n * x / seconds.",
    ),
    size=lambda case: case["deep"]["operations"],
)

RESULTS = ("start", "rate", "tokens_per_second", "share")


@Q.case
def case(rng):
    start, rate = rng.uniform(2e-6, 2e-5), rng.uniform(2e9, 4e10)

    def timed(operations, size):
        return {
            "operations": operations,
            "bytes": size,
            "seconds": operations * start + size / rate,
        }

    other = {
        "operations": rng.randint(150, 400),
        "bytes": rng.randint(10, 100) * 10**6,
        "chats": rng.randint(2, 8),
    }
    return {
        "deep": timed(rng.randint(500, 900), rng.randint(2, 12) * 10**6),
        "broad": timed(rng.randint(80, 140), rng.randint(120, 400) * 10**6),
        "other": other,
        "_true": (start, rate),
    }


@Q.solution
def predict(deep, broad, other):
    """Return the start, the rate, tokens a second, and the share of starting."""
    ### BEGIN SOLUTION
    n1, b1, s1 = deep["operations"], deep["bytes"], deep["seconds"]
    n2, b2, s2 = broad["operations"], broad["bytes"], broad["seconds"]
    d = n1 * b2 - n2 * b1
    if d == 0:
        raise ValueError("the two models have operations and bytes in the same proportion")
    start = (s1 * b2 - s2 * b1) / d
    per_byte = (n1 * s2 - n2 * s1) / d
    starting = other["operations"] * start
    seconds = starting + other["bytes"] * per_byte
    return start, 1 / per_byte, other["chats"] / seconds, starting / seconds
    ### END SOLUTION


@Q.also_right
def by_a_matrix(deep, broad, other):
    left = np.array([[m["operations"], m["bytes"] / 1e9] for m in (deep, broad)], dtype=float)
    if abs(np.linalg.det(left)) < 1e-12 * np.prod(np.linalg.norm(left, axis=1)):
        raise ValueError("not two equations")
    x, y = np.linalg.solve(left, [deep["seconds"], broad["seconds"]])
    parts = other["operations"] * x, other["bytes"] / 1e9 * y
    return [
        float(x),
        float(1e9 / y),
        float(other["chats"] / sum(parts)),
        float(parts[0] / sum(parts)),
    ]


# --- laws ---


def _told(answer, case, **other):
    given = {**case, **other}
    return named(answer(given["deep"], given["broad"], given["other"]), *RESULTS)


def _true(case, other):
    start, rate = case["_true"]
    seconds = other["operations"] * start + other["bytes"] / rate
    return (start, rate, other["chats"] / seconds, other["operations"] * start / seconds)


def _held(case, found, other, names=RESULTS):
    true = dict(zip(RESULTS, _true(case, other), strict=True))
    return {name: Near(true[name], rtol=1e-6).of(found[name]) for name in names}


for names in (RESULTS[:2], RESULTS[2:]):

    @Q.law(f"{' and '.join(names)}, as the machine has them")
    def _(answer, case, names=names):
        return _held(case, _told(answer, case), case["other"], names)


@Q.law("the two known models change places")
def _(answer, case):
    found = _told(answer, case, deep=case["broad"], broad=case["deep"])
    return _held(case, found, case["other"])


@Q.law("one chat")
def _(answer, case):
    other = {**case["other"], "chats": 1}
    return _held(case, _told(answer, case, other=other), other)


@Q.law("a model that was timed is predicted as it was timed")
def _(answer, case):
    other = {**case["deep"], "chats": 1}
    found = _told(answer, case, other=other)
    pace = Near(1 / case["deep"]["seconds"], rtol=1e-6)
    return {"tokens_per_second": pace.of(found["tokens_per_second"]), "_found": found}


@Q.law("two models in proportion tell nothing")
def _(answer, case):
    deep = case["deep"]
    twice = {name: 2 * value for name, value in deep.items()}
    told = {"the error it raises": raised_by(answer, deep, twice, case["other"])}
    longer = {**twice, "seconds": 3 * deep["seconds"]}
    return {
        **told,
        "the error it raises, if they were timed otherwise": raised_by(
            answer, deep, longer, case["other"]
        ),
    }


# --- what goes wrong: each changes one thing of this ---


def _pair(deep, broad):
    left = [[m["operations"], m["bytes"] / 1e9] for m in (deep, broad)]
    x, y = np.linalg.solve(left, [deep["seconds"], broad["seconds"]])
    return float(x), float(y) / 1e9


def _singular(deep, broad):
    return deep["operations"] * broad["bytes"] == broad["operations"] * deep["bytes"]


def _predict(
    deep, broad, other, *, solve=_pair, refuses=True, rate=lambda y: 1 / y, pace=lambda n, s: n / s,
    share=lambda a, b: a / (a + b), joined=lambda a, b: a + b, size=lambda other: other["bytes"],
):  # fmt: skip
    if _singular(deep, broad):
        if refuses:
            raise ValueError("in proportion")
        return 0.0, 0.0, 0.0, 0.0
    x, y = solve(deep, broad)
    parts = other["operations"] * x, size(other) * y
    return x, rate(y), pace(other["chats"], joined(*parts)), share(*parts)


Q.mistakes(
    _predict,
    {
        "the start is taken from the deep model alone, as if it fetched nothing.": {
            "solve": lambda deep, broad: (
                deep["seconds"] / deep["operations"],
                _pair(deep, broad)[1],
            )
        },
        "the rate is taken from the broad model alone, as if it started nothing.": {
            "solve": lambda deep, broad: (
                _pair(deep, broad)[0],
                broad["seconds"] / broad["bytes"],
            )
        },
        "both are taken from one model each: deep for the start, broad for the rate. Each of the "
        "two has both parts.": {
            "solve": lambda deep, broad: (
                deep["seconds"] / deep["operations"],
                broad["seconds"] / broad["bytes"],
            )
        },
        "those are seconds for a byte; bytes a second were asked for.": {"rate": lambda y: y},
        "the rate comes in billions; bytes a second were asked for.": {"rate": lambda y: 1e-9 / y},
        "the tokens of one chat are counted. Each of the chats gets one in a step.": {
            "pace": lambda chats, seconds: 1 / seconds
        },
        "those are the seconds of a step; tokens a second were asked for.": {
            "pace": lambda chats, seconds: seconds
        },
        "those are seconds for a token; tokens a second were asked for.": {
            "pace": lambda chats, seconds: seconds / chats
        },
        "bytes are those of the whole step, for all chats; they are not multiplied once more.": {
            "size": lambda other: other["bytes"] * other["chats"]
        },
        "that is the share of fetching.": {"share": lambda a, b: b / (a + b)},
        "that is starting in proportion to fetching, not to the whole step.": {
            "share": lambda a, b: a / b
        },
        "the share comes in per cent; between 0 and 1 was asked for.": {
            "share": lambda a, b: 100 * a / (a + b)
        },
        "the longer of the two parts is taken for the step. Starting and fetching add up.": {
            "joined": max
        },
        "two models in proportion give one equation twice: raise a ValueError.": {"refuses": False},
    },
)
