"""What `kvlab marks`, `similar` and `normalise` do with marks and notebooks; nothing is graded."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from kvlab.course.grading import (
    collect,
    marks,
    notebooks,
    outputs,
    report,
    roster,
    similarity,
    tables,
)
from kvlab.course.grading.command import check_chapter


def run_marks(args: argparse.Namespace) -> int:
    """Put marks files together and write what is asked for; nothing is graded again."""
    args.gradescope = None
    outputs.check(args)
    how = outputs.scheme(args)
    merged = marks.merged(args.files)
    rows = merged.pop("notebooks")
    klass = outputs.write(args, rows, merged, how)
    if not outputs.to_screen(args):
        print(outputs.summary(klass or marks.by_student(rows, how)))
    return 0


def run_similar(args: argparse.Namespace) -> int:
    """Say which answers are much alike; the exit code says nothing of that."""
    check_chapter(args.chapter)
    outputs.check(args)
    for path in args.files:
        if not Path(path).exists():
            raise ValueError(f"{path} is not there; expected notebooks, a folder or a zip.")
    known = roster.read(args.roster) if args.roster else None
    with collect.collected(args.files) as there:
        found = similarity.alike(
            there.submissions, chapter=args.chapter, at_least=args.at_least, roster=known
        )
    as_json = json.dumps([dataclasses.asdict(pair) for pair in found], indent=1) + "\n"
    if args.csv not in (None, "-"):
        report.write(args.csv, tables.marked(similarity.as_csv(found)))
    if args.json not in (None, "-"):
        report.write(args.json, as_json)
    if "-" in (args.csv, args.json):
        print(as_json if args.json == "-" else similarity.as_csv(found), end="")
    else:
        print(similarity.as_text(found))
    return 0


def run_normalise(args: argparse.Namespace) -> int:
    """Remove from notebooks what differs from run to run; 1 if --check finds some untidy."""
    untidy = []
    for path in args.files:
        came = notebooks.read(path)
        try:
            tidy = notebooks.normalise(came)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if tidy != came:
            untidy.append(path)
            if not args.check:
                notebooks.write(path, tidy)
    what = "is untidy" if args.check else "changed"
    if args.json:
        print(json.dumps({what.removeprefix("is "): untidy}))
    else:
        print(f"{', '.join(untidy) or 'nothing'} {what}")
    return 1 if untidy and args.check else 0
