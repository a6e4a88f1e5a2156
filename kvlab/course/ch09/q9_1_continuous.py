"""9.1: who ends leaves, and who waits takes the seat at once. B rows of a call, V vocabulary."""

from __future__ import annotations

from kvlab.course.author import Exercise
from kvlab.course.ch09._seats import Seats, alone, prompts

Q = Exercise(
    "9.1",
    "Continuous batching",
    "serve",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
Serve many requests with one model (chapter 9, "A seat that is free is taken"). `prompts` is a list of lists of ids, `limits` says how many tokens each answer may have (at least one). The model has `n_seats` seats, numbered from 0,
and each holds the keys and values of one text:

- `model(rows)` is one call. A row is `[seat, ids]`: the ids are taken in behind what the seat holds. It returns logits_BV, one row for each, which say what comes after its last id. A seat has at most one row in a call, and a call has at least one row.
- `model.clear(seat)` empties a seat. In the beginning all are empty; who gets up leaves its keys and values behind.

Before each call, free seats are given to those who wait, in the order of `prompts`. Then **everybody who has a seat** gets a row: its whole prompt the first time, and after that the token that was written last. Always the likeliest token is written. An answer ends with
`eos`, which is its last token then, or when it has its limit, and its seat is free for the very next call; nobody else's row waits for that. Return the answers, in the order of `prompts`. About 15 lines.

With two seats, prompts of 5, 3 and 4 tokens and answers of 2, 4 and 1 tokens, the calls have rows of 5 and 3 tokens, of 1 and 1, of 4 and 1 (the third prompt has the first one's seat), and of 1.
""",
    hints=(
        "What has to be remembered from one call to the next: who sits where, who waits, and what everybody has written. When may somebody who waits sit down?",
        "seated = {} maps a seat to a request. Loop while somebody waits or sits: fill the free seats (clear them first), make the rows, call, append each row's argmax to its answer, and delete the seats of those who are done.",
        "for seat in range(n_seats): if seat not in seated and waiting: model.clear(seat); seated[seat] = waiting.pop(0). rows = [[seat, answers[i][-1:] or prompts[i]] for seat, i in seated.items()]; logits_BV = model(rows); for (seat, _), row in "
        "zip(rows, logits_BV): i = seated[seat]; answers[i].append(int(row.argmax())); if answers[i][-1] == eos or len(answers[i]) == limits[i]: del seated[seat].",
    ),
    size=lambda case: sum(map(len, case["prompts"])) + sum(case["limits"]),
)


@Q.case
def case(rng):
    """Some answers end at eos and some at their limit; those who come later find seats at once."""
    while True:
        seed, n = rng.randrange(2**31), rng.randint(5, 6)
        given = {"prompts": prompts(rng, n), "limits": [rng.randint(2, 7) for _ in range(n)]}
        free = [alone(seed, p, most) for p, most in zip(*given.values(), strict=True)]
        middle = [t for said in free for t in said[1:-1] if all(s[0] != t for s in free)]
        if not middle:
            continue
        case = {**given, "eos": rng.choice(middle), "n_seats": rng.randint(2, 3), "_seed": seed}
        lengths = [len(said) for said in _alone(case)]
        short = [a < b for a, b in zip(lengths, case["limits"], strict=True)]
        mixed = len(set(lengths)) > 2 and any(short) and not all(short)
        if mixed and _sizes(case, lengths) != _sizes(case, lengths, static=True):
            return case


def _alone(case):
    pairs = zip(case["prompts"], case["limits"], strict=True)
    return [alone(case["_seed"], prompt, most, case["eos"]) for prompt, most in pairs]


def _sizes(case, lengths, static=False):
    """Tokens of each row of each call, for answers of these lengths."""
    waiting, seated, found = list(range(len(lengths))), {}, []
    while waiting or seated:
        if not (static and seated):
            while waiting and len(seated) < case["n_seats"]:
                seated[waiting.pop(0)] = 0
        rows = [1 if done else len(case["prompts"][i]) for i, done in seated.items()]
        found.append(sorted(rows, reverse=True))
        seated = {i: done + 1 for i, done in seated.items() if done + 1 < lengths[i]}
    return found


@Q.solution
def serve(model, prompts, limits, eos, n_seats):
    """Return each request's answer as a list of ids."""
    ### BEGIN SOLUTION
    answers = [[] for _ in prompts]
    waiting = list(range(len(prompts)))
    seated = {}
    while waiting or seated:
        for seat in range(n_seats):
            if seat not in seated and waiting:
                model.clear(seat)
                seated[seat] = waiting.pop(0)
        rows = [[seat, answers[i][-1:] or prompts[i]] for seat, i in seated.items()]
        logits_BV = model(rows)
        for (seat, _), row_V in zip(rows, logits_BV, strict=True):
            i = seated[seat]
            answers[i].append(int(row_V.argmax()))
            if answers[i][-1] == eos or len(answers[i]) == limits[i]:
                del seated[seat]
    return answers
    ### END SOLUTION


@Q.also_right
def seats_as_a_list(model, prompts, limits, eos, n_seats):
    texts, at, coming = [list(p) for p in prompts], [None] * n_seats, iter(range(len(prompts)))
    while True:
        for s in reversed(range(n_seats)):
            if at[s] is None:
                at[s] = next(coming, None)
        rows = []
        for s, who in enumerate(at):
            if who is not None:
                new = len(texts[who]) == len(prompts[who])
                rows.append([s, prompts[who] if new else [texts[who][-1]]])
        if not rows:
            return [text[len(p) :] for text, p in zip(texts, prompts)]
        best = model(rows).max(-1).indices.tolist()
        for (s, _), token in zip(rows, best):
            text, n = texts[at[s]], limits[at[s]]
            text.append(token)
            if token == eos or len(text) - len(prompts[at[s]]) >= n:
                model.clear(s)
                at[s] = None


# --- laws ---


def _driven(answer, case):
    model = Seats(case["_seed"], case["n_seats"])
    given = (case[name] for name in ("prompts", "limits", "eos", "n_seats"))
    came = answer(model, *given)
    came = came if isinstance(came, list) else [came]
    seen = {"number of answers": len(came)}
    seen |= {f"answer {i}": said for i, said in enumerate(came)}
    return {**seen, "tokens of the rows of each call": model.sizes}


def _law(says, change=lambda case: case):
    def expect(case, _outcome):
        changed = change(case)
        answers = _alone(changed)
        seen = {"number of answers": len(answers)}
        seen |= {f"answer {i}": said for i, said in enumerate(answers)}
        sizes = _sizes(changed, [len(said) for said in answers])
        return {**seen, "tokens of the rows of each call": sizes}

    def shows(case):
        given = change(case)
        lengths = [len(p) for p in given["prompts"]]
        return (
            f"{given['n_seats']} seats, prompts of {lengths} tokens, limits {given['limits']}, "
            f"eos {given['eos']}"
        )

    Q.law(says, expect=expect, shows=shows)(lambda answer, case: _driven(answer, change(case)))


def _first(case, n):
    return {**case, "prompts": case["prompts"][:n], "limits": case["limits"][:n]}


_law("one request", lambda case: _first(case, 1))
_law("the same tokens as alone, in as few calls", lambda case: case)
_law("nobody ends early", lambda case: {**case, "eos": -1})
_law("one seat: one after the other", lambda case: {**_first(case, 3), "n_seats": 1})
_law("more seats than requests", lambda case: {**case, "n_seats": len(case["prompts"]) + 1})
_law("answers of one token", lambda case: {**case, "limits": [1] * len(case["limits"])})
_law("an answer that is eos at once", lambda case: {
    **case, "eos": alone(case["_seed"], case["prompts"][0], 1)[0],
})  # fmt: skip
_law("prompts of one token", lambda case: {**case, "prompts": [p[:1] for p in case["prompts"]]})
_law("no request", lambda case: _first(case, 0))


# --- what goes wrong: each changes one thing of this ---


def _serve(
    model, prompts, limits, eos, n_seats, *, clears=True, static=False, padded=False, lingers=0,
    order=lambda answers, ended: answers, apart=False, next_one=0, whole="", shows=True,
    ends=True, over=0, feeds=-1,
):  # fmt: skip
    answers, ended = [[] for _ in prompts], []
    waiting, seated, left = list(range(len(prompts))), {}, {}
    while waiting or seated:
        if not (static and seated):
            for seat in range(n_seats):
                if seat not in seated and waiting:
                    if clears:
                        model.clear(seat)
                    seated[seat] = waiting.pop(next_one)
        rows = []
        for seat, i in seated.items():
            if padded and not answers[i]:
                longest = max(len(prompts[j]) for j in seated.values() if not answers[j])
                rows.append([seat, [0] * (longest - len(prompts[i])) + prompts[i]])
            elif whole:
                if whole == "cleared":
                    model.clear(seat)
                rows.append([seat, prompts[i] + answers[i]])
            else:
                rows.append([seat, [answers[i][feeds]] if answers[i] else prompts[i]])
        calls = [[row] for row in rows] if apart else [rows]
        best = [int(row.argmax()) for call in calls for row in model(call)]
        for (seat, _), token in zip(rows, best, strict=True):
            i = seated[seat]
            if i in left:
                left[i] -= 1
            else:
                answers[i].append(token)
            done = (ends and answers[i][-1] == eos) or len(answers[i]) == limits[i] + over
            if done and left.setdefault(i, lingers) == 0:
                ended.append(i)
                del seated[seat]
    answers = [[t for t in said if shows or t != eos] for said in answers]
    return order(answers, ended)


Q.mistakes(
    _serve,
    {
        "a seat is not cleared: the next request reads the keys of the one who sat there before.": {
            "clears": False
        },
        "nobody sits down before the whole batch has ended. A seat is free for the next call.": {
            "static": True
        },
        "prompts are padded to the longest of their call, and the padding is taken in as "
        "tokens. Rows may be of different lengths.": {"padded": True},
        "who is done stays in the call for one more row.": {"lingers": 1},
        "the answers come in the order in which they ended; that of the prompts was asked for.": {
            "order": lambda answers, ended: [answers[i] for i in ended]
        },
        "every row is a call of its own. One call takes all rows.": {"apart": True},
        "who came last sits down first. Seats are given in the order of the prompts.": {
            "next_one": -1
        },
        "the whole text is taken in again in each call. Its keys and values are in the seat.": {
            "whole": "cleared"
        },
        "the whole text is taken in again in each call, behind what the seat holds of it. Only the "
        "token that was written last is new.": {"whole": "behind"},
        "eos belongs to the answer, as its last token.": {"shows": False},
        "the answer goes on behind eos.": {"ends": False},
        "an answer has a token more than its limit.": {"over": 1},
        "the first token of the answer is taken in again and again; the latest is asked for.": {
            "feeds": 0
        },
    },
)
