"""What attention and scores of tokens did not tell in chapter 11."""

from __future__ import annotations

from benchmarks.filling import Result, Table, where
from benchmarks.negative.common import Row, made, of


def attended(result: Result) -> list[str]:
    """Whether the most attended token is the most missed one."""
    lines = [[r["name"], f"{r['right']} of {r['of']}"] for r in of(result, "attention")]
    return made(["in a sentence", "the same token"], lines, where(result))


def second(result: Result) -> list[str]:
    """Scores that chance or the newest tokens reach when a second question comes."""
    rows = {r["name"]: r for r in of(result, "second question")}
    best = max(total(rows[name]) for name in ("random", "recency", "streaming"))
    kept = [r for r in rows.values() if total(r) <= best]
    lines = [[r["name"], r["words"], r["codes"]] for r in sorted(kept, key=total, reverse=True)]
    of_each = next(iter(rows.values()))["of"]
    head = ["score", f"words, of {of_each}", f"codes, of {of_each}"]
    return made(head, lines, where(result))


def total(row: Row) -> int:
    """Right answers of both kinds."""
    return row["words"] + row["codes"]


TABLES: dict[str, Table] = {
    "chapter-11: attended": attended,
    "chapter-11: second question": second,
}
