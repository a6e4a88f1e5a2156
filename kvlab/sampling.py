"""From logits to the next token: the likeliest, or a draw.

B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kvlab import checks

Pick = Callable[[Tensor], Tensor]


def greedy(logits_BV: Tensor) -> Tensor:
    """The likeliest token of each row; the lowest id wins a tie.

    Raises: ValueError for logits that are NaN; those on a GPU are not looked at, since that waits.
    """
    checks.logits(logits_BV)
    return logits_BV.argmax(-1)


@dataclass
class Sampler:
    """Draw the next token: sharpen or flatten, keep the likeliest, draw.

    `temperature` divides the logits (0 is greedy); `top_k` keeps the k likeliest tokens; `top_p`
    keeps the fewest tokens whose probabilities reach p, so the one that crosses p stays in.
    The same seed draws the same tokens on the same device. Logits are refused as by `greedy`.
    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (top-p).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    _generator: torch.Generator | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        fits, expected = lambda t: 0 <= t < math.inf, "0 (greedy) or a number above it"
        self.temperature = checks.number("temperature", self.temperature, fits, expected)
        fits, expected = lambda p: 0 < p <= 1, "a number above 0, at most 1"
        self.top_p = checks.number("top_p", self.top_p, fits, expected)
        if self.top_k is not None:
            self.top_k = checks.whole("top_k", self.top_k)
        self.seed = checks.whole("seed", self.seed, None)

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """What the draw is made from. Shapes: logits_BV -> (B, V) in float32, rows sum to 1."""
        if self.temperature == 0:
            best_B = greedy(logits_BV)
            return torch.nn.functional.one_hot(best_B, logits_BV.shape[-1]).float()
        checks.logits(logits_BV)
        wide_BV = logits_BV.float()
        # the likeliest becomes 0, so that a low temperature cannot overflow, and stays 0 where
        # float32 has no smaller number: 0 / 0 would be NaN
        temperature = max(self.temperature, torch.finfo(torch.float32).tiny)
        scaled_BV = (wide_BV - wide_BV.amax(-1, keepdim=True)) / temperature
        if self.top_k is not None and self.top_k < logits_BV.shape[-1]:
            kept_BK = scaled_BV.topk(self.top_k, -1)
            scaled_BV = torch.full_like(scaled_BV, float("-inf")).scatter(
                -1, kept_BK.indices, kept_BK.values
            )
        probs_BV = scaled_BV.softmax(-1)
        if self.top_p < 1:
            sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
            top_p = max(self.top_p, torch.finfo(torch.float32).tiny)
            reached_before_BV = sorted_BV.cumsum(-1) - sorted_BV
            sorted_BV = sorted_BV.masked_fill(reached_before_BV >= top_p, 0.0)
            probs_BV = torch.zeros_like(probs_BV).scatter(-1, order_BV, sorted_BV)
            probs_BV = probs_BV / probs_BV.sum(-1, keepdim=True)
        return probs_BV

    def __call__(self, logits_BV: Tensor) -> Tensor:
        probs_BV = self.probabilities(logits_BV)
        if self._generator is None or self._generator.device != logits_BV.device:
            self._generator = torch.Generator(logits_BV.device).manual_seed(self.seed)
        # torch.multinomial draws in just this way, but first reads the device back to validate
        waits_BV = torch.empty_like(probs_BV).exponential_(generator=self._generator)
        return (probs_BV / waits_BV).argmax(-1)
