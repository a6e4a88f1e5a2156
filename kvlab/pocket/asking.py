"""What a report asks the pocket model: relations of its own world, and a text that it knows.

They are made for any model: one that speaks another language than the pocket model is asked what
`kvlab.quality.plain` asks.
"""

from __future__ import annotations

import random
from functools import cache

from kvlab.pocket import bpe, path, world
from kvlab.quality import plain
from kvlab.quality.prompts import Question
from kvlab.tokenizer import Tokenizer


def questions(
    tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int
) -> list[Question]:
    """Passwords of the pocket model's world, the one that is asked for at evenly spread depths."""
    if not speaks_pocket(tokenizer):
        return plain.passwords(tokenizer, rng, n_prompts, n_tokens)
    return [
        world_question(tokenizer, rng, n_tokens, depth=(i + 0.5) / n_prompts)
        for i in range(n_prompts)
    ]


def codes(
    tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int
) -> list[Question] | None:
    """Codes for a model that is not the pocket model, whose report has none."""
    return None if speaks_pocket(tokenizer) else plain.codes(tokenizer, rng, n_prompts, n_tokens)


def needle(
    tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int
) -> list[Question] | None:
    """One fact for a model that is not the pocket model, whose report has none."""
    return None if speaks_pocket(tokenizer) else plain.needle(tokenizer, rng, n_prompts, n_tokens)


MAKERS = {"recall": questions, "codes": codes, "needle": needle}


def own_text(tokenizer: Tokenizer) -> str:
    """The tenth of Python's documentation that the pocket model was not trained on; for another
    model the topics of Python's `help()`."""
    if not speaks_pocket(tokenizer):
        return plain.own_text(tokenizer)
    return "\n\n".join(bpe.python_docs()[1].values())


def world_question(
    tokenizer: Tokenizer,
    rng: random.Random,
    n_tokens: int,
    kind: str = "password",
    depth: float | None = None,
) -> Question:
    """Five held-out relations of the pocket model's world among filler; one is asked for."""

    def count(text: str) -> int:
        return len(tokenizer.inner.encode(text, add_special_tokens=False).ids)

    made = world.recall_prompt(rng, count, 5, n_tokens, kind, depth=depth)
    cut = made.prompt.rindex("\nUser:")
    text = made.prompt[:cut]
    at = text.index(made.asked.sentence) / len(text)
    return Question(text, made.prompt[cut:], made.stem, made.value, at)


def speaks_pocket(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer is the pocket model's, which reads no language but its own."""
    return tokenizer.inner.to_str() == _pocket()


@cache
def _pocket() -> str:
    return Tokenizer.from_file(path() / "tokenizer.json").inner.to_str()
