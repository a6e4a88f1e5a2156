"""Random numbers that 12.2, 12.3 and 12.4 draw by a seed of the case."""

import torch
from torch import Tensor


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Drawn in float64, then rounded to the type."""
    torch_rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=torch_rng, dtype=torch.float64).to(dtype)
