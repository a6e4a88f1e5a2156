"""Random numbers of the exercises, drawn by a case's own generator."""

from __future__ import annotations

import random

import torch
from torch import Tensor


def normal(rng: random.Random, *shape: int) -> Tensor:
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.randn(shape, generator=torch_rng, dtype=torch.float64)
