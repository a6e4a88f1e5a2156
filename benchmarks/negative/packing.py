"""What zeros, masks and packed rows did not gain: chapter 12."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.filling import Result, Table, where
from benchmarks.negative.common import RANGE, Row, made, of, ranged


def zeros(result: Result) -> list[str]:
    """Zeros, masks, and formats that are unpacked or searched."""
    lines = [[r["name"], r["what"], f"{r['bytes']:.0%}", ranged(r)] for r in result["rows"]]
    head = ["what", "measured on", "bytes fetched", "times as fast as dense"]
    return made(head, lines, f"{result['tokens']:,} tokens in float32. {RANGE}{where(result)}")


def packed(result: Result) -> list[str]:
    """Packed rows that lose, or gain less than was aimed at."""
    rows = [r for r in of(result, "attention") if r["name"].startswith("packed")]
    names, lines = list(dict.fromkeys(r["name"] for r in rows)), {}
    for r in rows:
        if r["ratio"] < (r["target"] or 1):
            aim = "" if r["target"] is None else f", aim {r['target']:g}"
            line = lines.setdefault((r["tokens"], r["dtype"], r["threads"]), {})
            line[r["name"]] = f"{r['ratio']:.3g} (bytes {1 / r['bytes']:.2g}{aim})"
    shown = [[*key, *(cells.get(name, "") for name in names)] for key, cells in lines.items()]
    text = (
        "How many times as fast as the best dense way; in brackets what the bytes say and what was "
        f"aimed at. Left empty is what did not lose and had no aim, or reached it. {where(result)}"
    )
    return made(["tokens", "numbers", "threads", *names], shown, text)


def packing(result: Result) -> list[str]:
    """What packing costs, where it costs more than was aimed at."""
    lines = []
    for what in ("packing a prompt", "packing a step"):
        for r in of(result, what):
            worst = f"{r['share_worst']:.1%}" if "share_worst" in r else ""
            if r["share"] > r["target"] or worst:
                lines.append([what, r["tokens"], r["threads"], f"{r['share']:.1%}", worst,
                              f"under {r['target']:.0%}"])  # fmt: skip
    head = ["what", "tokens", "threads", "share of the time", "of the worst step", "aim"]
    return made(head, lines, where(result))


def whole_steps(result: Result) -> list[str]:
    """Whole steps over packed rows: attention is only a part of them."""
    lines = [[r["dtype"], r["threads"], r["name"], ranged(r)] for r in less(of(result, "decoding"))]
    head = ["numbers", "threads", "step", "times as fast as the best dense step"]
    return made(head, lines, RANGE + where(result))


def less(rows: Iterable[Row]) -> list[Row]:
    """Rows of a packed cache that gain less than a fifth."""
    return [r for r in rows if r["name"].startswith("packed") and r["ratio"] < 1.2]


TABLES: dict[str, Table] = {
    "zeros: zeros": zeros,
    "pruned: packed": packed,
    "pruned: packing": packing,
    "pruned: steps": whole_steps,
}
