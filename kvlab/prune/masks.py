"""What a policy decides for a layer, and what all policies refuse.

B rows, G key/value heads, T slots, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kvlab import checks
from kvlab.prune.evidence import Evidence, Score
from kvlab.prune.missing import Missing


@dataclass(frozen=True)
class Masks:
    """What a policy decided for one layer; None says that all of it stays.

    `tokens_BGT` goes to `KVCache.keep`; `k_BGTD` and `v_BGTD` name the elements that are not
    zeroed (an axis of 1 where a whole row or channel shares its fate). `broken` says on the device
    whether a score was not a number.
    """

    tokens_BGT: Tensor | None = None
    k_BGTD: Tensor | None = None
    v_BGTD: Tensor | None = None
    broken: Tensor | None = None


def check_score(score: object) -> None:
    if not callable(score):
        raise ValueError(f"{checks.shown(score)} came as a score; expected a function of Evidence.")


def check_counts(policy: object) -> None:
    for name in ("sink", "recent", "every"):
        object.__setattr__(policy, name, checks.whole(name, getattr(policy, name), 0))


def check_numbers(part: object, masks_L: list[Masks]) -> None:
    """Asks the device once for all layers."""
    asked = [(i, masks.broken) for i, masks in enumerate(masks_L) if masks.broken is not None]
    if not asked:
        return
    answers = torch.stack([broken for _, broken in asked]).tolist()
    for (i, _), broken in zip(asked, answers, strict=True):
        if broken:
            raise ValueError(
                f"A score of {part} is not a number (NaN) in layer {i}; nothing was pruned."
            )


def scored(score: Score, e: Evidence, shapes: tuple) -> Tensor:
    got = score(e)
    if isinstance(got, Missing):
        got.refuse()
    if not isinstance(got, Tensor) or tuple(got.shape) not in map(tuple, shapes):
        came = f"shape {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        raise ValueError(
            f"The score {name_of(score)} returned {came}; expected a tensor of shape "
            f"{' or '.join(str(tuple(shape)) for shape in shapes)}."
        )
    return got


def places(order: Tensor) -> Tensor:
    """The inverse of an order along the last axis."""
    place = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place)


def name_of(function: Callable) -> str:
    """What a score or a selection is called, under any `partial`."""
    function = unwrapped(function)[0]
    return getattr(function, "__name__", type(function).__name__)


def unwrapped(function: Callable) -> tuple[Callable, dict]:
    """A function, and the settings that `partial` gave it."""
    settings: dict = {}
    while isinstance(function, partial):
        settings = function.keywords | settings
        function = function.func
    return function, settings
