"""Deadlines, and what a day costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from kvlab.course.exercises import chapters
from kvlab.course.grading import tables
from kvlab.course.grading.roster import IDS, LOGINS, NAMES, Roster, plain

_TIMES = ("submitted", "submission time", "time")
_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Late:
    """What lateness costs: each day begun takes `share` of what was earned; after `days`, all.

    `deadlines` are by chapter, "" for the others; `times` are by (student, chapter) or (student,
    ""), and go before the time that an archive gives a file.
    """

    deadlines: Mapping[str, datetime] = field(default_factory=dict)
    share: float = 0.1
    days: int | None = None
    times: Mapping[tuple[str, str], datetime] = field(default_factory=dict)

    def deadline(self, chapter: str) -> datetime | None:
        return self.deadlines.get(chapter, self.deadlines.get(""))

    def time(self, keys: Sequence[str], chapter: str, noted: str | None) -> datetime | None:
        """When a student's notebook was handed in, as far as anybody said."""
        for key in keys:
            for of in (chapter, ""):
                if (plain(key), of) in self.times:
                    return self.times[plain(key), of]
        return datetime.fromisoformat(noted) if noted else None

    def begun(self, chapter: str, when: datetime) -> int:
        """Days begun after the deadline; 0 in time.

        Raises: ValueError where one of the two has a time zone and the other none.
        """
        deadline = self.deadline(chapter)
        if deadline is None:
            return 0
        if (deadline.tzinfo is None) != (when.tzinfo is None):
            raise ValueError(
                f"The deadline {deadline.isoformat()} and the submission time {when.isoformat()} "
                "cannot be compared: one has a time zone and the other none. Give both the same "
                "(the times in a zip have none)."
            )
        return max(0, math.ceil((when - deadline).total_seconds() / _DAY))

    def keeps(self, days: int) -> float:
        """The share of the points that is left."""
        if self.days is not None and days > self.days:
            return 0.0
        return max(0.0, 1 - self.share * days)


def deadlines(given: Sequence[str]) -> dict[str, datetime]:
    """Deadlines from a command line: TIME for all chapters, or N=TIME for one."""
    found: dict[str, datetime] = {}
    for text in given:
        chapter, _, time = text.rpartition("=")
        known = [c.number for c in chapters()]
        if chapter and chapter not in known:
            raise ValueError(f"--deadline {text}: there are exercises of {', '.join(known)}.")
        if chapter in found:
            of = f"chapter {chapter}" if chapter else "all chapters"
            raise ValueError(f"--deadline came twice for {of}.")
        found[chapter] = moment(time, f"--deadline {text}")
    return found


def moment(text: str, where: str) -> datetime:
    """A time as ISO 8601 writes it.

    Raises: ValueError that begins with `where`.
    """
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{where}: {text!r} is not a time; expected one like 2026-05-04T23:59, with +02:00 "
            "behind it where time zones count."
        ) from None


def times(path: str | Path, roster: Roster | None) -> dict[tuple[str, str], datetime]:
    """Submission times from a CSV file: a student, `submitted`, and `chapter` where it matters."""
    header, rows = tables.read(path)
    columns = {name.casefold(): name for name in header}
    students = [columns[n] for n in (*IDS, *LOGINS, *NAMES) if n in columns]
    time = next((columns[n] for n in _TIMES if n in columns), None)
    if not students or time is None:
        raise ValueError(
            f"{path} has the columns {', '.join(header)}; expected one of students (id, or name) "
            "and one called submitted; chapter may be there."
        )
    found: dict[tuple[str, str], datetime] = {}
    for n, row in enumerate(rows, 2):
        if not row[time]:
            continue
        called = next((row[s] for s in students if row[s]), "")
        member = roster.of(called) if roster else None
        chapter = row.get(columns.get("chapter", ""), "")
        key = plain(member.id if member else called), chapter.lstrip("0")
        if key in found:
            raise ValueError(f"{path}, row {n}: a second time for {called}.")
        found[key] = moment(row[time], f"{path}, row {n}")
    return found
