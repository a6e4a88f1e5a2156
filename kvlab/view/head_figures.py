"""Figures of heads: whom each looks at, and what is left without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from kvlab.view.colours import ORANGE
from kvlab.view.drawing import Picture


def weights_of_heads(panels: Mapping[str, Tensor], tokens: Sequence[str]) -> Picture:
    """Attention weights of some heads, one under the other: a row for each query, a column a key.

    The token that a query looks at most is ringed. The queries are those of the text's last S
    tokens.
    Shapes: a tensor (S, T) for each title, T as many as tokens.
    """
    words = [token.replace("\n", "\\n") for token in tokens]
    n_queries = max(len(weights_ST) for weights_ST in panels.values())
    figure = Picture(
        figsize=(1.9 + 0.19 * len(words), 1.0 + (0.4 + 0.17 * n_queries) * len(panels)),
        layout="constrained", facecolor="white",
    )  # fmt: skip
    every = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (title, weights_ST) in zip(every, panels.items(), strict=True):
        rows = weights_ST.tolist()
        drawn = axes.imshow(rows, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        most = [max(range(len(row)), key=row.__getitem__) for row in rows]
        axes.plot(most, range(len(rows)), linestyle="", marker="o", markersize=7,
                  markerfacecolor="none", markeredgecolor=ORANGE)  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(len(rows)), words[-len(rows) :], fontsize=8)
        axes.set_ylabel("token that looks")
    every[-1].set_xticks(range(len(words)), words, rotation=90, fontsize=8)
    every[-1].set_xlabel("token that is looked at")
    figure.colorbar(drawn, ax=list(every), label="attention weight", shrink=0.5)
    return figure


def right_without(panels: Mapping[str, Sequence[Sequence[int]]], of: int) -> Picture:
    """How many answers of so many stay right without each head: a row for each layer.

    A panel for each task, each a list of layers of numbers, one for each head.
    """
    figure = Picture(figsize=(0.9 + 2.45 * len(panels), 2.5), layout="constrained",
                     facecolor="white")  # fmt: skip
    colours = LinearSegmentedColormap.from_list("lost", [ORANGE, "#F7F7F7"])
    every = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, rows) in zip(every, panels.items(), strict=True):
        axes.imshow(rows, cmap=colours, vmin=0, vmax=of, aspect="auto")
        for y, row in enumerate(rows):
            for x, n_right in enumerate(row):
                axes.text(x, y, str(n_right), ha="center", va="center", fontsize=10,
                          fontweight="bold" if n_right <= 0.9 * of else "normal")  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(len(rows[0])))
        axes.set_yticks(range(len(rows)), [f"layer {layer}" for layer in range(len(rows))])
        axes.set_xlabel("head that is taken away")
    return figure
