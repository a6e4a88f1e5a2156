"""5.4: a stopwatch, on devices whose truth is known.

Long because the device that is timed is a part of the question.
"""

import statistics
import time
from itertools import pairwise

from kvlab.course.author import AtLeast, AtMost, Exercise, LentDevice, Near, named

Q = Exercise(
    "5.4",
    "A stopwatch",
    "stopwatch",
    points=5,
    minutes=25,
    difficulty=3,
    statement="""
Two pieces of work are to be compared, and their names are `slow` and `fast`. The device has a clock of its own:

- `device.now()`: its clock, in seconds;
- `device.run(work)`: hand over one run of a piece of work; it may return **before the work is done**;
- `device.synchronize()`: wait until everything that was handed over is done.

Take `n` pairs of readings, one of each, and return `(slow_seconds, fast_seconds, ratio)`: the median
seconds of a run of each, and the median of the `n` ratios slow over fast, one for each pair. The devices that
you meet are not kind: the first run of each takes longer; some runs are disturbed and take much too
long, or too short; one device gets slower with every run, another one all at once. So that neither is always the
later one, each of them comes first in every other pair. No reading is thrown away: the median takes care of those that are too long. `n` may be
even, or 1. Besides the `n` readings run each of them once to warm up, or two or three times, and no more. Roughly 15 lines.
""",
    hints=(
        "Four things can go wrong: a cold start, a clock read too early, disturbed runs, a "
        "device that changes. Which line of your stopwatch answers which?",
        "Run each work once before any clock is read. One reading is: synchronize, now, run, "
        "synchronize, now. Do slow and fast in turn, n pairs, and take medians at the end.",
        "for i in range(n): read both, in the other order when i is odd; append to two lists and "
        "append slow / fast to a third. Return statistics.median of each of the three.",
    ),
    size=lambda case: case["n"],
)


@Q.case
def case(rng):
    fast = rng.uniform(0.002, 0.02)
    return {
        "slow": rng.choice(["naive", "dense", "plain"]),
        "fast": rng.choice(["cached", "packed", "compiled"]),
        "n": rng.choice([13, 15, 17]),
        "_seconds": (fast * rng.uniform(1.5, 6.0), fast),
        "_cold": rng.uniform(0.2, 0.9),
        "_drift": rng.uniform(0.008, 0.012),
    }


@Q.solution
def stopwatch(device, slow, fast, n):
    """Return the median seconds of slow and of fast, and the median of slow / fast."""

    ### BEGIN SOLUTION
    def reading(work):
        device.synchronize()
        start = device.now()
        device.run(work)
        device.synchronize()
        return device.now() - start

    for work in (slow, fast):
        device.run(work)
    seconds = {slow: [], fast: []}
    for i in range(n):
        for work in (slow, fast) if i % 2 == 0 else (fast, slow):
            seconds[work].append(reading(work))
    ratios = [s / f for s, f in zip(seconds[slow], seconds[fast])]
    return (
        statistics.median(seconds[slow]),
        statistics.median(seconds[fast]),
        statistics.median(ratios),
    )
    ### END SOLUTION


@Q.also_right
def pair_by_pair(device, slow, fast, n):
    def seconds(work):
        device.synchronize()
        before = device.now()
        device.run(work)
        device.synchronize()
        return device.now() - before

    def middle(numbers):
        half = len(numbers) // 2
        ordered = sorted(numbers)
        return ordered[half] if len(numbers) % 2 else (ordered[half - 1] + ordered[half]) / 2

    pairs = []
    for i in range(-1, n):
        first = seconds((slow, fast)[i % 2])
        second = seconds((fast, slow)[i % 2])
        pairs.append((second, first) if i % 2 else (first, second))
    pairs = pairs[1:]
    return [
        middle([a for a, _ in pairs]),
        middle([b for _, b in pairs]),
        middle([a / b for a, b in pairs]),
    ]


# --- laws ---


class Device(LentDevice):
    """A device with its own clock, for the two works of a case.

    Where it is `cold`, the case's seconds come on top of each work's first run. With `queues`,
    `run` returns before the work is done. With `disturbed`, some runs of each work take eight times
    as long and some a fifth. With `drifts`, each run takes longer than the one before it by the
    case's share; with `drops_after`, every run behind that many takes three times as long. With
    `uneven`, some runs take hundreds of times as long as their neighbours, in no order.
    """

    def __init__(
        self,
        case,
        *,
        cold=False,
        queues=False,
        disturbed=False,
        drifts=False,
        drops_after=None,
        uneven=False,
    ):
        super().__init__(queues=queues)
        works = case["slow"], case["fast"]
        self._seconds = dict(zip(works, case["_seconds"], strict=True))
        self._cold, self._drift = case["_cold"] * cold, case["_drift"] * drifts
        self._disturbed, self._drops_after, self._uneven = disturbed, drops_after, uneven
        self._time, self._pace = 1000.0, 1.0
        self.runs, self.ran = dict.fromkeys(works, 0), []  # how often, and each with its seconds
        self.longest_row, self._row = 0, ("", 0)  # a row: runs of one work, at once

    def run(self, work: str) -> None:
        if work not in self.runs:
            raise ValueError(f"there is no work {work!r}; expected one of {', '.join(self.runs)}")
        takes = self._takes(work)
        self.ran.append((work, takes))
        self.runs[work] += 1
        self._row = (work, self._row[1] + 1 if self._row[0] == work else 1)
        self.longest_row = max(self.longest_row, self._row[1])
        self._pace *= 1 + self._drift
        if sum(self.runs.values()) == self._drops_after:
            self._pace *= 3
        self._hand_over(takes, 1e-6)

    def _takes(self, work: str) -> float:
        seconds = self._seconds[work] * self._pace
        count, phase = self.runs[work], list(self.runs).index(work)
        if count == 0:
            return seconds + self._cold
        if self._uneven:
            return seconds * (1 + (3 * len(self.ran) % 7) ** 3)
        if self._disturbed and (count + 2 * phase) % 6 == 3:
            return seconds * 8
        if self._disturbed and (count + 4 * phase) % 9 == 5:
            return seconds / 5
        return seconds


