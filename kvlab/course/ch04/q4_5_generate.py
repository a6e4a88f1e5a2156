"""4.5: the plainest loop there is, which ends. V tokens of the vocabulary."""

from __future__ import annotations

import random

import torch

from kvlab.course.author import AtMost, Exercise, LentFunction, Near
from kvlab.course.author.compare import describe

Q = Exercise(
    "4.5",
    "The naive loop",
    "naive_generate",
    points=4,
    minutes=15,
    difficulty=2,
    statement="""
Write greedy generation as chapter 4 ends with it. `next_logits(ids)` takes a list of token ids, the **whole** text so far, and
gives `logits_V` of the token that comes next. The likeliest one is chosen, of equal ones that with the lowest id, and
put at the end of the text; then the same again.

It ends in one of two ways. `ends` is a list of ids, often a single one, `<eos>`: after a token of these nothing more is
made, and that token is the last one that you return. And at most `limit` new tokens are made. What stands in the prompt
ends nothing. With a `limit` of 0 there are none, and with an empty `ends` the limit alone decides.

Return the new tokens as a list of whole numbers, without the prompt. Call `next_logits` once for each of them and not
once more, and leave the list `ids` as it came. Roughly 8 lines.

If the model always says 5, then 6, then 7, then 5 again, `naive_generate(next_logits, [3], 10, [7])` is `[5, 6, 7]`, and with a
limit of 2 it is `[5, 6]`.
""",
    hints=(
        "What is the text after one round? When do you know that it was the last round: before the "
        "token is made, or after?",
        "text = list(ids) is a copy. A loop of at most `limit` rounds; in each: the logits of the "
        "text, their argmax as an int, append it. Leave the loop after a token that is in `ends`.",
        "for _ in range(limit): token = int(next_logits(text).argmax()); text.append(token); if token "
        "in ends: break. Then return text[len(ids):].",
    ),
    size=lambda case: len(case["ids"]) + case["limit"],
)


V = 61


class Next(LentFunction):
    """A model that is nothing but chance, drawn from the whole text; it counts its calls."""

    def __init__(self, seed):
        super().__init__(lambda ids: _logits(f"{seed} {ids}"))

    def __call__(self, ids):
        if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
            raise ValueError("next_logits takes the text as a list of whole numbers")
        if not 0 <= min(ids) <= max(ids) < V or len(ids) > 200:
            raise ValueError(f"next_logits knows the ids 0 to {V - 1}, and texts of up to 200")
        return super().__call__(ids)


def _logits(text):
    torch_rng = torch.Generator().manual_seed(random.Random(text).randrange(2**31))
    return torch.randn(V, generator=torch_rng, dtype=torch.float64)


@Q.case
def case(rng):
    """The model's first tokens all differ, so that each may be the one that ends."""
    while True:
        drawn = {
            "ids": [rng.randrange(V) for _ in range(rng.randint(2, 6))],
            "limit": rng.randint(5, 8),
            "_seed": rng.randrange(2**31),
        }
        free = naive_generate(Next(drawn["_seed"]), drawn["ids"], drawn["limit"], [])
        own = set(range(V)) - set(free) - set(drawn["ids"])
        if len(set(free)) == len(free) and not set(free) & set(drawn["ids"]) and own:
            return {**drawn, "ends": [free[2], min(own)], "_free": free, "_never": min(own)}


@Q.solution
def naive_generate(next_logits, ids, limit, ends):
    """Return the new tokens, a list: at most `limit`, and none after one that is in `ends`."""
    ### BEGIN SOLUTION
    text = list(ids)
    for _ in range(limit):
        token = int(next_logits(text).argmax())
        text.append(token)
        if token in ends:
            break
    return text[len(ids) :]
    ### END SOLUTION


@Q.also_right
def calls_itself(ask, prompt, most, ending):
    def rest(text, left):
        if left == 0:
            return []
        logits = ask(text).tolist()
        token = logits.index(max(logits))
        return [token, *rest([*text, token], 0 if token in ending else left - 1)]

    return rest(prompt, most)


def ran(answer, case, **other):
    """An answer's tokens, and how often and on how many tokens it called the model."""
    case = {**case, **other}
    lent = Next(case["_seed"])
    new = answer(lent, case["ids"], case["limit"], case["ends"])
    if not isinstance(new, list):
        return {"new tokens": new}
    return {"new tokens": new, "calls": AtMost(len(new)).of(lent.calls)}


