"""Grade notebooks: each answer in its own process, every question on its own.

An answer that loops, exits, or wrecks its process loses its own question and no other. A notebook
that cannot be read, or that breaks the grader, gets its note and its neighbours get their marks.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kvlab.course.author.spec import Exercise, Verdict
from kvlab.course.author.variant import for_student, spelt
from kvlab.course.exercises import exercises
from kvlab.course.grading import notebooks
from kvlab.course.grading.roster import Roster, whose
from kvlab.course.judge import judge, not_answered
from kvlab.course.sandbox.answer import AnswerRaised, NotData, Stopped
from kvlab.course.sandbox.limits import Limits
from kvlab.course.sandbox.nursery import Nursery
from kvlab.course.sandbox.remote import RemoteAnswer
from kvlab.course.sandbox.walls import Level

CLOCK_TRIES = 3


@dataclass(frozen=True)
class Graded:
    """One notebook's verdicts, in the order of the exercises; `note` where something was odd."""

    path: str
    verdicts: tuple[Verdict, ...]
    level: Level
    note: str = ""
    name: str = ""

    @property
    def points(self) -> int:
        return sum(v.exercise.points for v in self.verdicts if v.passed)

    @property
    def out_of(self) -> int:
        return sum(v.exercise.points for v in self.verdicts)


@dataclass(frozen=True)
class Rules:
    """What is the same for all submissions of one run: the cases, the chapter, the sandbox.

    `student` or the roster say whose they are, for exercises that differ by student.
    """

    seed: str = field(default_factory=lambda: f"grade {secrets.randbelow(2**63)}")
    chapter: str | None = None
    private: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    level: Level | None = None
    limits: Limits = field(default_factory=Limits)
    a_class: bool = False
    student: str | None = None
    roster: Roster | None = None

    def whose(self, name: str, stated: str) -> str:
        """The id by which a submission's exercises were drawn.

        One that lies among others, and so has a name, is its owner's, whatever it says itself.
        """
        if self.student is not None:
            return self.student
        if not name:
            return stated
        owner = whose(name, self.roster)
        return owner.id or owner.name

    def nursery(self) -> Nursery:
        return Nursery(self.level, self.limits)


def grade(path: str | Path, rules: Rules | None = None, nursery: Nursery | None = None) -> Graded:
    """Grade one notebook.

    Raises: ValueError when the file is no notebook, or holds no answer cell of any exercise.
    """
    rules = rules or Rules()
    found = _read(path, rules)
    return _graded(path, found.of(rules.whose("", found.student)), rules, nursery)


@dataclass(frozen=True)
class _Found:
    """The answer cells of one notebook: sources by grade id, and what was odd."""

    exercises: list[Exercise]
    sources: dict[str, str]
    notes: list[str]
    student: str = ""

    def of(self, student: str) -> _Found:
        """The exercises as this student has them."""
        drawn = [for_student(e, student) for e in self.exercises]
        notes = list(self.notes)
        if any(e.variant for e in self.exercises):
            if not student:
                notes.append("no student is named: judged by the numbers of the sample")
            elif self.student and spelt(self.student) != spelt(student):
                notes.append(
                    f"made for {self.student}, judged by the numbers of {student}, who handed it in"
                )
        return replace(self, exercises=drawn, notes=notes)


def _read(path: str | Path, rules: Rules) -> _Found:
    """Find the answers, by their metadata; for a chapter that is there, by names as well."""
    notebook = notebooks.read(path)
    known = [e for e in exercises() if rules.chapter in (None, e.chapter)]
    marked = notebooks.answers(notebook)
    chapters = {e.chapter for e in known if e.grade_id in marked} or {_chapter_by_name(path, rules)}
    likely = [e for e in known if e.chapter in chapters] or known
    sources, notes = notebooks.collect(notebook, {e.grade_id: e.name for e in likely})
    chapters = {e.chapter for e in likely if e.grade_id in sources}
    if not chapters:
        of = f" of chapter {rules.chapter}" if rules.chapter else ""
        raise ValueError(
            f"{path} has no answer cell of any exercise{of}; expected cells like "
            f"{known[0].grade_id!r}, as in exercises/."
        )
    wanted = [e for e in known if e.chapter in chapters]
    missing = [e.number for e in wanted if e.grade_id not in sources]
    if missing:
        notes.insert(0, f"no answer cell for {', '.join(missing)}")
    return _Found(wanted, sources, notes, notebooks.student(notebook))


