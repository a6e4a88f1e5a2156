"""What `kvlab marks` and `kvlab similar` do: with marks that are there, and with answers alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from kvlab.course.grading import collect, marks, outputs, report, roster, similarity, tables
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
    if args.csv == "-":
        print(similarity.as_csv(found), end="")
        return 0
    if args.csv:
        report.write(args.csv, tables.marked(similarity.as_csv(found)))
    print(similarity.as_text(found))
    return 0
