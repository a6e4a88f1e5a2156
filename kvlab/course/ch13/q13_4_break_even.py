"""13.4: from which length on a smaller cache is faster, and how sure one can be of it."""

from __future__ import annotations

import statistics

import numpy as np
from torch import Tensor

from kvlab.course.author import Exercise, Near, named

Q = Exercise(
    "13.4",
    "Break-even report",
    "break_even",
    points=4,
    minutes=30,
    difficulty=3,
    statement="""
From how many tokens on is a step with a smaller cache faster than a dense one (chapter 13, "From which length on")? `lengths` are numbers of tokens, in no order. `dense` and `way` have a list for each of them: the milliseconds of a step, one for each round, `[8.1, 8.0, 8.4]`; the rounds are the same in both.

1. **A line.** Take the median of a length's rounds, and put a straight line through the medians by least squares. Its value at 0 tokens is the *intercept*, what it gains with each token the *slope*.
2. **Where it pays.** If the slope of `way` is smaller than that of `dense`, the lines meet at $(i_{way} - i_{dense}) / (s_{dense} - s_{way})$ tokens, and the way pays from there on. A line says nothing beyond what was measured: if they meet below the shortest length, the way pays from the shortest length on; if they meet beyond the longest length, or if its slope is not smaller, it pays nowhere, which is `None`.
3. **How sure.** Each entry of `draws` is a list of rounds, some of them more than once, `[0, 2, 2]`. Do steps 1 and 2 again with these rounds alone, the same for both, and see where it pays then.

Return four things: `lines`, which is `[[intercept, slope] of dense, [intercept, slope] of way]`; `pays_from`, from all rounds; `between`, which is `[lowest, highest]` over the draws in which it pays somewhere, or `None` if there are none; and `nowhere`, the number of draws in which it pays nowhere. About 20 lines; numpy may be used.

If the line of `dense` is 5 + 0.01 T and that of `way` is 6 + 0.008 T, they meet at 500 tokens.
""",
    hints=(
        "Three small functions: the line of some rounds, where two lines meet among the lengths, and both of these for one draw. How often is each called?",
        "line(times, rounds): y = [statistics.median(each[r] for r in rounds) for each in times]; numpy.polyfit(lengths, y, 1) gives slope and intercept. "
        "pays(way, dense): None if the slope is not smaller; meet = max(meet, shortest); None if meet > longest.",
        "every = range(len(dense[0])); pays_from = pays(line(way, every), line(dense, every)); found = [pays(line(way, d), line(dense, d)) for d in draws]; "
        "some = [x for x in found if x is not None]; between = [min(some), max(some)] if some else None; nowhere = found.count(None)",
    ),
    imports=("statistics",),
    size=lambda case: len(case["draws"]) + len(case["lengths"]),
)  # fmt: skip


@Q.case
def case(rng):
    """Lines that meet among the lengths, rounds with noise, and a draw in which the way loses."""
    lengths = rng.sample([100, 250, 500, 1000, 1600, 2500, 4000], rng.choice([4, 5]))
    n_rounds = rng.choice([4, 5, 6])
    shortest, longest = min(lengths), max(lengths)
    meet = rng.uniform(shortest + (longest - shortest) * 0.3, longest * 0.6)
    slope, less = rng.uniform(0.004, 0.02), rng.uniform(0.3, 0.8)
    start = rng.uniform(4, 9)
    lines = {"dense": (start, slope), "way": (start + meet * slope * (1 - less), slope * less)}
    times = {
        name: [[_noisy(rng, i + s * n) for _ in range(n_rounds)] for n in lengths]
        for name, (i, s) in lines.items()
    }
    for slow, other in zip(times["way"], times["dense"], strict=True):
        slow[1] *= 3  # a round that was disturbed: a draw of it alone pays nowhere
        other[2] *= rng.uniform(1.2, 1.4)
    draws = [[rng.randrange(n_rounds) for _ in range(n_rounds)] for _ in range(rng.randint(3, 6))]
    more = [[1] * n_rounds, [2, 2, 0, 2], [0, 1]]
    return {"lengths": lengths} | times | {"draws": [*draws, *more]}


def _noisy(rng, value):
    return value * rng.uniform(0.97, 1.03)


