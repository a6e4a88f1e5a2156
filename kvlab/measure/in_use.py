"""What `engaged` finds out about a cache, in numbers and in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

LESS = 0.95  # of dense: what counts as smaller
ZEROS = 0.05  # share of zeros from which they are told
SLACK = 1.5  # of what a step reads: what may be held without a word


@dataclass(frozen=True)
class InUse:
    """What one prompt and a few tokens showed of a cache.

    Bytes are those of keys and values with all that is stored to read them, but not of positions.
    `held_bytes` is the memory that the cache keeps at the end, `peak_bytes` the most it kept while
    the prompt was read, `read_bytes` what attention was handed in the last step, copies made for it
    included. `dense_bytes` would hold every token in the model's own type. `zeros` is the share of
    zeros among the numbers handed, None where they stay packed. `drift` is the largest change of a
    logit against a dense cache that is fed the same tokens, as a share of the largest logit.
    `findings` are sentences by name: fallback, nothing saved, heads, zeros, slack, copies, peak.
    """

    tokens: int
    dense_bytes: int
    held_bytes: int
    peak_bytes: int
    read_bytes: int
    heads: int | None
    zeros: float | None
    drift: float
    findings: Mapping[str, str] = field(default_factory=dict)

    @property
    def saves_memory(self) -> bool:
        """Whether less than a dense cache's memory is held once the prompt has been read."""
        return self.held_bytes < LESS * self.dense_bytes

    @property
    def saves_reading(self) -> bool:
        """Whether a step reads less than it would of a dense cache."""
        return self.read_bytes < LESS * self.dense_bytes

    def __str__(self) -> str:
        rows = {"held": self.held_bytes, "read by a step": self.read_bytes, "peak": self.peak_bytes}
        lines = [
            f"{name:<16}{count:>14,} bytes, {count / self.dense_bytes:>7.1%} of dense"
            for name, count in rows.items()
        ]
        lines.append(f"{'drift':<16}{self.drift:>14.2g} of the largest logit")
        return "\n".join([f"{self.tokens} tokens", *lines, *self.findings.values()])


def findings(found: Mapping[str, Any], kv_heads: int, rounding: float) -> Iterator[tuple[str, str]]:
    """What a cache that is meant to be small should not show, by name, in one sentence each."""
    yield from _if_nothing_is_saved(found, rounding)
    dense, held, read = (found[f"{name}_bytes"] for name in ("dense", "held", "read"))
    zeros, heads = found["zeros"], found["heads"]
    small_memory, small_reading = held < LESS * dense, read < LESS * dense
    if heads is not None and heads > kv_heads:
        yield (
            "heads",
            f"Attention is handed {heads} heads of keys and the model has {kv_heads}: they were "
            "repeated before they were stored, which undoes grouped queries.",
        )
    if zeros is not None and zeros > ZEROS and not small_memory:
        yield (
            "zeros",
            f"{zeros:.0%} of the numbers are zeros that take the room of any other number.",
        )
    if small_reading and held > SLACK * read:
        yield (
            "slack",
            f"A step reads {read:,} bytes and {held:,} are held: memory for more slots than are in "
            "use. Make the cache smaller, or shrink it after the prompt.",
        )
    if small_memory and not small_reading:
        yield (
            "copies",
            f"{held:,} bytes are held, but a step is handed {read:,}: dense copies are made for "
            "it, so that memory is saved and no time.",
        )
    if small_memory and found["peak_bytes"] >= LESS * dense:
        yield (
            "peak",
            f"While the prompt was read {found['peak_bytes']:,} bytes were held: the peak is "
            "that of a dense cache, and only what follows is small.",
        )


def _if_nothing_is_saved(found: Mapping[str, Any], rounding: float) -> Iterator[tuple[str, str]]:
    dense, held, read = (found[f"{name}_bytes"] for name in ("dense", "held", "read"))
    if min(held, read) < LESS * dense:
        return
    if found["drift"] <= rounding:
        yield (
            "fallback",
            "It holds, reads and answers as a dense cache does: nothing is compressed. Perhaps the "
            "prompt is too short for it, or what was asked for is passed over in silence.",
        )
    elif not found["zeros"]:
        yield (
            "nothing saved",
            f"It answers otherwise than a dense cache, holds {held:,} bytes and reads {read:,}, "
            f"where that has {dense:,}: at this length nothing is saved.",
        )
