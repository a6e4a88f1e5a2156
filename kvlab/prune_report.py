"""`kvlab prune-report`: what every way to prune costs at equal bytes, on the model's own prompts.

from kvlab.prune_report import as_text, run
print(as_text(run(own={"mine": my_score})))
"""

from __future__ import annotations

import json
import math
import random
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvlab import files, quality
from kvlab.loading import load
from kvlab.measure import machine
from kvlab.model import Transformer
from kvlab.progress import progress
from kvlab.prune import Score
from kvlab.quality import BASELINES, DENSE, FLOOR, Method, Prompts, Question, Shape
from kvlab.tokenizer import Tokenizer

POLICIES = (
    "streaming", "h2o", "tova", "snapkv", "adakv", "keydiff", "expected_attention", "mustafar",
    "mustafar_aware", "think", "kivi", "mustafar_4bit", "snapkv_4bit",
)  # fmt: skip
BUDGETS = (0.5, 0.3, 0.2)
N_NEXT = 64  # tokens of a continuation
TASKS = (("recall", "visible"), ("recall", "unseen"), ("text", "unseen"))
DEPTHS = 5
Row = dict[str, Any]
Key = tuple[str, str, int, str, float | None]  # task, question, seed, method, budget


def run(
    policies: Sequence[str] = POLICIES,
    *,
    own: Mapping[str, Method | Score] | None = None,
    model: str | Path | tuple[Transformer, Tokenizer] = "pocket",
    budgets: Sequence[float] = BUDGETS,
    n_tokens: int = 400,
    n_prompts: int = 16,
    seeds: int = 3,
    tasks: Sequence[str] = ("recall", "text"),
    text: str | Path | None = None,
    sink: int = 4,
    recent: int = 32,
    device: str = "cpu",
    dtype: str = "float32",
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Measure methods by name, and a reader's own, at each share of the dense bytes.

    Dense, "sinks and window" alone, random and recency are always there. A score of `own` is
    measured at each budget; a policy as it is, and the others at its bytes as well. Each seed draws
    `n_prompts` prompts: recall with the question visible and unseen and, where there is `text` (a
    file; the pocket model has its own), continuations. With `out` each row goes at once to a
    JSON-lines file beside it, and a second start does only what is not there; `own` is always done.
    Raises: ValueError, in one sentence, before anything is measured.
    """
    own, start = dict(own or {}), time.perf_counter()
    _check(policies, own, budgets, n_tokens, n_prompts, seeds, tasks, out)
    name = model if isinstance(model, str | Path) else "given"
    opened = load(model, device=device, dtype=dtype) if name != "given" else model
    settings = _settings(str(name), opened, n_tokens, n_prompts, text, sink, recent)
    shape = Shape(n_tokens, opened[0].config.head_dim, quality.storage(opened[0]), sink, recent)
    for budget in budgets:
        quality.at_bytes((), budget, shape)
    cells = _Cells(opened, settings, tasks, text)
    budgets = _with_own_bytes(cells, own, budgets)
    with _log(out, settings) as log:
        found, refused = _all_cells(cells, policies, own, budgets, seeds, log)
    return {
        "settings": settings,
        "machine": machine(),
        "policies": list(policies),
        "own": {name: str(one) for name, one in own.items()},
        "budgets": list(budgets),
        "seeds": seeds,
        "tasks": list(tasks),
        "refused": refused,
        "rows": list(summary(_in_order(found, policies, own))),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _all_cells(cells, policies, own, budgets, seeds: int, log) -> tuple[dict[Key, Row], dict]:
    """All rows, each written down at once, and why some methods have none."""
    done, write = log
    found: dict[Key, Row] = {}
    refused: dict[str, str] = {}
    todo = [(*task, seed) for seed in range(seeds) for task in cells.tasks]
    with progress() as show:
        for i, cell in enumerate(todo):

            def shown(share: float, i=i, cell=cell) -> None:
                show(i + share, f"{cell[0]}, {cell[1]}, seed {cell[2]}", len(todo))

            for key, row in _cell(cells, cell, policies, own, budgets, done, refused, shown):
                found[key] = row
                if key[3] not in own:
                    write(key, row)
    return found, refused


def _in_order(found: Mapping[Key, Row], policies, own) -> dict[Key, Row]:
    """The same order whether rows were measured now or before."""
    names = dict.fromkeys((DENSE, FLOOR, *BASELINES, *policies, *own))
    rank = {name: i for i, name in enumerate(names)}

    def place(key: Key) -> tuple:
        task, question, seed, name, budget = key
        full = 2.0 if name == DENSE else 0.0
        return TASKS.index((task, question)), -(budget or full), rank[name], seed

    return {key: found[key] for key in sorted(found, key=place)}


def _check(policies, own, budgets, n_tokens, n_prompts, seeds, tasks, out) -> None:
    quality.check_names(policies)
    known = list(dict.fromkeys(task for task, _ in TASKS))
    if not tasks or not set(tasks) <= set(known):
        raise ValueError(f"Tasks {tuple(tasks)} were asked for; there are {', '.join(known)}.")
    for name, one in own.items():
        quality.as_method(one, 1.0, Shape(n_tokens, 8))
        if name in quality.METHODS or name in (DENSE, FLOOR):
            raise ValueError(f"There is a method {name!r} already; give yours another name.")
    if not budgets and not own:
        raise ValueError("No budgets were given; expected shares of the dense bytes, like 0.5.")
    for what, n in (("tokens", n_tokens), ("prompts", n_prompts), ("seeds", seeds)):
        if type(n) is not int or n < 1:
            raise ValueError(f"{n!r} {what} were asked for; expected a whole number of at least 1.")
    if out is not None and not Path(out).resolve().parent.is_dir():
        raise ValueError(f"{out}: its folder is not there; expected an existing folder.")
    if out is not None and Path(out).suffix == ".jsonl":
        raise ValueError(
            f"{out}: the log beside it ends in .jsonl; give a name that ends in .json."
        )


def _settings(name, opened, n_tokens, n_prompts, text, sink, recent) -> dict[str, Any]:
    """What a row depends on beside its key."""
    model, _ = opened
    weights = 0
    for parameter in model.parameters():
        some = parameter.detach().flatten()[:256].float().cpu().numpy().tobytes()
        weights = zlib.crc32(some, weights)
    return {
        "model": name,
        "weights": f"{model.config.n_params} parameters, {weights:08x}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "bytes_in": str(quality.storage(model)).removeprefix("torch."),
        "tokens": n_tokens,
        "prompts": n_prompts,
        "text": f"{text}, {zlib.crc32(_bytes(text)):08x}" if text is not None else None,
        "sink": sink,
        "recent": recent,
    }


def _bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); expected a text.") from None


# --- prompts ------------------------------------------------------------------------------------


class _Cells:
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
                found = _bytes(text).decode("utf-8")
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
            return quality.continuations(
                self.ids, rng, self.n_prompts, self.n_tokens, N_NEXT, self.first
            )
        if self.pocket:
            made = [
                world_question(self.tokenizer, rng, self.n_tokens, depth=(i + 0.5) / self.n_prompts)
                for i in range(self.n_prompts)
            ]
        else:
            made = quality.plain_questions(self.tokenizer, rng, self.n_prompts, self.n_tokens)
        return quality.asked(self.tokenizer, made, question == "visible", self.first)


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


# --- measuring ----------------------------------------------------------------------------------


def _with_own_bytes(cells: _Cells, own, budgets: Sequence[float]) -> list[float]:
    """The budgets, and the shares of bytes that the reader's own policies keep."""
    fixed = [one for one in own.values() if not callable(one)]
    if not fixed:
        return list(budgets)
    prompts = cells.prompts("recall", "visible", 0)
    base = quality.read(cells.model, prompts, quality.collecting(fixed))
    dtype = quality.storage(cells.model)
    whole = quality.held_bytes(base.cache, None, dtype)
    shares = [quality.held_bytes(quality.thinned(base, m).cache, m, dtype) / whole for m in fixed]
    return list(dict.fromkeys([*budgets, *(round(s, 3) for s in shares if s < 0.999)]))


def _methods(cells, prompts, policies, own, budgets, refused) -> dict[tuple, Method | None]:
    """All that is measured on a cell's prompts, by name and budget."""
    config, lengths = cells.model.config, tuple(map(len, prompts.texts))
    shape = Shape(prompts.mean_tokens, config.head_dim, quality.storage(cells.model), **cells.same)
    found: dict[tuple, Method | None] = {(DENSE, None): None, (FLOOR, None): quality.floor(shape)}
    scores = {name: one for name, one in own.items() if callable(one)}
    for budget in budgets:
        try:
            methods, why = quality.at_bytes(policies, budget, shape, scores)
        except ValueError as error:
            methods, why = {}, {"the others": str(error)}
        refused |= {f"{name} at {budget:.0%}": text for name, text in why.items()}
        for name, method in methods.items():
            try:
                for part in quality.parts_of(method):
                    part.check(lengths)
            except ValueError as error:
                refused[f"{name} at {budget:.0%}"] = str(error)
            else:
                found[name, budget] = method
    return found | {(name, None): one for name, one in own.items() if not callable(one)}


def _cell(
    cells: _Cells, cell, policies, own, budgets, done: dict[Key, Row], refused, shown
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
    for i, row in enumerate(quality.measured(cells.model, prompts, todo), 1):
        yield row.pop("method"), row | {"depth": prompts.depths}
        shown(i / len(todo))


# --- the log ------------------------------------------------------------------------------------


@contextmanager
def _log(out: str | Path | None, settings: dict) -> Iterator[tuple[dict[Key, Row], Callable]]:
    """What was measured before, and a function that writes down one more row at once.

    Raises: ValueError when the file is of other settings, or no log of ours.
    """
    if out is None or not files.is_ordinary(out):  # no file lies beside a device or a pipe
        yield {}, lambda key, row: None
        return
    path = Path(out).with_suffix(".jsonl")
    done = _read_log(path, settings)
    with path.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps({"settings": settings}) + "\n")

        def write(key: Key, row: Row) -> None:
            if key not in done:
                file.write(json.dumps({"key": key, **row}) + "\n")
                file.flush()

        yield done, write


def _read_log(path: Path, settings: dict) -> dict[Key, Row]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # a run was ended while it wrote a line
        files.write(path, whole)
    if not whole:
        return {}
    try:
        head, *lines = [json.loads(line) for line in whole.splitlines()]
        before = head["settings"]
        done = {tuple(line.pop("key")): line for line in lines}
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path} is not the log of a prune-report; give --out another name."
        ) from None
    differs = [
        f"{k} was {before.get(k)!r} and is {settings[k]!r}"
        for k in settings
        if before.get(k) != settings[k]
    ]
    if differs:
        raise ValueError(
            f"{path} was begun with other settings: {'; '.join(differs)}. Give --out another name, "
            "or delete that file."
        )
    return done


