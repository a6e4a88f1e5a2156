"""What `kvlab grade` does: one notebook for its author, or a class for its teacher."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from kvlab import files
from kvlab.course import record
from kvlab.course.exercises import ALL
from kvlab.course.grading import report
from kvlab.course.grading.grade import Graded, Rules, find_submissions, grade_all, private_cases
from kvlab.course.sandbox import walls


def run(args: argparse.Namespace) -> int:
    """Grade, report, and return the exit code.

    0: every submission has its marks. 1: one could not be graded; or, for notebooks that were
    named one by one, somebody did not get all points.
    """
    given = [*args.files, *([args.one] if args.one else [])]
    _check(args, given)
    rules = _rules(args)
    submissions = find_submissions(given)
    a_class = any(Path(g).is_dir() for g in given)
    quiet = "-" in (args.json, args.csv)
    journal = _journal(args, rules, submissions) if a_class else None
    if journal is not None:
        rules = replace(rules, seed=journal.seed)
    rows, broken = {}, 0
    for graded in _results(submissions, rules, args.workers, journal, rows, show=a_class):
        rows[graded.name] = report.row(graded)
        broken += _say(graded, a_class, quiet)
        if Path(graded.path).resolve().parent == walls.ROOT / "exercises":
            for verdict in graded.verdicts:
                record.record(verdict)
    ordered = [rows[name] for name in submissions]
    _write(args, ordered, rules)
    if journal is not None:
        journal.close()
    if a_class and not quiet:
        print(_summary(ordered, rules))
    if args.one:
        return 0
    full = all(r["points"] == r["out_of"] for r in ordered)
    return 0 if not broken and (full or a_class) else 1


def _check(args: argparse.Namespace, given: list[str]) -> None:
    for path in given:
        if not Path(path).exists():
            raise ValueError(f"{path} is not there; expected a notebook (.ipynb) or a folder.")
    if args.one and Path(args.one).is_dir():
        raise ValueError(f"{args.one} is a folder; --one takes one notebook. Leave out --one.")
    if args.gradescope and (len(given) != 1 or Path(given[0]).is_dir()):
        raise ValueError("A Gradescope file holds one notebook's marks: name one notebook.")
    for target in (args.json, args.csv, args.gradescope):
        if target in (None, "-"):
            continue
        if target.endswith(".ipynb") or Path(target).is_dir():
            raise ValueError(
                f"The marks were to be written to {target}; expected a new file's name."
            )
        if not Path(target).absolute().parent.is_dir():
            raise ValueError(f"{target} cannot be written: its folder is not there.")
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"{args.workers} workers were asked for; expected 1 or more.")
    chapters = list(dict.fromkeys(e.chapter for e in ALL))
    if args.chapter is not None and args.chapter not in chapters:
        raise ValueError(
            f"Chapter {args.chapter!r} was asked for; there are exercises of {', '.join(chapters)}."
        )


def _rules(args: argparse.Namespace) -> Rules:
    private = private_cases(args.private_cases) if args.private_cases else {}
    return Rules(chapter=args.chapter, private=private, level=walls.best())


def _journal(
    args: argparse.Namespace, rules: Rules, submissions: Mapping[str, Path]
) -> report.Journal | None:
    """Where a class's results are kept while it is graded, if a report is written to a file."""
    named = [t for t in (args.json, args.csv) if t not in (None, "-")]
    target = next((t for t in named if files.is_ordinary(t)), None)
    if target is None:
        return None
    private = Path(args.private_cases).read_bytes() if args.private_cases else b""
    key = {"chapter": args.chapter, "private": hashlib.sha256(private).hexdigest(),
           "isolation": rules.level.name}  # fmt: skip
    return report.Journal(target, key, rules.seed)


def _results(
    submissions: Mapping[str, Path],
    rules: Rules,
    workers: int | None,
    journal: report.Journal | None,
    rows: dict[str, report.Row],
    show: bool,
) -> Iterator[Graded]:
    """What is not in the journal yet, graded; what is goes into `rows` as it stands."""
    left = {}
    for name, path in submissions.items():
        known = journal.done.get(report.digest(path, name)) if journal else None
        if known is None:
            left[name] = path
        else:
            rows[name] = known
    if rows:
        print(f"{len(rows)} of {len(submissions)} were graded before; going on.", file=sys.stderr)
    with _bar(len(submissions), len(rows), show) as step:
        for graded in grade_all(left, rules, workers=workers):
            faulty = any(v.state == "error" for v in graded.verdicts)
            if journal is not None and not faulty:  # a fault of ours is tried again
                journal.add(graded.path, report.row(graded))
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


def _say(graded: Graded, a_class: bool, quiet: bool) -> bool:
    """Print one notebook's table, or what is wrong; True when nothing could be graded."""
    unread = not graded.verdicts or all(v.state == "no cell" for v in graded.verdicts)
    faulty = any(v.state == "error" for v in graded.verdicts)
    if not a_class and unread:
        print(f"kvlab grade: {graded.note}", file=sys.stderr)
    elif not a_class and not quiet:
        print(report.as_text(graded))
    return faulty or (unread and not a_class)


def _write(args: argparse.Namespace, rows: list[report.Row], rules: Rules) -> None:
    texts = [
        (args.json, lambda: report.as_json(rows, rules.level.says, rules.seed)),
        (args.csv, lambda: report.as_csv(rows)),
        (args.gradescope, lambda: report.as_gradescope(rows[0])),
    ]
    for target, text in texts:
        if target == "-":
            print(text(), end="")
        elif target is not None:
            report.write(target, text())


def _summary(rows: list[report.Row], rules: Rules) -> str:
    """A class in a few lines: marks, notes, isolation."""
    width = max(len(r["name"]) for r in rows)
    lines = [
        f"{r['name']:<{width}}  {r['points']:>3} of {r['out_of']:<3} {r['note']}".rstrip()
        for r in rows
    ]
    lines = [report.printable(line) for line in lines]
    return "\n".join([*lines, f"Isolation: {rules.level.name}. {rules.level.says}"])
