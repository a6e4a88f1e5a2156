"""Guesses that are checked in one call: what goes in, what the model says, what is kept."""

from __future__ import annotations

from collections.abc import Sequence

from kvlab import checks
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.heads import counted
from kvlab.view.schematics.sheet import MARGIN, WIDTH, Sheet, said

_LEFT, _TALL, _MOST = 150, 30, 8


def guesses(
    newest: str, guessed: Sequence[str], says: Sequence[str], *, title: str | None = None
) -> Drawing:
    """One call with the newest token and some guesses, and what the model says after each.

    A guess is right if it is what the model says one place before it. The right ones are kept up
    to the first that is wrong, and one word of the model's own after them.
    Raises: ValueError for more than 8 guesses, or for another number of words than one more.
    """
    _check(newest, guessed, says)
    hits = [g == s for g, s in zip(guessed, says, strict=False)]
    right = hits.index(False) if False in hits else len(hits)
    came = counted(right + 1, "token")
    sheet = Sheet(title or (
        f"Of {_guesses(len(guessed))} {right} can be used, and one call gives {came}"
    ), _words(newest, guessed, says, right))  # fmt: skip
    top, pitch = sheet.top + 16, (WIDTH - MARGIN - _LEFT) / (len(guessed) + 1)
    below = top + 92
    sheet.text(_LEFT - 14, top + 20, "goes in", anchor="end", size=13, role="soft")
    sheet.text(_LEFT - 14, below + 20, "the model says", anchor="end", size=13, role="soft")
    for i, (word, answer) in enumerate(zip([newest, *guessed], says, strict=True)):
        x, wide, used = _LEFT + pitch * i, pitch - 18, i <= right
        role = "ink" if i == 0 else ("key" if used else "query")
        sheet.labelled(x, top, wide, _TALL, said(word), role, dash="" if used else "4 3")
        sheet.arrow((x + wide / 2, top + _TALL + 3), (x + wide / 2, below - 3),
                    role="ink" if used else "rule", width=1.5)  # fmt: skip
        own = "value" if i == right else ("key" if used else "rule")
        sheet.labelled(x, below, wide, _TALL, said(answer), own, bold=i == right,
                       dash="" if used else "4 3")  # fmt: skip
        if i < len(guessed):
            _compared(sheet, x + wide / 2, x + pitch + wide / 2, top + _TALL, below, i, right)
    return sheet.done(_legend(sheet, below + 66, len(guessed), right))


def _check(newest: object, guessed: object, says: object) -> None:
    """Refuse what is no call with guesses."""
    checks.kind("newest", newest, str, "a token's text")
    for name, words in (("guessed", guessed), ("says", says)):
        checks.kind(name, words, (list, tuple), "a list of tokens' texts")
        for word in words:
            checks.kind(f"a token of {name}", word, str, "its text")
    if len(guessed) > _MOST or len(says) != len(guessed) + 1:
        raise ValueError(
            f"{len(guessed)} guesses and {len(says)} words of the model came; expected at most "
            f"{_MOST} guesses, and one word more than there are guesses."
        )


def _guesses(n: int) -> str:
    return "1 guess" if n == 1 else f"{n} guesses"


def _compared(
    sheet: Sheet, x0: float, x1: float, above: float, below: float, i: int, right: int
) -> None:
    """A dotted line from the model's word to the guess that it is held against."""
    if i <= right:
        sheet.line((x0 + 12, below - 4), (x1 - 12, above + 4), role="soft", width=1.2, dash="2 3")
        sign = "=" if i < right else "≠"
        sheet.text((x0 + x1) / 2 + 12, (above + below) / 2 + 12, sign, anchor="middle", size=15,
                   bold=True)  # fmt: skip


def _legend(sheet: Sheet, y: float, n_guesses: int, right: int) -> float:
    x = float(MARGIN)
    for role, words in (
        ("key", "right, and kept"),
        ("value", "comes for nothing"),
        ("query", "not used, and forgotten again"),
    ):
        if role != "query" or right < n_guesses:
            sheet.box(x, y, 16, 16, role, edge=1, round_=0)
            x += 24 + sheet.text(x + 24, y + 13, words, size=12.5) + 26
    return y + 36


def _words(newest: str, guessed: Sequence[str], says: Sequence[str], right: int) -> str:
    return (
        f"One call takes in {newest.strip()!r} and "
        f"{_guesses(len(guessed))}: {', '.join(map(repr, guessed))}. The model says "
        f"{', '.join(map(repr, says))}. {_guesses(right)} can be kept, and then "
        f"comes {says[right].strip()!r}, which is the model's own."
    )
