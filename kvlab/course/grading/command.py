"""What `kvlab grade` does: one notebook for its author, or a class for its teacher."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvlab import files
from kvlab.course import record
from kvlab.course.exercises import chapters, exercises, own_digest
from kvlab.course.grading import collect, grade, outputs, report, roster
from kvlab.course.grading.collect import Collected
from kvlab.course.grading.grade import Graded, Rules
from kvlab.course.grading.marks import Klass, Scheme
from kvlab.course.grading.names import padded, width
from kvlab.course.grading.private import private_cases
from kvlab.course.grading.tables import printable
from kvlab.course.sandbox import walls


def run(args: argparse.Namespace) -> int:
    """Grade, report, and return the exit code.

    0: every submission has its marks. 1: one could not be graded; or, for notebooks that were
    named one by one, somebody did not get all points. With --one and --gradescope: 0 where there
    are marks, be they 0.
    """
    given = [*args.files, *([args.one] if args.one else [])]
    _check(args, given)
    how = outputs.scheme(args)
    rules = _rules(args)
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(collect.collected(given))
        except ValueError as error:
            if not args.gradescope:
                raise
            return _nothing_there(args, given[0], rules, str(error))
        if args.name:
            found.submissions = dict.fromkeys([args.name], *found.submissions.values())
        return _graded(args, found, rules, how, any(map(collect.is_class, given)))


def _graded(
    args: argparse.Namespace, found: Collected, rules: Rules, how: Scheme, a_class: bool
) -> int:
    journal = _journal(args, rules) if a_class else None
    if journal is not None:
        rules = replace(rules, seed=journal.seed)
    rows, broken, said = {}, 0, []
    try:
        for graded in _results(found, rules, args.workers, journal, rows, show=a_class):
            rows[graded.name] = found.placed(report.row(graded))
            faulty, text = _verdict(graded, a_class)
            broken += faulty
            said += text
            if files.folder_of(graded.path) in _ones_own():
                for verdict in graded.verdicts:
                    record.record(verdict)
    except KeyboardInterrupt:
        _say_kept(journal, len(found.names))
        raise
    names = found.names if a_class else found.submissions
    ordered = [rows[name] for name in names]
    klass = outputs.write(args, ordered, report.head(rules.level.says, rules.seed), how)
    if args.gradescope:
        report.write(args.gradescope, report.as_gradescope(_best(ordered)))
    if journal is not None:
        journal.close()
    _print(args, said, a_class, ordered, klass, rules)
    if args.one or args.gradescope:
        return 0
    full = all(r["points"] == r["out_of"] for r in ordered)
    return 0 if not broken and (full or a_class) else 1


def _ones_own() -> list[Path]:
    """Where a reader's own work lies, which counts as progress."""
    own = [c.folder.resolve() for c in chapters() if c.folder]
    return [home / "exercises" for home in (walls.ROOT, *own)]


def _nothing_there(args: argparse.Namespace, given: str, rules: Rules, why: str) -> int:
    """Nothing for Gradescope to grade is a mark as well: 0, and the reason for the student."""
    row = report.row(grade.unread(Path(given).stem, given, rules, rules.level, why))
    report.write(args.gradescope, report.as_gradescope(row))
    print(f"kvlab grade: {why}", file=sys.stderr)
    return 0


def _best(rows: list[report.Row]) -> report.Row:
    """The one of a student's notebooks that counts: that with the most points."""
    best = max(rows, key=lambda r: (r["points"], r["out_of"]))
    if len(rows) > 1:
        more = f"{len(rows)} notebooks came; this is {best['name']}, which has the most points"
        best = best | {"note": "; ".join(filter(None, [more, best["note"]]))}
    return best


def _say_kept(journal: report.Journal | None, total: int) -> None:
    """What an interruption leaves."""
    if journal is not None:
        said = (
            f"Stopped: {journal.kept} of {total} are kept in {journal.path}; the same command "
            "goes on with the rest."
        )
    else:
        said = "Stopped: nothing is kept, as no file for the marks was named (--json, --csv)."
    print(said, file=sys.stderr)


def _print(
    args: argparse.Namespace,
    said: list[str],
    a_class: bool,
    rows: list[report.Row],
    klass: Klass | None,
    rules: Rules,
) -> None:
    """What a reader sees, once all files are written."""
    quiet = outputs.to_screen(args)
    for channel, text in said:
        if channel is sys.stderr or not quiet:
            print(text, file=channel)
    if quiet or not a_class:
        return
    print(outputs.summary(klass) if klass else _summary(rows))
    print(f"Isolation: {rules.level.name}. {rules.level.says}")


