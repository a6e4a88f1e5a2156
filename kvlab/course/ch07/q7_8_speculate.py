"""7.8: guesses checked in one call, and the same tokens. P prompt tokens, V vocabulary.

Long because an honest check of the same guesses is a part of the question.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import torch

from kvlab.course.author import AtMost, Exercise, LentFunction, named, pocket_model, tiny_model
from kvlab.course.ch06.q6_8_read_once import Model
from kvlab.measure.uncached import generate_uncached

Q = Exercise(
    "7.8",
    "Guess, check, rewind",
    "speculate",
    points=6,
    minutes=35,
    difficulty=4,
    statement="""
Write greedy speculative decoding (chapter 7, "Guess several, check them in one call"): the same tokens as the plain loop, in fewer calls of the model. (5.10 checks a single draft, in one call; here that call is a step of a loop, with a cache in which wrong guesses must not stay.) `prompt` is a list of ids. As in 6.8, `model.new_cache(1, capacity)` makes a cache, `model(tokens_BS, pos_BS, cache)` takes in
tokens at their positions and returns logits_BSV, one row for each of them, and `cache.rewind(length)` forgets all tokens from `length` on. `draft(text)` gets all ids so far, prompt and answer, and
returns a list of guesses for the next ones; it may be empty.

- The first call takes in the prompt and gives the first new token.
- Each further call takes in the newest token **together with the guesses**. A guess is accepted if all guesses before it were and the model itself would have chosen it. After the accepted ones comes one more token for nothing: the model's own choice, which stands where the first wrong guess stood, or after the last right one.
- Of the guesses only so many are taken in as can be used: a call never has more of them than the tokens that are still missing, less the one that comes by itself.
- What the wrong guesses left in the cache is forgotten before the next call.
- The answer ends with `eos`, which is its last token then, and has `n_new` tokens at most, one or more. What stands after `eos` is not used, whoever guessed it.

Return two lists, `(tokens, accepted)`: the new tokens, and for each call but the first the number of guesses that became part of the answer. About 20 lines.