# --- the report ---------------------------------------------------------------------------------


def summary(found: Mapping[Key, Row]) -> Iterator[Row]:
    """All seeds together: counts, means, and their 95 % intervals."""
    groups: dict[tuple, list[Row]] = {}
    for (task, question, _, name, budget), row in found.items():
        groups.setdefault((task, question, name, budget), []).append(row)
    for (task, question, name, budget), some in groups.items():
        pooled = {k: [x for row in some for x in row[k]] for k in ("kl", "agree", "error", "nats")}
        row: Row = {"task": task, "question": question, "method": name, "budget": budget}
        for what in ("bytes", "tokens_left", "k_left", "v_left"):
            row[what] = round(sum(r[what] for r in some) / len(some), 5)
        row["prompts"], row["seeds"] = len(pooled["kl"]), len(some)
        if task == "recall":
            row["recall"] = _counted([x for r in some for x in r["right"]])
            row["recall"]["by_seed"] = [_counted(r["right"])["share"] for r in some]
            row["by_depth"] = _by_depth(some)
        row |= {what: _mean(pooled[what]) for what in ("kl", "agree", "error")}
        nats = _mean(pooled["nats"])
        row["perplexity"] = {k: round(math.exp(min(x, 700)), 4) for k, x in nats.items()}
        row["error_L"] = [
            round(sum(xs) / len(some), 6) for xs in zip(*(r["error_L"] for r in some), strict=True)
        ]
        yield row


