"""The page of a model that read the web, the pocket's record beside each line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.orderings.methods import RECENT
from benchmarks.orderings.report import DENSE_ENOUGH, IDENTITIES, left, table
from kvlab import quality

Cell = tuple[str, str, int]  # task, question, tokens
AGREE = {"holds", "no difference", "the opposite holds"}


def named(cell: Cell) -> str:
    """A column's head."""
    task, question, tokens = cell
    return f"{task}, {tokens} tokens" + (f", {question}" if task != "text" else "")


def in_words(result: dict[str, Any], pocket: dict[str, Any]) -> str:
    """The page of one model, the pocket's record beside it."""
    rows, claims = result["rows"], result["claims"]
    cells = list(dict.fromkeys(_cell(row) for row in rows))
    dense = {_cell(row): row for row in rows if row["method"] == "dense"}
    able = [c for c in cells if c[0] == "text" or _share(dense[c]) >= DENSE_ENOUGH]
    lacking = [c for c in cells if c not in able]
    name, machine = result["model"], result["machine"]
    parts = [
        f"# Which published orderings hold on {name}, beside the pocket model\n",
        f"Made by `{result['command']}` on {machine.get('cpu', 'this machine')}, torch "
        f"{machine['torch']}. The latest {RECENT} tokens stay dense. Recall: notes with three "
        "facts among filler, one of them asked and answered, another asked (needle: one fact, one "
        "question). The cache is pruned when the question was read (visible), before any question "
        "(unseen), or after the first question and its answer (second). Text: a piece of Python's "
        "documentation is pruned and its next 31 tokens are scored. A verdict takes a sign test "
        "over the same prompts at 1 %: by right answers, or for text by which is nearer to the "
        f"dense cache's predictions. Measuring took {result['seconds'] / 60:.0f} minutes.\n",
        "## What the model answers with a dense cache\n",
        table(["task", "right", "nats"], [_dense_line(dense[c]) for c in cells]),
    ]
    if lacking:
        parts.append(
            f"Where it answers fewer than {DENSE_ENOUGH:.0%} itself, nothing is claimed: "
            f"{'; '.join(map(named, lacking))}.\n"
        )
    parts += [
        "## Output-aware against magnitude, mask by mask (70 %)\n",
        table(["what", "the same elements stay"],
              [[what, "yes" if same else "no"] for what, same in result["identities"].items()]),
        IDENTITIES,
        "## Claims\n",
        f"Each cell: the verdict on {name}, with right answers of the first method against the "
        "second's, or for text the mean KL to the dense cache in nats. The last column has the "
        "verdicts of the pocket model's seeds at this sparsity: words visible, words unseen, codes "
        "visible, codes unseen.\n",
        table(["claim", "source", "sparsity", *map(named, able), "pocket"],
              list(_claim_lines(claims, able, pocket["claims"]))),
        "## Every method\n",
        "Right answers with their 95 % interval, then the mean KL to the dense cache in nats. "
        "\"Left\" are the shares of keys' and of values' numbers that stayed, window included; "
        "bytes are those of the packed form in float16.\n",
        table(["method", "sparsity", "left of K, V", "bytes of dense", *map(named, cells)],
              list(_method_lines(rows, cells))),
    ]  # fmt: skip
    return "\n".join(parts)


def _cell(row: dict[str, Any]) -> Cell:
    return row["task"], row["question"], row["tokens"]


def _share(row: dict[str, Any]) -> float:
    return row["right"] / row["of"]


def _dense_line(row: dict[str, Any]) -> list[str]:
    right = "" if row["task"] == "text" else f"{row['right']} of {row['of']}"
    return [named(_cell(row)), right, f"{row['nats']:.3f}"]


def _claim_lines(
    claims: Sequence[dict[str, Any]], able: Sequence[Cell], pocket: Iterable[dict[str, Any]]
) -> Iterable[list[str]]:
    seen: dict[tuple, list[str]] = {}
    for c in pocket:
        seen.setdefault((c["claim"], c["sparsity"]), []).append(c["verdict"])
    lines: dict[tuple, dict[Cell, str]] = {}
    for c in claims:
        key = c["claim"], c["source"], c["sparsity"]
        lines.setdefault(key, {})[_cell(c)] = _verdict(c)
    for (claim, source, s), cells in lines.items():
        if any(cell in cells for cell in able):
            beside = "; ".join(seen.get((claim, s), [])) or "not measured"
            yield [claim, source, f"{s:.1%}", *(cells.get(cell, "") for cell in able), beside]


def _verdict(c: dict[str, Any]) -> str:
    if c["task"] == "text":
        return f"{c['verdict']} ({c['better_kl']:.3g} : {c['worse_kl']:.3g})"
    return f"{c['verdict']} ({c['better_right']} : {c['worse_right']} of {c['of']})"


def _method_lines(rows: Sequence[dict[str, Any]], cells: Sequence[Cell]) -> Iterable[list[str]]:
    by: dict[tuple, dict[Cell, dict]] = {}
    for row in rows:
        by.setdefault((row["method"], row["sparsity"]), {})[_cell(row)] = row
    for (method, s), found in by.items():
        every = list(found.values())
        k, v = (sum(side) / len(every) for side in zip(*map(left, every), strict=True))
        shown = [_shown(found[cell]) if cell in found else "" for cell in cells]
        yield [method, f"{s:.1%}", f"{k:.0%}, {v:.0%}", f"{every[0]['bytes']:.0%}", *shown]


def _shown(row: dict[str, Any]) -> str:
    if row["task"] == "text":
        return f"KL {row['kl_nats']:.3g}"
    low, high = quality.wilson(row["right"], row["of"])
    return f"{_share(row):.0%} ({low:.0%} to {high:.0%}), KL {row['kl_nats']:.3g}"
