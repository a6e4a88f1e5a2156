"""A machine's roof, and where a step of decode stands under it."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log2
from typing import Any

import traitlets

from kvlab.config import ModelConfig
from kvlab.measure.limits import Roofline, Work, decode_work
from kvlab.view import svg
from kvlab.view.panel import Panel

_WIDTH, _LEFT, _RIGHT, _TOP, _BASE = 720, 74, 690, 40, 290
_FROM, _TO = -2, 10  # FLOP per byte as powers of two: 1/4 to 1,024
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class LiveRoofline(Panel):
    """The most FLOP a second that a machine allows at each number of FLOP per byte.

    Left of the ridge reading sets the limit, right of it multiplying. The small dots are steps of
    decode with 1, 2, 4, ... chats, the large one the step that is chosen. `measured` are crosses
    to hold against it: by name, FLOP per byte and GFLOP/s.
    """

    batch = traitlets.Int(1, min=1, max=512).tag(sync=True, label="chats in the batch")
    context = traitlets.Int(100, min=1, max=32768).tag(
        sync=True, label="tokens in each chat", by=1, max=16384
    )
    number = traitlets.Enum(["4", "2", "1"], "4").tag(sync=True, label="bytes a number")

    def __init__(
        self,
        machine: Roofline,
        config: ModelConfig,
        measured: Mapping[str, tuple[float, float]] | None = None,
        **state: Any,
    ) -> None:
        self.machine, self.config, self.measured = machine, config, dict(measured or {})
        super().__init__(**state)

    @property
    def ridge(self) -> float:
        """FLOP per byte at which reading and multiplying take the same time."""
        return self.machine.gigaflops / self.machine.gigabytes_per_second

    @property
    def work(self) -> Work:
        """What the chosen step has to do."""
        return self._work(self.batch)

    def _work(self, batch: int) -> Work:
        size = int(self.number)
        return decode_work(self.config, batch=batch, context=self.context, bytes_per_number=size)

    def _roof(self, intensity: float) -> float:
        """GFLOP/s at most."""
        return min(self.machine.gigaflops, intensity * self.machine.gigabytes_per_second)

    def words(self) -> str:
        """What binds the step, and how many tokens a second that leaves."""
        work = self.work
        seconds = self.machine.seconds(work)
        bound = "memory-bound" if work.intensity < self.ridge else "compute-bound"
        chats = "1 chat" if self.batch == 1 else f"{self.batch} chats"
        return (
            f"{chats} after {self.context:,} tokens: {work.intensity:.2f} FLOP per byte, the ridge "
            f"is at {self.ridge:.1f}: {bound}. A step takes at least {1e3 * seconds:.3g} ms, which "
            f"is {self.batch / seconds:,.0f} tokens a second at most."
        )

    def picture(self) -> str:
        """Both axes go by powers of two."""
        machine = self.machine
        self._top = log2(machine.gigaflops) + 0.6
        slowest = [self._roof(2.0**_FROM), *(rate for _, rate in self.measured.values())]
        self._low = log2(min(slowest)) - 0.8
        ridge = min(max(self.ridge, 2.0**_FROM), 2.0**_TO)
        corner = self._at(ridge, self._roof(ridge))
        left, right = (self._at(2.0**e, self._roof(2.0**e)) for e in (_FROM, _TO))
        parts = [
            *self._axes(),
            svg.line(*left, *corner, svg.INK),
            svg.line(*corner, *right, svg.INK),
        ]
        parts.append(svg.line(corner[0], corner[1], corner[0], _BASE, svg.PALE, 2))
        parts.append(svg.text(corner[0], _TOP - 8, f"ridge {self.ridge:.1f}", anchor="middle"))
        parts += [svg.dot(*self._on_the_roof(self._work(b)), 3.5, svg.SKY) for b in _BATCHES]
        for name, (intensity, gigaflops) in self.measured.items():
            x, y = self._at(intensity, gigaflops)
            parts += [svg.line(x - 5, y - 5, x + 5, y + 5, svg.ORANGE),
                      svg.line(x - 5, y + 5, x + 5, y - 5, svg.ORANGE),
                      svg.text(x + 9, y + 5, name, fill=svg.ORANGE)]  # fmt: skip
        x, y = self._on_the_roof(self.work)
        parts.append(svg.dot(x, y, 8, svg.BLUE))
        said = f"B = {self.batch}"
        room = x < _RIGHT - 90
        parts.append(svg.text(x + (10 if room else -10), y + 20, said, bold=True, fill=svg.BLUE,
                              anchor="start" if room else "end"))  # fmt: skip
        title = "The most FLOP a second at each number of FLOP per byte, and a step of decode"
        return svg.page(_WIDTH, _BASE + 56, title, parts)

    def _at(self, intensity: float, gigaflops: float) -> tuple[float, float]:
        """A point in the picture; what lies outside is put on its edge."""
        across = (log2(intensity) - _FROM) / (_TO - _FROM)
        up = (log2(gigaflops) - self._low) / (self._top - self._low)
        across, up = min(max(across, 0.0), 1.0), min(max(up, 0.0), 1.0)
        return _LEFT + across * (_RIGHT - _LEFT), _BASE - up * (_BASE - _TOP)

    def _on_the_roof(self, work: Work) -> tuple[float, float]:
        return self._at(work.intensity, self._roof(work.intensity))

    def _axes(self) -> list[str]:
        """Both axes with their numbers, in TFLOP where those of GFLOP would be long."""
        middle, unit = (_TOP + _BASE) / 2, 1000.0 if self.machine.gigaflops >= 4000 else 1.0
        parts = [
            svg.line(_LEFT, _BASE, _RIGHT, _BASE, svg.GREY, 1),
            svg.line(_LEFT, _TOP, _LEFT, _BASE, svg.GREY, 1),
            svg.text((_LEFT + _RIGHT) / 2, _BASE + 42, "FLOP per byte", anchor="middle"),
            svg.text(18, middle, f"{'T' if unit > 1 else 'G'}FLOP a second", anchor="middle",
                     turn=-90),
        ]  # fmt: skip
        for e in range(_FROM, _TO + 1, 2):
            x, _ = self._at(2.0**e, 1.0)
            parts.append(svg.text(x, _BASE + 18, f"{2.0**e:g}", anchor="middle"))
        steps = range(ceil(self._low - log2(unit)), int(self._top - log2(unit)) + 1)
        for e in steps[:: 1 + len(steps) // 8]:
            y = self._at(1.0, unit * 2.0**e)[1]
            parts.append(svg.text(_LEFT - 8, y + 4, f"{2.0**e:g}", anchor="end"))
            parts.append(svg.line(_LEFT, y, _RIGHT, y, svg.PALE, 0.5))
        return parts
