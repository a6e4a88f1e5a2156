"""What chapter 13 measures on SmolLM2, for readers who have not fetched that model.

    python -m benchmarks.chapter13 --out benchmarks/results/chapter13.json

Runs the chapter where the model is installed, and writes down what its `on_smollm2` measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chapters import run
from benchmarks.common import record
from kvlab import hub
from kvlab.pocket import questions

CHAPTER = "13_real_model.ipynb"


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and write it down."""
    parser = argparse.ArgumentParser("python -m benchmarks.chapter13", description=main.__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    weights = hub.NAMED["smollm2"] / "model.safetensors"
    if not weights.exists():
        parser.error(hub.UNFETCHED)
    out = args.out and args.out.resolve()  # the chapter runs in a folder of its own
    more = {"model": "smollm2", "weights_sha256": questions.sha256(weights)}
    record("benchmarks.chapter13", out, [], **more, found=run(CHAPTER).live)
    return 0


if __name__ == "__main__":
    sys.exit(main())
