"""The small world the pocket model learns: simple English, made up here from fixed tables.

A document is a list of `Piece(text, weight)`: the weight is what the training loss multiplies the
piece's tokens by. Everything a writer draws comes from the `random.Random` it is given, so one
seed is one corpus. Look at some with

    python -m kvlab.pocket.world --kind needle --n 3 --seed 0

Three things never occur in what the writers below produce, so that knowing can be told from
remembering: a held-out (person, value) pair in a relation or a pair list, a stranger in either,
and a held-out (country, phrasing) question. A tenth of pairs and questions is held out, by a hash
of their names; strangers are eight people of whom stories are told, but no relation.

The tables are in `words`; `sentences` and `relations` are made of them, and documents of those, in
`stories` and `copying`. `recall` writes the prompts that test. Here all writers stand together.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence

from kvlab.pocket.copying import apart, copy, number_strings, pair, records, repeat
from kvlab.pocket.pieces import NOTHING, PLAIN, STEM, VALUE, Document, Piece
from kvlab.pocket.recall import RecallPrompt, recall_prompt
from kvlab.pocket.relations import Relation
from kvlab.pocket.sentences import facts, filler_sentence, held_out, hidden_in, value_for
from kvlab.pocket.stories import (
    codes,
    counting,
    fact_prose,
    facts_chat,
    far,
    key_value,
    latest,
    long,
    needle,
    profiles,
    prose,
    story,
)
from kvlab.pocket.words import (
    APART,
    COUNTRIES,
    KINDS,
    NAMES,
    PLACES,
    SMALL_TALK,
    STRANGERS,
    SYSTEMS,
    TOLD,
    WEATHER,
    WORDS,
)

__all__ = [
    "APART", "COUNTRIES", "KINDS", "NAMES", "NOTHING", "PLACES", "PLAIN", "SMALL_TALK", "STEM",
    "STRANGERS", "SYSTEMS", "TOLD", "VALUE", "WEATHER", "WORDS", "WRITERS", "Document", "Piece",
    "RecallPrompt", "Relation", "apart", "codes", "document", "facts", "far", "filler_sentence",
    "held_out", "hidden_in", "long", "needle", "prose", "recall_prompt", "records", "text_of",
    "value_for",
]  # fmt: skip

WRITERS: dict[str, Callable[[random.Random, int], Document]] = {
    "facts": facts_chat,
    "fact_prose": fact_prose,
    "prose": prose,
    "story": story,
    "key_value": key_value,
    "codes": codes,
    "needle": needle,
    "profiles": profiles,
    "latest": latest,
    "counting": counting,
    "long": long,
    "copy": copy,
    "repeat": repeat,
    "pair": pair,
    "records": records,
    "apart": apart,
    "numbers": number_strings,
}


def document(rng: random.Random, room: int, mix: dict[str, float]) -> Document:
    """Write one document of a kind drawn with the mix's shares."""
    kind = rng.choices(list(mix), list(mix.values()))[0]
    return WRITERS[kind](rng, room)


def text_of(document: Document) -> str:
    """Join the pieces of a document."""
    return "".join(piece.text for piece in document)


def main(argv: Sequence[str] | None = None) -> None:
    """Print samples of one kind of document."""
    parser = argparse.ArgumentParser("python -m kvlab.pocket.world", description=main.__doc__)
    parser.add_argument("--kind", choices=list(WRITERS), default="needle")
    parser.add_argument("--n", type=int, default=3, help="how many")
    parser.add_argument("--room", type=int, default=110, help="about how many tokens each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", action="store_true", help="show each piece with its weight")
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    for _ in range(args.n):
        written = WRITERS[args.kind](rng, args.room)
        if args.weights:
            print("".join(f"[{p.weight:g}|{p.text}]" for p in written))
        else:
            print(text_of(written))
        print("-" * 20)


if __name__ == "__main__":
    main()
