"""6.8: several questions about one text, which is read once. V vocabulary, S new tokens."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import torch

from kvlab.course.author import Exercise, LentModel, pocket_model, tiny_model
from kvlab.course.author.lending import LentCache

Q = Exercise(
    "6.8",
    "Read once, ask often",
    "answer_all",
    points=4,
    minutes=20,
    difficulty=3,
    statement="""
Several people ask about the same story (chapter 6, "Fork and rewind"). Answer each of them as if the story and that one question had been
read alone, but let the model read the story only once.

`story` is a list of ids, `questions` a list of such lists, which go on where the story ends. `model` is as in 6.4: `model.new_cache(1, capacity)`
makes a cache, and `model(tokens_BS, pos_BS, cache)` reads tokens at their positions and returns logits_BSV. This cache has a method besides:
`cache.rewind(length)` forgets all tokens from `length` on. Return a list with one list of ids for each question: always the likeliest token, until
that is `eos`, which is the answer's last token then, and `n_new` tokens at most, one or more. No token that nobody needs is read, the last one of an answer among them; but each question is read,
also one that was asked before. Without questions the answer is an empty list, and the story is not read. About 15 lines.

With a story of 17 tokens and two questions of 10, each answered by 3 tokens, the model reads 17 + 12 + 12 tokens. The last cases are the
pocket model's.
""",
    hints=(
        "What has to be in the cache before each question, and what must not be in it any more? At which position does a "
        "question begin?",
        "One cache for all: read the story at positions 0, 1, ...; then, for each question, rewind to the end of the story, read "
        "the question in one call, and go on token by token as in 6.4.",
        "def read(ids, start): return int(model(torch.tensor([ids]), torch.arange(start, start + len(ids))[None], "
        "cache)[0, -1].argmax()). For each question: cache.rewind(len(story)); said = [read(question, len(story))]; while "
        "said[-1] != eos and len(said) < n_new: said.append(read(said[-1:], len(story) + len(question) + len(said) - 1)). "
        "The cache needs len(story) + the longest question + n_new slots.",
    ),
    imports=("torch",),
    size=lambda case: len(case["story"]) + sum(map(len, case["questions"])),
)
_tiny = lru_cache(8)(tiny_model)  # one model a case, of which nothing is changed


@Q.case
def case(rng):
    """One answer ends at eos before its limit, another does not end."""
    while True:
        seed, n_new = rng.randrange(2**31), rng.randint(4, 6)
        drawn = random.Random(seed)
        story = [drawn.randrange(61) for _ in range(rng.randint(5, 9))]
        lengths = rng.sample([2, 3, 4, 5], 3)
        questions = [[drawn.randrange(61) for _ in range(n)] for n in lengths]
        free = read_alone(LentModel(_tiny(seed)), story, questions, n_new, -1)
        ends = [said[at] for said in free for at in range(1, n_new - 1)]
        for eos in rng.sample(ends, len(ends)):
            places = [said.index(eos) if eos in said else None for said in free]
            if None in places and places[0] != 0 and any(at for at in places if at):
                made = {"story": story, "questions": questions, "n_new": n_new, "eos": eos}
                return {**made, "_seed": seed}


@Q.solution
def answer_all(model, story, questions, n_new, eos):
    """Return the answer to each question as a list of ids."""
    ### BEGIN SOLUTION
    if not questions:
        return []
    cache = model.new_cache(1, len(story) + max(map(len, questions)) + n_new)

    def read(ids, start):
        pos_BS = torch.arange(start, start + len(ids))[None]
        return int(model(torch.tensor([ids]), pos_BS, cache)[0, -1].argmax())

    read(story, 0)
    answers = []
    for question in questions:
        cache.rewind(len(story))
        at = len(story) + len(question)
        said = [read(question, len(story))]
        while said[-1] != eos and len(said) < n_new:
            said.append(read(said[-1:], at + len(said) - 1))
        answers.append(said)
    return answers
    ### END SOLUTION


@Q.right
def read_alone(model, story, questions, n_new, eos):
    """Each question behind the story anew, the whole text at each step."""
    answers = []
    for question in questions:
        text, said = [*story, *question], []
        while len(said) < n_new and (not said or said[-1] != eos):
            tokens_BS = torch.tensor([[*text, *said]])
            pos_BS = torch.arange(tokens_BS.shape[1])[None]
            said.append(int(model(tokens_BS, pos_BS)[0, -1].argmax()))
        answers.append(said)
    return answers


@Q.also_right
def one_text_that_shrinks_and_grows(model, story, questions, n_new, eos):
    room = len(story) + n_new + sum(len(q) for q in questions) + 1
    cache, held, found = model.new_cache(1, room), [], []

    def feed(text):
        nonlocal held
        new = text[len(held) :]
        where = torch.tensor([list(range(len(held), len(text)))])
        logits = model(torch.tensor([new]), where, cache)
        held = list(text)
        return logits[0, -1].topk(1).indices.item()

    for number, question in enumerate(questions):
        if number == 0:
            feed(story)
        cache.rewind(len(story))
        held, text, answer = list(story), story + question, []
        for _ in range(n_new):
            answer.append(feed(text))
            text = text + answer[-1:]
            if answer[-1] == eos:
                break
        found.append(answer)
    return found


# --- what is lent ---


class Rewindable(LentCache):
    """A lent cache that can go back."""

    lends = ("rewind",)

    def rewind(self, length: int) -> None:
        if isinstance(length, bool) or not isinstance(length, int):
            raise ValueError(f"rewind was given {str(length)[:80]}; expected a whole number")
        self.inner.rewind(length)


class Model(LentModel):
    def new_cache(self, batch: int, capacity: int) -> Rewindable:
        return Rewindable(super().new_cache(batch, capacity).inner)


# --- laws ---


ANSWER, PLACES = "answer to question {}, as ids", "positions of the tokens read, in order"


def _driven(answer, what, case) -> dict[str, Any]:
    """The answers, and at which positions tokens were read, one after the other."""
    inner, *given = what(case)
    model = Model(inner)
    came = answer(model, *given)
    came = came if isinstance(came, list) else [came]
    seen = {"number of answers": len(came)}
    seen |= {ANSWER.format(i): one for i, one in enumerate(came)}
    return seen | {PLACES: [at for _, pos in model.calls for at in pos]}


def _of_right(what):
    """The answers of the slow way, with the positions that an honest one reads."""

    def expected(case, _outcome):
        inner, *given = what(case)
        (story, questions), answers = given[:2], read_alone(LentModel(inner), *given)
        places, start = list(range(len(story))) if questions else [], len(story)
        for question, said in zip(questions, answers, strict=True):
            places += range(start, start + len(question) + len(said) - 1)
        seen = {"number of answers": len(answers)}
        seen |= {ANSWER.format(i): one for i, one in enumerate(answers)}
        return seen | {PLACES: places}

    return expected


def _from(give):
    """A law's questions and the rest, of a case's story, questions and numbers; -1 is never written."""

    def what(case):
        given = (case[name] for name in ("story", "questions", "n_new", "eos"))
        return _tiny(case["_seed"]), *give(*given)

    return what


def _eos_at_once(case):
    inner, given = _tiny(case["_seed"]), (case["story"], case["questions"][:1])
    first = read_alone(LentModel(inner), *given, 1, -1)[0][0]
    return inner, *given, case["n_new"], first


NAMES = ("Anna", "Tom", "Lucy", "Peter", "Ruth", "Quinn")
WORDS = ("tiger", "lemon", "rope", "candle", "river", "apple")


def _passwords(case):
    rng = random.Random(case["_seed"])
    model, tokenizer = pocket_model()
    names, words = rng.sample(NAMES, 3), rng.sample(WORDS, 3)
    told = " ".join(f"The password of {a} is {b}." for a, b in zip(names, words, strict=True))
    questions = [
        tokenizer.encode(f"\nUser: What is the password of {name}?\nAssistant:", special=False)
        for name in names
    ]
    eos = model.config.eos_ids[0]
    return model, tokenizer.encode(f"Facts: {told}"), questions, 12, eos


for says, what in {
    "answers as if each question were alone, and the story read once": _from(lambda *given: given),
    "answers of one token": _from(lambda story, asked, n_new, eos: (story, asked, 1, -1)),
    "an eos that never comes": _from(lambda story, asked, n, eos: (story, asked[:2], n, -1)),
    "an eos at once": _eos_at_once,
    "a story of one token": _from(lambda story, asked, n, eos: (story[:1], asked, n, -1)),
    "questions of one token": _from(
        lambda story, asked, n, eos: (story, [q[:1] for q in asked], n, -1)
    ),
    "the same question twice": _from(lambda story, asked, n, eos: (story, [asked[1]] * 2, n, -1)),
    "no question": _from(lambda story, asked, n, eos: (story, [], n, eos)),
    "the pocket model and its passwords": _passwords,
}.items():
    Q.law(says, expect=_of_right(what))(lambda answer, case, what=what: _driven(answer, what, case))


# --- what goes wrong: each changes one thing of this ---


def _answer(
    model, story, questions, n_new, eos, *, back=lambda n: n, start=lambda n, done: n, anew=False,
    ends=True, shown=True, feeds_last=lambda ended: False, reads_story=True, rewinds=True,
):  # fmt: skip
    room = len(story) + sum(map(len, questions)) + (len(questions) + 1) * (n_new + 1)
    cache, answers, done = model.new_cache(1, 2 * room), [], 0

    def read(ids, at):
        pos_BS = torch.arange(at, at + len(ids))[None]
        return int(model(torch.tensor([ids]), pos_BS, cache)[0, -1].argmax())

    if questions and reads_story and not anew:
        read(story, 0)
    for question in questions:
        if anew:
            cache = model.new_cache(1, room)
            read(story, 0)
        elif rewinds:
            cache.rewind(back(len(story)) if reads_story else 0)
        at = start(len(story), done)
        said = [read(question, at)]
        while len(said) < n_new and not (ends and said[-1] == eos):
            said.append(read(said[-1:], at + len(question) + len(said) - 1))
        if feeds_last(said[-1] == eos):
            read(said[-1:], at + len(question) + len(said) - 1)
        done += len(question) + len(said) - 1
        answers.append([t for t in said if shown or t != eos])
    return answers


Q.mistakes(
    _answer,
    {
        "the next question is read behind the answer before it: rewind to the end of the story "
        "first.": {"rewinds": False, "start": lambda n, done: n + done},
        "the cache is not rewound: the question before is still in it, at the same positions.": {
            "rewinds": False
        },
        "the story is read again for each question; once is enough, its keys and values stay.": {
            "anew": True
        },
        "the questions' positions begin at 0 again; they go on where the story ends.": {
            "start": lambda n, done: 0
        },
        "the questions stand one position too far on: the story ends at len(story) - 1.": {
            "start": lambda n, done: n + 1
        },
        "rewind goes back too far: the last token of the story is forgotten as well.": {
            "back": lambda n: n - 1
        },
        "everything is forgotten before each question, the story too.": {"back": lambda n: 0},
        "the story is never read.": {"reads_story": False},
        "the answer goes on behind eos.": {"ends": False},
        "eos belongs to the answer, as its last token.": {"shown": False},
        "the last token of each answer is read as well, though nobody asks what follows it.": {
            "feeds_last": lambda ended: True
        },
        "where n_new ends an answer its last token is read for nothing.": {
            "feeds_last": lambda ended: not ended
        },
    },
)
