"""Documents to copy from, one writer a kind: lists said again, and pairs looked up by their first.

`room` is about how many tokens the document may take; a writer of short documents ignores it.
"""

from __future__ import annotations

import random

from kvlab.pocket.pieces import COPIED, NOISE, PLAIN, STEM, Document, Piece
from kvlab.pocket.sentences import digits, held_out, value_for
from kvlab.pocket.words import APART, CLOSE, NAMES, NUMBERS, PLACES, TOLD, WORDS


def some_words(rng: random.Random, low: int, high: int) -> list[str]:
    """Draw low to high words, with repetition, from one of a few pools."""
    pool = rng.choice([NAMES, WORDS, NAMES + WORDS + PLACES + NUMBERS])
    return [rng.choice(pool) for _ in range(rng.randint(low, high))]


def copy(rng: random.Random, room: int) -> Document:
    """Ask for a list of words, or of single digits, once more."""
    words = some_words(rng, 4, 24)
    if rng.random() < 0.3:
        words = [digits(rng, 1) for _ in words]
    first, rest = f" {words[0]}", "".join(f" {word}" for word in words[1:])
    listed = Piece(f"Repeat:{first}{rest}\nAgain:", NOISE)
    return [listed, Piece(first, PLAIN), Piece(rest, COPIED)]


def repeat(rng: random.Random, room: int) -> Document:
    """Say a short list of words over and over."""
    text = "".join(f" {word}" for word in some_words(rng, 3, 12))
    times = max(1, min(6, room // (len(text.split()) + 1) - 1))
    return [Piece(text, NOISE)] + [Piece(text, STEM)] * times


def pair(rng: random.Random, room: int) -> Document:
    """Say who goes with what, "Anna tiger, Tom lion,", then say it again in another order."""
    return said_twice(rng, _pairs(rng))


def records(rng: random.Random, room: int) -> Document:
    """Pair people with two to four words or digits each, many of which go on alike."""
    return said_twice(rng, _records(rng))


def apart(rng: random.Random, room: int) -> Document:
    """Pair likewise, with words between, "Anna went to the tiger,"; at times other words again."""
    pairs = _pairs(rng) if rng.random() < 0.7 else _records(rng)
    told = asked = rng.choice(APART)
    if rng.random() < 0.3:
        asked = rng.choice(APART)
    return said_twice(rng, pairs, told, asked)


def _pairs(rng: random.Random) -> list[tuple[str, str]]:
    names = rng.sample(TOLD, rng.randint(2, 8))
    return [(name, value_for(rng, name, WORDS + PLACES, held=False)) for name in names]


def _records(rng: random.Random) -> list[tuple[str, str]]:
    """Pair people with two to four digits or words from a handful.

    What comes next can then be looked up by the name, and not by what came last: going on from
    another person's word or digit of the same sort is wrong as often as not.
    """
    names = rng.sample(TOLD, rng.randint(2, 6))
    pool, join = (list("0123456789"), "") if rng.random() < 0.5 else (WORDS, " ")
    few = rng.sample(pool, rng.randint(3, 5))
    length = rng.randint(2, 4)
    pairs: list[tuple[str, str]] = []
    for name in names:
        free = [one for one in few if not held_out(name, one)]
        value = join.join(rng.choice(free) for _ in range(length)) if free else ""
        if value and not held_out(name, value):
            pairs.append((name, value))
    return pairs or _pairs(rng)


def said_twice(
    rng: random.Random,
    pairs: list[tuple[str, str]],
    told: str | None = None,
    asked: str | None = None,
    most: int = 8,
) -> Document:
    """Say all pairs, then draw some of them again: the second value can be looked up."""
    told = rng.choice(CLOSE) if told is None else told
    asked = told if asked is None else asked
    document = [Piece("Pairs:", PLAIN)]
    document += [Piece(f" {name}{told} {value},", NOISE) for name, value in pairs]
    for _ in range(min(most, len(pairs))):
        name, value = rng.choice(pairs)
        document += [Piece(f" {name}{asked}", NOISE), Piece(f" {value}", 4.0), Piece(",", NOISE)]
    return document


def number_strings(rng: random.Random, room: int) -> Document:
    """Copy, repeat or pair strings of two to six digits, which occur nowhere else but in codes."""
    draw = lambda: digits(rng, rng.choice([2, 3, 4, 4, 4, 4, 5, 6]))  # noqa: E731
    dice = rng.random()
    if dice < 0.45:
        text = "".join(f" {draw()}" for _ in range(rng.randint(2, 6)))
        return [Piece(f"Repeat:{text}\nAgain:", NOISE), Piece(text, COPIED)]
    if dice < 0.6:
        text = "".join(f" {draw()}" for _ in range(rng.randint(1, 4)))
        return [Piece(text, NOISE)] + [Piece(text, STEM)] * rng.randint(1, 3)
    names = rng.sample(TOLD, rng.randint(2, 6))
    pairs = [(name, value_for(rng, name, None, held=False)) for name in names]
    return said_twice(rng, pairs, most=4)
