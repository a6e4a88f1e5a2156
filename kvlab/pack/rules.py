"""How numbers are held: which of a row stay, and in what form. One class a format.

B rows of the batch, G key/value heads, T slots, D head width, U groups of tokens, M numbers in a
row, N of them kept.

`Sparsify` asks a rule for its mask and zeroes the other numbers; a packed cache asks for the parts
and holds them; whoever counts bytes asks for those of a group of tokens.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from kvlab import kernels
from kvlab.ops import wide
from kvlab.pack import rows
from kvlab.pack.codes import (
    CodesPerChannel,
    CodesPerToken,
    channels,
    check_numbers,
    code_parts,
    grouped,
)
from kvlab.pack.format import Format
from kvlab.pack.rows import Codes, PackedRows
from kvlab.pack.rule import Rule

__all__ = [
    "Channels", "CodesPerChannel", "CodesPerToken", "Dense", "PerChannel", "PerToken", "Rule",
]  # fmt: skip


class _Keeps(Format):
    """A rule that keeps N of each row: so many, or those that a sparsity leaves."""

    n_kept: int | None
    sparsity: float | None

    def __post_init__(self) -> None:
        check_numbers(self)
        if (self.n_kept is None) == (self.sparsity is None):
            raise ValueError(
                f"{self} came; expected either how many numbers of a row stay, as in "
                f"{type(self).__name__}(19), or a share that goes, as in "
                f"{type(self).__name__}(sparsity=0.7)."
            )
        if self.sparsity is not None:
            rows.n_kept(self.sparsity, 1)

    def count(self, width: int) -> int:
        """N, of rows of this width."""
        return rows.n_kept(self.sparsity, width) if self.n_kept is None else self.n_kept


@dataclass(frozen=True)
class Dense(Format):
    """Keep every number."""

    unit = 1

    def mask(self, score_BGTD: Tensor) -> Tensor:
        return torch.ones_like(score_BGTD, dtype=torch.bool)

    def encode(self, x_BGTD: Tensor) -> tuple[Tensor, ...]:
        return (x_BGTD,)

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        return parts[0]

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        return width * dtype.itemsize


@dataclass(frozen=True)
class PerToken(_Keeps):
    """Each token keeps N of its D numbers: `PerToken(19)`, or `PerToken(sparsity=0.7)`."""

    n_kept: int | None = None
    _: KW_ONLY
    sparsity: float | None = None
    marks: str | None = None
    bits: int | None = None
    unit = 1

    def mask(self, score_BGTD: Tensor) -> Tensor:
        _check_axes(score_BGTD, 4, self)
        return rows.best(score_BGTD, self.count(score_BGTD.shape[-1]))

    def encode(self, x_BGTD: Tensor) -> tuple[Tensor, ...]:
        if not self.bits and _packs(x_BGTD):
            return _largest(x_BGTD, self)
        n = self.count(x_BGTD.shape[-1])
        return _parts(rows.pack(x_BGTD, x_BGTD.abs(), n, marks=self.marks, bits=self.bits))

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        return _rows_of(parts, width, self).unpack()

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        return rows.row_bytes(width, self.count(width), dtype, marks=self.marks, bits=self.bits)

    def kind(self, width: int) -> str:
        """How a row of this width says what it kept: "bitmap" or "index"."""
        return self.marks or rows.smaller_marks(width, self.count(width))

    def row_marks(self, width: int) -> str | None:
        return None if self.bits else self.kind(width)


@dataclass(frozen=True)
class PerChannel(_Keeps):
    """Each channel keeps N of its numbers in every `group` tokens that follow each other."""

    n_kept: int | None = None
    group: int = 32
    _: KW_ONLY
    sparsity: float | None = None
    marks: str | None = None
    bits: int | None = None

    @property
    def unit(self) -> int:
        return self.group

    def mask(self, score_BGTD: Tensor) -> Tensor:
        _check_axes(score_BGTD, 4, self)
        keep_BGUDM = rows.best(channels(score_BGTD, self.group), self.count(self.group))
        return keep_BGUDM.transpose(-1, -2).flatten(2, 3)

    def encode(self, x_BGTD: Tensor) -> tuple[Tensor, ...]:
        x_BGUDM, n = channels(x_BGTD, self.group), self.count(self.group)
        return _parts(rows.pack(x_BGUDM, x_BGUDM.abs(), n, marks=self.marks, bits=self.bits))

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        return _rows_of(parts, self.group, self).unpack().transpose(-1, -2).flatten(2, 3)

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        """A group that does not fill its last byte of marks is counted as if it did."""
        row, n = -(-self.group // 8) * 8, self.count(self.group)
        return width * rows.row_bytes(row, n, dtype, marks=self.marks, bits=self.bits)


@dataclass(frozen=True)
class Channels(_Keeps):
    """Every `group` tokens that follow each other keep N whole channels, and the names of these.

    A score counts by its sum over the group's tokens. What is packed keeps the channels with the
    most energy, so what `Sparsify` left of keys or values by `think` or `think_v` is held exactly:
    channels that were zeroed have none. With `group=None` all tokens of a head are one group and
    its names are stored once. `mask` then takes a score of (B, G, D); a packed cache, whose text
    goes on, cannot hold it.
    """

    n_kept: int | None = None
    group: int | None = 32
    _: KW_ONLY
    sparsity: float | None = None

    @property
    def unit(self) -> int:
        return 1 if self.group is None else self.group

    def mask(self, score: Tensor) -> Tensor:
        n = self.count(score.shape[-1])
        if self.group is None:
            _check_axes(score, 3, self)
            return rows.best(score, n)
        _check_axes(score, 4, self)
        keep_BGUD = rows.best(grouped(score, self.group).sum(3), n)
        return keep_BGUD.repeat_interleave(self.group, 2)

    def encode(self, x_BGTD: Tensor) -> tuple[Tensor, ...]:
        width = x_BGTD.shape[-1]
        rows.check_row(width, self.count(width), self._marks, None)
        x_BGUMD = grouped(x_BGTD, self.group or x_BGTD.shape[2])
        energy_BGUD = (wide(x_BGUMD) ** 2).sum(3)
        kept_BGUD = rows.chosen(energy_BGUD, energy_BGUD, self.count(width))
        index_BGUN = rows.indices(kept_BGUD, self.count(width))
        x_BGUMN = x_BGUMD.gather(-1, _each(index_BGUN, x_BGUMD))
        return x_BGUMN, index_BGUN.to(torch.uint8) if self.group else rows.bitmap(kept_BGUD)

    def decode(self, parts: tuple[Tensor, ...], width: int) -> Tensor:
        x_BGUMN, names_BGUX = parts
        held = PackedRows(x_BGUMN, _each(names_BGUX, x_BGUMN), width, self._marks)
        return held.unpack().flatten(2, 3)

    def unit_bytes(self, width: int, dtype: torch.dtype) -> int:
        n = self.count(width)
        if self.group is None:
            return n * dtype.itemsize
        names = rows.row_bytes(width, n, torch.uint8, marks="index") - n
        return self.group * n * dtype.itemsize + names

    def head_bytes(self, width: int) -> int:
        """Names that are stored once for all tokens of a head: a bit for each channel."""
        return 0 if self.group else -(-width // 8)

    @property
    def _marks(self) -> str:
        return "index" if self.group else "bitmap"


def _packs(x: Tensor) -> bool:
    """Whether the compiled kernel can pack these rows."""
    if x.device.type != "cpu" or x.dtype == torch.float64 or rows.wants_gradient(x):
        return False
    return not kernels.missing("packing")


def _largest(x_BGTD: Tensor, rule: PerToken) -> tuple[Tensor, Tensor]:
    """Values and marks of each row's largest numbers, as `rows.pack` gives them, by the kernel."""
    from kvlab.kernels import packing

    width = x_BGTD.shape[-1]
    rule.unit_bytes(width, x_BGTD.dtype)  # refuses what no row can hold
    bitmap, n = rule.kind(width) == "bitmap", rule.count(width)
    x_BGTD = x_BGTD.detach().contiguous()
    key_BGTD = x_BGTD.float().abs()
    if bool(key_BGTD.isnan().any()):
        raise ValueError("Numbers came with NaN among them, which cannot be ranked; expected none.")
    values = x_BGTD.new_empty((*x_BGTD.shape[:-1], n))
    n_marks = width // 8 if bitmap else n
    marks = torch.empty((*x_BGTD.shape[:-1], n_marks), dtype=torch.uint8)
    flat = (x_BGTD, key_BGTD.view(torch.int32), values, marks)
    with kernels.numba_threads(torch.get_num_threads()):
        packing.pack(*(kernels.as_numpy(x.flatten(0, -2)) for x in flat), bitmap)
    return values, marks


def _parts(packed: PackedRows) -> tuple[Tensor, ...]:
    values = packed.values
    return (*(code_parts(values) if isinstance(values, Codes) else (values,)), packed.marks)


def _rows_of(parts: tuple[Tensor, ...], width: int, rule: PerToken | PerChannel) -> PackedRows:
    """What `_parts` took apart."""
    *values, marks = parts
    n = rule.count(width)
    held = Codes(*values, rule.bits, n) if rule.bits else values[0]
    return PackedRows(held, marks, width, rule.marks or rows.smaller_marks(width, n))


def _each(names_BGUX: Tensor, x_BGUMD: Tensor) -> Tensor:
    """A group's names beside each of its tokens. Shapes: -> (B, G, U, M, X)."""
    return names_BGUX[:, :, :, None].expand(*x_BGUMD.shape[:-1], -1)


def _check_axes(score: Tensor, n_axes: int, rule: Rule) -> None:
    if score.dim() != n_axes:
        raise ValueError(
            f"{rule} was given a score of shape {tuple(score.shape)}; expected {n_axes} axes, "
            f"{'(B, G, T, D)' if n_axes == 4 else '(B, G, D)'}."
        )
