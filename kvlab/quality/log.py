"""The log beside a report: a record is written down at once, and a second start goes on from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvlab import files

Record = dict[str, Any]
Key = tuple[str, str, int, str, float | None]  # task, question, seed, method, budget


@contextmanager
def journal(
    out: str | Path | None, settings: dict, what: str = "a prune-report"
) -> Iterator[tuple[dict[Key, Record], Callable]]:
    """What was measured before, and a function that writes down one more record at once.

    Raises: ValueError when the file is of other settings, or no log of ours.
    """
    if out is None or not files.is_ordinary(out):  # no file lies beside a device or a pipe
        yield {}, lambda key, record: None
        return
    path = Path(out).with_suffix(".jsonl")
    done = _read_log(path, settings, what)
    with path.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps({"settings": settings}) + "\n")

        def write(key: Key, record: Record) -> None:
            if key not in done:
                file.write(json.dumps({"key": key, **record}) + "\n")
                file.flush()

        yield done, write


def _read_log(path: Path, settings: dict, what: str) -> dict[Key, Record]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # a run was ended while it wrote a line
        files.write(path, whole)
    if not whole:
        return {}
    try:
        head, *lines = [json.loads(line) for line in whole.splitlines()]
        before = head["settings"]
        done = {tuple(line.pop("key")): line for line in lines}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not the log of {what}; give --out another name.") from None
    differs = [
        f"{k} was {before.get(k)!r} and is {settings[k]!r}"
        for k in settings
        if before.get(k) != settings[k]
    ]
    if differs:
        raise ValueError(
            f"{path} was begun with other settings: {'; '.join(differs)}. Give --out another name, "
            "or delete that file."
        )
    return done
