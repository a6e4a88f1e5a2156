"""Figures of many requests: who was served when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvlab.serve.workload import Log
from kvlab.view.colours import BLUE, GREY, ORANGE
from kvlab.view.drawing import STYLES, Picture, one_panel


def gantts(
    logs: Mapping[str, Log],
    most: int = 24,
    *,
    step: float | None = None,
    names: Sequence[str] | None = None,
    gaps: bool = True,
) -> Picture:
    """A panel for each log, by its name, on one axis of time: what the policies do differently.

    A line is a request, in the order of arrival. Each block is a step in which tokens of it were
    computed: its prompt, or a token of its answer. The first `most` requests are shown, by their
    `names` or numbers. Time is in seconds, or in units of one `step` that takes so many of them.
    With `gaps` a panel's title says the longest one.
    """
    n = min(most, *(len(log.stories) for log in logs.values()))
    height = 0.5 + len(logs) * (0.45 + 0.16 * n)
    figure = Picture(figsize=(8.4, height), layout="constrained", facecolor="white")
    panels = figure.subplots(len(logs), sharex=True, squeeze=False)[:, 0]
    for axes, (name, log) in zip(panels, logs.items(), strict=True):
        _requests(axes, log, n)
        longest = max(story.longest_gap for story in log.stories[:n])
        gap = f"{longest:.2g} s" if step is None else f"{longest / step:.0f} steps"
        axes.set_title(f"{name}: longest gap {gap}" if gaps else name, fontsize=10, loc="left")
        if names is not None:
            axes.set_yticks(range(n), list(names)[:n])
            axes.set_ylabel("")
        if step is not None:
            axes.xaxis.set_major_formatter(lambda x, _: f"{x / step:.0f}")
            end = max(s.tokens[-1] for log in logs.values() for s in log.stories[:n])
            axes.set_xticks([step * at for at in ticks(end / step)])
    panels[-1].set_xlabel("seconds" if step is None else "decode steps")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=4, frameon=False, fontsize=9)
    return figure


def ticks(end: float) -> list[int]:
    """Round numbers from 0 to an end, ten at most."""
    for each in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000):
        if end / each <= 9:
            return list(range(0, int(end) + 1, each))
    return [0, int(end)]


def _requests(axes: Any, log: Log, n: int) -> None:
    for i, story in enumerate(log.stories[:n]):
        label = {"label": "waits"} if i == 0 else {}
        axes.plot([story.came, story.tokens[-1]], [i, i], color=GREY, linewidth=1, **label)
        label = {"label": "comes"} if i == 0 else {}
        axes.plot(story.came, i, color="black", marker="|", markersize=6, linestyle="", **label)
    blocks: dict[bool, list[tuple[int, float, float]]] = {True: [], False: []}
    for step in log.steps:
        for i in (i for i in step.n_tokens if i < n):
            reads = step.start < log.stories[i].tokens[0] - step.seconds / 2
            blocks[reads].append((i, step.start, step.seconds))
    for reads, colour, hatch, label in (
        (True, ORANGE, "////", "reads its prompt"), (False, BLUE, "", "writes a token"),
    ):  # fmt: skip
        lines, starts, lengths = zip(*blocks[reads], strict=True) if blocks[reads] else ((),) * 3
        axes.barh(
            lines, lengths, left=starts, height=0.62, color=colour, hatch=hatch,
            edgecolor="white", linewidth=0.3, zorder=2, label=label,
        )  # fmt: skip
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_ylabel("request")
    axes.set_yticks(range(0, n, 4))
    axes.spines[["top", "right"]].set_visible(False)


def in_time(rows: list[dict], limit: str = "strict") -> Picture:
    """Share of the requests served within a limit against the load, a line for each policy."""
    load = "load, as a share of what is served when everybody is there at once"
    figure, axes = one_panel(load, f"served in time ({limit})")
    names = list(dict.fromkeys(row["policy"] for row in rows))
    for name, (colour, marker, line) in zip(names, STYLES, strict=False):
        found = sorted((r["load"], r[f"served_{limit}"]) for r in rows if r["policy"] == name)
        axes.plot(
            *zip(*found, strict=True), color=colour, marker=marker, linestyle=line, label=name
        )
    axes.set_ylim(-0.03, 1.03)
    axes.legend(frameon=False)
    return figure
