"""What the exercises of chapter 1 share: random matrices to give, and matrices that come back.

Cases are in float64, so that a right answer agrees to nine digits and a wrong one cannot hide in
rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from kvlab.course.author import NotData, brief


def normals(seed: int) -> Callable[..., Tensor]:
    """A function that draws float64 normals of a shape."""
    torch_rng = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=torch_rng, dtype=torch.float64)


def matrix(value: object, name: str) -> Tensor:
    """An answer's result as a matrix, also where it came as rows of numbers; or NotData."""
    if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
        with contextlib.suppress(ValueError, TypeError, RuntimeError):
            value = torch.tensor(value, dtype=torch.float64)
    if not isinstance(value, Tensor) or value.dim() != 2:
        raise NotData(f"your code returned {name} as {brief(value)}; expected a tensor of 2 axes.")
    return value
