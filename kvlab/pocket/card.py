"""Fill the tables of the model card from the recorded examinations.

    python -m kvlab.pocket.card

The card's words are written by hand, its numbers are not: each table stands between two comments
that name it, and is made in `card_tables`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from kvlab import files
from kvlab.pocket import path
from kvlab.pocket.card_tables import BLOCKS, Result, spread


def filled(card: str, result: Result, others: Sequence[Result] = ()) -> str:
    """Return the card with every block made anew from the result, and the other seeds' results.

    Raises: ValueError if the card lacks a block.
    """
    made = {name: write(result) for name, write in BLOCKS.items()}
    more = [other for other in others if other["weights_sha256"] != result["weights_sha256"]]
    made["spread"] = spread([result, *more])
    for name, text in made.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(block.findall(card)) != 1:
            raise ValueError(f"the card needs exactly one block {name!r}")
        card = block.sub(lambda found, text=text: found[1] + text + found[2], card)
    return card


def recorded(file: Path) -> tuple[Result, list[Result]]:
    """Read the shipped model's result, and those of all seeds that lie beside it."""
    beside = sorted(file.parent.glob(f"{file.stem}-seed*.json"))
    read = [json.loads(one.read_text(encoding="utf-8")) for one in (file, *beside)]
    return read[0], read[1:]


def main(argv: Sequence[str] | None = None) -> None:
    """Rewrite the card's tables."""
    parser = argparse.ArgumentParser("python -m kvlab.pocket.card", description=main.__doc__)
    default = Path("benchmarks/results/pocket.json")
    parser.add_argument("--result", type=Path, default=default, help="what `kvlab eval` wrote")
    parser.add_argument("--card", type=Path, default=path() / "README.md")
    args = parser.parse_args(argv)
    card = args.card.read_text(encoding="utf-8")
    files.write(args.card, filled(card, *recorded(args.result)))


if __name__ == "__main__":
    main()
