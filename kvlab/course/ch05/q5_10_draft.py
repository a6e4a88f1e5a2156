"""5.10: a draft of an answer, checked in one call. V vocabulary, S tokens of the call."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import torch

from kvlab.course.author import Exercise, LentModel, pocket_model, tiny_model

Q = Exercise(
    "5.10",
    "Check a draft",
    "check_draft",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
Something cheap has guessed how the answer to a prompt begins (chapter 5, "Several known tokens in one call"). Let the model say how much of
that it would have written itself, in **one call**. (One call and no cache: 7.8 makes the whole loop of it, with a cache that has to forget.)

`prompt` and `draft` are lists of ids; the draft may be empty. `model(tokens_BS, pos_BS)` reads tokens that stand at the positions `pos_BS` (0 is
the first token of the text), and returns logits_BSV. Return what the call settles of the answer, as a list of ids: what a loop that always takes the
likeliest token would have written itself, as far as these logits tell. That is

- the draft's tokens up to the first one that the loop would not have written,
- and behind them one token more, the model's own: in the place of the wrong one, or after the last one where all are right.

The token `eos` ends an answer. Where the list comes to it, it is the last token, and nothing stands behind it. (In a prompt it
ends nothing.) About 8 lines.

If the loop would write 7, 8, 9, 4, then the draft `[7, 8, 5, 4]` gives `[7, 8, 9]`, and `[7, 8, 9]` gives `[7, 8, 9, 4]`.

**Predict first:** the pocket model is asked for the capital of France, and the draft is an answer to another question, " The capital of Italy is
Rome." How many tokens does the call settle, and which is the last? How many calls would the plain loop have made for them? Then see, in a cell of its own (the last cases are the pocket
model's as well):

```python
import kvlab
model, tokenizer = kvlab.load("pocket")
prompt = tokenizer.encode("User: What is the capital of France?\\nAssistant:")
draft = tokenizer.encode(" The capital of Italy is Rome.", special=False)
tokenizer.pieces(check_draft(model, prompt, draft, model.config.eos_ids[0]))
```
""",
    hints=(
        "The logits after a token score the one that follows it. After which tokens do they speak about the draft's, and "
        "after which one about what follows the draft? And what have those seen that come after a wrong token?",
        "Hand over prompt + draft in one call, at positions 0, 1, ... Where the logits are likeliest, from position len(prompt) - 1 on, are "
        "the model's own tokens: one for each of the draft, and one more. Take them in turn, up to the first that is not the draft's, which "
        "still counts.",
        "text = prompt + draft; logits_BSV = model(torch.tensor([text]), torch.arange(len(text))[None]); own = "
        "logits_BSV[0, len(prompt) - 1 :].argmax(-1).tolist(). Then for i, token in enumerate(own): append token to the answer, "
        "and stop where token == eos, or i == len(draft), or token != draft[i].",
    ),
    imports=("torch",),
    size=lambda case: len(case["prompt"]) + len(case["draft"]),
)
_tiny = lru_cache(8)(tiny_model)  # one model a case, of which nothing is changed
N_FREE = 6


@Q.case
def case(rng):
    """A draft that is wrong in its middle, and that the model would go on with as the draft does."""
    while True:
        seed = rng.randrange(2**31)
        drawn, model = random.Random(seed), _tiny(seed)
        prompt = [drawn.randrange(61) for _ in range(rng.randint(3, 6))]
        free = _written(model, prompt, N_FREE)
        n_right = rng.randint(1, 3)
        wrong = rng.choice([token for token in range(61) if token not in (*free, *prompt)])
        begun = [*free[:n_right], wrong]
        behind = _written(model, [*prompt, *begun], 2)
        spare = [token for token in range(61) if token not in (*free, *behind, *prompt, wrong)]
        told = free[n_right + 1] != behind[0] and prompt[0] not in free
        if told and len(set(free)) == N_FREE:
            made = {"prompt": prompt, "draft": [*begun, *behind]}
            return {**made, "eos": rng.choice(spare), "_seed": seed}


def _written(model: Any, prompt: list[int], n_new: int) -> list[int]:
    """What the model writes behind a prompt, the whole text anew for each token."""
    text = list(prompt)
    with torch.inference_mode():
        for _ in range(n_new):
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


