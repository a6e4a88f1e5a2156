"""5.5: the time to the first token and between tokens, from a log of several requests."""

import collections
import statistics
from itertools import pairwise

from kvlab.course.author import Exercise, Near, NotData, brief

Q = Exercise(
    "5.5",
    "TTFT and TPOT from an event log",
    "latencies",
    points=3,
    minutes=15,
    difficulty=2,
    statement="""
A server writes down what happens, in the order of time: `[seconds, request, what]`, where `what` is `"sent"` (the
prompt came), `"started"` (its prefill began) or `"token"` (a new token was there). Several requests are under way
at once. Return a dict from each request to `[TTFT, TPOT]`, in seconds.

TTFT runs from `sent` to the first token, TPOT is the mean gap between a request's tokens. What is not known yet
is `None`. Roughly 12 lines. For example

`[[0.0, "a", "sent"], [0.2, "a", "started"], [0.5, "a", "token"], [0.6, "b", "sent"], [0.75, "a", "token"]]`

gives `{"a": [0.5, 0.25], "b": [None, None]}`.
""",
    hints=(
        "First sort the events by request. How many gaps lie between N tokens?",
        "For each request: its `sent` time, and the list of its token times. TTFT is the first "
        "token's time less `sent`; TPOT is the time from the first token to the last over N - 1.",
        'sent, came = {}, {}; for at, who, what in events: sent[who] = at if what is "sent", '
        'and came.setdefault(who, []).append(at) if it is "token". No token: [None, None]. One '
        "token: TPOT is None, since there is no gap.",
    ),
    size=lambda case: len(case["events"]),
)


@Q.case
def case(rng):
    """Requests that overlap: one with many tokens, one with two, one with one, one with none."""
    names = rng.sample(["ada", "bo", "cy", "di", "eve", "flo"], 4)
    events = []
    for name, n_tokens in zip(names, (rng.randint(4, 7), 2, 1, 0), strict=True):
        at = rng.uniform(0.1, 1.0)
        events.append([at, name, "sent"])
        at += rng.uniform(0.05, 0.3)
        events.append([at, name, "started"])
        for i in range(n_tokens):
            at += rng.uniform(0.3, 0.9) if i == 0 else rng.uniform(0.02, 0.2)
            events.append([at, name, "token"])
    return {"events": [[round(at, 4), *rest] for at, *rest in sorted(events)]}


@Q.solution
def latencies(events):
    """Return [TTFT, TPOT] of each request."""
    ### BEGIN SOLUTION
    sent, came = {}, {}
    for at, request, what in events:
        if what == "sent":
            sent[request], came[request] = at, []
        elif what == "token":
            came[request].append(at)
    table = {}
    for request, tokens in came.items():
        ttft = tokens[0] - sent[request] if tokens else None
        tpot = (tokens[-1] - tokens[0]) / (len(tokens) - 1) if len(tokens) > 1 else None
        table[request] = [ttft, tpot]
    return table
    ### END SOLUTION


@Q.right
def gap_by_gap(events):
    """Each request by itself, and the mean of the gaps that it has."""
    found = {}
    for name in {who for _, who, _ in events}:
        sent = next(at for at, who, what in events if (who, what) == (name, "sent"))
        came = [at for at, who, what in events if (who, what) == (name, "token")]
        gaps = [b - a for a, b in pairwise(came)]
        found[name] = [came[0] - sent if came else None, sum(gaps) / len(gaps) if gaps else None]
    return found


@Q.also_right
def by_kind(events):
    times = collections.defaultdict(lambda: collections.defaultdict(list))
    for at, who, what in events:
        times[who][what].append(at)
    table = {}
    for who, its in times.items():
        came = its["token"]
        table[who] = [
            min(came) - its["sent"][0] if came else None,
            (max(came) - min(came)) / (len(came) - 1) if len(came) > 1 else None,
        ]
    return table


# --- laws ---


def _table(answer, events):
    """The answer's table; whatever else came is the answer's fault.

    Raises: NotData unless each request that is there has two entries.
    """
    table = answer(events)
    if not isinstance(table, dict):
        raise NotData(
            f"your code returned {brief(table)}; expected a dict of request to two times."
        )
    for name, entry in table.items():
        if not isinstance(entry, list) or len(entry) != 2:
            raise NotData(f"your code returned {brief(entry)} for {name!r}; expected [TTFT, TPOT].")
    return table


def _n_tokens(case):
    """Each request of the log, and how many tokens it has there."""
    found = {who: 0 for _, who, _ in case["events"]}
    for _, who, what in case["events"]:
        found[who] += what == "token"
    return found


@Q.law("TTFT where it is known")
def _(answer, case):
    table = _table(answer, case["events"])
    known = [who for who, n in _n_tokens(case).items() if n > 0]
    return {"TTFT": {who: table.get(who, [None, None])[0] for who in known}}


@Q.law("TPOT where it is known")
def _(answer, case):
    table = _table(answer, case["events"])
    known = [who for who, n in _n_tokens(case).items() if n > 1]
    return {"TPOT": {who: table.get(who, [None, None])[1] for who in known}}


@Q.law("one token has no gap")
def _(answer, case):
    table = _table(answer, case["events"])
    single = [who for who, n in _n_tokens(case).items() if n == 1]
    return {"TPOT of a request with one token": [table.get(who, [0, 0])[1] for who in single]}


