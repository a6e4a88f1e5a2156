"""Attention in two drawings: a query meets keys, and who may look at whom."""

from __future__ import annotations

from collections.abc import Sequence

from kvlab import checks
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.sheet import MARGIN, WIDTH, Sheet, fitted, said

_MOST, _LARGEST = 12, 64  # tokens that meet; keys of a mask
_QUERY, _KEY, _WEIGHT, _VALUE, _MIXTURE, _BOX = 20, 200, 336, 510, 660, 100
_ROW, _HIGH, _REACH = 38, 28, 92


def meeting(
    tokens: Sequence[str] = ("queen", "king", "guitar", "crowd"),
    weights: Sequence[float] = (0.52, 0.0, 0.39, 0.09),
    *,
    query: str | None = None,
    title: str | None = None,
) -> Drawing:
    """A query meets a key of each token; its weights say how much of each value is taken along.

    `weights` are shares of 1, one for each of up to twelve tokens; `query` names who asks, the
    first token where it is not given.
    Raises: ValueError for weights that are no shares, or not one for each token.
    """
    names, shares = _shares(tokens, weights)
    asker = said(names[0] if query is None else query)
    first = max(range(len(names)), key=shares.__getitem__)
    told = ", ".join(f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True))
    alt = (
        f"The query of {asker} is compared with a key of each token. The weights that come out are "
        f"{told}. Each token's value, times its weight, goes into the mixture that {asker} gets."
    )
    title = title or (
        f"A query meets every key; what comes out is a mixture of the values, here mostly "
        f"{fitted(names[first], 200)}'s ({shares[first]:.0%})"
    )
    sheet = Sheet(title, alt)
    top = sheet.top + 34
    _columns(sheet, sheet.top + 8)
    middle = top + _ROW * len(names) / 2 - 5
    for i, (name, share) in enumerate(zip(names, shares, strict=True)):
        _met(sheet, top + _ROW * i, middle, name, share)
    sheet.labelled(_QUERY, middle - 18, _BOX, 36, f"{asker}?", "query", bold=True)
    sheet.labelled(_MIXTURE, middle - 18, WIDTH - MARGIN - _MIXTURE, 36, "mixture", "mixture",
                   bold=True)  # fmt: skip
    words = "The thicker a line, the larger the weight. The weights add up to 1."
    bottom = top + _ROW * len(names) + 14
    sheet.text(MARGIN, bottom, words, size=12.5, role="soft")
    return sheet.done(bottom + 16)


def _shares(tokens: object, weights: object) -> tuple[list[str], list[float]]:
    """Tokens as texts and weights as numbers, as many of each."""
    given = checks.plain(weights)
    for name, value in (("tokens", tokens), ("weights", given)):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"{name} is {checks.shown(value)}; expected a list.")
    if len(tokens) != len(given) or not 1 <= len(tokens) <= _MOST:
        raise ValueError(
            f"tokens are {len(tokens)} and weights {len(given)}; expected as many of each, "
            f"1 to {_MOST}."
        )
    shares = [
        checks.number("a weight", one, lambda x: 0 <= x <= 1, "a share from 0 to 1")
        for one in given
    ]
    if abs(sum(shares) - 1) > 0.02:
        raise ValueError(f"weights add up to {sum(shares):.3f}; expected 1, since they are shares.")
    return [said(token) for token in tokens], shares


def _columns(sheet: Sheet, y: float) -> None:
    """What stands in each column."""
    last = (WIDTH - MARGIN + _MIXTURE) / 2
    for x, words in ((_QUERY + _BOX / 2, "query"), (_KEY + _BOX / 2, "keys"),
                     (_WEIGHT + 70, "weights"), (_VALUE + _BOX / 2, "values"),
                     (last, "their sum")):  # fmt: skip
        sheet.text(x, y, words, anchor="middle", size=13, role="soft")


def _met(sheet: Sheet, y: float, middle: float, name: str, share: float) -> None:
    """One token: its key, its weight and its value, and the lines that join them."""
    line, thick = y + _HIGH / 2, 0.8 + 9 * share
    sheet.line((_QUERY + _BOX, middle), (_KEY, line), role="query", width=thick)
    sheet.labelled(_KEY, y, _BOX, _HIGH, name, "key")
    sheet.box(
        _WEIGHT, y + 5, max(1, _REACH * share), _HIGH - 10, "ink", tint=0.55, edge=0, round_=1
    )
    sheet.text(_WEIGHT + _REACH * share + 6, line + 5, f"{share:.1%}", size=13)
    sheet.labelled(_VALUE, y, _BOX, _HIGH, name, "value", tint=0.04 + 0.4 * share)
    sheet.line((_VALUE + _BOX, line), (_MIXTURE, middle), role="value", width=thick)


