"""The cells of a report, one a task, question and seed: its prompts, and what is measured."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from kvlab.model import Transformer
from kvlab.quality.held import held_bytes, storage
from kvlab.quality.log import Key, Row
from kvlab.quality.measuring import measured
from kvlab.quality.methods import (
    DENSE,
    FLOOR,
    Method,
    Shape,
    at_bytes,
    floor,
    parts_of,
)
from kvlab.quality.prompts import Prompts, Question, asked, continuations, plain_questions
from kvlab.quality.reading import collecting, read, thinned
from kvlab.tokenizer import Tokenizer

N_NEXT = 64  # tokens of a continuation
TASKS = (("recall", "visible"), ("recall", "unseen"), ("text", "unseen"))


class Cells:
    """The prompts of each task, question and seed, and the model that reads them."""

    def __init__(self, opened: tuple[Transformer, Tokenizer], settings, tasks, text) -> None:
        self.model, self.tokenizer = opened
        self.n_tokens, self.n_prompts = settings["tokens"], settings["prompts"]
        self.same = {"sink": settings["sink"], "recent": settings["recent"]}
        config = self.model.config
        self.first = [] if config.bos_id is None else [config.bos_id]
        self.pocket = _is_pocket(self.tokenizer)
        self.ids = self._text(text) if "text" in tasks else []
        self.tasks = [t for t in TASKS if t[0] in tasks and (t[0] == "recall" or self.ids)]
        if not self.tasks:
            raise ValueError("Continuations were asked for, and no text was given: text=FILE.")
        longest = self.n_tokens + (N_NEXT if self.ids else 8)
        if longest > config.max_positions:
            raise ValueError(
                f"Texts of {self.n_tokens} tokens and what follows need {longest} positions, and "
                f"the model reads at most {config.max_positions}. Ask for fewer tokens."
            )
        self.prompts(*self.tasks[-1], 0)  # a text that is too short is refused before the reading

    def _text(self, text) -> list[int]:
        if text is not None:
            try:
                found = text_bytes(text).decode("utf-8")
            except UnicodeDecodeError:
                raise ValueError(f"{text} is no text in UTF-8.") from None
        elif self.pocket:
            from kvlab.pocket import bpe

            found = "\n\n".join(bpe.python_docs()[1].values())
        else:
            return []
        return self.tokenizer.encode(found, special=False)

    def prompts(self, task: str, question: str, seed: int) -> Prompts:
        rng = random.Random(f"{task} {seed}")
        if task == "text":
            return continuations(self.ids, rng, self.n_prompts, self.n_tokens, N_NEXT, self.first)
        if self.pocket:
            made = [
                world_question(self.tokenizer, rng, self.n_tokens, depth=(i + 0.5) / self.n_prompts)
                for i in range(self.n_prompts)
            ]
        else:
            made = plain_questions(self.tokenizer, rng, self.n_prompts, self.n_tokens)
        return asked(self.tokenizer, made, question == "visible", self.first)


def _is_pocket(tokenizer: Tokenizer) -> bool:
    """Whether a model speaks the pocket model's language, so that its world can be asked for."""
    from kvlab.pocket import path

    return tokenizer.inner.to_str() == Tokenizer.from_file(path() / "tokenizer.json").inner.to_str()


def world_question(
    tokenizer: Tokenizer,
    rng: random.Random,
    n_tokens: int,
    kind: str = "password",
    depth: float | None = None,
) -> Question:
    """Five held-out relations of the pocket model's world among filler; one is asked for."""
    from kvlab.pocket import world

    def count(text: str) -> int:
        return len(tokenizer.inner.encode(text, add_special_tokens=False).ids)

    made = world.recall_prompt(rng, count, 5, n_tokens, kind, depth=depth)
    cut = made.prompt.rindex("\nUser:")
    text = made.prompt[:cut]
    at = text.index(made.asked.sentence) / len(text)
    return Question(text, made.prompt[cut:], made.stem, made.value, at)


def with_own_bytes(cells: Cells, own, budgets: Sequence[float]) -> list[float]:
    """The budgets, and the shares of bytes that the reader's own policies keep."""
    fixed = [one for one in own.values() if not callable(one)]
    if not fixed:
        return list(budgets)
    prompts = cells.prompts("recall", "visible", 0)
    base = read(cells.model, prompts, collecting(fixed))
    dtype = storage(cells.model)
    whole = held_bytes(base.cache, None, dtype)
    shares = [held_bytes(thinned(base, m).cache, m, dtype) / whole for m in fixed]
    return list(dict.fromkeys([*budgets, *(round(s, 3) for s in shares if s < 0.999)]))


def _methods(cells, prompts, policies, own, budgets, refused) -> dict[tuple, Method | None]:
    """All that is measured on a cell's prompts, by name and budget."""
    config, lengths = cells.model.config, tuple(map(len, prompts.texts))
    shape = Shape(prompts.mean_tokens, config.head_dim, storage(cells.model), **cells.same)
    found: dict[tuple, Method | None] = {(DENSE, None): None, (FLOOR, None): floor(shape)}
    scores = {name: one for name, one in own.items() if callable(one)}
    for budget in budgets:
        try:
            methods, why = at_bytes(policies, budget, shape, scores)
        except ValueError as error:
            methods, why = {}, {"the others": str(error)}
        refused |= {f"{name} at {budget:.0%}": text for name, text in why.items()}
        for name, method in methods.items():
            try:
                for part in parts_of(method):
                    part.check(lengths)
            except ValueError as error:
                refused[f"{name} at {budget:.0%}"] = str(error)
            else:
                found[name, budget] = method
    return found | {(name, None): one for name, one in own.items() if not callable(one)}


def measured_cell(
    cells: Cells, cell, policies, own, budgets, done: dict[Key, Row], refused, shown
) -> Iterator[tuple[Key, Row]]:
    """The rows of one task, question and seed: those that are known, then the others."""
    prompts = cells.prompts(*cell)
    methods = _methods(cells, prompts, policies, own, budgets, refused)
    todo = {}
    for (name, budget), method in methods.items():
        key = (*cell, name, budget)
        if key in done:
            yield key, done[key]
        else:
            todo[key] = method
    if not todo:
        return
    for i, row in enumerate(measured(cells.model, prompts, todo), 1):
        yield row.pop("method"), row | {"depth": prompts.depths}
        shown(i / len(todo))


def text_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); expected a text.") from None