@Q.law("a request without a token is there")
def _(answer, case):
    table = _table(answer, case["events"])
    waiting = [who for who, n in _n_tokens(case).items() if n == 0]
    return {
        "the requests of the table": sorted(table),
        "entries of a request without a token": [table.get(who) for who in waiting],
    }


@Q.law(
    "a request that is sent and not started is there",
    shows=lambda case: f"latencies({_not_started(case)})",
)
def _(answer, case):
    table = _table(answer, _not_started(case))
    return {"the requests of the table": sorted(table), "the entry of 'gil'": table.get("gil")}


def _not_started(case):
    """The log, and behind it somebody whose prefill has not begun."""
    return [*case["events"], [round(case["events"][-1][0] + 0.1, 4), "gil", "sent"]]


@Q.law("who else is in the log does not matter")
def _(answer, case):
    """Each request's part of the log, alone."""
    together, alone = _table(answer, case["events"]), {}
    for name in _n_tokens(case):
        alone |= _table(answer, [event for event in case["events"] if event[1] == name])
    return {"latencies": Near(together, atol=1e-6).of(alone), "_together": together}


@Q.law("the hour does not matter")
def _(answer, case):
    before = _table(answer, case["events"])
    later = _table(answer, [[at + 3600.0, *rest] for at, *rest in case["events"]])
    return {"latencies an hour later": Near(before, atol=1e-6).of(later), "_before": before}


@Q.law("the log begins at 0", shows=lambda case: f"latencies({_from_zero(case)})")
def _(answer, case):
    return {"latencies": _table(answer, _from_zero(case))}


_AT_ONCE = [[0.0, who, what] for what in ("sent", "started", "token", "token") for who in "ab"]
_AT_ONCE += [[0.0, "c", "sent"], [0.0, "c", "started"], [0.0, "c", "token"], [0.0, "d", "sent"]]


@Q.law("a time and a gap of 0 are known", shows=lambda case: f"latencies({_AT_ONCE})")
def _(answer, case):
    """Everything comes at once: nobody waits, and 0.0 is not None."""
    return {"latencies": _table(answer, _AT_ONCE)}


@Q.law("a log without events", shows=lambda case: "latencies([])")
def _(answer, case):
    return {"latencies": _table(answer, [])}


def _from_zero(case):
    start = case["events"][0][0]
    return [[round(at - start, 4), *rest] for at, *rest in case["events"]]


# --- what goes wrong: each changes one thing of this ---


def _latencies(
    events,
    *,
    begin="sent",
    ttft=lambda log_began, began, came: came[0] - began,
    tpot=lambda began, came, before: (came[-1] - came[0]) / (len(came) - 1),
    single=None,
    skip_waiting=False,
    entry="sent",
    known=lambda at: at is not None,
):
    """`before` holds, for each token of a request, the time of the log's token before it."""
    began, came, before, last = {}, {}, {}, None
    for at, who, what in events:
        if what == begin:
            began[who] = at
        if what == (begin if begin != "sent" else entry):
            came[who], before[who] = [], []
        elif what == "token":
            came[who].append(at)
            before[who].append(last)
            last = at
    table = {}
    for who, times in came.items():
        if times and known(times[0]) and known(began[who]):
            pace = tpot(began[who], times, before[who]) if len(times) > 1 else single
            table[who] = [ttft(events[0][0], began[who], times), pace]
        elif not skip_waiting:
            table[who] = [None, None]
    return table


def _mean_gap(before, came):
    return statistics.fmean(b - a for a, b in zip(before, came, strict=True) if a is not None)


Q.mistakes(
    _latencies,
    {
        "TTFT is a time of day. It runs from the request's own `sent`: subtract that.": {
            "ttft": lambda log_began, began, came: came[0]
        },
        "all of the time is divided by all of the tokens. The wait for the first token belongs to "
        "TTFT and to nothing else.": {
            "tpot": lambda began, came, before: (came[-1] - began) / len(came)
        },
        "TPOT begins with `sent`. The wait for the first token belongs to TTFT: TPOT is the mean of the gaps between "
        "tokens.": {"tpot": lambda began, came, before: (came[-1] - began) / (len(came) - 1)},
        "TPOT is divided by N. N tokens have N - 1 gaps.": {
            "tpot": lambda began, came, before: (came[-1] - came[0]) / len(came)
        },
        "TTFT starts when the prefill starts. Who waits has waited since the prompt was sent.": {
            "begin": "started"
        },
        "a request is entered when its prefill starts: one that was sent and waits for it is missing. Its "
        "entry is [None, None].": {"entry": "started"},
        "TTFT starts with the log. Each request has its own `sent`.": {
            "ttft": lambda log_began, began, came: came[0] - log_began
        },
        "a time of 0.0 is taken for none: `if at` is false for 0.0. Ask whether it is None.": {
            "known": bool
        },
        "the gaps go across requests: another reader's token ends the gap.": {
            "tpot": lambda began, came, before: _mean_gap(before, came)
        },
        "each gap begins with the log's token before it, of whomever it is. Keep the last token of "
        "each request.": {"tpot": lambda began, came, before: _mean_gap(before[1:], came[1:])},
        "one token has no gap, so its TPOT is not 0 but unknown: None.": {"single": 0.0},
        "a request without a token is missing. It waits: [None, None]. A table without it looks "
        "better than the truth.": {"skip_waiting": True},
        "TPOT is the mean gap: from the first token to the last, over N - 1. A median hides the "
        "pauses.": {
            "tpot": lambda began, came, before: statistics.median(b - a for a, b in pairwise(came))
        },
    },
)
