"""Rules that drop nothing and hold every number in fewer bits.

B rows of the batch, G key/value heads, T slots, D head width, U groups of tokens, M numbers in a
row. What a rule is says `rules.Rule`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab import checks
from kvlab.pack import rows
from kvlab.pack.format import Format
from kvlab.pack.rows import Codes


@dataclass(frozen=True)
class CodesPerToken(Format):
    """Quantise each token in groups of channels: KIVI's way with values."""

    bits: int
    group: int = 32
    unit = 1

    def __post_init__(self) -> None:
        check_numbers(self)

    def mask(self, score_BGTD: Tensor) -> Tensor:
        return torch.ones_like(score_BGTD, dtype=torch.bool)

    def encode(self, x_BGTD: Tensor) -> tuple[Tensor, ...]:
        _check_group(x_BGTD.shape[-1], self.group)
        return code_parts(rows.quantise(x_BGTD.unflatten(-1, (-1, self.group)), self.bits))

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        return Codes(*parts, self.bits, self.group).unpack().flatten(-2)

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        _check_group(width, self.group)
        return width // self.group * rows.code_bytes(self.group, self.bits, dtype)


@dataclass(frozen=True)
class CodesPerChannel(Format):
    """Quantise each channel over groups of tokens: KIVI's way with keys."""

    bits: int
    group: int = 32

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def unit(self) -> int:
        return self.group

    def mask(self, score_BGTD: Tensor) -> Tensor:
        return torch.ones_like(score_BGTD, dtype=torch.bool)

    def encode(self, x_BGTD: Tensor) -> tuple[Tensor, ...]:
        return code_parts(rows.quantise(channels(x_BGTD, self.group), self.bits))

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        x_BGUDM = Codes(*parts, self.bits, self.group).unpack()
        return x_BGUDM.transpose(-1, -2).flatten(2, 3)

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        return width * rows.code_bytes(self.group, self.bits, dtype)


def check_numbers(rule: object) -> None:
    """Refuse settings of a rule that are of another type; what fits is known with the width."""
    may_lack = {
        "n_kept": True,
        "group": hasattr(rule, "head_bytes"),
        "bits": hasattr(rule, "marks"),
    }
    for name, free in may_lack.items():
        value = getattr(rule, name, None if free else 1)
        if value is not None or not free:
            checks.whole(name, value, None)
    if getattr(rule, "marks", None) not in (None, "bitmap", "index"):
        raise ValueError(
            f"marks is {checks.shown(rule.marks)}; expected 'bitmap', 'index' or None."
        )
    if getattr(rule, "sparsity", None) is not None:
        checks.number("sparsity", rule.sparsity, lambda _: True, "a share of a row")


def code_parts(codes: Codes) -> tuple[Tensor, ...]:
    """What is stored of codes."""
    return codes.codes, codes.scale, codes.zero


def grouped(x_BGTD: Tensor, group: int) -> Tensor:
    """(B, G, T, D) as (B, G, U, M, D): groups of M tokens."""
    return x_BGTD.unflatten(2, (x_BGTD.shape[2] // max(1, group), group))


def channels(x_BGTD: Tensor, group: int) -> Tensor:
    """(B, G, T, D) as (B, G, U, D, M): each channel over groups of M tokens."""
    return grouped(x_BGTD, group).transpose(-1, -2)


def _check_group(width: int, group: int) -> None:
    if group < 1 or width % group:
        raise ValueError(
            f"Groups of {group} channels were asked for heads of width {width}; expected a divisor."
        )
