"""Memory as a server of many chats sees it: strips of bytes, and blocks with their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvlab import checks
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.heads import counted
from kvlab.view.schematics.sheet import MARGIN, WIDTH, Sheet, fitted, said, width_of

# what a piece of memory is, by name: its colour, how full it is drawn, its rim
KINDS = {
    "model": ("ink", 0.3, "", "the model's parameters"),
    "used": ("key", 0.5, "", "keys and values"),
    "held": ("query", 0.14, "4 3", "taken, and empty"),
    "free": ("rule", 0, "2 3", "free"),
}
_STRIP, _PER_LINE, _MOST = 26, 8, 64
_ROLES = ("key", "value", "query", "ink")

Piece = tuple[str, float, str]  # what stands in it, how much it is, one of KINDS


def strips(
    rows: Sequence[tuple[str, str, Sequence[Piece]]],
    *,
    title: str,
    says: Mapping[str, str] | None = None,
) -> Drawing:
    """Memories as strips on one scale. A row is a name, a note, and its pieces from left to right.

    A piece is (words, amount, kind): "model", "used", "held" or "free"; `says` may call the kinds
    by other names in the legend.
    Raises: ValueError for no rows, for a kind that is none, or an amount that is no size.
    """
    _check_rows(rows)
    checks.kind("title", title, str, "a text")
    names = {kind: words for kind, (*_, words) in KINDS.items()} | dict(says or {})
    most = max(sum(amount for _, amount, _ in pieces) for *_, pieces in rows)
    sheet = Sheet(title, _words(rows, names))
    y, scale = sheet.top + 4, (WIDTH - 2 * MARGIN) / most
    for name, note, pieces in rows:
        wide = sheet.text(MARGIN, y + 13, said(name), size=13, bold=True, within=330)
        sheet.text(WIDTH - MARGIN, y + 13, said(note), anchor="end", size=12.5, role="soft",
                   within=WIDTH - 2 * MARGIN - wide - 20)  # fmt: skip
        x = float(MARGIN)
        for words, amount, kind in pieces:
            role, tint, dash, _ = KINDS[kind]
            long = amount * scale
            sheet.box(x, y + 19, long, _STRIP, role, tint=tint, edge=min(1.0, long / 4), dash=dash,
                      round_=0)  # fmt: skip
            if words and width_of(said(words), 12) <= long - 6:
                sheet.text(x + long / 2, y + 36, said(words), anchor="middle", size=12)
            x += long
        y += 19 + _STRIP + 14
    seen = {kind for *_, pieces in rows for *_, kind in pieces}
    x = float(MARGIN)
    for kind, (role, tint, dash, _) in KINDS.items():
        if kind in seen:
            sheet.box(x, y + 4, 16, 16, role, tint=tint, edge=1, dash=dash, round_=0)
            x += 24 + sheet.text(x + 24, y + 17, said(names[kind]), size=12.5, within=190) + 22
    return sheet.done(y + 36)


def _check_rows(rows: object) -> None:
    checks.kind("rows", rows, (list, tuple), "rows of (name, note, pieces)")
    for row in rows if rows else [None]:
        fits = isinstance(row, tuple) and len(row) == 3 and isinstance(row[2], (list, tuple))
        if not (fits and row[2] and all(isinstance(words, str) for words in row[:2])):
            raise ValueError(f"A row is {checks.shown(row)}; expected (name, note, pieces).")
        for piece in row[2]:
            fits = isinstance(piece, tuple) and len(piece) == 3 and isinstance(piece[0], str)
            if not (fits and piece[2] in KINDS):
                raise ValueError(
                    f"A piece is {checks.shown(piece)}; expected (words, amount, kind), where the "
                    f"kind is one of {', '.join(KINDS)}."
                )
            checks.number("an amount", piece[1], checks.is_positive, "a finite number above 0")


def _words(rows: Sequence[tuple[str, str, Sequence[Piece]]], names: Mapping[str, str]) -> str:
    told = []
    for name, note, pieces in rows:
        sums = {kind: sum(a for _, a, k in pieces if k == kind) for kind in KINDS}
        parts = [f"{names[kind]} {amount:,.4g}" for kind, amount in sums.items() if amount]
        told.append(f"{name}{f' ({note})' if note else ''}: {', '.join(parts)}.")
    return " ".join(told)


def block_map(
    chats: Mapping[str, tuple[Sequence[int], Sequence[str]]],
    n_blocks: int,
    size: int,
    *,
    title: str | None = None,
) -> Drawing:
    """All blocks of a pool with the tokens that lie in them, and the table of each chat.

    `chats` has, by a chat's name, the blocks of its table in the order of its text, and the texts
    of its tokens. A block in several tables is drawn once, in a colour of its own.
    Raises: ValueError for more than 64 blocks, or tables that do not fit their tokens.
    """
    _check_map(chats, n_blocks, size)
    holders: dict[int, list[str]] = {}
    inside: dict[int, list[str]] = {}
    for name, (table, tokens) in chats.items():
        for i, block in enumerate(table):
            holders.setdefault(block, []).append(name)
            inside.setdefault(block, []).extend(
                t for t in tokens[i * size : (i + 1) * size] if len(holders[block]) == 1
            )
    roles = {name: _ROLES[i % len(_ROLES)] for i, name in enumerate(chats)}
    colours = {b: "mixture" if len(h) > 1 else roles[h[0]] for b, h in holders.items()}
    used = sum(len(tokens) for tokens in inside.values())
    shared = sum(len(h) > 1 for h in holders.values())
    sheet = Sheet(title or _title(n_blocks, size, len(holders), used, shared), _told(
        chats, holders, n_blocks, size))  # fmt: skip
    y = _pool(sheet, sheet.top + 6, n_blocks, size, holders, inside, colours)
    for name, (table, tokens) in chats.items():
        y = _table(sheet, y, name, table, len(tokens), colours)
    return sheet.done(y + 8)


def _check_map(chats: object, n_blocks: object, size: object) -> None:
    checks.kind("chats", chats, Mapping, "a table and tokens by each chat's name")
    n, each = checks.whole("n_blocks", n_blocks), checks.whole("size", size)
    if n > _MOST or each > _MOST:
        raise ValueError(f"{n} blocks of {each} slots came; expected at most {_MOST} of each.")
    for name, entry in chats.items():
        checks.kind("a chat's name", name, str, "a text")
        checks.kind(f"the entry of {checks.shown(name)}", entry, (list, tuple), "(table, tokens)")
        if len(entry) != 2 or not all(isinstance(part, (list, tuple)) for part in entry):
            raise ValueError(
                f"The entry of {checks.shown(name)} is {checks.shown(entry)}; expected two lists, "
                "(table, tokens)."
            )
        table, tokens = entry
        for token in tokens:
            checks.kind("a token", token, str, "its text")
        for block in table:
            checks.whole("a block", block, 0)
        known = set(table) <= set(range(n)) and len(set(table)) == len(table)
        if not known or len(table) != -(-len(tokens) // each):
            raise ValueError(
                f"The table of {checks.shown(name)} is {checks.shown(list(table))} for "
                f"{len(tokens)} tokens; expected one of {n} blocks for each {each} of them."
            )


def _title(n_blocks: int, size: int, n_held: int, used: int, shared: int) -> str:
    if not n_held:
        return f"All of {counted(n_blocks, 'block')} free: no chat is here"
    more = f", {shared} of them by more than one chat" if shared else ""
    return (f"{n_held} of {counted(n_blocks, 'block')} in use{more}, and {used} of "
            f"{counted(n_held * size, 'slot')} in them filled")  # fmt: skip


def _told(chats: Mapping, holders: Mapping[int, list[str]], n_blocks: int, size: int) -> str:
    told = [f"A pool of {counted(n_blocks, 'block')}, each of {counted(size, 'slot')}."]
    for name, (table, tokens) in chats.items():
        blocks = ", ".join(map(str, table)) or "none"
        told.append(f"Chat {name} has {counted(len(tokens), 'token')}; its blocks: {blocks}.")
    for block, names in holders.items():
        if len(names) > 1:
            told.append(f"Block {block} is shared by {' and '.join(names)}.")
    return " ".join(told if holders else [*told, "No chat holds a block."])


def _pool(
    sheet: Sheet, y: float, n_blocks: int, size: int, holders: Mapping[int, list[str]],
    inside: Mapping[int, list[str]], colours: Mapping[int, str],
) -> float:  # fmt: skip
    """The blocks as columns of slots, the first slot at the top."""
    pitch, cell = (WIDTH - 2 * MARGIN) / _PER_LINE, 20.0 if size <= 6 else 120.0 / size
    for start in range(0, n_blocks, _PER_LINE):
        for block in range(start, min(start + _PER_LINE, n_blocks)):
            x, wide = MARGIN + pitch * (block - start), pitch - 12
            number = sheet.text(x, y + 12, str(block), size=12, bold=True)
            names = fitted(" ".join(said(n) for n in holders.get(block, [])), wide - number - 8, 12)
            sheet.text(x + wide, y + 12, names or "free", anchor="end", size=12, role="soft")
            tokens, role = inside.get(block, []), colours.get(block, "pale")
            for i in range(size):
                top = y + 18 + cell * i
                full = i < len(tokens)
                sheet.box(x, top, wide, cell, role if full else "pale", tint=0.28 if full else 0.6,
                          edge=0, round_=0)  # fmt: skip
                if full and cell >= 16:
                    words = fitted(said(tokens[i]), wide - 8, 12)
                    sheet.text(x + wide / 2, top + cell * 0.72, words, anchor="middle", size=12)
            sheet.level((y + 18 + cell * i for i in range(1, size)), x, x + wide, width=1)
            held = block in holders
            sheet.box(x, y + 18, wide, cell * size, role if held else "rule", tint=0, edge=1.5,
                      dash="" if held else "4 3", round_=2)  # fmt: skip
        y += 18 + cell * size + 18
    return y


def _table(
    sheet: Sheet, y: float, name: str, table: Sequence[int], n_tokens: int,
    colours: Mapping[int, str],
) -> float:  # fmt: skip
    """A chat's table: its blocks in the order of its text."""
    words = f"table of {said(name)}, {counted(n_tokens, 'token')}"
    sheet.text(MARGIN, y + 17, words, size=13, within=210)
    x = MARGIN + 222.0
    for block in table:
        if x + 60 > WIDTH - MARGIN:
            sheet.text(x, y + 17, "…", size=14)
            break
        sheet.labelled(x, y, 34, 24, str(block), colours[block], bold=True)
        x += 42
    return y + 34
