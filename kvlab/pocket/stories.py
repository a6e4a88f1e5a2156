"""Documents to answer from, one writer a kind: facts, prose, stories and hidden needles.

`room` is about how many tokens the document may take; a writer of short documents ignores it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from kvlab.pocket.pieces import (
    NOISE,
    PLAIN,
    STEM,
    VALUE,
    Document,
    Piece,
    chat,
    story_then_questions,
    system,
)
from kvlab.pocket.relations import (
    Relation,
    changed,
    like_codes,
    looked_up,
    relation,
    relations,
)
from kvlab.pocket.sentences import (
    country_sentence,
    facts,
    filler_sentence,
    hidden_in,
    list_sentence,
    royal_sentence,
    weather_sentence,
    with_articles,
)
from kvlab.pocket.words import ANIMALS, KINDS, NAMES, NUMBERS, PLACES, SMALL_TALK, THINGS, TOLD


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
