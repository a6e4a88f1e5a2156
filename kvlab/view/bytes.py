"""What one decoding step reads of one key/value head: dense, masked, compacted, packed."""

from __future__ import annotations

import traitlets

from kvlab.pack.rows import n_kept
from kvlab.view import svg
from kvlab.view.panel import Panel

COLOURS = {
    "window": svg.GREY,
    "kept": svg.BLUE,
    "zeros": svg.ORANGE,
    "marks": svg.GREEN,
}
SAID = {
    "window": "recent window, dense",
    "kept": "numbers that stayed",
    "zeros": "zeros, read all the same",
    "marks": "marks: which stayed",
}
NAMES = ("dense", "masked", "compacted", "packed")
_NUMBER = 2  # bytes of a float16
_WIDTH, _LEFT, _ROOM, _TOP, _STEP = 760, 92, 470, 16, 44


class StepBytes(Panel):
    """Four ways to hold the same share of one head's keys and values, as bytes per decode step.

    Dense keeps all; masked zeroes a share of the numbers and keeps their places; compacted drops
    that share of the tokens; packed drops that share of each token's numbers and marks the rest in
    a bitmap. Numbers are float16. The latest `window` tokens stay dense in all four.
    """

    tokens = traitlets.Int(4096, min=64, max=16384).tag(sync=True, label="tokens", by=64)
    sparsity = traitlets.Int(70, min=0, max=95).tag(sync=True, label="sparsity, %")
    window = traitlets.Int(32, min=0, max=512).tag(sync=True, label="window", by=8)
    width = traitlets.Int(128, min=32, max=256).tag(sync=True, label="head width", by=8)
    marks = traitlets.Bool(True).tag(sync=True, label="count the marks")

    @traitlets.validate("width")
    def _whole_bytes(self, proposal) -> int:
        if proposal["value"] % 8:
            raise traitlets.TraitError(
                f"width is {proposal['value']}; expected a multiple of 8, since a bitmap holds "
                "whole bytes."
            )
        return proposal["value"]

    @property
    def kept(self) -> int:
        """Numbers that a packed row keeps."""
        return n_kept(self.sparsity / 100, self.width)

    @property
    def parts(self) -> dict[str, dict[str, int]]:
        """Bytes of each bar, part by part."""
        old = max(0, self.tokens - self.window)
        row, token = self.width * _NUMBER, 2 * self.width * _NUMBER
        window = {"window": (self.tokens - old) * token}
        stays = 2 * old * self.kept * _NUMBER
        marks = 2 * old * self.width // 8 if self.marks and self.kept < self.width else 0
        return {
            "dense": window | {"kept": old * token},
            "masked": window | {"kept": stays, "zeros": 2 * old * row - stays},
            "compacted": window | {"kept": round(old * self.kept / self.width) * token},
            "packed": window | {"kept": stays, "marks": marks},
        }

    @property
    def totals(self) -> dict[str, int]:
        """Bytes that each way reads per step, of keys and values of one head."""
        return {name: sum(parts.values()) for name, parts in self.parts.items()}

    @property
    def break_even(self) -> float:
        """The least share of numbers to drop so that a packed row is smaller than a dense one."""
        marks = self.width // 8 if self.marks else 0
        most = (self.width * _NUMBER - marks - 1) // _NUMBER
        return 1 - most / self.width

    def words(self) -> str:
        """The four sizes in percent, and from where packing pays."""
        totals = self.totals
        shares = ", ".join(f"{name} {totals[name] / totals['dense']:.1%}" for name in NAMES[1:])
        return (
            f"{self.tokens:,} tokens, {self.kept} of {self.width} numbers kept: dense "
            f"{totals['dense']:,} bytes of float16; {shares}. A packed row is smaller than a dense "
            f"one from {self.break_even:.1%} sparsity on."
        )

    def picture(self) -> str:
        """One bar for each way, cut into its parts."""
        totals, scale = self.totals, _ROOM / self.totals["dense"]
        drawn = []
        for i, name in enumerate(NAMES):
            y, x = _TOP + _STEP * i, float(_LEFT)
            drawn.append(svg.text(_LEFT - 8, y + 20, name, anchor="end", bold=True))
            for part, n_bytes in self.parts[name].items():
                if n_bytes:
                    drawn.append(
                        svg.box(x, y, n_bytes * scale, 28, COLOURS[part], name=f"{name}-{part}")
                    )
                    drawn += _pattern(part, x, y, n_bytes * scale)
                x += n_bytes * scale
            said = f"{totals[name] / 2**20:.2f} MiB, {totals[name] / totals['dense']:.1%}"
            drawn.append(svg.text(x + 8, y + 20, said))
        y = _TOP + _STEP * len(NAMES) + 14
        for x, part in zip((12, 184, 356, 564), COLOURS, strict=True):
            drawn.append(svg.box(x, y, 22, 16, COLOURS[part], name="legend"))
            drawn += _pattern(part, x, y, 22, 16)
            drawn.append(svg.text(x + 28, y + 13, SAID[part]))
        title = f"Bytes of one key/value head that a step reads, {self.sparsity} % sparse"
        return svg.page(_WIDTH, y + 30, title, drawn)


def _pattern(part: str, x: float, y: float, width: float, height: float = 28) -> list[str]:
    """White lines over zeros and marks, so that colour is not all that tells parts apart."""
    if part == "zeros":
        at = range(6, int(width) - 2, 12)
        return [svg.line(x + a, y + 4, x + a, y + height - 4, "white", 1.5) for a in at]
    if part == "marks":
        at = range(4, int(height) - 2, 6)
        return [svg.line(x + 1, y + a, x + width - 1, y + a, "white", 1) for a in at]
    return []
