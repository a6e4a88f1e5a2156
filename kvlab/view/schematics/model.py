"""The model whole, with real shapes, and where in it the reader is."""

from __future__ import annotations

from kvlab import checks
from kvlab.config import ModelConfig
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.heads import configs, counted
from kvlab.view.schematics.sheet import MARGIN, WIDTH, Sheet, said, wrapped

# Where one can be: the box that is marked, and what there is to see.
PLACES = {
    "tokens": ("tokens", "tokens, the whole numbers that a text becomes"),
    "embedding": ("embedding", "the embedding, where a token becomes a row of numbers"),
    "block": ("block", "a block, which adds to what runs through it"),
    "attention": ("attention", "attention, where tokens meet"),
    "rope": ("attention", "rope, by which attention knows positions"),
    "mask": ("attention", "the mask, which says who may look at whom"),
    "heads": ("attention", "query heads and their libraries"),
    "mlp": ("mlp", "the MLP, which works on each token alone"),
    "cache": ("cache", "the cache, which keeps keys and values"),
    "norm": ("norm", "the last norm before the head"),
    "head": ("head", "the head, which makes logits of a row"),
    "logits": ("logits", "logits, a number for each token that might come"),
    "sampling": ("sampling", "sampling, which takes one token"),
    "loop": ("sampling", "the loop, in which each new token is read again"),
}
_LEFT, _WIDE, _NOTES = 62, 352, 440
_SHORT = {
    "tokens": 56, "embedding": 84, "attention": 76, "mlp": 44, "norm": 46, "head": 46,
    "logits": 50, "sampling": 72,
}  # fmt: skip


def whole(
    config: ModelConfig,
    here: str | None = None,
    name: str = "the model",
    *,
    small: bool = False,
    title: str | None = None,
) -> Drawing:
    """From tokens to the next token, with the shapes of a config and a mark at `here`.

    `small` draws one line of boxes, to say where a chapter stands.
    Raises: ValueError for what is no config, or a place that is none of `PLACES`.
    """
    configs(config)
    if here is not None and (not isinstance(here, str) or here not in PLACES):
        raise ValueError(f"here is {checks.shown(here)}; expected one of {', '.join(PLACES)}.")
    blocks, add = counted(config.n_layers, "block"), "adds" if config.n_layers == 1 else "add"
    shapes = (
        f"tokens become rows of {config.hidden_size:,} numbers, {blocks} with "
        f"{counted(config.n_heads, 'query head')} on {counted(config.n_kv_heads, 'library')} {add} "
        f"to them, and the head turns the last row into {config.vocab_size:,} logits, from which "
        f"the next token is taken"
    )
    name = said(name)
    alt = f"{name[:1].upper()}{name[1:]}, {config.n_params:,} parameters: {shapes}."
    if here:
        alt += f" You are here: {PLACES[here][1]}."
    if small:
        return _strip(config, here, title, alt)
    told = (
        f"{name[:1].upper()}{name[1:]} whole: tokens in, {blocks} that {add} to each token's "
        f"{config.hidden_size:,} numbers, logits out"
    )
    sheet = Sheet(title or told, alt)
    return _large(sheet, config, here)


def _large(sheet: Sheet, config: ModelConfig, here: str | None) -> Drawing:
    """Box under box; what stands to the right of each is its shape."""
    c, v, y = config.hidden_size, config.vocab_size, sheet.top
    first = y + 19
    y = _step(sheet, y, "tokens", f"whole numbers below {v:,}, one for each token", here)
    table = f"a table of {v:,} × {c:,} numbers: a row of {c:,} for each token"
    y = _step(sheet, y, "embedding", table, here)
    y = _blocks(sheet, y, config, here)
    y = _step(sheet, y, "norm", f"{c:,} numbers for each token, rescaled", here)
    whose = "the embedding's table, transposed" if config.tie_embeddings else "a table of its own"
    y = _step(sheet, y, "head", f"the last row alone: {c:,} → {v:,}, by {whose}", here)
    y = _step(sheet, y, "logits", f"{v:,} numbers, one for each token that might come next", here)
    last = _step(sheet, y, "sampling", "one of them: the likeliest, or a draw", here, last=True)
    x = _LEFT - 26
    role = "query" if here == "loop" else "rule"
    sheet.arrow((_LEFT, last - 19), (x, last - 19), (x, first), (_LEFT, first), role=role,
                width=3 if here == "loop" else 2)  # fmt: skip
    words = "The new token joins the others, and everything begins again."
    sheet.text(MARGIN + 6, last + 20, words, size=13, role="soft")
    return sheet.done(last + 36)


