"""Small pieces of SVG for the book's panels: text, squares, and a page to put them on.

Pictures draw on white whatever the notebook's theme, in colours of Okabe and Ito's palette.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from kvlab.view.colours import BLUE, GREEN, GREY, INK, ORANGE, PALE, SKY

__all__ = ["BLUE", "GREEN", "GREY", "INK", "ORANGE", "PALE", "SKY"]


def px(number: float) -> str:
    """A length to a hundredth: what one thread or another rounds beyond that is not seen."""
    return f"{round(number, 2) + 0.0:g}"


def page(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """Put parts on a white page; the title is what a screen reader says."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {px(width)} {px(height)}" '
        f'width="{px(width)}" height="{px(height)}" role="img" font-family="sans-serif" '
        f'font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{px(width)}" height="{px(height)}" fill="white"/>{"".join(parts)}</svg>'
    )


def text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    fill: str = INK,
    bold: bool = False,
    turn: float = 0,
    size: float = 12,
) -> str:
    """Write words at a point; `turn` in degrees."""
    turned = f' transform="rotate({px(turn)} {px(x)} {px(y)})"' if turn else ""
    weight = ' font-weight="bold"' if bold else ""
    weight += f' font-size="{px(size)}"' if size != 12 else ""
    return (
        f'<text x="{px(x)}" y="{px(y)}" text-anchor="{anchor}" fill="{fill}"{weight}{turned}>'
        f"{escape(words)}</text>"
    )


def box(
    x: float,
    y: float,
    width: float,
    height: float,
    fill: str,
    *,
    name: str = "",
    edge: str = "",
    pick: Mapping[str, Any] | None = None,
) -> str:
    """A rectangle; `name` is its class, and a click on it sets the traits in `pick`."""
    named = f' class="{escape(name)}"' if name else ""
    edged = f' stroke="{edge}" stroke-width="2"' if edge else ""
    picked = f" data-pick='{escape(json.dumps(dict(pick)))}'" if pick else ""
    return (
        f'<rect{named} x="{px(x)}" y="{px(y)}" width="{px(width)}" height="{px(height)}" '
        f'fill="{fill}"{edged}{picked}/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 2) -> str:
    """A straight line."""
    return (
        f'<line x1="{px(x1)}" y1="{px(y1)}" x2="{px(x2)}" y2="{px(y2)}" stroke="{colour}" '
        f'stroke-width="{px(width)}"/>'
    )


def dot(x: float, y: float, radius: float, fill: str) -> str:
    """A filled circle."""
    return f'<circle cx="{px(x)}" cy="{px(y)}" r="{px(radius)}" fill="{fill}"/>'


def shade(value: float) -> str:
    """A colour for -1 (orange) over 0 (white) to 1 (blue); what lies outside is cut."""
    value = max(-1.0, min(1.0, value))
    full = (0, 114, 178) if value >= 0 else (213, 94, 0)
    return "#" + "".join(f"{round(255 + (channel - 255) * abs(value)):02X}" for channel in full)


def visible(token: str) -> str:
    """A token's text without what cannot be seen."""
    return token.replace("\n", "\\n").strip(" ") or "(space)"
