"""Tables inside pages of Markdown, made from the recorded results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results"
Result = dict[str, Any]
Table = Callable[[Result], list[str]]


def filled(text: str, tables: Mapping[str, Table]) -> str:
    """A page with its tables as the records say them.

    `tables` is by name; a name is that of a record, or has a colon after it and then what is told.
    The place of a table is between `<!-- name -->` and `<!-- /name -->`.
    """
    for name, table in tables.items():
        path = RECORDS / f"{name.partition(':')[0]}.json"
        if path.exists():
            made = "\n".join(table(json.loads(path.read_text("utf-8")))) + "\n"
        else:
            made = f"Not measured yet: `benchmarks/results/{path.name}` is not there.\n"
        block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
        text = block.sub(lambda found, made=made: found[1] + made + found[2], text)
    return text


def where(result: Result) -> str:
    """Machine, versions and command."""
    machine = result["machine"]
    versions = f"torch {machine['torch']}"
    if "transformers" in machine:
        versions += f", transformers {machine['transformers']}"
    waiting = machine.get("waiting", "").lower()
    passive = ", waiting passively" if waiting == "passive" else ""
    load = f", {result['load']:g} programs at work" if "load" in result else ""
    plural = "s" * (machine["threads"] != 1)
    return (
        f"{machine['cpu']}, {machine['threads']} thread{plural}{passive}{load}, {versions}; "
        f"`{result['command'].strip()}`."
    )
