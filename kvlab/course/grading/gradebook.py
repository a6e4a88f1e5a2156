"""Marks of a class as tables: one line per student, and the forms that Moodle and Canvas import."""

from __future__ import annotations

from collections.abc import Mapping

from kvlab.course.grading import tables
from kvlab.course.grading.marks import Klass, Student
from kvlab.course.grading.tables import number


def per_student(klass: Klass) -> str:
    """A line per student: chapters as groups of columns, totals over them, notes."""
    header = ["id", "name", "section", "points", "out_of"]
    for chapter, questions in klass.questions.items():
        header += [f"chapter {chapter}", f"chapter {chapter} out of", f"chapter {chapter} late"]
        header += list(questions)
    lines = []
    for s in klass.students:
        line: list[str | float] = [s.id, s.name, s.section]
        line += [number(s.points(klass.scheme)), number(klass.total)]
        for chapter, questions in klass.questions.items():
            there = s.chapters.get(chapter)
            line += [number(klass.points(s, chapter)), number(klass.out_of(chapter))]
            line.append(there.days_late if there else "")
            marks = {q["number"]: number(q["points"]) for q in there.questions} if there else {}
            line += [marks.get(n, 0) for n in questions]
        lines.append([*line, "; ".join(s.notes)])
    return tables.table([*header, "notes"], lines)


def _title(chapter: str, titles: Mapping[str, str]) -> str:
    return titles.get(chapter, f"kvlab chapter {chapter}")


def moodle(klass: Klass, titles: Mapping[str, str]) -> str:
    """What Moodle takes back: its grading worksheet, filled, where the roster is one; else a table
    for Grades > Import > CSV file, whose columns are mapped there.

    Raises: ValueError where a worksheet has a line for nobody's marks.
    """
    roster = klass.scheme.roster
    if roster and "Identifier" in roster.header and "Grade" in roster.header:
        return _worksheet(klass)
    header = ["ID number", "Full name", "Email address"]
    header += [_title(chapter, titles) for chapter in klass.questions]
    lines = []
    for s in klass.students:
        cells = {key.casefold(): value for key, value in s.cells.items()}
        own = [cells.get("id number") or s.id, s.name]
        own.append(cells.get("email address") or cells.get("email", ""))
        lines.append([*own, *(number(klass.points(s, c)) for c in klass.questions)])
    return tables.table(header, lines)


def _worksheet(klass: Klass) -> str:
    """One assignment's worksheet with its own columns, the grade in its place."""
    header, lines = klass.scheme.roster.header, []
    if len(klass.questions) > 1:
        raise ValueError(
            "A grading worksheet of Moodle is for one assignment, and these marks are of the "
            f"chapters {', '.join(klass.questions)}. Name the --chapter."
        )
    for s in klass.students:
        if not s.cells:
            continue
        highest = s.cells.get("Maximum Grade", "").replace(",", ".")
        if highest and _float(highest) != klass.total:
            raise ValueError(
                f"The worksheet's Maximum Grade is {highest}, and {number(klass.total)} points "
                "can be had. Set the assignment's maximum in Moodle, or the chapter's --weights."
            )
        filled = {"Grade": number(s.points(klass.scheme))}
        if "Feedback comments" in header and s.notes:
            filled["Feedback comments"] = "; ".join(s.notes)
        lines.append([(s.cells | filled)[name] for name in header])
    return tables.table(header, lines)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")


def canvas(klass: Klass, titles: Mapping[str, str]) -> str:
    """What Canvas takes under Grades > Import: its five columns as exported, and the chapters."""
    header = [*CANVAS, *(_title(chapter, titles) for chapter in klass.questions)]
    most = [number(klass.out_of(chapter)) for chapter in klass.questions]
    lines: list[list[str | float]] = [["    Points Possible", "", "", "", "", *most]]
    for s in klass.students:
        lines.append([*_as_canvas(s), *(number(klass.points(s, c)) for c in klass.questions)])
    return tables.table(header, lines)


def _as_canvas(s: Student) -> list[str]:
    if "SIS User ID" in s.cells or "SIS Login ID" in s.cells or "Student" in s.cells:
        return [s.cells.get(name, "") for name in CANVAS]
    return [s.name, "", s.id, "", s.section]