def mask(n_new: int, n_past: int = 0, *, title: str | None = None) -> Drawing:
    """Who may look at whom: a row for each new token's query, a column for each key.

    With nothing in the past it is a triangle, otherwise a rectangle that ends in one.
    Raises: ValueError for more than 64 keys, or numbers that are no counts.
    """
    n_new, n_past = checks.whole("n_new", n_new), checks.whole("n_past", n_past, 0)
    n_keys = n_new + n_past
    if n_keys > _LARGEST:
        raise ValueError(
            f"n_new and n_past are {n_keys} keys; a mask of up to {_LARGEST} is drawn."
        )
    alt = (
        f"A grid of {n_new} rows, the queries at positions {n_past} to {n_keys - 1}, and {n_keys} "
        f"columns, the keys at positions 0 to {n_keys - 1}. In each row the keys from 0 to the "
        "query's own position are filled in: it may look there. Those to the right are empty."
    )
    sheet = Sheet(title or _mask_title(n_new, n_past), alt)
    cell = min(34, 440 / n_keys)
    left, top = 86, sheet.top + 44
    sheet.text(left, sheet.top + 8, "keys, by position", size=13, role="soft")
    sheet.text(MARGIN, top - 8, "queries", size=13, role="soft")
    _grid(sheet, left, top, cell, n_new, n_past)
    every = max(1, round(24 / cell))
    for j in range(0, n_keys, every):
        sheet.text(left + cell * (j + 0.5), top - 8, str(j), anchor="middle", size=12)
    for i in range(0, n_new, every):
        line = top + cell * (i + 0.5) + 4.5
        sheet.text(left - 8, line, str(n_past + i), anchor="end", size=12)
    bottom = _mask_legend(sheet, left + cell * n_keys + 28, top + 4, n_past)
    return sheet.done(max(bottom, top + cell * n_new + 18))


def _mask_title(n_new: int, n_past: int) -> str:
    if n_new == 1:
        return "A single new token may look at everything: there is nothing left to forbid"
    if not n_past:
        return ("Each token looks at itself and at what came before, never at what comes after: "
                "a triangle")  # fmt: skip
    earlier = "a single earlier one" if n_past == 1 else f"{n_past} earlier ones"
    return (
        f"{n_new} new tokens after {earlier}: a rectangle. All of the past is open; "
        "only among the new ones is there a triangle"
    )


def _grid(sheet: Sheet, left: float, top: float, cell: float, n_new: int, n_past: int) -> None:
    """What each row may look at, in one piece, with lines between the cells on top."""
    n_keys = n_new + n_past
    sheet.box(left, top, cell * n_keys, cell * n_new, "pale", tint=1, edge=0, round_=0)
    sheet.box(left - 1, top - 1, cell * n_keys + 2, cell * n_new + 2, "rule", tint=0, edge=1,
              round_=1)  # fmt: skip
    if n_past:
        sheet.box(left, top, cell * n_past, cell * n_new, "value", tint=0.5, edge=0, round_=0)
    for i in range(n_new):
        sheet.box(left + cell * n_past, top + cell * i, cell * (i + 1), cell, "key", tint=0.65,
                  edge=0, round_=0)  # fmt: skip
    right, bottom = left + cell * n_keys, top + cell * n_new
    sheet.level((top + cell * i for i in range(n_new + 1)), left, right)
    sheet.upright((left + cell * j for j in range(n_keys + 1)), top, bottom)


def _mask_legend(sheet: Sheet, x: float, y: float, n_past: int) -> float:
    """What the three kinds of cells are, beside the grid."""
    others = "the new ones" if n_past else "those"
    kinds = [("key", 0.65, f"may look: its own token and {others} before it"),
             ("pale", 1, "may not look: what comes later")]  # fmt: skip
    if n_past:
        kinds.insert(0, ("value", 0.5, "may look: tokens of earlier calls, kept in a cache"))
    for role, tint, words in kinds:
        sheet.box(x, y, 16, 16, role, tint=tint, edge=0, round_=0)
        y = sheet.lines(x + 24, y + 13, words, WIDTH - MARGIN - x - 24, size=12.5) - 2
    return y
