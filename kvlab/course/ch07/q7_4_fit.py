"""7.4: attention and MLP told apart, and a straight line through what attention takes."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from itertools import pairwise

import numpy as np

from kvlab.course.author import AtMost, Exercise, LentFunction, Near, named

Q = Exercise(
    "7.4",
    "A constant and a slope",
    "fit_halves",
    points=3,
    minutes=20,
    difficulty=2,
    statement="""
What does attention cost without any history, and what does each further token add (chapter 7, "Attention grows, the MLP does not")? `step(T)` runs one step of decode behind `T` tokens and returns two
numbers, the milliseconds that all attention took and those that all MLPs took. Some of the readings are disturbed.

Call `step` exactly `n` times for each length in `lengths` (which come in no order; take them in any) and take the **median** of the readings of a length, of attention and of the MLP alike. Put a straight line through attention's medians by **least squares**: the line for which the sum of the squared vertical distances is smallest. The MLP does not depend on the
length; take the median of its medians. Return four numbers, `(at_0, per_token, mlp, equal_at)`: the line's value at T = 0, its slope in milliseconds a token, the MLP's milliseconds, and the length at which the line reaches the
MLP's time, or 0.0 if it is there without any history already. About 15 lines; numpy may be used.

With medians of 3, 5 and 7 ms behind 100, 200 and 300 tokens and an MLP of 2 ms the result is `(1.0, 0.02, 2.0, 50.0)`.
""",
    hints=(
        "Collect the readings first. Which one number stands for the readings of a length?",
        "The slope is the sum of (T - mean T)(ms - mean ms) over the lengths, divided by the sum of (T - mean T)^2. The line goes through the point of the "
        "two means.",
        "slope = sum((x - mx) * (y - my) for x, y in zip(X, Y)) / sum((x - mx) ** 2 for x in X); at_0 = my - slope * mx; "
        "equal_at = max(0.0, (mlp - at_0) / slope).",
    ),
    imports=("statistics",),
    size=lambda case: len(case["lengths"]) * case["n"],
)


@Q.case
def case(rng):
    """Lengths at unequal distances, and a MLP that takes longer than attention without history."""
    lengths = rng.sample([100, 150, 250, 450, 600, 1000, 1300, 2100], rng.choice([4, 5, 6]))
    at_0 = rng.uniform(1, 3)
    return {
        "lengths": lengths,
        "n": rng.choice([5, 6, 7]),
        "_at_0": at_0,
        "_per_token": rng.uniform(0.002, 0.01),
        "_mlp": at_0 + rng.uniform(0.5, 4),
        "_seed": rng.randrange(2**31),
    }


@Q.solution
def fit_halves(step, lengths, n):
    """Return attention's value at T = 0 and slope, the MLP's time, and where they are equal."""
    ### BEGIN SOLUTION
    attention, mlp = [], []
    for T in lengths:
        readings = [step(T) for _ in range(n)]
        attention.append(statistics.median(a for a, _ in readings))
        mlp.append(statistics.median(m for _, m in readings))
    mean_T = sum(lengths) / len(lengths)
    mean_ms = sum(attention) / len(attention)
    products = sum((T - mean_T) * (ms - mean_ms) for T, ms in zip(lengths, attention))
    per_token = products / sum((T - mean_T) ** 2 for T in lengths)
    at_0 = mean_ms - per_token * mean_T
    constant = statistics.median(mlp)
    return at_0, per_token, constant, max(0.0, (constant - at_0) / per_token)
    ### END SOLUTION


@Q.also_right
def by_turns_and_matrices(step, lengths, n):
    found = np.array([[step(T) for T in lengths] for _ in range(n)])
    attention, mlp = np.median(found, axis=0).T
    columns = np.stack([np.ones(len(lengths)), np.array(lengths, dtype=float)], axis=1)
    (at_0, slope), *_ = np.linalg.lstsq(columns, attention, rcond=None)
    constant = float(np.median(mlp))
    equal = 0.0 if at_0 >= constant else float((constant - at_0) / slope)
    return [float(at_0), float(slope), constant, equal]


# --- laws ---

RESULTS = ("at_0", "per_token", "mlp", "equal_at")


class Step:
    """What each reading of each length is, whenever it is taken; `noise` in per cent."""

    def __init__(self, case, noise: float = 5.0, mlp: float | None = None) -> None:
        self._case, self._noise = case, noise
        self._mlp = case["_mlp"] if mlp is None else mlp
        self.taken: Counter[int] = Counter()

    def __call__(self, T: int) -> tuple[float, float]:
        if T not in self._case["lengths"] or type(T) is not int:
            raise ValueError(f"step was given {str(T)[:40]}; expected one of the lengths")
        if self.taken[T] >= 50:
            raise ValueError("more than 50 readings of one length are beyond any need here")
        rng = random.Random(f"{self._case['_seed']} {T} {self.taken[T]}")
        self.taken[T] += 1
        true = self._case["_at_0"] + self._case["_per_token"] * T, self._mlp
        factors = [1 + rng.uniform(-self._noise, self._noise) / 100 for _ in true]
        if self._noise and rng.random() < 0.25:
            factors = [factor * rng.uniform(1.5, 4) for factor in factors]
        attention, mlp = (value * factor for value, factor in zip(true, factors, strict=True))
        return attention, mlp


def _fitted(answer, case, step, **other):
    given = {**case, **other}
    return named(answer(LentFunction(step), given["lengths"], given["n"]), *RESULTS)


@Q.law("readings without noise lie on the line")
def _(answer, case):
    found = _fitted(answer, case, Step(case, noise=0))
    equal_at = (case["_mlp"] - case["_at_0"]) / case["_per_token"]
    true = (case["_at_0"], case["_per_token"], case["_mlp"], equal_at)
    return {
        name: Near(value, rtol=1e-7).of(found[name])
        for name, value in zip(RESULTS, true, strict=True)
    }


for part, names in (("attention", RESULTS[:2]), ("the MLP, and where both are equal", RESULTS[2:])):

    @Q.law(f"readings with noise: {part}")
    def _(answer, case, names=names):
        found = _fitted(answer, case, Step(case))
        return {name: found[name] for name in names}


@Q.law("an odd number of readings, and an even one")
def _(answer, case):
    return {
        f"{name}, n = {n}": value
        for n in (3, 4)
        for name, value in _fitted(answer, case, Step(case), n=n).items()
    }


@Q.law("two lengths")
def _(answer, case):
    return _fitted(answer, case, Step(case), lengths=case["lengths"][:2])


@Q.law("attention takes longer than the MLP from the first token on")
def _(answer, case):
    found = _fitted(answer, case, Step(case, noise=0, mlp=case["_at_0"] / 2))
    return {"equal_at": Near(0.0).of(found["equal_at"])}


@Q.law("n readings of each length")
def _(answer, case):
    step = Step(case)
    found = _fitted(answer, case, step)
    counts = [step.taken[T] for T in case["lengths"]]
    return {
        "_found": found,
        "fewest readings of a length": min(counts),
        "most readings of a length": AtMost(case["n"]).of(max(counts)),
    }


# --- what goes wrong: each changes one thing of this ---


def _least_squares(x, y):
    slope, at_0 = np.polyfit(x, y, 1)
    return float(at_0), float(slope)


def _through_0(x, y):
    return 0.0, sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)


def _ends(x, y):
    (x0, y0), (x1, y1) = min(zip(x, y, strict=True)), max(zip(x, y, strict=True))
    slope = (y1 - y0) / (x1 - x0)
    return y0 - slope * x0, slope


def _swapped(x, y):
    at_0, slope = _least_squares(y, x)
    return -at_0 / slope, 1 / slope


def _neighbours(x, y):
    points = sorted(zip(x, y, strict=True))
    slopes = [(d - b) / (c - a) for (a, b), (c, d) in pairwise(points)]
    slope = statistics.fmean(slopes)
    return statistics.fmean(y) - slope * statistics.fmean(x), slope


def _fit(
    step, lengths, n, *, middle=statistics.median, line=_least_squares, constant=statistics.median,
    halves=lambda a, m: (a, m), equal=lambda at_0, slope, mlp: max(0.0, (mlp - at_0) / slope),
    readings=lambda n: n, gives=lambda *found: found,
):  # fmt: skip
    attention, mlp = [], []
    for T in lengths:
        pairs = [halves(*step(T)) for _ in range(readings(n))]
        attention.append(middle([a for a, _ in pairs]))
        mlp.append(middle([m for _, m in pairs]))
    at_0, slope = line(lengths, attention)
    still = constant(mlp)
    return gives(at_0, slope, still, equal(at_0, slope, still))


Q.mistakes(
    _fit,
    {
        "the line is forced through 0. Attention costs something without any history: its starts "
        "and its matrices.": {"line": _through_0},
        "the line goes through the first and the last point. Least squares listens to all of "
        "them.": {"line": _ends},
        "the slope is the mean of the slopes between neighbours; that is the least squares' slope "
        "only for points at equal distances on a line.": {"line": _neighbours},
        "lengths and milliseconds change places: the distances that are squared are those in "
        "milliseconds.": {"line": _swapped},
        "the mean follows the disturbed readings. Take the median.": {"middle": statistics.fmean},
        "the shortest reading is taken; the median was asked for.": {"middle": min},
        "of an even number of readings the median lies between the two in the middle.": {
            "middle": statistics.median_low
        },
        "the MLP's time is that of the first length only.": {"constant": lambda mlp: mlp[0]},
        "the MLP's time is the mean of the medians; the median was asked for.": {
            "constant": statistics.fmean
        },
        "attention and MLP are exchanged.": {"halves": lambda a, m: (m, a)},
        "attention is taken together with the MLP.": {"halves": lambda a, m: (a + m, m)},
        "where both are equal, attention's constant counts as well: subtract it first.": {
            "equal": lambda at_0, slope, mlp: mlp / slope
        },
        "a length below 0 is no length: where attention is the slower one from the first token "
        "on, the answer is 0.0.": {"equal": lambda at_0, slope, mlp: (mlp - at_0) / slope},
        "slope and constant are returned in each other's place.": {
            "gives": lambda at_0, slope, *more: (slope, at_0, *more)
        },
        "one reading too many is taken of each length.": {"readings": lambda n: n + 1},
        "one reading of each length is taken; n were asked for.": {"readings": lambda n: 1},
    },
)
