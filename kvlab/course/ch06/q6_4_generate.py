"""6.4: greedy generation in two phases, the prompt in one call and then a token a call.

B rows of the batch, S tokens read, N new tokens, V vocabulary.
"""

from __future__ import annotations

import torch

from kvlab.course.author import Exercise, LentModel, paired, tiny_model
from kvlab.course.author.compare import difference
from kvlab.course.sandbox.answer import Stopped
from kvlab.measure.uncached import generate_uncached

Q = Exercise(
    "6.4",
    "Generate with a cache",
    "cached_generate",
    points=5,
    minutes=20,
    difficulty=3,
    statement="""
Write greedy generation in two phases: one call that reads the whole prompt, then one call for each further
token. The model lends you two things:

- `cache = model.new_cache(batch, capacity)`: an empty cache;
- `logits_BSV = model(tokens_BS, pos_BS, cache)`: reads S new tokens that stand at the positions `pos_BS`
  (0 is the first token of the text), and adds them to the cache. Without the third argument it reads them
  alone.

Prompts in a batch have the same length. Return the new tokens, shape (B, N); N is 1 or more. The check looks at what each
call reads and finds in the cache, compares your tokens with a loop without a cache, poisons a slot on the
way, and at the end takes the time: at least 1.3 times as fast as that loop is asked for.
""",
    hints=(
        "Two phases: one call for the whole prompt, then one call per token. What does each call "
        "take in, and at which position does its first token stand?",
        "Make the cache once, for n_prompt + n_new - 1 slots. The prompt's positions are 0 to "
        "n_prompt - 1; the i-th new token (from 0) is fed at position n_prompt + i.",
        "logits = model(tokens_BS, torch.arange(n_prompt).expand(batch, n_prompt), cache); token = "
        "logits[:, -1].argmax(-1). Then n_new - 1 times: token = model(token[:, None], "
        "torch.full((batch, 1), n_prompt + i), cache)[:, -1].argmax(-1). Stack all tokens.",
    ),
    size=lambda case: case["tokens_BS"].numel() * case["n_new"],
)


@Q.case
def case(rng):
    batch, n_prompt, n_new = rng.sample([2, 3, 4, 5, 6, 7, 8], 3)
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return {
        "tokens_BS": torch.randint(61, (batch, n_prompt), generator=torch_rng),
        "n_new": n_new,
        "_seed": rng.randrange(2**31),
    }


@Q.solution
def cached_generate(model, tokens_BS, n_new):
    """Return the n_new likeliest tokens behind each prompt: tokens_BN."""
    ### BEGIN SOLUTION
    batch, n_prompt = tokens_BS.shape
    cache = model.new_cache(batch, n_prompt + n_new - 1)
    pos_BS = torch.arange(n_prompt).expand(batch, n_prompt)
    logits_BSV = model(tokens_BS, pos_BS, cache)
    new = [logits_BSV[:, -1].argmax(-1)]
    for i in range(n_new - 1):
        pos_B1 = torch.full((batch, 1), n_prompt + i)
        logits_BSV = model(new[-1][:, None], pos_B1, cache)
        new.append(logits_BSV[:, -1].argmax(-1))
    return torch.stack(new, dim=1)
    ### END SOLUTION


@Q.also_right
def what_is_not_fed_yet(model, tokens_BS, n_new):
    cache = model.new_cache(len(tokens_BS), tokens_BS.size(1) + n_new)
    text, fed = tokens_BS, 0
    while text.size(1) < tokens_BS.size(1) + n_new:
        positions = torch.arange(fed, text.size(1)).repeat(len(text), 1)
        logits = model(text[:, fed:], positions, cache)
        fed = text.size(1)
        text = torch.cat([text, logits[:, -1:].max(-1).indices], 1)
    return text[:, tokens_BS.size(1) :]


# --- laws ---


def _without_cache(case, _outcome):
    """The tokens are those of a loop that reads the whole text at each step."""
    tokens_BN = generate_uncached(tiny_model(case["_seed"]), case["tokens_BS"], case["n_new"])
    return Q.of_right(calls, case) | {"tokens_BN": tokens_BN}


