"""What did not make a step of decode faster: chapter 7."""

from __future__ import annotations

from benchmarks.filling import Result, Table, where
from benchmarks.negative.common import RANGE, made, of, ranged


def predicted(result: Result) -> list[str]:
    """A step's time beside what two rates, or two prices, say of it."""
    lines = [
        [f"{r['name']}, one chat", "the machine's two best rates", f"{r['ratio']:.2f}", "no"]
        for r in of(result, "bound")
    ]
    for r in of(result, "two prices"):
        within = "yes" if 0.75 <= r["ratio"] <= 1.25 else "no"
        lines.append(
            [r["name"], "a start and a byte, from two models", f"{r['ratio']:.2f}", within]
        )
    head = ["step of", "predicted from", "measured / predicted", "within 25 %"]
    return made(head, lines, where(result))


def guessing(result: Result) -> list[str]:
    """Speculative decoding with the pocket model."""
    lines = [
        [r["name"], f"{r['right']:.2f} of {r['of']}", f"{r['predicted']:.2f}", f"{r['ratio']:.2f}"]
        for r in of(result, "guessing")
    ]
    call = of(result, "guessing")[0]
    text = (
        f"A call with {call['of'] + 1} tokens takes {call['call']:.2f} times as long as one with "
        "1. Below 1 it is a loss."
    )
    head = ["who guesses", "right", "times as fast, predicted", "measured"]
    return made(head, lines, text)


def copying(result: Result) -> list[str]:
    """Calls that copied guesses spare, text by text."""
    lines = [
        [r["name"], r["tokens"], r["calls"], f"{r['tokens'] / r['calls']:.2f}"]
        for r in of(result, "copying")
    ]
    return made(["asked for", "tokens", "calls", "tokens a call"], lines, where(result))


def compiled(result: Result) -> list[str]:
    """The compiled step beside the plain one, with more and more rows."""
    rows = result["rows"]
    found = {(r["name"], r["batch"]): r["tokens_per_second"] for r in rows}
    lines = [
        [n, f"{found['plain', n]:.0f}", f"{found['compiled', n]:.0f}",
         f"{found['compiled', n] / found['plain', n]:.2f}"]
        for n in sorted({r["batch"] for r in rows})
    ]  # fmt: skip
    head = ["rows", "plain, tokens/s", "compiled, tokens/s", "compiled / plain"]
    return made(head, lines, where(result))


def first_token(result: Result) -> list[str]:
    """With a cache, beside without: where nothing is gained."""
    lines = [
        [r["new_tokens"], f"{r['ratio']:.2f}", f"{r['ratio_compiled']:.2f}"]
        for r in result["rows"] if min(r["ratio"], r["ratio_compiled"]) < 1
    ]  # fmt: skip
    head = ["new tokens", "with a cache, times as fast", "with the compiled step as well"]
    return made(head, lines, where(result))


def fewer_bytes(result: Result) -> list[str]:
    """Numbers of fewer bytes: what the bytes say, and the clock."""
    bytes_of = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
    lines = []
    for threads in sorted({r["threads"] for r in result["rows"]}):
        rate = {
            r["name"].removeprefix("kvlab, compiled, "): r["tokens_per_second"]
            for r in result["rows"] if r["threads"] == threads and "compiled" in r["name"]
        }  # fmt: skip
        for name in list(rate)[1:]:
            gain, bound = rate[name] / rate["float32"], 4 / bytes_of[name]
            error = result["logit_errors"][name]["same_likeliest_token"]
            lines.append([name, threads, f"{bound:g}", f"{gain:.2f}", f"{error:.1%}"])
    head = ["weights", "threads", "as the bytes say", "times as fast as float32",
            "same likeliest token"]  # fmt: skip
    return made(head, lines, where(result))


def threads(result: Result) -> list[str]:
    """Where several threads take longer than one."""
    lines = [
        [r["what"], r["neighbours"], r["way"], ranged(r)]
        for r in result["rows"] if r["ratio_high"] < 1
    ]  # fmt: skip
    head = ["what", "busy neighbours", "threads", "times as fast as one thread"]
    return made(head, lines, RANGE + where(result))


TABLES: dict[str, Table] = {
    "chapter-07: predicted": predicted,
    "chapter-07: guessing": guessing,
    "chapter-07: copying": copying,
    "batch: compiled": compiled,
    "cache: first token": first_token,
    "decode: fewer bytes": fewer_bytes,
    "threads: several": threads,
}
