"""Rope as two arrows: positions turn a query and a key, and only their distance is left."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvlab import checks
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.schematics.sheet import MARGIN, WIDTH, Sheet, width_of
from kvlab.view.svg import px

_MOST, _RADIUS = 4, 74


def rope_arrows(
    positions: Sequence[int] | Sequence[Sequence[int]],
    head_dim: int,
    pair: int = 0,
    theta: float = 10000.0,
    *,
    title: str | None = None,
) -> Drawing:
    """A query arrow and a key arrow, each turned by its position, once for each pair of positions.

    `positions` is (query's, key's), or up to four such pairs. Both arrows point to the right at
    position 0; pair number `pair` of a head of `head_dim` numbers turns by
    theta ** (-2 pair / head_dim) radians a position.
    Raises: ValueError for positions that are none, or a pair that the head has not.
    """
    dials = _dials(positions)
    turn = _turn(head_dim, pair, theta)
    said = "; ".join(
        f"query at {q:,} and key at {k:,}, {_apart(q - k)}: the angle between the arrows is "
        f"{_degrees((q - k) * turn)}"
        for q, k in dials
    )
    alt = (f"Pair {pair} of a head turns by {_degrees(turn)} a position. {said}. Equal distances "
           "give equal angles, wherever the two stand.")  # fmt: skip
    sheet = Sheet(title or _title(dials), alt)
    wide = (WIDTH - 2 * MARGIN) / len(dials)
    for i, (q, k) in enumerate(dials):
        _dial(sheet, MARGIN + wide * (i + 0.5), sheet.top + _RADIUS + 6, wide - 16, q, k, turn)
    y = sheet.top + 2 * _RADIUS + (132 if len(dials) > 3 else 114)
    sheet.line((MARGIN, y - 14), (WIDTH - MARGIN, y - 14), role="rule", width=1)
    words = (
        f"This is pair {pair} of {head_dim // 2} in a head of {head_dim} numbers: it turns by "
        f"{_degrees(turn)} with every position. The dashed line is where an arrow points at "
        "position 0."
    )
    return sheet.done(sheet.lines(MARGIN, y + 6, words, WIDTH - 2 * MARGIN, size=12.5, role="soft"))


def _turn(head_dim: object, pair: object, theta: object) -> float:
    """By how much a pair turns at each position, in radians."""
    head_dim = checks.whole("head_dim", head_dim, 2)
    if head_dim % 2:
        raise ValueError(f"head_dim is {head_dim}; rope turns pairs of numbers: expected it even.")
    pair = checks.whole("pair", pair, 0)
    if pair >= head_dim // 2:
        raise ValueError(
            f"pair is {pair}; a head of {head_dim} numbers has pairs 0 to {head_dim // 2 - 1}."
        )
    theta = checks.number("theta", theta, checks.is_positive, "a finite number above 0")
    return theta ** (-2 * pair / head_dim)


def _dials(positions: object) -> list[tuple[int, int]]:
    """The pairs of positions, whichever way they were given."""
    expected = "expected (query's, key's) as in (7, 4), or up to four such pairs"
    given = checks.plain(positions)
    given = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    pairs = [given] if given and not isinstance(checks.plain(given[0]), Sequence) else given
    pairs = [checks.plain(one) for one in pairs]
    if not 1 <= len(pairs) <= _MOST or not all(isinstance(p, Sequence) for p in pairs):
        raise ValueError(f"positions is {checks.shown(positions)}; {expected}.")
    if any(len(one) != 2 for one in pairs):
        raise ValueError(f"positions is {checks.shown(positions)}; {expected}.")
    return [(_position(q), _position(k)) for q, k in pairs]


def _position(value: object) -> int:
    found = checks.whole("a position", value, 0)
    if found >= 10**7:
        raise ValueError(f"a position is {checks.shown(value)}; expected it below 10,000,000.")
    return found


def _apart(distance: int) -> str:
    return f"{abs(distance):,} position{'' if abs(distance) == 1 else 's'} apart"


def _degrees(radians: float) -> str:
    """An angle within one turn, in degrees, as short as it can be told."""
    degrees = math.degrees(radians)
    degrees = math.copysign(abs(degrees) % 360, degrees)
    digits = 1 if abs(degrees) >= 10 else 2 if abs(degrees) >= 0.1 or not degrees else 5
    return f"{round(degrees, digits) + 0.0:g}°"


def _title(dials: list[tuple[int, int]]) -> str:
    apart = {q - k for q, k in dials}
    if len(dials) > 1 and len(apart) == 1:
        return ("Move query and key together and both arrows turn, but the angle between them "
                "stays: only the distance counts")  # fmt: skip
    if len(dials) > 1:
        return "Rope turns each arrow by its position: the angle between them follows the distance"
    return f"Rope turns both arrows; the angle between them says only: {_apart(apart.pop())}"


def _dial(sheet: Sheet, x: float, y: float, wide: float, q: int, k: int, turn: float) -> None:
    """A circle with both arrows, the arc between them, and what is to be read off."""
    sheet.dot(x, y, _RADIUS, "rule", tint=0.05)
    sheet.line((x, y), (x + _RADIUS, y), role="rule", width=1, dash="4 3")
    at = {"key": k * turn, "query": q * turn}
    _arc(sheet, x, y, at["key"], (q - k) * turn)
    for role, radius in (("key", _RADIUS - 4), ("query", _RADIUS - 14)):
        tip = (x + radius * math.cos(at[role]), y - radius * math.sin(at[role]))
        sheet.arrow((x, y), tip, role=role, width=3)
    sheet.dot(x, y, 3, "ink")
    row = y + _RADIUS + 24
    told = {
        role: f"{role} at {p:,}: {_degrees(at[role])}" for role, p in (("query", q), ("key", k))
    }
    size = 13 if max(width_of(words, 13) for words in told.values()) <= wide - 26 else 11
    half = min(wide, 26 + max(width_of(words, size) for words in told.values())) / 2
    for role, words in told.items():
        sheet.line((x - half, row - 4), (x - half + 18, row - 4), role=role, width=3)
        sheet.text(x - half + 26, row, words, size=size, within=wide - 26)
        row += 20
    between = f"{_apart(q - k)}: {_degrees((q - k) * turn)}"
    sheet.lines(x, row + 4, between, wide, anchor="middle", size=13, bold=True)


def _arc(sheet: Sheet, x: float, y: float, start: float, angle: float) -> None:
    """From the key's direction by an angle to the query's, less whole turns."""
    swept, radius = math.fmod(angle, 2 * math.pi), 30
    if abs(swept) < 0.01:
        return
    a, b = (
        f"{px(x + radius * math.cos(t))} {px(y - radius * math.sin(t))}"
        for t in (start, start + swept)
    )
    flags = f"{int(abs(swept) > math.pi)} {int(swept < 0)}"
    sheet.path(f"M{a}A{radius} {radius} 0 {flags} {b}", "mixture", 3)