def _step(sheet: Sheet, y: float, place: str, note: str, here: str | None, last=False) -> float:
    """One box with its note and the arrow to the next; tells where that begins."""
    _place(sheet, _LEFT, y, _WIDE, 38, place, place, here)
    _note(sheet, y + 19, note)
    if not last:
        sheet.arrow((_LEFT + _WIDE / 2, y + 38), (_LEFT + _WIDE / 2, y + 54), width=1.5)
    return y + (38 if last else 54)


def _note(sheet: Sheet, middle: float, note: str) -> None:
    """At most two lines beside a box."""
    wide = WIDTH - MARGIN - _NOTES
    lines = wrapped(note, wide, 13)
    for i, line in enumerate(lines[:2]):
        at = middle + 5 + (i - (len(lines[:2]) - 1) / 2) * 17
        sheet.text(_NOTES, at, line, size=13, role="soft")


def _place(sheet, x, y, wide, high, place: str, words: str, here: str | None) -> None:
    """A box with words at its left and, where the reader is, a mark at its right."""
    marked = here is not None and PLACES[here][0] == place
    role = "query" if marked else "ink"
    sheet.box(x, y, wide, high, role, tint=0.16 if marked else 0.06, edge=3 if marked else 1.5)
    line = y + (high / 2 + 5 if high < 50 else 22)
    sheet.text(x + 14, line, words, bold=True)
    if marked:
        sheet.text(x + wide - 12, line, "you are here", anchor="end", size=13, bold=True)


def _blocks(sheet: Sheet, y: float, config: ModelConfig, here: str | None) -> float:
    """The stack of blocks, of which the first is drawn, and the cache beside it."""
    n, c, f = config.n_layers, config.hidden_size, config.intermediate_size
    for shift in (8, 4) if n > 1 else ():
        sheet.box(_LEFT - 12 + shift, y + shift, _WIDE + 24, 208, "rule", tint=0.04, edge=1)
    marked = here == "block"
    sheet.box(_LEFT - 12, y, _WIDE + 24, 208, "paper", tint=1, edge=0)
    sheet.box(_LEFT - 12, y, _WIDE + 24, 208, "query" if marked else "rule", tint=0.08,
              edge=3 if marked else 1.5)  # fmt: skip
    sheet.text(_LEFT + 2, y + 21, f"block, {n:,} times" if n > 1 else "block, once", bold=True)
    if marked:
        sheet.text(_LEFT + _WIDE, y + 21, "you are here", anchor="end", size=13, bold=True)
    _place(sheet, _LEFT, y + 32, _WIDE, 92, "attention", "norm, attention, add", here)
    heads = f"{counted(config.n_heads, 'head')}, {counted(config.n_kv_heads, 'library')}"
    chips = (("rope", "rope", 70), ("mask", "mask", 70), ("heads", heads, 176))
    x = _LEFT + 12.0
    for place, words, wide in chips:
        on = here == place
        sheet.labelled(x, y + 80, wide, 32, words, "query" if on else "key",
                       edge=3 if on else 1, bold=on, tint=0.12)  # fmt: skip
        x += wide + 6
    sheet.arrow((_LEFT + _WIDE / 2, y + 124), (_LEFT + _WIDE / 2, y + 140), width=1.5)
    _place(sheet, _LEFT, y + 140, _WIDE, 38, "mlp", "norm, MLP, add", here)
    each = (config.n_params - c - config.vocab_size * c * (2 - config.tie_embeddings)) // n
    sheet.text(_LEFT + 2, y + 198, f"{each:,} parameters" + (" in each" if n > 1 else ""), size=13,
               role="soft")  # fmt: skip
    _cache(sheet, y, config, here)
    _note(sheet, y + 159, f"{c:,} → {f:,} → {c:,}, each token alone")
    sheet.arrow((_LEFT + _WIDE / 2, y + 208), (_LEFT + _WIDE / 2, y + 232), width=1.5)
    return y + 232


