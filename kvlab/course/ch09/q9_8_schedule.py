"""9.8: a schedule of the reader's own drives the real engine with the pocket model.

Long because the promises are judged twice: by the scheduler alone, and by the whole engine.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import lru_cache
from typing import Any

from kvlab import generate
from kvlab.course.author import AtMost, Exercise, Near, pocket_model
from kvlab.serve.blocks import BlockPool
from kvlab.serve.engine import Engine
from kvlab.serve.request import Request
from kvlab.serve.scheduler import Scheduler

PATIENCE = 6

Q = Exercise(
    "9.8",
    "Your schedule drives the engine",
    "schedule",
    points=6,
    minutes=30,
    difficulty=4,
    statement=f"""
Write a schedule of your own; the engine of this book serves people by it, with the pocket model (chapter 9, "Your schedule drives the engine"). Before each step it calls `schedule(requests, budget)`. `requests` are those that are there, in the order in which they came, each as
`[name, pending, written, waited]`: tokens that are there and not computed yet, tokens of the answer that are written, and in how many steps in a row, up to now, nothing was computed for it. Return a list of `[name, tokens]`. As in 9.2, a request reads while more than one token is pending or nothing is written; else it writes, and one token is pending. How
you do it is your choice. What your schedule has to keep are promises:

1. No step has more than `budget` tokens, nobody gets more than is pending, and no step is empty while somebody is there.
2. Nobody who writes ever waits: there is a token in every step. (There are never more requests than the budget has tokens.)
3. A long prompt does not wait for nothing: a step is full as long as there are tokens to fill it with.
4. Who asks something short is not kept waiting by somebody else's long prompt: of those who read, the one with the **fewest** pending tokens comes first.
5. But nobody starves. Whoever reads gets a token at least once in every {PATIENCE + 1} steps, even if short prompts keep coming: who has waited {PATIENCE} steps comes before all others who read.

Every answer must be the one that its prompt gets alone. With a budget of 20, `["a", 1, 4, 0]`, `["b", 300, 0, 2]` and `["c", 8, 0, 0]` should get 1, 11 and 8 tokens; and if b had waited {PATIENCE} steps, 1, 19 and none.
""",
    hints=(
        "Two groups, one after the other. Which of them has the first right to the budget, and in which order do the others come?",
        f"Everybody who writes gets 1. Those who read are sorted: first those with waited >= {PATIENCE}, then by pending. Each gets as much of what is pending as is left.",
        f"step, left = [], budget; for r in requests: if r[1] == 1 and r[2] > 0: step.append([r[0], 1]); left -= 1. Then for r in sorted(those that read, key=lambda r: (r[3] < {PATIENCE}, r[1])): n = min(r[1], left); if n > 0: step.append([r[0], n]); left -= n.",
    ),
    n_cases=5,
    size=lambda case: case["long"],
)

NAMES = ("Anna", "Tom", "Lucy", "Peter", "Ruth", "Quinn")
WORDS = ("tiger", "lemon", "rope", "candle", "river", "apple")


@Q.case
def case(rng):
    """A budget, and how long the long prompt is; the rest is drawn from a seed."""
    return {
        "long": rng.randint(100, 140),
        "budget": rng.randint(18, 24),
        "_seed": rng.randrange(2**31),
    }


@Q.solution
def schedule(requests, budget):
    """Return [name, tokens] for each request that is in the next step."""
    ### BEGIN SOLUTION
    step, left, reading = [], budget, []
    for name, pending, written, waited in requests:
        if pending == 1 and written > 0:
            step.append([name, 1])
            left -= 1
        else:
            reading.append((waited < 6, pending, name))
    for _, pending, name in sorted(reading, key=lambda r: r[:2]):
        n = min(pending, left)
        if n > 0:
            step.append([name, n])
            left -= n
    return step
    ### END SOLUTION


@Q.also_right
def one_pass_over_a_sorted_list(requests, budget):
    def rank(r):
        if r[1] == 1 and r[2]:
            return (0, 0)
        return (1, -r[3]) if r[3] >= 6 else (2, r[1])

    given, spent = {}, 0
    for r in sorted(requests, key=rank):
        given[r[0]] = min(r[1], budget - spent)
        spent += given[r[0]]
    return [[name, n] for name, n in given.items() if n]


# --- laws ---


def _asked(case, n: int) -> list[list[int]]:
    """Short questions of several people, as ids."""
    rng = random.Random(case["_seed"])
    tokenizer, found = pocket_model()[1], []
    for i in range(n):
        name, word = rng.choice(NAMES), rng.choice(WORDS)
        text = f"The password of {name} is {word}.\nUser: What is the password of {name}?"
        ids = tokenizer.encode(text)
        found.append(ids[: 10 + i % 5])
    return found


def _story(case) -> list[int]:
    rng = random.Random(case["_seed"] + 1)
    text = "".join(
        f"The password of {rng.choice(NAMES)} is {rng.choice(WORDS)}. " for _ in range(30)
    )
    return pocket_model()[1].encode(text)[: case["long"]]


@lru_cache(256)
def _alone(prompt: tuple[int, ...], n_new: int) -> list[int]:
    return generate(pocket_model()[0], list(prompt), n_new, eos=())[0].tolist()


class _Dry:
    """The engine's own scheduler, with a token for nothing in place of the model."""

    def __init__(self, policy, budget):
        self.scheduler = Scheduler(BlockPool(160, 16), policy, budget=budget)

    def add(self, name, prompt, n_new, ends=()):
        request = Request(name, prompt, n_new, ends)
        self.scheduler.add(request)
        return request

    def step(self):
        written = self.scheduler.plan().written
        self.scheduler.commit(dict.fromkeys(written, 1))
        return [(request, 1) for request in written]


