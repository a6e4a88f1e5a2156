"""A report for people: its tables."""

from __future__ import annotations

from typing import Any

from kvlab.quality.log import Record
from kvlab.quality.methods import DENSE
from kvlab.quality.tasks import TASKS, TITLES


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
            lines += _doubt(some)
    measured = {r["task"] for r in report["rows"]}.union(report.get("left_out", ()))
    for task, why in report.get("left_out", {}).items():
        lines += ["", f"Left out: {TASKS[task].title}. The model with all of its cache: {why}."]
    if "text" in report["tasks"] and "text" not in measured:
        lines += ["", "No text was given (--text FILE), so no continuation was measured."]
    lines += ["", *(f"Not measured: {what}. {why}" for what, why in report["refused"].items())]
    return "\n".join(lines).rstrip()


def _doubt(some: list[Record]) -> list[str]:
    """A warning where the model itself, with all of its cache, seldom gives the right answer."""
    dense = next((r["recall"] for r in some if r["method"] == DENSE and "recall" in r), None)
    if dense is None or 2 * dense["right"] > dense["of"]:
        return []
    return [
        f"The dense model itself is right in {dense['right']} of {dense['of']} only, so recall says"
        " little about what pruning costs here: go by KL, or ask what this model can answer."
    ]


def _table(some: list[Record], task: str) -> list[str]:
    first = TASKS[task].shows
    head = ["method", "bytes", "tokens", "K", "V", first, "KL, nats", "same top-1", "error"]
    head += ["recall by fifth of the text"] if first == "recall" else []
    lines = [head]
    for r in some:
        kept = (f"{r[k]:.1%}" for k in ("bytes", "tokens_left", "k_left", "v_left"))
        scored = (
            _shares(r[first], "share") if "share" in r[first] else _numbers(r[first]),
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


def _shares(x: Record, what: str) -> str:
    return f"{x[what]:.0%} ({x['low']:.0%} to {x['high']:.0%})"


def _numbers(x: Record) -> str:
    return f"{x['mean']:.3g} ({x['low']:.3g} to {x['high']:.3g})"
