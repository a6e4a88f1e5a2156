"""A report for people: tables, and a picture of quality over bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvlab.quality.cells import N_NEXT
from kvlab.quality.log import Row
from kvlab.quality.methods import (
    BASELINES,
    DENSE,
    FLOOR,
)

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
    pareto(panels, muted=(DENSE, FLOOR, *BASELINES)).savefig(path, dpi=150)