def _graded(path: str | Path, found: _Found, rules: Rules, nursery: Nursery | None) -> Graded:
    with contextlib.ExitStack() as stack:
        nursery = nursery or stack.enter_context(rules.nursery())
        verdicts = [
            _judged(e, found.sources.get(e.grade_id), rules, nursery) for e in found.exercises
        ]
    return Graded(str(path), tuple(verdicts), nursery.level, "; ".join(found.notes))


def _judged(exercise: Exercise, source: str | None, rules: Rules, nursery: Nursery) -> Verdict:
    """One question's verdict; a fault of ours stays with this question."""
    try:
        for _ in range(CLOCK_TRIES):
            verdict = grade_source(
                exercise, source, rules.seed, nursery, private=rules.private.get(exercise.number)
            )
            if verdict.state != "too noisy":
                break
        return verdict
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:500]
        return Verdict(exercise, "error", f"The grader itself failed here ({text}). Run it again.")


def grade_source(
    exercise: Exercise,
    source: str | None,
    seed: int | str,
    nursery: Nursery,
    *,
    clock: bool = True,
    private: Callable[..., Any] | None = None,
) -> Verdict:
    """Judge one answer cell's source in a fresh process."""
    if source is None:
        return Verdict(
            exercise,
            "no cell",
            f"The notebook has no answer cell {exercise.grade_id!r}. Copy it back from a fresh "
            "copy of the exercise.",
        )
    try:
        with RemoteAnswer(
            nursery,
            source,
            exercise.name,
            allows=exercise.allows,
            forbids=exercise.forbids,
        ) as answer:
            verdict = judge(exercise, answer, seed, clock=clock, private=private)
            if answer.stopped and verdict.state != "not answered":
                more = f"The cell stopped below its answer: {answer.stopped}."
                verdict = replace(verdict, message=f"{verdict.message}\n{more}")
            return replace(verdict, case=None)  # a reader can try it, a list of marks cannot
    except AnswerRaised as raised:
        where = f" ({raised.where})" if raised.where else ""
        if raised.kind == "NotImplementedError":
            return not_answered(exercise)
        return Verdict(exercise, "failed", f"The answer cell does not run: {raised}{where}.")
    except (NotData, Stopped) as error:
        return Verdict(exercise, "failed", str(error))


# --- a class ----------------------------------------------------------------------------------


def grade_all(
    submissions: Mapping[str, Path], rules: Rules, *, workers: int | None = None
) -> Iterator[Graded]:
    """Grade many notebooks side by side; each comes as soon as it is done.

    None raises: what is wrong with a submission stands in its note.
    """
    workers = workers or os.cpu_count() or 1
    reading = threading.Lock()
    with rules.nursery() as shared, ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(_one, *item, rules, shared, reading) for item in submissions.items()]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one(name: str, path: Path, rules: Rules, shared: Nursery, reading: threading.Lock) -> Graded:
    try:
        if path.is_symlink():
            what = "folder" if path.is_dir() else "file"
            raise ValueError(f"{path} is a link to another {what}, and links are not followed.")
        with reading:  # a large file of small things fills memory twenty times over: one by one
            found = _read(path, rules)
        found = found.of(rules.whose(name if rules.a_class else "", found.student))
        graded = _graded(path, found, rules, shared if shared.shared else None)
        return replace(graded, name=name)
    except Exception as error:
        note = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return unread(name, path, rules, shared.level, note)


def unread(name: str, path: str | Path, rules: Rules, level: Level, note: str) -> Graded:
    """The result where nothing could be graded: no points, and why."""
    verdicts = tuple(
        Verdict(e, "no cell", "Nothing of this notebook could be graded: see the note.")
        for e in exercises()
        if e.chapter == _chapter_by_name(path, rules)
    )
    return Graded(str(path), verdicts, level, note, name)


def _chapter_by_name(path: str | Path, rules: Rules) -> str | None:
    """The chapter that is graded, or that a file's name begins with (06_kv_cache.ipynb)."""
    number = re.match(r"0*(\d+)", Path(path).name)
    return rules.chapter or (number[1] if number else None)
