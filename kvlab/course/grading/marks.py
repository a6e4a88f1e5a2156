"""Marks files read and put together, and from them one record per student.

How marks come about (weights, lateness, partial credit) is said by a `Scheme`; the files hold what
the grader found and stay as they are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvlab.course.grading.late import Late
from kvlab.course.grading.names import Who, order
from kvlab.course.grading.roster import Roster, plain, whose

Row = dict[str, Any]
_ROW = {"name": str, "points": (int, float), "out_of": (int, float), "note": str, "questions": list}
_QUESTION = {"number": str, "title": str, "points": (int, float), "out_of": (int, float),
             "state": str, "message": str}  # fmt: skip


@dataclass(frozen=True)
class Scheme:
    """How points become marks.

    `weights` multiply a chapter's points (1 where none is given). With `partial`, a question that
    is not passed keeps the share of its laws that held before the first that did not.
    """

    roster: Roster | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    late: Late | None = None
    partial: bool = False

    def weight(self, chapter: str) -> float:
        return self.weights.get(chapter, 1)


@dataclass
class Chapter:
    """A student's marks in one chapter; `questions` are those of the notebook that counts."""

    points: float
    questions: list[dict[str, Any]]
    submission: str
    days_late: int = 0


@dataclass
class Student:
    """All of one student, over chapters. Points are weighted; `notes` say what was odd."""

    id: str
    name: str
    section: str = ""
    chapters: dict[str, Chapter] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cells: dict[str, str] = field(default_factory=dict)

    def points(self, scheme: Scheme) -> float:
        return sum(scheme.weight(n) * c.points for n, c in self.chapters.items())


@dataclass(frozen=True)
class Klass:
    """A class: its students in order, and per chapter the questions (number -> points)."""

    students: tuple[Student, ...]
    questions: Mapping[str, Mapping[str, float]]
    scheme: Scheme

    def out_of(self, chapter: str) -> float:
        """What a chapter is worth, weighted."""
        return self.scheme.weight(chapter) * sum(self.questions[chapter].values())

    @property
    def total(self) -> float:
        return sum(map(self.out_of, self.questions))

    def points(self, student: Student, chapter: str) -> float:
        """A student's weighted points; 0 where nothing was handed in."""
        there = student.chapters.get(chapter)
        return self.scheme.weight(chapter) * there.points if there else 0


def in_order(number: str) -> list[int]:
    return [int(part) for part in number.split(".")]


def by_student(rows: Sequence[Row], scheme: Scheme) -> Klass:
    """One record per student: those of the roster, in its order; then others, by name.

    Of two notebooks with the same chapter, the one with more points counts.
    """
    questions: dict[str, dict[str, float]] = defaultdict(dict)
    found: dict[str, Student] = {}
    for member in scheme.roster.members if scheme.roster else ():
        found[plain(member.id)] = Student(
            member.id, member.name, member.section, cells=member.cells
        )
    n_known = len(found)
    for r in rows:
        student = _student(found, r, scheme.roster)
        for q in r["questions"]:
            questions[q["number"].split(".")[0]][q["number"]] = q["out_of"]
        _enter(student, r, scheme)
    known, others = list(found.values())[:n_known], list(found.values())[n_known:]
    for student in known:
        if not student.chapters and not student.notes:
            student.notes.append("nothing was handed in")
    everybody = known + sorted(others, key=lambda s: order(s.name))
    ordered = {
        chapter: dict(sorted(questions[chapter].items(), key=lambda q: in_order(q[0])))
        for chapter in sorted(questions, key=in_order)
    }
    return Klass(tuple(everybody), ordered, scheme)


def _student(found: dict[str, Student], r: Row, roster: Roster | None) -> Student:
    owner = whose(r["name"], roster)
    key = plain(owner.id) if not isinstance(owner, Who) else f"/{owner.id or owner.name}"
    if key not in found:
        note = ["not on the roster"] if roster else []
        found[key] = Student(owner.id, owner.name, notes=note)
    return found[key]


