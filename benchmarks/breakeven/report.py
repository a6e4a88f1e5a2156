"""The lines of all ways, where they meet the dense one's, and the result for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.breakeven.lines import Pays, draws_of, fitted, interval, pays
from benchmarks.breakeven.ways import BASE

ENOUGH = 5  # rounds, of which draws with return differ enough
Done = Mapping[tuple, Mapping[str, Any]]


def rows(
    done: Done, names: Sequence[str], lengths: Sequence[int], n_rounds: int
) -> Iterator[dict[str, Any]]:
    """A row for each way: its line, the lengths at which it pays, and its bytes."""
    seconds = {
        name: {n: [done[name, n, r]["seconds"] for r in range(n_rounds)] for n in lengths}
        for name in names
    }
    every, draws = list(range(n_rounds)), draws_of(n_rounds)
    drawn = {name: [fitted(seconds[name], draw) for draw in draws] for name in names}
    base = fitted(seconds[BASE], every)
    for name in names:
        line = fitted(seconds[name], every)
        both = zip(drawn[name], drawn[BASE], strict=True)
        shortest, longest = lengths[0], lengths[-1]
        meetings = [pays(way, dense).within(shortest, longest) for way, dense in both]
        by_line = pays(line, base)
        found = by_line.within(shortest, longest)
        last = done[name, lengths[-1], 0]
        yield {
            "way": name,
            "step": last["step"],
            "milliseconds": {n: round(1e3 * _middle(seconds[name][n]), 4) for n in lengths},
            "intercept_ms": _told(
                [1e3 * one.intercept for one in drawn[name]], 1e3 * line.intercept
            ),
            "slope_us": _told([1e6 * one.slope for one in drawn[name]], 1e6 * line.slope),
            **({} if name == BASE else _where(found, meetings)),
            "pays_by_line_from": None if by_line.nowhere else _number(by_line.first),
            "cache_bytes": last["live_bytes"],
            "memory": done.get((name, "memory", lengths[-1]), {}).get("memory"),
        }


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _told(drawn: Sequence[float], value: float) -> dict[str, float]:
    low, high = interval(drawn)
    return {"value": round(value, 5), "low": round(low, 5), "high": round(high, 5)}


def _number(value: float) -> float | None:
    """None for what has no end: JSON has no infinity."""
    return None if math.isinf(value) else round(value, 1)


def _where(found: Pays, meetings: Sequence[Pays]) -> dict[str, Any]:
    """Where among the measured lengths a way pays, with the interval of where that begins over the
    draws in which it pays anywhere."""
    low, high = interval([m.first for m in meetings if not m.nowhere] or [math.inf])
    return {
        "pays_from": None if found.nowhere else _number(found.first),
        "pays_to": None if found.nowhere else _number(found.last),
        "pays_from_interval": [_number(low), _number(high)],
        "pays_nowhere": _share(m.nowhere for m in meetings),
    }


def _share(flags: Iterator[bool]) -> float:
    found = list(flags)
    return round(sum(found) / len(found), 3)


def as_text(result: Mapping[str, Any]) -> list[str]:
    """The lines of the report, and then each case in which a smaller cache loses."""
    head = ["way", "step", "ms + ", "us per token", "pays at", "resident MB", "peak MB"]
    lines = [head] + [[*_cells(row, result["lengths"])] for row in result["rows"]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    said = [
        f"{result['model']}, texts of {', '.join(map(str, result['lengths']))} tokens, "
        f"{result['rounds']} rounds of {result['steps']} steps, {result['threads_each']} thread"
        f"{'s' * (result['threads_each'] > 1)}, {result['machine']['cpu']}; {_trust(result)}."
    ]
    for line in lines:
        cells = zip(line, widths, strict=True)
        said.append(
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(cells))
        )
    return said + [sentence for row in result["rows"] for sentence in _losing(row, result)]


def _trust(result: Mapping[str, Any]) -> str:
    n = result["rounds"]
    if n >= ENOUGH:
        return "intervals of 95 %"
    few = "1 round is" if n == 1 else f"{n} rounds are"
    return f"{few} too few for the intervals to be trusted, {ENOUGH} are not"


def _cells(row: Mapping[str, Any], lengths: Sequence[int]) -> Iterator[str]:
    yield row["way"]
    yield row["step"]
    for name, digits in (("intercept_ms", 2), ("slope_us", 3)):
        one = row[name]
        yield f"{one['value']:.{digits}f} ({one['low']:.{digits}f} to {one['high']:.{digits}f})"
    yield _pays(row, lengths)
    for name in ("resident_bytes", "peak_bytes"):
        yield "-" if not row["memory"] else f"{row['memory'][name] / 1e6:.1f}"


def _pays(row: Mapping[str, Any], lengths: Sequence[int]) -> str:
    if "pays_nowhere" not in row:
        return ""
    first, last = row["pays_from"], row["pays_to"]
    if first is None:
        return "nowhere"
    if (first, last) == (lengths[0], lengths[-1]):
        return "everywhere"
    if last < lengths[-1]:
        return f"only to {last:.0f}"
    low, high = row["pays_from_interval"]
    return f"{first:.0f} ({low:.0f} to {high:.0f})"


def _losing(row: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    """In words, where a way takes longer than the dense cache."""
    name, base = row["way"], result["rows"][0]["milliseconds"]
    if "pays_nowhere" not in row:
        return
    slower = [n for n, ms in row["milliseconds"].items() if ms > base[n]]
    if slower:
        worst = max(row["milliseconds"][n] / base[n] for n in slower)
        yield (
            f"{name}: slower than the dense cache at {', '.join(map(str, slower))} tokens, "
            f"{worst:.2f} times as long at the most."
        )
    first = row["pays_by_line_from"]
    if row["pays_from"] is None and first is not None and first > result["lengths"][-1]:
        yield (
            f"{name}: by its line it would pay from {first:.0f} tokens on, which was not measured; "
            f"the model reads {result['max_positions']}."
        )
    if 0 < row["pays_nowhere"] < 1:
        yield f"{name}: in {row['pays_nowhere']:.0%} of the draws it pays nowhere: not decided."
