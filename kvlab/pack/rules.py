"""How a token's key or value is held once it leaves the window: one class a format.

B rows of the batch, G key/value heads, T slots, D head width, N kept of M numbers.

What a rule holds is a few tensors whose third axis is time, so the cache can take memory once and
write in place, whatever the rule is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab import kernels
from kvlab.ops import wide
from kvlab.pack import rows
from kvlab.pack.rows import Codes, PackedRows

# (layer, x_BGTD, pos_BGT) -> a score, or a mask of exactly N per row; both of x's shape
Score = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Dense:
    """Keep every number."""

    unit = 1

    def encode(self, x_BGTD: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
        return (x_BGTD,)

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        return parts[0]

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        """Bytes of `unit` tokens of one head."""
        return width * dtype.itemsize


@dataclass(frozen=True)
class PerToken:
    """Each token keeps the N of its D numbers that score highest (without a score: the largest)."""

    n_kept: int
    score: Score | None = None
    marks: str | None = None
    bits: int | None = None
    unit = 1

    def encode(self, x_BGTD: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
        if score is None and not self.bits and _packs(x_BGTD):
            return _largest(x_BGTD, self)
        by = x_BGTD.abs() if score is None else score
        return _parts(rows.pack(x_BGTD, by, self.n_kept, marks=self.marks, bits=self.bits))

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        return _rows_of(parts, width, self).unpack()

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        """Bytes of `unit` tokens of one head."""
        return rows.row_bytes(width, self.n_kept, dtype, marks=self.marks, bits=self.bits)

    def kind(self, width: int) -> str:
        """How a row of this width says what it kept: "bitmap" or "index"."""
        return self.marks or rows.smaller_marks(width, self.n_kept)


@dataclass(frozen=True)
class PerChannel:
    """Each channel keeps N of its numbers in every `group` tokens that follow each other."""

    n_kept: int
    group: int = 32
    score: Score | None = None
    marks: str | None = None
    bits: int | None = None

    @property
    def unit(self) -> int:
        return self.group

    def encode(self, x_BGTD: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
        x_BGTDM = _channels(x_BGTD, self.group)
        by = x_BGTDM.abs() if score is None else _channels(score, self.group)
        return _parts(rows.pack(x_BGTDM, by, self.n_kept, marks=self.marks, bits=self.bits))

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        return _rows_of(parts, self.group, self).unpack().transpose(-1, -2).flatten(2, 3)

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        """Bytes of `unit` tokens of one head."""
        row = rows.row_bytes(self.group, self.n_kept, dtype, marks=self.marks, bits=self.bits)
        return width * row


@dataclass(frozen=True)
class Channels:
    """Every `group` tokens that follow each other keep N whole channels, and the names of these.

    Without a score the channels with the most energy stay. So what `Sparsify` left of keys or
    values by `think` or `think_v` with `whole_channels` is held exactly: channels that were zeroed
    have none. A score counts by its sum over the group's tokens.
    """

    n_kept: int
    group: int = 32
    score: Score | None = None

    @property
    def unit(self) -> int:
        return self.group

    def encode(self, x_BGTD: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
        x_BGUMD = x_BGTD.unflatten(2, (-1, self.group))
        by = (wide(x_BGTD) ** 2 if score is None else score).unflatten(2, (-1, self.group)).sum(3)
        names = rows.pack(by, by, self.n_kept, marks="index").marks
        at = names[:, :, :, None].long().expand(*x_BGUMD.shape[:-1], -1)
        return x_BGUMD.gather(-1, at), names

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        x_BGUMN, names = parts
        dense = x_BGUMN.new_zeros((*x_BGUMN.shape[:-1], width))
        at = names[:, :, :, None].long().expand_as(x_BGUMN)
        return dense.scatter_(-1, at, x_BGUMN).flatten(2, 3)

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        """Bytes of `unit` tokens of one head."""
        names = rows.row_bytes(width, self.n_kept, torch.uint8, marks="index") - self.n_kept
        return self.group * self.n_kept * dtype.itemsize + names


@dataclass(frozen=True)
class CodesPerToken:
    """Quantise each token in groups of channels: KIVI's way with values."""

    bits: int
    group: int = 32
    unit = 1

    def encode(self, x_BGTD: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
        _check_group(x_BGTD.shape[-1], self.group)
        return _code_parts(rows.quantise(x_BGTD.unflatten(-1, (-1, self.group)), self.bits))

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        return Codes(*parts, self.bits, self.group).unpack().flatten(-2)

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        """Bytes of `unit` tokens of one head."""
        _check_group(width, self.group)
        return width // self.group * rows.code_bytes(self.group, self.bits, dtype)


@dataclass(frozen=True)
class CodesPerChannel:
    """Quantise each channel over groups of tokens: KIVI's way with keys."""

    bits: int
    group: int = 32

    @property
    def unit(self) -> int:
        return self.group

    def encode(self, x_BGTD: Tensor, score: Tensor | None) -> tuple[Tensor, ...]:
        return _code_parts(rows.quantise(_channels(x_BGTD, self.group), self.bits))

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        x_BGTDM = Codes(*parts, self.bits, self.group).unpack()
        return x_BGTDM.transpose(-1, -2).flatten(2, 3)

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        """Bytes of `unit` tokens of one head."""
        return width * rows.code_bytes(self.group, self.bits, dtype)


Rule = Dense | PerToken | PerChannel | Channels | CodesPerToken | CodesPerChannel


def _packs(x: Tensor) -> bool:
    """Whether the compiled kernel can pack these rows."""
    return x.device.type == "cpu" and x.dtype != torch.float64 and not kernels.missing("packing")


def _largest(x_BGTD: Tensor, rule: PerToken) -> tuple[Tensor, Tensor]:
    """Values and marks of each row's largest numbers, as `rows.pack` gives them, by the kernel."""
    from kvlab.kernels import packing

    width = x_BGTD.shape[-1]
    rule.unit_bytes(width, x_BGTD.dtype)  # refuses what no row can hold
    bitmap = rule.kind(width) == "bitmap"
    x_BGTD = x_BGTD.detach().contiguous()
    key_BGTD = x_BGTD.float().abs()
    if bool(key_BGTD.isnan().any()):
        raise ValueError("Numbers came with NaN among them, which cannot be ranked; expected none.")
    values = x_BGTD.new_empty((*x_BGTD.shape[:-1], rule.n_kept))
    n_marks = width // 8 if bitmap else rule.n_kept
    marks = torch.empty((*x_BGTD.shape[:-1], n_marks), dtype=torch.uint8)
    flat = (x_BGTD, key_BGTD.view(torch.int32), values, marks)
    with kernels.numba_threads(torch.get_num_threads()):
        packing.pack(*(kernels.as_numpy(x.flatten(0, -2)) for x in flat), bitmap)
    return values, marks


def _parts(packed: PackedRows) -> tuple[Tensor, ...]:
    values = packed.values
    return (*(_code_parts(values) if isinstance(values, Codes) else (values,)), packed.marks)


def _code_parts(codes: Codes) -> tuple[Tensor, ...]:
    return codes.codes, codes.scale, codes.zero


def _rows_of(parts: tuple[Tensor, ...], width: int, rule: PerToken | PerChannel) -> PackedRows:
    """What `_parts` took apart."""
    *values, marks = parts
    held = Codes(*values, rule.bits, rule.n_kept) if rule.bits else values[0]
    kind = rule.marks or rows.smaller_marks(width, rule.n_kept)
    return PackedRows(held, marks, width, kind)


def _channels(x_BGTD: Tensor, group: int) -> Tensor:
    """(B, G, T, D) as (B, G, T / M, D, M): each channel over groups of M tokens."""
    return x_BGTD.unflatten(2, (-1, group)).transpose(-1, -2)


def _check_group(width: int, group: int) -> None:
    if group < 1 or width % group:
        raise ValueError(
            f"Groups of {group} channels were asked for heads of width {width}; expected a divisor."
        )
