"""7.2: how fast a machine reads and multiplies, on machines whose truth is known."""

from __future__ import annotations

import statistics
import time

from kvlab.course.author import AtLeast, AtMost, Exercise, Lent, Near, named

Q = Exercise(
    "7.2",
    "Bandwidth, FLOP/s and the ridge",
    "two_rates",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
Measure the two numbers of a machine (chapter 7, "Two numbers of a machine"). It lends you

- `machine.now()`: its clock, in seconds;
- `machine.read(n_bytes)`: read an array of so many bytes once, from the beginning to the end; there is one array for each size, and what
  is left of it in the processor's cache of `cache_bytes` comes faster the next time;
- `machine.multiply(n)`: multiply two square matrices of `n` rows and columns; small ones do not reach the machine's rate.

Read an array at least **eight times** as large as the cache, and not larger than `memory_bytes` (there is always room for eight), and multiply matrices of
`largest` rows and columns. Take `n` readings of each. Whatever disturbs this machine makes it slower, the first time most of all, so that the **shortest** of the `n` counts.
Return `(bytes_per_second, flop_per_second, ridge)`, the ridge in FLOP per byte. About 12 lines.

A machine that reads 80 million bytes in 0.01 seconds and multiplies two matrices of 1,000 rows and columns in 0.04 has 8e9 bytes and 50e9 FLOP a second, and its ridge
is at 6.25.
""",
    hints=(
        "How many multiplications and additions does a product of two n x n matrices take? And which array cannot hide in the cache?",
        "Write a function that takes n readings of anything and returns the shortest. The product takes 2 n^3 FLOP. The ridge is FLOP a second divided by "
        "bytes a second.",
        "size = 8 * cache_bytes; def shortest(run, what): for each of n: start = machine.now(); run(what); times.append(machine.now() - start); "
        "min(times). reads = size / shortest(machine.read, size); multiplies = 2 * largest**3 / shortest(machine.multiply, largest).",
    ),
    size=lambda case: case["n"],
)


@Q.case
def case(rng):
    cache = rng.choice([2, 3, 6, 12]) * 2**20
    return {
        "cache_bytes": cache,
        "memory_bytes": cache * rng.choice([8, 9, 16, 40]),
        "largest": rng.choice([512, 768, 1024, 1536]),
        "n": rng.randint(4, 9),
        "_reads": rng.uniform(4e9, 4e10),
        "_multiplies": rng.uniform(2e11, 2e12),
    }


@Q.solution
def two_rates(machine, cache_bytes, memory_bytes, largest, n):
    """Return bytes a second, FLOP a second, and the ridge in FLOP per byte."""

    ### BEGIN SOLUTION
    def shortest(run, what):
        seconds = []
        for _ in range(n):
            start = machine.now()
            run(what)
            seconds.append(machine.now() - start)
        return min(seconds)

    size = 8 * cache_bytes
    reads = size / shortest(machine.read, size)
    multiplies = 2 * largest**3 / shortest(machine.multiply, largest)
    return reads, multiplies, multiplies / reads
    ### END SOLUTION


@Q.also_right
def best_rate_by_turns(machine, cache_bytes, memory_bytes, largest, n):
    best = {"read": 0.0, "multiply": 0.0}
    for _ in range(n):
        a = machine.now()
        machine.read(memory_bytes)
        b = machine.now()
        machine.multiply(largest)
        c = machine.now()
        best["read"] = max(best["read"], memory_bytes / (b - a))
        best["multiply"] = max(best["multiply"], 2.0 * largest * largest * largest / (c - b))
    return best["read"], best["multiply"], best["multiply"] / best["read"]


# --- laws ---


class Machine(Lent):
    """A machine with a clock and a cache; with `disturbed` most runs take longer than they need.

    Of an array that was read before, the cache gives back four times as fast what it still holds:
    all of one that fits, nothing of one four times its size.
    """

    lends = ("now", "read", "multiply")

    def __init__(self, case, *, disturbed=False):
        self._case, self._disturbed = case, disturbed
        self._time, self._seen = 50.0, set()
        self.sizes, self.products, self.looks = [], [], 0

    def now(self) -> float:
        self.looks += 1
        return self._time

    def read(self, n_bytes: int) -> None:
        self._whole(n_bytes, self._case["memory_bytes"], "bytes")
        cache, rate = self._case["cache_bytes"], self._case["_reads"]
        held = min(1.0, max(0.0, (4 - n_bytes / cache) / 3)) * (n_bytes in self._seen)
        self._seen.add(n_bytes)
        self.sizes.append(n_bytes)
        self._take(n_bytes * (1 - held + held / 4) / rate, len(self.sizes))

    def multiply(self, n: int) -> None:
        self._whole(n, self._case["largest"], "rows")
        self.products.append(n)
        slower = 1 + 64 / n - 64 / self._case["largest"]
        self._take(2 * n**3 / self._case["_multiplies"] * slower, len(self.products))

    def _take(self, seconds: float, count: int) -> None:
        if self._disturbed and count != 3:
            seconds *= 1.5 if count > 1 else 6
        self._time += seconds

    def _whole(self, value: int, most: int, what: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise ValueError(f"{str(value)[:40]} {what} were asked for; expected 1 to {most}")


RESULTS = ("bytes_per_second", "flop_per_second", "ridge")
NAMES = ("cache_bytes", "memory_bytes", "largest", "n")


def _measured(answer, case, machine, **other):
    given = {**case, **other}
    return named(answer(machine, *(given[name] for name in NAMES)), *RESULTS)


def _true(case, found):
    reads, multiplies = case["_reads"], case["_multiplies"]
    true = dict(zip(RESULTS, (reads, multiplies, multiplies / reads), strict=True))
    return {name: Near(value, rtol=1e-6).of(found[name]) for name, value in true.items()}


@Q.law("the machine's own clock is read", shows=lambda case: "n is 1")
def _(answer, case):
    machine = Machine(case)
    _measured(answer, case, machine, n=1)
    return {"calls of machine.now()": AtLeast(3).of(machine.looks)}


@Q.law("a machine that nothing disturbs")
def _(answer, case):
    return _true(case, _measured(answer, case, Machine(case)))


@Q.law("a machine that is disturbed")
def _(answer, case):
    return _true(case, _measured(answer, case, Machine(case, disturbed=True)))


@Q.law("room for eight times the cache, and no more")
def _(answer, case):
    tight = {**case, "memory_bytes": 8 * case["cache_bytes"]}
    return _true(case, _measured(answer, tight, Machine(tight, disturbed=True)))


@Q.law("one reading of each", shows=lambda case: "n is 1")
def _(answer, case):
    return _true(case, _measured(answer, case, Machine(case), n=1))


@Q.law("n readings, of an array that is large enough")
def _(answer, case):
    machine = Machine(case)
    _measured(answer, case, machine)
    n = case["n"]
    return {
        "smallest array, in sizes of the cache": AtLeast(8).of(
            min(machine.sizes, default=0) / case["cache_bytes"]
        ),
        "readings of an array, at least": AtLeast(n).of(len(machine.sizes)),
        "readings of an array": AtMost(n + 2).of(len(machine.sizes)),
        "products, at least": AtLeast(n).of(len(machine.products)),
        "products": AtMost(n + 2).of(len(machine.products)),
    }


# --- what goes wrong: each changes one thing of this ---


def _rates(
    machine, cache_bytes, memory_bytes, largest, n, *, size=lambda cache: 8 * cache, best=min,
    flop=lambda rows: 2 * rows**3, of_bytes=lambda size: size, rows=lambda largest: largest,
    ridge=lambda reads, multiplies: multiplies / reads, now=None, readings=lambda n: n,
):  # fmt: skip
    now = now or machine.now

    def seconds(run, what):
        found = []
        for _ in range(readings(n)):
            start = now()
            run(what)
            found.append(now() - start)
        return best(found)

    taken, width = size(cache_bytes), rows(largest)
    reads = of_bytes(taken) / seconds(machine.read, taken)
    multiplies = flop(width) / seconds(machine.multiply, width)
    return reads, multiplies, ridge(reads, multiplies)


Q.mistakes(
    _rates,
    {
        "the array fits into the processor's cache, which is what you measured.": {
            "size": lambda cache: cache
        },
        "twice the cache is not enough: a part of the array is still there the next time.": {
            "size": lambda cache: 2 * cache
        },
        "an array of four times the cache was read; eight times was asked for.": {
            "size": lambda cache: 4 * cache
        },
        "only multiplications are counted. Each comes with an addition: 2 n^3.": {
            "flop": lambda rows: rows**3
        },
        "n^2 counts the numbers of the result. Each of them takes n multiplications and n "
        "additions.": {"flop": lambda rows: 2 * rows**2},
        "the array is counted as numbers of four bytes; bytes were asked for.": {
            "of_bytes": lambda size: size / 4
        },
        "the array is only read. Nothing is written that would have to be counted as well.": {
            "of_bytes": lambda size: 2 * size
        },
        "the rates come in billions; bytes and FLOP a second were asked for.": lambda *given: [
            _rates(*given)[0] / 1e9,
            _rates(*given)[1] / 1e9,
            _rates(*given)[2],
        ],
        "the ridge is upside down: FLOP per byte.": {"ridge": lambda reads, mult: reads / mult},
        "the ridge is a quotient, FLOP a second over bytes a second.": {
            "ridge": lambda reads, multiplies: multiplies - reads
        },
        "the mean follows every disturbance. Take the shortest.": {"best": statistics.fmean},
        "the median was taken. Where nothing makes a run shorter, the shortest is nearest to what "
        "the machine can do.": {"best": statistics.median},
        "the longest reading was taken.": {"best": max},
        "the first reading was taken, which is the one most disturbed.": {
            "best": lambda found: found[0]
        },
        "small matrices do not reach the rate: multiply the largest.": {
            "rows": lambda largest: largest // 4
        },
        "the time is read from another clock than the machine's: use machine.now().": {
            "now": time.perf_counter
        },
        "one reading was taken; n were asked for.": {"readings": lambda n: 1},
    },
)
