"""What the exercises share: random scores, and the ways in which people mark the n best of a row."""

from __future__ import annotations

import random

import torch
from torch import Tensor


def normal(rng: random.Random, *shape: int) -> Tensor:
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.randn(shape, generator=torch_rng, dtype=torch.float64)


def with_ties(rng: random.Random, *shape: int) -> Tensor:
    """Few different numbers, so that every row has equal ones."""
    torch_rng = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.randint(3, shape, generator=torch_rng).double()


def _marked(score: Tensor, places: Tensor) -> Tensor:
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, places, True)


def first_best(score: Tensor, n: int) -> Tensor:
    """The n best of each row; of equal ones the first. This is the right way."""
    return _marked(score, score.argsort(dim=-1, descending=True, stable=True)[..., :n])


def last_best(score: Tensor, n: int) -> Tensor:
    """Of equal ones the last."""
    return first_best(score.flip(-1), n).flip(-1)


def any_best(score: Tensor, n: int) -> Tensor:
    """Of equal ones whichever topk takes."""
    return _marked(score, score.topk(n).indices)


def as_good_as_nth(score: Tensor, n: int) -> Tensor:
    """All that are no worse than the n-th, which are more than n where scores are equal."""
    return score >= score.sort(-1, descending=True).values[..., n - 1 : n]
