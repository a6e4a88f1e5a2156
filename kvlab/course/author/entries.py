"""What an exercise's cases hold, told from cases that are drawn: for a teacher who writes one."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvlab.course.author.compare import AXES, axes_of, brief
from kvlab.course.author.spec import Exercise

DRAWN = 24


@dataclass(frozen=True)
class Entry:
    """One entry of a case: its name, what kinds of value it has, and one of them."""

    name: str
    kinds: tuple[str, ...]
    values: Sequence[Any]

    @property
    def meaning(self) -> str:
        """What can be told: a tensor's axes and one shape, a number's range, one value."""
        first = self.values[0]
        if isinstance(first, torch.Tensor):
            letters = axes_of(self.name, first.dim())
            axes = " × ".join(AXES[a] for a in letters)
            return f"{axes}{', ' if axes else ''}for example {tuple(first.shape)}"
        if all(type(v) in (int, float) for v in self.values):
            least, most = min(self.values), max(self.values)
            return f"{brief(least)} to {brief(most)}" if least != most else brief(least)
        return f"for example {brief(first)}"


def kind(value: Any) -> str:
    """What kind of value an entry is: "int", "list", or a tensor's dtype."""
    return str(value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__


def entries(exercise: Exercise) -> list[Entry]:
    """The entries of an exercise's cases, in order; none for a quiz.

    Each is there in every case, so that a case of one's own needs them all.
    """
    drawn = [exercise.cases(random.Random(f"entries {i}")) for i in range(DRAWN)]
    found = []
    for name in drawn[0]:
        values = [case[name] for case in drawn if name in case]
        found.append(Entry(name, tuple(sorted({kind(v) for v in values})), values))
    return found


def fault(known: Sequence[Entry], case: Any) -> str:
    """Why something is no case with these entries, in a sentence, or ""."""
    if not isinstance(case, Mapping):
        return f"{brief(case)} came; expected a dict with the entries {_names(known)}."
    expected = {entry.name for entry in known}
    lacking = [entry.name for entry in known if entry.name not in case]
    strange = [str(name) for name in case if name not in expected]
    if lacking or strange:
        parts = ["lacks " + ", ".join(lacking)] if lacking else []
        parts += ["has besides " + ", ".join(strange)] if strange else []
        came = ", ".join(map(str, case)) or "none"
        return f"the entries {came} came; expected {_names(known)} ({'; '.join(parts)})."
    for entry in known:
        came = kind(case[entry.name])
        if came not in entry.kinds and not (came == "int" and "float" in entry.kinds):
            return f"{entry.name} is of type {came}; expected {' or '.join(entry.kinds)}."
        value, like = case[entry.name], entry.values[0]
        if isinstance(value, torch.Tensor) and value.dim() != like.dim():
            return f"{entry.name} has {value.dim()} axes; expected {like.dim()}: {entry.meaning}."
    return ""


def _names(known: Sequence[Entry]) -> str:
    return ", ".join(entry.name for entry in known) or "of a quiz, which are none"


def as_text(exercise: Exercise) -> str:
    """An exercise's entries as lines, for `kvlab cases`."""
    lines = [f"{exercise.number} {exercise.title}"]
    about = " ".join((exercise.cases.__doc__ or "").split())
    if about:
        lines.append(f"  {about}")
    known = entries(exercise)
    if not known:
        lines.append("  No entries: this question is the same each time.")
    rows = [(e.name, " or ".join(e.kinds), e.meaning) for e in known]
    wide = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    for name, kinds, meaning in rows:
        lines.append(f"  {name:<{wide[0]}}  {kinds:<{wide[1]}}  {meaning}".rstrip())
    return "\n".join(lines)


def as_data(exercise: Exercise) -> dict[str, Any]:
    """The same for programs."""
    found = [{"name": e.name, "kinds": e.kinds, "meaning": e.meaning} for e in entries(exercise)]
    return {"exercise": exercise.number, "title": exercise.title, "entries": found}
