"""What chapter 13 measures on SmolLM2, for readers who have not fetched that model.

    python -m benchmarks.chapter13 --out benchmarks/results/chapter13.json

Runs the chapter's code where the model is installed, and writes down what `on_smollm2` measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import record
from kvlab import hub
from kvlab.pocket import questions

CHAPTER = Path(__file__).parents[1] / "chapters" / "13_real_model.ipynb"
TIMED = "nbval-ignore-output"  # what a clock says is not written down


def ran() -> dict[str, Any]:
    """The names that the chapter leaves behind, its timed cells left out."""
    notebook = json.loads(CHAPTER.read_text("utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and TIMED not in cell["metadata"].get("tags", ()):
            exec("".join(cell["source"]), names)
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and write it down."""
    parser = argparse.ArgumentParser("python -m benchmarks.chapter13", description=main.__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    weights = hub.NAMED["smollm2"] / "model.safetensors"
    if not weights.exists():
        parser.error(hub.UNFETCHED)
    found = ran()["live"]
    record(
        "benchmarks.chapter13",
        args.out,
        [],
        model="smollm2",
        weights_sha256=questions.sha256(weights),
        found=found,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
