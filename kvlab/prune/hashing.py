"""Chance that whole numbers decide alone, so that it is the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab.checks import finest

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as signed numbers
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def chance(seed: int, *keys: int | Tensor) -> Tensor:
    """Numbers in (0, 1) that depend on whole numbers alone, by the finaliser of SplitMix64.

    Source: Steele et al. 2014, "Fast splittable pseudorandom number generators", figure 16.
    """
    x = torch.tensor(seed)
    for key in keys:
        x = _mixed(key + _mixed(x + _GOLDEN) if isinstance(key, Tensor) else x * 31 + key + _GOLDEN)
    return (finest(_shifted(_mixed(x), 11)) + 0.5) / 2**53


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """A shift to the right that brings in zeros."""
    return (x >> by) & ((1 << (64 - by)) - 1)
