"""Packed rows: a row keeps exactly N of its M numbers, or holds them in fewer bits.

M numbers in a row, N kept, X bytes that say which. A row is the last axis of a tensor; what the
axes before it mean is the caller's business (one token's channels, one channel of some tokens).

Every row keeps equally many, so row i begins at i x N: there are no offsets and no padding. Which
numbers were kept is either a bitmap of M bits (number j is bit j % 8 of byte j // 8, so that the
bytes read as little-endian words are the same bitmap) or N ascending indices of one byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MARKS = ("bitmap", "index")
BITS = (2, 4, 8)


@dataclass(frozen=True)
class Codes:
    """Rows of numbers as whole numbers of few bits: number = code x scale + zero.

    Shapes: codes (..., bytes), scale and zero (...), of the type that the numbers had. Codes lie in
    a byte from its low bits up; the last byte of a row may be partly used.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes of the storage: codes, scales and zeros."""
        return self.codes.nbytes + self.scale.nbytes + self.zero.nbytes

    def unpack(self) -> Tensor:
        """The numbers again, each within half a step of what it was."""
        per_byte = 8 // self.bits
        shift = self.bits * torch.arange(per_byte, device=self.codes.device, dtype=torch.uint8)
        codes = (self.codes[..., None] >> shift) & (2**self.bits - 1)
        codes = codes.flatten(-2)[..., : self.width]
        wide = _wide(self.scale.dtype)
        numbers = codes.to(wide) * self.scale[..., None].to(wide) + self.zero[..., None].to(wide)
        return numbers.to(self.scale.dtype)


@dataclass(frozen=True)
class PackedRows:
    """Rows that keep exactly N of M numbers.

    Shapes: values (..., N), or `Codes` of rows of N; marks (..., X), X = M / 8 for a bitmap and N
    for indices.
    """

    values: Tensor | Codes
    marks: Tensor
    width: int
    kind: str

    @property
    def n_kept(self) -> int:
        """N, the numbers that each row keeps."""
        return self.values.width if isinstance(self.values, Codes) else self.values.shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of the storage: values and marks."""
        return self.values.nbytes + self.marks.nbytes

    def unpack(self) -> Tensor:
        """The rows as they were, with 0 where a number was dropped. Shapes: (..., M)."""
        values = self.values.unpack() if isinstance(self.values, Codes) else self.values
        if self.kind == "index":
            dense = values.new_zeros((*values.shape[:-1], self.width))
            return dense.scatter_(-1, self.marks.long(), values)
        bit = torch.arange(8, device=self.marks.device, dtype=torch.uint8)
        kept = ((self.marks[..., None] >> bit) & 1).flatten(-2).bool()
        place = (kept.cumsum(-1) - 1).clamp_(min=0)
        return values.gather(-1, place).where(kept, 0)


def wants_gradient(*some: Tensor) -> bool:
    """Whether torch records what is done with these, which compiled kernels know nothing of."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in some)


def pack(
    dense: Tensor, by: Tensor, n_kept: int, *, marks: str | None = None, bits: int | None = None
) -> PackedRows:
    """Keep the N numbers of each row that `by` names, and forget the rest.

    `by` is a score (the highest stay; of equals the first) or a boolean mask that is true N times
    in each row. `marks` is "bitmap" or "index"; None takes what needs fewer bytes. With `bits` the
    values that stay are quantised, each row by its own least and greatest.
    Shapes: dense and by (..., M).
    Raises: ValueError for a width that the format cannot hold, N outside 1 to M, another shape;
    and, where that needs no device to be read, for NaN scores and masks with another count. On a
    GPU a NaN score counts as the lowest, and of a mask with too many the first N stay.
    Source: research on MUSTAFAR (Joo et al. 2025), section on its bitmap format.
    Differs: fixed N per row instead of tiles of 64 with offsets, and no padding to 8 values.
    """
    check_row(dense.shape[-1] if dense.dim() else 0, n_kept, marks, bits)
    kind = marks or smaller_marks(dense.shape[-1], n_kept)
    _check_floats(dense)
    kept = chosen(dense, by, n_kept)
    index = indices(kept, n_kept)
    values = dense.gather(-1, index)
    return PackedRows(
        quantise(values, bits) if bits else values,
        index.to(torch.uint8) if kind == "index" else bitmap(kept),
        dense.shape[-1],
        kind,
    )


def best(score: Tensor, n_kept: int) -> Tensor:
    """Exactly N true in each row: the highest scores, of equals the first.

    Shapes: score (..., M) -> booleans of the same shape.
    Raises: ValueError when a row has fewer than N. NaN counts as least: look for it before.
    """
    _check_count(score.shape[-1], n_kept)
    score = score.to(torch.uint8) if score.dtype == torch.bool else score
    score = score.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    last = score.topk(n_kept, sorted=False).values.amin(-1, keepdim=True)
    above, equal = score > last, score == last
    free = n_kept - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= free))


def indices(kept: Tensor, n_kept: int) -> Tensor:
    """Where the N true ones of each row stand, ascending. Shapes: kept (..., M) -> (..., N)."""
    place = kept.cumsum(-1) - 1
    slot = torch.arange(kept.shape[-1], device=kept.device).expand(kept.shape)
    # what is dropped goes to one column more, which is cut off
    index = torch.zeros((*kept.shape[:-1], n_kept + 1), dtype=torch.int64, device=kept.device)
    return index.scatter_(-1, place.where(kept, n_kept), slot)[..., :n_kept]


def quantise(dense: Tensor, bits: int) -> Codes:
    """Hold each row as whole numbers between its least and its greatest.

    Shapes: dense (..., M).
    Raises: ValueError for bits other than 2, 4 and 8, or numbers that are not floats.
    Source: Liu et al. 2024, "KIVI", section 3: asymmetric, a scale and a zero per group.
    Differs: codes are found with the scale and zero as they are stored, already rounded.
    """
    _check_bits(bits)
    _check_floats(dense)
    most, per_byte = 2**bits - 1, 8 // bits
    wide = dense.to(_wide(dense.dtype))
    zero = wide.amin(-1).to(dense.dtype)
    # a row's range may be more than its type can hold, its step is not
    scale = (wide.amax(-1) / most - wide.amin(-1) / most).to(dense.dtype)
    step = scale[..., None].to(wide.dtype)
    codes = ((wide - zero[..., None].to(wide.dtype)) / step.where(step > 0, 1)).round()
    codes = codes.clamp(0, most).to(torch.uint8)
    short = -dense.shape[-1] % per_byte
    codes = torch.nn.functional.pad(codes, (0, short)).unflatten(-1, (-1, per_byte))
    shift = bits * torch.arange(per_byte, device=dense.device, dtype=torch.uint8)
    return Codes((codes << shift).sum(-1, dtype=torch.uint8), scale, zero, bits, dense.shape[-1])


def n_kept(sparsity: float, width: int) -> int:
    """How many of `width` numbers stay at a sparsity in [0, 1): the nearest count, at least 1."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"Sparsity {sparsity} was asked for; expected a number in [0, 1).")
    return max(1, round(width * (1 - sparsity)))


