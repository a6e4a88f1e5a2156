"""Marks as a table, as JSON, as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from kvlab.course.grade import Graded

ISOLATION = (
    "Each answer ran in a process of its own with limits on time, memory and file size. It shares "
    "this computer's files and network, so this is for honest mistakes, not for attacks."
)


def as_text(graded: Graded) -> str:
    """The table of one notebook's questions, and what to say about each that did not pass."""
    lines = [graded.path]
    for v in graded.verdicts:
        got = v.exercise.points if v.passed else 0
        title = f"{v.exercise.number:<5}{v.exercise.title:<28}"
        lines.append(f"  {title}{got:>3} of {v.exercise.points}   {v.state}")
    lines.append(f"  {'total':<33}{graded.points:>3} of {graded.out_of}")
    if graded.note:
        lines.append(f"  Note: {graded.note}.")
    for v in graded.verdicts:
        if v.state not in ("passed", "not answered", "no cell"):
            lines += ["", *("  " + line for line in repr(v).splitlines())]
    return "\n".join(lines)


def write_json(path: str | Path, graded: Sequence[Graded]) -> None:
    """All verdicts with their messages."""
    rows = [
        {
            "file": g.path,
            "points": g.points,
            "out_of": g.out_of,
            "note": g.note,
            "questions": [
                {
                    "number": v.exercise.number,
                    "points": v.exercise.points if v.passed else 0,
                    "out_of": v.exercise.points,
                    "state": v.state,
                    "message": v.message,
                    "mistake": v.mistake,
                }
                for v in g.verdicts
            ],
        }
        for g in graded
    ]
    report = {"isolation": ISOLATION, "notebooks": rows}
    Path(path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def write_csv(path: str | Path, graded: Sequence[Graded]) -> None:
    """One line per notebook, one column per question."""
    numbers = sorted({v.exercise.number for g in graded for v in g.verdicts})
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "points", "out_of", *numbers])
        for g in graded:
            marks = {v.exercise.number: v.exercise.points if v.passed else 0 for v in g.verdicts}
            table.writerow([g.path, g.points, g.out_of, *[marks.get(n, "") for n in numbers]])
