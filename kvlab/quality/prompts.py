"""What is asked: texts that are read and pruned, and what is fed and scored after that."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvlab import checks
from kvlab.tokenizer import Tokenizer


@dataclass(frozen=True)
class Question:
    """A text and a question about it, as strings that follow each other.

    `stem` begins the answer, `value` is the one right end of it. `depth` is the share of the text
    before the place where the value was told.
    """

    text: str
    question: str
    stem: str
    value: str
    depth: float
    opens: bool = False  # the text begins with all that a text of this tokenizer begins with


@dataclass(frozen=True)
class Prompts:
    """What is read and then pruned, what is fed after that, and how many of its last are scored.

    The last token of a rest is a right answer, never fed. `question` is "visible" or "unseen".
    """

    texts: list[list[int]]
    rests: list[list[int]]
    scored: list[int]
    question: str
    depths: list[float] | None = None

    def __post_init__(self) -> None:
        for name in ("texts", "rests", "scored"):
            checks.listed(name, getattr(self, name))
        for text, rest, n in zip(self.texts, self.rests, self.scored, strict=True):
            checks.listed("A text", text), checks.listed("A rest", rest)
            checks.whole("An entry of scored", n, None)
            if not len(text) or not 0 < n < len(rest):
                raise ValueError(
                    f"A prompt of {len(text)} tokens came with a rest of {len(rest)} and {n} to "
                    "score; expected a text, and at least one more token fed than scored."
                )

    @property
    def mean_tokens(self) -> float:
        """Tokens that a method prunes, on average."""
        return sum(map(len, self.texts)) / len(self.texts)


def _tokenizer(name: str, value: object) -> None:
    """Refuse what encodes nothing."""
    if not hasattr(value, "inner"):
        raise ValueError(f"{name} is {checks.shown(value)}; expected a Tokenizer.")


@checks.takes(tokenizer=_tokenizer, questions=checks.listed, visible=bool, first=checks.ids)
def asked(
    tokenizer: Tokenizer, questions: Sequence[Question], visible: bool, first: Sequence[int] = ()
) -> Prompts:
    """Questions as tokens: pruned before the question or, where it is visible, after it.

    `first` are ids that open every text (BOS) that does not open itself. A token that belongs to
    both sides of a cut counts as the later one.
    """
    texts, rests, scored = [], [], []
    for q in questions:
        checks.kind("One of questions", q, Question, "a Question")
        whole = q.text + q.question + q.stem + q.value
        cut = len(q.text) + len(q.question) * visible
        encoding = tokenizer.inner.encode(whole, add_special_tokens=False)
        ends = [end for _, end in encoding.offsets]
        n_text = sum(end <= cut for end in ends)
        texts.append([*(() if q.opens else first), *encoding.ids[:n_text]])
        rests.append(encoding.ids[n_text:])
        scored.append(sum(end > len(whole) - len(q.value) for end in ends))
    depths = [q.depth for q in questions]
    return Prompts(texts, rests, scored, "visible" if visible else "unseen", depths)


@checks.takes(
    ids=checks.ids,
    rng=random.Random,
    n_prompts=checks.whole,
    n_tokens=checks.whole,
    n_next=checks.whole,
)
def continuations(
    ids: Sequence[int], rng: random.Random, n_prompts: int, n_tokens: int, n_next: int,
    first: Sequence[int] = (),
) -> Prompts:  # fmt: skip
    """Pieces of a long text: `n_tokens` are pruned, of the next ones all but one are scored.

    Raises: ValueError when the text is too short for one piece.
    """
    checks.listed("ids", ids), checks.listed("first", first)
    n_own, longest = n_tokens - len(first), len(ids) - (n_tokens - len(first)) - n_next
    if longest < 0 or n_own < 1 or n_next < 2:
        raise ValueError(
            f"The text has {len(ids)} tokens; pieces of {n_own} and {n_next} more were asked for. "
            "Give a longer text, or ask for fewer tokens."
        )
    starts = [rng.randint(0, longest) for _ in range(n_prompts)]
    return Prompts(
        [[*first, *ids[at : at + n_own]] for at in starts],
        [list(ids[at + n_own : at + n_own + n_next]) for at in starts],
        [n_next - 1] * n_prompts,
        "unseen",
    )


NAMES = "Alice Ben Clara David Emma Frank Grace Henry Irene Jack Kate Leo Mary Noah Olivia Paul"
WORDS = "apple river candle tiger garden silver window forest butter summer bridge yellow rocket"
FILLER = (
    "The train to the coast was late again and the platform was full.",
    "In the evening they sat by the fire and talked about old friends.",
    "The shop on the corner sells bread, milk and newspapers.",
    "It rained all morning, so the children played inside.",
    "A small boat crossed the lake while the sun went down.",
    "The teacher wrote a long sentence on the board.",
    "Nobody knew who had left the door open that night.",
    "The cat slept on the warm stones behind the house.",
    "They walked along the river until they reached the old mill.",
    "The letter arrived on Monday, two weeks after it was sent.",
)


@checks.takes(
    tokenizer=_tokenizer, rng=random.Random, n_prompts=checks.whole, n_tokens=checks.whole
)
def plain_questions(
    tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int
) -> list[Question]:
    """Five passwords told in plain English, spread over filler, for a model that read the web.

    The one that is asked for lies at evenly spread depths. Texts have at most `n_tokens` tokens.
    """

    def drawn() -> list[Fact]:
        names, words = rng.sample(NAMES.split(), 5), rng.sample(WORDS.split(), 5)
        return [
            Fact(f" The password of {n} is", f" {w}", f"What is the password of {n}?")
            for n, w in zip(names, words, strict=True)
        ]

    return in_filler(tokenizer, rng, n_prompts, n_tokens, drawn, "Five passwords")


@dataclass(frozen=True)
class Fact:
    """A sentence that a text tells, up to its value, the value, and a question about it."""

    stem: str
    value: str
    question: str


def in_filler(
    tokenizer: Tokenizer, rng: random.Random, n_prompts: int, n_tokens: int,
    drawn: Callable[[], list[Fact]], what: str, lead: int = 0,
) -> list[Question]:  # fmt: skip
    """Facts spread over filler; the first that is drawn is asked for, at evenly spread depths.

    The first `lead` sentences are filler.
    Raises: ValueError when they do not fit into `n_tokens` tokens; `what` is what they are called.
    """

    def count(text: str) -> int:
        return len(tokenizer.inner.encode(text, add_special_tokens=False).ids)

    made = []
    for i in range(n_prompts):
        facts = drawn()
        told, asked_for = [f"{fact.stem}{fact.value}." for fact in facts], facts[0]
        question = f"\nQuestion: {asked_for.question}\nAnswer:"
        free = n_tokens - 8 - count("".join(told) + question + asked_for.stem)
        if free < 0:
            raise ValueError(
                f"{what} and a question need {n_tokens - free} tokens of this tokenizer; "
                f"{n_tokens} were asked for."
            )
        if len(filler := _filler(rng, free, count)) < lead:
            raise ValueError(
                f"{what} were to stand behind {lead} sentences, and {n_tokens} tokens hold "
                f"{len(filler)}; ask for longer texts."
            )
        for other in told[1:]:
            filler.insert(rng.randint(lead, len(filler)), other)
        filler.insert(lead + round((i + 0.5) / n_prompts * (len(filler) - lead)), told[0])
        text = "Notes:" + "".join(filler)
        at = text.index(told[0]) / len(text)
        made.append(Question(text, question, asked_for.stem, asked_for.value, at))
    return made


def _filler(rng: random.Random, free: int, count: Callable[[str], int]) -> list[str]:
    """Sentences that say nothing, of at most `free` tokens."""
    found: list[str] = []
    while (free := free - count(f" {(line := rng.choice(FILLER))}")) >= 0:
        found.append(f" {line}")
    return found