def _cache(sheet: Sheet, y: float, config: ModelConfig, here: str | None) -> None:
    """Beside attention, which writes a key and a value there and reads all of them."""
    _place(sheet, _NOTES, y + 32, WIDTH - MARGIN - _NOTES, 92, "cache", "cache", here)
    each = (
        f"K and V, each {counted(config.n_layers, 'layer')} × "
        f"{counted(config.n_kv_heads, 'library')} × {config.head_dim:,} numbers for every token"
    )
    sheet.lines(_NOTES + 14, y + 76, each, WIDTH - MARGIN - _NOTES - 28, size=13, role="soft")
    edge = _LEFT + _WIDE
    sheet.arrow((edge, y + 64), (_NOTES, y + 64), role="key", width=1.5)
    sheet.arrow((_NOTES, y + 92), (edge, y + 92), role="value", width=1.5)


def _strip(config: ModelConfig, here: str | None, title: str | None, alt: str) -> Drawing:
    """One line of boxes, the blocks in a frame, the cache below them."""
    where = "From tokens to the next token"
    if here:
        told = f", in each of {counted(config.n_layers, 'block')}"
        inside = PLACES[here][0] in ("attention", "mlp", "cache") and config.n_layers > 1
        where = f"You are here: {PLACES[here][1]}{told if inside else ''}"
    sheet = Sheet(title or where, alt)
    y, x, marked = sheet.top + 24, float(MARGIN), here and PLACES[here][0]
    gap = (WIDTH - 2 * MARGIN - sum(_SHORT.values())) / (len(_SHORT) - 1)
    for i, (place, wide) in enumerate(_SHORT.items()):
        if place == "attention":
            _frame(sheet, x - 10, y - 22, config, gap, marked)
        on = place == marked
        words = "MLP" if place == "mlp" else place
        sheet.labelled(x, y, wide, 34, words, "query" if on else "ink", size=12, bold=on,
                       tint=0.22 if on else 0.06, edge=3 if on else 1.5)  # fmt: skip
        if i < len(_SHORT) - 1:
            sheet.arrow((x + wide, y + 17), (x + wide + gap, y + 17), width=1.5)
        x += wide + gap
    if here == "loop":
        _again(sheet, y + 34, x - gap - _SHORT["sampling"] / 2)
        return sheet.done(y + 120)
    return sheet.done(y + 94)


def _again(sheet: Sheet, y: float, last: float) -> None:
    """The way of the new token, from below the last box around the cache to the first."""
    first, low = MARGIN + _SHORT["tokens"] / 2, y + 68
    sheet.arrow((last, y), (last, low), (first, low), (first, y), role="query", width=3)
    sheet.text(last - 12, low - 9, "the new token goes in again", anchor="end", size=12)


def _frame(sheet, x: float, y: float, config: ModelConfig, gap: float, marked) -> None:
    """The blocks' frame around attention and MLP, with the cache below attention."""
    wide = _SHORT["attention"] + gap + _SHORT["mlp"] + 20
    on = marked == "block"
    sheet.box(x, y, wide, 64, "query" if on else "rule", tint=0.1, edge=3 if on else 1)
    sheet.text(x + wide / 2, y + 16, f"× {config.n_layers:,}", anchor="middle", size=12, bold=on)
    on, at = marked == "cache", x + 10 + _SHORT["attention"] / 2
    sheet.arrow((at - 10, y + 56), (at - 10, y + 80), role="key", width=1.5)
    sheet.arrow((at + 10, y + 80), (at + 10, y + 56), role="value", width=1.5)
    sheet.labelled(at - 36, y + 80, 72, 28, "cache", "query" if on else "ink", size=12, bold=on,
                   tint=0.22 if on else 0.06, edge=3 if on else 1.5)  # fmt: skip