def _real(policy, budget):
    return Engine(pocket_model()[0], n_blocks=160, budget=budget, policy=policy)


class _Counted:
    """The answer as a policy of the engine, and what its plans keep of the promises."""

    def __init__(self, answer):
        self.answer, self.waited, self.seen = answer, Counter(), Counter()

    def __call__(self, running, waiting, budget):
        seen = self.seen
        there = {r.id: r for r in sorted((*running, *waiting), key=lambda r: r.arrival)}
        asked = [[n, r.pending, len(r.answer), self.waited[n]] for n, r in there.items()]
        pairs = [(name, n) for name, n in self.answer(asked, budget) if name in there]
        tokens = sum(n for _, n in pairs)
        seen["most"], seen["empty"] = max(seen["most"], tokens), seen["empty"] + (tokens < 1)
        seen["beyond"] += sum(max(0, n - there[name].pending) for name, n in pairs)
        seen["unused"] += tokens < min(budget, sum(r.pending for r in there.values()))
        given = {name for name, n in pairs if n > 0}
        for name, request in there.items():
            seen["writers left out"] += name not in given and len(request.answer) > 0
            self.waited[name] = 0 if name in given else self.waited[name] + 1
            seen["longest"] = max(seen["longest"], self.waited[name])
        return [(there[name], n) for name, n in pairs]


def _served(answer, case, arrivals, make):
    """Serve by the answer's plans. `arrivals`: name, step, prompt, tokens of the answer."""
    policy = _Counted(answer)
    engine = make(policy, case["budget"])
    requests, first, now = {}, {}, 0
    while now < 150 and (len(requests) < len(arrivals) or not engine.scheduler.idle):
        for name, at, prompt, n_new in arrivals:
            if at <= now and name not in requests:
                requests[name] = engine.add(name, prompt, n_new, ends=())
        for request, _ in engine.step():
            first.setdefault(request.id, now)
        now += 1
    return requests, policy.seen, {name: first.get(name, now) - at for name, at, *_ in arrivals}


def _promised(seen, case):
    return {
        "most tokens in a step": AtMost(case["budget"]).of(seen["most"]),
        "tokens given beyond what is pending": AtMost(0).of(seen["beyond"]),
        "empty steps": AtMost(0).of(seen["empty"]),
        "times that somebody who writes was left out of a step": AtMost(0).of(
            seen["writers left out"]
        ),
        "steps that could have had more tokens": AtMost(0).of(seen["unused"]),
    }


def _shows(make):
    def shows(case):
        rows = [f"{name} in step {at} with {len(p)} tokens" for name, at, p, _ in make(case)]
        return f"a budget of {case['budget']}; " + ", ".join(rows[:6]) + ", ..." * (len(rows) > 6)

    return shows


def _law(says, make, quick=()):
    def run(answer, case):
        _, seen, first = _served(answer, case, make(case), _Dry)
        found = _promised(seen, case)
        for name, most in quick:
            found[f"steps that {name} waits for a first token"] = AtMost(most).of(first[name])
        longest = AtMost(PATIENCE).of(seen["longest"])
        return found | {"most steps in a row in which somebody got nothing": longest}

    Q.law(says, shows=_shows(make))(run)


