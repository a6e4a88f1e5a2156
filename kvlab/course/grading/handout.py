"""What `kvlab release` does: notebooks to hand out, and solved ones, from exercises' files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kvlab.course.author import cells
from kvlab.course.exercises import Chapter, chapters
from kvlab.course.grading import notebooks, roster
from kvlab.course.grading.names import file_name


def run(args: argparse.Namespace, root: Path) -> int:
    """Write what differs, or with `check` only say so; 1 if something does.

    Chapters with exercises of one's own go into the folders `exercises` and `solutions` beside
    those; the book's own into those of the project, `root`. With a roster, each
    student gets a notebook in the folder `students`, where exercises differ by student.
    """
    known = chapters()
    own = [chapter for chapter in known if chapter.folder]
    stale = []
    for chapter in own or known:
        home = chapter.folder or root
        for folder, made in made_of(chapter).items():
            path = home / folder / f"{chapter.notebook}.ipynb"
            if path.is_file() and notebooks.read(path) == made:
                continue
            stale.append(str(path) if own else f"{folder}/{path.name}")
            if not args.check:
                _write(path, made)
    if args.roster:
        stale += _for_each(own, args)
    what = "differs" if args.check else "written"
    print(json.dumps({what: stale}) if args.json else f"{', '.join(stale) or 'nothing'} {what}")
    return 1 if stale and args.check else 0


def _for_each(own: list[Chapter], args: argparse.Namespace) -> list[str]:
    """A notebook per student and chapter, for chapters in which exercises differ by student."""
    differing = [c for c in own if any(e.variant for e in c.exercises)]
    if not differing:
        raise ValueError(
            f"--roster {args.roster} was given, and no exercise of one's own differs by student "
            "(per_student): one notebook does for all."
        )
    written, names = [], []
    for member in roster.read(args.roster).members:
        names.append(file_name(member.id, names))
        for chapter in differing:
            made = notebooks.release(_solved(chapter, member.id))
            path = chapter.folder / "students" / names[-1] / f"{chapter.notebook}.ipynb"
            if not path.is_file() or notebooks.read(path) != made:
                written.append(str(path))
                if not args.check:
                    _write(path, made)
    return written


def _solved(chapter: Chapter, student: str = "") -> notebooks.Notebook:
    own = chapter.folder is not None
    parts = chapter.notebook, chapter.introduction, chapter.exercises
    return cells.solutions(*parts, own=own, student=student)


def made_of(chapter: Chapter) -> dict[str, notebooks.Notebook]:
    """A chapter's two notebooks by the folder that each goes into."""
    solved = _solved(chapter)
    return {"solutions": solved, "exercises": notebooks.release(solved)}


def _write(path: Path, made: notebooks.Notebook) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        notebooks.write(path, made)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}.") from None
