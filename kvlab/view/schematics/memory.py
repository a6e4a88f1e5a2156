"""The cache in memory: layers, keys and values, heads, slots, and what one step does to them."""

from __future__ import annotations

from kvlab import checks
from kvlab.config import ModelConfig
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.heads import configs, counted
from kvlab.view.schematics.sheet import MARGIN, WIDTH, Sheet, width_of

_LEFT, _LAYERS, _HEADS = 130, 4, 8  # where slots begin; layers and heads that are drawn
_LARGEST = 10**9


def cache_in_memory(
    config: ModelConfig,
    capacity: int,
    used: int,
    *,
    bytes_per_number: int = 4,
    title: str | None = None,
) -> Drawing:
    """Slots of each layer's keys and values, `used` of `capacity` filled, before a decode step.

    The step writes the first free slot of every layer and reads all slots up to it.
    Units: capacity and used in tokens.
    Raises: ValueError for what is no config, or more used than there are.
    """
    configs(config)
    capacity, used = checks.whole("capacity", capacity), checks.whole("used", used, 0)
    checks.whole("bytes_per_number", bytes_per_number)
    if used > capacity or capacity > _LARGEST:
        raise ValueError(
            f"used is {used:,} of a capacity of {capacity:,}; expected at most all of them, and at "
            f"most {_LARGEST:,} slots."
        )
    each = config.kv_bytes_per_token(bytes_per_number)
    full = used == capacity
    sheet = Sheet(title or _title(used, full), _words(config, capacity, used, each))
    slot = (WIDTH - MARGIN - _LEFT) / capacity
    top = y = _slots(sheet, sheet.top + 8, slot, capacity, used)
    n = config.n_layers
    shown = list(range(n)) if n <= _LAYERS else [0, 1, None, n - 1]
    for layer in shown:
        if layer is None:
            sheet.text(MARGIN, y + 14, f"⋮ {n - 3:,} more", size=12.5, role="soft")
            y += 26
        else:
            y = _layer(sheet, y, slot, config, capacity, used, layer)
    if not full:
        x, wide = _LEFT + slot * used, max(slot, 4)
        sheet.box(x - 2, top - 4, wide + 4, y - top, "query", tint=0, edge=2.5, round_=2)
    y = _touched(sheet, y + 10, slot, used, full)
    return sheet.done(_sums(sheet, y, config, capacity, used, bytes_per_number))


def _title(used: int, full: bool) -> str:
    if full:
        return f"All {used:,} slots are used: the next step has nowhere to write, and is refused"
    if not used:
        return "The cache is empty: the first token will be written to slot 0 of every layer"
    return f"A step writes one slot of every layer, and reads all {used + 1:,} that are then filled"


def _words(config: ModelConfig, capacity: int, used: int, each: int) -> str:
    step = (
        "It is full, so that another step is refused."
        if used == capacity
        else f"A decode step writes slot {used:,} of every layer, {each:,} bytes, and reads slots "
        f"0 to {used:,}, {(used + 1) * each:,} bytes."
    )
    return (
        f"A cache of {counted(config.n_layers, 'layer')}, each with keys and values of "
        f"{counted(config.n_kv_heads, 'key/value head')}, and {counted(capacity, 'slot')} in "
        f"each, of which {used:,} {'is' if used == 1 else 'are'} used. A slot holds "
        f"{config.head_dim:,} numbers for each head. {step} The memory taken is "
        f"{capacity * each:,} bytes, whatever is used."
    )


