"""9.2: who gets how many tokens of the next step, by three rules."""

from __future__ import annotations

import random

from kvlab.course.author import AtMost, Exercise

RULES = ("prefill first", "decode first", "fair")

Q = Exercise(
    "9.2",
    "Who is in the next step?",
    "plan",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
Plan a step (chapter 9, "Who waits?"). `requests` are those that are there, in the order in which they came; each is `[name, pending, written]`: how many of its tokens are there and not computed yet, and how many tokens of its answer are written. A request
**reads** while more than one token is pending, or nothing is written of its answer; else it **writes**, and one token is pending. (One whose blocks were taken away reads again, its own answer too, whatever it has written.) At most `budget` tokens are computed in a step. `rule` is one of these:

- `"prefill first"`: if anybody reads, those who read are in the step and nobody else; else those who write.
- `"decode first"`: if anybody writes, those who write are in the step and nobody else; else those who read.
- `"fair"`: all are in the step, and nobody gets more than an equal share of the budget, `budget // number of requests`, but at least 1.

Within a rule, requests are served in the order in which they came: each gets all its pending tokens, or its share of them, as far as the budget still goes. Return a list of `[name, tokens]` in that order, without those that get nothing; without requests it is empty. About 12 lines.

With the requests `["a", 1, 4]`, `["b", 30, 0]`, `["c", 1, 2]` and a budget of 20, prefill first gives `[["b", 20]]`, decode first `[["a", 1], ["c", 1]]` and fair, whose share is 6, `[["a", 1], ["b", 6], ["c", 1]]`. Your plans are also put to work in hidden traces of requests that come and go:
no step may pass its budget or be empty, and everybody must come to an end.
""",
    hints=(
        "Two questions, one after the other: who is in this step at all, and how far does the budget go among them?",
        "Make the list of those who may be in the step, and the most that one of them may get (the budget, or the share). Then go through it with a number of tokens that are left.",
        'if not requests: return []. reads = lambda r: r[1] > 1 or r[2] == 0. For "prefill first": chosen = [r for r in requests if reads(r)] or requests; for "decode first": chosen = [r for r in requests if not reads(r)] or requests. most = max(1, budget // len(requests)) for "fair", else budget. Then '
        "for name, pending, _ in chosen: n = min(pending, most, left); if n > 0: append [name, n] and take n from left.",
    ),
    size=lambda case: len(case["arrivals"]) * 100 + sum(n + m for _, n, m in case["arrivals"]),
)


@Q.case
def case(rng):
    """Requests that come over time, [step, tokens of the prompt, of the answer], and a budget."""
    n = rng.randint(2, 6)
    arrivals = [[rng.randint(0, 6), rng.choice([1, 2, 5, 9, 30]), rng.randint(1, 6)]
                for _ in range(n)]  # fmt: skip
    arrivals += [[0, rng.randint(25, 40), 4], [0, 3, 6]]
    budget = rng.choice([7, 9, 12, 16])
    return {"arrivals": sorted(arrivals), "budget": budget, "_seed": rng.randrange(2**31)}


@Q.solution
def plan(requests, budget, rule):
    """Return [name, tokens] for each request that is in the step."""
    ### BEGIN SOLUTION
    reading = [r for r in requests if r[1] > 1 or r[2] == 0]
    writing = [r for r in requests if r[1] == 1 and r[2] > 0]
    most, chosen = budget, requests
    if rule == "prefill first":
        chosen = reading or writing
    if rule == "decode first":
        chosen = writing or reading
    if rule == "fair" and requests:
        most = max(1, budget // len(requests))
    step, left = [], budget
    for name, pending, _ in chosen:
        n = min(pending, most, left)
        if n > 0:
            step.append([name, n])
            left -= n
    return step
    ### END SOLUTION


@Q.also_right
def sums_of_what_went_before(requests, budget, rule):
    kinds = {"prefill first": (True, False), "decode first": (False, True)}
    share = budget if rule in kinds else max(1, budget // max(1, len(requests)))
    group = list(requests)
    for kind in kinds.get(rule, ()):
        group = [r for r in requests if (r[1] != 1 or not r[2]) is kind]
        if group:
            break
    wants = [min(r[1], share) for r in group]
    given = [max(0, min(w, budget - sum(wants[:i]))) for i, w in enumerate(wants)]
    return [(r[0], n) for r, n in zip(group, given) if n]


# --- laws ---


def _trace(case, rule, planned):
    """Requests come and go by `planned`; once in a while one loses all that was computed of it."""
    rng, there, coming = random.Random(case["_seed"]), [], list(enumerate(case["arrivals"]))
    for step in range(400):
        while coming and (coming[0][1][0] <= step or not there):
            name, (_, n_prompt, limit) = coming.pop(0)
            there.append({"name": f"r{name}", "pending": n_prompt, "text": n_prompt, "written": 0,
                          "limit": limit, "waited": 0})  # fmt: skip
        if not there:
            return
        if step % 7 == 5:
            lost = rng.choice(there)
            lost["pending"] = lost["text"]
        given = dict(planned([[r["name"], r["pending"], r["written"]] for r in there]))
        for request in there:
            n = min(given.get(request["name"], 0), request["pending"])
            request["pending"] -= n
            request["waited"] = 0 if n else request["waited"] + 1
            if n and not request["pending"]:
                request["written"], request["pending"] = request["written"] + 1, 1
                request["text"] += 1
        there = [r for r in there if r["written"] < r["limit"]]


def _shrunk(differs, requests, budget):
    """The fewest requests, and of those the shortest, with which two plans still differ."""
    smaller = True
    while smaller:
        smaller = False
        tries = [requests[:i] + requests[i + 1 :] for i in range(len(requests))]
        for i, (name, pending, written) in enumerate(requests):
            less = {(2, written)} if pending > 2 else set()
            less |= {(pending, 1)} if written > 1 else set()
            for one in sorted(less):
                tries.append([*requests[:i], [name, *one], *requests[i + 1 :]])
        for some in tries:
            if some and differs(some, budget):
                requests, smaller = some, True
                break
    return requests


def _by_rule(rule):
    def run(answer, case):
        found = []

        def differs(requests, budget):
            return answer(requests, budget, rule) != plan(requests, budget, rule)

        def planned(requests):
            if not found and differs(requests, case["budget"]):
                found.append((_shrunk(differs, requests, case["budget"]), case["budget"], rule))
            return plan(requests, case["budget"], rule)

        _trace(case, rule, planned)
        if not found:
            return {"_call": [], "plans that are other than the rule's": 0}
        requests, budget, rule_ = found[0]
        call = f'plan({requests}, {budget}, "{rule_}")'
        return {"_call": [requests, budget, rule_], call: answer(requests, budget, rule_)}

    def expect(case, outcome):
        if not outcome["_call"]:
            return {"plans that are other than the rule's": 0}
        (call,) = (name for name in outcome if name != "_call")
        return {call: plan(*outcome["_call"])}

    return run, expect


def _shows(case):
    return f"a trace of {len(case['arrivals'])} requests, of which the fewest are left that show it"


for rule in RULES:
    run, expect = _by_rule(rule)
    Q.law(f"what {rule} says", expect=expect, shows=_shows)(run)


@Q.law("no step is too large or empty, all come to an end, and fair lets nobody wait", shows=_shows)
def _(answer, case):
    """Driven by the answer's own plans; needs no right answer."""
    seen, bad = {}, []
    for rule in RULES:
        most, empty, waited = 0, 0, 0

        def planned(requests, rule=rule):
            nonlocal most, empty, waited
            given = [list(pair) for pair in answer(requests, case["budget"], rule)]
            n = sum(n for _, n in given)
            most, empty = max(most, n), empty + (not n)
            waited = max(waited, len(requests) - len(given))
            if not bad and (n > case["budget"] or not n):
                bad[:] = requests, case["budget"], rule
            return given

        _trace(case, rule, planned)
        seen[f"{rule}: most tokens in a step"] = AtMost(case["budget"]).of(most)
        seen[f"{rule}: empty steps"] = AtMost(0).of(empty)
        if rule == "fair" and case["budget"] >= len(case["arrivals"]):
            seen["fair: most requests that were left out of a step"] = AtMost(0).of(waited)
    return seen | {"_call": bad}


def _calls(answer, calls):
    return {f"plan({r}, {b}, {rule!r})": answer(r, b, rule) for r, b, rule in calls}


@Q.law("places that need a look", shows=lambda case: "plans of their own")
def _(answer, case):
    """A prompt of one token, one that lost its blocks, budgets that are too small, and nobody."""
    one, again, two = [["a", 1, 2], ["b", 1, 0]], [["a", 2, 3], ["b", 1, 3]], [["a", 1, 1]] * 2
    small = [[name, 1, 1] for name in "abc"]
    calls = [(some, 10, rule) for some in (one, again) for rule in RULES]
    calls += [(small, 2, rule) for rule in RULES] + [([["a", 9, 0], ["b", 9, 0]], 9, RULES[0])]
    calls += [([["a", 4, 0], ["b", 9, 0]], 9, "fair"), ([], 4, "fair"), ([], 4, RULES[0])]
    calls += [(two[:1], 1, RULES[0]), ([["a", 3, 0], ["b", 3, 0], ["c", 3, 0]], 6, RULES[1])]
    return _calls(answer, calls)


# --- what goes wrong: each changes one thing of this ---


def _plan(
    requests, budget, rule, *, reads=lambda r: r[1] > 1 or r[2] == 0, alone=True, whole=False,
    cuts=True, share=lambda budget, n: max(1, budget // max(1, n)), zero=False, over=0, key=None,
    one=False, fair_kind=None, swapped=False,
):  # fmt: skip
    rule = {"prefill first": "decode first", "decode first": "prefill first"}.get(rule, rule) if (
        swapped
    ) else rule  # fmt: skip
    reading, writing = [r for r in requests if reads(r)], [r for r in requests if not reads(r)]
    most, chosen = budget, list(requests)
    if rule == "prefill first":
        chosen = (reading or writing) if alone else reading + writing
    elif rule == "decode first":
        chosen = (writing or reading) if alone else writing + reading
    elif fair_kind:
        most = share(budget, len(reading)) if fair_kind == "readers" else budget
    else:
        most = share(budget, len(requests))
    chosen = sorted(chosen, key=key) if key else chosen
    step, left = [], budget + over
    for name, pending, _ in chosen[:1] if one and rule == "prefill first" else chosen:
        n = pending if whole else min(pending, most)
        if not cuts and n > left:
            break
        n = n if whole else min(n, left)
        if n > 0 or zero:
            step.append([name, n])
            left -= n
    return step


Q.mistakes(
    _plan,
    {
        "whether somebody reads is told from what is written alone. Who lost its blocks has written "
        "and reads again.": {"reads": lambda r: r[2] == 0},
        "whether somebody reads is told from what is pending alone. A prompt may be one token.": {
            "reads": lambda r: r[1] > 1
        },
        "the others get what is left of the budget. By these two rules they are not in the step.": {
            "alone": False
        },
        "the budget is not looked at: a prompt is computed whole.": {"whole": True},
        "a prompt that does not fit is left out. It gets as many tokens as there are left.": {
            "cuts": False
        },
        "the share of the budget may be 0, and then nobody gets anything. It is 1 at least.": {
            "share": lambda budget, n: budget // max(1, n)
        },
        "requests that get nothing are in the list.": {"zero": True},
        "a step has one token more than the budget.": {"over": 1},
        "the shortest is served first. The order is that in which they came.": {
            "key": lambda r: r[1]
        },
        "only one prompt is read in a step. The next one gets what is left of the budget.": {
            "one": True
        },
        "the share is that of the budget among those who read. All who are there count.": {
            "fair_kind": "readers"
        },
        "with fair, everybody gets all pending tokens as long as the budget goes: the first takes "
        "it all.": {"fair_kind": "none"},
        "prefill first and decode first are swapped.": {"swapped": True},
    },
)
