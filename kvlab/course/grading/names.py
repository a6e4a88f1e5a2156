"""Who handed something in, told from where it lies; and names as a table shows and sorts them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from kvlab.course.exercises import chapters

_MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_file(?:_.*)?", re.S)
_CANVAS = re.compile(r"(?P<name>[^_/]+)_(?:LATE_)?(?P<id>\d+)_\d+_(?P<file>[^/]+)", re.S)
# Letters that are no other letter with a mark, where people look for them.
_LIKE = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe"})


@dataclass(frozen=True)
class Who:
    """Whose a submission is: an id where its name holds one, else ""; and a name."""

    id: str
    name: str


def who(submission: str) -> Who:
    """Whose a submission called `ann/06_kv_cache` is.

    It is the first folder's, or the file's where there is none; of a download from Moodle
    (`Ann Lee_4711_assignsubmission_file/...`) or Canvas (`leeann_4711_99_06_kv_cache`) the name and
    the number in it.
    """
    first, _, inner = submission.partition("/")
    found = _MOODLE.fullmatch(first) or (None if inner else _CANVAS.fullmatch(first))
    if found:
        return Who(found["id"], found["name"])
    if not inner:
        for chapter in chapters():
            cut = re.sub(rf"[ _-]+{chapter.notebook}(?: ?\(\d+\))?\Z", "", first)
            if cut and cut != first:
                return Who("", cut)
    return Who("", first)


def own_file(path: str) -> str:
    """A submission's file as its author called it, without what Moodle or Canvas put before it."""
    last = path.rpartition("/")[2]
    canvas = _CANVAS.fullmatch(last)
    if canvas and "/" not in path:
        return canvas["file"]
    return re.sub(r".+_\d+_assignsubmission_file_(?=.)", "", last)


def order(name: str) -> tuple[str, str]:
    """What to sort by: letters as if they had no marks and no case, then the name itself."""
    plain = unicodedata.normalize("NFKD", name.casefold().translate(_LIKE))
    return "".join(c for c in plain if not unicodedata.combining(c)), name


def width(text: str) -> int:
    """Columns that a terminal gives to a text: two to East Asian letters, none to marks."""
    wide = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return wide - sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in text)


def padded(text: str, columns: int) -> str:
    """A text with blanks behind it, as wide as asked for."""
    return text + " " * max(0, columns - width(text))


def file_name(called: str, taken: Sequence[str] = ()) -> str:
    """A name for files that every system takes (letters, digits, dots and hyphens, not too long),
    and none of those that are `taken`."""
    plain = re.sub(r"[^\w.-]+", "-", called).strip("-._")[:60] or "student"
    name, n = plain, 2
    while name.casefold() in (t.casefold() for t in taken):
        name, n = f"{plain}-{n}", n + 1
    return name
