"""`kvlab prune-report`: what every way to prune costs at equal bytes, on the model's own prompts.

from kvlab.quality.report import as_text, run
print(as_text(run(own={"mine": my_score})))

Long because `run` has 19 arguments, each of them a setting of the report, and says what each means.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvlab import checks, files
from kvlab.checkpoint import load
from kvlab.measure import machine, threads
from kvlab.measure.intervals import bootstrap, wilson
from kvlab.measure.progress_bar import progress
from kvlab.model import Transformer
from kvlab.old._names import former
from kvlab.prune import Score
from kvlab.quality.cells import Asked, Cells, Text, keys_of, settings_of, with_own_bytes
from kvlab.quality.doable import leave_out
from kvlab.quality.forecast import announce, seconds_for
from kvlab.quality.held import storage
from kvlab.quality.log import Key, Record, journal
from kvlab.quality.methods import (
    BASELINES,
    DENSE,
    METHODS,
    WINDOW_ONLY,
    Method,
    Shape,
    as_method,
    at_bytes,
    check_names,
)
from kvlab.quality.plain import Maker
from kvlab.quality.prompts import Question, plain_questions
from kvlab.quality.spread import Work, spreading
from kvlab.quality.tables import as_text
from kvlab.quality.tasks import TASKS, TITLES
from kvlab.tokenizer import Tokenizer

__all__ = ["BUDGETS", "POLICIES", "as_text", "run", "summary"]

POLICIES = (
    "streaming", "h2o", "tova", "snapkv", "adakv", "keydiff", "expected_attention", "mustafar",
    "mustafar_aware", "think", "kivi", "mustafar_4bit", "snapkv_4bit",
)  # fmt: skip
BUDGETS = (0.5, 0.3, 0.2)
DEPTHS = 5


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
    text: Text = None,
    questions: Callable[..., list[Question]] | Mapping[str, Maker] = plain_questions,
    sink: int = 4,
    recent: int = 32,
    device: str = "cpu",
    dtype: str = "float32",
    out: str | Path | None = None,
    only_doable: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    n_threads: int | None = None,
) -> dict[str, Any]:
    """Measure methods by name, and a reader's own, at each share of the dense bytes.

    Dense, "sinks and window" alone, random and recency are always there. A score of `own` is
    measured at each budget; a policy as it is, and the others at its bytes as well. Each seed draws
    `n_prompts` prompts: recall with the question visible and unseen and, where there is `text` (a
    file, or a function of the tokenizer that may know one), continuations. `questions` makes what
    is recalled, as `plain_questions` does in plain English, or maps tasks to such functions, as
    `kvlab.quality.plain.MAKERS`; the pocket model's own, and its text, are `MAKERS` and `own_text`
    of `kvlab.pocket.asking`. `only_doable` leaves out, and names, the tasks that the dense model
    cannot do. With `out` each record goes at once to a JSON-lines file beside it, and a second
    start does only what is not there; `own` is always done. What takes long says on stderr how long
    at most, and then how far it is. `workers` processes of this machine share the work, or those of
    a Dask cluster, by its `scheduler`'s address; each computes with `n_threads`: one, where they
    are several, and else as many as torch has. The same number of threads gives the same digits,
    however the work is spread.
    Raises: ValueError, in one sentence, before anything is measured.
    """
    own, start = dict(own or {}), time.perf_counter()
    _check(policies, own, budgets, n_tokens, n_prompts, seeds, tasks, out)
    checks.whole("workers", workers)
    spread_out = workers > 1 or scheduler is not None
    n_threads = 1 if spread_out and n_threads is None else n_threads
    name = model if isinstance(model, str | Path) else "given"
    opened = load(model, device=device, dtype=dtype) if name != "given" else model
    if spread_out and name == "given":
        raise ValueError("Workers open a model by its name, and a model was given that is open.")
    shape = Shape(n_tokens, opened[0].config.head_dim, storage(opened[0]), sink, recent)
    for budget in budgets:
        at_bytes((), budget, shape)
    settings = settings_of(str(name), opened, n_tokens, n_prompts, text, questions, sink, recent)
    cells = Cells(opened, settings, tasks, text, questions)
    how = (str(name), device, dtype, settings, tasks, text, questions, n_threads)
    sent = spreading(Work(*how) if spread_out else None, own, workers, scheduler)
    with sent as (spread, n_workers), journal(out, settings) as log, threads(n_threads):
        left_out = leave_out(cells, *log) if only_doable else {}
        asked = Asked(policies, own, with_own_bytes(cells, own, budgets))
        n_methods = 2 + len(asked.budgets) * (len(BASELINES) + len(policies)) + len(own)
        left = 1 - len(log[0]) / max(1, n_methods * seeds * len(cells.tasks))
        announce(seconds_for(cells, n_methods, seeds, max(0.0, left)), n_workers)
        found, refused = _all_cells(cells, asked, seeds, log, spread)
    return {
        "settings": settings,
        "machine": machine(),
        "policies": list(policies),
        "own": {name: str(one) for name, one in own.items()},
        "budgets": list(asked.budgets),
        "seeds": seeds,
        "tasks": list(tasks),
        "left_out": left_out,
        "refused": refused,
        "rows": list(summary(_in_order(found, policies, own))),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _all_cells(cells, asked: Asked, seeds: int, log, spread) -> tuple[dict, dict[str, str]]:
    """All records, each written down at once, and why some methods have none."""
    done, write = log
    found: dict[Key, Record] = {}
    refused: dict[str, str] = {}
    todo = {}
    for cell in [(*task, seed) for seed in range(seeds) for task in cells.tasks]:
        keys = keys_of(cells, cell, asked, refused)
        found |= {key: done[key] for key in keys if key in done}
        if left := [key for key in keys if key not in done]:
            todo[cell] = left
    total, n = sum(map(len, todo.values())), 0
    with progress() as show:
        for key, record in spread(cells, asked, todo):
            found[key] = record
            if key[3] not in asked.own:
                write(key, record)
            n += 1
            show(n, f"{key[0]}, {key[1]}, seed {key[2]}", total)
    return found, refused


def _in_order(found: Mapping[Key, Record], policies, own) -> dict[Key, Record]:
    """The same order whether records were measured now or before."""
    names = dict.fromkeys((DENSE, WINDOW_ONLY, *BASELINES, *policies, *own))
    rank = {name: i for i, name in enumerate(names)}

    def place(key: Key) -> tuple:
        task, question, seed, name, budget = key
        full = 2.0 if name == DENSE else 0.0
        return list(TITLES).index((task, question)), -(budget or full), rank[name], seed

    return {key: found[key] for key in sorted(found, key=place)}


def _check(policies, own, budgets, n_tokens, n_prompts, seeds, tasks, out) -> None:
    check_names(policies)
    if not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"Tasks {tuple(tasks)} were asked for; there are {', '.join(TASKS)}.")
    for name, one in own.items():
        as_method(one, 1.0)
        if name in METHODS or name in (DENSE, WINDOW_ONLY):
            raise ValueError(f"There is a method {name!r} already; give yours another name.")
    if not budgets and not own:
        raise ValueError("No budgets were given; expected shares of the dense bytes, like 0.5.")
    for what, n in (("tokens", n_tokens), ("prompts", n_prompts), ("seeds", seeds)):
        if type(n) is not int or n < 1:
            raise ValueError(f"{n!r} {what} were asked for; expected a whole number of at least 1.")
    if out is not None and not files.folder_of(out).is_dir():
        raise ValueError(f"{out}: its folder is not there; expected an existing folder.")
    if out is not None and Path(out).suffix == ".jsonl":
        raise ValueError(
            f"{out}: the log beside it ends in .jsonl; give a name that ends in .json."
        )


def summary(found: Mapping[Key, Record]) -> Iterator[Record]:
    """All seeds together: counts, means, and their 95 % intervals."""
    groups: dict[tuple, list[Record]] = {}
    for (task, question, _, name, budget), record in found.items():
        groups.setdefault((task, question, name, budget), []).append(record)
    for (task, question, name, budget), some in groups.items():
        pooled = {k: [x for one in some for x in one[k]] for k in ("kl", "agree", "error", "nats")}
        row: Record = {"task": task, "question": question, "method": name, "budget": budget}
        for what in ("bytes", "tokens_left", "k_left", "v_left"):
            row[what] = round(sum(r[what] for r in some) / len(some), 5)
        row["prompts"], row["seeds"] = len(pooled["kl"]), len(some)
        if TASKS[task].shows == "recall":
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


def _counted(right: Sequence[bool]) -> Record:
    low, high = wilson(sum(right), len(right))
    share = sum(right) / len(right)
    return {
        "right": sum(right), "of": len(right), "share": round(share, 4), "low": round(low, 4),
        "high": round(high, 4),
    }  # fmt: skip


def _mean(values: Sequence[float]) -> Record:
    low, high = bootstrap(values)
    mean = sum(values) / len(values)
    return {"mean": round(mean, 6), "low": round(low, 6), "high": round(high, 6)}


def _by_depth(some: Iterable[Record]) -> list[Record]:
    """Recall in each fifth of the text, by where the answer lies."""
    bins: list[list[bool]] = [[] for _ in range(DEPTHS)]
    for one in some:
        for right, depth in zip(one["right"], one["depth"], strict=True):
            bins[min(DEPTHS - 1, int(depth * DEPTHS))].append(right)
    return [
        {"from": i / DEPTHS, "to": (i + 1) / DEPTHS, **(_counted(x) if x else {"of": 0})}
        for i, x in enumerate(bins)
    ]


__getattr__ = former(__name__, plot="kvlab.view.pareto.plot")