If after the newest token 7 the guesses are 1, 2, 3 and the model says 1, 2, 5 after 7, 1 and 2, then the call brings 1, 2, 5, and its entry in `accepted` is 2. The last cases are the pocket model's.
""",
    hints=(
        "Which row of the logits says what should stand in the place of the first guess? And how many tokens does the cache hold when the next call begins, the newest token not being among them?",
        "Take in [newest, *guesses] at the positions from len(prompt) + len(new) - 1 on; own = logits[0].argmax(-1).tolist(). Count how many guesses equal own from the beginning; what came is own[: count + 1]. Cut it after eos, add "
        "it to the answer, and rewind to len(prompt) + len(new) - 1.",
        "new = [first]; while len(new) < n_new and new[-1] != eos: guesses = draft(prompt + new)[: n_new - len(new) - 1]; own = ...; right = 0; while right < len(guesses) and guesses[right] == own[right]: "
        "right += 1; came = own[: right + 1]; if eos in came: came = came[: came.index(eos) + 1]; new += came; accepted.append(min(right, len(came))); cache.rewind(...).",
    ),
    imports=("torch",),
    size=lambda case: len(case["prompt"]) + case["n_new"],
)


@Q.case
def case(rng):
    """A text in which no token stands twice near its end, and guesses of which some are right."""
    while True:
        seed = rng.randrange(2**31)
        drawn = random.Random(seed)
        prompt = [drawn.randrange(61) for _ in range(rng.randint(4, 9))]
        n_new = rng.randint(9, 12)
        said = _plain(tiny_model(seed), prompt, n_new + 6, -1)
        if len(set(said[4:n_new])) >= 4 and said[0] != said[1]:
            return {"prompt": prompt, "n_new": n_new, "_said": said, "_seed": seed}


def _plain(model: Any, prompt: list[int], n_new: int, eos: int) -> list[int]:
    """The plain loop: the whole text at each step. What the pocket model says is asked once."""
    if model is pocket_model()[0]:
        said = _pocket_says(tuple(prompt), n_new)
    else:
        said = generate_uncached(model, torch.tensor([prompt]), n_new)[0].tolist()
    return said[: said.index(eos) + 1] if eos in said else said


@Q.solution
def speculate(model, prompt, draft, n_new, eos):
    """Return the new tokens, and how many guesses each call but the first accepted."""
    ### BEGIN SOLUTION
    cache = model.new_cache(1, len(prompt) + n_new)

    def read(ids, start):
        pos_BS = torch.arange(start, start + len(ids))[None]
        return model(torch.tensor([ids]), pos_BS, cache)[0].argmax(-1).tolist()

    new, accepted = read(prompt, 0)[-1:], []
    while len(new) < n_new and new[-1] != eos:
        guesses = draft(prompt + new)[: n_new - len(new) - 1]
        own = read([new[-1], *guesses], len(prompt) + len(new) - 1)
        right = 0
        while right < len(guesses) and guesses[right] == own[right]:
            right += 1
        came = own[: right + 1]
        if eos in came:
            came = came[: came.index(eos) + 1]
        new += came
        accepted.append(min(right, len(came)))
        cache.rewind(len(prompt) + len(new) - 1)
    return new, accepted
    ### END SOLUTION


@Q.also_right
def text_and_what_is_held(model, prompt, draft, n_new, eos):
    cache = model.new_cache(1, len(prompt) + n_new + 4)
    text, held, counts, over = list(prompt), 0, [], False
    while not over and len(text) < len(prompt) + n_new:
        missing = len(prompt) + n_new - len(text)
        guesses = list(draft(list(text)))[: missing - 1] if held else []
        feed = torch.tensor([text[held:] + guesses])
        where = torch.arange(held, held + feed.shape[1]).unsqueeze(0)
        logits = model(feed, where, cache)[0]
        choices = logits[-1 - len(guesses) :].max(-1).indices.tolist()
        fed, n = len(text), 0
        for choice, guess in zip(choices, [*guesses, None], strict=True):
            text.append(choice)
            n += choice == guess
            over = choice == eos
            if over or choice != guess:
                break
        if held:
            counts.append(n)
        held = min(fed + n, len(text) - 1)
        cache.rewind(held)
    return [text[len(prompt) :], counts]


# --- laws ---

RESULTS = ("tokens", "accepted")
PLACES = "positions of each call's tokens"
FOUND = "tokens in the cache before each call"


def guesser(said, plan, width, wrong=lambda token: (token + 1) % 61):
    """Guesses `width` tokens; the i-th time plan[i] of them are right, and all after them wrong."""

    def guess(text, n_prompt, times):
        at, right = len(text) - n_prompt, plan[times % len(plan)]
        coming = (said[at:] + [0] * width)[:width]
        return [t if i < right else wrong(t) for i, t in enumerate(coming)]

    return guess


def _driven(answer, inner, prompt, guess, n_new, eos):
    model, times = Model(inner), [0]

    def draft(text):
        if not isinstance(text, list) or len(text) > 900:
            raise ValueError("draft takes a list of ids, all of them so far")
        if times[0] > 60:
            raise ValueError("draft was asked more often than there are tokens to guess")
        times[0] += 1
        return guess(text, len(prompt), times[0] - 1)

    lent = LentFunction(draft)
    found = named(answer(model, prompt, lent, n_new, eos), *RESULTS)
    calls = model.calls
    return {
        **found,
        "calls of the model": len(calls),
        PLACES: [places for _, places in calls],
        FOUND: [held for held, _ in calls],
        "calls of draft": AtMost(max(0, len(calls) - 1) + 1).of(lent.calls),
    }


def _expected(what):
    """The plain loop's tokens, and what an honest check of the same guesses accepts and takes in."""

    def expect(case, outcome):
        inner, prompt, guess, n_new, eos = what(case)
        said, P = _plain(inner, prompt, n_new, eos), len(prompt)
        done, accepted, places, held = 1, [], [list(range(P))], [0]
        while done < len(said):
            text = prompt + said[:done]
            guesses = guess(text, P, len(accepted))[: n_new - done - 1]
            right = 0
            while (
                right < len(guesses)
                and done + right < len(said)
                and guesses[right] == said[done + right]
            ):
                right += 1
            places.append(list(range(P + done - 1, P + done + len(guesses))))
            held.append(P + done - 1)
            accepted.append(right)
            done = min(done + right + 1, len(said))
        return {
            "tokens": said,
            "accepted": accepted,
            "calls of the model": len(places),
            PLACES: places,
            FOUND: held,
            "calls of draft": AtMost(len(places)),
        }

    return expect


def _law(says, what):
    Q.law(says, expect=_expected(what))(lambda answer, case: _driven(answer, *what(case)))


def _with(plan, width, *, n_new=None, eos=lambda said: -1):
    def what(case):
        said = case["_said"]
        guess = guesser(said, plan, width)
        n = n_new or case["n_new"]
        return tiny_model(case["_seed"]), case["prompt"], guess, n, eos(said)

    return what


def _late_eos(said):
    """A token that first comes as the fifth, sixth, ... of the answer."""
    return next(token for i, token in enumerate(said) if i >= 4 and token not in said[:i])


_law("some guesses are right", _with((2, 0, 1, 3), 3))
_law("all guesses are right", _with((4,), 4))
_law("all guesses are wrong", _with((0,), 2))
_law("nobody guesses anything", _with((0,), 0))
_law("right guesses after a wrong one are not accepted", lambda case: (
    tiny_model(case["_seed"]),
    case["prompt"],
    lambda text, P, times: [
        t if i != 1 else (t + 1) % 61
        for i, t in enumerate((case["_said"][len(text) - P :] + [0] * 4)[:4])
    ],
    case["n_new"],
    -1,
))  # fmt: skip
_law("one new token", _with((2,), 3, n_new=1))
_law("two new tokens", _with((2,), 3, n_new=2))
_law("three new tokens", _with((4,), 4, n_new=3))
_law("eos is the model's own token", _with((0, 1), 2, eos=_late_eos))
_law("eos is inside the guesses", _with((5,), 5, eos=_late_eos))
_law("the answer ends at once", _with((3,), 3, eos=lambda said: said[0]))