def _counted(right: Sequence[bool]) -> Row:
    low, high = quality.wilson(sum(right), len(right))
    share = sum(right) / len(right)
    return {
        "right": sum(right), "of": len(right), "share": round(share, 4), "low": round(low, 4),
        "high": round(high, 4),
    }  # fmt: skip


def _mean(values: Sequence[float]) -> Row:
    low, high = quality.bootstrap(values)
    mean = sum(values) / len(values)
    return {"mean": round(mean, 6), "low": round(low, 6), "high": round(high, 6)}


def _by_depth(some: Iterable[Row]) -> list[Row]:
    """Recall in each fifth of the text, by where the answer lies."""
    bins: list[list[bool]] = [[] for _ in range(DEPTHS)]
    for row in some:
        for right, depth in zip(row["right"], row["depth"], strict=True):
            bins[min(DEPTHS - 1, int(depth * DEPTHS))].append(right)
    return [
        {"from": i / DEPTHS, "to": (i + 1) / DEPTHS, **(_counted(x) if x else {"of": 0})}
        for i, x in enumerate(bins)
    ]


TITLES = {
    ("recall", "visible"): "Recall, question visible: the policy saw what would be asked",
    ("recall", "unseen"): "Recall, question unseen: the policy did not",
    ("text", "unseen"): f"The next {N_NEXT - 1} tokens of a text",
}