@Q.law(
    "the prompt in one call, then a token a call; same tokens as without a cache",
    expect=_without_cache,
)
def calls(answer, case):
    model = LentModel(tiny_model(case["_seed"]))
    tokens_BN = answer(model, case["tokens_BS"], case["n_new"])
    slots, positions = map(list, zip(*model.calls, strict=True)) if model.calls else ([], [])
    return {
        "positions by call": positions,
        "tokens found in the cache by call": slots,
        "rows projected": model.rows,
        "tokens_BN": tokens_BN,
    }


@Q.law("what stands in the cache decides")
def _(answer, case):
    model = LentModel(tiny_model(case["_seed"]), poison=case["tokens_BS"].shape[1] // 2)
    return {"tokens_BN": answer(model, case["tokens_BS"], case["n_new"])}


@Q.law("one new token; one row; a prompt of one token")
def _(answer, case):
    seen, tokens_BS = {}, case["tokens_BS"]
    for what, text_BS, n_new in (
        ("of one new token", tokens_BS, 1),
        ("of one row", tokens_BS[:1], case["n_new"]),
        ("behind one token", tokens_BS[:, :1], case["n_new"]),
    ):
        model = LentModel(tiny_model(case["_seed"]))
        seen[f"{what}, tokens_BN"] = answer(model, text_BS, n_new)
        seen[f"{what}, rows projected"] = model.rows
    return seen


N_TIMED_PROMPT, N_TIMED = 384, 24


@Q.timed(f"{N_TIMED} tokens behind {N_TIMED_PROMPT}, against the loop without a cache", 1.3)
def _(answer, case):
    model = tiny_model(1, hidden_size=128, intermediate_size=256, head_dim=32, n_layers=2)
    torch_rng = torch.Generator().manual_seed(case["_seed"])
    tokens_BS, lent = torch.randint(61, (1, N_TIMED_PROMPT), generator=torch_rng), LentModel(model)
    made = {"slow": [], "fast": []}
    comparison = paired(
        lambda: made["slow"].append(generate_uncached(model, tokens_BS, N_TIMED)),
        lambda: made["fast"].append(answer(lent, tokens_BS, N_TIMED)),
    )
    wanted_BN = made["slow"][0]
    if any(difference("tokens_BN", came_BN, wanted_BN) for came_BN in made["fast"]):
        raise Stopped(
            f"The tokens of the timed run, {N_TIMED} behind {N_TIMED_PROMPT}, are not those of the "
            "loop without a cache."
        )
    return comparison


# --- what goes wrong: most change one thing of this ---


def _generate(
    model,
    tokens_BS,
    n_new,
    *,
    pos=lambda n_prompt, i: n_prompt + i,
    prompt_cache=True,
    decode_cache=True,
    first=0,
    drop=0,
    again=False,
    row=-1,
    anew=False,
    extra=0,
):
    batch, n_prompt = tokens_BS.shape
    cache = model.new_cache(batch, 2 * (n_prompt + n_new))
    pos_BS = torch.arange(drop, n_prompt).expand(batch, n_prompt - drop) + first
    logits_BSV = model(tokens_BS[:, drop:], pos_BS, cache if prompt_cache else None)
    if again:
        logits_BSV = model(tokens_BS[:, -1:], torch.full((batch, 1), n_prompt), cache)
    new = [logits_BSV[:, row].argmax(-1)]
    for i in range(n_new - 1 + extra):
        cache = model.new_cache(batch, 1) if anew else cache
        pos_B1 = torch.full((batch, 1), pos(n_prompt, i) + again + first)
        held = cache if decode_cache else None
        new.append(model(new[-1][:, None], pos_B1, held)[:, -1].argmax(-1))
    return torch.stack(new[:n_new], dim=1)


def _whole_text_each_step(model, tokens_BS, n_new, cache=None):
    text_BS = tokens_BS
    for _ in range(n_new):
        pos_BS = torch.arange(text_BS.shape[1]).expand(text_BS.shape)
        token_B1 = model(text_BS, pos_BS, cache)[:, -1:].argmax(-1)
        text_BS = torch.cat((text_BS, token_B1), dim=1)
    return text_BS[:, -n_new:]


def _whole_text_into_cache(model, tokens_BS, n_new):
    batch, n_prompt = tokens_BS.shape
    cache = model.new_cache(batch, (n_prompt + n_new) * (n_new + 1))
    return _whole_text_each_step(model, tokens_BS, n_new, cache)


def _prompt_token_by_token(model, tokens_BS, n_new):
    batch, n_prompt = tokens_BS.shape
    cache, text_BS = model.new_cache(batch, n_prompt + n_new), tokens_BS
    for i in range(n_prompt + n_new - 1):
        logits_B1V = model(text_BS[:, i : i + 1], torch.full((batch, 1), i), cache)
        if i >= n_prompt - 1:
            text_BS = torch.cat((text_BS, logits_B1V.argmax(-1)), dim=1)
    return text_BS[:, n_prompt:]


def _last_by_itself(model, tokens_BS, n_new):
    batch, n_prompt = tokens_BS.shape
    cache = model.new_cache(batch, n_prompt + n_new)
    if n_prompt > 1:
        model(tokens_BS[:, :-1], torch.arange(n_prompt - 1).expand(batch, n_prompt - 1), cache)
    new_BN = tokens_BS[:, -1:]
    for i in range(n_new):
        pos_B1 = torch.full((batch, 1), n_prompt - 1 + i)
        token_B1 = model(new_BN[:, -1:], pos_B1, cache).argmax(-1)
        new_BN = torch.cat((new_BN, token_B1), dim=1)
    return new_BN[:, 1:]


def _text_by_text(model, tokens_BS, n_new):
    return torch.cat([_generate(model, tokens_1S, n_new) for tokens_1S in tokens_BS.split(1)])


def _item(model, tokens_BS, n_new):
    batch, n_prompt = tokens_BS.shape
    cache = model.new_cache(batch, n_prompt + n_new)
    pos_BS = torch.arange(n_prompt).expand(batch, n_prompt)
    return model(tokens_BS, pos_BS, cache)[:, -1].argmax(-1).item()


Q.mistakes(
    _generate,
    {
        ".item() takes the number out of a tensor that has one. A batch has a token in each row: "
        "keep the tensor.": _item,
        "the prompt is returned as well. Return the new tokens alone, shape (B, N).": (
            lambda model, tokens_BS, n_new: torch.cat(
                (tokens_BS, _generate(model, tokens_BS, n_new)), dim=1
            )
        ),
        "an axis of one is lost: squeeze takes away every axis of size 1, also those that were "
        "asked for.": lambda *given: _generate(*given).squeeze(),
        "every step reads the whole text again. The tokens are right, but nothing is "
        "reused.": _whole_text_each_step,
        "the prompt is fed token by token. All its tokens are known: read it in one "
        "call.": _prompt_token_by_token,
        "the prompt is read in two calls, its last token by itself. All its tokens are known: read them in "
        "one call, whose last logits choose the first new token.": _last_by_itself,
        "each text of the batch is answered by itself, with a cache of its own. All rows go in together: "
        "one cache of B rows, and one call.": _text_by_text,
        "every step makes a new cache, which is empty. Make one before the prompt and hand it to "
        "every call.": {"anew": True},
        "the token comes from the first row's logits. The last row saw the whole prompt.": {
            "row": 0
        },
        "positions start again at 0 in decode. The first new token stands behind the prompt, at "
        "position P.": {"pos": lambda n_prompt, i: i},
        "every new token is fed at position 0. It stands behind all that was read: P, P + 1, ...": {
            "pos": lambda n_prompt, i: 0
        },
        "every new token is fed at position P. Each stands one further than the one before it.": {
            "pos": lambda n_prompt, i: n_prompt
        },
        "positions in decode are one too far. The prompt has 0 to P - 1, so the first new token "
        "has P.": {"pos": lambda n_prompt, i: n_prompt + i + 1},
        "positions in decode are one too few: the first new token is put where the prompt's last "
        "one stands.": {"pos": lambda n_prompt, i: n_prompt + i - 1},
        "the new tokens are fed without the cache. Hand it over in every call: model(token, pos, cache).": {
            "decode_cache": False
        },
        "positions begin at 1. The first token of the text stands at position 0.": {"first": 1},
        "the prompt is read without the cache, so decoding has no past but its own tokens.": {
            "prompt_cache": False
        },
        "the offset is counted twice: positions in decode go up by two, or start behind a gap.": {
            "pos": lambda n_prompt, i: n_prompt + 2 * i + 1
        },
        "the last prompt token is fed twice: once in the prompt and once again as the first "
        "step.": {"again": True},
        "the whole text is fed again into a cache that already holds it.": _whole_text_into_cache,
        "the last new token is fed too. Its logits are thrown away: one row for nothing.": {
            "extra": 1
        },
        "the first prompt token never reaches the cache.": {"drop": 1},
    },
)
