"""Relations of people, "The password of Anna is tiger.", and the questions about them."""

from __future__ import annotations

import random
from typing import NamedTuple

from kvlab.pocket.pieces import PLAIN, STEM, VALUE, Document, Piece
from kvlab.pocket.sentences import digits, value_for
from kvlab.pocket.words import KINDS, TOLD

DIRECT = 0.5  # share of looked-up answers that are the value alone


class Relation(NamedTuple):
    """What is told of a person, as in "The password of Anna is tiger."."""

    kind: str
    name: str
    value: str

    @property
    def sentence(self) -> str:
        return f"The {self.kind} of {self.name} is {self.value}."

    @property
    def changed_sentence(self) -> str:
        return f"Now the {self.kind} of {self.name} is {self.value}."

    @property
    def question(self) -> str:
        return f"What is the {self.kind} of {self.name}?"

    @property
    def question_now(self) -> str:
        return f"What is the {self.kind} of {self.name} now?"

    @property
    def stem(self) -> str:
        return f" The {self.kind} of {self.name} is"


def relation(rng: random.Random, name: str, kind: str | None = None) -> Relation:
    """Make up a relation of this person, of any kind unless one is asked for, never held out."""
    kind = kind or rng.choice(list(KINDS))
    return Relation(kind, name, value_for(rng, name, KINDS[kind], held=False))


def relations(rng: random.Random, n: int, kind: str | None = None) -> list[Relation]:
    """Make up relations of n different people."""
    return [relation(rng, name, kind) for name in rng.sample(TOLD, n)]


def like_codes(rng: random.Random, n: int) -> list[Relation]:
    """Make up codes of n different people, about three each with the same first digit or two.

    Where all open differently, the first digit tells which code to go on with. A model may learn
    that in place of looking each digit up by the name, and goes wrong when two codes open alike.
    """
    opens = [digits(rng, rng.choice([1, 1, 2])) for _ in range(max(2, n // 3))]
    return [
        Relation("code", name, value_for(rng, name, None, held=False, opens=rng.choice(opens)))
        for name in rng.sample(TOLD, n)
    ]


def looked_up(rng: random.Random, told: Relation) -> tuple[str, Document]:
    """Return the question about a relation and its answer, as a sentence or the value alone."""
    answer = [Piece(f" {told.value}", VALUE), Piece(".", PLAIN)]
    if rng.random() >= DIRECT:
        answer.insert(0, Piece(told.stem, STEM))
    return told.question, answer


def changed(rng: random.Random, before: Relation) -> Relation:
    """Make up another value for the same relation."""
    while True:
        after = relation(rng, before.name, before.kind)
        if after.value != before.value:
            return after