def _users(case, n_new: int = 20) -> list[Any]:
    return [(f"user {i}", i // 2, p, n_new) for i, p in enumerate(_asked(case, 4))]


def _late(case):
    return [
        *_users(case, 18),
        ("the story", 6, _story(case), 3),
        ("late", 7, _asked(case, 6)[5], 6),
    ]


def _coming(case):
    short = [(p * 2)[: case["budget"]] for p in _asked(case, 24)]
    return [("the story", 0, _story(case)[:90], 3)] + [
        (f"user {i}", i, p, 1) for i, p in enumerate(short)
    ]


_law("four users", _users)
_law("a long prompt comes while four users write", lambda case: [
    *_users(case, 18), ("the story", 6, _story(case), 3),
])  # fmt: skip
_law("a short question comes after the long prompt", _late, [("late", 1)])
_law("short questions keep coming", _coming)


@Q.law("steps of their own", shows=lambda case: "plans by themselves")
def _(answer, case):
    """The example, a prompt of one token, one that lost its blocks, and nobody."""
    calls = [
        ([["a", 1, 4, 0], ["b", 300, 0, 2], ["c", 8, 0, 0]], 20),
        ([["a", 1, 4, 0], ["b", 300, 0, PATIENCE], ["c", 8, 0, 0]], 20),
        ([["a", 1, 0, 0], ["b", 1, 3, 0], ["c", 5, 0, 0]], 2),
        ([["a", 1, 0, 0], ["b", 9, 0, PATIENCE], ["c", 1, 1, 0]], 4),
        ([["a", 30, 0, PATIENCE - 1], ["b", 7, 0, 0]], 7),
        ([["a", 9, 5, 1], ["b", 4, 0, 0]], 6),
        ([["a", 1, 3, 0], ["b", 4, 0, 0]], 9),
        ([], 5),
    ]
    seen = {}
    for requests, budget in calls:
        pairs = answer(requests, budget)
        tokens = {name: n for name, n in pairs if n}
        seen[f"schedule({requests}, {budget})"] = sorted(map(list, tokens.items()))
    return seen


@Q.law("the pocket model answers five people as if each were alone", shows=_shows(_late))
def _(answer, case):
    requests, seen, _ = _served(answer, case, _late(case), _real)
    answers = {f"answer of {name}": request.answer for name, request in requests.items()}
    return _promised(seen, case) | {
        name: Near(_alone(tuple(r.prompt), r.max_new)).of(answers[name])
        for name, r in zip(answers, requests.values(), strict=True)
    }


# --- what goes wrong: each changes one thing of this ---


def _plan(
    requests, budget, *, order=lambda r: (r[3] < PATIENCE, r[1]), writers="first", share=None,
    cuts=True, limit=None, over=0, fills=False, writes=lambda r: r[1] == 1 and r[2] > 0,
):  # fmt: skip
    writing = [r for r in requests if writes(r)]
    reading = sorted((r for r in requests if not writes(r)), key=order)
    if writers == "alone" and writing:
        reading = []
    if writers == "wait" and reading:
        writing = []
    groups = (reading, writing) if writers == "last" else (writing, reading)
    step, left = [], budget + over
    for group in groups:
        for name, pending, *_ in group:
            n = min(pending, limit or pending) if group is reading else 1
            if share and group is reading:
                n = min(n, max(1, budget // len(requests)))
            n = min(n, left) if cuts else n
            if n > 0:
                step.append([name, n])
                left -= n
    if fills and step:
        step[-1][1] += max(0, left)
    return step


Q.mistakes(
    _plan,
    {
        "whoever writes waits while somebody reads.": {"writers": "wait"},
        "nobody reads as long as somebody writes.": {"writers": "alone"},
        "prompts come first; who writes gets what is left, which may be nothing.": {
            "writers": "last"
        },
        "prompts are read in the order in which they came: a short one waits for the long one "
        "before it.": {"order": lambda r: 0},
        "the shortest always comes first. As long as short ones come, a long prompt starves.": {
            "order": lambda r: r[1]
        },
        "the longest comes first.": {"order": lambda r: (r[3] < PATIENCE, -r[1])},
        "patience ends a step too late.": {"order": lambda r: (r[3] < PATIENCE + 1, r[1])},
        "who has waited longest comes first, whatever the length.": {
            "order": lambda r: (-r[3], r[1])
        },
        "prompts get equal shares of the budget, and steps are not full.": {"share": True},
        "a prompt gets 8 tokens at most, though there is space for more.": {"limit": 8},
        "a prompt is read whole, whatever the budget says.": {"cuts": False},
        "the last one gets all that is left of the budget, more than it has pending.": {
            "fills": True
        },
        "a step has one token more than the budget.": {"over": 1},
        "whoever has written something counts as writing. Who lost its blocks reads again.": {
            "writes": lambda r: r[2] > 0
        },
    },
)