@Q.solution
def check_draft(model, prompt, draft, eos):
    """Return what one call settles of the answer: right tokens of the draft, and the model's own."""
    ### BEGIN SOLUTION
    text = prompt + draft
    logits_BSV = model(torch.tensor([text]), torch.arange(len(text))[None])
    own = logits_BSV[0, len(prompt) - 1 :].argmax(-1).tolist()
    answer = []
    for i, token in enumerate(own):
        answer.append(token)
        if token == eos or i == len(draft) or token != draft[i]:
            return answer
    ### END SOLUTION


@Q.right
def token_by_token(model, prompt, draft, eos):
    """The loop that knows no draft, stopped where the draft is wrong or ends."""
    said = []
    while True:
        tokens_BS = torch.tensor([[*prompt, *said]])
        pos_BS = torch.arange(tokens_BS.shape[1])[None]
        said.append(int(model(tokens_BS, pos_BS)[0, -1].argmax()))
        settled = len(said) > len(draft) or said[-1] != draft[len(said) - 1]
        if settled or said[-1] == eos:
            return said


@Q.also_right
def longest_common_beginning(model, prompt, draft, eos):
    both = torch.tensor(list(prompt) + list(draft)).unsqueeze(0)
    where = torch.tensor([list(range(both.size(1)))])
    best = model(both, where).squeeze(0).max(dim=1).indices[-1 - len(draft) :]
    same = torch.eq(best[: len(draft)], both[0, len(prompt) :]).long().cumprod(0)
    settled = [int(token) for token in best[: int(same.sum()) + 1]]
    return settled[: settled.index(eos) + 1] if eos in settled else settled


# --- laws ---


def _driven(answer, what, case) -> dict[str, Any]:
    """What came of a draft, and which positions each call read."""
    inner, *given = what(case)
    model = LentModel(inner)
    settled = answer(model, *given)
    return {
        "tokens that the call settles": settled,
        "positions of the tokens read, call by call": [places for _, places in model.calls],
    }


def _of_right(what):
    """The tokens of the slow way, and the positions of one call."""

    def expected(case, _outcome):
        inner, *given = what(case)
        return {
            "tokens that the call settles": token_by_token(LentModel(inner), *given),
            "positions of the tokens read, call by call": [[*range(len(given[0]) + len(given[1]))]],
        }

    return expected


def _drawn(case):
    return _tiny(case["_seed"]), case["prompt"], case["draft"], case["eos"]


def _from(give):
    """A law's prompt, draft and eos, of the prompt, what the model writes, and an id it never does."""

    def what(case):
        inner, prompt = _tiny(case["_seed"]), case["prompt"]
        return inner, *give(prompt, _written(inner, prompt, N_FREE), case["eos"])

    return what


def _one_token(case):
    inner, prompt = _tiny(case["_seed"]), case["prompt"][:1]
    return inner, prompt, _written(inner, prompt, 2), -1


CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin"}


def _capitals(which):
    """The right answer to a question, or the answer to the same about another country."""

    def what(case):
        countries = random.Random(case["_seed"]).sample(sorted(CAPITALS), 2)
        inner, tokenizer = pocket_model()
        eos, told = inner.config.eos_ids[0], countries[which]
        prompt = tokenizer.encode(f"User: What is the capital of {countries[0]}?\nAssistant:")
        answer = f" The capital of {told} is {CAPITALS[told]}."
        return inner, prompt, [*tokenizer.encode(answer, special=False), eos], eos

    return what


for says, what in {
    "a draft that is wrong in its middle, in one call": _drawn,
    "all of the draft is right": _from(lambda prompt, free, never: (prompt, free[:3], never)),
    "no draft": _from(lambda prompt, free, never: (prompt, [], never)),
    "wrong at once": _from(lambda prompt, free, never: (prompt, [never, *free[1:3]], -1)),
    "wrong at its end": _from(lambda prompt, free, never: (prompt, [*free[:2], never], -1)),
    "a prompt of one token": _one_token,
    "an eos that is right, with right tokens behind it": _from(
        lambda prompt, free, never: (prompt, free[:5], free[2])
    ),
    "an eos that is right, at the end of the draft": _from(
        lambda prompt, free, never: (prompt, free[:3], free[2])
    ),
    "an eos that is wrong": _from(
        lambda prompt, free, never: (prompt, [free[0], never, *free[2:4]], never)
    ),
    "an eos of the model's own, in the place of a wrong token": _from(
        lambda prompt, free, never: (prompt, [free[0], never, *free[2:4]], free[1])
    ),
    "an eos of the model's own, behind the draft": _from(
        lambda prompt, free, never: (prompt, free[:2], free[2])
    ),
    "an eos in the prompt": _from(lambda prompt, free, never: (prompt, free[:3], prompt[0])),
    "the pocket model, and the right answer": _capitals(0),
    "the pocket model, and the answer about another country": _capitals(1),
}.items():
    Q.law(says, expect=_of_right(what))(lambda answer, case, what=what: _driven(answer, what, case))


