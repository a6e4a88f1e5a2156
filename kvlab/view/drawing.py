"""What all figures share: looks of lines, an empty figure.

Every line differs in style or marker as well as in colour. A figure draws on white whatever the
notebook's theme.
"""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

from kvlab.view.colours import AMBER, BLUE, GREEN, GREY, ORANGE, PINK, SKY

STYLES = [
    (colour, marker, line)
    for marker, line in (("o", "-"), ("s", "--"), ("^", ":"), ("P", "-."))
    for colour in (BLUE, ORANGE, GREEN, PINK, AMBER, SKY)
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


def few_lines(n: int) -> list[tuple[str, str, str]]:
    """Looks of n lines, each with a colour, a marker and a dash of its own; of at most five."""
    looks = [
        (BLUE, "o", "-"),
        (ORANGE, "s", "--"),
        (GREEN, "^", ":"),
        (GREY, "D", "-."),
        ("black", "v", "-"),
    ]
    if n > len(looks):
        raise ValueError(f"{n} curves; expected at most {len(looks)}, which can be told apart.")
    return looks[:n]


def bare(axes) -> None:
    """A grid behind the curves, and no frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
