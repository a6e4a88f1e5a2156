"""Random input for minutes: a command of its own, never part of the suite.

    python -m tests.fuzz --minutes 20 loader
    python -m tests.fuzz --seed 3 --only 1234 loader

Without a target all take turns, each for so long. A case follows from the seed, the target's name
and its own number alone. One that ends in anything but an answer or a plain refusal is saved, with
what was raised, and the command ends with 1. A case that ends the process itself is the last one
whose number was printed.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import torch

from kvlab import files
from tests.fuzz import arguments, loader, notebook, tokenizer, wire

TARGETS = {
    "loader": loader, "tokenizer": tokenizer, "notebook": notebook, "wire": wire,
    "arguments": arguments,
}  # fmt: skip
SECONDS = 60  # a case that takes longer hangs
LONGEST = 500  # characters of a refusal


class TooSlow(BaseException):
    """Raised into a case that hangs."""


def fault_of(target, case, folder):
    """What a case ended in, if that is neither an answer nor a plain refusal; and which it was."""
    try:
        target.run(case, folder)
    except target.REFUSALS as refusal:
        said = str(refusal)
        if type(refusal) is ValueError and (len(said) >= LONGEST or not said):
            return f"a refusal of {len(said)} characters: {said[:300]}", "refused"
        return None, "refused"
    except KeyboardInterrupt:
        raise
    except BaseException:  # a panic in Rust is no Exception
        return traceback.format_exc(), "fault"
    return None, "answered"


def _slow(_number, _frame):
    raise TooSlow(f"still at work after {SECONDS} seconds")


def fuzz(name, seed, minutes, keep, only=None, most_finds=5):
    """How many cases of one target were tried, by how they ended."""
    target, counts, finds = TARGETS[name], Counter(), 0
    end = time.monotonic() + 60 * minutes
    numbers = [only] if only is not None else range(10**9)
    with tempfile.TemporaryDirectory(prefix="kvlab-fuzz-") as folder:
        for number in numbers:
            if time.monotonic() > end or finds == most_finds:
                break
            place = Path(folder, str(number))
            place.mkdir()
            case = target.make(random.Random(f"{seed}/{name}/{number}"))
            if number % 100 == 0:
                print(f"{name}: case {number}", file=sys.stderr, flush=True)
            signal.alarm(SECONDS)
            fault, how = fault_of(target, case, place)
            signal.alarm(0)
            counts[how if fault is None else "fault"] += 1
            if fault is not None:
                finds += 1
                save(keep / f"{name}-{seed}-{number}", case, fault)
            target.tidy(place)
    return counts


def save(folder, case, fault):
    """Keep what failed: its files, or what it was in words, beside what was raised."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (case if isinstance(case, dict) else {"case.txt": repr(case)}).items():
        files.write(folder / name, content)
    files.write(folder / "raised.txt", fault)
    print(f"FAULT, kept in {folder}: {fault.strip().splitlines()[-1][:200]}", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="N", help="this case alone")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-finds"), metavar="FOLDER")
    args = parser.parse_args(argv)
    if strange := set(args.targets) - TARGETS.keys():
        parser.error(f"no target {min(strange)!r}; there are {', '.join(TARGETS)}")
    faulthandler.enable()
    signal.signal(signal.SIGALRM, _slow)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    failed = False
    for name in args.targets or TARGETS:
        print(f"{name}: seed {args.seed}, {args.minutes:g} minutes", flush=True)
        counts = fuzz(name, args.seed, args.minutes, args.keep, args.only)
        print(f"{name}: {sum(counts.values())} cases, {dict(counts)}", flush=True)
        failed |= counts["fault"] > 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