# --- what goes wrong: each changes one thing of this ---


def _check(
    model, prompt, draft, eos, *, first=-1, fed=lambda text: text, at=lambda P, n: list(range(n)),
    settles=lambda own, draft, n, eos: own[: n + 1], upto=lambda at: at + 1,
):  # fmt: skip
    text = fed(prompt + draft) if draft else prompt
    pos_BS = torch.tensor([at(len(prompt), len(text))])
    own = model(torch.tensor([text]), pos_BS)[0].argmax(-1).tolist()[len(prompt) + first :]
    agree = [token == guess for token, guess in zip(own, draft, strict=False)]
    n = agree.index(False) if False in agree else len(agree)
    said = settles(own, draft, n, eos)
    return said[: upto(said.index(eos))] if eos in said else said


def _two_calls(model, prompt, draft, eos):
    P, held = len(prompt), model.new_cache(1, len(prompt) + len(draft))
    logits_SV = model(torch.tensor([prompt]), torch.arange(P)[None], held)[0]
    if draft:
        pos_BS = torch.arange(P, P + len(draft))[None]
        logits_SV = torch.cat((logits_SV, model(torch.tensor([draft]), pos_BS, held)[0]))
    return _check(lambda *_: logits_SV[None], prompt, draft, eos)


def _ends_unasked(own, draft, n, eos):
    return [*draft[:n], eos] if eos in draft[n : n + 1] else own[: n + 1]


Q.mistakes(
    _check,
    {
        "a token of the draft is compared with the logits after it, which score the one that follows. Whether it is right "
        "say the logits after the token before it.": {"first": 0},
        "all tokens that agree are counted, those behind a wrong one among them. They do not count: the logits there have "
        "seen the wrong token.": {
            "settles": lambda own, draft, n, eos: own[: sum(map(int.__eq__, own, draft)) + 1]
        },
        "the model's own token is left out. The logits that refuse a token name the right one, and those after the draft "
        "the next one.": {"settles": lambda own, draft, n, eos: own[:n]},
        "where all of the draft is right, one token more is settled: the logits after its last token score what follows.": {
            "settles": lambda own, draft, n, eos: own[: min(n + 1, len(draft))]
        },
        "the model's tokens behind the wrong one are taken as well. The logits there have seen the wrong token.": {
            "settles": lambda own, draft, n, eos: own
        },
        "tokens of the draft that agree are kept behind a wrong one. They do not count: the logits there have seen it.": {
            "settles": lambda own, draft, n, eos: [a for a, b in zip(own, draft, strict=False) if a == b] + own[-1:]
        },
        "the draft's last token is not handed over. The logits after it name one token more, where all of the draft is right.": {
            "fed": lambda text: text[:-1]
        },
        "the model's own token is taken from the last logits, which have seen the wrong one. Those in front of the wrong "
        "token name the right one.": {"settles": lambda own, draft, n, eos: [*own[:n], own[-1]]},
        "the wrong token is kept, with the model's own behind it. The model's own stands in its place.": {
            "settles": lambda own, draft, n, eos: [*draft[: n + 1], own[n]]
        },
        "the draft is believed as it is, and one token put behind it. Compare it with what the model would have written.": {
            "settles": lambda own, draft, n, eos: [*draft, own[-1]]
        },
        "one wrong token makes the whole draft lost. Those in front of it are right, and stay.": {
            "settles": lambda own, draft, n, eos: own if n == len(draft) else own[:1]
        },
        "the answer goes on behind eos.": {"upto": lambda at: None},
        "eos belongs to the answer, as its last token.": {"upto": lambda at: at},
        "an eos of the draft ends the answer, though the model would have written another token there.": {
            "settles": _ends_unasked
        },
        "the model is called for each token. The draft is known, so one call can take in all of it.": (
            lambda *given: token_by_token(*given)
        ),
        "the prompt and the draft go in by two calls. Both are known before the first one: read them together.": _two_calls,
        "the draft's positions begin at 0 again. They go on where the prompt ends.": {
            "at": lambda P, n: [*range(P), *range(n - P)]
        },
    },
)  # fmt: skip
