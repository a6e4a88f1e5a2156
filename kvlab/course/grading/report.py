"""Marks as a table, as JSON, as CSV, for Gradescope; and the journal of a run that may stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvlab import __version__, files
from kvlab.course.author.spec import Exercise
from kvlab.course.grading.grade import Graded
from kvlab.course.grading.marks import Row, in_order
from kvlab.course.grading.tables import printable, table
from kvlab.course.sandbox.walls import LEVELS


def row(graded: Graded) -> Row:
    """One notebook's result as plain data."""
    return {
        "name": graded.name or Path(graded.path).stem,
        "file": graded.path,
        "points": graded.points,
        "out_of": graded.out_of,
        "note": "; ".join(filter(None, [graded.note, _by_hand(graded)])),
        "isolation": graded.level.name,
        "submitted": None,
        "questions": [
            {
                "number": v.exercise.number,
                "title": v.exercise.title,
                "points": v.exercise.points if v.passed else 0,
                "out_of": v.exercise.points,
                "state": v.state,
                "message": v.message,
                "mistake": v.mistake,
                "held": _laws(v.exercise) if v.passed else v.held,
                "laws": _laws(v.exercise),
                "picture": v.picture,
            }
            for v in graded.verdicts
        ],
    }


def _by_hand(graded: Graded) -> str:
    """Which answers wait for a person; a mark of 0 alone would not say so."""
    waiting = [v.exercise.number for v in graded.verdicts if v.state == "not judged"]
    return f"{', '.join(waiting)} not judged: to be read by hand" if waiting else ""


def _laws(exercise: Exercise) -> int:
    """How many things must hold: its laws, and the clock where there is one."""
    return len(exercise.laws) + (exercise.clock is not None)


def as_text(graded: Graded) -> str:
    """The table of one notebook's questions, and what to say about each that did not pass."""
    lines = [printable(graded.path)]
    width = max((len(v.exercise.title) for v in graded.verdicts), default=0) + 2
    for v in graded.verdicts:
        got = v.exercise.points if v.passed else 0
        title = f"{v.exercise.number:<5}{v.exercise.title:<{width}}"
        state = "not answered yet" if v.state == "not answered" else v.state
        lines.append(f"  {title}{got:>3} of {v.exercise.points}   {state}")
    lines.append(f"  {'total':<{width + 5}}{graded.points:>3} of {graded.out_of}")
    if graded.note:
        lines.append(f"  Note: {printable(graded.note)}.")
    lines.append(f"  Isolation: {graded.level.name}. {graded.level.says}")
    for v in graded.verdicts:
        if v.state not in ("passed", "not answered", "no cell"):
            lines += ["", *("  " + line for line in repr(v).splitlines())]
    return "\n".join(lines)


def as_json(rows: Sequence[Row], head: Mapping[str, Any]) -> str:
    """All verdicts with their messages; `head` says how they came about."""
    return json.dumps({**head, "notebooks": list(rows)}, indent=1) + "\n"


def head(says: str, seed: str) -> dict[str, str]:
    """What holds for a whole run: the version, the isolation in words, the seed."""
    return {"kvlab": __version__, "isolation": says, "seed": seed}


def as_csv(rows: Sequence[Row]) -> str:
    """One line per notebook, one column per question."""
    numbers = sorted({q["number"] for r in rows for q in r["questions"]}, key=in_order)
    lines = []
    for r in rows:
        marks = {q["number"]: q["points"] for q in r["questions"]}
        cells = [marks.get(n, "") for n in numbers]
        lines.append([r["name"], r["points"], r["out_of"], *cells, r["note"], r["isolation"]])
    return table(["name", "points", "out_of", *numbers, "note", "isolation"], lines)


def as_gradescope(r: Row) -> str:
    """One notebook's result as Gradescope's results.json; none handed in is a score of 0."""
    tests = [
        {
            "number": q["number"],
            "name": f"{q['number']} {q['title']}",
            "score": q["points"],
            "max_score": q["out_of"],
            "status": "passed" if q["state"] == "passed" else "failed",
            "output": "\n".join(filter(None, [q["message"], q["mistake"]])),
            "visibility": "visible",
        }
        for q in r["questions"]
    ]
    said = "\n".join(filter(None, [r["note"], LEVELS[r["isolation"]].says]))
    report = {"score": r["points"], "output": said, "tests": tests}
    return json.dumps(report, indent=1) + "\n"


def write(path: str | Path, text: str) -> None:
    """Write a file whole or not at all."""
    try:
        files.write(path, text)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}.") from None


class Journal:
    """Results as they come, one JSON line each, so that a run that stopped can go on.

    It lies beside the report and goes when the report is written. A result counts again only for
    the same file content, under the same rules (`key`); the seed of the first run goes on.
    """

    def __init__(self, report: str | Path, key: Mapping[str, Any], seed: str) -> None:
        self.path = Path(f"{report}.part")
        self.done: dict[str, Row] = {}
        self.seed, self.kept = seed, 0
        head = {"kvlab": __version__, "form": 2, **key}
        lines = self._lines()
        if lines and {k: v for k, v in lines[0].items() if k != "seed"} == head:
            self.seed = lines[0]["seed"]
            self.done = {line["sha256"]: line["row"] for line in lines[1:]}
        kept = lines if self.done else [{**head, "seed": seed}]
        self.kept = len(self.done)
        write(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def _lines(self) -> list[dict[str, Any]]:
        """What can be read; the last line may have been cut off."""
        found: list[dict[str, Any]] = []
        try:
            for line in self.path.read_text(encoding="utf-8").splitlines():
                found.append(json.loads(line))
        except (OSError, ValueError):
            pass
        return found

    def add(self, path: str | Path, r: Row) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"sha256": digest(path, r["name"]), "row": r}) + "\n")
        self.kept += 1

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


def digest(path: str | Path, name: str) -> str:
    """What tells one submission from another: its name and its content."""
    # a name may hold bytes that are no text
    found = hashlib.sha256(name.encode(errors="surrogatepass") + b"\0")
    path = Path(path)
    try:
        if path.is_symlink() or not path.is_file():  # a named pipe would be read for ever
            raise OSError
        with path.open("rb") as file:
            while piece := file.read(2**20):
                found.update(piece)
    except OSError:
        found.update(b"unreadable")
    return found.hexdigest()
