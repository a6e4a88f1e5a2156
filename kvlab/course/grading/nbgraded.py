"""Marks put into nbgrader's gradebook.db, where its formgrader, feedback and exports find them.

The file is nbgrader's and may be open there: it is written to through nbgrader, never replaced.
"""

from __future__ import annotations

import importlib.util
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from kvlab.course.exercises import find
from kvlab.course.grading.marks import Chapter, Klass, Student
from kvlab.course.grading.tables import printable

TABLES = {"assignment", "alembic_version", "student", "grade"}


def check(path: str | Path) -> None:
    """Look at a gradebook before any work.

    Raises: ValueError where nbgrader is not installed, or the file is no gradebook of its version.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} is not there; expected the gradebook.db that nbgrader made.")
    if importlib.util.find_spec("nbgrader") is None:
        raise ValueError("--nbgrader needs nbgrader: pip install nbgrader.")
    with closing(sqlite3.connect(path)) as book:
        try:
            names = {n for (n,) in book.execute("select name from sqlite_master")}
            version = names >= TABLES and book.execute("select * from alembic_version").fetchone()
        except sqlite3.Error as error:
            raise ValueError(f"{path} is no gradebook of nbgrader: {error}.") from None
    if not version:
        raise ValueError(f"{path} is no gradebook of nbgrader: it has no table of grades.")
    import nbgrader
    from alembic.script import ScriptDirectory

    steps = ScriptDirectory(str(Path(nbgrader.__file__).parent / "alembic"))
    if version[0] != steps.get_current_head():
        raise ValueError(f"{path} is of another version of nbgrader; run: nbgrader db upgrade")


def write(klass: Klass, path: str | Path) -> str:
    """Put each student's points and, where a question is lost, the reason into a gradebook.

    A mark that a teacher gave by hand stays, and counts. Says in a sentence what was written.
    Raises: ValueError where an assignment or a question is not in the gradebook as it is here, and
    then nothing is written; or where the gradebook cannot be written to.
    """
    from nbgrader.api import Gradebook
    from sqlalchemy.exc import SAWarning, SQLAlchemyError

    url = f"sqlite:///{Path(path).absolute()}"
    try:
        with warnings.catch_warnings(), Gradebook(url, course_id="") as book:
            warnings.simplefilter("ignore", SAWarning)  # of nbgrader's own way to add a submission
            places = {chapter: _place(book, klass, chapter, path) for chapter in klass.questions}
            known, new = {s.id for s in book.students}, []
            for student, id in _owners(klass, known):
                if id not in known:
                    new.append(id)
                    book.add_student(id)
                for chapter, there in student.chapters.items():
                    _enter(book, places[chapter], id, there, late=klass.scheme.late is not None)
            names = ", ".join(sorted({assignment for assignment, _ in places.values()}))
            of = sum(bool(s.chapters) for s in klass.students)
    except SQLAlchemyError as error:
        raise ValueError(f"{path} cannot be written: {str(error).splitlines()[0]}.") from None
    added = f" New there: {printable(', '.join(new))}." if new else ""
    return f"Marks of {of} student{'s' * (of != 1)} are in {path}, assignment {names}.{added}"


def _owners(klass: Klass, known: set[str]) -> Iterator[tuple[Student, str]]:
    """Who handed something in, and what nbgrader calls them: by its folder, else as we do."""
    for student in klass.students:
        if student.chapters:
            folders = [c.submission.partition("/")[0] for c in student.chapters.values()]
            called = [*folders, student.id, student.name]
            wanted = student.id or folders[0]
            yield student, next((name for name in called if name in known), wanted)


def _place(book: Any, klass: Klass, chapter: str, path: str | Path) -> tuple[str, str]:
    """The assignment and its notebook in which a chapter's questions are graded."""
    marked = {f"{find(n).grade_id}_check": most for n, most in klass.questions[chapter].items()}
    found = {}
    for assignment in book.assignments:
        for notebook in assignment.notebooks:
            there = {c.name: c.max_score for c in notebook.grade_cells}
            if there.keys() & marked.keys():
                found[assignment.name, notebook.name] = there
    if len(found) > 1:
        names = ", ".join(f"{a}/{n}" for a, n in sorted(found))
        raise ValueError(f"{path} has chapter {chapter} more than once: {names}; remove one.")
    if not found:
        raise ValueError(
            f"{path} has no assignment with chapter {chapter}. Copy its solutions to "
            "source/ASSIGNMENT/ and run: nbgrader generate_assignment ASSIGNMENT"
        )
    ((place, there),) = found.items()
    for name, most in marked.items():
        if there.get(name) != most:
            came = "is not there" if name not in there else f"is worth {there[name]:g}"
            raise ValueError(
                f"{path}, {'/'.join(place)}: {name} {came}, and these marks have {most:g} points "
                "for it. Generate the assignment again."
            )
    return place


def _enter(
    book: Any, place: tuple[str, str], student: str, chapter: Chapter, *, late: bool
) -> None:
    assignment, name = place
    book.update_or_create_submission(assignment, student)
    for q in chapter.questions:
        cell = find(q["number"]).grade_id
        grade = book.find_grade(f"{cell}_check", name, assignment, student)
        grade.auto_score, grade.needs_manual_grade = q["points"], q["state"] == "not judged"
        book.find_comment(cell, name, assignment, student).auto_comment = _why(q)
    if late:
        full = sum(q["points"] for q in chapter.questions)
        notebook = book.find_submission_notebook(name, assignment, student)
        notebook.late_submission_penalty = full - chapter.points
    book.db.commit()


def _why(q: dict[str, Any]) -> str | None:
    """What a student reads below the answer on nbgrader's feedback page."""
    if q["state"] == "passed":
        return None
    known = f"This is a known mistake: {q['mistake']}" if q.get("mistake") else ""
    lines = [*q["message"].splitlines(), *known.splitlines()]
    return "\n".join(filter(None, map(printable, lines))) or q["state"]
