"""Figures of what pruning costs and gains: functions from measured numbers to a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from kvlab.view.colours import BLUE, GREEN, GREY, ORANGE
from kvlab.view.drawing import MUTED, STYLES, Picture, bare, few_lines, one_panel


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
    styles = {name: STYLES[i % len(STYLES)] for i, name in enumerate(drawn)}
    styles |= dict(zip([name for name in muted if name in every], MUTED, strict=False))
    handles = {}
    side_by_side = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((title, label), curves) in zip(side_by_side, panels.items(), strict=True):
        for name, points in curves.items():
            some = [p for p in sorted(points) if p[1] > 0 or not label.startswith("KL")]
            if some:
                handles[name] = _curve(axes, some, styles[name], name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of the dense cache's bytes")
        axes.set_ylabel(label)
        bare(axes)
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
    figure, axes = one_panel(x_label, "times as fast as dense")
    looks = iter(few_lines(len(set(curves) - set(dashed))))
    look = few_lines(1)[0]
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
    figure, axes = one_panel("share of the numbers dropped", "bytes, in percent of dense")
    for (name, values), (colour, _, line) in zip(
        curves.items(), few_lines(len(curves)), strict=True
    ):
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
    figure, axes = one_panel(x_label, y_label)
    for (name, values), (colour, _, line) in zip(
        curves.items(), few_lines(len(curves)), strict=True
    ):
        axes.plot(range(len(values)), values, color=colour, linestyle=line, linewidth=2, label=name)
    for i, (name, x) in enumerate(at.items()):
        axes.axvline(x, color=GREY, linestyle=("--", ":")[i % 2], linewidth=1.5, label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    return figure


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
    styles = {name: STYLES[7 * i % len(STYLES)] for i, name in enumerate(drawn)}
    styles |= dict(zip([name for name in names if name in muted], MUTED[2:], strict=False))
    for axes, (title, curves) in zip(every, panels.items(), strict=True):
        for name, values in curves.items():
            colour, marker, line = styles[name]
            axes.plot(sparsities, values, color=colour, marker=marker, linestyle=line,
                      linewidth=1.8, label=name)  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of elements zeroed, %")
        axes.set_xticks(list(sparsities), [f"{100 * s:g}" for s in sparsities])
        axes.set_ylim(bottom=0)
        bare(axes)
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
