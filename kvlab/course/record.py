"""What a reader has done, in one small file of their own; nothing is sent anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kvlab import files
from kvlab.course.author.spec import Verdict
from kvlab.course.exercises import exercises

READ = "chapters read"  # stands in the file beside the exercises' numbers


def path() -> Path:
    """The file, in the user's data folder, or in $KVLAB_DATA."""
    if own := os.environ.get("KVLAB_DATA"):
        return Path(own) / "progress.json"
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "kvlab" / "progress.json"


def where() -> str:
    """Where progress is noted, as far as that is true: it may be unread, or nowhere."""
    if said := trouble():
        return said
    return (
        f"noted in {path()}" if path().exists() else f"nothing is noted yet; it will be in {path()}"
    )


def trouble() -> str:
    """Why what is noted cannot be read, or nothing can be noted; "" where all is well."""
    file = path()
    if file.exists():
        if not os.access(file, os.R_OK):
            return f"{file} may not be read"
        broken = f"what {file} holds is no record; what is done next begins it anew"
        return broken if _held() is None else ""
    folder = next(p for p in file.parents if p.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return ""
    return f"nothing can be noted: {folder} may not be written to; KVLAB_DATA names another folder"


def _held() -> dict[str, Any] | None:
    """All that the file holds; None where it is not there or is no record."""
    try:
        found = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read() -> dict[str, dict[str, Any]]:
    """What is noted of each exercise, by number; empty where nothing is or can be read."""
    return {
        number: {
            "state": str(row.get("state", "")),
            "tries": row["tries"] if isinstance(row.get("tries"), int) else 0,
            "passed": str(row.get("passed", "")),
        }
        for number, row in (_held() or {}).items()
        if isinstance(row, dict)
    }


def chapters_read() -> list[int]:
    """The numbers of the chapters that the reader says they have read, in order."""
    said = (_held() or {}).get(READ)
    return sorted({n for n in said if type(n) is int}) if isinstance(said, list) else []


def record(verdict: Verdict) -> None:
    """Note a verdict; what was once passed stays passed. A file that refuses is let be."""
    noted = read()
    row = noted.get(verdict.exercise.number, {"state": "", "tries": 0, "passed": ""})
    row["tries"] += verdict.state != "not answered"
    if verdict.passed and not row["passed"]:
        row["passed"] = time.strftime("%Y-%m-%d")
    row["state"] = "passed" if row["passed"] else verdict.state
    noted[verdict.exercise.number] = row
    _write(noted, chapters_read())


def note_read(chapters: Iterable[int]) -> None:
    """Note that these chapters have been read, and no others. A file that refuses is let be."""
    chapters = sorted(set(chapters))
    if chapters != chapters_read():
        _write(read(), chapters)


def _write(noted: dict[str, dict[str, Any]], chapters: list[int]) -> None:
    target, more = path(), {READ: chapters} if chapters else {}
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, json.dumps({**noted, **more}, indent=1, sort_keys=True) + "\n")


def said(row: dict[str, Any]) -> str:
    """What is noted of an exercise, in words."""
    if row.get("passed"):
        return f"passed on {row['passed']}"
    state, tries = row.get("state") or "not answered", row.get("tries")
    text = "not answered yet" if state == "not answered" else state
    return f"{text}, {tries} {'try' if tries == 1 else 'tries'}" if tries else text


def as_text() -> str:
    """All exercises of the book, chapter by chapter, and how far the reader is."""
    noted, chapters, lines, known = read(), chapters_read(), [], exercises()
    width = max(len(e.title) for e in known) + 2
    for exercise in known:
        done = ", read" if exercise.chapter in map(str, chapters) else ""
        if (chapter := f"Chapter {exercise.chapter}{done}") not in lines:
            lines.append(chapter)
        row = noted.get(exercise.number, {})
        lines.append(f"  {exercise.number:<5}{exercise.title:<{width}}{said(row)}")
    done = [e for e in known if noted.get(e.number, {}).get("passed")]
    points, total = sum(e.points for e in done), sum(e.points for e in known)
    return "\n".join([*lines, f"{len(done)} of {len(known)} done, {points} of {total} points"])


def as_data() -> dict[str, Any]:
    """The same for programs: the file, and for each exercise what is noted of it."""
    noted, empty = read(), {"state": "not answered", "tries": 0, "passed": ""}
    rows = [
        {"number": e.number, "title": e.title, "points": e.points} | noted.get(e.number, empty)
        for e in exercises()
    ]
    done = [row for row in rows if row["passed"]]
    return {
        "file": str(path()),
        "chapters_read": chapters_read(),
        "exercises": rows,
        "done": len(done),
        "points": sum(row["points"] for row in done),
        "out_of": sum(row["points"] for row in rows),
    }
