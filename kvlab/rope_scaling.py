"""How a model's rotary positions are stretched to texts longer than those it first learned from.

Three rules, by the names that Hugging Face's configs give them. Each has as its fields the numbers
of its config, and says how far the pairs of channels then turn.

D head width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kvlab import checks


class LinearScaling(NamedTuple):
    """All pairs of channels turn `factor` times slower.

    Source: Chen et al. 2023, "Extending Context Window of Large Language Models via Positional
    Interpolation", equation 3.
    """

    factor: float

    attention_factor = 1.0

    def turns(self, turns_D: Tensor, theta: float) -> Tensor:
        """Radians per position, stretched. Shapes: (D/2,) -> (D/2,)."""
        return turns_D / self.factor


class Llama3Scaling(NamedTuple):
    """Pairs that turn less than `low_freq_factor` times within the original length turn `factor`
    times slower, those that turn more than `high_freq_factor` times stay, between them it is mixed.

    Source: Grattafiori et al. 2024, "The Llama 3 Herd of Models", and Llama 3.1's reference code.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    attention_factor = 1.0

    def turns(self, turns_D: Tensor, theta: float) -> Tensor:
        """Radians per position, stretched. Shapes: (D/2,) -> (D/2,)."""
        low, high = self.low_freq_factor, self.high_freq_factor
        rounds_D = self.original_max_positions * turns_D / (2 * math.pi)
        stay_D = ((rounds_D - low) / (high - low)).clamp(0, 1)
        return stay_D * turns_D + (1 - stay_D) * turns_D / self.factor


class YarnScaling(NamedTuple):
    """As Llama 3's, but mixed along the pairs' numbers, from the one that turns `beta_fast` times
    within the original length to the one that turns `beta_slow` times; `truncate` takes the whole
    numbers around them. Cosines and sines are `attention_factor` times as large, so queries and
    keys are, and attention's logits are its square times as large.

    Source: Peng et al. 2023, "YaRN: Efficient Context Window Extension of Large Language Models",
    sections 3.2 and 3.4.
    """

    factor: float
    original_max_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    def turns(self, turns_D: Tensor, theta: float) -> Tensor:
        """Radians per position, stretched. Shapes: (D/2,) -> (D/2,)."""
        n = len(turns_D)
        low, high = (
            n * math.log(self.original_max_positions / (2 * math.pi * rounds)) / math.log(theta)
            for rounds in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * n - 1)
        high += 0.001 * (low == high)
        pair_D = torch.arange(n, dtype=turns_D.dtype, device=turns_D.device)
        slow_D = ((pair_D - low) / (high - low)).clamp(0, 1)
        return (1 - slow_D) * turns_D + slow_D * turns_D / self.factor


Scaling = LinearScaling | Llama3Scaling | YarnScaling
# by Hugging Face's names of rope types; "default" stretches nothing
KINDS = {"linear": LinearScaling, "yarn": YarnScaling, "llama3": Llama3Scaling}
# fields that are called otherwise there, and what decides yarn's factor of attention
_THEIRS = {"original_max_positions": "original_max_position_embeddings"}
_MORE = {"yarn": ("mscale", "mscale_all_dim")}


def entries(kind: str) -> set[str]:
    """What a rope object of this type may say beside its type and theta, by their names."""
    fields = KINDS[kind]._fields if kind in KINDS else ()
    return {_THEIRS.get(field, field) for field in fields}.union(_MORE.get(kind, ()))


def read(rope: Mapping[str, Any], max_positions: int) -> Scaling | None:
    """The rule that a config's rope object asks for, None for none.

    Raises: KeyError for an entry that is missing; what they are is held by `check`.
    """
    kind = rope["rope_type"]
    if kind not in KINDS:
        return None
    given = {"original_max_position_embeddings": max_positions, **rope}
    if kind == "yarn":
        given |= _yarn_defaults(given, max_positions)
    return KINDS[kind](*(given[_THEIRS.get(name, name)] for name in KINDS[kind]._fields))


def written(scaling: Scaling) -> dict[str, Any]:
    """The rule as a config's rope object."""
    kind = next(kind for kind, rule in KINDS.items() if isinstance(scaling, rule))
    return {
        "rope_type": kind,
        **{_THEIRS.get(name, name): value for name, value in scaling._asdict().items()},
    }


def check(scaling: Scaling | None, theta: float) -> None:
    """Refuse numbers that no rule can be computed with.

    Raises: ValueError.
    """
    if scaling is None:
        return
    checks.kind("rope_scaling", scaling, tuple(KINDS.values()), "a rule of kvlab.rope_scaling")
    fits, more = all(map(checks.is_positive, scaling)), ""
    if isinstance(scaling, Llama3Scaling):
        more = ", and high_freq_factor more than low_freq_factor"
        fits = fits and scaling.high_freq_factor > scaling.low_freq_factor
    elif isinstance(scaling, YarnScaling):
        more = ", beta_fast no less than beta_slow, rope_theta above 1, and truncate true or false"
        fits = all(map(checks.is_positive, scaling._replace(truncate=1)))
        fits = fits and type(scaling.truncate) is bool
        fits = fits and scaling.beta_fast >= scaling.beta_slow and theta > 1
    if not fits:
        said = written(scaling)
        kind = said.pop("rope_type")
        raise ValueError(
            f"The {kind} rope has {', '.join(said)} = {checks.shown(tuple(scaling))}; expected "
            f"finite numbers above 0{more}."
        )


def _yarn_defaults(rope: Mapping[str, Any], max_positions: int) -> dict[str, Any]:
    """What `transformers` takes where a yarn object says nothing."""
    factor, original = rope["factor"], rope["original_max_position_embeddings"]
    if factor is None and checks.is_positive(original) and checks.is_positive(max_positions):
        factor = max_positions / original
    truncate, attention = rope.get("truncate", True), rope.get("attention_factor")
    if attention is None and checks.is_positive(factor):
        above, below = (rope.get(name) or 0.0 for name in _MORE["yarn"])
        above, below = (above, below) if above and below else (1.0, 0.0)
        for name, scale in zip(_MORE["yarn"], (above, below), strict=True):
            checks.number(name, scale, lambda n: n >= 0, "a number above 0")
        attention = _attention(factor, above) / _attention(factor, below)
    return {
        "factor": factor,
        "beta_fast": rope.get("beta_fast") or 32.0,
        "beta_slow": rope.get("beta_slow") or 1.0,
        "truncate": False if truncate is None else truncate,
        "attention_factor": attention,
    }


def _attention(factor: float, scale: float) -> float:
    """Equation 22 of YaRN with DeepSeek's scale."""
    return 1.0 + 0.1 * scale * math.log(max(factor, 1.0))
