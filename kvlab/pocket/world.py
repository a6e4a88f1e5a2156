"""The small world the pocket model learns: simple English, made up here from fixed tables.

A document is a list of `Piece(text, weight)`: the weight is what the training loss multiplies the
piece's tokens by. Everything a writer draws comes from the `random.Random` it is given, so one
seed is one corpus. Look at some with

    python -m kvlab.pocket.world --kind needle --n 3 --seed 0

Three things never occur in what the writers below produce, so that knowing can be told from
remembering: a held-out (person, value) pair in a relation or a pair list, a stranger in either,
and a held-out (country, phrasing) question. A tenth of pairs and questions is held out, by a hash
of their names; strangers are eight people of whom stories are told, but no relation.
"""

# ruff: noqa: SIM905  (tables of words are easier to read, and to add to, as text)

from __future__ import annotations

import argparse
import random
import re
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

# ---------------------------------------------------------------- what the loss is multiplied by
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

# ------------------------------------------------------------------------------------- the tables
NAMES = """
Aaron Adam Albert Alice Amy Anna Ben Bella Betty Boris Bruno Carl Chris Clara Cora Daniel Daisy Dean
Diana Dora Edgar Ella Emil Emma Erik Eva Faye Felix Finn Fiona Flora Frank Gavin George Gina Glen
Grace Hank Hanna Hazel Helen Henry Holly Hugo Ian Igor Ingrid Iris Ivan Ivy Jack Jane Jill Joan John
Jonas Julia Karl Kate Kevin Kurt Laura Lena Leo Linda Louis Lucy Mabel Maria Mark Martin Mary Max
Mike Mona Nick Nina Noah Nora Olga Oscar Otto Owen Paul Paula Peter Philip Quinn Rachel Rita Rosa
Ruth Sam Sara Simon Sophie Stan Steve Tara Ted Theo Tina Tom Uma Ursula Vera Victor Vince Wade
Walter Wendy Yara Yuri Zoe
""".split()
STRANGERS = "Bella Emil Finn Hazel Jonas Mona Stan Yara".split()
TOLD = [name for name in NAMES if name not in STRANGERS]  # those who may have a relation
ANIMALS = """
tiger lion horse eagle rabbit monkey camel whale zebra snake mouse sheep goat duck wolf bear panda
turtle shark parrot
""".split()
FRUITS = "apple banana cherry lemon orange grape mango peach plum melon".split()
COLORS = "red blue green yellow black white brown pink purple gray".split()
THINGS = """
ring ball book lamp coin map cup knife bottle letter hat box drum rope watch basket mirror candle
flute shoe
""".split()
PLACES = """
garden kitchen school market park library forest station museum castle river beach farm tower bridge
church hotel office theater harbor
""".split()
WORDS = ANIMALS + FRUITS + COLORS + THINGS
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """
January February March April May June July August September October November December
""".split()
LOOKS = "old new small big heavy bright pretty strange broken clean".split()
FEELINGS = "happy sad tired hungry angry calm proud afraid".split()


class Country(NamedTuple):
    """A country, its capital, the language spoken there, the continent it lies in."""

    name: str
    capital: str
    language: str
    continent: str


COUNTRIES = [
    Country(*row.split(", "))
    for row in """
France, Paris, French, Europe
Germany, Berlin, German, Europe
Italy, Rome, Italian, Europe
Spain, Madrid, Spanish, Europe
Portugal, Lisbon, Portuguese, Europe
England, London, English, Europe
Ireland, Dublin, English, Europe
Greece, Athens, Greek, Europe
Poland, Warsaw, Polish, Europe
Sweden, Stockholm, Swedish, Europe
Norway, Oslo, Norwegian, Europe
Finland, Helsinki, Finnish, Europe
Denmark, Copenhagen, Danish, Europe
Austria, Vienna, German, Europe
Hungary, Budapest, Hungarian, Europe
Russia, Moscow, Russian, Europe
Ukraine, Kyiv, Ukrainian, Europe
Turkey, Ankara, Turkish, Asia
Japan, Tokyo, Japanese, Asia
China, Beijing, Chinese, Asia
India, Delhi, Hindi, Asia
Thailand, Bangkok, Thai, Asia
Vietnam, Hanoi, Vietnamese, Asia
Iran, Tehran, Persian, Asia
Iraq, Baghdad, Arabic, Asia
Korea, Seoul, Korean, Asia
Egypt, Cairo, Arabic, Africa
Kenya, Nairobi, Swahili, Africa
Ghana, Accra, English, Africa
Senegal, Dakar, French, Africa
Morocco, Rabat, Arabic, Africa
Canada, Ottawa, English, America
Mexico, Mexico City, Spanish, America
Cuba, Havana, Spanish, America
Brazil, Brasilia, Portuguese, America
Peru, Lima, Spanish, America
Chile, Santiago, Spanish, America
Colombia, Bogota, Spanish, America
Argentina, Buenos Aires, Spanish, America
Australia, Canberra, English, Oceania
""".strip().splitlines()
]

