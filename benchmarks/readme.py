"""Fill the README's table from the recorded results: `python -m benchmarks.readme`."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- cache -->\n).*?(<!-- /cache -->)", re.S)


def table() -> str:
    """What a cache saves, as Markdown, with where and how it was measured."""
    result = json.loads((ROOT / "benchmarks" / "results" / "cache.json").read_text("utf-8"))
    lines = ["| new tokens | rows computed | seconds, median pair | range |", "|---|---|---|---|"]
    for row in result["rows"]:
        lines.append(
            f"| {row['new_tokens']} | {row['rows_ratio']:.1f} times fewer "
            f"| {row['ratio']:.1f} times as fast "
            f"| {row['ratio_low']:.1f} to {row['ratio_high']:.1f} |"
        )
    where = result["machine"]
    lines += [
        "",
        f"Pocket model, {result['prompt_tokens']} prompt tokens, greedy, float32, same tokens both "
        f"ways; {where['cpu']}, {where['threads']} threads, torch {where['torch']}; "
        f"`{result['command'].strip()}`. For one token a cache gains nothing and costs a little.",
    ]
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """The README with its table as the results say it."""
    return BLOCK.sub(lambda found: found[1] + table() + found[2], text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text("utf-8")), encoding="utf-8")
