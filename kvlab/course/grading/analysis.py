"""What a class found hard: rates per question, named mistakes, wrong outcomes without a name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvlab.course.grading.marks import Klass, in_order
from kvlab.course.grading.names import padded, width
from kvlab.course.grading.tables import printable

FEW = 5  # names and messages that are shown of each kind


@dataclass(frozen=True)
class Group:
    """Wrong answers that went the same way, with one message of theirs."""

    students: tuple[str, ...]
    example: str


@dataclass(frozen=True)
class Item:
    """One question in a class. `rest` is how passing it goes with the points of all others, from
    -1 to 1; None where everybody or nobody passed."""

    number: str
    title: str
    states: Mapping[str, int]
    mistakes: Mapping[str, int]
    unnamed: tuple[Group, ...]
    rest: float | None

    @property
    def tried(self) -> int:
        return sum(self.states.values())

    @property
    def rate(self) -> float:
        return self.states.get("passed", 0) / self.tried if self.tried else 0.0


def items(klass: Klass) -> list[Item]:
    """Every question of the class, in order; students who handed nothing in are left out."""
    found: dict[str, list[tuple[str, dict[str, Any], float]]] = defaultdict(list)
    for s in klass.students:
        total = sum(q["points"] for c in s.chapters.values() for q in c.questions)
        for chapter in s.chapters.values():
            for q in chapter.questions:
                found[q["number"]].append((s.name, q, total - q["points"]))
    return [_item(number, found[number]) for number in sorted(found, key=in_order)]


def _item(number: str, answers: list[tuple[str, dict[str, Any], float]]) -> Item:
    mistakes: Counter[str] = Counter()
    alike: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, q, _ in answers:
        if q["state"] != "failed":
            continue
        if q.get("mistake"):
            mistakes[q["mistake"]] += 1
        else:
            alike[signature(q["message"])].append((name, q["message"]))
    groups = [Group(tuple(n for n, _ in some), some[0][1]) for some in alike.values()]
    groups.sort(key=lambda g: -len(g.students))
    return Item(
        number,
        answers[0][1]["title"],
        dict(Counter(q["state"] for _, q, _ in answers)),
        dict(mistakes.most_common()),
        tuple(groups),
        _together([(q["state"] == "passed", rest) for _, q, rest in answers]),
    )


def signature(message: str) -> str:
    """What two messages share that tell of one mistake on two random cases.

    The case, numbers and places in the code differ; the law and the kind of fault do not.
    """
    text = re.sub(r" does not hold on .*", "", message, count=1)
    text = re.sub(r"\(line \d+.*", "", text)
    text = re.sub(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", "#", text)
    return re.sub(r"#(?:[, ]+#)+", "#", text)


def _together(pairs: list[tuple[bool, float]]) -> float | None:
    """The correlation of passing with the other points."""
    n = len(pairs)
    right = sum(p for p, _ in pairs) / n
    mean = sum(x for _, x in pairs) / n
    spread = (sum((x - mean) ** 2 for _, x in pairs) / n) ** 0.5
    if right in (0, 1) or spread == 0:
        return None
    both = sum((p - right) * (x - mean) for p, x in pairs) / n
    return both / spread / (right * (1 - right)) ** 0.5


def as_text(klass: Klass) -> str:
    """The analysis for a terminal."""
    found = items(klass)
    if not found:
        return "No question was graded."
    columns = max(width(i.title) for i in found)
    lines = [f"{'':6}{padded('', columns)}  passed  failed  not answered  other  with the rest"]
    for i in found:
        passed, failed = i.states.get("passed", 0), i.states.get("failed", 0)
        empty = i.states.get("not answered", 0)
        rest = "" if i.rest is None else f"{i.rest:+.2f}"
        counts = (
            f"{passed:>6}{failed:>8}{empty:>14}{i.tried - passed - failed - empty:>7}{rest:>15}"
        )
        lines.append(f"{i.number:<6}{padded(i.title, columns)}  {counts}".rstrip())
    for i in found:
        if i.mistakes or i.unnamed:
            lines += ["", f"{i.number} {i.title}"]
        for says, n in list(i.mistakes.items())[:FEW]:
            lines.append(f"  {n} × {says}")
        for group in i.unnamed[:FEW]:
            lines.append(f"  {len(group.students)} × without a name: {some_names(group)}")
            lines += [f"      {line}" for line in group.example.splitlines()]
    return "\n".join(printable(line) for line in lines)


def some_names(group: Group) -> str:
    """The first of a group's students, and how many more."""
    more = len(group.students) - FEW
    return ", ".join(group.students[:FEW]) + (f" and {more} more" if more > 0 else "")
