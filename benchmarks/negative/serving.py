"""What did not save memory or time when many are served: chapters 8 and 9."""

from __future__ import annotations

from benchmarks.filling import Result, Table, where
from benchmarks.negative.common import RANGE, Row, made, of, ranged, starts


def growing(result: Result) -> list[str]:
    """Appending one token to a cache that grows."""
    rows, counted = of(result, "append"), {r["name"]: r for r in of(result, "growth")}
    lengths = list(dict.fromkeys(r["tokens"] for r in rows))
    lines = []
    for name, count in counted.items():
        its = {r["tokens"]: f"{r['microseconds']:,.0f}" for r in rows if r["name"] == name}
        cells = [its.get(n, "") for n in lengths]
        lines.append([name, f"{count['moved']:,}", f"{count['most']:,}", *cells])
    head = ["a cache that is", "tokens moved for 1,000", "most in memory",
            *(f"microseconds at {n:,}" for n in lengths)]  # fmt: skip
    return made(head, lines, where(result))


def reserved(result: Result) -> list[str]:
    """Slots that are taken and never used."""
    lines = [
        [r["name"], f"{r['taken']:,}", f"{r['used'] / r['taken']:.0%}"]
        for r in of(result, "reserved")
    ]
    return made(["eight chats, in", "slots taken", "of them used"], lines, where(result))


def freed(result: Result) -> list[str]:
    """Blocks that become free when tokens are dropped."""
    lines = []
    for r in starts(result, "blocks of "):
        for way in ("each_head_its_own", "all_heads_the_same", "whole_blocks"):
            lines.append([r["name"], way.replace("_", " "), r[way]])
    return made(["what", "chosen by", "blocks free"], lines, where(result))


def pruned_steps(result: Result) -> list[str]:
    """Steps of an engine that gives blocks back."""
    lines = [
        [r["name"], r["most_blocks_in_use"], f"{1e3 * r['step_seconds']:.2f}"]
        for r in result["rows"] if "most_blocks_in_use" in r
    ]  # fmt: skip
    return made(["case", "blocks in use at most", "milliseconds a step"], lines, where(result))


def twins(result: Result) -> list[str]:
    """What the engine loses where there is nothing to gain."""
    lines = [
        [called(r, "twin: "), ranged(r)]
        for r in starts(result, "twin: ") if r["ratio"] < 1
    ]  # fmt: skip
    return made(["case", "times as fast as without the engine's ways"], lines,
                RANGE + where(result))  # fmt: skip


def called(row: Row, less: str) -> str:
    """A case's name, and whether its steps ran compiled."""
    compiled = ", steps compiled" if row.get("steps") == "compiled" else ""
    return row["name"].removeprefix(less) + compiled


def gaps(result: Result) -> list[str]:
    """The longest gap of four users while a long prompt comes in."""
    lines = [[called(r, "longest gap as "), r["gap_in_steps"]]
             for r in result["rows"] if "gap_in_steps" in r]  # fmt: skip
    return made(["case", "longest gap of the four, in their steps"], lines, where(result))


def waits(result: Result) -> list[str]:
    """Who waits under which schedule."""
    lines = [[r["name"], f"{r['gap']:.1f}", f"{r['first']:.1f}"] for r in of(result, "waits")]
    head = ["schedule", "longest gap of the four", "first token of the newcomer"]
    return made(head, lines, f"In decode steps. {where(result)}")


def in_time(result: Result) -> list[str]:
    """Requests that were served within the limits."""
    rows = of(result, "in time")
    loads = list(dict.fromkeys(r["load"] for r in rows))
    lines = []
    for name in dict.fromkeys(r["name"] for r in rows):
        its = {r["load"]: f"{r['strict']:.0%}, {r['relaxed']:.0%}" for r in rows
               if r["name"] == name}  # fmt: skip
        lines.append([name, *(its[load] for load in loads)])
    head = ["schedule", *(f"load {load:g}: strict, relaxed" for load in loads)]
    return made(head, lines, where(result))


def pieces(result: Result) -> list[str]:
    """A prompt in pieces beside the same one whole."""
    lines = [[r["prompt_tokens"], ranged(r)] for r in starts(result, "kvlab, chunks")]
    return made(["tokens of the prompt", "in pieces of 128, times as fast as whole"], lines,
                RANGE + where(result))  # fmt: skip


def processes(result: Result) -> list[str]:
    """Two processes in place of one."""
    lines = [[r["name"], f"{r['expected']:.2f}", f"{r['ratio']:.2f}"]
             for r in of(result, "two processes")]  # fmt: skip
    head = ["two processes", "times as fast as one, as the planner has it", "measured"]
    return made(head, lines, where(result))


TABLES: dict[str, Table] = {
    "chapter-08: growing": growing,
    "chapter-08: reserved": reserved,
    "serve-pocket: freed": freed,
    "serve-pocket: pruned": pruned_steps,
    "serve-pocket: twins": twins,
    "serve-pocket: gaps": gaps,
    "chapter-09: waits": waits,
    "chapter-09: in time": in_time,
    "prefill: pieces": pieces,
    "chapter-09: two processes": processes,
}