def _check(args: argparse.Namespace, given: list[str]) -> None:
    if args.gradescope and len(given) != 1:
        raise ValueError(
            "A Gradescope file holds one student's marks: name one notebook or folder."
        )
    for path in given:
        if not Path(path).exists() and not args.gradescope:
            raise ValueError(f"{path} is not there; expected a notebook (.ipynb) or a folder.")
    if args.one and collect.is_class(args.one):
        what = "a folder" if Path(args.one).is_dir() else "a zip"
        raise ValueError(f"{args.one} is {what}; --one takes one notebook. Leave out --one.")
    if args.name is not None and not (args.one and args.name.strip()):
        raise ValueError(f"--name {args.name!r} came; it names the one notebook after --one.")
    outputs.check(args)
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"{args.workers} workers were asked for; expected 1 or more.")
    check_chapter(args.chapter)


def check_chapter(chapter: str | None) -> None:
    """Raises: ValueError for a chapter that has no exercises."""
    known = [c.number for c in chapters()]
    if chapter is not None and chapter not in known:
        raise ValueError(
            f"Chapter {chapter!r} was asked for; there are exercises of {', '.join(known)}."
        )


def _rules(args: argparse.Namespace) -> Rules:
    private = private_cases(args.private_cases) if args.private_cases else {}
    a_class = any(map(collect.is_class, [*args.files, *([args.one] if args.one else [])]))
    if a_class and args.student is not None:
        raise ValueError(
            f"--student {args.student} came with many notebooks; it says whose a single one is."
        )
    known = roster.read(args.roster) if args.roster else None
    return Rules(
        chapter=args.chapter, private=private, level=walls.best(), a_class=a_class,
        student=args.student, roster=known,
    )  # fmt: skip


def _journal(args: argparse.Namespace, rules: Rules) -> report.Journal | None:
    """Where a class's results are kept while it is graded, if a report is written to a file."""
    named = [getattr(args, name) for name in ("json", "csv", "per_student", "moodle", "canvas")]
    target = next((t for t in named if t not in (None, "-") and files.is_ordinary(t)), None)
    if target is None:
        return None
    private = Path(args.private_cases).read_bytes() if args.private_cases else b""
    key = {"chapter": args.chapter, "private": hashlib.sha256(private).hexdigest(),
           "isolation": rules.level.name, "exercises": own_digest()}  # fmt: skip
    if args.roster and any(e.variant for e in exercises()):  # it says whose exercises are judged
        key["roster"] = hashlib.sha256(Path(args.roster).read_bytes()).hexdigest()
    return report.Journal(target, key, rules.seed)


def _results(
    found: Collected,
    rules: Rules,
    workers: int | None,
    journal: report.Journal | None,
    rows: dict[str, report.Row],
    show: bool,
) -> Iterator[Graded]:
    """What is not in the journal yet, graded; what is goes into `rows` as it stands."""
    left = {}
    for name, why in found.refused.items():
        refused = grade.unread(name, name, rules, rules.level, why)
        rows[name] = found.placed(report.row(refused))
    for name, path in found.submissions.items():
        known = journal.done.get(report.digest(path, name)) if journal else None
        if known is None:
            left[name] = path
        else:
            rows[name] = found.placed(known)
    done = len(found.submissions) - len(left)
    if done:
        print(f"{done} of {len(found.names)} were graded before; going on.", file=sys.stderr)
    with _bar(len(found.names), len(rows), show) as step:
        for graded in grade.grade_all(left, rules, workers=workers):
            faulty = any(v.state == "error" for v in graded.verdicts)
            if journal is not None and not faulty:  # a fault of ours is tried again
                journal.add(graded.path, found.placed(report.row(graded)))
            step()
            yield graded


@contextlib.contextmanager
def _bar(total: int, done: int, show: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, with rich where that is installed; else lines now and then."""
    if not show:
        yield lambda: None
        return
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=Console(stderr=True)) as bar:
                task = bar.add_task("graded", total=total, completed=done)
                yield lambda: bar.advance(task)
            return
    every = max(1, total // 20)

    def step() -> None:
        nonlocal done
        done += 1
        if done % every == 0 or done == total:
            print(f"graded {done} of {total}", file=sys.stderr, flush=True)

    yield step


def _verdict(graded: Graded, a_class: bool) -> tuple[bool, list[tuple[Any, str]]]:
    """Whether nothing could be graded, and what to print where: a table, or what is wrong."""
    unread = not graded.verdicts or all(v.state == "no cell" for v in graded.verdicts)
    faulty = any(v.state == "error" for v in graded.verdicts)
    if a_class:
        return faulty, []
    if unread:
        return True, [(sys.stderr, f"kvlab grade: {graded.note}")]
    return faulty, [(sys.stdout, report.as_text(graded))]


def _summary(rows: list[report.Row]) -> str:
    """A class in a few lines: marks and notes."""
    columns = max(width(r["name"]) for r in rows)
    lines = [
        f"{padded(r['name'], columns)}  {r['points']:>3} of {r['out_of']:<3} {r['note']}".rstrip()
        for r in rows
    ]
    return "\n".join(map(printable, lines))