RESULTS = ("slow_seconds", "fast_seconds", "ratio")


def _timed(answer, case, device, n=None):
    return named(answer(device, case["slow"], case["fast"], n or case["n"]), *RESULTS)


def _true(case):
    """What is true of a case. A ratio may be off by the drift of two runs, since one comes first."""
    slow, fast = case["_seconds"]
    known = zip(RESULTS, (slow, fast, slow / fast), strict=True)
    return {name: Near(value, rtol=0.025) for name, value in known}


def _watched(n=None):
    """Writes down the call; n is the case's unless given."""
    return lambda case: f"stopwatch(device, {case['slow']!r}, {case['fast']!r}, {n or case['n']})"


def _finds(name, *results, n=None, **kind):
    """The law that these results are the truth about such a device; all three unless named."""

    @Q.law(name, shows=_watched(n))
    def _(answer, case):
        found, true = _timed(answer, case, Device(case, **kind), n), _true(case)
        return {result: true[result].of(found[result]) for result in results or RESULTS}


@Q.law("the device's own clock is read", shows=_watched(1))
def _(answer, case):
    device = Device(case)
    _timed(answer, case, device, 1)
    return {"calls of device.now()": AtLeast(2).of(device.looks)}


@Q.law("n runs of each, and few more", shows=_watched())
def _(answer, case):
    device, n = Device(case, queues=True), case["n"]
    found = _timed(answer, case, device)
    return {
        "_found": found,
        "runs of the slow work, at least": AtLeast(n + 1).of(device.runs[case["slow"]]),
        "runs of the fast work, at least": AtLeast(n + 1).of(device.runs[case["fast"]]),
        "runs of both": AtMost(2 * n + 6).of(sum(device.runs.values())),
    }


_finds("the first run is cold, and one pair is asked for", n=1, cold=True)
_finds("run returns before the work is done", queues=True)
_finds("run returns early, and the cold runs still go on", n=1, cold=True, queues=True)
_finds("some runs are disturbed", *RESULTS[:2], queues=True, disturbed=True)
_finds("some runs are disturbed: the ratio", "ratio", queues=True, disturbed=True)


@Q.law("slow and fast take turns", shows=_watched())
def _(answer, case):
    device = Device(case, queues=True)
    _timed(answer, case, device)
    return {"the order of the runs": "in turn" if device.longest_row <= 4 else "not in turn"}


@Q.law("each goes first in its turn", shows=_watched())
def _(answer, case):
    device, n = Device(case, queues=True), case["n"]
    _timed(answer, case, device)
    pairs = [work for work, _ in device.ran][-2 * n :]
    same = sum(a == b for a, b in pairwise(pairs[::2]))
    return {"times that the same work was first in two pairs running": AtMost(0).of(same)}


_finds("the device slows down all the time", "ratio", queues=True, drifts=True)

EVEN = 4


def _as_it_took(answer, case, device, n):
    """What is read is what the runs of a device took, whatever that was."""
    found = _timed(answer, case, device, n)
    took = {work: [s for ran, s in device.ran if ran == work][-n:] for work in device.runs}
    ratios = _ratios(*took.values())
    true = [statistics.median(some) for some in (*took.values(), ratios)]
    return {
        name: Near(value, rtol=2e-3).of(found[name])
        for name, value in zip(RESULTS, true, strict=True)
    }


@Q.law("an even number of pairs", shows=_watched(EVEN))
def _(answer, case):
    """The device slows down so fast that no two runs are alike."""
    device = Device(case | {"_drift": 0.1}, queues=True, drifts=True)
    return _as_it_took(answer, case, device, EVEN)


@Q.law("each ratio is that of a pair, whatever its runs took", shows=_watched())
def _(answer, case):
    return _as_it_took(answer, case, Device(case, queues=True, uneven=True), case["n"])


DROP_PAIRS, DROPS = 5, range(5, 13)