@Q.solution
def break_even(lengths, dense, way, draws):
    """Return both lines, from where the way pays, between what, and in how many draws nowhere."""

    ### BEGIN SOLUTION
    def line(times, rounds):
        medians = [statistics.median(each[r] for r in rounds) for each in times]
        mean_n, mean_ms = statistics.fmean(lengths), statistics.fmean(medians)
        products = sum((n - mean_n) * (ms - mean_ms) for n, ms in zip(lengths, medians))
        slope = products / sum((n - mean_n) ** 2 for n in lengths)
        return [mean_ms - slope * mean_n, slope]

    def pays_from(rounds):
        (i_dense, s_dense), (i_way, s_way) = line(dense, rounds), line(way, rounds)
        if s_way >= s_dense:
            return None
        meet = max((i_way - i_dense) / (s_dense - s_way), min(lengths))
        return meet if meet <= max(lengths) else None

    every = range(len(dense[0]))
    found = [pays_from(draw) for draw in draws]
    some = [length for length in found if length is not None]
    between = [min(some), max(some)] if some else None
    return [line(dense, every), line(way, every)], pays_from(every), between, found.count(None)
    ### END SOLUTION


@Q.also_right
@Q.right
def with_arrays(lengths, dense, way, draws):
    """Medians and lines by numpy, all lengths at once."""
    n_rounds = len(dense[0])

    def both(rounds):
        lines = []
        for times in (dense, way):
            table = np.array(times)[:, list(rounds)]
            slope, intercept = np.polyfit(np.array(lengths, float), np.median(table, axis=1), 1)
            lines.append([float(intercept), float(slope)])
        return lines

    def meeting(rounds):
        (a, b), (c, d) = both(rounds)
        if not d < b:
            return None
        length = max(float(min(lengths)), (c - a) / (b - d))
        return None if length > max(lengths) else length

    results = [meeting(draw) for draw in draws]
    met = sorted(length for length in results if length is not None)
    between = [met[0], met[-1]] if met else None
    return (
        np.array(both(range(n_rounds))),
        meeting(range(n_rounds)),
        between,
        len(results) - len(met),
    )


# --- laws ---

RESULTS = ("lines", "pays_from", "between", "nowhere")


def _listed(numbers):
    """Lists as they are, an array as lists."""
    return numbers.tolist() if isinstance(numbers, Tensor) else numbers


def _found(answer, case, **other):
    given = {name: case[name] for name in ("lengths", "dense", "way", "draws")} | other
    found = named(answer(*given.values()), *RESULTS)
    lines = named(_listed(found.pop("lines")), "the line of dense", "the line of way")
    seen = {}
    for name, line in lines.items():
        seen |= named(_listed(line), f"{name}: intercept", f"{name}: slope")
    between = found["between"]
    return seen | found | {"between": between if between is None else list(between)}


@Q.law("the lines")
def _(answer, case):
    return {name: x for name, x in _found(answer, case).items() if "line" in name}


@Q.law("where it pays, from all rounds")
def _(answer, case):
    return {"pays_from": _found(answer, case)["pays_from"]}


@Q.law("how sure that is")
def _(answer, case):
    found = _found(answer, case)
    return {n: x for n, x in found.items() if "line" not in n and n != "pays_from"}


@Q.law("an odd number of rounds, an even one, one")
def _(answer, case):
    """The first rounds only, each drawn once."""
    seen = {}
    for n in (1, 3, 4):
        cut = {name: [each[:n] for each in case[name]] for name in ("dense", "way")}
        for name, value in _found(answer, case, **cut, draws=[list(range(n)), [0]]).items():
            seen[f"{n} rounds, {name}"] = value
    return seen


def _on(intercept, slope, lengths=(100, 400, 200)):
    return [[intercept + slope * n] * 2 for n in lengths]


@Q.law("lines that meet near the ends of what was measured, outside of it, or never")
def _(answer, case):
    """Numbers that are exact in binary; texts of 100, 200 and 400 tokens."""
    dense, seen = _on(4.0, 0.5), {}
    ways = {
        "they meet at 50 tokens": _on(16.5, 0.25),
        "they meet at 110 tokens": _on(31.5, 0.25),
        "they meet at 390 tokens": _on(101.5, 0.25),
        "they meet at 800 tokens": _on(204.0, 0.25),
        "the way is ahead at 0 tokens": _on(2.0, 0.25),
        "the way is steeper": _on(2.0, 0.75),
        "the way is dense itself": dense,
    }
    for what, way in ways.items():
        given = {"lengths": [100, 400, 200], "dense": dense, "way": way, "draws": [[0, 1], [1, 1]]}
        found = _found(answer, case, **given)
        seen |= {f"{what}: {name}": x for name, x in found.items() if "line" not in name}
    return seen


