"""Sentences of the pocket model's world, and what training never sees of it."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence

from kvlab.pocket.words import (
    ANIMALS,
    COLORS,
    COUNTRIES,
    DAYS,
    EVENTS,
    FRUITS,
    LOOKS,
    MONTHS,
    NAMES,
    NUMBERS,
    PHRASINGS,
    PLACES,
    ROYALS,
    THINGS,
    WEATHER,
    Country,
)


# --------------------------------------------------------------------------------- what is held out
def held_out(first: str, second: str) -> bool:
    """Tell whether this pair is one of the tenth that training never sees."""
    return zlib.crc32(f"{first} & {second}".encode()) % 10 == 0


def fact(country: Country, phrasing: int) -> tuple[str, str]:
    """Return one question about a country and its answer."""
    question, answer = PHRASINGS[phrasing]
    return question.format(*country), answer.format(*country)


def facts(*, held: bool) -> list[tuple[str, str]]:
    """List every question about a country with its answer: the trained ones, or the held-out."""
    return [
        fact(country, phrasing)
        for country in COUNTRIES
        for phrasing in range(len(PHRASINGS))
        if held_out(country.name, str(phrasing)) == held
    ]


def value_for(
    rng: random.Random, name: str, values: Sequence[str] | None, *, held: bool, opens: str = ""
) -> str:
    """Draw a value for a person so that the pair is held out, or is not; None means four digits.

    Digits may be given that open the value.
    """
    for _ in range(10_000):
        value = opens + digits(rng, 4 - len(opens)) if values is None else rng.choice(values)
        if held_out(name, value) == held:
            return value
    raise ValueError(f"no {'held-out' if held else 'trained'} value for {name}")


# ---------------------------------------------------------------------------------------- sentences
def digits(rng: random.Random, n: int) -> str:
    """Draw a string of n digits."""
    return "".join(rng.choice("0123456789") for _ in range(n))


def weather_sentence(rng: random.Random) -> str:
    """Write a sentence about today's weather."""
    weather = rng.choice(list(WEATHER))
    does, looks = WEATHER[weather]
    name, city = rng.choice(NAMES), rng.choice(COUNTRIES).capital
    return rng.choice(
        [
            f"Today's weather is so {weather}.",
            f"Today's weather is so {weather} that {name} {does}.",
            f"Today's weather is so {weather} and {looks}.",
            f"The weather is {weather} today, so {name} {does}.",
            f"It is {weather} in {city} and {looks}.",
            f"When the weather is {weather}, {name} {does}.",
        ]
    )


def royal_sentence(rng: random.Random) -> str:
    """Write a sentence about the royal family, or about the band Queen."""
    return rng.choice(ROYALS).format(rng.choice(NAMES), rng.choice(COUNTRIES).name)


def country_sentence(rng: random.Random) -> str:
    """Write a sentence that tells one fact about a country."""
    country, name = rng.choice(COUNTRIES), rng.choice(NAMES)
    return rng.choice(
        [
            f"{country.capital} is the capital of {country.name}.",
            f"The capital of {country.name} is {country.capital}.",
            f"{country.name} is in {country.continent}.",
            f"In {country.name}, people speak {country.language}.",
            f"{name} lives in {country.capital}, the capital of {country.name}.",
            f"{name} traveled to {country.name} and learned {country.language}.",
        ]
    )


def list_sentence(rng: random.Random) -> str:
    """Write a list: counting, days, months, things of one sort, or numbers in a row."""
    which = rng.randrange(5)
    if which == 0:
        return f"Count: {run_of(rng, NUMBERS, 3, 8)}."
    if which == 1:
        return f"The days are {run_of(rng, DAYS * 2, 3, 7)}."
    if which == 2:
        return f"The months are {run_of(rng, MONTHS * 2, 3, 8)}."
    if which == 3:
        sort, members = rng.choice([("fruits", FRUITS), ("animals", ANIMALS), ("colors", COLORS)])
        return f"Some {sort} are {', '.join(rng.sample(members, rng.randint(3, 5)))}."
    return f"Numbers: {run_of(rng, [str(n) for n in range(1, 90)], 3, 8)}."


def run_of(rng: random.Random, items: Sequence[str], low: int, high: int) -> str:
    """Join a run of low to high neighbours of a list by commas."""
    length = rng.randint(low, high)
    start = rng.randrange(len(items) - length + 1)
    return ", ".join(items[start : start + length])


def filler_sentence(rng: random.Random, names: Sequence[str] = NAMES) -> str:
    """Write a sentence in which something harmless happens, and no relation is told."""
    which = rng.randrange(len(EVENTS) + 1)
    if which == len(EVENTS):
        return weather_sentence(rng)
    form, rest = EVENTS[which]
    person, other = rng.choice(names), rng.choice(names)
    thing, place, look = rng.choice(THINGS), rng.choice(PLACES), rng.choice(LOOKS)
    return with_articles(
        form.format(person, other, thing, place, look, rng.choice(rest) if rest else "")
    )


def with_articles(text: str) -> str:
    """Write "an" before a vowel."""
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)


def hidden_in(rng: random.Random, told: list[str], room: int, names: Sequence[str]) -> list[str]:
    """Hide sentences, in their order, in a filler text of about `room` tokens together."""
    sentences: list[str] = []
    length = sum(about_tokens(sentence) for sentence in told)
    while length < room:
        sentences.append(filler_sentence(rng, names))
        length += about_tokens(sentences[-1])
    places = sorted((rng.randint(0, len(sentences)) for _ in told), reverse=True)
    for place, sentence in zip(places, reversed(told), strict=True):
        sentences.insert(place, sentence)
    return sentences


def about_tokens(sentence: str) -> int:
    """Estimate the tokens of a sentence: its words, its digits and its marks."""
    return len(sentence.split()) + sum(not c.isalpha() and c != " " for c in sentence)
