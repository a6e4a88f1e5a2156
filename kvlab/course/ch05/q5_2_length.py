"""5.2: how many tokens each call reads, and how long the cache is after it."""

import torch

from kvlab.course.author import Exercise, named, per_thread, tiny_model
from kvlab.generation import stream
from kvlab.measure.probe import Probe

Q = Exercise(
    "5.2",
    "The length of the cache",
    "trace",
    points=3,
    minutes=15,
    difficulty=2,
    statement="""
A prompt of `n_prompt` tokens is answered with prefill and decode. `would_write` are the tokens that the model
would write if nobody stopped it. The answer ends after `n_new` tokens, one or more,, or with the token `eos` if that comes
first; `eos` is `None` if nothing ends the answer early. The ending token is written, and only its first appearance
counts.

Return two lists with one entry for **each new token**: `fed`, how many tokens were read by the call that made
it; and `lengths`, how long the cache was after that call. Roughly 5 lines.

For example `trace(17, [8, 9, 4, 6, 7], 3, None)` returns `[17, 1, 1], [17, 18, 19]`.
""",
    hints=(
        "There is one entry for each new token: which call made the logits that it was chosen from? "
        "How many tokens did that call take in, and how long was the cache after it?",
        "The first entry is prefill: P tokens, length P. Each later new token needs one call that "
        "feeds the token before it. The last new token is never fed, whether the limit ended the "
        "answer or the ending token did.",
        "n = n_new; if eos is in would_write[:n_new]: n = would_write.index(eos) + 1. Then fed is "
        "[n_prompt] + [1] * (n - 1) and lengths is [n_prompt + i for i in range(n)].",
    ),
)


@Q.case
def case(rng):
    """An answer that would go on past the limit, and an ending token that comes before it."""
    n_prompt, n_new = rng.randint(2, 20), rng.randint(4, 8)
    would_write = rng.sample(range(5, 60), n_new + 2)  # 0 is kept for a law of its own
    return {
        "n_prompt": n_prompt,
        "would_write": would_write,
        "n_new": n_new,
        "eos": would_write[rng.randint(1, n_new - 3)],
    }


@Q.solution
def trace(n_prompt, would_write, n_new, eos):
    """Return fed and lengths, an entry for each new token."""
    ### BEGIN SOLUTION
    written = would_write[:n_new]
    if eos in written:
        written = written[: written.index(eos) + 1]
    fed = [n_prompt] + [1] * (len(written) - 1)
    lengths = [n_prompt + i for i in range(len(written))]
    return fed, lengths
    ### END SOLUTION


@per_thread
def _model():
    return tiny_model(1)


@Q.right
def in_a_real_cache(n_prompt, would_write, n_new, eos):
    """A real model with a real cache, whose words are put into its mouth."""
    model, script = _model(), iter(would_write)
    cache = model.new_cache(1, n_prompt + n_new)
    with Probe(model) as probe:
        steps = stream(
            model,
            [i % 50 + 1 for i in range(n_prompt)],
            n_new,
            cache=cache,
            pick=lambda _: torch.tensor([next(script)]),
            eos=() if eos is None else (eos,),
        )
        lengths = [cache.length for _ in steps]
    return [forward.new for forward in probe.forwards], lengths


@Q.also_right
def token_by_token(n_prompt, would_write, n_new, eos):
    fed, lengths, held, waiting = [], [], 0, n_prompt
    for written, token in enumerate(would_write, start=1):
        held += waiting
        fed.append(waiting)
        lengths.append(held)
        if token == eos or written == n_new:
            break
        waiting = 1
    return [fed, lengths]


# --- laws: one for each kind of call ---


def _as_a_cache_grows(kind, change):
    def arguments(case):
        """A case's entries stand in the order of trace's arguments."""
        return tuple((case | change(case)).values())

    @Q.law(f"as a real cache grows, {kind}", shows=lambda case: f"trace{arguments(case)}")
    def _(answer, case):
        return named(answer(*arguments(case)), "fed", "lengths")


def _end_is_zero(case):
    zeroed = [0 if token == case["eos"] else token for token in case["would_write"]]
    return {"would_write": zeroed, "eos": 0}


