"""The sets of questions that an examination asks, and the names of their rows and cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from kvlab.pocket import world
from kvlab.pocket.questions import (
    Item,
    fact_items,
    item,
    latest_items,
    pair_items,
    recall_items,
    two_kinds_items,
    whole_answers,
    written_items,
)

Maker = Callable[[], list[Item]]

LENGTHS = (128, 256, 512, 1000, 2000)
BARRED_TOKENS = 1000  # up to this length each cell has a bar
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
GRID = ("password", "code")
# from a name to what goes with it: nothing to four words as in training, then six, never trained
BETWEEN = ("", " is", " is in the", " came back from the", " and the king ran to a")
# the kind of document, how its question begins, and about how many tokens
WRITTEN = {
    "counting one to six": ("counting", "How", 60),
    "story, where is somebody": ("story", "Where"),
    "story, what does somebody have": ("story", "What"),
}


def needle_row(kind: str, n_tokens: int) -> str:
    """Name the row of one relation asked for of five, over all depths."""
    return f"{kind} of 5, {n_tokens} tokens"


def cell_name(cell: tuple[str, int, float]) -> str:
    """Name a cell of the grid."""
    kind, n_tokens, depth = cell
    return f"{needle_row(kind, n_tokens)}, depth {depth:g}"


def rows(tokenizer: Tokenizer, seed: int = 1, n_prompts: int = 200) -> dict[str, Maker]:
    """Name every question set, with what makes it; none of its prompts gated training."""

    def recall(kind: str, n_tokens: int, n_relations: int = 5, **which: Any) -> Maker:
        counts = seed, n_prompts, n_relations, n_tokens
        return partial(recall_items, tokenizer, *counts, kind, **which)

    strangers = {"held": False, "names": world.STRANGERS}
    made: dict[str, Maker] = {
        "facts": lambda: fact_items(tokenizer, held=False),
        "facts, on one line": lambda: fact_items(tokenizer, held=False, lines=" "),
        "facts, held-out phrasings": lambda: fact_items(
            tokenizer, held=True, systems=world.SYSTEMS, lines="\n "
        ),
        "small talk": lambda: [
            item(tokenizer, f"User: {q}\nAssistant:", f" {a}", ends=True)
            for q, a in world.SMALL_TALK
        ],
    }
    for kind in ("color", "pet", "place"):
        made[f"{kind} of 5, 256 tokens"] = recall(kind, 256)
    for between in BETWEEN:
        made[f'pair of 5, "Anna{between} tiger"'] = partial(
            pair_items, tokenizer, seed, n_prompts, between
        )
    return made | {
        "password of 12, 256 tokens": recall("password", 256, 12),
        "password of 5, 256 tokens, strangers": recall("password", 256, **strangers),
        "password of 5, 256 tokens, trained pairs": recall("password", 256, held=False),
        "password and place of 5 people, no filler": partial(
            two_kinds_items, tokenizer, seed, n_prompts, 5
        ),
        "password of 5 that changes, about 256 tokens": partial(
            latest_items, tokenizer, seed, n_prompts
        ),
        **{
            name: partial(written_items, tokenizer, seed, n_prompts, *which)
            for name, which in WRITTEN.items()
        },
    }


def in_own_words(
    tokenizer: Tokenizer, seed: int = 1, n_prompts: int = 200
) -> dict[str, Callable[[], list[tuple[Item, Item]]]]:
    """Name the question sets whose answers may be the value or a sentence, with what makes them."""
    return {
        f"{kind} of 5, {n} tokens, in its own words": partial(
            whole_answers, tokenizer, seed, n_prompts, n, kind
        )
        for kind in GRID
        for n in (256, 512)
    }


def cells(
    tokenizer: Tokenizer, longest: int, seed: int = 1, n_prompts: int = 200
) -> dict[tuple[str, int, float], Maker]:
    """Name every cell of the grid: kind, length and depth of one needle of five.

    Each cell that has a bar gets all the prompts; of the longest texts, which have none, the row
    does.
    """

    def maker(kind: str, n_tokens: int, depth: float) -> Maker:
        n = n_prompts if n_tokens <= BARRED_TOKENS else max(1, round(n_prompts / len(DEPTHS)))
        return lambda: recall_items(tokenizer, seed, n, 5, n_tokens, kind, depth=depth)

    return {
        (kind, n_tokens, depth): maker(kind, n_tokens, depth)
        for kind in GRID
        for n_tokens in LENGTHS
        if n_tokens < longest
        for depth in DEPTHS
    }
