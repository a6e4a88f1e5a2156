"""A sheet to draw on: text whose width is known beforehand, boxes, arrows, light and dark.

Widths are those of DejaVu Sans, rounded up, the widest of the fonts that "sans-serif" means on
Linux, macOS and Windows: what fits here fits there. Lengths are in pixels of a page 760 wide.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from html import escape

from kvlab.view.colours import BLUE, GREEN, GREY, INK, ON_DARK, ORANGE, PALE, PINK
from kvlab.view.schematics.drawing import Drawing
from kvlab.view.svg import px, visible

WIDTH, MARGIN = 760, 20
ROLES = {
    "paper": "#FFFFFF", "ink": INK, "soft": "#5A5A5A", "pale": PALE, "rule": GREY,
    "query": ORANGE, "key": BLUE, "value": GREEN, "mixture": PINK,
}  # fmt: skip
_EM = {
    c: width / 100
    for width, some in {
        30: "'IJijl′", 35: " ,./:;\\|·’", 40: "()-[]ft", 45: "!r", 50: '"*_`–°', 55: "?csz“”",
        60: "FLkvxy", 65: "$0123456789EPSTYabdeghnopqu{}√", 70: "ABCKRVXZ", 75: "NU", 80: "&DGHOQ",
        85: "#+<=>^w~×→≤≥−≈", 90: "M", 100: "%@Wm…⋮",
    }.items()
    for c in some
}  # fmt: skip
_BOLD = 1.16


def width_of(words: str, size: float = 14, bold: bool = False) -> float:
    """The width of a line of text, in pixels; characters not in the table count as wide ones."""
    em = sum(_EM.get(c, 1.2 if unicodedata.east_asian_width(c) in "WF" else 0.9) for c in words)
    return em * size * (_BOLD if bold else 1)


def fitted(words: str, width: float, size: float = 14, bold: bool = False) -> str:
    """The words, or as much of their beginning as fits before an ellipsis."""
    if width_of(words, size, bold) <= width:
        return words
    while words and width_of(words + "…", size, bold) > width:
        words = words[:-1]
    return words.rstrip() + "…"


def wrapped(words: str, width: float, size: float = 14, bold: bool = False) -> list[str]:
    """The words as lines that fit; a word that is longer than a line is cut."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size, bold) <= width:
            lines[-1] = longer
        else:
            lines.append(fitted(word, width, size, bold))
    return lines


def said(token: object) -> str:
    """A token as it is drawn: without what cannot be seen, and without what no SVG may hold."""
    return "".join(c if c.isprintable() else "�" for c in visible(str(token)))


