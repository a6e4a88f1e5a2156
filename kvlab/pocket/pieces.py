"""Documents in pieces, each with its weight in the loss, and chats made of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from kvlab.pocket.words import LABELS, SYSTEMS

# what the loss is multiplied by
NOTHING = 0.0  # the next speaker's turn: the model should have stopped before it
NOISE = 0.1  # a list nobody could foresee, there to be copied
CONTEXT = 0.3  # a story that the question is about
PLAIN = 1.0
STEM = 2.0  # the words before the looked-up value, and whole answers about facts
COPIED = 3.0
VALUE = 6.0  # the looked-up value itself


class Piece(NamedTuple):
    """A stretch of text that starts at a token border, and its weight in the loss."""

    text: str
    weight: float


Document = list[Piece]

ONE_LINE = 0.3  # share of chats written on one line, as "System: … User: … Assistant: …"


def chat(
    rng: random.Random,
    turns: Sequence[tuple[str, Document]],
    head: str = "",
    head_weight: float = PLAIN,
) -> Document:
    """Write questions and answers after a head, one turn a line or all on one line.

    What opens the next question has no weight, so that after an answer the model has only ever
    been asked to end.
    """
    line = " " if rng.random() < ONE_LINE else "\n"
    document = [Piece(head, head_weight)] if head else []
    for i, (question, answer) in enumerate(turns):
        document.append(Piece((line if document else "") + "User", NOTHING if i else PLAIN))
        document.append(Piece(f": {question}{line}Assistant:", PLAIN))
        document += answer
    return document


def system(rng: random.Random, share: float) -> str:
    """Draw a system line in this share of cases, else nothing."""
    return f"System: {rng.choice(SYSTEMS)}" if rng.random() < share else ""


def story_then_questions(rng: random.Random, sentences: list[str], turns, weight: float = CONTEXT):
    """Write a labelled story, then questions about it."""
    return chat(rng, turns, f"{rng.choice(LABELS)} {' '.join(sentences)}", weight)
