"""What all figures share: colours, looks of lines, an empty figure.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; every line
also differs in style or marker. A figure draws on white whatever the notebook's theme.
"""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7A7A7A"
STYLES = [
    (colour, marker, line)
    for marker, line in (("o", "-"), ("s", "--"), ("^", ":"), ("P", "-."))
    for colour in (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
]
MUTED = [("black", "*", ""), ("black", "X", ""), (GREY, "v", ":"), (GREY, "D", "--")]


class Picture(Figure):
    """A figure that a notebook shows by itself, with no plotting state behind it."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png", dpi=110)
        return png.getvalue()


def one_panel(x_label: str, y_label: str, width: float = 7.0, height: float = 3.6):
    """A figure of one pair of axes with their labels."""
    figure = Picture(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    bare(axes)
    return figure, axes


def few_lines() -> list[tuple[str, str, str]]:
    """Looks of a few lines, each with a colour, a marker and a dash of its own."""
    return [(BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", ":"), (GREY, "D", "-.")]


def bare(axes) -> None:
    """A grid behind the curves, and no frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
