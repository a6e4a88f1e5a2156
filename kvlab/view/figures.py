"""The book's figures: functions from measured numbers to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvlab.view.colours import BLUE, GREEN, GREY, ORANGE
from kvlab.view.drawing import Picture, one_panel
from kvlab.view.pruning_figures import (
    beside,
    gain,
    heatmaps,
    over_sparsity,
    packed_bytes,
    pareto,
    since_the_start,
)

__all__ = [
    "Picture", "arrivals", "attention_by_head", "beside", "gain", "heatmaps", "influence", "lines",
    "over_sparsity", "packed_bytes", "pareto", "rows_per_step", "seconds_at_token",
    "since_the_start", "speedup",
]  # fmt: skip


def seconds_at_token(cached: Sequence[float], uncached: Sequence[float]) -> Picture:
    """Seconds from the start until each new token, with and without a cache."""
    figure, axes = one_panel("new tokens so far", "seconds since the start")
    for seconds, colour, style, label in (
        (uncached, ORANGE, "--", "without cache"),
        (cached, BLUE, "-", "with cache"),
    ):
        count = range(1, len(seconds) + 1)
        axes.plot(count, seconds, color=colour, linestyle=style, linewidth=2)
        axes.annotate(
            f" {label}, {seconds[-1]:.1f} s",
            (len(seconds), seconds[-1]),
            color=colour,
            va="center",
        )
    axes.set_xlim(0, len(cached) * 1.32)
    axes.set_xticks([t for t in axes.get_xticks() if t <= len(cached)])
    axes.set_ylim(bottom=0)
    return figure


def arrivals(logs: Mapping[str, Sequence[float]]) -> Picture:
    """When each token of an answer came, in seconds since it was asked: a line for each log.

    The bar up to the first stroke is the time to the first token.
    """
    figure, axes = one_panel("seconds since the prompt was sent", "", height=1.2 + 0.8 * len(logs))
    colours = (BLUE, ORANGE, GREEN, GREY)
    for i, (seconds, colour) in enumerate(zip(logs.values(), colours, strict=False)):
        axes.barh(i, seconds[0], height=0.5, color=colour, alpha=0.3, hatch="//", edgecolor="white",
                  label="" if i else "time to the first token")  # fmt: skip
        axes.plot(seconds, [i] * len(seconds), color=colour, marker="|", linestyle="",
                  markersize=22, markeredgewidth=0.8, label="" if i else "a token")  # fmt: skip
    figure.legend(loc="outside upper center", ncols=2, frameon=False, markerscale=0.5)
    axes.set_yticks(range(len(logs)), list(logs))
    axes.set_ylim(len(logs) - 0.5, -0.5)
    axes.set_xlim(left=0)
    return figure


def rows_per_step(n_prompt: int, n_new: int) -> Picture:
    """Token rows whose key is computed at each step: for the first time, and again."""
    figure, axes = one_panel("step (0 is the prompt)", "token rows computed")
    steps = range(n_new)
    first = [n_prompt] + [1] * (n_new - 1)
    again = [0] + [n_prompt + i - 1 for i in steps[1:]]
    axes.bar(steps, again, bottom=first, color=ORANGE, width=0.8, hatch="//", edgecolor="white",
             label=f"again, without a cache: {sum(again):,}")  # fmt: skip
    axes.bar(steps, first, color=BLUE, width=0.8,
             label=f"for the first time, with or without: {sum(first):,}")  # fmt: skip
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def speedup(
    lengths: Sequence[int],
    measured: Sequence[float],
    predicted: Mapping[str, Sequence[float]],
    spread: Sequence[tuple[float, float]] | None = None,
) -> Picture:
    """How many times less time and work a cache takes, over the number of new tokens."""
    figure, axes = one_panel("new tokens", "times less with a cache")
    axes.plot(lengths, measured, color=BLUE, marker="o", linewidth=2, label="time, measured")
    if spread is not None:
        low, high = zip(*spread, strict=True)
        axes.fill_between(lengths, low, high, color=BLUE, alpha=0.15, label="smallest to largest")
    styles = [(ORANGE, "--"), (GREEN, ":"), (GREY, "-.")]
    for (label, values), (colour, style) in zip(predicted.items(), styles, strict=False):
        axes.plot(lengths, values, color=colour, linestyle=style, linewidth=2, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.set_xticks(list(lengths), [str(n) for n in lengths])
    axes.minorticks_off()
    ticks = [
        t
        for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
        if t <= 1.3 * _largest(predicted, measured)
    ]
    axes.set_yticks(ticks, [str(t) for t in ticks])
    axes.legend(frameon=False)
    return figure


def _largest(predicted: Mapping[str, Sequence[float]], measured: Sequence[float]) -> float:
    return max([*measured, *(v for values in predicted.values() for v in values)])


def attention_by_head(weights_LHT, tokens: Sequence[str]) -> Picture:
    """One query's weights: a column for each token it may use, a row for each layer and head.

    Shapes: weights_LHT is a tensor of weights, one row of them for each layer and head.
    """
    n_layers, n_heads, n_tokens = weights_LHT.shape
    figure = Picture(
        figsize=(2.2 + 0.62 * n_tokens, 0.9 + 0.235 * n_layers * n_heads),
        layout="constrained", facecolor="white",
    )  # fmt: skip
    axes = figure.subplots()
    rows = weights_LHT.reshape(-1, n_tokens).tolist()
    drawn = axes.imshow(rows, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(rows):
        for x, weight in enumerate(row):
            colour = "white" if weight > 0.6 else "black"
            axes.text(x, y, f"{weight:.2f}", ha="center", va="center", fontsize=7, color=colour)
    for layer in range(1, n_layers):
        axes.axhline(layer * n_heads - 0.5, color="white", linewidth=4)
    axes.set_xticks(range(n_tokens), tokens, rotation=30, ha="left")
    axes.xaxis.tick_top()
    names = [f"layer {i // n_heads}, head {i % n_heads}" for i in range(len(rows))]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_xlabel("token that is looked at")
    axes.set_ylabel("layer and head that looks")
    figure.colorbar(drawn, ax=axes, label="attention weight", shrink=0.5)
    return figure


def influence(moved_ST, tokens: Sequence[str], label: str) -> Picture:
    """How far each position's output moves (row) when one token is changed (column).

    Exact zeros are grey and crossed, so that they differ from what is merely small.
    Shapes: moved_ST is a tensor of distances, outputs by inputs.
    """
    rows = moved_ST.tolist()
    n_tokens = len(tokens)
    figure = Picture(
        figsize=(1.9 + 0.34 * n_tokens, 1.4 + 0.3 * n_tokens), layout="constrained",
        facecolor="white",
    )  # fmt: skip
    axes = figure.subplots()
    axes.set_facecolor("#E5E5E5")
    shown = [[value or float("nan") for value in row] for row in rows]
    drawn = axes.imshow(shown, cmap="Blues", norm="log", aspect="auto")
    zeros = [(x, y) for y, row in enumerate(rows) for x, value in enumerate(row) if value == 0]
    if zeros:
        axes.plot(*zip(*zeros, strict=True), linestyle="", marker="x", color=GREY, markersize=3)
    axes.set_xticks(range(n_tokens), tokens, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(n_tokens), tokens, fontsize=8)
    axes.set_xlabel("token that is changed")
    axes.set_ylabel("position whose output moves")
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.7)
    return figure


def lines(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str,
    *,
    doubling: bool = False,
) -> Picture:
    """Curves over the same x, each in a colour, marker and line of its own.

    With `doubling` both axes are logarithmic and x is labelled where it was measured.
    """
    figure, axes = one_panel(x_label, y_label)
    marked = len(x) <= 32
    styles = zip((BLUE, ORANGE, GREEN, GREY), "os^D", ("-", "--", ":", "-."), strict=True)
    for (label, y), (colour, marker, style) in zip(curves.items(), styles, strict=False):
        axes.plot(x, y, color=colour, marker=marker if marked else "", linestyle=style,
                  linewidth=2, label=label)  # fmt: skip
    if doubling:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(list(x), [f"{n:g}" for n in x])
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.minorticks_off()
    elif len(x) <= 8:
        axes.set_xticks(list(x))
    figure.legend(loc="outside upper center", ncols=len(curves), frameon=False)
    return figure