@Q.law("the device slows down once", shows=_watched(DROP_PAIRS))
def _(answer, case):
    """The pace drops once, in the middle of a pair for one of these places at least.

    The median of slow readings and that of fast ones may then come from before and behind the drop;
    of the pairs at most one is split, which a median of ratios does not notice.
    """
    seen = {}
    for run in DROPS:
        found = _timed(answer, case, Device(case, queues=True, drops_after=run), DROP_PAIRS)
        seen[f"ratio, with a drop after run {run}"] = _true(case)["ratio"].of(found["ratio"])
    return seen


# --- what goes wrong: each changes one thing of this ---


def _ratios(slow, fast):
    return [s / f for s, f in zip(slow, fast, strict=True)]


def _first_over_second(slow, fast):
    ratios = _ratios(slow, fast)
    return statistics.median(1 / r if i % 2 else r for i, r in enumerate(ratios))


def _without_long_ones(seconds):
    return [s for s in seconds if s < 2 * statistics.median(seconds)]


def _stopwatch(
    device,
    slow,
    fast,
    n,
    *,
    warms=2,  # how many of the two works
    warms_each=False,
    waits_before=True,
    waits_behind=True,
    now=None,
    order=lambda slow, fast, n: ((slow, fast, fast, slow) * n)[: 2 * n],
    middle=statistics.median,
    ratio=lambda slow, fast: statistics.median(_ratios(slow, fast)),
):
    now, seconds = now or device.now, {slow: [], fast: []}
    for work in (slow, fast)[:warms]:
        device.run(work)
    for work in order(slow, fast, n):
        if warms_each:
            device.run(work)
        if waits_before:
            device.synchronize()
        start = now()
        device.run(work)
        if waits_behind:
            device.synchronize()
        seconds[work].append(now() - start)
    return middle(seconds[slow]), middle(seconds[fast]), ratio(seconds[slow], seconds[fast])


def _one_reading_for_all(device, slow, fast, n):
    found = []
    for work in (slow, fast):
        device.run(work)
        device.synchronize()
        start = device.now()
        for _ in range(n):
            device.run(work)
        device.synchronize()
        found.append((device.now() - start) / n)
    return *found, found[0] / found[1]


Q.mistakes(
    _stopwatch,
    {
        "the clock is read before the device is done. `run` only hands the work over: synchronize "
        "before the second reading.": {"waits_before": False, "waits_behind": False},
        "you wait before the first reading but not before the second, so what is timed is the "
        "handing over.": {"waits_behind": False},
        "you wait before the second reading but not before the first, so the first reading also "
        "times the warm-up that still runs.": {"waits_before": False},
        "the time is read from another clock than the device's: use device.now().": {
            "now": time.perf_counter
        },
        "the two medians are divided. When the pace changes they may come from different times: "
        "take one ratio for each pair, and the median of those.": {
            "ratio": lambda slow, fast: statistics.median(slow) / statistics.median(fast)
        },
        "the readings are sorted before they are divided, so a ratio is made of two runs that were no "
        "pair. Divide within each pair, in the order in which they were taken.": {
            "ratio": lambda slow, fast: statistics.median(_ratios(sorted(slow), sorted(fast)))
        },
        "readings that are too long are thrown away, and what is left are no pairs. Keep all of them: the "
        "median stands in the middle however long some are.": {
            "middle": lambda seconds: statistics.median(_without_long_ones(seconds)),
            "ratio": lambda slow, fast: statistics.median(
                s / f for s, f in zip(_without_long_ones(slow), _without_long_ones(fast))
            ),
        },
        "each reading is warmed up for. Only the first run is cold: warm up each work once, before the "
        "first reading.": {"warms_each": True},
        "nothing is run before the first reading, so it times the start-up.": {"warms": 0},
        "only one of the two works is warmed up. Each has a cold first run.": {"warms": 1},
        "the mean follows every outlier. The median does not.": {
            "middle": statistics.fmean,
            "ratio": lambda slow, fast: statistics.fmean(_ratios(slow, fast)),
        },
        "the fastest run is taken. A disturbed run can be too short as well; the median stands in "
        "the middle.": {"middle": min, "ratio": lambda slow, fast: min(slow) / min(fast)},
        "one reading is taken around all n runs and divided by n. That is a mean, and no run can "
        "be told from another.": _one_reading_for_all,
        "all runs of one come before all runs of the other, so a device that slows down punishes "
        "the second. Take turns.": {"order": lambda slow, fast, n: [slow] * n + [fast] * n},
        "the same work goes first in every pair, so the other one is always the later. Let each go "
        "first in its turn.": {"order": lambda slow, fast, n: (slow, fast) * n},
        "the middle of an even number of readings lies between two of them: half of their sum, as in "
        "statistics.median.": {
            "middle": statistics.median_high,
            "ratio": lambda slow, fast: statistics.median_high(_ratios(slow, fast)),
        },
        "the ratio is that of the first run over the second, which is upside down in every other pair: slow over "
        "fast in each.": {"ratio": _first_over_second},
        "the ratio is upside down: slow over fast says how many times as fast the second is.": {
            "ratio": lambda slow, fast: statistics.median(_ratios(fast, slow))
        },
    },
)