def _end_at(place):
    return lambda case: {"eos": case["would_write"][place(case["n_new"])]}


def _end_comes_again(case):
    """Every second token is the ending one, within the limit and behind it."""
    words = case["would_write"]
    return {"would_write": [case["eos"] if i % 2 else token for i, token in enumerate(words)]}


def _says_one_word(case):
    return {"would_write": [case["would_write"][0]] * len(case["would_write"]), "eos": None}


_as_a_cache_grows("no ending token", lambda case: {"eos": None})
_as_a_cache_grows("with an ending token", lambda case: {})
_as_a_cache_grows("an ending token beyond the limit", lambda case: {"eos": case["would_write"][-1]})
_as_a_cache_grows("one new token", lambda case: {"n_new": 1, "eos": None})
_as_a_cache_grows("the ending token 0", _end_is_zero)
_as_a_cache_grows("the first token ends it", lambda case: {"eos": case["would_write"][0]})
_as_a_cache_grows("an ending token at the limit", _end_at(lambda n_new: n_new - 1))
_as_a_cache_grows("an ending token just beyond it", _end_at(lambda n_new: n_new))
_as_a_cache_grows("an ending token that comes again", _end_comes_again)
_as_a_cache_grows("the same token again and again", _says_one_word)
_as_a_cache_grows("a prompt of one token", lambda case: {"n_prompt": 1})


# --- what goes wrong: each changes one thing of this ---


def _trace(
    n_prompt,
    would_write,
    n_new,
    eos,
    *,
    ending=lambda eos: eos,
    beyond_limit=False,
    entries=lambda n, has_ended: n,
    returns=lambda fed, lengths: (fed, lengths),
):
    eos, said = ending(eos), would_write[:n_new]
    searched = would_write if beyond_limit else said
    n = entries(searched.index(eos) + 1 if eos in searched else len(said), eos in said)
    return returns([n_prompt] + [1] * (n - 1), [n_prompt + i for i in range(n)])


def _ends_last(n_prompt, would_write, n_new, eos):
    said = would_write[:n_new]
    n = n_new - said[::-1].index(eos) if eos in said else n_new
    return _trace(n_prompt, would_write, n, None)


def _overlooks_first(n_prompt, would_write, n_new, eos):
    said = would_write[:n_new]
    n = said.index(eos, 1) + 1 if eos in said[1:] else n_new
    return _trace(n_prompt, would_write, n, None)


Q.mistakes(
    _trace,
    {
        "the first new token is counted as if it were in the cache after prefill. It is known "
        "there, but nothing has read it.": {
            "returns": lambda fed, lengths: (fed, [n + 1 for n in lengths])
        },
        "the last new token is fed as well. Nobody needs the logits behind it, so it is returned "
        "and not read.": {"entries": lambda n, has_ended: n + 1},
        "the ending token does not end the answer.": {"ending": lambda eos: None},
        "an ending token that comes after n_new tokens is found and followed. The limit ends the "
        "answer first: look in would_write[:n_new].": {"beyond_limit": True},
        "the ending token 0 is taken for none: `if eos` is false for 0. Ask whether eos is None.": {
            "ending": lambda eos: eos or None
        },
        "the last ending token is looked for. The answer ends with the first one.": _ends_last,
        "an ending token that is the very first new token is overlooked.": _overlooks_first,
        "the ending token is fed before the loop stops: one call too many, and a token in the "
        "cache that does not belong to the text.": {"entries": lambda n, has_ended: n + has_ended},
        "the loop stops before the ending token is written. It is chosen from logits like any "
        "other, and those need a call.": {"entries": lambda n, has_ended: n - has_ended},
        "each call feeds the whole text again: that is the loop without a cache.": {
            "returns": lambda fed, lengths: (lengths, lengths)
        },
        "the prompt is fed token by token. Prefill reads it in one call.": {
            "returns": lambda fed, lengths: ([1] * lengths[-1], list(range(1, lengths[-1] + 1)))
        },
        "the cache is counted from 0 when decode begins. It goes on behind the prompt.": {
            "returns": lambda fed, lengths: (fed, [fed[0], *range(1, len(fed))])
        },
    },
)
