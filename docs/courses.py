"""Courses of 4, 8 and 12 weeks, and what each exercise examines, made from the exercises.

python -m docs.courses > docs/courses.md
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kvlab.course.author.spec import Exercise
from kvlab.course.exercises import ALL
from kvlab.course.standing import READING
from kvlab.shell.welcome import openings

CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"
SHOWN = 3  # laws of an exercise that the table spells out
QUIZZES = {"claim 1": "claims", "the right choice": "a choice", "the right number": "a number"}


class Week(NamedTuple):
    """The chapters to read, and the exercises to do: their numbers, or of whole chapters."""

    chapters: tuple[int, ...]
    exercises: tuple[str, ...]


COURSES: dict[str, tuple[Week, ...]] = {
    "Four weeks: what a cache is, what it costs, and what may go": (
        Week((1, 2), ("1.2", "1.3", "1.4", "2.1", "2.2", "2.7")),
        Week((5, 6), ("5.1", "5.3", "6.1", "6.2", "6.3", "6.4")),
        Week((7, 8), ("7.3", "7.5", "8.1", "8.2", "8.3", "8.6")),
        Week((10, 11, 13), ("10.1", "10.2", "10.4", "11.3", "11.6")),
    ),
    "Eight weeks: all chapters, and of each what the next ones need": (
        Week((1, 2), ("1.1", "1.2", "1.3", "1.4", "1.5", "2.1", "2.2", "2.4")),
        Week((3, 4), ("3.1", "3.3", "3.4", "3.5", "4.1", "4.3", "4.4", "4.5")),
        Week((5,), ("5",)),
        Week((6,), ("6",)),
        Week((7, 8), ("7.2", "7.3", "7.5", "7.7", "8.1", "8.2", "8.3", "8.6")),
        Week((9,), ("9.1", "9.2", "9.3", "9.5", "9.7")),
        Week((10, 11), ("10.1", "10.2", "10.3", "10.4", "11.1", "11.3", "11.6")),
        Week((12, 13), ("12.1", "12.2", "12.4", "12.6", "13")),
    ),
    "Twelve weeks: all chapters and nearly all exercises": (
        *(Week((n,), (str(n),)) for n in (1, 2, 3)),
        Week((4, 5), ("4.1", "4.2", "4.3", "4.4", "4.5", "5.1", "5.2", "5.3", "5.4", "5.5", "5.9")),
        *(Week((n,), (str(n),)) for n in (6, 7, 8, 9, 10, 11, 12, 13)),
    ),
}


ABOVE = f"""# Courses, and what each exercise examines

Made by `python -m docs.courses` from the exercises themselves; a test holds it to them. How to
hand out and to mark is in [teaching.md](teaching.md), and so is
[which marks mean something](teaching.md#which-marks-mean-something). Hours are those of the
exercises, as their headings say, and {READING} minutes for each chapter that is read.
"""
ASKED = """## What is asked of an answer

The level goes from 1 to 5. Under "asked" stand the first three laws by which the judge tries an
answer, and how many more there are; each is tried with other numbers every time. Mistakes are
wrong answers that are recognised and named.
"""
OF_AN_EXERCISE = ("exercise", "points", "minutes", "level", "asked", "mistakes")


def as_markdown() -> str:
    """The page: the courses, the points of each chapter, and a line for each exercise."""
    parts = [ABOVE]
    for title, weeks in COURSES.items():
        head = ("week", "read", "exercises", "hours")
        parts.append(f"## {title}\n\n{_table(head, _of_course(weeks))}")
    head = ("chapter", "exercises", "points", "of quizzes", "minutes")
    parts += [f"## Points and minutes\n\n{_table(head, _totals())}", ASKED]
    for number, title in _titles().items():
        rows = [_of_exercise(e) for e in ALL if e.chapter == str(number)]
        parts.append(f"### {number}. {title}\n\n{_table(OF_AN_EXERCISE, rows)}")
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _of_course(weeks: tuple[Week, ...]) -> list[tuple]:
    """A row for each week; what is not written yet is left out."""
    titles, rows = _titles(), []
    for week in weeks:
        read = [f"{n}. {titles[n]}" for n in week.chapters if n in titles]
        if not read:
            continue
        own = [e for e in ALL if e.number in week.exercises or e.chapter in week.exercises]
        whole = list(dict.fromkeys(e.chapter for e in own if e.chapter in week.exercises))
        told = [e.number for e in own if e.chapter not in whole]
        told += [f"all of chapter {number}" for number in whole]
        hours = (READING * len(read) + sum(e.minutes for e in own)) / 60
        rows.append((len(rows) + 1, " · ".join(read), ", ".join(told), f"{hours:.1f}"))
    return rows


def _totals() -> list[tuple]:
    """How many points and minutes each chapter has, and how many points are those of quizzes."""
    rows = []
    for number in _titles():
        own = [e for e in ALL if e.chapter == str(number)]
        quizzes = sum(e.points for e in own if _quiz(e))
        points, minutes = sum(e.points for e in own), sum(e.minutes for e in own)
        rows.append((number, len(own), points, quizzes, minutes))
    return [*rows, ("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:]))]


def _quiz(exercise: Exercise) -> str:
    """What kind of quiz it is; "" for one that is not."""
    return QUIZZES.get(exercise.laws[0].name, "")


def _of_exercise(exercise: Exercise) -> tuple:
    laws = [law.name.replace("|", "\\|") for law in exercise.laws]
    if kind := _quiz(exercise):
        asked = f"quiz: {len(laws)} claims" if kind == "claims" else f"quiz: {kind}"
    else:
        more = len(laws) - SHOWN
        asked = "; ".join(laws[:SHOWN]) + (f"; {more} more" if more > 0 else "")
    if exercise.clock:
        asked += f"; by the clock: {exercise.clock.name}"
    name = f"{exercise.number} {exercise.title}"
    return (
        name, exercise.points, exercise.minutes, exercise.difficulty, asked, len(exercise.wrong),
    )  # fmt: skip


def _titles() -> dict[int, str]:
    """Each chapter that has exercises and is written: its number and title."""
    having = {exercise.chapter for exercise in ALL}
    return {int(o.number): o.title for o in openings(CHAPTERS) if o.number in having}


if __name__ == "__main__":
    print(as_markdown(), end="")
