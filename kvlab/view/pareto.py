"""A report as a picture: quality over bytes, a line for each method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvlab import files
from kvlab.quality.methods import BASELINES, DENSE, WINDOW_ONLY
from kvlab.quality.tasks import TITLES
from kvlab.view.figures import pareto


def plot(report: dict[str, Any], path: str | Path) -> None:
    """Recall, or KL on text, over bytes: a line for each method."""
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
        pareto(panels, muted=(DENSE, WINDOW_ONLY, *BASELINES)).savefig(part, dpi=150)
