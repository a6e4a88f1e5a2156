"""Where a reader stands in the book: what the notebook that welcomes them shows of their record.

It is plain HTML without style sheet or script, which notebooks show without having been trusted,
and the same in text where there is no HTML.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kvlab.course import record
from kvlab.course.author.spec import Exercise
from kvlab.course.exercises import CHAPTERS, Chapter, chapters

READING = 60  # minutes that a chapter takes to read, on the average


@dataclass(frozen=True)
class Place:
    """One chapter: whether it was read, and what is noted of its exercises, in order."""

    chapter: Chapter
    read: bool
    noted: tuple[dict[str, Any], ...]

    @property
    def open(self) -> list[Exercise]:
        """The exercises that have not been passed."""
        rows = zip(self.chapter.exercises, self.noted, strict=True)
        return [exercise for exercise, row in rows if not row.get("passed")]

    @property
    def begun(self) -> bool:
        return self.read or any(row.get("passed") or row.get("tries") for row in self.noted)

    @property
    def of_the_book(self) -> bool:
        return any(self.chapter.number == chapter.number for chapter in CHAPTERS)

    def __str__(self) -> str:
        n, n_open = len(self.chapter.exercises), len(self.open)
        done = f"{n - n_open} of {n} exercises done"
        if 0 < n_open < n:
            done += f", open: {', '.join(e.number for e in self.open)}"
        return f"Chapter {self.chapter.number}: {'read, ' * self.read}{done}"


@dataclass(frozen=True)
class Standing:
    """Where a reader stands, shown as HTML in a notebook and as text elsewhere.

    `trouble` says why nothing can be noted or read, "" where all is well.
    """

    places: tuple[Place, ...]
    trouble: str

    @property
    def summary(self) -> str:
        """How far the reader is, in a sentence or two."""
        known = [e for place in self.places for e in place.chapter.exercises]
        ahead = [e for place in self.places for e in place.open]
        n_read = sum(place.read for place in self.places)
        reading, exercising = READING * len(CHAPTERS), sum(e.minutes for e in known)
        if not any(place.begun for place in self.places):
            return (
                f"{'' if self.trouble else 'Nothing is noted yet. '}The book has {len(CHAPTERS)} "
                f"chapters, about {reading / 60:.0f} hours of reading, and {len(known)} exercises, "
                f"about {exercising / 60:.0f} hours more."
            )
        read = f"read {n_read} of {len(CHAPTERS)} chapters and " * bool(n_read)
        text = f"You have {read}done {len(known) - len(ahead)} of {len(known)} exercises."
        spent = READING * n_read + exercising - sum(e.minutes for e in ahead)
        hours = f"{(reading + exercising) / 60:.0f} hours"
        if spent >= 90:
            return f"{text} That is about {spent / 60:.0f} of {hours}."
        return f"{text} That is about {spent} minutes of {hours}." if spent else text

    @property
    def next(self) -> tuple[Place | None, tuple[Place, Exercise] | None]:
        """The first chapter of the book that was not begun, and the first exercise that is open
        in one that was, with its place; None for what is not left."""
        fresh = (p for p in self.places if not p.begun and p.of_the_book)
        left = ((p, p.open[0]) for p in self.places if p.begun and p.open)
        return next(fresh, None), next(left, None)

    def _lines(self, link: Callable[..., str]) -> list[str]:
        """What stands above the list; `link(text, place, folder)` makes of a text what leads to a
        notebook, and `link(text)` what may stand in a line."""
        lines = [link(f"About your record: {self.trouble}.")] if self.trouble else []
        lines.append(self.summary)
        fresh, left = self.next
        told = [link(f"chapter {fresh.chapter.number}", fresh, "chapters")] if fresh else []
        if left:
            place, exercise = left
            name = link(f"exercise {exercise.number}", place, "exercises")
            title = link(f'"{exercise.title}"')
            told.append(f"{name}, {title}, about {exercise.minutes} minutes")
        return [*lines, f"Next: {', or '.join(told)}."] if told else lines

    def __repr__(self) -> str:
        begun = [str(place) for place in self.places if place.begun]
        return "\n".join([*self._lines(lambda text, *_: text), *begun])

    def _repr_html_(self) -> str:
        lines = [f"<p>{line}</p>" for line in self._lines(_link)]
        begun = [f"<li>{html.escape(str(place))}</li>" for place in self.places if place.begun]
        if begun:
            lines += ["<ul>", *begun, "</ul>"]
        lines += ["<details>", "<summary>Every exercise, one by one</summary>"]
        for place in self.places:
            head = _link(f"Exercises to chapter {place.chapter.number}", place, "exercises")
            rows = zip(place.chapter.exercises, place.noted, strict=True)
            told = [html.escape(f"{e.number} {e.title}: {record.said(row)}") for e, row in rows]
            lines += [f"<p>{head}</p>", "<ul>", *(f"<li>{line}</li>" for line in told), "</ul>"]
        return "\n".join([*lines, "</details>"])


def _link(text: str, place: Place | None = None, folder: str = "") -> str:
    """A link from the project's folder; to exercises of one's own, which lie elsewhere, none."""
    text = html.escape(text)
    if place is None or (folder == "exercises" and place.chapter.folder is not None):
        return text
    return f'<a href="{folder}/{html.escape(place.chapter.notebook)}.ipynb">{text}</a>'


def standing(read: Iterable[int] | None = None) -> Standing:
    """Where the reader stands; with `read`, it first notes which chapters they say they have read.

    `read` holds the numbers of these chapters, all of them: one that is left out counts as not
    read. What is noted stays on this computer, in the file that `kvlab progress` names.
    Raises: ValueError for what is no list of chapters of the book.
    """
    asked = None if read is None else _checked(read)
    if asked is not None:
        record.note_read(asked)
    noted, has_read = record.read(), record.chapters_read()
    places = tuple(
        Place(c, int(c.number) in has_read, tuple(noted.get(e.number, {}) for e in c.exercises))
        for c in chapters()
    )
    trouble = record.trouble()
    if not trouble and asked not in (None, has_read):
        trouble = f"which chapters you have read could not be noted in {record.path()}"
    return Standing(places, trouble)


def _checked(read: Iterable[int]) -> list[int]:
    known = [int(chapter.number) for chapter in CHAPTERS]
    told = f"expected the numbers of chapters that you have read, such as [1, 2], up to {known[-1]}"
    try:
        numbers = list(read)
    except TypeError:
        raise ValueError(f"standing got read={read!r}; {told}.") from None
    for number in numbers:
        if type(number) is not int or number not in known:
            raise ValueError(f"standing got {number!r} among the chapters read; {told}.")
    return sorted(set(numbers))
