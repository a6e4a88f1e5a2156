"""Train the pocket model from nothing, on one CPU core, in about an hour.

    python -m kvlab.pocket.train --seed 0 --out runs/pocket

`schedule` says what is learned in which order, `feeder` draws the texts, `learning` has the model
and its loss, `run` takes the steps. A run that was stopped goes on with `--resume`, and ends with
the same weights as one that was not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kvlab.measure import cpu_name
from kvlab.pocket import bpe, path
from kvlab.pocket.feeder import Feeder
from kvlab.pocket.questions import sha256
from kvlab.pocket.run import GateFailed, Run
from kvlab.pocket.schedule import CAMP_MINUTES, FULL_MINUTES, SCHEDULE, Stage, schedule_for

CHECKPOINT = "checkpoint.pt"


def provenance(feeder: Feeder) -> dict[str, Any]:
    """Say what besides the seed a retrained model depends on."""
    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "tokenizer_sha256": sha256(path() / "tokenizer.json"),
        "docs_sha256": hashlib.sha256(
            "\n\n".join(bpe.python_docs()[0].values()).encode()
        ).hexdigest(),
    }


def draw_curve(out: Path) -> None:
    """Draw how the skills came, where matplotlib is installed."""
    try:
        from kvlab.pocket import curve
    except ImportError:
        print("matplotlib is not installed: no learning curve is drawn from log.jsonl")
        return
    if curve.draw([out / "log.jsonl"], out / "curve.png"):
        print(f"Learning curve: {out / 'curve.png'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, say how long it took on what, and leave the Hugging Face files in OUT/model."""
    parser = _parser()
    args = parser.parse_args(argv)
    _refuse(parser, args)
    torch.set_num_threads(args.threads)
    schedule = SCHEDULE if args.minutes is None else _cut(args.minutes)
    run = None
    try:
        run = _begun(parser, args, schedule)
        run.train()
    except GateFailed as failure:
        print(f"FAILED {failure}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        kept = (args.out / CHECKPOINT).exists()
        goes_on = "--resume goes on from the checkpoint" if kept else "nothing was kept yet"
        after = f"after {run.step} steps" if run else "before the first step"
        print(f"\nStopped {after}; {goes_on}.", file=sys.stderr)
        return 130
    finally:
        if run:
            draw_curve(args.out)
    _tell(run)
    return 3 if run.failed else 0


def _begun(
    parser: argparse.ArgumentParser, args: argparse.Namespace, schedule: Sequence[Stage]
) -> Run:
    """The run as it stands before its next step: the texts' feeder takes a while to build."""
    n_steps = sum(stage.steps for stage in schedule)
    run = Run(
        args.seed,
        args.out,
        schedule=schedule,
        report_every=min(200, max(1, n_steps // 10)),  # a curve of ten points at least
        keep_going=args.keep_going,
    )
    if args.resume:
        try:
            run.resume()
        except ValueError as refused:
            parser.error(str(refused))
    run.note(seed=args.seed, parameters=run.model.config.n_params, **provenance(run.feeder))
    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m kvlab.pocket.train", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="scale the schedule to about this long")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--keep-going", action="store_true", help="do not stop at a failed gate; still exit with 3"
    )
    return parser


def _refuse(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what could not be done, before any work."""
    if args.minutes is not None and not 0 < args.minutes <= 10_000:
        parser.error(
            f"--minutes {args.minutes:g} was asked for; expected more than 0, at most 10,000"
        )
    if not 1 <= args.threads <= 1024:
        parser.error(f"--threads {args.threads} was asked for; expected 1 or more")
    out = args.out.absolute()
    nearest = next(folder for folder in (out, *out.parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        parser.error(f"--out {args.out}: nothing can be written into {nearest}")
    there = (args.out / CHECKPOINT).exists()
    if args.resume and not there:
        parser.error(f"nothing to resume: there is no {args.out / CHECKPOINT}")
    if there and not args.resume:
        parser.error(
            f"{args.out / CHECKPOINT} is there already: --resume goes on from it, another "
            "--out leaves it"
        )


def _cut(minutes: float) -> tuple[Stage, ...]:
    """Return the schedule cut to so many minutes, and say what is left of it."""
    schedule = schedule_for(minutes)
    steps = ", ".join(f"{stage.steps} of {stage.name!r}" for stage in schedule)
    print(f"Of the {FULL_MINUTES} minutes of the full schedule, {minutes:g}: {steps}.")
    if minutes < CAMP_MINUTES:
        print("So short a run learns to answer questions, but to recall nothing.")
    return schedule


def _tell(run: Run) -> None:
    """Say what a run took, on what, and where its files are."""
    spent = ", ".join(f"{value / 60:.1f} min {what}" for what, value in run.seconds.items())
    total = sum(run.seconds.values()) / 60
    print(f"{run.step} steps, {run.tokens / 1e6:.2f} M tokens, {total:.1f} minutes ({spent})")
    print(f"on {cpu_name()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    print(f"Hugging Face files: {run.out / 'model'}")
    for failure in run.failed:
        print(f"FAILED {failure}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