class Sheet:
    """What was drawn so far; `top` is the first free line below the title."""

    def __init__(self, title: str, alt: str, width: float = WIDTH) -> None:
        self.title, self.alt, self.width = " ".join(said(title).split()), alt, width
        self.parts: list[str] = []
        self.top = 10.0
        for line in wrapped(self.title, width - 2 * MARGIN, 16, bold=True):
            self.top += 21
            self.text(MARGIN, self.top, line, size=16, bold=True)
        self.top += 14

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: str = "start",
        role: str = "ink",
        size: float = 14,
        bold: bool = False,
        within: float | None = None,
    ) -> float:
        """Write a line on its base line and tell its width; `within` cuts what does not fit."""
        if within is not None:
            words = fitted(words, within, size, bold)
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text class="f-{role}" x="{px(x)}" y="{px(y)}" text-anchor="{anchor}" '
            f'font-size="{px(size)}"{weight} fill="{ROLES[role]}">{escape(words)}</text>'
        )
        return width_of(words, size, bold)

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        role: str = "ink",
        *,
        tint: float = 0.16,
        edge: float = 1.5,
        dash: str = "",
        round_: float = 4,
    ) -> None:
        """A rectangle in a role's colour: `tint` is how full it is, `edge` the width of its rim."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        rim = f' stroke="{ROLES[role]}" stroke-width="{px(edge)}"{dashed}' if edge else ""
        self.parts.append(
            f'<rect class="f-{role} s-{role}" x="{px(x)}" y="{px(y)}" width="{px(width)}" '
            f'height="{px(height)}" rx="{px(round_)}" fill="{ROLES[role]}" '
            f'fill-opacity="{px(tint)}"{rim}/>'
        )

    def path(self, d: str, role: str = "ink", width: float = 2, dash: str = "") -> None:
        """A line along a path of SVG."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<path class="s-{role}" d="{d}" fill="none" stroke="{ROLES[role]}" '
            f'stroke-width="{px(width)}"{dashed}/>'
        )

    def line(self, *points: tuple[float, float], role="ink", width: float = 2, dash="") -> None:
        """A line through points."""
        self.path("M" + "L".join(f"{px(x)} {px(y)}" for x, y in points), role, width, dash)

    def upright(self, xs: Iterable[float], y0: float, y1: float, role="paper", width=1.5) -> None:
        """Lines from one height to another, as one piece."""
        self.path("".join(f"M{px(x)} {px(y0)}V{px(y1)}" for x in xs), role, width)

    def level(self, ys: Iterable[float], x0: float, x1: float, role="paper", width=1.5) -> None:
        """Lines from left to right, as one piece."""
        self.path("".join(f"M{px(x0)} {px(y)}H{px(x1)}" for y in ys), role, width)

    def dot(self, x: float, y: float, radius: float, role: str = "ink", tint: float = 1) -> None:
        """A filled circle with a rim."""
        self.parts.append(
            f'<circle class="f-{role} s-{role}" cx="{px(x)}" cy="{px(y)}" r="{px(radius)}" '
            f'fill="{ROLES[role]}" fill-opacity="{px(tint)}" stroke="{ROLES[role]}"/>'
        )

    def arrow(self, *points: tuple[float, float], role="ink", width: float = 2, dash="") -> None:
        """A line through points with a head at the last."""
        (x0, y0), (x1, y1) = points[-2:]
        angle, long = math.atan2(y1 - y0, x1 - x0), 5 + 2 * width
        back = (x1 - long * 0.8 * math.cos(angle), y1 - long * 0.8 * math.sin(angle))
        self.line(*points[:-1], back, role=role, width=width, dash=dash)
        wings = [
            (x1 + long * math.cos(angle + turn), y1 + long * math.sin(angle + turn))
            for turn in (math.pi - 0.45, math.pi + 0.45)
        ]
        corners = " ".join(f"{px(x)},{px(y)}" for x, y in ((x1, y1), *wings))
        self.parts.append(f'<polygon class="f-{role}" points="{corners}" fill="{ROLES[role]}"/>')

    def labelled(self, x, y, width, height, words: str, role="ink", **how) -> None:
        """A box with a line of words in its middle, a size smaller rather than cut off."""
        size, bold = how.pop("size", 13), how.pop("bold", False)
        size -= width_of(words, size, bold) > width - 6
        self.box(x, y, width, height, role, **how)
        self.text(x + width / 2, y + height / 2 + size * 0.36, words, anchor="middle", size=size,
                  bold=bold, within=width - 6)  # fmt: skip

    def lines(self, x: float, y: float, words: str, width: float, **how) -> float:
        """Write words as lines within a width and tell the base line after them."""
        size = how.get("size", 14)
        for line in wrapped(words, width, size, how.get("bold", False)):
            self.text(x, y, line, **how)
            y += size * 1.38
        return y

    def done(self, bottom: float) -> Drawing:
        """The drawing, cut off at the bottom."""
        wide, high = px(self.width), px(bottom)
        alt = " ".join(said(self.alt).split())
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" '
            f'height="{high}" role="img" font-family="sans-serif"><title>{escape(self.title)}'
            f"</title><desc>{escape(alt)}</desc><style>{_dark()}</style>"
            f'<rect class="f-paper" width="{wide}" height="{high}" rx="6" '
            f'fill="{ROLES["paper"]}"/>{"".join(self.parts)}</svg>'
        )
        return Drawing(svg, self.title, alt)


def _dark() -> str:
    """The colours on a dark page; those of a light one stand with each piece."""
    rules = "".join(
        f".f-{role}{{fill:{ON_DARK[light]}}}" + f".s-{role}{{stroke:{ON_DARK[light]}}}"
        for role, light in ROLES.items()
    )
    # a rectangle without an edge has no stroke, whatever its class says
    return f"@media (prefers-color-scheme: dark){{{rules}rect:not([stroke]){{stroke:none}}}}"
