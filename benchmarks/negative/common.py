"""What the tables share: lines of Markdown, and rows of a record by kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.filling import Result
from benchmarks.orderings.report import table

Row = dict[str, Any]
RANGE = "Ratios are medians over rounds with the least and the most; below 1 it is a loss. "


def made(head: Sequence[str], lines: Sequence[Sequence[Any]], text: str = "") -> list[str]:
    """A table, and what stands below it; a sentence in its place where nothing was lost."""
    if not lines:
        return ["In this record nothing of the kind loses.", "", text]
    return [*table(head, lines).splitlines(), *(("", text) if text else ())]


def of(result: Result, what: str) -> list[Row]:
    """One kind of a record's rows."""
    return [r for r in result["rows"] if r["what"] == what]


def starts(result: Result, name: str) -> list[Row]:
    """The rows whose name begins so."""
    return [r for r in result["rows"] if r["name"].startswith(name)]


def ranged(row: Row) -> str:
    """A ratio, and in brackets its least and its most."""
    return f"{row['ratio']:.3g} ({row['ratio_low']:.3g} to {row['ratio_high']:.3g})"
