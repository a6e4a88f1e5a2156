"""Figures of what runs through a model: the stream, guesses on the way, and what is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from kvlab.view.colours import BLUE, GREEN, GREY, INK, ORANGE, PALE
from kvlab.view.drawing import Picture, bare, one_panel

COLOURS = {"embedding": GREEN, "attention": BLUE, "MLP": ORANGE}


def ribbon(
    lengths: Sequence[float],
    kinds: Sequence[str],
    guesses: Sequence[tuple[str, float]],
    title: str,
) -> Picture:
    """One token's stream as a band that is as wide as its vector is long, from left to right.

    `kinds` says what made it what it is at each stage: "embedding", "attention" or "MLP".
    `guesses` are a token and its probability for each stage, written above the band; the lengths
    stand below it.
    """
    figure, axes = one_panel("", "", width=9.0, height=3.9)
    top = max(lengths) / 2
    for i in range(1, len(kinds)):
        sides = [lengths[i - 1] / 2, lengths[i] / 2]
        label = "" if kinds[i] in kinds[:i] else f"added by {kinds[i]}"
        axes.fill_between([i - 1, i], sides, [-y for y in sides], color=COLOURS[kinds[i]],
                          alpha=0.75, linewidth=0, label=label)  # fmt: skip
    for i, ((guess, share), length) in enumerate(zip(guesses, lengths, strict=True)):
        axes.plot([i, i], [-1.15 * top, 1.15 * top], color=GREY, linewidth=0.7)
        axes.text(i, 1.2 * top, f"{guess}\n{share:.0%}", ha="center", fontsize=9, color=INK)
        axes.text(i, -1.4 * top, f"{length:.0f}", ha="center", fontsize=9, color=GREY)
    axes.text(-0.6, -1.4 * top, "length", ha="right", fontsize=9, color=GREY)
    axes.text(-0.6, 1.3 * top, "guess", ha="right", fontsize=9, color=INK)
    axes.set_ylim(-1.5 * top, 1.75 * top)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xticks(range(len(kinds)), _stages(kinds))
    axes.grid(visible=False)
    axes.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _stages(kinds: Sequence[str]) -> list[str]:
    """The names of stages: a kind's number is that of its block."""
    return [
        kind if kind == "embedding" else f"{kind} {kinds[:i].count(kind)}"
        for i, kind in enumerate(kinds)
    ]


def guesses(
    tokens: Sequence[str],
    said: Sequence[Sequence[str]],
    share_LS: Tensor,
    stages: Sequence[str],
    title: str,
) -> Picture:
    """What would be said at each stage (row, the last on top) after each token (column).

    The darker a guess, the more of the probability it has; one that is the model's own is bold.
    """
    n_tokens, n_stages = len(tokens), len(stages)
    figure = Picture(
        figsize=(1.4 + 0.98 * n_tokens, 0.9 + 0.42 * n_stages), layout="constrained",
        facecolor="white",
    )  # fmt: skip
    axes = figure.subplots()
    drawn = axes.imshow(
        share_LS.tolist(), cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower"
    )
    for y, row in enumerate(said):
        for x, guess in enumerate(row):
            dark = float(share_LS[y][x]) > 0.6
            axes.text(x, y, guess, ha="center", va="center", fontsize=9,
                      weight="bold" if guess == said[-1][x] else "normal",
                      color="white" if dark else INK)  # fmt: skip
    axes.set_xticks(range(n_tokens), tokens, fontsize=9)
    axes.set_yticks(range(n_stages), stages, fontsize=9)
    axes.set_xlabel("the token whose row is read")
    axes.set_title(title, fontsize=10)
    figure.colorbar(drawn, ax=axes, label="probability of the guess", shrink=0.8)
    return figure


def reached(panels: Mapping[str, Tensor], tokens: Sequence[str], title: str) -> Picture:
    """How far each output row (row) moves when one input row (column) is changed, a panel each.

    What does not move at all is grey and crossed. Shapes: each panel moved_SS.
    """
    n_tokens = len(tokens)
    figure = Picture(
        figsize=(0.8 + (1.0 + 0.36 * n_tokens) * len(panels), 1.3 + 0.36 * n_tokens),
        layout="constrained", facecolor="white",
    )  # fmt: skip
    side_by_side = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (half, moved_SS) in zip(side_by_side, panels.items(), strict=True):
        rows = moved_SS.tolist()
        most = max(max(row) for row in rows) or 1.0
        axes.set_facecolor(PALE)
        shown = [[value / most or float("nan") for value in row] for row in rows]
        axes.imshow(shown, cmap="Blues", vmin=-0.6, vmax=1, aspect="equal")
        zeros = [(x, y) for y, row in enumerate(rows) for x, value in enumerate(row) if value == 0]
        if zeros:
            axes.plot(*zip(*zeros, strict=True), linestyle="", marker="x", color=GREY, markersize=4)
        axes.set_title(half, fontsize=10)
        axes.set_xticks(range(n_tokens), tokens, rotation=60, ha="right", fontsize=8)
        axes.set_yticks(range(n_tokens), tokens, fontsize=8)
        axes.set_xlabel("input row that is changed")
    side_by_side[0].set_ylabel("output row that moves")
    figure.suptitle(title, fontsize=10)
    return figure


def bars(
    names: Sequence[str],
    values: Sequence[float],
    label: str,
    title: str,
    colours: Sequence[str] = (),
    as_text: Sequence[str] | None = None,
) -> Picture:
    """A bar for each name, from top to bottom, with its value written at its end."""
    figure, axes = one_panel(label, "", height=0.9 + 0.3 * len(names))
    axes.barh(range(len(names)), values, color=list(colours) or BLUE, height=0.7)
    texts = as_text or [f"{value:g}" for value in values]
    for y, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.annotate(f" {text} ", (value, y), va="center", fontsize=9,
                      ha="left" if value >= 0 else "right")  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.12)
    figure.suptitle(title, fontsize=10)
    return figure


def draws(
    tokens: Sequence[str], panels: Mapping[str, Sequence[float]], title: str, columns: int = 3
) -> Picture:
    """Probabilities of the same tokens under several ways to draw, a panel each.

    A token that cannot be drawn has no bar; how many can be is up to the titles.
    """
    rows = -(-len(panels) // columns)
    figure = Picture(
        figsize=(9.0, 0.9 + (0.55 + 0.19 * len(tokens)) * rows), layout="constrained",
        facecolor="white",
    )  # fmt: skip
    every = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, (way, shares) in zip(every, panels.items(), strict=False):
        colours = [BLUE if share else GREY for share in shares]
        axes.barh(range(len(tokens)), shares, color=colours, height=0.75)
        for y, share in enumerate(shares):
            text = " out" if not share else f" {share:.0%}" if share > 0.005 else " under 1%"
            axes.annotate(text, (share, y), va="center", fontsize=7, color=colours[y])
        axes.set_title(way, fontsize=9)
        axes.set_yticks(range(len(tokens)), tokens, fontsize=8)
        axes.set_ylim(len(tokens) - 0.4, -0.6)
        axes.set_xlim(0, 1.15)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        bare(axes)
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure
