"""7.1: a stopwatch for work that is shorter than the clock's tick."""

from __future__ import annotations

import math
import statistics
import time

from kvlab.course.author import AtLeast, AtMost, Exercise, LentDevice, Near, named

Q = Exercise(
    "7.1",
    "A stopwatch for short work",
    "time_one_run",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
An operation takes a few millionths of a second, and the clock that you have moves in ticks that are longer than that (chapter 7, "Two numbers of a
machine"). So several runs in a row have to share one reading. The device lends you

- `device.now()`: its clock in seconds, which only moves by whole ticks of `tick` seconds;
- `device.run(r)`: hand over `r` runs in a row; it may return **before they are done**;
- `device.synchronize()`: wait until everything that was handed over is done.

Warm up with one single run, which may take much longer than the others. Then try r = 1, 2, 4, 8, ... until a reading of `r` runs lasts **at least 100 ticks**, and
keep this `r`. Take `n` further readings with it, of which some will be disturbed, and return `(r, seconds)`: the number of runs that share a reading, and the seconds of *one* run by the median of these `n` readings.
`n` may be even, or 1. Run nothing more often than that. About 15 lines.

If a run takes 3 ticks, a reading of 32 runs lasts 96 ticks and one of 64 lasts 192: `r` is 64.
""",
    hints=(
        "What does a reading look like that neither starts nor ends too early? And how long must it be for an error of one tick not to matter?",
        "A reading of r runs: synchronize, now, run(r), synchronize, now. After one run to warm up, double r until the reading is 100 * tick "
        "or longer. Only then begin to collect n readings.",
        "device.run(1); r = 1; while reading(r) < 100 * tick: r *= 2; return r, statistics.median([reading(r) for _ in range(n)]) / r",
    ),
    size=lambda case: case["n"],
)


@Q.case
def case(rng):
    """At the right number of runs a reading lasts 125 to 190 ticks, so that half of it is short."""
    runs = 2 ** rng.randint(2, 7)
    tick = 2.0 ** -rng.randint(8, 14)
    return {
        "tick": tick,
        "n": rng.choice([7, 9, 11]),
        "_seconds": rng.uniform(125, 190) * tick / runs,
        "_runs": runs,
        "_cold": rng.randint(300, 900) * tick,
    }


@Q.solution
def time_one_run(device, tick, n):
    """Return how many runs share a reading, and the seconds of one run."""

    ### BEGIN SOLUTION
    def reading(r):
        device.synchronize()
        start = device.now()
        device.run(r)
        device.synchronize()
        return device.now() - start

    device.run(1)
    r = 1
    while reading(r) < 100 * tick:
        r *= 2
    return r, statistics.median([reading(r) for _ in range(n)]) / r
    ### END SOLUTION


@Q.also_right
def whole_ticks(device, tick, n):
    def ticks(runs):
        device.synchronize()
        before = round(device.now() / tick)
        device.run(runs)
        device.synchronize()
        return round(device.now() / tick) - before

    device.run(1)
    power = next(p for p in range(40) if ticks(2**p) >= 100)
    found = sorted(ticks(2**power) for _ in range(n))
    return [2**power, tick * (found[n // 2] + found[(n - 1) // 2]) / 2 / 2**power]


# --- laws ---

MOST = 2**14  # runs in a row


class Device(LentDevice):
    """A device whose clock ticks. With `queues` handing over takes a fiftieth of the work.

    With `disturbed`, of the readings that are long enough each third takes five times as long.
    """

    def __init__(self, case, *, cold=False, queues=False, disturbed=False, seconds=None):
        super().__init__(queues=queues)
        self._tick, self._seconds = case["tick"], seconds or case["_seconds"]
        self._cold, self._disturbed, self._long = case["_cold"] * cold, disturbed, 0
        self.asked = []

    def now(self) -> float:
        return math.floor(super().now() / self._tick) * self._tick

    def run(self, r: int) -> None:
        if isinstance(r, bool) or not isinstance(r, int) or not 1 <= r <= MOST:
            raise ValueError(f"run was given {str(r)[:40]}; expected a whole number, 1 to {MOST}")
        if len(self.asked) > 200:
            raise ValueError("more than 200 readings are beyond any need here")
        takes = r * self._seconds
        self._long += takes >= 100 * self._tick
        if self._disturbed and self._long % 3 == 0 and takes >= 100 * self._tick:
            takes *= 5
        if not self.asked:
            takes += self._cold
        self.asked.append(r)
        self._hand_over(takes, takes / 50)


RESULTS = ("r", "seconds")


def _timed(answer, case, device, n=None):
    return named(answer(device, case["tick"], n or case["n"]), *RESULTS)


def _finds(name, n=None, **kind):
    """The law that these results are the truth about such a device."""

    @Q.law(name, shows=lambda case: f"time_one_run(device, {case['tick']}, {n or case['n']})")
    def _(answer, case):
        found = _timed(answer, case, Device(case, **kind), n)
        return {
            "r": Near(case["_runs"]).of(found["r"]),
            "seconds": Near(case["_seconds"], rtol=0.015).of(found["seconds"]),
        }


@Q.law("the device's own clock is read")
def _(answer, case):
    device = Device(case)
    _timed(answer, case, device, 1)
    return {"calls of device.now()": AtLeast(2).of(device.looks)}


_finds("a device that answers at once")
_finds("the first run is cold", cold=True)
_finds("run returns before the work is done", queues=True)
_finds("the cold run still goes on when the first reading begins", cold=True, queues=True)
_finds("some readings are disturbed", queues=True, disturbed=True)
_finds("one reading", n=1, cold=True, queues=True)


@Q.law("an even number of readings", shows=lambda case: f"time_one_run(device, {case['tick']}, 2)")
def _(answer, case):
    """One of the two is disturbed, and the median lies between them."""
    found = _timed(answer, case, Device(case, disturbed=True), 2)
    return {"seconds": Near(3 * case["_seconds"], rtol=0.015).of(found["seconds"])}


@Q.law("a reading that lasts 100 ticks exactly is long enough")
def _(answer, case):
    seconds = 100 * case["tick"] / case["_runs"]
    found = _timed(answer, case, Device(case, seconds=seconds))
    return {
        "r": Near(case["_runs"]).of(found["r"]),
        "seconds": Near(seconds, rtol=0.015).of(found["seconds"]),
    }


@Q.law("a reading that lasts 99 ticks is too short")
def _(answer, case):
    seconds = 99 * case["tick"] / case["_runs"]
    found = _timed(answer, case, Device(case, seconds=seconds))
    return {
        "r": Near(2 * case["_runs"]).of(found["r"]),
        "seconds": Near(seconds, rtol=0.015).of(found["seconds"]),
    }


@Q.law("a run that lasts longer than 100 ticks needs no others")
def _(answer, case):
    seconds = 150 * case["tick"]
    found = _timed(answer, case, Device(case, seconds=seconds))
    return {
        "r": Near(1).of(found["r"]),
        "seconds": Near(seconds, rtol=0.015).of(found["seconds"]),
    }


@Q.law("nothing is run more often than asked")
def _(answer, case):
    device = Device(case, cold=True)
    found = _timed(answer, case, device)
    doublings = int(math.log2(case["_runs"])) + 1
    return {
        "_found": found,
        "calls of device.run": AtMost(1 + doublings + case["n"]).of(len(device.asked)),
        "runs of the work": AtMost(2 * case["_runs"] + case["n"] * case["_runs"]).of(
            sum(device.asked)
        ),
    }


# --- what goes wrong: each changes one thing of this ---


def _time(
    device, tick, n, *, warms=True, waits_before=True, waits_behind=True, enough=100, now=None,
    middle=statistics.median, share=lambda r: r, grow=lambda r: 2 * r, keeps=False, over=False,
):  # fmt: skip
    now = now or device.now

    def reading(r):
        if waits_before:
            device.synchronize()
        start = now()
        device.run(r)
        if waits_behind:
            device.synchronize()
        return now() - start

    if warms:
        device.run(1)
    r = 1
    last = reading(r)
    while (last <= enough * tick if over else last < enough * tick) and r < MOST // 2:
        r = grow(r)
        last = reading(r)
    found = [last] * keeps
    while len(found) < n:
        found.append(reading(r))
    return r, middle(found) / share(r)


Q.mistakes(
    _time,
    {
        "the reading is not divided by r: one run was asked for.": {"share": lambda r: 1},
        "nothing is run before the first reading, so the cold run passes for a long one.": {
            "warms": False
        },
        "the clock is read before the device is done. Synchronize before the second look.": {
            "waits_behind": False
        },
        "the first reading also times the warm-up that still runs. Synchronize before the first "
        "look.": {"waits_before": False},
        "a reading of one tick is taken to be long enough. A tick more or less is then all of it: "
        "wait for 100.": {"enough": 1},
        "ten ticks are too few; 100 were asked for.": {"enough": 10},
        "a reading of exactly 100 ticks is long enough: `at least`.": {"over": True},
        "r goes up by one; it doubles.": {"grow": lambda r: r + 1},
        "r goes up tenfold; it doubles.": {"grow": lambda r: 10 * r if r < 1000 else r + 1000},
        "the mean follows the disturbed readings. The median does not.": {
            "middle": statistics.fmean
        },
        "of an even number of readings the median lies between the two in the middle.": {
            "middle": statistics.median_low
        },
        "the reading that found r is one of the n. It decided how many runs there are; take n "
        "others.": {"keeps": True},
        "the time is read from another clock than the device's: use device.now().": {
            "now": time.perf_counter
        },
    },
)