def as_text(report: dict[str, Any]) -> str:
    """The report for people: a table for each task and question."""
    settings = report["settings"]
    lines = [
        f"{settings['model']}: texts of {settings['tokens']} tokens, {settings['prompts']} prompts "
        f"for each of {report['seeds']} seeds; bytes as packed in {settings['bytes_in']}, with "
        f"marks, scales, {settings['sink']} sinks and a window of {settings['recent']}. 95 % "
        "intervals in brackets.",
    ]
    for (task, question), title in TITLES.items():
        some = [r for r in report["rows"] if (r["task"], r["question"]) == (task, question)]
        if some:
            lines += ["", f"{title} ({some[0]['prompts']} prompts)", *_table(some, task)]
    if "text" in report["tasks"] and not any(r["task"] == "text" for r in report["rows"]):
        lines += ["", "No text was given (--text FILE), so no continuation was measured."]
    lines += ["", *(f"Not measured: {what}. {why}" for what, why in report["refused"].items())]
    return "\n".join(lines).rstrip()


def _table(some: list[Row], task: str) -> list[str]:
    first = "recall" if task == "recall" else "perplexity"
    head = ["method", "bytes", "tokens", "K", "V", first, "KL, nats", "same top-1", "error"]
    head += ["recall by fifth of the text"] if task == "recall" else []
    lines = [head]
    for r in some:
        kept = (f"{r[k]:.1%}" for k in ("bytes", "tokens_left", "k_left", "v_left"))
        scored = (
            _shares(r["recall"], "share") if task == "recall" else _numbers(r["perplexity"]),
            _numbers(r["kl"]),
            _shares(r["agree"], "mean"),
            _shares(r["error"], "mean"),
        )
        fifths = [f"{x['share']:.0%}" if x["of"] else "-" for x in r.get("by_depth", ())]
        lines.append([r["method"], *kept, *scored, *([" ".join(fifths)] if fifths else [])])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _shares(x: Row, what: str) -> str:
    return f"{x[what]:.0%} ({x['low']:.0%} to {x['high']:.0%})"


def _numbers(x: Row) -> str:
    return f"{x['mean']:.3g} ({x['low']:.3g} to {x['high']:.3g})"


def plot(report: dict[str, Any], path: str | Path) -> None:
    """Recall, or KL on text, over bytes: a line for each method."""
    from kvlab.view.figures import pareto

    panels = {}
    for (task, question), title in TITLES.items():
        some = [r for r in report["rows"] if (r["task"], r["question"]) == (task, question)]
        if some:
            curves: dict[str, list[tuple[float, float, float, float]]] = {}
            for r in some:
                y = r["recall"] if task == "recall" else r["kl"]
                point = (r["bytes"], y.get("share", y.get("mean")), y["low"], y["high"])
                curves.setdefault(r["method"], []).append(point)
            y_label = "right answers" if task == "recall" else "KL (nats) to dense"
            panels[title.split(":")[0], y_label] = curves
    with files.writing(path) as part:
        pareto(panels, muted=(DENSE, FLOOR, *BASELINES)).savefig(part, dpi=150)