@Q.law("seconds in place of milliseconds: the lengths stay")
def _(answer, case):
    before = _found(answer, case)
    cut = {n: [[x / 1000 for x in each] for each in case[n]] for n in ("dense", "way")}
    after = _found(answer, case, **cut)
    return {f"in seconds, {n}": Near(x).of(after[n]) for n, x in before.items() if "line" not in n}


# --- what goes wrong: each changes one thing of this ---


def _least_squares(x, y):
    slope, intercept = np.polyfit(np.array(x, float), y, 1)
    return float(intercept), float(slope)


def _ends(x, y):
    (x0, y0), (x1, y1) = (end(zip(x, y, strict=True)) for end in (min, max))
    slope = (y1 - y0) / (x1 - x0)
    return y0 - slope * x0, slope


def _report(
    lengths, dense, way, draws, *, middle=statistics.median, line=_least_squares, whole=False, beyond=False,
    below=False, meeting=lambda a, b, c, d: (c - a) / (b - d), steeper=lambda d, b: d >= b,
    never=None, extent=lambda lengths: (min(lengths), max(lengths)), own=lambda rounds: rounds,
    sets=lambda draw: draw, ends=lambda some: [min(some), max(some)], share=False, gives=list,
    empty=None,
):  # fmt: skip
    def fitted(times, rounds):
        return line(lengths, [middle([each[r] for r in rounds]) for each in times])

    def pays(rounds):
        (a, b), (c, d) = fitted(dense, rounds), fitted(way, own(rounds))
        if steeper(d, b):
            return never
        meet = meeting(a, b, c, d) if b != d else 0.0
        shortest, longest = extent(lengths)
        meet = meet if below else max(meet, shortest)
        return never if not beyond and meet > longest else meet

    every = list(range(len(dense[0])))
    found = [pays(every if whole else sets(draw)) for draw in draws]
    some = [x for x in found if x is not None]
    none = found.count(None) / len(found) if share else found.count(None)
    lines = [gives(fitted(times, every)) for times in (dense, way)]
    return lines, pays(every), ends(some) if some else empty, none


Q.mistakes(
    _report,
    {
        "the mean follows the disturbed rounds. Take the median.": {"middle": statistics.fmean},
        "of an even number of rounds the median lies between the two in the middle.": {
            "middle": statistics.median_low
        },
        "the shortest time is taken; the median was asked for.": {"middle": min},
        "the line goes through the first and the last length. Least squares listens to all of them.": {
            "line": _ends
        },
        "slope and intercept are returned in each other's place.": {"gives": lambda x: list(x)[::-1]},
        "the lengths stand in no order: the shortest is min(lengths), the longest max(lengths).": {
            "extent": lambda lengths: (lengths[0], lengths[-1])
        },
        "the lines are followed beyond the longest length. Nothing was measured there.": {"beyond": True},
        "the lines are followed below the shortest length; from there on is all that was seen.": {
            "below": True
        },
        "a way whose slope is not smaller pays from no length on, whatever its intercept is.": {
            "steeper": lambda d, b: False
        },
        "the sign of the meeting point: the way's intercept minus the dense one's, over the slopes the other way round.": {
            "meeting": lambda a, b, c, d: (a - c) / (b - d)
        },
        "nowhere is None. An endless length was returned.": {"never": float("inf")},
        "the draws are not used: each of them gets all rounds.": {"whole": True},
        "only the dense line is drawn anew. The rounds of a draw are the same for both.": {
            "own": lambda rounds: range(max(rounds) + 1) if len(set(rounds)) < 2 else sorted(set(rounds))
        },
        "a round that is drawn twice counts twice.": {"sets": lambda draw: sorted(set(draw))},
        "the middle of the draws is returned; the lowest and the highest were asked for.": {
            "ends": lambda some: [statistics.median(some)] * 2
        },
        "that is the share of the draws; their number was asked for.": {"share": True},
        "where it pays in no draw there is nothing to be between: None.": {"empty": [0.0, 0.0]},
    },
)  # fmt: skip
