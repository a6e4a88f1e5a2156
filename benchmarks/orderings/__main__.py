"""Which published orderings of pruning methods hold on a model.

    python -m benchmarks.orderings kvlab/pocket/weights runs/seed1/model runs/seed2/model \\
        --out benchmarks/results/orderings.json
    python -m benchmarks.orderings smollm2 --tokens 512 1024 \\
        --keep runs/keep --out benchmarks/results/orderings-smollm2.json

A prompt tells several facts of one kind among filler and asks for one. Its cache is pruned once,
after the text ("unseen": the question comes later) or after text and question ("visible"), the
latest 32 tokens stay dense, and the answer is read off: right is only the exact value. Every method
gets the same prompts, so two methods are compared prompt by prompt with a sign test. The pocket
model is asked in its own world, over its seeds; a model that read the web is asked in plain
English, has a text to go on with besides, and the pocket's record stands beside each of its lines.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import record
from benchmarks.orderings import beside, report
from benchmarks.orderings.claims import judged
from benchmarks.orderings.measuring import Run, identities, joined, measured
from kvlab import files, hub, load, pocket
from kvlab.pocket import questions
from kvlab.pocket.asking import speaks_pocket

POCKET = Path(__file__).parents[1] / "results" / "orderings.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all methods on all models, judge the claims, write JSON and a page."""
    args = parsed(argv)
    found, seconds, same = [], {}, []
    for name in args.models:
        rows, seconds[name], is_same, speaks = of_model(name, args)
        found += rows
        same.append(is_same)
    if not speaks:
        return _of_the_web(args, found, seconds, same[0])
    result = record(
        "benchmarks.orderings",
        args.out,
        list(report.summed(found)),
        prompts=args.prompts,
        tokens=args.tokens[0],
        weights_sha256={name: _hash(name) for name in args.models},
        identities={name: sum(one[name] for one in same) for name in same[0]},
        claims=list(judged(found)),
        seconds=seconds,
    )
    _page(args.out, lambda: report.in_words(result))
    return 0


def _of_the_web(args, found: list[dict[str, Any]], seconds: dict[str, float], same) -> int:
    name = args.models[0]
    result = record(
        "benchmarks.orderings",
        args.out,
        list(report.summed(found)),
        model=name,
        weights_sha256={name: _hash(name)},
        identities=same,
        claims=list(judged(found)),
        seconds=seconds[name],
    )
    record_of_pocket = json.loads(POCKET.read_text("utf-8"))
    _page(args.out, lambda: beside.in_words(result, record_of_pocket))
    return 0


def of_model(name: str, args) -> tuple[list[dict[str, Any]], float, dict[str, bool], bool]:
    """A model's rows, the seconds they took, which masks are the same, and what it speaks."""
    model, tokenizer = load(name)
    keep = args.keep and args.keep / _hash(name)[:16]
    every = []
    for tokens in args.tokens:
        run = Run(args.prompts, tokens, args.tiny, args.tasks, args.methods, args.questions)
        every += measured(model, tokenizer, run, keep)
    seconds = round(sum(row["seconds"] for row in every), 1)
    same = identities(model, tokenizer, Run(args.prompts, args.tokens[0]))
    return joined(every, name), seconds, same, speaks_pocket(tokenizer)


def _hash(name: str) -> str:
    return questions.sha256(_folder(name) / "model.safetensors")


def _folder(name: str) -> Path:
    return hub.NAMED.get(name, Path(name))


def _page(out: Path | None, words) -> None:
    if out and files.is_ordinary(out):
        files.write(out.with_suffix(".md"), words())


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; a folder without a model ends here."""
    parser = argparse.ArgumentParser("python -m benchmarks.orderings", description=main.__doc__)
    add = parser.add_argument
    add("models", nargs="*", help="folders or names; default: the shipped model")
    add("--prompts", type=int, default=100, help="in each cell, of each model")
    add("--tokens", type=int, nargs="+", default=[450], help="of a text; several for a real model")
    add("--tasks", nargs="+", default=(), help="only these")
    add("--questions", nargs="+", default=(), help="only these: visible, unseen, second")
    add("--methods", nargs="+", default=(), help="only methods of these names")
    add("--tiny", action="store_true", help="few methods: to try the code, no more")
    add("--keep", type=Path, help="a folder for what was measured, to go on from")
    add("--out", type=Path, help="JSON goes here, a page of words beside it")
    args = parser.parse_args(argv)
    args.models = args.models or [str(pocket.path())]
    lacking = [name for name in args.models if not (_folder(name) / "config.json").exists()]
    if lacking:
        parser.error(f"no Hugging Face files in {', '.join(lacking)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
