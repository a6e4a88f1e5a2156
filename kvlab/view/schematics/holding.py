"""The same keys held in four ways: each number a box, each row with the address it begins at."""

from __future__ import annotations

from collections.abc import Sequence

from kvlab import checks
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.heads import counted
from kvlab.view.schematics.sheet import MARGIN, WIDTH, Sheet, width_of

_WIDTH_OF_ROW, _MOST_ROWS, _MOST_KEPT = 8, 8, 4  # a row of 8 has one byte of marks
_PANEL, _GAP, _LEFT, _CELL, _HIGH, _BIT = 348, 24, 34, 36, 23, 14

Rows = Sequence[Sequence[float]]


def four_ways(
    rows: Rows,
    n_kept: int,
    keep: Sequence[bool],
    *,
    bytes_per_number: int = 2,
    title: str | None = None,
) -> Drawing:
    """Rows of 8 numbers as they lie in memory: dense, with zeros, compacted, packed.

    With zeros and packed, each row keeps its `n_kept` largest numbers by size, of equals the first;
    compacted, the rows stay that `keep` is true for. Numbers are drawn with one decimal.
    Raises: ValueError for rows of another width, more than 8 of them, more than 4 kept, or a `keep`
    of another length.
    """
    rows = _checked(rows)
    n = _at_most_four(n_kept)
    size = checks.whole("bytes_per_number", bytes_per_number)
    stay = _those_that_stay(keep, len(rows))
    kept = [_largest(row, n) for row in rows]
    row = _WIDTH_OF_ROW * size
    sizes = (len(rows) * row, len(rows) * row, len(stay) * row, len(rows) * (n * size + 1))
    sheet = Sheet(title or _title(sizes), _words(rows, kept, stay, sizes, size))
    says = (
        f"Row t begins at byte {row} × t.",
        f"A zero takes its {counted(size, 'byte')}, and is read like the rest.",
        "The rows that stay lie next to each other.",
        f"Numbers from {n * size} × t; marks, bit 0 first, in byte t.",
    )
    every, high = range(len(rows)), 46 + _HIGH * len(rows)
    for i, name in enumerate(("dense", "with zeros", "compacted", "packed")):
        x, y = MARGIN + (i % 2) * (_PANEL + _GAP), sheet.top + 2 + (i // 2) * (high + 18)
        _panel(sheet, x, y, name, says[i], sizes[i], sizes[0])
        if name == "packed":
            _packed(sheet, x, y + 40, rows, kept, size)
        else:
            tokens, zeros = stay if name == "compacted" else every, name == "with zeros"
            _whole_rows(sheet, x, y + 40, rows, tokens, kept if zeros else None, row)
    return sheet.done(_foot(sheet, sheet.top + 2 * high + 40))


def _at_most_four(n_kept: object) -> int:
    n = checks.whole("n_kept", n_kept)
    if n > _MOST_KEPT:
        raise ValueError(f"n_kept is {n}; expected at most {_MOST_KEPT} of {_WIDTH_OF_ROW}.")
    return n


def _checked(rows: object) -> list[list[float]]:
    checks.kind("rows", rows, (list, tuple), "rows of 8 numbers")
    fits = all(isinstance(row, (list, tuple)) and len(row) == _WIDTH_OF_ROW for row in rows)
    if not fits or not 1 <= len(rows) <= _MOST_ROWS:
        raise ValueError(
            f"rows is {checks.shown(rows)}; expected 1 to {_MOST_ROWS} rows of {_WIDTH_OF_ROW} "
            "numbers, so that one byte marks a row."
        )
    for row in rows:
        for x in row:
            checks.number("a number", x, lambda x: abs(x) < 100, "a number between -100 and 100")
    return [list(map(float, row)) for row in rows]


def _those_that_stay(keep: object, n_rows: int) -> list[int]:
    checks.kind("keep", keep, (list, tuple), "one boolean a row")
    if len(keep) != n_rows or not all(isinstance(k, bool) for k in keep) or not any(keep):
        raise ValueError(
            f"keep is {checks.shown(keep)} for {counted(n_rows, 'row')}; expected one boolean for "
            "each, and at least one that is true."
        )
    return [t for t, k in enumerate(keep) if k]


def _largest(row: Sequence[float], n: int) -> list[int]:
    return sorted(sorted(range(len(row)), key=lambda j: -abs(row[j]))[:n])


def _said(x: float) -> str:
    return f"{x:.1f}".replace("-0.0", "0.0").replace("-", "−")


def _title(sizes: Sequence[int]) -> str:
    dense, zeros, few, packed = sizes
    return (
        f"{dense:,} bytes of keys: {zeros:,} with zeros in them, {few:,} compacted, "
        f"{packed:,} packed"
    )


def _words(
    rows: Rows, kept: Sequence[Sequence[int]], stay: Sequence[int], sizes: Sequence[int], size: int
) -> str:
    n = len(kept[0])
    tokens = " and ".join(map(str, stay))
    return (
        f"{counted(len(rows), 'row')} of {_WIDTH_OF_ROW} numbers, {counted(size, 'byte')} each, "
        f"held in four ways. Dense: {sizes[0]:,} bytes. With zeros: each row keeps {n} numbers "
        f"where they stood, the others are zeros, {sizes[1]:,} bytes. Compacted: only the rows of "
        f"tokens {tokens} are left, next to each other, {sizes[2]:,} bytes. Packed: {n} numbers a "
        f"row, one after the other, and a byte of marks a row, {sizes[3]:,} bytes. Row 0 keeps the "
        f"places {', '.join(map(str, kept[0]))}."
    )


def _foot(sheet: Sheet, y: float) -> float:
    words = (
        "Left of a row stands the address of its first byte, counted from where the tensor begins; "
        "right of it, the token that it belongs to."
    )
    return sheet.lines(MARGIN, y, words, WIDTH - 2 * MARGIN, size=12.5, role="soft")


def _panel(
    sheet: Sheet, x: float, y: float, name: str, says: str, n_bytes: int, dense: int
) -> None:
    sheet.text(x, y + 13, name, size=14, bold=True)
    share = f"{n_bytes:,} bytes, {n_bytes / dense:.0%}"
    sheet.text(x + _PANEL, y + 13, share, anchor="end", size=13, bold=True)
    sheet.text(x, y + 31, says, size=12, role="soft", within=_PANEL)


def _address(sheet: Sheet, x: float, y: float, at: int) -> None:
    sheet.text(x, y + 16, f"{at:,}", anchor="end", size=11.5, role="soft")


def _number(sheet: Sheet, x: float, y: float, words: str, full: bool) -> None:
    sheet.box(x, y, _CELL, _HIGH, "key" if full else "pale", tint=0.28 if full else 0.6, edge=0,
              round_=0)  # fmt: skip
    size = 12 if width_of(words, 12) <= _CELL else 11
    sheet.text(x + _CELL / 2, y + 16, words, anchor="middle", size=size,
               role="ink" if full else "soft")  # fmt: skip


def _frame(sheet: Sheet, x: float, y: float, cells: int, wide: float, rows: int) -> None:
    """Lines between boxes, and the rim of the piece of memory."""
    sheet.upright((x + wide * j for j in range(1, cells)), y, y + _HIGH * rows, width=1)
    sheet.level((y + _HIGH * t for t in range(1, rows)), x, x + wide * cells, width=1)
    sheet.box(x, y, wide * cells, _HIGH * rows, "key", tint=0, edge=1.5, round_=2)


def _whole_rows(
    sheet: Sheet, x: float, y: float, rows: Rows, tokens: Sequence[int],
    kept: Sequence[Sequence[int]] | None, row: int,
) -> None:  # fmt: skip
    """Whole rows one after the other, with zeros where a number was dropped."""
    left = x + _LEFT
    for i, t in enumerate(tokens):
        top = y + _HIGH * i
        _address(sheet, left - 5, top, i * row)
        for j, number in enumerate(rows[t]):
            full = kept is None or j in kept[t]
            _number(sheet, left + _CELL * j, top, _said(number) if full else "0", full)
        sheet.text(x + _PANEL, top + 16, str(t), anchor="end", size=11.5, role="soft")
    _frame(sheet, left, y, _WIDTH_OF_ROW, _CELL, len(tokens))


def _packed(
    sheet: Sheet, x: float, y: float, rows: Rows, kept: Sequence[Sequence[int]], size: int
) -> None:
    """The numbers that stay in one piece of memory, a byte of marks for each row in another."""
    n, left = len(kept[0]), x + _LEFT
    marks = x + _PANEL - 20 - _BIT * _WIDTH_OF_ROW
    for t, places in enumerate(kept):
        top = y + _HIGH * t
        _address(sheet, left - 5, top, t * n * size)
        for i, j in enumerate(places):
            _number(sheet, left + _CELL * i, top, _said(rows[t][j]), True)
        _address(sheet, marks - 5, top, t)
        for j in range(_WIDTH_OF_ROW):
            full = j in places
            sheet.box(marks + _BIT * j, top, _BIT, _HIGH, "value" if full else "pale",
                      tint=0.4 if full else 0.6, edge=0, round_=0)  # fmt: skip
            sheet.text(marks + _BIT * (j + 0.5), top + 16, str(int(full)), anchor="middle", size=11,
                       role="ink" if full else "soft")  # fmt: skip
        sheet.text(x + _PANEL, top + 16, str(t), anchor="end", size=11.5, role="soft")
    _frame(sheet, left, y, n, _CELL, len(rows))
    _frame(sheet, marks, y, _WIDTH_OF_ROW, _BIT, len(rows))
