"""Grade notebooks: each answer in its own process, every question on its own.

An answer that loops, exits, or wrecks its process loses its own question and no other.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kvlab.course import notebooks
from kvlab.course.answer import AnswerRaised, NotData, Stopped
from kvlab.course.exercises import ALL
from kvlab.course.remote import RemoteAnswer
from kvlab.course.spec import Exercise, Verdict, judge


@dataclass(frozen=True)
class Graded:
    """One notebook's verdicts, in the order of the exercises; `note` where something was odd."""

    path: str
    verdicts: tuple[Verdict, ...]
    note: str = ""

    @property
    def points(self) -> int:
        return sum(v.exercise.points for v in self.verdicts if v.passed)

    @property
    def out_of(self) -> int:
        return sum(v.exercise.points for v in self.verdicts)


def grade(path: str | Path, *, seed: int | None = None, workers: int | None = None) -> Graded:
    """Grade one notebook.

    Raises: ValueError when the file is no notebook, or holds no answer cell of any exercise.
    """
    answers = notebooks.answers(notebooks.read(path))
    exercises = _exercises_of(answers, path)
    seed = secrets.randbelow(2**32) if seed is None else seed
    workers = workers or min(2, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        verdicts = list(
            pool.map(
                lambda e: grade_source(e, answers.get(e.grade_id), seed, clock=False), exercises
            )
        )
    # A clock wants the machine for itself, so claims of speed come after all else is judged.
    for i, (exercise, verdict) in enumerate(zip(exercises, verdicts, strict=True)):
        if exercise.clock is not None and verdict.passed:
            verdicts[i] = grade_source(exercise, answers.get(exercise.grade_id), seed)
    missing = [v.exercise.number for v in verdicts if v.state == "no cell"]
    note = f"no answer cell for {', '.join(missing)}" if missing else ""
    return Graded(str(path), tuple(verdicts), note)


def grade_source(
    exercise: Exercise, source: str | None, seed: int, *, clock: bool = True
) -> Verdict:
    """Judge one answer cell's source in a fresh process."""
    if source is None:
        return Verdict(
            exercise,
            "no cell",
            f"The notebook has no answer cell {exercise.grade_id!r}. Copy it back from a fresh "
            "copy of the exercise.",
        )
    if notebooks.STUB in source:
        return Verdict(exercise, "not answered", "The cell still holds the stub.")
    try:
        with RemoteAnswer(source, exercise.name, allows=exercise.allows) as answer:
            return judge(exercise, answer, seed, clock=clock)
    except AnswerRaised as raised:
        where = f" ({raised.where})" if raised.where else ""
        if raised.kind == "NotImplementedError":
            return Verdict(exercise, "not answered", "The cell still holds the stub.")
        return Verdict(exercise, "failed", f"The answer cell does not run: {raised}{where}.")
    except (NotData, Stopped) as error:
        return Verdict(exercise, "failed", str(error))


def _exercises_of(answers: dict[str, str], path: str | Path) -> Sequence[Exercise]:
    """All exercises of the chapters that the notebook has any answer cell of."""
    chapters = {e.number.split(".")[0] for e in ALL if e.grade_id in answers}
    if not chapters:
        raise ValueError(
            f"{path} has no answer cell of any exercise; expected cells like "
            f"{ALL[0].grade_id!r}, as in exercises/."
        )
    return [e for e in ALL if e.number.split(".")[0] in chapters]
