"""The notebook at which the book opens: where the reader stands, the map, what is optional.

It is made whenever the book is opened, so that it shows what has been done up to then. Its cells
are this file's; cells that the reader adds stay.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from kvlab.course import record
from kvlab.course.exercises import CHAPTERS
from kvlab.course.grading import notebooks
from kvlab.course.standing import standing

PARTS = {"1": "I. The model", "5": "II. The cache", "10": "III. Pruning"}  # by their first chapter
# A chapter begins with its title, and the question that it answers.
OPENING = re.compile(r"# (?P<number>\d+)\. (?P<title>.+)\n\n\*(?P<question>.+)\*\n")

TOP = """# Welcome

This is a book that runs. It tells how a language model answers a prompt: how queries, keys and
values turn a text into its next word, why a cache keeps the keys and values, what that cache
costs, and what can be left out of it. You build each part by hand, measure it, and let it run a
small model that was trained for this book. The model is already here, so nothing is downloaded,
and nothing that you do leaves this computer.

If you are new, open [chapter 1]({first}). A chapter is a page like this one, of text and of cells
with code. Click into a cell and press Shift+Enter to run it, or choose *Run > Run All Cells* from
the menu for the whole page.

## Where you stand

Exercises that you solve are noted by themselves. Nobody watches what you read, so say it here:
put the numbers of the chapters that you have read between the brackets, `[1, 2]` for the first
two, and run the cell."""

CELL = """from kvlab.course.standing import standing

standing(read={read})"""

MAP = """## The map

Thirteen chapters, each about an hour to read. Each stands on those before it, and recalls in a
sentence what it needs of them.

| chapter, and the question that it answers | exercises |
|---|---|
{rows}"""

BOTTOM = """## What is optional

- **The exercises.** No chapter needs them, but they are the only way to find out what you could
  not have written yourself. In the last one of each chapter your code works on a trained model.
- **Some chapters.** The [course of four weeks](docs/courses.md) leaves out 3, 4, 9 and 12, and
  names the exercises that matter most in the others.
- **The guesses** at the beginning of a chapter. Nobody marks them. A guess that turns out wrong
  shows you what is new.
- **Cells that are folded away.** Three dots stand for code that draws, or that checks the page
  itself.
- **A larger model.** `python3 -m kvlab fetch smollm2` in a terminal brings one (93 MB), which
  chapter 13 then runs. Without it that chapter shows numbers that were recorded. Nothing in the
  book needs a graphics card.

## Exercises, and help

Each notebook in the folder `exercises` has a cell for every answer and below it a cell such as
`check("1.1", project)`, which tries your answer on fresh random cases. If the answer fails, it
says on which case, where the first wrong number is, and which well-known mistake it is, if it is
one.

- `hint("1.1")` gives a nudge, then a longer one, then nearly the answer. The folder `solutions`
  has an answer to each exercise.
- In a terminal (*File > New > Terminal*), `python3 -m kvlab progress` lists what you have done,
  `python3 -m kvlab grade exercises/{exercises}` prints your marks, and `python3 -m kvlab doctor`
  says what is missing if something does not run.
- A page that behaves oddly may hold on to an old answer: *Kernel > Restart Kernel and Run All
  Cells* starts it afresh.
- New to PyTorch? [A dozen of its calls](docs/torch.md) are enough. Letters such as T and G, and
  names that end in them, are explained on the page on [notation](docs/notation.md).

*This page is made anew whenever the book is opened with `kvlab lab`. Cells that you add to it
stay.*"""


class Opening(NamedTuple):
    """What a chapter's first cell says of it, and its notebook's file name."""

    number: str
    title: str
    question: str
    file: str


def openings(folder: Path) -> list[Opening]:
    """What the chapters in a folder say of themselves, in their order.

    Raises: ValueError for a notebook that cannot be read, or that does not begin as a chapter does.
    """
    found = []
    for path in sorted(folder.glob("*.ipynb")):
        cells = notebooks.read(path)["cells"]
        opening = OPENING.match(notebooks.source(cells[0])) if cells else None
        if opening is None:
            raise ValueError(f"{path} does not begin with a chapter's number, title and question.")
        found.append(Opening(**opening.groupdict(), file=path.name))
    return found


def write(path: Path) -> None:
    """Make the notebook at this path in the project's folder, or make it anew there.

    Raises: ValueError where a chapter, or what stands in its place, is no notebook; OSError where
    it cannot be written.
    """
    made = notebook(path.parent)
    there = notebooks.read(path) if path.exists() else {"cells": []}
    ours = {cell["id"] for cell in made["cells"]}
    made["cells"] += [cell for cell in there["cells"] if cell.get("id") not in ours]
    if made != there:
        notebooks.write(path, made)


def notebook(root: Path) -> dict[str, Any]:
    """The notebook, with what its cell shows now.

    Raises: ValueError as `openings`, or where there is no chapter.
    """
    chapters = openings(root / "chapters")
    if not chapters:
        raise ValueError(f"{root / 'chapters'} holds no chapters.")
    first = chapters[0].file
    texts = [
        TOP.format(first=f"chapters/{first}"),
        MAP.format(rows=_rows(chapters)),
        BOTTOM.format(exercises=first),
    ]
    top, rest, bottom = ({"cell_type": "markdown", "source": text} for text in texts)
    shown = standing()
    data = {"text/html": shown._repr_html_(), "text/plain": repr(shown)}
    cell = {
        "cell_type": "code",
        "source": CELL.format(read=record.chapters_read()),
        "execution_count": 1,
        "outputs": [{"output_type": "execute_result", "data": data}],
    }
    made = notebooks.normalise({"cells": [top, cell, rest, bottom]})
    for name, cell in zip(("top", "standing", "map", "bottom"), made["cells"], strict=True):
        cell["id"] = f"welcome-{name}"
    # as JupyterLab stores it
    for kind, text in data.items():
        made["cells"][1]["outputs"][0]["data"][kind] = text.splitlines(keepends=True)
    return made


def _rows(chapters: list[Opening]) -> str:
    rows = []
    for number, title, question, file in chapters:
        if number in PARTS:
            rows.append(f"| **{PARTS[number]}** | |")
        (own,) = (chapter.exercises for chapter in CHAPTERS if chapter.number == number)
        told = f"{len(own)},&nbsp;{sum(e.minutes for e in own)}&nbsp;minutes"
        chapter = f"[{number}. {title}](chapters/{file})<br>{question}"
        rows.append(f"| {chapter} | [{told}](exercises/{file}) |")
    return "\n".join(rows)
