"""What is written of marks, for `kvlab grade` and `kvlab marks` alike: options, checks, files."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvlab.course.exercises import chapters
from kvlab.course.grading import (
    analysis,
    analysis_page,
    feedback,
    gradebook,
    late,
    marks,
    nbgraded,
    report,
    roster,
    tables,
)
from kvlab.course.grading.marks import Klass, Row, Scheme
from kvlab.course.grading.names import padded, width
from kvlab.course.grading.tables import number, printable

TARGETS = ("json", "csv", "gradescope", "per_student", "moodle", "canvas", "analysis")
OF_STUDENTS = ("per_student", "moodle", "canvas", "analysis", "feedback", "nbgrader", "roster",
               "weights", "deadline", "partial")  # fmt: skip


def target(args: argparse.Namespace, name: str) -> str | None:
    return getattr(args, name, None)


def to_screen(args: argparse.Namespace) -> bool:
    """Whether something is printed that a program may read, so that nothing else may be."""
    return any(target(args, name) == "-" for name in TARGETS)


def check(args: argparse.Namespace) -> None:
    """Look at every file that is to be written, before any work.

    Raises: ValueError for one that cannot be.
    """
    for name in TARGETS:
        path = target(args, name)
        if path in (None, "-"):
            continue
        if path.endswith((".ipynb", ".zip")) or Path(path).is_dir():
            raise ValueError(f"The marks were to be written to {path}; expected a new file's name.")
        if not Path(path).absolute().parent.is_dir():
            raise ValueError(f"{path} cannot be written: its folder is not there.")
    titles(getattr(args, "title", None))
    page = target(args, "analysis")
    if page not in (None, "-") and not page.lower().endswith((".html", ".htm")):
        raise ValueError(
            f"--analysis {page}: the page is HTML; expected a name like class.html, or no name at "
            "all for text."
        )
    folder = target(args, "feedback")
    if folder is not None and (
        (Path(folder).exists() and not Path(folder).is_dir())
        or not Path(folder).absolute().parent.is_dir()
    ):
        raise ValueError(f"--feedback {folder}: expected a folder, or a new name in one.")
    if target(args, "nbgrader") is not None:
        if args.weights is not None:
            raise ValueError("--weights came with --nbgrader, whose gradebook knows no weights.")
        nbgraded.check(args.nbgrader)


def scheme(args: argparse.Namespace) -> Scheme:
    """How points become marks, as the options say.

    Raises: ValueError for a weight, deadline, share or file that does not do.
    """
    known = roster.read(args.roster) if args.roster else None
    return Scheme(known, _by_chapter(args.weights, "--weights"), _late(args, known), args.partial)


def _by_chapter(text: str | None, option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in (text or "").split(",") if text is not None else ():
        chapter, _, value = (p.strip() for p in part.partition("="))
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise ValueError(f"{option} {text!r}: expected chapters and weights, like 6=2,10=0.5.")
        _known(chapter, f"{option} {text!r}")
        if chapter in found:
            raise ValueError(f"{option} {text!r}: chapter {chapter} is there twice.")
        found[chapter] = weight
    return found


def _known(chapter: str, where: str) -> None:
    known = [c.number for c in chapters()]
    if chapter not in known:
        raise ValueError(f"{where}: there are exercises of chapters {', '.join(known)}.")


def _late(args: argparse.Namespace, known: roster.Roster | None) -> late.Late | None:
    if not args.deadline:
        for name in ("late_share", "late_days", "times"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} came without a --deadline.")
        return None
    share = 0.1 if args.late_share is None else args.late_share
    if not 0 <= share <= 1:
        raise ValueError(f"--late-share {share:g}: expected a share of the points, 0 to 1.")
    if args.late_days is not None and args.late_days < 0:
        raise ValueError(f"--late-days {args.late_days}: expected 0 or more.")
    times = late.times(args.times, known) if args.times else {}
    return late.Late(late.deadlines(args.deadline), share, args.late_days, times)


def titles(given: Sequence[str] | None) -> dict[str, str]:
    """Column names from a command line, each N=TEXT."""
    found: dict[str, str] = {}
    for text in given or ():
        chapter, _, title = text.partition("=")
        _known(chapter, f"--title {text!r}")
        if not title.strip():
            raise ValueError(f"--title {text!r}: expected a column's name, like 6='Homework (812)'")
        found[chapter] = title
    return found


def write(
    args: argparse.Namespace, rows: list[Row], head: Mapping[str, Any], how: Scheme
) -> Klass | None:
    """Write all that was asked for: files first, then what is printed. Gives the class, if asked.

    Raises: ValueError for a file that cannot be written.
    """
    texts = {}
    if args.json:
        texts[args.json, "json"] = report.as_json(rows, head)
    if args.csv:
        texts[args.csv, "csv"] = report.as_csv(rows)
    _put(texts, files=True)  # before anything is made of them that could fail
    klass = marks.by_student(rows, how) if wanted(args) else None
    if klass is not None:
        texts |= _of_students(args, klass)
    _put({key: t for key, t in texts.items() if key[1] not in ("json", "csv")}, files=True)
    if klass is not None and args.feedback:
        feedback.write(klass, args.feedback)
    if klass is not None and target(args, "nbgrader"):
        print(nbgraded.write(klass, args.nbgrader), file=sys.stderr)
    _put(texts, files=False)
    return klass


def wanted(args: argparse.Namespace) -> bool:
    """Whether an option asks for marks by student."""
    return any(target(args, name) for name in OF_STUDENTS)


def _of_students(args: argparse.Namespace, klass: Klass) -> dict[tuple[str, str], str]:
    names = titles(args.title)
    found = {}
    if args.per_student:
        found[args.per_student, "per_student"] = gradebook.per_student(klass)
    if args.moodle:
        found[args.moodle, "moodle"] = gradebook.moodle(klass, names)
    if args.canvas:
        found[args.canvas, "canvas"] = gradebook.canvas(klass, names)
    if args.analysis == "-":
        found["-", "analysis"] = analysis.as_text(klass) + "\n"
    elif args.analysis:
        found[args.analysis, "analysis"] = analysis_page.page(klass)
    return found


def _put(texts: Mapping[tuple[str, str], str], *, files: bool) -> None:
    for (path, kind), text in texts.items():
        if files and path != "-":
            is_table = kind in ("csv", "per_student", "moodle", "canvas")
            report.write(path, tables.marked(text) if is_table else text)
        elif not files and path == "-":
            print(text, end="")


def summary(klass: Klass) -> str:
    """A line per student: marks, chapters, notes."""
    columns = max((width(s.name) for s in klass.students), default=0)
    lines = []
    for s in klass.students:
        total = f"{number(s.points(klass.scheme)):>6} of {number(klass.total):<6}"
        notes = "; ".join(s.notes)
        lines.append(printable(f"{padded(s.name, columns)}  {total} {notes}".rstrip()))
    return "\n".join(lines)
