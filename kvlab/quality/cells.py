"""The cells of a report, one a task, question and seed: its prompts, and what is measured."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kvlab.model import Transformer
from kvlab.prune import name_of, parts_of
from kvlab.quality.held import held_bytes, storage
from kvlab.quality.log import Key, Record
from kvlab.quality.measuring import measure
from kvlab.quality.methods import DENSE, WINDOW_ONLY, Method, Shape, at_bytes, window_only
from kvlab.quality.prompts import Prompts, Question, asked, continuations, plain_questions
from kvlab.quality.reading import needs_of_all, pruned, read
from kvlab.quality.tasks import N_NEXT, TASKS, TITLES
from kvlab.tokenizer import Tokenizer

Text = str | Path | Callable[[Tokenizer], str | None] | None


class Cells:
    """The prompts of each task, question and seed, and the model that reads them.

    `questions` makes those of recall, as `plain_questions` does, or is a mapping from tasks to such
    functions, which may have none for this tokenizer. `text` is the one that is gone on with: None,
    a file, or a function of the tokenizer, which may have none.
    """

    def __init__(
        self,
        opened: tuple[Transformer, Tokenizer],
        settings,
        tasks,
        text,
        questions=plain_questions,
    ) -> None:
        self.model, self.tokenizer = opened
        self.n_tokens, self.n_prompts = settings["tokens"], settings["prompts"]
        self.same = {"sink": settings["sink"], "recent": settings["recent"]}
        config = self.model.config
        self.first = _opening(self.tokenizer)
        self.makers = dict(questions) if isinstance(questions, Mapping) else {"recall": questions}
        found = text_of(text, self.tokenizer) if "text" in tasks else None
        self.ids = [] if found is None else self.tokenizer.encode(found, special=False)
        self.tasks = [t for t in TITLES if t[0] in tasks and self._has(t[0])]
        if not self.tasks:
            raise ValueError("Continuations were asked for, and no text was given: text=FILE.")
        longest = self.n_tokens + max(TASKS[task].n_after for task, _ in self.tasks)
        if longest > config.max_positions:
            raise ValueError(
                f"Texts of {self.n_tokens} tokens and what follows need {longest} positions, and "
                f"the model reads at most {config.max_positions}. Ask for fewer tokens."
            )
        self.prompts(*self.tasks[-1], 0)  # a text that is too short is refused before the reading

    def prompts(self, task: str, question: str, seed: int) -> Prompts:
        if task == "text":
            rng = random.Random(f"{task} {seed}")
            return continuations(self.ids, rng, self.n_prompts, self.n_tokens, N_NEXT, self.first)
        return asked(self.tokenizer, self._made(task, seed), question == "visible", self.first)

    def _made(self, task: str, seed: int) -> list[Question] | None:
        rng = random.Random(f"{task} {seed}")
        return self.makers[task](self.tokenizer, rng, self.n_prompts, self.n_tokens)

    def _has(self, task: str) -> bool:
        """Whether there is such a task for this tokenizer."""
        if task == "text":
            return bool(self.ids)
        return task in self.makers and self._made(task, 0) is not None


def _opening(tokenizer: Tokenizer) -> list[int]:
    """What a tokenizer puts before a text (BOS); many put nothing, whatever a config names."""
    own, whole = (tokenizer.encode("a", special=special) for special in (False, True))
    starts = [i for i in range(len(whole)) if whole[i : i + len(own)] == own]
    return whole[: starts[0]] if starts else []


def with_own_bytes(cells: Cells, own, budgets: Sequence[float]) -> list[float]:
    """The budgets, and the shares of bytes that the reader's own policies keep."""
    fixed = [one for one in own.values() if not callable(one)]
    if not fixed:
        return list(budgets)
    prompts = cells.prompts("recall", "visible", 0)
    base = read(cells.model, prompts, needs_of_all(fixed))
    dtype = storage(cells.model)
    whole = held_bytes(base.cache, None, dtype)
    shares = [held_bytes(pruned(base, m).cache, m, dtype) / whole for m in fixed]
    return list(dict.fromkeys([*budgets, *(round(s, 3) for s in shares if s < 0.999)]))


def _methods(cells, prompts, policies, own, budgets, refused) -> dict[tuple, Method | None]:
    """All that is measured on a cell's prompts, by name and budget."""
    config, lengths = cells.model.config, tuple(map(len, prompts.texts))
    shape = Shape(prompts.mean_tokens, config.head_dim, storage(cells.model), **cells.same)
    found: dict[tuple, Method | None] = {
        (DENSE, None): None,
        (WINDOW_ONLY, None): window_only(shape),
    }
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


class Asked(NamedTuple):
    """What is measured on every cell's prompts: methods by name, a reader's own, and budgets."""

    policies: Sequence[str]
    own: Mapping[str, Any]
    budgets: Sequence[float]


def keys_of(cells: Cells, cell, asked: Asked, refused: dict[str, str]) -> list[Key]:
    """All that a cell has a record of, and why some methods have none."""
    methods = _methods(cells, cells.prompts(*cell), *asked, refused)
    return [(*cell, name, budget) for name, budget in methods]


def measured(cells: Cells, cell, asked: Asked, keys: Sequence[Key]) -> Iterator[tuple[Key, Record]]:
    """The records of some keys of one task, question and seed, from one reading of its prompts."""
    prompts = cells.prompts(*cell)
    methods = _methods(cells, prompts, *asked, {})
    wanted = {key: methods[key[3:]] for key in keys}
    for record in measure(cells.model, prompts, wanted):
        yield record.pop("method"), record | {"depth": prompts.depths}


def settings_of(
    name: str, opened: tuple[Transformer, Tokenizer], n_tokens: int, n_prompts: int, text: Text,
    questions, sink: int, recent: int,
) -> dict[str, Any]:  # fmt: skip
    """What a record depends on beside its key."""
    model, tokenizer = opened
    found = text_of(text, tokenizer)
    title = name_of(text) if callable(text) else text
    weights = 0
    for parameter in model.parameters():
        some = parameter.detach().flatten()[:256].float().cpu().numpy().tobytes()
        weights = zlib.crc32(some, weights)
    makers = questions.items() if isinstance(questions, Mapping) else ()
    return {
        "model": name,
        "weights": f"{model.config.n_params} parameters, {weights:08x}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "bytes_in": str(storage(model)).removeprefix("torch."),
        "tokens": n_tokens,
        "prompts": n_prompts,
        "text": None if found is None else f"{title}, {zlib.crc32(found.encode()):08x}",
        "questions": ", ".join(name_of(m) for _, m in makers) if makers else name_of(questions),
        "sink": sink,
        "recent": recent,
    }


def text_of(text: Text, tokenizer: Tokenizer) -> str | None:
    """The text itself, of a file or as a function gives it; None where there is none.

    Raises: ValueError for a file that cannot be read, or is no text.
    """
    if text is None or callable(text):
        return None if text is None else text(tokenizer)
    try:
        return Path(text).read_bytes().decode("utf-8")
    except OSError as error:
        raise ValueError(f"{text} cannot be read ({error.strerror}); expected a text.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{text} is no text in UTF-8.") from None