def smaller_marks(width: int, n_kept: int) -> str:
    """ "index" where N bytes are fewer than the bitmap's M / 8, else "bitmap"."""
    return "index" if width <= 256 and n_kept < width // 8 else "bitmap"


def row_bytes(
    width: int,
    n_kept: int,
    dtype: torch.dtype,
    *,
    marks: str | None = None,
    bits: int | None = None,
) -> int:
    """Bytes of one packed row: N values and their marks."""
    check_row(width, n_kept, marks, bits)
    kind = marks or smaller_marks(width, n_kept)
    values = code_bytes(n_kept, bits, dtype) if bits else n_kept * dtype.itemsize
    return values + (n_kept if kind == "index" else width // 8)


def code_bytes(width: int, bits: int, dtype: torch.dtype) -> int:
    """Bytes of one quantised row: codes in whole bytes, a scale and a zero."""
    _check_bits(bits)
    return -(-width * bits // 8) + 2 * dtype.itemsize


def chosen(dense: Tensor, by: Tensor, n_kept: int) -> Tensor:
    """Which N numbers of each row a score, or a mask of exactly N, names.

    Raises: ValueError for another shape, a mask of other counts, or NaN (the last two on a CPU).
    """
    if by.shape != dense.shape or by.device != dense.device:
        raise ValueError(
            f"A score or mask of shape {tuple(by.shape)} on {by.device} came for numbers of shape "
            f"{tuple(dense.shape)} on {dense.device}; expected the same of both."
        )
    mask = by.dtype == torch.bool
    if by.device.type == "cpu" and mask and bool((by.sum(-1) != n_kept).any()):
        raise ValueError(
            f"A mask came that does not keep {n_kept} numbers in every row; make it of a score's "
            f"{n_kept} highest, or pass the score."
        )
    if by.device.type == "cpu" and not mask and bool(by.isnan().any()):
        raise ValueError("Scores came with NaN among them, which cannot be ranked; expected none.")
    return best(by, n_kept)


def bitmap(kept: Tensor) -> Tensor:
    """(..., M) booleans as (..., M / 8) bytes."""
    bit = torch.arange(8, device=kept.device, dtype=torch.uint8)
    return (kept.unflatten(-1, (-1, 8)).to(torch.uint8) << bit).sum(-1, dtype=torch.uint8)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def check_row(width: int, n_kept: int, marks: str | None, bits: int | None) -> None:
    """Refuse rows that cannot be packed in this way."""
    if width < 8 or width % 8:
        raise ValueError(
            f"Rows of {width} numbers were to be packed; a bitmap holds whole bytes, so expected "
            "a multiple of 8."
        )
    _check_count(width, n_kept)
    if marks not in (None, *MARKS):
        raise ValueError(f"Marks {marks!r} were asked for; there are {', '.join(MARKS)} and None.")
    if marks == "index" and width > 256:
        raise ValueError(
            f"Indices of one byte were asked for rows of {width} numbers; they reach 256. "
            "Use marks='bitmap'."
        )
    if bits is not None:
        _check_bits(bits)


def _check_count(width: int, n_kept: int) -> None:
    if not isinstance(n_kept, int) or not 1 <= n_kept <= width:
        raise ValueError(
            f"Rows of {width} were to keep {n_kept} numbers; expected a whole number from 1 to "
            f"{width} (n_kept(sparsity, width) gives one)."
        )


def _check_bits(bits: int) -> None:
    if bits not in BITS:
        raise ValueError(f"Codes of {bits!r} bits were asked for; there are 2, 4 and 8.")


def _check_floats(dense: Tensor) -> None:
    if not dense.dtype.is_floating_point or dense.dim() == 0 or dense.shape[-1] == 0:
        raise ValueError(
            f"Numbers of type {dense.dtype} and shape {tuple(dense.shape)} came; expected floats "
            "with rows on the last axis."
        )
