"""12.1: which of two is faster, on made-up machines whose truth is known.

Long because the machines' habits are a part of the question.
"""

from __future__ import annotations

import random
from itertools import pairwise
from operator import ge, gt
from statistics import median_high

from kvlab.course.author import AtMost, Exercise, Lent, Near

Q = Exercise(
    "12.1",
    "Measure it",
    "compare",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
Is the second really faster? Write the function that says so, or says that it cannot tell. `race.run("slow")` and
`race.run("fast")` run one of two workloads once and return its seconds. The check hands you workloads
whose truth it knows, on machines with the habits of real ones: they compile at the first run, they get quicker on the
way, and something else wakes up every now and then.

1. Run both once and forget these times.
2. Then run `pairs` pairs, each workload once in a pair. In every other pair the other one goes first.
3. A pair *holds* when the slow one's seconds over the fast one's are at least `at_least`.
4. If at least 80 % of the pairs hold, return `"faster"`; if at most 20 %, `"not faster"`; else `"too noisy"`.

Example: with ratios 3.1, 2.9, 3.0 and `at_least` 1.5 the verdict is `"faster"`; with 3.0, 0.3, 3.0 it is `"too noisy"`.
Roughly 8 lines.
""",
    hints=(
        "What happens to times that are taken first, and to those that are taken last? Who goes "
        "first in each pair?",
        "Run both once and forget the times. Then, in every other pair, run the fast one first. "
        "Make one ratio of each pair, and count the ratios that reach at_least.",
        'race.run("slow"); race.run("fast"). For i in range(pairs): order = ("slow", "fast") if i '
        '% 2 == 0 else ("fast", "slow"); seconds = {name: race.run(name) for name in order}; held '
        '+= seconds["slow"] / seconds["fast"] >= at_least. Then compare held / pairs with 0.8 and '
        "0.2.",
    ),
    size=lambda case: case["pairs"],
)


def _calm(fast, own, both):
    return 1


# Each workload: how many times as fast the fast one is if nothing disturbs it (1.5 is asked for),
# and by what the seconds of a run are multiplied, which may depend on whether the fast one is run,
# how often that one was run before, and how often both were, taken together.
KINDS = {
    "three times as fast": (3.0, _calm),
    "no faster": (1.0, _calm),
    "a little faster": (1.25, _calm),
    "slower": (0.5, _calm),
    "compiles when it is first run": (3.0, lambda fast, own, both: 500 if fast and not own else 1),
    "no faster, on a machine that speeds up": (1.0, lambda fast, own, both: 0.8**both),
    "no faster, every other run is disturbed": (1.0, lambda fast, own, both: (3, 1)[both % 2]),
    "three times as fast, but only every other time": (
        3.0,
        lambda fast, own, both: 9 if fast and own % 2 else 1,
    ),
    "three times as fast, stopped once": (
        3.0,
        lambda fast, own, both: 100 if fast and own == 2 else 1,
    ),
    "three times as fast, stopped twice": (
        3.0,
        lambda fast, own, both: 100 if fast and own in (2, 3) else 1,
    ),
    "no faster, stopped twice": (
        1.0,
        lambda fast, own, both: 1 if fast or own not in (2, 3) else 100,
    ),
    "no faster, stopped once": (1.0, lambda fast, own, both: 1 if fast or own != 2 else 100),
}


class Race(Lent):
    """Two workloads on a made-up machine: `run("slow")` and `run("fast")` give seconds.

    Only what the kind says happens to the times, so the truth is known.
    """

    lends = ("run",)

    def __init__(self, kind: str, seed: int, noise: float = 0.02) -> None:
        self._gain, self._disturbed = KINDS[kind]
        self._noise = noise
        self._rng = random.Random(seed)
        self.runs = {"slow": 0, "fast": 0}
        self.order: list[str] = []

    def run(self, name: str) -> float:
        if name not in self.runs:
            raise ValueError(f'run("slow") and run("fast") are there; not {name!r}')
        fast = name == "fast"
        seconds = 0.25 if fast else 0.25 * self._gain  # exact in binary
        seconds *= self._disturbed(fast, self.runs[name], len(self.order))
        self.runs[name] += 1
        self.order.append(name)
        return seconds * self._rng.uniform(1 - self._noise, 1 + self._noise)

    def plan(self, pairs: int) -> str:
        """What was run before the pairs, and what went first in them.

        Verdicts alone do not tell two mistakes apart; how somebody measured does.
        """
        n_before = max(0, len(self.order) - 2 * pairs)
        before = ", ".join(sorted(set(self.order[:n_before])))
        timed = self.order[n_before:]
        made = [timed[i : i + 2] for i in range(0, len(timed), 2)]
        if any(len(set(pair)) < 2 for pair in made):
            return f"{before}; no pairs"
        if len(made) > 1 and all(a == b for a, b in pairwise(made)):
            return f"{before}; same order"
        turned = all(a == b[::-1] for a, b in pairwise(made))
        return f"{before}; {'in turn' if turned else 'in some order'}"


@Q.case
def case(rng):
    return {
        "pairs": rng.choice([3, 4]),
        "at_least": 1.5,
        "_kinds": rng.sample(list(KINDS), len(KINDS)),
        "_seed": rng.randrange(2**31),
    }


@Q.solution
def compare(race, pairs, at_least):
    """Return "faster", "not faster" or "too noisy"."""
    ### BEGIN SOLUTION
    race.run("slow")
    race.run("fast")
    held = 0
    for i in range(pairs):
        order = ("slow", "fast") if i % 2 == 0 else ("fast", "slow")
        seconds = {name: race.run(name) for name in order}
        held += seconds["slow"] / seconds["fast"] >= at_least
    if held >= 0.8 * pairs:
        return "faster"
    return "not faster" if held <= 0.2 * pairs else "too noisy"
    ### END SOLUTION


@Q.also_right
def share_of_ratios(race, pairs, at_least):
    def seconds_of(*names):
        return {name: race.run(name) for name in names}

    seconds_of("fast", "slow")
    ratios = []
    while len(ratios) < pairs:
        order = ("slow", "fast")[:: 1 if len(ratios) % 2 else -1]
        took = seconds_of(*order)
        ratios.append(took["slow"] / took["fast"])
    share = len([r for r in ratios if r >= at_least]) / pairs
    return {True: "faster", False: "not faster" if share <= 0.2 else "too noisy"}[share >= 0.8]


# --- laws ---


def _truth(kind, pairs, at_least):
    stops = 2 if "twice" in kind else 1 if "once" in kind else 0
    agree = 0.5 if "every other" in kind else (pairs - stops) / pairs
    if agree < 0.8:
        return "too noisy"
    return "faster" if KINDS[kind][0] >= at_least else "not faster"


def _verdicts(answer, case, kinds, pairs):
    seen = {}
    for i, kind in enumerate(kinds):
        race = Race(kind, case["_seed"] + i)
        right = Near(_truth(kind, pairs, case["at_least"]))
        verdict = answer(race, pairs, case["at_least"])
        seen[f'verdict of {pairs} pairs on the workload "{kind}"'] = right.of(verdict)
        seen["_plan"] = race.plan(pairs)
    return seen


@Q.law("both run once before; then pairs, each the other way round than the one before")
def _(answer, case):
    """Eight pairs: to turn once in the middle, or at every third, is not to turn in every other."""
    seen = {}
    for pairs in (1, 8):
        race = Race("no faster", case["_seed"])
        answer(race, pairs, case["at_least"])
        right = Near("fast, slow; in turn")
        seen[f"run before {pairs} pairs, and the order in them"] = right.of(race.plan(pairs))
        for name, n in race.runs.items():
            seen[f"runs of {name} for {pairs} pairs"] = AtMost(pairs + 1).of(n)
        seen[f"_order of {pairs} pairs"] = race.order
    return seen


@Q.law("each workload gets the right verdict")
def _(answer, case):
    return _verdicts(answer, case, case["_kinds"], case["pairs"])


@Q.law("80 % of 5 pairs is enough, and so is 20 %")
def _(answer, case):
    """Four of five pairs hold, and one of five."""
    kinds = ("three times as fast, stopped once", "no faster, stopped once")
    return _verdicts(answer, case, kinds, 5)


@Q.law("seven of nine pairs, and two of nine, are neither")
def _(answer, case):
    """Just below 80 % and just above 20 %."""
    return _verdicts(answer, case, [kind for kind in KINDS if "twice" in kind], 9)


@Q.law("a pair holds when it reaches the bound exactly")
def _(answer, case):
    """Three times as fast to the last bit, and exactly that is asked for."""
    race = Race("three times as fast", case["_seed"], noise=0)
    verdict = answer(race, case["pairs"], 3.0)
    return {
        'verdict on the workload "three times as fast", with at_least=3.0': Near("faster").of(
            verdict
        )
    }


# --- what goes wrong: each changes one thing of this ---


def _ratios(slow, fast):
    return [s / f for s, f in zip(slow, fast, strict=True)]


def _compare(
    race,
    pairs,
    at_least,
    *,
    warmed=("slow", "fast"),
    order=("slow", "fast", "fast", "slow"),
    ratios=_ratios,
    cut=float,
    reaches=ge,
    holds=ge,
    between="too noisy",
):
    for name in warmed:
        race.run(name)
    seconds = {"slow": [], "fast": []}
    for name in (order * pairs)[: 2 * pairs]:
        seconds[name].append(race.run(name))
    held = [holds(ratio, at_least) for ratio in ratios(**seconds)]
    if reaches(sum(held), cut(0.8 * len(held))):
        return "faster"
    return "not faster" if reaches(cut(0.2 * len(held)), sum(held)) else between


def _turned_once(race, pairs, at_least):
    half = pairs // 2
    order = ("slow", "fast") * (pairs - half) + ("fast", "slow") * half
    return _compare(race, pairs, at_least, order=order)


Q.mistakes(
    _compare,
    {
        "the order is turned once, half-way. In every other pair the other one goes first: what "
        "changes on the way must meet both alike.": _turned_once,
        "the order is turned in every third pair. In every other one it should be.": {
            "order": ("slow", "fast", "slow", "fast", "fast", "slow")
        },
        'a pair whose ratio is exactly at_least does not hold. "At least" is >=.': {"holds": gt},
        "all runs of one come before all runs of the other, so a machine that gets quicker on the "
        "way makes the second look faster. Run in pairs.": lambda race, pairs, at_least: _compare(
            race, pairs, at_least, order=("slow",) * pairs + ("fast",) * pairs
        ),
        "nothing is run before the clock starts, so whoever compiles at the first run pays for it "
        "in a pair.": {"warmed": ()},
        "only one of the two is run before the clock starts. The other one may compile at its "
        "first run, and pays for it in a pair.": {"warmed": ("slow",)},
        "the same one goes first in every pair, so whatever disturbs every other run always "
        "disturbs the same one. Turn the order round.": {"order": ("slow", "fast")},
        "times are added up and divided once, which leaves one ratio, and a single ratio never "
        "says that it cannot tell.": {"ratios": lambda slow, fast: [sum(slow) / sum(fast)]},
        "the median is compared with the bound, and nobody asks whether the pairs agree: the "
        'verdict can never be "too noisy".': {
            "ratios": lambda slow, fast: [median_high(_ratios(slow, fast))]
        },
        'the function never says "too noisy": what is not faster need not be "not faster" '
        "either.": {"between": "not faster"},
        "the number of pairs is cut off: int(0.8 * 3) is 2, and 2 of 3 pairs are less than 80 %. "
        "Compare with 0.8 * pairs as it is.": {"cut": int},
        'exactly 80 %, or exactly 20 %, counts as too noisy. "At least" is >=, "at most" is <=.': {
            "reaches": gt
        },
        "the ratio is upside down: seconds of the slow one over seconds of the fast one says how "
        "many times as fast.": {"ratios": lambda slow, fast: _ratios(fast, slow)},
        "any ratio above 1 counts as faster. at_least times as fast was asked for.": (
            lambda race, pairs, at_least: _compare(race, pairs, 1.0)
        ),
    },
)