def shown(**other):
    """What the answer was called with, where that is not the case's own."""
    return lambda case: describe({**case, **{name: of(case) for name, of in other.items()}})


for says, ends in {
    "it ends with a token of `ends`": lambda case: case["ends"],
    "the id that ends is the second of two": lambda case: case["ends"][::-1],
    "the first new token ends it": lambda case: case["_free"][:1],
    "no token ends it: the limit does": lambda case: [case["_never"]],
    "`ends` is empty": lambda case: [],
    "the last token within the limit would end it anyway": lambda case: case["_free"][-1:],
    "the id that ends stands in the prompt": lambda case: [case["ids"][-1]],
}.items():
    Q.law(says, shows=shown(ends=ends))(
        lambda answer, case, ends=ends: ran(answer, case, ends=ends(case))
    )


@Q.law("a limit of 0, and of 1", shows=shown(limit=lambda case: "0 and 1"))
def _(answer, case):
    none, one = ran(answer, case, limit=0), ran(answer, case, limit=1)
    return {f"{n} with limit 0": v for n, v in none.items() if n[0] != "_"} | {
        f"{n} with limit 1": v for n, v in one.items() if n[0] != "_"
    }


@Q.law(
    "equal logits: the lowest id; one token of prompt",
    shows=lambda case: f"ids {case['ids'][:1]}, limit 3, ends []; two ids tie in each round",
)
def _(answer, case):
    def tied(ids):
        logits_V = torch.zeros(V, dtype=torch.float64)
        logits_V[[5 + len(ids), 3 + len(ids)]] = 2.0
        return logits_V

    return {"new tokens": Near([4, 5, 6]).of(answer(LentFunction(tied), case["ids"][:1], 3, []))}


# --- what goes wrong: each changes one thing of this ---


def _generate(
    next_logits, ids, limit, ends, *, reads=lambda ids, new: ids + new, pick=max, keeps_end=True,
    looks=lambda token, ends: token in ends, rounds=lambda limit, ids: limit, gives=None,
    prompt_ends=False, after=0, once_more=False,
):  # fmt: skip
    new, ended = [], None
    if prompt_ends and set(ids) & set(ends):
        return new
    for i in range(rounds(limit, ids)):
        logits = next_logits(reads(list(ids), new)).tolist()
        best = [j for j, x in enumerate(logits) if x == max(logits)]
        token = pick(best) if pick is not max else best[0]
        if looks(token, ends) and not keeps_end:
            break
        new.append(token)
        if looks(token, ends) and ended is None:
            ended = i
        if ended is not None and i >= ended + after:
            break
    if once_more and new:
        next_logits(list(ids) + new)
    return gives(list(ids), new) if gives else new


Q.mistakes(
    _generate,
    {
        "the prompt is returned as well: the new tokens alone were asked for.": {
            "gives": lambda ids, new: ids + new
        },
        "it does not end: after a token of `ends` nothing more is made.": {
            "looks": lambda token, ends: False
        },
        "the token that ends is left out. It is the last one that you return.": {
            "keeps_end": False
        },
        "it ends one token late: look right after the token is made.": {"after": 1},
        "only the first of `ends` is looked at.": {"looks": lambda token, ends: token in ends[:1]},
        "only the newest token is read. The model knows what it is given: the whole text, each "
        "time.": {"reads": lambda ids, new: new[-1:] or ids},
        "only the new tokens are read once there are some. The prompt belongs to the text.": {
            "reads": lambda ids, new: new or ids
        },
        "the prompt is read again and again, without the new tokens.": {
            "reads": lambda ids, new: ids
        },
        "the limit counts the prompt as well: it is for new tokens.": {
            "rounds": lambda limit, ids: max(0, limit - len(ids))
        },
        "one token too many: `limit` is how many there may be.": {
            "rounds": lambda limit, ids: limit + 1
        },
        "one token too few: `limit` new tokens may be made.": {
            "rounds": lambda limit, ids: max(0, limit - 1)
        },
        "at least one token is made; with a limit of 0 there is none.": {
            "rounds": lambda limit, ids: max(1, limit)
        },
        "a token of the prompt ends it. Only new ones do.": {"prompt_ends": True},
        "of equal logits the last one wins; the lowest id should.": {"pick": lambda best: best[-1]},
        "the model is asked once more after the last token.": {"once_more": True},
    },
)
