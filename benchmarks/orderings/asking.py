"""What is asked of a model: relations of the pocket model's world, or plain English and its notes.

A text is read and pruned; then what is left of the prompt is fed, and the answer's tokens are
scored. `visible`: the question was part of what was read. `unseen`: it came later. `second`: the
cache was pruned when one question had been asked and answered, and another came then.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kvlab import quality
from kvlab.pocket import bpe
from kvlab.pocket.asking import world_question
from kvlab.quality.prompts import NAMES, WORDS, Fact, in_filler

MORE, LEAD = 64, 8  # tokens beyond those asked for, sentences without a fact
N_NEXT = 32  # tokens of a continuation, of which all but one are scored


@dataclass(frozen=True)
class Task:
    """What its questions are called, and a maker of prompts of a kind, a count and a length."""

    questions: Sequence[str]
    make: Callable[..., quality.Prompts]


def in_batches(prompts: quality.Prompts, size: int) -> dict[int, quality.Prompts]:
    """Parts of so many prompts, by the number of their first."""
    found = {}
    for start in range(0, len(prompts.texts), size):
        part = slice(start, start + size)
        cut = {name: getattr(prompts, name)[part] for name in ("texts", "rests", "scored")}
        found[start] = replace(prompts, **cut, depths=prompts.depths and prompts.depths[part])
    return found


# ------------------------------------------------------------------------------ the pocket's world
def _of_the_world(kind: str, tokenizer, n_prompts: int, n_tokens: int, question: str):
    """Five held-out relations among filler, cut before the question or after it."""
    rng = random.Random(f"orderings {kind} {n_tokens}")
    made = [world_question(tokenizer, rng, n_tokens, kind) for _ in range(n_prompts)]
    return quality.asked(tokenizer, made, question == "visible", first=[0])


def _world(kind: str) -> Task:
    return Task(("visible", "unseen"), lambda *given: _of_the_world(kind, *given))


POCKET = {"words": _world("password"), "codes": _world("code")}


# ----------------------------------------------------------------------------------- plain English
@dataclass(frozen=True)
class Notes:
    """How many facts of which noun a text tells, and how many of them are asked before the last."""

    noun: str
    n_facts: int
    shots: int

    def facts(self, rng: random.Random) -> list[Fact]:
        """A word each, or a number of four digits."""
        names = rng.sample(NAMES.split(), self.n_facts)
        if self.noun == "password":
            values = rng.sample(WORDS.split(), self.n_facts)
        else:
            values = rng.sample(range(1000, 10000), self.n_facts)
        return [
            Fact(f" The {self.noun} of {n} is", f" {v}", f"What is the {self.noun} of {n}?")
            for n, v in zip(names, values, strict=True)
        ]


def exactly(prompts: quality.Prompts, n_tokens: int) -> quality.Prompts:
    """Cut each text to `n_tokens` behind its first token, so that groups of tokens come out even.

    Then per token and per channel leave the same number of elements.
    """
    cut = [[text[0], *text[1 + len(text) - n_tokens :]] for text in prompts.texts]
    return replace(prompts, texts=cut)


def _of_notes(kind: Notes, tokenizer, n_prompts: int, n_tokens: int, question: str):
    rng, told, made = random.Random(f"orderings {kind} {n_tokens}"), [], []

    def drawn() -> list[Fact]:
        told.append(kind.facts(rng))
        return told[-1]

    # longer than is asked for, and with a beginning without facts: `exactly` cuts there
    long = in_filler(tokenizer, rng, n_prompts, n_tokens + MORE, drawn, "Facts", lead=LEAD)
    for last, facts in zip(long, told, strict=True):
        before = "".join(
            f"\nQuestion: {fact.question}\nAnswer:{fact.stem}{fact.value}."
            for fact in facts[1 : 1 + kind.shots]
        )
        if question == "second":
            made.append(replace(last, text=last.text + before))
        else:
            made.append(replace(last, question=before + last.question))
    return exactly(quality.asked(tokenizer, made, question == "visible", first=[0]), n_tokens)


def _of_documentation(tokenizer, n_prompts: int, n_tokens: int, question: str):
    """The tenth of Python's documentation that the pocket model never saw."""
    text = "\n\n".join(bpe.python_docs()[1].values())
    ids = tokenizer.inner.encode(text, add_special_tokens=False).ids
    rng = random.Random(f"orderings text {n_tokens}")
    return quality.continuations(ids, rng, n_prompts, n_tokens, N_NEXT, first=[0])


def _plain(*kind) -> Task:
    asked = ("visible", "unseen", *("second",) * (kind[-1] > 0))
    return Task(asked, lambda *given: _of_notes(Notes(*kind), *given))


PLAIN = {
    "words": _plain("password", 3, 1),
    "codes": _plain("code", 3, 1),
    "needle": _plain("code", 1, 0),
    "text": Task(("unseen",), _of_documentation),
}


def tasks(speaks_pocket: bool) -> dict[str, Task]:
    """The tasks of a model."""
    return POCKET if speaks_pocket else PLAIN
