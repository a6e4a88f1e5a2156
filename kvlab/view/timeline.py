"""A timeline of one answer: which step computes how many keys, and which of them again."""

from __future__ import annotations

import traitlets

from kvlab.view import svg
from kvlab.view.panel import Panel

_LEFT, _RIGHT, _TOP, _PLOT, _WIDTH = 64, 700, 62, 200, 720
_BASE = _TOP + _PLOT


class Timeline(Panel):
    """One bar per step: keys computed for the first time, and keys computed again.

    Step 0 is prefill: it reads the prompt and makes the first token. Each later step makes one.
    """

    n_prompt = traitlets.Int(17, min=1, max=64).tag(sync=True, label="prompt tokens")
    n_new = traitlets.Int(4, min=1, max=32).tag(sync=True, label="new tokens")
    cached = traitlets.Bool(False).tag(sync=True, label="with a cache")

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Of each step, the keys computed for the first time and those computed again."""
        again = [0 if self.cached else self.n_prompt + i - 1 for i in range(1, self.n_new)]
        return [(self.n_prompt, 0), *((1, a) for a in again)]

    @property
    def running_total(self) -> list[int]:
        """Keys computed up to and with each step."""
        return [sum(map(sum, self.rows[: i + 1])) for i in range(self.n_new)]

    def words(self) -> str:
        """The totals, and what the first and a later token wait for."""
        total, again = self.running_total[-1], sum(a for _, a in self.rows)
        way = "With a cache" if self.cached else "Without a cache"
        said = (
            f"{way}, {self.n_prompt} prompt tokens and {self.n_new} new: {total} keys, {again} of "
            f"them computed again. The first token waits for {self.n_prompt} keys, "
            f"{self.n_prompt / total:.0%} of all"
        )
        if self.n_new == 1:
            return said + "."
        each = (total - self.n_prompt) / (self.n_new - 1)
        return f"{said}; each later one for {each:g} on average, {each / total:.1%}."

    def picture(self) -> str:
        """The bars on one scale for both ways, so that a tick changes their height only."""
        highest = self.n_prompt + self.n_new - 1
        parts = [_legend(), _axis(highest)]
        pitch = (_RIGHT - _LEFT) / max(self.n_new, 4)
        for i, (first, again) in enumerate(self.rows):
            x, width = _LEFT + pitch * i + 2, pitch - 4
            parts.append(_bar(x, width, first, again, _PLOT / highest))
            if pitch >= 30 or (self.n_new - 1 - i) % 2 == 0:  # every other one, where they crowd
                top = _BASE - (first + again) * _PLOT / highest
                parts.append(svg.text(x + width / 2, top - 4, str(first + again), anchor="middle"))
                parts.append(svg.text(x + width / 2, _BASE + 15, str(i), anchor="middle"))
        parts.append(_phase(_LEFT, _LEFT + pitch, "prefill"))
        if self.n_new > 1:
            name = "decode" if self.cached else "the whole text again"
            parts.append(_phase(_LEFT + pitch, _LEFT + pitch * self.n_new, name))
        how = "with" if self.cached else "without"
        title = f"Keys computed at each of {self.n_new} steps {how} a cache"
        return svg.page(_WIDTH, _BASE + 62, title, parts)


def _bar(x: float, width: float, first: int, again: int, unit: float) -> str:
    """Again below, striped, so that colour is not all that tells it apart; first above."""
    drawn = []
    if again:
        drawn.append(
            svg.box(x, _BASE - again * unit, width, again * unit, svg.ORANGE, name="again")
        )
        drawn += [
            svg.line(x, _BASE - y, x + width, _BASE - y, "white", 1)
            for y in range(8, int(again * unit), 8)
        ]
    top = _BASE - (first + again) * unit
    return "".join([*drawn, svg.box(x, top, width, first * unit, svg.BLUE, name="first")])


def _legend() -> str:
    parts = [svg.box(_LEFT, 12, 14, 14, svg.BLUE), svg.text(_LEFT + 20, 24, "for the first time")]
    x = _LEFT + 170
    parts += [
        svg.box(x, 12, 14, 14, svg.ORANGE),
        svg.line(x, 19, x + 14, 19, "white", 1),
        svg.text(x + 20, 24, "again"),
        svg.text(x + 90, 24, "number above a bar: its keys"),
    ]
    return "".join(parts)


def _axis(highest: int) -> str:
    parts = [svg.line(_LEFT, _BASE, _RIGHT, _BASE, svg.GREY, 1)]
    for rows in (0, highest):
        y = _BASE - rows * _PLOT / highest
        parts.append(svg.text(_LEFT - 8, y + 4, str(rows), anchor="end"))
    parts.append(svg.text(_LEFT - 8, _BASE + 15, "step", anchor="end"))
    middle = _TOP + _PLOT / 2
    parts.append(svg.text(20, middle, "keys in this step", anchor="middle", turn=-90))
    return "".join(parts)


def _phase(left: float, right: float, name: str) -> str:
    """A bracket under the steps of one phase."""
    y, middle = _BASE + 26, (left + right) / 2
    return svg.line(left + 3, y, right - 3, y, svg.INK, 2) + svg.text(
        middle, y + 18, name, anchor="middle", bold=True
    )
