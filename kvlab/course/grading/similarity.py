"""Answers that are much alike: a hint where to look, and no proof of anything.

Short answers to a clear question come out alike by themselves; so does what two people learned from
the same page. Names, comments, docstrings and layout do not count, so renaming hides nothing.
"""

from __future__ import annotations

import io
import keyword
import token
import tokenize
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from kvlab.course.exercises import exercises
from kvlab.course.grading import notebooks, tables
from kvlab.course.grading.marks import in_order
from kvlab.course.grading.roster import Roster, whose

SHORTEST = 40  # tokens: below this, answers are alike because the question leaves no choice
PUBLISHED = "the published solution"
_LAYOUT = {token.NEWLINE, token.NL, token.INDENT, token.DEDENT, token.COMMENT, token.ENDMARKER,
           token.ENCODING}  # fmt: skip


@dataclass(frozen=True)
class Alike:
    """Two answers to one question; `share` is 1 for the same code but for names and layout."""

    question: str
    one: str
    other: str
    share: float
    n_tokens: int


def shape(source: str) -> tuple[str, ...]:
    """The tokens of an answer with all names alike; () for what Python cannot read."""
    found: list[str] = []
    begins = True
    try:
        for piece in tokenize.generate_tokens(io.StringIO(source).readline):
            if piece.type in _LAYOUT:
                begins = begins or piece.type != token.COMMENT
                continue
            doc = begins and piece.type == token.STRING and piece.line.strip() == piece.string
            begins = False
            if doc or (piece.type == token.STRING and "\n" in piece.string):
                continue
            named = piece.type == token.NAME and not keyword.iskeyword(piece.string)
            found.append("name" if named else piece.string)
    except (tokenize.TokenError, SyntaxError, ValueError):
        return ()
    return tuple(found)


def alike(
    submissions: Mapping[str, Path],
    *,
    chapter: str | None = None,
    at_least: float = 0.9,
    roster: Roster | None = None,
) -> list[Alike]:
    """Pairs of answers of different students, or of one and the published solution, whose code is
    alike by at least this share; the most alike first. What cannot be read is passed over.

    Raises: ValueError for a share that is none, or where rapidfuzz is not installed.
    """
    if not 0 < at_least <= 1:
        raise ValueError(f"--at-least {at_least:g} was asked for; expected a share up to 1.")
    try:
        from rapidfuzz.distance import Indel
    except ImportError:
        raise ValueError(
            "The search for similar answers needs rapidfuzz: pip install rapidfuzz."
        ) from None
    found = []
    for number, answers in _answers(submissions, chapter, roster).items():
        for (one, a), (other, b) in combinations(answers.items(), 2):
            share = Indel.normalized_similarity(a, b, score_cutoff=at_least)
            if share >= at_least:
                found.append(Alike(number, one, other, share, min(len(a), len(b))))
    return sorted(found, key=lambda x: (-x.share, in_order(x.question), x.one, x.other))


def _answers(
    submissions: Mapping[str, Path], chapter: str | None, roster: Roster | None
) -> dict[str, dict[str, tuple[str, ...]]]:
    """By question and student: the shapes that are long enough to tell anything."""
    wanted = [e for e in exercises() if chapter in (None, e.chapter)]
    found: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for e in wanted:
        found[e.number][PUBLISHED] = shape(e.cell)
    for name, path in submissions.items():
        try:
            if path.is_symlink():
                continue
            sources, _ = notebooks.collect(
                notebooks.read(path), {e.grade_id: e.name for e in wanted}
            )
        except ValueError:
            continue
        for e in wanted:
            tokens = shape(sources.get(e.grade_id, ""))
            if tokens and notebooks.STUB not in sources[e.grade_id]:
                found[e.number][whose(name, roster).name or name] = tokens
    return {
        number: {who: t for who, t in answers.items() if len(t) >= SHORTEST}
        for number, answers in found.items()
    }


def as_text(found: list[Alike]) -> str:
    """The report for a terminal."""
    lines = [
        f"{f.share:>4.0%}  {f.question:<5} {f.one} and {f.other} ({f.n_tokens} tokens)"
        for f in found
    ]
    n = "1 pair of answers is" if len(found) == 1 else f"{len(found)} pairs of answers are"
    lines.append(
        f"{n} much alike. That is a hint where to look and no proof: "
        "short answers, and those learned from one page, come out alike by themselves."
    )
    return "\n".join(tables.printable(line) for line in lines)


def as_csv(found: list[Alike]) -> str:
    header = ["question", "one", "other", "share", "tokens"]
    lines = [[f.question, f.one, f.other, tables.number(f.share), f.n_tokens] for f in found]
    return tables.table(header, lines)
