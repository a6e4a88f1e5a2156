"""The class as the school knows it: id, name, section; and who of it a submission is from."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kvlab.course.grading import tables
from kvlab.course.grading.names import Who, who

# What the columns are called by people, Moodle, Canvas and Gradescope; the first that is there
# and filled counts. All ids are tried when a submission is looked for.
IDS = ("id number", "student id", "sis user id", "sid", "matriculation number", "identifier", "id")
LOGINS = ("sis login id", "username", "login", "email address", "email")
NAMES = ("name", "full name", "student", "student name")
FIRST, LAST = ("first name", "given name"), ("last name", "surname", "family name")
SECTIONS = ("section", "sections", "group", "groups")


@dataclass(frozen=True)
class Member:
    """One student of the roster; `cells` is the row as it came."""

    id: str
    name: str
    section: str
    keys: frozenset[str]
    cells: dict[str, str] = field(hash=False)


@dataclass(frozen=True)
class Roster:
    """All students, in the roster's order, and its columns as they came."""

    header: tuple[str, ...]
    members: tuple[Member, ...]
    file: str = ""

    @cached_property
    def _by_key(self) -> dict[str, Member | None]:
        """A member by each thing that they alone are called; None for what two are called."""
        found: dict[str, Member | None] = {}
        for member in self.members:
            for key in {*member.keys, plain(member.name), backwards(member.name)} - {""}:
                found[key] = None if key in found else member
        return found

    def find(self, submission: str) -> Member | None:
        """Whose a submission is: by an id, a login or a name that a part of its path is."""
        found = who(submission)
        parts = submission.split("/")
        for called in (found.id, found.name, *parts):
            member = self._by_key.get(plain(called))
            if member is not None:
                return member
        return None

    def of(self, called: str) -> Member | None:
        """The student with this id, login or name."""
        return self._by_key.get(plain(called))


def plain(called: str) -> str:
    """An id or a name in one spelling: case, blanks and the form of its letters do not count."""
    text = unicodedata.normalize("NFKC", called).casefold()
    text = " ".join(text.split())
    return re.sub(r"\Aparticipant ", "", text)  # Moodle's worksheet; its folders have the number


def backwards(name: str) -> str:
    """A name without blanks and signs, the last first: as Canvas begins a file's name."""
    if "," in name:
        return re.sub(r"\W", "", plain(name))
    first, _, last = plain(name).rpartition(" ")
    return re.sub(r"\W", "", last + first)


def read(path: str | Path) -> Roster:
    """A roster from a CSV file.

    Raises: ValueError for a file that has no column of ids or none of names, a student without an
    id, or two of one id.
    """
    header, rows = tables.read(path)
    columns = {name.casefold(): name for name in header}
    has_name = any(n in columns for n in (*NAMES, *LAST))
    if not any(n in columns for n in (*IDS, *LOGINS)) or not has_name:
        raise ValueError(
            f"{path} has the columns {', '.join(header)}; a roster needs one of ids (id, "
            '"ID number", "SIS User ID", SID, email) and one of names (name, or "First name" and '
            '"Last name"); section may be there.'
        )
    members, ids = [], {}
    for n, row in enumerate(rows, 2):
        member = _member({key: row[name] for key, name in columns.items()}, row)
        if member.name == "Points Possible":  # Canvas' second line, with blanks before it
            continue
        if not member.id:
            raise ValueError(f"{path}, row {n}: {member.name or 'a student'} has no id.")
        if member.id in ids:
            raise ValueError(f"{path}, row {n}: the id {member.id} is also in row {ids[member.id]}")
        ids[member.id] = n
        members.append(member)
    if not members:
        raise ValueError(f"{path} has no student in it.")
    return Roster(tuple(header), tuple(members), str(path))


def _member(row: dict[str, str], cells: dict[str, str]) -> Member:
    def first(wanted: tuple[str, ...]) -> str:
        return next((row[name] for name in wanted if row.get(name)), "")

    name = first(NAMES) or " ".join(filter(None, [first(FIRST), first(LAST)]))
    keys = frozenset(plain(row[k]) for k in (*IDS, *LOGINS) if row.get(k))
    return Member(first((*IDS, *LOGINS)), name, first(SECTIONS), keys, cells)


def whose(submission: str, roster: Roster | None) -> Member | Who:
    """Who handed a submission in: a student of the roster, or what its name says."""
    return (roster and roster.find(submission)) or who(submission)
