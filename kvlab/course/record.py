"""What a reader has done, in one small file of their own; nothing is sent anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from kvlab import files
from kvlab.course.author.spec import Verdict
from kvlab.course.exercises import exercises


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
    file = path()
    if file.exists():
        return f"noted in {file}" if os.access(file, os.R_OK) else f"{file} may not be read"
    folder = next(p for p in file.parents if p.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return f"nothing is noted yet; it will be in {file}"
    return f"nothing can be noted: {folder} may not be written to; KVLAB_DATA names another folder"


def read() -> dict[str, dict[str, Any]]:
    """What is noted of each exercise, by number; empty where nothing is or can be read."""
    try:
        found = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        number: {
            "state": str(row.get("state", "")),
            "tries": row["tries"] if isinstance(row.get("tries"), int) else 0,
            "passed": str(row.get("passed", "")),
        }
        for number, row in found.items()
        if isinstance(row, dict)
    }


def record(verdict: Verdict) -> None:
    """Note a verdict; what was once passed stays passed. A file that refuses is let be."""
    noted = read()
    row = noted.get(verdict.exercise.number, {"state": "", "tries": 0, "passed": ""})
    row["tries"] += verdict.state != "not answered"
    if verdict.passed and not row["passed"]:
        row["passed"] = time.strftime("%Y-%m-%d")
    row["state"] = "passed" if row["passed"] else verdict.state
    noted[verdict.exercise.number] = row
    target = path()
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write(target, json.dumps(noted, indent=1, sort_keys=True) + "\n")


def as_text() -> str:
    """All exercises of the book, chapter by chapter, and how far the reader is."""
    noted, lines, points = read(), [], 0
    known = exercises()
    width = max(len(e.title) for e in known) + 2
    for exercise in known:
        row = noted.get(exercise.number, {})
        state = row.get("state") or "not answered"
        said = "not answered yet" if state == "not answered" else state
        if row.get("passed"):
            said, points = f"passed on {row['passed']}", points + exercise.points
        elif row.get("tries"):
            said += f", {row['tries']} {'try' if row['tries'] == 1 else 'tries'}"
        chapter = f"Chapter {exercise.chapter}"
        if chapter not in lines:
            lines.append(chapter)
        lines.append(f"  {exercise.number:<5}{exercise.title:<{width}}{said}")
    done = sum(bool(noted.get(e.number, {}).get("passed")) for e in known)
    total = sum(e.points for e in known)
    return "\n".join([*lines, f"{done} of {len(known)} done, {points} of {total} points"])


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
        "exercises": rows,
        "done": len(done),
        "points": sum(row["points"] for row in done),
        "out_of": sum(row["points"] for row in rows),
    }