def _slots(sheet: Sheet, y: float, slot: float, capacity: int, used: int) -> float:
    """Slots and positions of their tokens: all of them, or as many as there is room for."""
    sheet.text(_LEFT - 10, y + 4, "slot", anchor="end", size=12.5)
    sheet.text(_LEFT - 10, y + 20, "position", anchor="end", size=12.5, role="soft")
    room = width_of(f"{capacity - 1:,}", 12) + 8
    every = max(1, -(-int(room) // max(1, int(slot)))) if slot < room else 1
    wanted = range(0, capacity, every) if slot >= 4 else sorted({0, used, capacity - 1})
    edge = -1.0
    for i in wanted:
        half, x = width_of(f"{i:,}", 12) / 2, _LEFT + slot * (i + 0.5)
        x = min(x, WIDTH - MARGIN - half)
        if x - half > edge:
            sheet.text(x, y + 4, f"{i:,}", anchor="middle", size=12)
            sheet.text(x, y + 20, f"{i:,}" if i <= used else "–", anchor="middle", size=12,
                       role="soft")  # fmt: skip
            edge = x + half + 6
    return y + 32


def _layer(
    sheet: Sheet, y: float, slot: float, config: ModelConfig, capacity: int, used: int, layer: int
) -> float:
    """A strip of keys and one of values, with a line of slots for each head."""
    heads = min(config.n_kv_heads, _HEADS)
    high = max(16.0, 8.0 * heads)
    right = WIDTH - MARGIN
    sheet.text(MARGIN, y + high + 6, f"layer {layer:,}", size=13, bold=True)
    for letter, role in (("K", "key"), ("V", "value")):
        sheet.text(_LEFT - 10, y + high / 2 + 5, letter, anchor="end", size=13)
        sheet.box(_LEFT, y, right - _LEFT, high, "pale", tint=1, edge=0, round_=0)
        if used:
            sheet.box(_LEFT, y, slot * used, high, role, tint=0.45, edge=0, round_=0)
        if used < capacity:
            sheet.box(
                _LEFT + slot * used, y, max(slot, 4), high, "query", tint=0.5, edge=0, round_=0
            )
        if heads > 1:
            sheet.level((y + high * i / heads for i in range(1, heads)), _LEFT, right, width=1)
        if slot >= 6 and capacity > 1:
            sheet.upright((_LEFT + slot * i for i in range(1, capacity)), y, y + high)
        sheet.box(_LEFT, y, right - _LEFT, high, role, tint=0, edge=1, round_=0)
        y += high + 3
    return y + 9


def _touched(sheet: Sheet, y: float, slot: float, used: int, full: bool) -> float:
    """Brackets below: what the step reads, and the slot that it writes."""
    if full:
        return y + 6
    right = _LEFT + max(slot * (used + 1), slot * used + 4)
    sheet.line((_LEFT, y - 6), (_LEFT, y), (right, y), (right, y - 6), width=1.5)
    words = f"the step reads {counted(used + 1, 'slot')} of every layer"
    write = "and writes the one that is framed"
    sheet.text(_LEFT, y + 18, f"{words}, {write}", size=13)
    return y + 34


def _sums(
    sheet: Sheet, y: float, config: ModelConfig, capacity: int, used: int, size: int
) -> float:
    """The bytes, as the products that they are."""
    each = config.kv_bytes_per_token(size)
    heads = config.n_kv_heads
    told = (
        f"A slot, all layers together: K and V (2) × {counted(config.n_layers, 'layer')} × "
        f"{counted(heads, 'head')} × {config.head_dim:,} numbers × {size} bytes = {each:,} bytes.",
        f"Held now: {used:,} × {each:,} = {used * each:,} bytes. Taken from the device: "
        f"{capacity:,} × {each:,} = {capacity * each:,} bytes, full or not.",
    )
    y += 8
    for words in told:
        y = sheet.lines(MARGIN, y, words, WIDTH - 2 * MARGIN, size=12.5, role="soft") + 2
    if heads > 1:
        kept = f"{heads} thin lines" if heads <= _HEADS else f"{_HEADS} of {heads:,} lines drawn"
        words = f"Each strip is cut lengthwise into its key/value heads: {kept}."
        y = sheet.lines(MARGIN, y, words, WIDTH - 2 * MARGIN, size=12.5, role="soft")
    return y
