"""95 % intervals of a share and of a mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from kvlab import checks

MOST_DRAWN = 10**8  # numbers, all draws together: 800 MB


@checks.takes(n_right=checks.named(checks.whole, None), n=checks.named(checks.whole, None))
def wilson(n_right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share, from n_right of n. Source: Wilson 1927."""
    if not 0 <= n_right <= n or n == 0:
        raise ValueError(f"{n_right} of {n} is no share; expected at most all of at least one.")
    z = checks.number("z", z, lambda value: 0 < value < 1e6, "a number above 0")
    p, zz = n_right / n, z * z / n
    middle, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


@checks.takes(values=checks.numbers, draws=checks.whole, seed=checks.named(checks.whole, None))
def bootstrap(values: Sequence[float], draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean: from the 2.5th to the 97.5th percentile over draws of as many.

    Source: Efron 1979, "Bootstrap methods".
    """
    if not len(values):
        raise ValueError("There are no values to draw from; expected at least one.")
    if draws * len(values) > MOST_DRAWN:
        raise ValueError(
            f"{draws:,} draws of {len(values):,} values were asked for; expected at most "
            f"{MOST_DRAWN // len(values):,} draws of so many."
        )
    x = torch.tensor(list(values), dtype=torch.float64)
    draw = torch.Generator().manual_seed(int(seed))
    means = x[torch.randint(len(x), (draws, len(x)), generator=draw)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