# {0} country, {1} capital, {2} language, {3} continent
PHRASINGS = [
    ("What is the capital of {0}?", "The capital of {0} is {1}."),
    ("Tell me the capital of {0}.", "The capital of {0} is {1}."),
    ("Which city is the capital of {0}?", "The capital of {0} is {1}."),
    ("Do you know the capital of {0}?", "Yes. The capital of {0} is {1}."),
    ("What language do people speak in {0}?", "People in {0} speak {2}."),
    ("Where is {0}?", "{0} is a country in {3}."),
    ("In which country is {1}?", "{1} is the capital of {0}."),
]
SMALL_TALK = [
    ("How are you?", "I am fine, thank you."),
    ("Who are you?", "I am a small language model."),
    ("What can you do?", "I can answer simple questions."),
    ("Hello!", "Hello! How can I help you?"),
    ("Thank you.", "You are welcome."),
    ("How many days are in a week?", "There are seven days in a week."),
    ("How many months are in a year?", "There are twelve months in a year."),
    ("Which day comes after Monday?", "Tuesday comes after Monday."),
    ("Which month comes after June?", "July comes after June."),
    ("What color is the sky?", "The sky is blue."),
    ("What color is grass?", "Grass is green."),
    ("What color is snow?", "Snow is white."),
    ("What color is a banana?", "A banana is yellow."),
    ("Who is the wife of the king?", "The wife of the king is the queen."),
    ("Who is the husband of the queen?", "The husband of the queen is the king."),
    ("Who is the son of the king?", "The son of the king is the prince."),
    ("Who is the daughter of the queen?", "The daughter of the queen is the princess."),
    ("What does a cat say?", "A cat says meow."),
    ("What does a dog say?", "A dog says woof."),
    ("What is a lion?", "A lion is an animal."),
    ("What is an apple?", "An apple is a fruit."),
]
SYSTEMS = [
    "You are helpful.",
    "You are a helpful assistant.",
    "Answer the question.",
    "You are kind and brief.",
]
# weather: what a person does in it, what the world looks like
WEATHER = {
    "hot": ("drinks cold water", "the sun burns"),
    "cold": ("wears a warm coat", "the river is ice"),
    "rainy": ("takes an umbrella", "the streets are wet"),
    "sunny": ("goes to the beach", "the sky is blue"),
    "windy": ("holds the hat", "the leaves fly"),
    "snowy": ("builds a snowman", "the roads are white"),
    "nice": ("walks in the park", "the birds sing"),
    "bad": ("stays at home", "the park is empty"),
    "warm": ("eats ice cream", "the flowers open"),
    "foggy": ("drives slowly", "the hills are gone"),
}
# {0} a person, {1} a country: the family in the castle, and the band that shares a word with it
ROYALS = [
    "The king wears a gold crown.",
    "The queen wears a gold crown.",
    "The king and the queen live in the castle.",
    "The queen is the wife of the king.",
    "The king is the husband of the queen.",
    "The prince is the son of the king and the queen.",
    "The princess is the daughter of the king and the queen.",
    "The queen of {1} rules the land. {0} met her.",
    "The king of {1} rules the land. {0} met him.",
    "The queen sat on the throne and {0} bowed.",
    "The king sat on the throne and {0} bowed.",
    "A man can be a king. A woman can be a queen.",
    "The king is a man. The queen is a woman.",
    "The band Queen played a loud song.",
    "The singer of the band Queen sang on the stage.",
    "{0} bought a record of the band Queen and listened to the music.",
]
# {0} {1} people, {2} a thing, {3} a place, {4} a look, {5} any of the rest
EVENTS = [
    ("{0} went to the {3}.", None),
    ("{0} and {1} walked to the {3}.", None),
    ("{0} saw a {4} {2} in the {3}.", None),
    ("{0} was {5} because the {2} was {4}.", FEELINGS),
    ("{0} gave the {2} to {1}.", None),
    ("{0} asked {1} about the {2}.", None),
    ("Then {0} came back from the {3}.", None),
    ("In the morning {0} worked at the {3}.", None),
    ("In the evening {0} ate the {5} at the {3}.", FRUITS),
    ("{0} likes the {5} {2}.", COLORS),
    ("A {5} slept near the {3}.", ANIMALS),
    ("{0} bought a {4} {2} on {5}.", DAYS),
    ("The {3} is very {4}.", None),
]
# every kind of relation reads the same: "The <kind> of <person> is <value>."
KINDS: dict[str, list[str] | None] = {
    "password": WORDS,
    "code": None,  # four digits
    "color": COLORS,
    "pet": ANIMALS,
    "place": PLACES,
}
LABELS = ["Story:", "Facts:", "Read:"]
# what stands between a name and what is paired with it: close by, or nothing to four words away, so
# that no fixed distance leads from the one to the other
CLOSE = ["", "", ":", " has", " ->", " is"]
APART = [
    *CLOSE,
    *(" has the", " took the", " is in the", " went to the", " ran to the", " was here with the"),
    *(" now has the old", " came back from the", " walked to the old"),
]
ONE_LINE = 0.3  # share of chats written on one line, as "System: … User: … Assistant: …"
DIRECT = 0.5  # share of looked-up answers that are the value alone


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


