"""9.3: a long prompt is read in pieces, beside those who write. B rows of a call, V vocabulary."""

from __future__ import annotations

from kvlab.course.author import AtMost, Exercise
from kvlab.course.ch09._seats import Seats, alone, prompts

Q = Exercise(
    "9.3",
    "A prompt in pieces",
    "serve_in_pieces",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
A long prompt comes while others write, and nobody is to wait for it (chapter 9, "A piece at a time"). The model is that of 9.1, with a seat for each request, whose number is the request's own: `model(rows)` takes a list of `[seat, ids]` and returns logits_BV, and nothing needs to be cleared.

Now a call takes at most `budget` tokens, all rows together, and `budget` is at least the number of requests. Request `i` may be in call number `comes[i]` and in all later ones (the first call is number 0); there is always somebody to serve. In each call

1. everybody who has begun an answer gets one row: the token that was written last;
2. what is left of the budget goes to the prompts, in the order of their numbers, whichever of them came first: each gets as much of what is unread of it as there is space for, and the next one gets what is left after it.

A prompt that is read to its end gives its first token in that same call. What the logits say after a piece that is not the last one is nobody's token: it is thrown away. Always the likeliest token is written, and an answer ends when it has `limits[i]` tokens, one or more. A request that has nothing to be taken in has no row. Return the answers. About 20 lines.

With a budget of 4, two requests of which one writes, and a prompt of 8 tokens for the other, the calls have rows of 1 and 3, 1 and 3, 1 and 2 tokens; the last of them gives the second request its first token.
""",
    hints=(
        "How far has each prompt been read? That is one number for each request, and it says whether the logits of a row mean anything.",
        "In each call: left = budget; first the rows of those that have an answer begun, one token each; then, for the others that are there, prompt[read : read + left], unless that is empty. After the call only rows whose prompt is read to its end get a token.",
        "rows = []; left = budget; for i in there: if answers[i]: rows.append([i, answers[i][-1:]]); left -= 1. Then for i in there: if not answers[i] and left: piece = prompts[i][read[i] : read[i] + left]; rows.append([i, piece]); read[i] += len(piece); "
        "left -= len(piece). After logits_BV = model(rows): for (i, _), row in zip(rows, logits_BV): if read[i] == len(prompts[i]): answers[i].append(int(row.argmax())). there are those with comes[i] <= n_calls that are not done.",
    ),
    size=lambda case: sum(map(len, case["prompts"])) + sum(case["limits"]),
)


@Q.case
def case(rng):
    """The first request writes all the time; later ones are longer than the budget."""
    n, seed = rng.randint(3, 4), rng.randrange(2**31)
    made = prompts(rng, n, 8, 14)
    made[0] = made[0][: rng.randint(2, 3)]
    budget = rng.randint(n + 1, 6)
    limits = [30, *rng.sample([2, 3, 4, 5], n - 1)]
    comes = [0, *sorted(rng.randint(1, 4) for _ in range(n - 1))]
    case = {"prompts": made, "limits": limits, "comes": comes, "budget": budget, "_seed": seed}
    return case


NAMES = ("prompts", "limits", "comes", "budget")


def _pieces(case):
    """Tokens of each row of each call, by request; and in which call each writes its first token."""
    n = len(case["prompts"])
    unread, written, found = [len(p) for p in case["prompts"]], [0] * n, []
    while any(w < limit for w, limit in zip(written, case["limits"], strict=True)):
        left, call = case["budget"], {}
        there = [
            i for i in range(n)
            if case["comes"][i] <= len(found) and written[i] < case["limits"][i]
        ]  # fmt: skip
        for i in [i for i in there if not unread[i]]:
            call[i], left = 1, left - 1
        for i in [i for i in there if unread[i]]:
            if left:
                call[i] = min(unread[i], left)
                unread[i], left = unread[i] - call[i], left - call[i]
        for i in call:
            written[i] += not unread[i]
        found.append([call.get(i, 0) for i in range(n)])
    return found


@Q.solution
def serve_in_pieces(model, prompts, limits, comes, budget):
    """Return each request's answer as a list of ids."""
    ### BEGIN SOLUTION
    answers = [[] for _ in prompts]
    read = [0 for _ in prompts]
    n_calls = 0
    while True:
        open_ones = [i for i in range(len(prompts)) if len(answers[i]) < limits[i]]
        if not open_ones:
            return answers
        there = [i for i in open_ones if comes[i] <= n_calls]
        rows, left = [[i, answers[i][-1:]] for i in there if answers[i]], budget
        left -= len(rows)
        for i in there:
            piece = prompts[i][read[i] : read[i] + left]
            if piece:
                rows.append([i, piece])
                read[i] += len(piece)
                left -= len(piece)
        logits_BV = model(rows)
        n_calls += 1
        for (i, _), row_V in zip(rows, logits_BV, strict=True):
            if read[i] == len(prompts[i]):
                answers[i].append(int(row_V.argmax()))
    ### END SOLUTION


@Q.also_right
def one_number_of_tokens_to_come(model, prompts, limits, comes, budget):
    texts, done, clock = [list(p) for p in prompts], [0] * len(prompts), 0
    goal = [len(p) + n for p, n in zip(prompts, limits)]
    while any(len(t) < g for t, g in zip(texts, goal)):
        who = [i for i, t in enumerate(texts) if len(t) < goal[i] and comes[i] <= clock]
        who.sort(key=lambda i: (len(texts[i]) == len(prompts[i]), i))
        rows, used = [], 0
        for i in who:
            n = min(len(texts[i]) - done[i], budget - used)
            if n > 0:
                rows.append([i, texts[i][done[i] : done[i] + n]])
                used += n
                done[i] += n
        tokens = model(rows).topk(1).indices[:, 0].tolist()
        for (i, _), token in zip(rows, tokens):
            if done[i] == len(texts[i]):
                texts[i].append(token)
        clock += 1
    return [t[len(p) :] for t, p in zip(texts, prompts)]


# --- laws ---


def _driven(answer, case):
    n = len(case["prompts"])
    model = Seats(case["_seed"], n)
    came = answer(model, *(case[name] for name in NAMES))
    came = came if isinstance(came, list) else [came]
    by_request = []
    for call in model.calls:
        tokens = {seat: len(ids) for seat, _, ids in call}
        by_request.append([tokens.get(i, 0) for i in range(n)])
    most = max((sum(call) for call in by_request), default=0)
    seen = {"most tokens in a call": AtMost(case["budget"]).of(most)}
    seen |= {f"answer {i}": said for i, said in enumerate(came)}
    for at, tokens in enumerate(by_request):
        seen[f"tokens of each request in call {at}"] = tokens
    return {**seen, "number of answers": len(came), "calls": len(by_request)}


def _expected(case):
    calls = _pieces(case)
    seen = {"most tokens in a call": AtMost(case["budget"])}
    pairs = zip(case["prompts"], case["limits"], strict=True)
    answers = {f"answer {i}": alone(case["_seed"], p, most) for i, (p, most) in enumerate(pairs)}
    for at, tokens in enumerate(calls):
        seen[f"tokens of each request in call {at}"] = tokens
    return seen | answers | {"number of answers": len(answers), "calls": len(calls)}


def _law(says, change):
    def expect(case, outcome):
        wanted = _expected(change(case))
        # told in this order: too much in a call, the first call that differs, then answers
        return {name: value for name, value in wanted.items() if name in outcome} | {
            name: wanted[name] for name in ("number of answers", "calls")
        }

    def shows(case):
        given = change(case)
        lengths = [len(p) for p in given["prompts"]]
        return (
            f"prompts of {lengths} tokens, limits {given['limits']}, comes {given['comes']}, "
            f"budget {given['budget']}"
        )

    Q.law(says, expect=expect, shows=shows)(lambda answer, case: _driven(answer, change(case)))


def _two(case):
    short = {name: case[name][:2] for name in ("prompts", "limits", "comes")}
    return {**case, **short, "limits": [8, 2], "budget": 4}


_law("one writes while a prompt comes", _two)
_law("several prompts, one after the other", lambda case: case)
_law("two come together", lambda case: {**case, "comes": [0, *[2] * (len(case["comes"]) - 1)]})
_law("a lower number comes later, and its prompt is read first", lambda case: {
    **case, "prompts": [(p * 2)[:n] for p, n in zip(case["prompts"], (1, 6, 12), strict=False)],
    "limits": [8, 2, 2], "comes": [0, 3, 1], "budget": 4,
})  # fmt: skip
_law("all are there from the beginning", lambda case: {**case, "comes": [0] * len(case["comes"])})
_law("a budget of one token for each", lambda case: {**case, "budget": len(case["prompts"])})
_law("a budget that holds every prompt", lambda case: {**case, "budget": 60})
_law("prompts of one token", lambda case: {**case, "prompts": [p[:1] for p in case["prompts"]]})
_law("one request, whose prompt ends with a call", lambda case: {
    **case, "prompts": [(case["prompts"][1] * 2)[: 2 * case["budget"]]], "limits": [3],
    "comes": [0],
})  # fmt: skip
_law("an answer of one token", lambda case: {
    **case, "limits": [30, *[1] * (len(case["limits"]) - 1)],
})  # fmt: skip


# --- what goes wrong: each changes one thing of this ---


def _serve(
    model, prompts, limits, comes, budget, *, unread_speak=False, prompts_first=False, counts=True,
    one_prompt=False, starts_again=False, whole=False, skips=0, waits=0, stops=False, more=0,
    order=lambda i, comes: i,
):  # fmt: skip
    n, n_calls = len(prompts), 0
    answers, read = [[] for _ in prompts], [0] * n
    while any(len(a) < limit for a, limit in zip(answers, limits, strict=True)):
        there = [i for i in range(n) if comes[i] in range(n_calls - waits + 1) or not comes[i]]
        there = [i for i in there if len(answers[i]) < limits[i]]
        reading = [i for i in there if read[i] < len(prompts[i])]
        reading.sort(key=lambda i: order(i, comes))
        writing = [i for i in there if answers[i] and not (stops and reading)]
        rows, left = [], budget + more

        def write(writing=writing, rows=rows, reading=reading):
            nonlocal left
            for i in writing:
                if left > 0 and i not in reading:
                    rows.append([i, answers[i][-1:]])
                    left -= counts

        def take(reading=reading, rows=rows):
            nonlocal left
            for i in reading[:1] if one_prompt else reading:
                start = 0 if starts_again else read[i]
                end = len(prompts[i]) if whole else read[i] + left
                piece = prompts[i][start:end]
                if piece and (left > 0 or whole):
                    rows.append([i, piece])
                    left -= min(len(prompts[i]), end) - read[i]
                    read[i] = min(len(prompts[i]), end + skips)

        for step in (take, write) if prompts_first else (write, take):
            step()
        n_calls += 1
        for (i, _), row in zip(rows, model(rows), strict=True):
            if unread_speak or read[i] == len(prompts[i]):
                answers[i].append(int(row.argmax()))
    return [a[:limit] for a, limit in zip(answers, limits, strict=True)]


Q.mistakes(
    _serve,
    {
        "a piece that is not the last one gives a token too. What follows an unfinished prompt is "
        "the prompt.": {"unread_speak": True},
        "prompts come first, and those who write get what is left.": {"prompts_first": True},
        "those who write are not counted: their tokens and the pieces together pass the budget.": {
            "counts": False
        },
        "only one prompt is read in a call. What is left of the budget belongs to the next.": {
            "one_prompt": True
        },
        "prompts are read in the order in which they came; that of their numbers was asked for.": {
            "order": lambda i, comes: comes[i]
        },
        "a piece begins at the prompt's first token again. What was read lies in the seat.": {
            "starts_again": True
        },
        "the prompt is read whole, however long it is.": {"whole": True},
        "a token is left out between two pieces.": {"skips": 1},
        "a request may be in call number comes[i] already.": {"waits": 1},
        "whoever writes waits while a prompt is read. That is what pieces are there to avoid.": {
            "stops": True
        },
        "a call has one token more than the budget.": {"more": 1},
    },
)
