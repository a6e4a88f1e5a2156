"""Which tokens a rule holds, and what that takes: one answer for all who ask.

B rows of the batch, G key/value heads, T slots, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab import checks
from kvlab.pack.rule import Rule


@dataclass(frozen=True)
class Body:
    """A rule, and the tokens that it holds: neither the first `sink`, nor the latest `recent`, nor
    those behind them that do not fill a group of `unit` tokens yet.

    First and latest are said of the text, evicted tokens counted; with `by_slot` of the tokens that
    are left, as a packed cache does. Groups always count the tokens that are left, in each head
    its own.
    """

    rule: Rule
    sink: int
    recent: int
    unit: int
    by_slot: bool = False

    def tokens_BGT(self, pos_BGT: Tensor, seen_B: tuple[int, ...]) -> Tensor:
        """Which slots hold a token of the body."""
        there_BGT = pos_BGT >= 0
        if self.by_slot:
            before_BGT = there_BGT.cumsum(-1) - 1
            after_BGT = there_BGT.sum(-1, keepdim=True) - 1 - before_BGT
        else:
            seen_B11 = torch.tensor(seen_B, device=pos_BGT.device)[:, None, None]
            before_BGT, after_BGT = pos_BGT, seen_B11 - 1 - pos_BGT
        ripe_BGT = there_BGT & (before_BGT >= self.sink) & (after_BGT >= self.recent)
        if self.unit == 1:
            return ripe_BGT
        full_BG1 = ripe_BGT.sum(-1, keepdim=True) // self.unit * self.unit
        return ripe_BGT & (ripe_BGT.cumsum(-1) <= full_BG1)

    def mask(self, score: Tensor, tokens_BGT: Tensor) -> Tensor:
        """Which numbers stay: all but those of the body that the rule drops.

        Shapes: score (B, G, T, D) -> the same; or (B, G, D), one choice for all of a head's tokens,
        -> (B, G, T, D).
        """
        outside_BGT1 = ~tokens_BGT[..., None]
        if score.dim() == 3:
            return self._masked(score)[:, :, None] | outside_BGT1
        return self.through(self._masked, score, tokens_BGT) | outside_BGT1

    def hold(self, x_BGTD: Tensor, tokens_BGT: Tensor) -> Tensor:
        """The numbers as they come back from the rule; those outside the body as they were."""

        def held(x_BGTD: Tensor) -> Tensor:
            return self.rule.decode(self.rule.encode(x_BGTD), x_BGTD.shape[-1])

        return self.through(held, x_BGTD, tokens_BGT).where(tokens_BGT[..., None], x_BGTD)

    def through(
        self, function: Callable[[Tensor], Tensor], x_BGTD: Tensor, tokens_BGT: Tensor
    ) -> Tensor:
        """A function of whole groups, given the body alone: its tokens one after the other, then 0.

        What it says of a token comes back in the token's slot; of other slots it means nothing.
        """
        x_BGTD, n_slots = x_BGTD.where(tokens_BGT[..., None], 0), x_BGTD.shape[2]
        if self.unit == 1:  # tokens are held one by one, so it does not matter where they lie
            return function(x_BGTD)
        order_BGT = (~tokens_BGT).byte().argsort(dim=-1, stable=True)
        order_BGTD = order_BGT[..., None].expand_as(x_BGTD)
        front_BGTD = F.pad(x_BGTD.gather(2, order_BGTD), (0, 0, 0, -n_slots % self.unit))
        got_BGTD = function(front_BGTD)[:, :, :n_slots]
        return torch.empty_like(got_BGTD).scatter_(2, order_BGTD, got_BGTD)

    def n_bytes(self, n_tokens: int, width: int, dtype: torch.dtype) -> int:
        """Bytes of a head's body of so many tokens, whole groups."""
        if n_tokens == 0:
            return 0
        groups = n_tokens // self.rule.unit * self.rule.unit_bytes(width, dtype)
        return groups + head_bytes(self.rule, width)

    def _masked(self, score: Tensor) -> Tensor:
        keep = self.rule.mask(score)
        if keep.shape != score.shape or keep.dtype != torch.bool:
            raise ValueError(
                f"The mask of {self.rule} has shape {tuple(keep.shape)} and type {keep.dtype}; "
                f"expected one boolean for each number of the score, {tuple(score.shape)}."
            )
        return keep


def head_bytes(rule: Rule, width: int) -> int:
    """What a rule stores once for all tokens of a head; most rules store nothing of that kind."""
    asked = getattr(rule, "head_bytes", None)
    return 0 if asked is None else asked(width)


def units(**named: object) -> list[int]:
    """How many tokens each rule holds together; what is no rule is refused."""
    for name, value in named.items():
        checks.has(name, value, "unit_bytes", "a rule, like PerToken(19)")
    return [value.unit for value in named.values()]


def check_goes_on(rule: Rule, width: int) -> None:
    """Refuse a rule that needs to see all tokens at once where more will come."""
    if head_bytes(rule, width):
        raise ValueError(
            f"{rule} chooses once for all tokens of a head, but text goes on, and a packed cache "
            "holds it group by group. Use a rule that has a group: Channels(8, group=32)."
        )
