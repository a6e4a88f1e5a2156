"""The book's figures: functions from measured numbers to a matplotlib figure.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; every line
also differs in style or marker. A figure draws on white whatever the notebook's theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7A7A7A"


class Picture(Figure):
    """A figure that a notebook shows by itself, with no plotting state behind it."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png", dpi=110)
        return png.getvalue()


def _figure(x_label: str, y_label: str, width: float = 7.0, height: float = 3.6):
    figure = Picture(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def seconds_at_token(cached: Sequence[float], uncached: Sequence[float]) -> Picture:
    """Seconds from the start until each new token, with and without a cache."""
    figure, axes = _figure("new tokens so far", "seconds since the start")
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
    figure, axes = _figure("seconds since the prompt was sent", "", height=1.2 + 0.8 * len(logs))
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
    figure, axes = _figure("step (0 is the prompt)", "token rows computed")
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
    figure, axes = _figure("new tokens", "times less with a cache")
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


_STYLES = [
    (colour, marker, line)
    for marker, line in (("o", "-"), ("s", "--"), ("^", ":"), ("P", "-."))
    for colour in (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
]
_MUTED = [("black", "*", ""), ("black", "X", ""), (GREY, "v", ":"), (GREY, "D", "--")]


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
    figure, axes = _figure(x_label, y_label)
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


def pareto(
    panels: Mapping[tuple[str, str], Mapping[str, Sequence[tuple[float, float, float, float]]]],
    muted: Sequence[str] = (),
) -> Picture:
    """Quality over the share of bytes, a panel for each (title, label) and a line for each method.

    A point is (share of bytes, value, low, high). Methods named in `muted` are grey: they are what
    the others are compared with. Values of 0 are not drawn in a panel whose label begins with "KL",
    which is logarithmic; the others go from 0 to 1.
    """
    every = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    columns = 1 + len(every) // 20
    height = max(4.2, 0.5 + 0.23 * -(-len(every) // columns))
    figure = Picture(
        figsize=(4.3 * len(panels) + 1.9 * columns, height), layout="constrained", facecolor="white"
    )
    drawn = [name for name in every if name not in muted]
    styles = {name: _STYLES[i % len(_STYLES)] for i, name in enumerate(drawn)}
    styles |= dict(zip([name for name in muted if name in every], _MUTED, strict=False))
    handles = {}
    for axes, ((title, label), curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for name, points in curves.items():
            some = [p for p in sorted(points) if p[1] > 0 or not label.startswith("KL")]
            if some:
                handles[name] = _curve(axes, some, styles[name], name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of the dense cache's bytes")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlim(0, 1.03)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        if label.startswith("KL"):
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.03)
            axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False,
                  fontsize=9, ncols=columns)  # fmt: skip
    return figure


def _curve(axes, points: Sequence[tuple[float, float, float, float]], style, name: str):
    """A line with markers, and thin bars for the intervals."""
    colour, marker, line = style
    x, y, low, high = zip(*points, strict=True)
    axes.vlines(x, low, high, color=colour, linewidth=1, alpha=0.35)
    (drawn,) = axes.plot(x, y, color=colour, marker=marker, linestyle=line, linewidth=1.6,
                         markersize=6, label=name, clip_on=False)  # fmt: skip
    return drawn


def gain(
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    x_label: str,
    *,
    as_text: Sequence[str] | None = None,
    dashed: Sequence[str] = (),
) -> Picture:
    """Times as fast as the dense way, over something; below 1 it loses.

    Curves named in `dashed` are predictions: a thin dashed line without markers in the colour of
    the curve that stands before them.
    """
    figure, axes = _figure(x_label, "times as fast as dense")
    looks, look = iter(_lines()), _lines()[0]
    for name, values in curves.items():
        if name in dashed:
            axes.plot(x, values, color=look[0], linestyle=(0, (1, 2)), linewidth=1.2, label=name)
            continue
        look = next(looks)
        axes.plot(x, values, color=look[0], marker=look[1], linestyle=look[2], linewidth=2,
                  label=name)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(x), as_text or [f"{n:,g}" for n in x])
    axes.minorticks_off()
    axes.axhline(1, color="black", linewidth=1)
    axes.axhspan(0, 1, color=ORANGE, alpha=0.08)
    axes.annotate("slower", (0.99, 0.02), xycoords="axes fraction", ha="right", color=ORANGE)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return figure


def packed_bytes(sparsities: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Picture:
    """Bytes in percent of the dense ones over the share of numbers dropped; above 100 it loses."""
    figure, axes = _figure("share of the numbers dropped", "bytes, in percent of dense")
    for (name, values), (colour, _, line) in zip(curves.items(), _lines(), strict=False):
        axes.plot(sparsities, values, color=colour, linestyle=line, linewidth=2, label=name)
    axes.axhline(100, color="black", linewidth=1)
    axes.axhspan(100, 130, color=ORANGE, alpha=0.08)
    axes.annotate("larger than dense", (0.5, 112), ha="center", va="center", color=ORANGE)
    axes.set_ylim(0, 125)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.legend(frameon=False)
    return figure


def since_the_start(
    curves: Mapping[str, Sequence[float]], x_label: str, y_label: str, at: Mapping[str, float]
) -> Picture:
    """Running totals; `at` marks places on the x axis by upright lines."""
    figure, axes = _figure(x_label, y_label)
    for (name, values), (colour, _, line) in zip(curves.items(), _lines(), strict=False):
        axes.plot(range(len(values)), values, color=colour, linestyle=line, linewidth=2, label=name)
    for i, (name, x) in enumerate(at.items()):
        axes.axvline(x, color=GREY, linestyle=("--", ":")[i % 2], linewidth=1.5, label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    return figure


def _lines() -> list[tuple[str, str, str]]:
    """Looks of a few lines, each with a colour, a marker and a dash of its own."""
    return [(BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", ":"), (GREY, "D", "-.")]


def heatmaps(panels: Mapping[str, Tensor], tokens: Sequence[str]) -> Picture:
    """Matrices of tokens x channels side by side: orange below 0, blue above; one scale for each.

    Shapes: (T, D) each.
    """
    figure = Picture(
        figsize=(4.2 * len(panels), 1.0 + 0.145 * len(tokens)),
        layout="constrained",
        facecolor="white",
    )
    colours = LinearSegmentedColormap.from_list("sign", [ORANGE, "white", BLUE])
    for axes, (title, x_TD) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True
    ):
        x_TD = x_TD.detach().cpu().float().numpy()
        top = float(abs(x_TD).max())
        drawn = axes.imshow(x_TD, cmap=colours, vmin=-top, vmax=top, aspect="auto")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("channel")
        axes.set_yticks(range(len(tokens)), [t.replace("\n", "\\n") for t in tokens], fontsize=7)
        figure.colorbar(drawn, ax=axes, shrink=0.6, label="element")
    figure.axes[0].set_ylabel("token")
    return figure


def over_sparsity(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    sparsities: Sequence[float],
    y_label: str,
    muted: Sequence[str] = (),
    looks: Sequence[str] = (),
) -> Picture:
    """A line for each method over the share of elements that went, a panel for each title.

    Methods named in `muted` are grey: they are what the others are compared with. `looks` names
    those of a whole chapter, so that each looks the same in all its figures.
    """
    figure = Picture(figsize=(4.2 * len(panels), 3.9), layout="constrained", facecolor="white")
    every = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    names = list(dict.fromkeys([*looks, *(n for curves in panels.values() for n in curves)]))
    drawn = [name for name in names if name not in muted]
    # each seventh has another colour, another marker and another line
    styles = {name: _STYLES[7 * i % len(_STYLES)] for i, name in enumerate(drawn)}
    styles |= dict(zip([name for name in names if name in muted], _MUTED[2:], strict=False))
    for axes, (title, curves) in zip(every, panels.items(), strict=True):
        for name, values in curves.items():
            colour, marker, line = styles[name]
            axes.plot(sparsities, values, color=colour, marker=marker, linestyle=line,
                      linewidth=1.8, label=name)  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of elements zeroed, %")
        axes.set_xticks(list(sparsities), [f"{100 * s:g}" for s in sparsities])
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=8)
    every[0].set_ylabel(y_label)
    return figure


def beside(labels: Sequence[str], panels: Mapping[str, Sequence[float]]) -> Picture:
    """Bars for the same things in several measures, a panel each; the first label is on top."""
    figure = Picture(
        figsize=(3.6 * len(panels), 0.9 + 0.34 * len(labels)),
        layout="constrained",
        facecolor="white",
    )
    every = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    looks = [(BLUE, ""), (ORANGE, "//"), (GREEN, ".."), (GREY, "xx")]
    for axes, (title, values), (colour, hatch) in zip(
        every, panels.items(), looks[: len(panels)], strict=True
    ):
        bars = axes.barh(range(len(labels)), values, color=colour, hatch=hatch, edgecolor="white")
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel(title)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    every[0].invert_yaxis()
    return figure
