"""Draw how the skills of one training run, or of several, came.

python -m kvlab.pocket.curve runs/seed0/log.jsonl runs/seed1/log.jsonl --out curve.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kvlab import files

# a colour and a line style each (Okabe and Ito's palette), so that no two look alike in grey
LOSSES = {
    "copy": ("copy a list", "#0072B2", "-"),
    "repeat": ("go on repeating", "#D55E00", "--"),
    "pair": ("find a pair's second", "#009E73", ":"),
    "apart": ("the same, words between", "#CC79A7", "-."),
}
SHARES = {
    "facts": ("facts", "#7A7A7A", "-"),
    "recall password": ("word of 8", "#0072B2", "-"),
    "recall place": ("place of 8", "#D55E00", "--"),
    "recall code": ("code of 8", "#009E73", ":"),
    "two kinds": ("two kinds of a person", "#CC79A7", "-."),
    "recall password 950": ("word of 4, 950 tokens", "#000000", (0, (1, 3))),
}


def reports(log: Path) -> list[dict[str, Any]]:
    """Return a log's measurements in the order of their steps; the last of a step counts."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    by_step = {entry["step"]: entry for entry in entries if "step" in entry}
    return [by_step[step] for step in sorted(by_step)]


def draw(logs: Sequence[Path], out: Path) -> bool:
    """Draw losses and skills over the tokens seen, a line a run; False if nothing is logged yet."""
    runs = [found for found in map(reports, logs) if found]
    if not runs:
        return False
    figure = Figure(figsize=(8, 6.4), layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, sharex=True)
    _lines(upper, runs, LOSSES)
    upper.set_ylabel("loss on what was\nseen before, nats")
    _lines(lower, runs, SHARES)
    lower.set_ylabel("share of prompts\nanswered exactly")
    lower.set_xlabel("millions of tokens seen")
    lower.set_ylim(-0.03, 1.03)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E5E5E5", linewidth=0.8)
        _name_the_stages(axes, runs[0], named=axes is upper)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with files.writing(out) as part:
        figure.savefig(part, dpi=130)
    return True


def _lines(axes, runs, what) -> None:
    for key, (label, colour, style) in what.items():
        for i, run in enumerate(runs):
            points = [(r["tokens"] / 1e6, r[key]) for r in run if key in r]
            if points:
                label_once = label if i == 0 else None
                axes.plot(*zip(*points, strict=True), color=colour, linestyle=style,
                          linewidth=1.6, label=label_once)  # fmt: skip


def _name_the_stages(axes, run, *, named: bool) -> None:
    """Draw a line where a stage begins."""
    begins, before = 0.0, None
    for report in run:
        if report["stage"] != before:
            axes.axvline(begins, color="#B0B0B0", linewidth=0.8)
            if named:
                axes.annotate(f" {report['stage']}", (begins, 1.01), fontsize=7, rotation=20,
                              xycoords=("data", "axes fraction"))  # fmt: skip
        before, begins = report["stage"], report["tokens"] / 1e6


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the curves of one run or several."""
    parser = argparse.ArgumentParser("python -m kvlab.pocket.curve", description=main.__doc__)
    parser.add_argument("logs", nargs="+", type=Path, metavar="log.jsonl")
    parser.add_argument("--out", type=Path, default=Path("curve.png"))
    args = parser.parse_args(argv)
    missing = [str(log) for log in args.logs if not log.exists()]
    if missing:
        parser.error(f"there is no {', '.join(missing)}")
    if not draw(args.logs, args.out):
        print("Nothing is logged yet: the first report comes after 200 steps.", file=sys.stderr)
        return 1
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
