"""What a report asks any checkpoint: facts in plain English, in its chat form where it has one, and
a text that comes with every Python.

Each maker takes a tokenizer, a source of chance, how many prompts, and how long they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from kvlab.quality.prompts import NAMES, Fact, Question, in_filler, plain_questions
from kvlab.tokenizer import Tokenizer

Maker = Callable[[Tokenizer, random.Random, int, int], list[Question] | None]
THINGS = "bridge carpet chimney clock fence garden ladder mirror oven pillow roof table window"
_MARK = "@@kvlab@@"  # stands for what a user says while a chat form is looked at


def passwords(
    tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int
) -> list[Question]:
    """Five passwords that are words; one is asked for."""
    return in_form(tokenizer, plain_questions, rng, n_prompts, n_tokens)


def codes(
    tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int
) -> list[Question]:
    """Five codes of four digits; one is asked for."""
    return in_form(tokenizer, _codes, rng, n_prompts, n_tokens)


def needle(
    tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int
) -> list[Question]:
    """One fact in filler, and nothing like it beside it."""
    return in_form(tokenizer, _needle, rng, n_prompts, n_tokens)


MAKERS: dict[str, Maker] = {"recall": passwords, "codes": codes, "needle": needle}


def own_text(tokenizer: Tokenizer) -> str:
    """The topics of Python's `help()`: its language reference, as this Python has it."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def _codes(tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int):
    def drawn() -> list[Fact]:
        names, numbers = rng.sample(NAMES.split(), 5), rng.sample(range(1000, 10000), 5)
        return [
            Fact(f" The code of {name} is", f" {number}", f"What is the code of {name}?")
            for name, number in zip(names, numbers, strict=True)
        ]

    return in_filler(tokenizer, rng, n_prompts, n_tokens, drawn, "Five codes")


def _needle(tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int):
    def drawn() -> list[Fact]:
        thing = rng.choice(THINGS.split())
        asked = "Where is the treasure hidden?"
        return [Fact(" The treasure is hidden under the", f" {thing}", asked)]

    return in_filler(tokenizer, rng, n_prompts, n_tokens, drawn, "A fact")


def in_form(
    tokenizer: Tokenizer, maker: Maker, rng: random.Random, n_prompts: int, n_tokens: int
) -> list[Question]:
    """What a maker makes, as a user's message in the checkpoint's chat form; as it is without one.

    The form counts among the `n_tokens`, and writes what opens a text by itself.
    """
    before, mark, after = "", "", ""
    if tokenizer.template is not None:
        before, mark, after = tokenizer.template(_MARK).partition(_MARK)
    if not mark:  # no form, or one that changes what a user says
        return maker(tokenizer, rng, n_prompts, n_tokens)
    inner = tokenizer.inner
    form = len(inner.encode(before + after, add_special_tokens=False).ids)
    return [
        replace(
            q,
            text=before + q.text,
            question=q.question.removesuffix("\nAnswer:") + after,
            stem=q.stem.lstrip(),
            opens=True,
        )
        for q in maker(tokenizer, rng, n_prompts, n_tokens - form)
    ]