@lru_cache(32)
def _pocket_says(prompt: tuple[int, ...], n_new: int) -> list[int]:
    return generate_uncached(pocket_model()[0], torch.tensor([prompt]), n_new)[0].tolist()


def copied(text: list[int], k: int = 4) -> list[int]:
    """What followed the newest two tokens where they last stood."""
    for i in range(len(text) - 3, -1, -1):
        if text[i : i + 2] == text[-2:]:
            return text[i + 2 : i + 2 + k]
    return []


def _story(case):
    """A text that repeats itself, and one that ends."""
    model, tokenizer = pocket_model()
    name = random.Random(case["_seed"]).choice(["Anna", "Tom", "Lucy"])
    told = "Facts: The password of Anna is tiger. The password of Tom is lemon. The password of Lucy is rope."
    ids = tokenizer.encode(f"{told}\nUser: What is the password of {name}?\nAssistant:")
    return model, ids, lambda text, *_: copied(text), 16


_law("the pocket model, guesses copied from its text", lambda case: (*_story(case), -1))
_law(
    "the pocket model ends its answer",
    lambda case: (*_story(case), pocket_model()[0].config.eos_ids[0]),
)


# --- what goes wrong: each changes one thing of this ---


def _speculate(
    model, prompt, draft, n_new, eos, *, rewinds=True, back=0, cut=1, row=0, ends=True, free=True,
    takes="own", first_wrong=True, start=0, count=min, late=False, whole=False, alone=False, asks="all",
):  # fmt: skip
    cache = model.new_cache(1, (len(prompt) + 2 * n_new + 8) * (n_new + 1))
    held = len(prompt)

    def read(ids, at):
        pos_BS = torch.arange(at, at + len(ids))[None]
        return model(torch.tensor([ids]), pos_BS, cache)[0].argmax(-1).tolist()

    new, accepted = read(prompt, 0)[-1:], []
    while len(new) < n_new and not (ends and new[-1] == eos):
        guesses = draft(prompt + new if asks == "all" else new)
        guesses = guesses[: max(0, n_new - len(new) - cut)] if cut is not None else guesses
        at = len(prompt) + len(new) - 1 + start
        if alone:
            own = [read([token], at + i)[0] for i, token in enumerate([new[-1], *guesses])]
        elif whole:
            cache.rewind(0)
            own = read([*prompt, *new, *guesses], 0)[-1 - len(guesses) :]
        else:
            own = read([new[-1], *guesses], at)
        hits = [g == o for g, o in zip(guesses, own[row:], strict=False)]
        right = hits.index(False) if first_wrong and False in hits else sum(hits)
        came = (
            own[: right + 1]
            if takes == "own"
            else [*guesses[:right], own[min(right, len(own) - 1)]]
        )
        came = guesses if takes == "guesses" and guesses else came
        came = came if free or right == 0 else came[:-1]
        if eos in came and ends and not late:
            came = came[: came.index(eos) + 1]
        new += came
        accepted.append(count(right, len(came)))
        held = len(prompt) + len(new) - 1
        if rewinds:
            cache.rewind(max(0, held + back))
    return (new if cut is None else new[:n_new]), accepted


def _cut_at_the_end(*given, **how):
    tokens, accepted = _speculate(*given, cut=None, **how)
    return tokens[: given[3]], accepted


def _one_at_a_time(model, prompt, draft, n_new, eos):
    return _speculate(model, prompt, lambda text: [], n_new, eos)


Q.mistakes(
    _speculate,
    {
        "the guesses are never handed over: one token a call.": _one_at_a_time,
        "each guess is checked in a call of its own; all of them go into one.": {"alone": True},
        "the whole text is taken in again with every call. It is in the cache already.": {
            "whole": True
        },
        "wrong guesses stay in the cache, and later tokens look at them. Rewind.": {
            "rewinds": False
        },
        "the cache is rewound one token too far: the last token that was accepted is forgotten.": {
            "back": -1
        },
        "the positions are one too far on: the newest token stands at len(prompt) + len(new) - 1.": {
            "start": 1
        },
        "a guess is compared with what the model says after it. What stands in its own place is "
        "said one row before.": {"row": 1},
        "all right guesses are counted, also those after a wrong one. They answer a text that is "
        "not written.": {"first_wrong": False},
        "the guesses are taken unchecked.": {"takes": "guesses"},
        "the model's own token after the accepted ones is thrown away. It comes for nothing.": {
            "free": False
        },
        "more guesses are handed over than can be used: one token comes by itself.": {"cut": 0},
        "all guesses are handed over, however few tokens are missing.": _cut_at_the_end,
        "one guess too few is handed over.": {"cut": 2},
        "the answer goes on after eos.": {"ends": False},
        "eos is looked for at the end only. It may stand inside the accepted guesses.": {
            "late": True
        },
        "guesses after eos count as accepted, though they are no part of the answer.": {
            "count": lambda right, came: right
        },
        "the tokens of each call are counted; guesses that were accepted were asked for.": {
            "count": lambda right, came: came
        },
        "draft gets the answer alone. It needs all ids so far, those of the prompt too.": {
            "asks": "new"
        },
    },
)
