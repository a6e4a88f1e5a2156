"""The building: query heads read on floors, and each floor has one library of keys and values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvlab import checks
from kvlab.config import ModelConfig
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.sheet import MARGIN, WIDTH, Sheet, said, width_of, wrapped

_MOST, _SHOWN = 4, 8  # buildings beside each other; floors of one that are drawn
_GAP, _ROW, _DOT = 24, 22, 8


def configs(*given: object) -> None:
    """Refuse what is no ModelConfig.

    Raises: ValueError.
    """
    for one in given:
        checks.kind("config", one, ModelConfig, "a ModelConfig, as in model.config")


def kind_of(config: ModelConfig) -> str:
    """MHA, MQA or GQA, by who shares."""
    if config.n_kv_heads == config.n_heads:
        return "MHA"
    return "MQA" if config.n_kv_heads == 1 else "GQA"


def building(
    config: ModelConfig,
    *others: ModelConfig,
    title: str | None = None,
    names: Sequence[str] | None = None,
    bytes_per_number: int = 4,
) -> Drawing:
    """One floor for each key/value head, its library, and the query heads that read there.

    Up to four configs stand beside each other, with what one token costs the cache in each.
    Raises: ValueError for what is no config, or for more than four.
    """
    every = (config, *others)
    names = _named(every, names)
    checks.whole("bytes_per_number", bytes_per_number)
    costs = [one.kv_bytes_per_token(bytes_per_number) for one in every]
    sheet = Sheet(title or _title(every, costs), _words(every, names, costs))
    wide = (WIDTH - 2 * MARGIN - _GAP * (len(every) - 1)) / max(len(every), 2)
    lines = [wrapped(said(name), wide, bold=True)[:2] for name in names]
    ground = sheet.top + 32 + 18 * max(map(len, lines)) + max(_height(c, wide) for c in every)
    for i, one in enumerate(every):
        x, y = MARGIN + i * (wide + _GAP), ground - _height(one, wide) - 26
        for up, line in enumerate(reversed(lines[i])):
            sheet.text(x, y - 18 * up, line, bold=True)
        _one(sheet, x, ground, wide, one)
    if len(every) == 1:
        x = MARGIN + _needed(config, wide) + 40
        y = _cost(sheet, x, sheet.top + 20, WIDTH - MARGIN - x, config, bytes_per_number)
        return sheet.done(max(ground + 20, _legend(sheet, x, y + 8)))
    bottom = max(
        _cost(sheet, MARGIN + i * (wide + _GAP), ground + 24, wide, one, bytes_per_number)
        for i, one in enumerate(every)
    )
    return sheet.done(_legend(sheet, MARGIN, bottom + 8))


def _named(every: tuple[ModelConfig, ...], names: Sequence[str] | None) -> list[str]:
    """A name for each config; MHA, GQA or MQA where none was given."""
    configs(*every)
    if len(every) > _MOST:
        raise ValueError(f"building got {len(every)} configs; expected at most {_MOST}.")
    if names is None:
        return [kind_of(one) for one in every]
    checks.kind("names", names, (list, tuple), "a list of names, one for each config")
    if len(names) != len(every):
        raise ValueError(f"names are {len(names)} for {len(every)} configs; expected one for each.")
    return list(names)


def _words(every: tuple[ModelConfig, ...], names: list[str], costs: list[int]) -> str:
    return " ".join(
        f"{said(name)}: {counted(one.n_heads, 'query head')} on "
        f"{counted(one.n_kv_heads, 'floor')}, {one.n_heads // one.n_kv_heads} to a floor, each "
        f"floor with one library of keys and values; a token costs the cache {cost:,} bytes."
        for name, one, cost in zip(names, every, costs, strict=True)
    )


def counted(n: int, what: str) -> str:
    """A number with its noun."""
    changes = what.endswith("y") and what[-2] not in "aeiou"  # libraries, but keys
    plural = what[:-1] + "ies" if changes else what + "s"
    return f"{n:,} {what if n == 1 else plural}"


def _title(every: tuple[ModelConfig, ...], costs: list[int]) -> str:
    if len(every) > 1:
        least, most = min(costs), max(costs)
        if least == most:
            return "As many libraries, as many bytes: each of these caches costs the same per token"
        times = f"{most / least:.1f}".removesuffix(".0")
        return f"The fewer libraries, the smaller the cache: here up to {times} times"
    one = every[0]
    if one.n_heads == 1:
        return "A single query head with a library of its own: there is nobody to share it"
    if one.n_heads == one.n_kv_heads:
        return f"Each of {counted(one.n_heads, 'query head')} has a library of its own"
    shared = "one library" if one.n_kv_heads == 1 else counted(one.n_kv_heads, "library")
    return f"{one.n_heads:,} query heads share {shared}; the cache holds the libraries alone"


def _room(wide: float) -> tuple[float, float]:
    """Width of a library, and of the space for readers beside it."""
    shelf = 78 if wide > 300 else 56
    return shelf, wide - shelf - 30


def _floor(config: ModelConfig, wide: float) -> tuple[int, int, float]:
    """Readers drawn on a floor, in a row, and the floor's height."""
    readers = config.n_heads // config.n_kv_heads
    across = max(1, int(_room(wide)[1] // _ROW))
    drawn = min(readers, 6 * across)
    return drawn, across, 12 + _ROW * math.ceil(drawn / across) + (16 if drawn < readers else 0)


def _needed(config: ModelConfig, wide: float) -> float:
    """How wide the building is of a column that is so wide."""
    drawn, across, _ = _floor(config, wide)
    return min(wide, max(_room(wide)[0] + 30 + _ROW * min(drawn, across), 150))


def _height(config: ModelConfig, wide: float) -> float:
    floors = min(config.n_kv_heads, _SHOWN)
    return floors * _floor(config, wide)[2] + (22 if config.n_kv_heads > _SHOWN else 0)


def _one(sheet: Sheet, x: float, ground: float, wide: float, config: ModelConfig) -> None:
    """A building on its ground: floors from the bottom up, an ellipsis where there are too many."""
    drawn, across, high = _floor(config, wide)
    shelf, _ = _room(wide)
    column, wide = wide, _needed(config, wide)
    floors, readers = config.n_kv_heads, config.n_heads // config.n_kv_heads
    shown = list(range(floors)) if floors <= _SHOWN else [*range(_SHOWN - 1), floors - 1]
    top = ground - _height(config, column)
    sheet.line((x, top), (x + wide / 2, top - 16), (x + wide, top), role="rule")
    y = ground
    for i, floor in enumerate(shown):
        if floors > _SHOWN and i == _SHOWN - 1:
            y -= 22
            more = f"⋮ {floors - _SHOWN:,} more floors"
            sheet.text(x + wide / 2, y + 16, more, anchor="middle", role="soft", within=wide)
        y -= high
        sheet.box(x, y, wide, high, "rule", tint=0.06, edge=1, round_=0)
        _library(sheet, x + 6, y + 5, shelf - 6, high - 10, floor)
        left = x + shelf + 18
        sheet.arrow((left - 4, y + high / 2), (x + shelf + 3, y + high / 2), role="query", width=1)
        for reader in range(drawn):
            spot = left + _ROW * (reader % across) + _DOT + 2
            line = y + 6 + _ROW * (reader // across) + _ROW / 2
            sheet.dot(spot, line, _DOT, "query", tint=0.16)
            number = str(floor * readers + reader)
            if width_of(number, 11) < 2 * _DOT:
                sheet.text(spot, line + 4, number, anchor="middle", size=11)
        if drawn < readers:
            sheet.text(left, y + high - 6, f"… {readers:,} in all", size=12, role="soft")


def _library(sheet: Sheet, x: float, y: float, wide: float, high: float, floor: int) -> None:
    """Keys and values side by side on the shelf of one floor."""
    half = wide / 2
    number = str(floor) if width_of(f"K{floor}", 12) < half - 8 else ""
    for i, (letter, role) in enumerate((("K", "key"), ("V", "value"))):
        sheet.labelled(x + i * half, y, half - 2, high, letter + number, role, size=12, tint=0.24)


def _cost(sheet: Sheet, x: float, y: float, wide: float, config: ModelConfig, size: int) -> float:
    """What a token costs the cache, as the product that it is."""
    cost = config.kv_bytes_per_token(size)
    y = sheet.lines(x, y, f"{cost:,} bytes a token", wide, bold=True)
    product = (
        f"= K and V (2) × {counted(config.n_layers, 'layer')} × "
        f"{counted(config.n_kv_heads, 'library')} × {config.head_dim:,} numbers × {size} bytes"
    )
    return sheet.lines(x, y, product, wide, size=12.5, role="soft")


def _legend(sheet: Sheet, x: float, y: float) -> float:
    """What a circle and a shelf are; below each other where there is little room."""
    below = x > MARGIN
    sheet.dot(x + 9, y + 10, _DOT, "query", tint=0.16)
    wide = sheet.text(x + 48 if below else x + 26, y + 14, "a query head, which reads", size=12.5)
    if below:
        y += 28
    else:
        x += wide + 48
    sheet.labelled(x, y + 1, 18, 18, "K", "key", size=12, tint=0.24)
    sheet.labelled(x + 20, y + 1, 18, 18, "V", "value", size=12, tint=0.24)
    words = "a library: keys and values of one key/value head"
    return sheet.lines(x + 48, y + 14, words, WIDTH - MARGIN - x - 48, size=12.5) + 8
