"""One block, with the stream that runs through it."""

from __future__ import annotations

from kvlab.config import ModelConfig
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.heads import configs, counted
from kvlab.view.schematics.sheet import MARGIN, Sheet

_STREAM, _NORM, _IN, _MIDDLE, _OUT, _WIDE, _HIGH = 46, 92, 194, 400, 600, 140, 58
_TITLE = (
    "A block only ever adds to the stream: attention brings what other tokens know, the MLP works "
    "on each token alone"
)


def block(config: ModelConfig, *, title: str | None = None) -> Drawing:
    """Norm, attention, add, norm, MLP, add, each with the shapes that the config gives it.

    Raises: ValueError for what is no config.
    """
    configs(config)
    c = config.hidden_size
    sheet = Sheet(title or _TITLE, _said(config))
    top = sheet.top
    sheet.text(MARGIN, top + 8, f"the stream: {c:,} numbers for each token", size=13, role="soft")
    added = _attention(sheet, top + 18, config)
    y = _mlp(sheet, added + 30, config)
    sheet.arrow((_STREAM, top + 16), (_STREAM, y + 36), role="mixture", width=5)
    for at in (added, y):
        sheet.dot(_STREAM, at, 11, "paper")
        sheet.dot(_STREAM, at, 11, "mixture", tint=0.25)
        sheet.line((_STREAM - 6, at), (_STREAM + 6, at))
        sheet.line((_STREAM, at - 6), (_STREAM, at + 6))
    after = f"the stream again: {c:,} numbers, for the next block to add to"
    sheet.text(_STREAM + 20, y + 36, after, size=13, role="soft")
    return sheet.done(y + 52)


def _said(config: ModelConfig) -> str:
    """The drawing in words."""
    c, f, d = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.n_heads * d, config.n_kv_heads * d
    return (
        f"A stream of {c:,} numbers per token runs from top to bottom. Attention takes a normed "
        f"copy of it through q_proj ({c:,} to {q:,}, {counted(config.n_heads, 'head')} of {d:,}), "
        f"k_proj and v_proj ({c:,} to {kv:,} each, {counted(config.n_kv_heads, 'head')} of {d:,}), "
        f"lets each head look back, and o_proj ({q:,} to {c:,}) is added to the stream. Then the "
        f"MLP takes a normed copy through gate_proj and up_proj ({c:,} to {f:,}), multiplies the "
        f"two, and down_proj ({f:,} to {c:,}) is added to the stream."
    )


def _attention(sheet: Sheet, y: float, config: ModelConfig) -> float:
    """The first half; tells where it is added."""
    c, d, h, g = config.hidden_size, config.head_dim, config.n_heads, config.n_kv_heads
    sheet.text(_NORM, y + 16, "Attention: the one place where tokens meet", bold=True)
    y += 28
    boxes = [
        ("q_proj", f"{c:,} → {h * d:,}", f"{counted(h, 'head')} of {d:,}", "query"),
        ("k_proj", f"{c:,} → {g * d:,}", f"{counted(g, 'head')} of {d:,}", "key"),
        ("v_proj", f"{c:,} → {g * d:,}", f"{counted(g, 'head')} of {d:,}", "value"),
    ]
    middle = y + (3 * _HIGH + 16) / 2
    _normed(sheet, middle)
    for i, (*words, role) in enumerate(boxes):
        top = y + i * (_HIGH + 8)
        _bend(sheet, _NORM + 74, middle, _IN, top + _HIGH / 2)
        _matrix(sheet, _IN, top, _HIGH, words, role)
        _bend(sheet, _IN + _WIDE, top + _HIGH / 2, _MIDDLE, top + _HIGH / 2, role)
    sheet.box(_MIDDLE, y, 160, 3 * _HIGH + 16, "ink", tint=0.06)
    turned = ["queries and keys", "are normed and", "turned (rope)"] if config.qk_norm else [
        "queries and keys", "are turned (rope)"]  # fmt: skip
    told = [
        *turned,
        "",
        "each head weighs",
        "the keys up to",
        "its own token and",
        "mixes their values",
    ]
    for i, line in enumerate(told):
        if line:
            at = middle + (i - (len(told) - 1) / 2) * 18 + 5
            sheet.text(_MIDDLE + 80, at, line, anchor="middle", size=13)
    _bend(sheet, _MIDDLE + 160, middle, _OUT, middle)
    words = ["o_proj", f"{h * d:,} → {c:,}", "mixes the heads"]
    _matrix(sheet, _OUT, middle - 29, _HIGH, words, "ink")
    return _back(sheet, middle + 29, y + 3 * _HIGH + 16)


def _mlp(sheet: Sheet, y: float, config: ModelConfig) -> float:
    """The second half; tells where it is added."""
    c, f = config.hidden_size, config.intermediate_size
    sheet.text(_NORM, y + 16, "MLP: each token by itself", bold=True)
    y += 28
    middle = y + 53
    _normed(sheet, middle)
    for i, name in enumerate(("gate_proj", "up_proj")):
        top = y + i * 58
        _bend(sheet, _NORM + 74, middle, _IN, top + 24)
        _matrix(sheet, _IN, top, 48, [name, f"{c:,} → {f:,}"], "ink")
        _bend(sheet, _IN + _WIDE, top + 24, _MIDDLE, top + 24)
    sheet.box(_MIDDLE, y, 160, 106, "ink", tint=0.06)
    for i, line in enumerate(("silu(gate) × up,", "number by number:", f"{f:,} of them")):
        sheet.text(_MIDDLE + 80, middle + (i - 1) * 18 + 5, line, anchor="middle", size=13)
    _bend(sheet, _MIDDLE + 160, middle, _OUT, middle)
    _matrix(sheet, _OUT, middle - 24, 48, ["down_proj", f"{f:,} → {c:,}"], "ink")
    return _back(sheet, middle + 24, y + 106)


def _normed(sheet: Sheet, y: float) -> None:
    """The copy that leaves the stream, through a norm."""
    sheet.arrow((_STREAM, y), (_NORM, y), role="mixture")
    sheet.labelled(_NORM, y - 18, 74, 36, "norm")


def _matrix(sheet: Sheet, x: float, y: float, high: float, words: list[str], role: str) -> None:
    """A box with the name of a matrix and what goes in and comes out."""
    sheet.box(x, y, _WIDE, high, role, tint=0.16 if role != "ink" else 0.06)
    for i, line in enumerate(words):
        sheet.text(x + _WIDE / 2, y + 18 + i * 16, line, anchor="middle", size=13, bold=not i,
                   within=_WIDE - 4)  # fmt: skip


def _bend(sheet: Sheet, x0: float, y0: float, x1: float, y1: float, role: str = "ink") -> None:
    """An arrow that leaves and comes in level."""
    middle = (x0 + x1) / 2
    points = [(x0, y0), (middle, y0), (middle, y1), (x1, y1)] if y0 != y1 else [(x0, y0), (x1, y1)]
    sheet.arrow(*points, role=role, width=1.5)


def _back(sheet: Sheet, start: float, bottom: float) -> float:
    """From the last matrix down and back to the stream; tells where."""
    y, x = bottom + 26, _OUT + _WIDE / 2
    sheet.arrow((x, start), (x, y), (_STREAM + 12, y), role="mixture")
    sheet.text(_NORM + 60, y - 6, "added to the stream", size=12.5, role="soft")
    return y
