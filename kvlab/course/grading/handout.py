"""What `kvlab release` does: notebooks to hand out, and solved ones, from exercises' files."""

from __future__ import annotations

import argparse
from pathlib import Path

from kvlab.course.author import cells
from kvlab.course.exercises import Chapter, chapters
from kvlab.course.grading import notebooks


def run(args: argparse.Namespace, root: Path) -> int:
    """Write what differs, or with `check` only say so; 1 if something does.

    Chapters with exercises of one's own go into the folders `exercises` and `solutions` beside
    those; the book's own into those of the project, `root`.
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
    print(f"{', '.join(stale) or 'nothing'} {'differs' if args.check else 'written'}")
    return 1 if stale and args.check else 0


def made_of(chapter: Chapter) -> dict[str, notebooks.Notebook]:
    """A chapter's two notebooks by the folder that each goes into."""
    solved = cells.solutions(
        chapter.notebook, chapter.introduction, chapter.exercises, own=chapter.folder is not None
    )
    return {"solutions": solved, "exercises": notebooks.release(solved)}


def _write(path: Path, made: notebooks.Notebook) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        notebooks.write(path, made)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}.") from None
