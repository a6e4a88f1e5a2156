"""Fill the tables of the model card from the recorded evaluation.

    python -m kvlab.pocket.card

The card's words are written by hand, its numbers are not: each table stands between two comments
that name it, and is made here.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kvlab.pocket import path
from kvlab.pocket.evaluate import in_words

CURVE = {
    "copy": "copy loss",
    "repeat": "repeat loss",
    "pair": "pair loss",
    "recall password": "word of 8",
    "recall color": "color",
    "recall pet": "pet",
    "recall place": "place",
    "recall code": "code",
    "facts": "facts",
    "facts held out": "held out",
    "recall password 950": "word of 4, 950 tokens",
}
Result = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def scores(result: Result) -> str:
    """Tell every share with its interval."""
    rows = [[name, in_words(score)] for name, score in result["scores"].items()]
    rows += [
        [f"held-out documentation, windows of {n} tokens", f"{bits} bits a byte"]
        for n, bits in result["docs_bits_per_byte"].items()
    ]
    return table(["what", "right (95 % interval)"], rows)


def curve(result: Result) -> str:
    """Tell how the skills emerged; of all reports every other one, and the last."""
    reports = result["training"]["curve"]
    kept = [r for r in reports if r["step"] % 200 == 0 or r is reports[-1]]
    rows = [
        [r["step"], f"{r['tokens'] / 1e6:.1f}", r["stage"]]
        + [f"{r[k]:.2f}" if k in r else "" for k in CURVE]
        for r in kept
    ]
    return table(["step", "M tokens", "stage", *CURVE.values()], rows)


def samples(result: Result) -> str:
    """Show what the model greedily says."""
    shown = [[f"`{p!r}`", f"`{a!r}`"] for p, a in result["samples"].items()]
    return table(["prompt", "greedy continuation"], shown)


def facts(result: Result) -> str:
    """Tell where all numbers come from."""
    training, minutes = result["training"], result["training"]["minutes"]
    spent = ", ".join(f"{value} {what}" for what, value in minutes.items())
    tokens = "; ".join(f"`{p!r}`: {n}" for p, n in result["prompt_tokens"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rows = [
        ["parameters", f"{result['parameters']:,}"],
        ["weights", f"{result['weights_bytes']:,} bytes, float16"],
        ["trained by", f"`{training['command']}`"],
        ["steps, tokens seen", f"{training['steps']:,}, {training['tokens'] / 1e6:.2f} million"],
        ["minutes", f"{sum(minutes.values()):.1f} ({spent})"],
        ["on", f"{training['cpu']}, {training['threads']} thread, torch {training['torch']}"],
        ["measured by", f"`{result['command']}`, in {result['seconds']} s"],
        ["on", f"{result['machine']['cpu']}, {result['machine']['threads']} thread; {versions}"],
        ["prompt tokens, with the one that opens a text", tokens],
    ]
    return table(["", ""], rows)


BLOCKS: dict[str, Callable[[Result], str]] = {
    "facts": facts,
    "scores": scores,
    "curve": curve,
    "samples": samples,
}


def filled(card: str, result: Result) -> str:
    """Return the card with every block made anew from the result.

    Raises: ValueError if the card lacks a block.
    """
    for name, made in BLOCKS.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(block.findall(card)) != 1:
            raise ValueError(f"the card needs exactly one block {name!r}")
        text = made(result)
        card = block.sub(lambda found, text=text: found[1] + text + found[2], card)
    return card


def main(argv: Sequence[str] | None = None) -> None:
    """Rewrite the card's tables."""
    parser = argparse.ArgumentParser("python -m kvlab.pocket.card", description=main.__doc__)
    recorded = Path("benchmarks/results/pocket.json")
    parser.add_argument("--result", type=Path, default=recorded, help="what evaluate wrote")
    parser.add_argument("--card", type=Path, default=path() / "README.md")
    args = parser.parse_args(argv)
    result = json.loads(args.result.read_text(encoding="utf-8"))
    card = args.card.read_text(encoding="utf-8")
    args.card.write_text(filled(card, result), encoding="utf-8")


if __name__ == "__main__":
    main()