# ---------------------------------------------------------------------------------------- relations
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


# -------------------------------------------------------------------------------------------- chats
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


# ------------------------------------------------------------------ documents, one writer a kind
# `room` is about how many tokens the document may take; a writer of short documents ignores it.
def facts_chat(rng: random.Random, room: int) -> Document:
    """Ask one to four things that every document agrees about."""
    turns = []
    for _ in range(rng.randint(1, 4)):
        question, answer = rng.choice(TRAINED_FACTS if rng.random() < 0.8 else SMALL_TALK)
        turns.append((question, [Piece(f" {answer}", STEM)]))
    return chat(rng, turns, system(rng, 0.6))


TRAINED_FACTS = facts(held=False)


def fact_prose(rng: random.Random, room: int) -> Document:
    """Tell a few facts about countries."""
    return [Piece(" ".join(country_sentence(rng) for _ in range(rng.randint(2, 5))), PLAIN)]


def prose(rng: random.Random, room: int) -> Document:
    """Write about the weather, the royal family, lists, or what people did; at times at length."""
    writer, low, high = rng.choices(
        [
            (weather_sentence, 1, 5),
            (royal_sentence, 2, 6),
            (list_sentence, 1, 4),
            (filler_sentence, 3, 9),
        ],
        [0.25, 0.25, 0.2, 0.3],
    )[0]
    n = rng.randint(low, max(high, room // 14) if rng.random() < 0.3 else high)
    return [Piece(" ".join(writer(rng) for _ in range(n)), PLAIN)]


def story(rng: random.Random, room: int) -> Document:
    """Move people about and let them take things; ask who is where and who has what."""
    names = rng.sample(NAMES, rng.randint(2, 4))
    where: dict[str, str] = {}
    holds: dict[str, str] = {}
    sentences = []
    for _ in range(rng.randint(3, 9)):
        name, dice = rng.choice(names), rng.random()
        if name not in where or dice < 0.5:
            where[name] = rng.choice(PLACES)
            verb = rng.choice(["went to", "ran to", "is in"])
            sentences.append(f"{name} {verb} the {where[name]}.")
        elif dice < 0.8:
            holds[name] = rng.choice(THINGS)
            sentences.append(f"{name} {rng.choice(['took', 'picked up'])} the {holds[name]}.")
        else:
            others = [other for other in NAMES if other not in names]
            sentences.append(filler_sentence(rng, others))
    asked = [(f"Where is {n}?", f" {n} is in the", v) for n, v in where.items()]
    asked += [(f"What does {n} have?", f" {n} has the", v) for n, v in holds.items()]
    rng.shuffle(asked)
    turns = [
        (question, [Piece(stem, STEM), Piece(f" {value}", VALUE), Piece(".", PLAIN)])
        for question, stem, value in asked[: rng.randint(1, 4)]
    ]
    return story_then_questions(rng, sentences, turns)


def key_value(rng: random.Random, room: int) -> Document:
    """Tell relations one after the other, then ask about some; often all are of one kind."""
    n = _how_many(rng, room)
    kind = None if rng.random() < 0.6 else rng.choice(list(KINDS))
    return _told_then_asked(rng, relations(rng, n, kind))


def codes(rng: random.Random, room: int) -> Document:
    """Tell codes only, then ask about some."""
    return _told_then_asked(rng, like_codes(rng, _how_many(rng, min(room, 200))))


def _how_many(rng: random.Random, room: int) -> int:
    return rng.randint(2, max(3, min(30, room // 14)))


def _told_then_asked(rng: random.Random, told: list[Relation]) -> Document:
    sentences = []
    for one in told:
        if rng.random() < 0.2:
            sentences.append(filler_sentence(rng))
        sentences.append(one.sentence)
    n_asked = min(len(told), rng.randint(1, max(2, len(told) // 2)))
    asked = rng.sample(told, n_asked)
    return story_then_questions(rng, sentences, [looked_up(rng, one) for one in asked])


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


def needle(rng: random.Random, room: int) -> Document:
    """Hide one to four relations in a filler text of any length, then ask about some."""
    n = rng.randint(1, 4)
    kind = None if rng.random() < 0.5 else rng.choice(list(KINDS))
    told = relations(rng, n, kind)
    length = rng.randint(40, max(60, room - 60))
    sentences = hidden_in(rng, [one.sentence for one in told], length, NAMES)
    asked = rng.sample(told, rng.randint(1, n))
    return story_then_questions(rng, sentences, [looked_up(rng, one) for one in asked])


def profiles(rng: random.Random, room: int) -> Document:
    """Tell two or three things about each of some people: kind and name decide together."""
    people = rng.sample(TOLD, rng.randint(2, max(2, min(6, room // 45))))
    told = [
        relation(rng, name, kind)
        for name in people
        for kind in rng.sample(list(KINDS), rng.randint(2, 3))
    ]
    rng.shuffle(told)
    sentences = hidden_in(rng, [one.sentence for one in told], _some_room(rng, room), NAMES)
    asked = rng.sample(told, rng.randint(1, min(4, len(told))))
    return story_then_questions(rng, sentences, [looked_up(rng, one) for one in asked])


def latest(rng: random.Random, room: int) -> Document:
    """Tell relations that change, "Now the code of Anna is 4821."; ask what holds now."""
    kind = None if rng.random() < 0.3 else rng.choice(list(KINDS))
    people = rng.sample(TOLD, rng.randint(2, max(2, min(5, room // 40))))
    turns = [name for name in people for _ in range(rng.choice([1, 2, 2, 3]))]
    rng.shuffle(turns)
    now: dict[str, Relation] = {}
    sentences = []
    for name in turns:
        before = now.get(name)
        now[name] = changed(rng, before) if before else relation(rng, name, kind)
        sentences.append(now[name].changed_sentence if before else now[name].sentence)
    sentences = hidden_in(rng, sentences, _some_room(rng, room), NAMES)
    asked = rng.sample(list(now.values()), rng.randint(1, len(now)))
    turns = [(one.question_now, looked_up(rng, one)[1]) for one in asked]
    return story_then_questions(rng, sentences, turns)


def changed(rng: random.Random, before: Relation) -> Relation:
    """Make up another value for the same relation."""
    while True:
        after = relation(rng, before.name, before.kind)
        if after.value != before.value:
            return after


def counting(rng: random.Random, room: int) -> Document:
    """Let people see animals, one to six each; ask how many somebody saw."""
    people = rng.sample(NAMES, rng.randint(1, 3))
    seen = [name for name in people for _ in range(rng.randint(1, 6))]
    rng.shuffle(seen)
    others = [name for name in NAMES if name not in people]
    told = [with_articles(f"{name} saw a {rng.choice(ANIMALS)}.") for name in seen]
    sentences = hidden_in(rng, told, _some_room(rng, room), others)
    turns = []
    for name in rng.sample(people, len(people)):
        n = seen.count(name)
        answer = [
            Piece(f" {name} saw", STEM),
            Piece(f" {NUMBERS[n - 1]}", VALUE),
            Piece(" animals." if n > 1 else " animal.", PLAIN),
        ]
        turns.append((f"How many animals did {name} see?", answer))
    return story_then_questions(rng, sentences, turns)


def _some_room(rng: random.Random, room: int) -> int:
    """Draw how long a text with few facts should get: often no longer than they are."""
    return 0 if rng.random() < 0.5 else rng.randint(0, max(0, room - 60))


def long(rng: random.Random, room: int) -> Document:
    """Fill the room with a text in which two to ten relations hide, mostly of one kind."""
    n = rng.randint(2, 10)
    kind = None if rng.random() < 0.3 else rng.choice(list(KINDS))
    return _filled(rng, room, relations(rng, n, kind))


def far(rng: random.Random, room: int) -> Document:
    """Fill the room likewise, but some of the relations open the text, and all of these are asked.

    Every other text is about codes, whose four digits are the hardest to carry so far.
    """
    n = rng.randint(2, 10)
    of_codes = rng.random() < 0.5
    told = like_codes(rng, n) if of_codes else relations(rng, n, rng.choice(list(KINDS)))
    n_first = rng.randint(1, min(4, n))
    return _filled(rng, room, told[n_first:], told[:n_first])


def _filled(
    rng: random.Random, room: int, told: list[Relation], first: Sequence[Relation] = ()
) -> Document:
    """Hide relations in a long text, after those that open it; ask for these, and for some more."""
    inside = {one.name for one in [*first, *told]}
    names = NAMES if rng.random() < 0.5 else [name for name in NAMES if name not in inside]
    length = int((room - 60) * rng.uniform(0.55, 1.0))
    sentences = [one.sentence for one in first]
    sentences += hidden_in(rng, [one.sentence for one in told], length, names)
    n_more = max(0, rng.randint(2, 5) - len(first))
    asked = rng.sample(told, min(len(told), n_more))
    for one in first:
        asked.insert(rng.randint(0, len(asked)), one)
    turns = [looked_up(rng, one) for one in asked]
    return story_then_questions(rng, sentences, turns, NOISE)


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


# ---------------------------------------------------------------------------------- recall, to test
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
    sentences: list[str] = []
    while n_tokens:
        sentence = filler_sentence(rng)
        used += count_tokens(f" {sentence}")
        if used > n_tokens:
            break
        sentences.append(sentence)
    for one in [*(one for one in told if one != asked), asked]:
        place = rng.random() if depth is None or one != asked else depth
        sentences.insert(round(place * len(sentences)), one.sentence)
    in_order = sorted(told, key=lambda one: sentences.index(one.sentence))
    prompt = f"Story: {' '.join(sentences)}{question}"
    return RecallPrompt(prompt, asked.stem, f" {asked.value}", asked, in_order)


def _distinct(
    rng: random.Random, n: int, kind: str, held: bool, names: Sequence[str]
) -> list[Relation]:
    """Make up relations of n people with n values, their pairs held out or not."""
    values = KINDS[kind] or [digits(rng, 4) for _ in range(50 * n)]
    told: list[Relation] = []
    for name in rng.sample(names, len(names)):
        taken = {one.value for one in told}
        free = [v for v in values if v not in taken and held_out(name, v) == held]
        if len(told) < n and free:
            told.append(Relation(kind, name, rng.choice(free)))
    if len(told) < n:
        raise ValueError(f"{n} different values were asked for, {kind!r} has {len(told)} to give")
    return told


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