def _enter(student: Student, r: Row, scheme: Scheme) -> None:
    """Put one notebook's result into a student's record."""
    if r["note"]:
        student.notes.append(r["note"])
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for q in r["questions"]:
        groups[q["number"].split(".")[0]].append(q)
    for number, questions in groups.items():
        questions = [q | {"points": credit(q, scheme.partial)} for q in questions]
        chapter = Chapter(sum(q["points"] for q in questions), questions, r["name"])
        if scheme.late:
            _charge(student, chapter, number, r.get("submitted"), scheme.late)
        before = student.chapters.get(number)
        if before is not None:
            student.notes.append(f"chapter {number} came more than once: the best counts")
        if before is None or chapter.points > before.points:
            student.chapters[number] = chapter


def credit(question: Mapping[str, Any], partial: bool) -> float:
    """The points of a question; with `partial`, also for laws that held."""
    if not partial or question["state"] not in ("failed", "not answered"):
        return question["points"]
    laws = question.get("laws") or 0
    held = question.get("held") or 0
    return question["out_of"] * held / laws if laws else question["points"]


def _charge(student: Student, chapter: Chapter, number: str, noted: str | None, late: Late) -> None:
    if late.deadline(number) is None:
        return
    when = late.time([student.id, student.name], number, noted)
    if when is None:
        student.notes.append(f"chapter {number}: no submission time, taken as in time")
        return
    chapter.days_late = late.begun(number, when)
    if chapter.days_late:
        keeps = late.keeps(chapter.days_late)
        chapter.points *= keeps
        days = f"{chapter.days_late} day{'s' if chapter.days_late > 1 else ''}"
        student.notes.append(f"chapter {number}: {days} late, {keeps:.0%} of the points count")


# --- files ----------------------------------------------------------------------------------------


def read(path: str | Path) -> dict[str, Any]:
    """One marks file, as `kvlab grade --json` wrote it.

    Raises: ValueError for a file that is not there, or holds something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; expected marks from kvlab grade --json.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not JSON; expected marks from kvlab grade --json.") from None
    rows = found.get("notebooks") if isinstance(found, dict) else None
    if not isinstance(rows, list):
        raise ValueError(f"{path} has no list of notebooks; expected marks from kvlab grade --json")
    for n, r in enumerate(rows):
        _expect(r, _ROW, f"{path}, notebook {n + 1}")
        for q in r["questions"]:
            _expect(q, _QUESTION, f"{path}, a question of {r['name']}")
            if not all(part.isdecimal() for part in q["number"].split(".")):
                raise ValueError(f"{path}: {r['name']} has a question {q['number']!r}.")
    return found


def _expect(thing: Any, keys: Mapping[str, Any], where: str) -> None:
    for key, kind in keys.items():
        if not isinstance(thing, dict) or not isinstance(thing.get(key), kind):
            raise ValueError(f"{where}: {key} is missing or of another kind; see docs/grading.md.")


def merged(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Several marks files as one.

    A file with one notebook that nobody named (`kvlab grade --one` without `--name`) names it:
    `ann.json` becomes `ann/06_kv_cache`.
    Raises: ValueError where two files have different marks for one name.
    """
    rows: dict[str, tuple[Row, str]] = {}
    reports = []
    for path in paths:
        report = read(path)
        reports.append(report)
        for r in report["notebooks"]:
            unnamed = "/" not in r["name"] and r["name"] == Path(r.get("file", r["name"])).stem
            if len(paths) > 1 and len(report["notebooks"]) == 1 and unnamed:
                r = r | {"name": f"{Path(path).stem}/{r['name']}"}
            before = rows.get(r["name"])
            if before and before[0] != r:
                raise ValueError(
                    f"{before[1]} and {path} both have marks for {r['name']}, and not the same; "
                    "leave one out."
                )
            rows[r["name"]] = r, str(path)

    def both(key: str) -> str:
        return "; ".join(dict.fromkeys(str(r.get(key, "")) for r in reports))

    ordered = [rows[name][0] for name in sorted(rows, key=order)]
    return {k: both(k) for k in ("kvlab", "isolation", "seed")} | {"notebooks": ordered}
