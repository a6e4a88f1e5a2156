"""Prompts that ask for one relation among others, hidden in a text: recall, to test."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvlab.pocket.relations import Relation
from kvlab.pocket.sentences import digits, filler_sentence
from kvlab.pocket.sentences import held_out as is_held_out
from kvlab.pocket.words import KINDS, TOLD


class RecallPrompt(NamedTuple):
    """A text, a question about one relation in it, and the one right answer.

    `prompt` ends in "Assistant:"; `stem` is the answer up to the value; `value` starts with a
    space, as a word within a text does. `told` are all relations of the text, in order.
    """

    prompt: str
    stem: str
    value: str
    asked: Relation
    told: list[Relation]


def recall_prompt(
    rng: random.Random,
    count_tokens: Callable[[str], int],
    n_relations: int,
    n_tokens: int,
    kind: str = "password",
    held_out: bool = True,
    *,
    names: Sequence[str] = TOLD,
    depth: float | None = None,
) -> RecallPrompt:
    """Hide relations of one kind in filler and ask for one; held-out pairs unless told otherwise.

    All names and all values differ. With `depth` that share of the other sentences comes before
    the one that is asked for: 0 puts it first, 1 last. Prompt and stem together, with the token
    that opens a text, take at most `n_tokens` tokens and at most a sentence fewer; 0 means no
    filler at all. `count_tokens` counts those of a text alone.

    Raises: ValueError if the relations alone are longer, or there are too few values.
    """
    if kind not in KINDS:
        raise ValueError(f"no relation is called {kind!r}: choose one of {', '.join(KINDS)}")
    if depth is not None and not 0 <= depth <= 1:
        raise ValueError(f"a depth of {depth} was asked for; expected a share from 0 to 1")
    told = _distinct(rng, n_relations, kind, held_out, names)
    asked = rng.choice(told)
    question = f"\nUser: {asked.question}\nAssistant:"
    used = 1 + count_tokens("Story:" + question + asked.stem)
    used += sum(count_tokens(f" {one.sentence}") for one in told)
    if 0 < n_tokens < used:
        raise ValueError(f"{n_relations} relations and a question need {used} tokens: {n_tokens}")
    sentences = _filler(rng, count_tokens, n_tokens - used) if n_tokens else []
    for one in [*(one for one in told if one != asked), asked]:
        place = rng.random() if depth is None or one != asked else depth
        sentences.insert(round(place * len(sentences)), one.sentence)
    in_order = sorted(told, key=lambda one: sentences.index(one.sentence))
    prompt = f"Story: {' '.join(sentences)}{question}"
    return RecallPrompt(prompt, asked.stem, f" {asked.value}", asked, in_order)


def _filler(rng: random.Random, count_tokens: Callable[[str], int], room: int) -> list[str]:
    """Draw filler until a sentence would take more than is left."""
    sentences: list[str] = []
    while True:
        sentence = filler_sentence(rng)
        room -= count_tokens(f" {sentence}")
        if room < 0:
            return sentences
        sentences.append(sentence)


def _distinct(
    rng: random.Random, n: int, kind: str, held: bool, names: Sequence[str]
) -> list[Relation]:
    """Make up relations of n people with n values, their pairs held out or not."""
    values = KINDS[kind] or [digits(rng, 4) for _ in range(50 * n)]
    told: list[Relation] = []
    for name in rng.sample(names, len(names)):
        taken = {one.value for one in told}
        free = [v for v in values if v not in taken and is_held_out(name, v) == held]
        if len(told) < n and free:
            told.append(Relation(kind, name, rng.choice(free)))
    if len(told) < n:
        raise ValueError(f"{n} different values were asked for, {kind!r} has {len(told)} to give")
    return told
