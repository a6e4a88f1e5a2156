"""One head's keys and values with the pruned elements in grey, and what attention's output loses.

R query heads of the group, W latest queries, T tokens, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import traitlets
from torch import Tensor

from kvlab.attention import attend
from kvlab.cache import LayerKV
from kvlab.prune import (
    Elements,
    Evict,
    Evidence,
    Sparsify,
    per_channel,
    per_token,
    whole_channels,
)
from kvlab.prune import scores as policies
from kvlab.view import svg
from kvlab.view.panel import Panel

HALVES = ("keys and values", "keys", "values")
DIRECTIONS = ("per token", "per channel", "whole channels", "whole tokens")
SCORES = ("magnitude", "output-aware", "random")
_CELL, _LEFT, _TOP, _GAP = 10, 104, 46, 26
_PRUNED, _LEVELS = "#B8B8B8", 6


class Pruning(Panel):
    """Choose what goes, by which score and how much of it, and read off what attention loses.

    Whole channels and whole tokens go by the sum of their elements' scores; a token goes with its
    key and its value. In a channel each `group` of tokens is thinned by itself, and one that is not
    complete stays. The error is that of the last query's output, over the heads of the group.
    """

    half = traitlets.Enum(HALVES, HALVES[0]).tag(sync=True, label="of")
    direction = traitlets.Enum(DIRECTIONS, DIRECTIONS[0]).tag(sync=True, label="what goes")
    score = traitlets.Enum(SCORES, SCORES[0]).tag(sync=True, label="score")
    sparsity = traitlets.Float(0.7, min=0, max=0.95).tag(sync=True, label="sparsity", by=0.05)
    most = traitlets.Int(0, read_only=True).tag(sync=True)
    window = traitlets.Int(8, min=0).tag(
        sync=True, label="window", max="most", spoken="window: the latest tokens that stay whole"
    )
    draw = traitlets.Int(0, min=0, max=9).tag(
        sync=True, label="draw", spoken="draw: which of the random choices"
    )

    def __init__(
        self,
        k_TD: Tensor,
        v_TD: Tensor,
        q_RWD: Tensor,
        tokens: Sequence[str],
        *,
        group: int = 8,
        **state: Any,
    ) -> None:
        """`q_RWD` are the latest queries of the heads that share these keys, turned by rope.

        Raises: ValueError when the shapes do not fit each other.
        """
        fits = k_TD.shape == v_TD.shape and len(tokens) == len(k_TD)
        if not fits or q_RWD.shape[-1] != k_TD.shape[-1] or q_RWD.shape[1] > len(k_TD):
            raise ValueError(
                f"Keys {tuple(k_TD.shape)}, values {tuple(v_TD.shape)}, queries "
                f"{tuple(q_RWD.shape)} and {len(tokens)} tokens came; expected (T, D), (T, D), "
                "(R, W, D) with W of at most T, and T tokens."
            )
        k_TD, v_TD, q_RWD = (x.detach().cpu().double() for x in (k_TD, v_TD, q_RWD))
        self.tokens, self.group = list(tokens), group
        n = len(tokens)
        self._e = Evidence(
            0, 1, k_TD[None, None], v_TD[None, None], torch.arange(n)[None, None], (n,),
            q_RWD[None], torch.arange(n - q_RWD.shape[1], n)[None],
        )  # fmt: skip
        self._dense = self._output(k_TD, v_TD, torch.ones(n, dtype=torch.bool))
        self.set_trait("most", n - 1)
        super().__init__(**{"window": min(8, n - 1)} | state)

    @traitlets.validate("window")
    def _window_is_there(self, proposal) -> int:
        if not 0 <= proposal["value"] <= self.most:
            raise traitlets.TraitError(f"window is {proposal['value']}; expected 0 to {self.most}.")
        return proposal["value"]

    @property
    def keep(self) -> tuple[Tensor, Tensor]:
        """Which elements of the keys and of the values stay. Shapes: (T, D) both."""
        shape = self._e.k_BGTD.shape[2:]
        if self.direction == "whole tokens":
            stay_T1 = self._stay_T()[:, None]
            return stay_T1.expand(shape), stay_T1.expand(shape)
        masks = Sparsify(self._rule("k"), self._rule("v"), recent=self.window).masks(self._e)
        whole = torch.ones(shape, dtype=torch.bool)
        k, v = (whole if m is None else m[0, 0].expand(shape) for m in (masks.k_BGTD, masks.v_BGTD))
        return k, v

    @property
    def error(self) -> float:
        """|out - dense| / |dense| of the last query's output."""
        return float((self._thinned() - self._dense).norm() / self._dense.norm())

    def _rule(self, which: str) -> Elements | None:
        if which not in {"keys": "k", "values": "v"}.get(self.half, "kv"):
            return None
        score = self._element_score(which)
        if self.direction == "whole channels":
            return Elements(lambda e: score(e).sum(2), self.sparsity, whole_channels)
        by_channel = self.direction == "per channel"
        select = partial(per_channel, group=self.group) if by_channel else per_token
        return Elements(score, self.sparsity, select)

    def _element_score(self, which: str) -> Callable[[Evidence], Tensor]:
        if self.score == "random":
            rng = torch.Generator().manual_seed(2 * self.draw + (which == "v"))
            drawn = torch.rand(self._e.k_BGTD.shape, generator=rng)
            return lambda _: drawn
        return {
            "k magnitude": policies.k_magnitude,
            "v magnitude": policies.v_magnitude,
            "k output-aware": policies.k_output_aware,
            "v output-aware": policies.v_output_aware,
        }[f"{which} {self.score}"]

    def _stay_T(self) -> Tensor:
        n = len(self.tokens)
        if n == self.window or not self.sparsity:
            return torch.ones(n, dtype=torch.bool)
        budget = self.window + max(1, round((n - self.window) * (1 - self.sparsity)))
        score = self._element_score("v")
        policy = Evict(lambda e: score(e).sum(-1), budget, sink=0, recent=self.window)
        keep_BGT = policy.masks(self._e).tokens_BGT
        return torch.ones(n, dtype=torch.bool) if keep_BGT is None else keep_BGT[0, 0]

    def _thinned(self) -> Tensor:
        keep_k, keep_v = self.keep
        there_T = self._stay_T() if self.direction == "whole tokens" else torch.ones_like(
            keep_k[:, 0]
        )  # fmt: skip
        k_TD, v_TD = self._e.k_BGTD[0, 0] * keep_k, self._e.v_BGTD[0, 0] * keep_v
        return self._output(k_TD, v_TD, there_T)

    def _output(self, k_TD: Tensor, v_TD: Tensor, there_T: Tensor) -> Tensor:
        """The last query's output. Shapes: -> (R, D)."""
        pos_BGT = self._e.pos_BGT.masked_fill(~there_T, -1)
        kv = LayerKV(k_TD[None, None], v_TD[None, None], pos_BGT, in_order=False)
        last = self._e.q_BHWD[:, :, -1:], self._e.q_pos_BW[:, -1:]
        return attend(last[0], kv, last[1], backend="reference").out_BHSD[0, :, 0]

    def words(self) -> str:
        """What is left, and what attention loses."""
        k, v = (float(keep.double().mean()) for keep in self.keep)
        what = "" if self.direction == "whole tokens" else f" of {self.half}"
        return (
            f"{self.direction.capitalize()}{what}, {self.score}, sparsity {self.sparsity:.0%}, "
            f"window {self.window}: {k:.1%} of K and {v:.1%} of V stay; "
            f"error of attention's output {self.error:.1%}."
        )

    def picture(self) -> str:
        """Keys on the left, values on the right; a row is a token, a column a channel."""
        n, width = len(self.tokens), self._e.k_BGTD.shape[-1]
        side = width * _CELL
        right, bottom = _LEFT + 2 * side + _GAP + 14, _TOP + n * _CELL + 34
        parts = [
            svg.text(
                _LEFT - 6, _TOP + _CELL * (t + 0.85), svg.visible(token), anchor="end", size=10
            )
            for t, token in enumerate(self.tokens)
        ]
        halves = zip(
            ("keys K", "values V"), (self._e.k_BGTD, self._e.v_BGTD), self.keep, strict=True
        )
        for i, (title, x_BGTD, keep_TD) in enumerate(halves):
            left = _LEFT + i * (side + _GAP)
            parts.append(svg.text(left, _TOP - 10, title, bold=True))
            parts.append(svg.text(left + side, _TOP - 10, f"{width} channels", anchor="end"))
            parts += _cells(x_BGTD[0, 0], keep_TD, left)
        legend = [(_PRUNED, "pruned"), (svg.BLUE, "above 0"), (svg.ORANGE, "below 0")]
        for i, (colour, said) in enumerate(legend):
            parts.append(svg.box(_LEFT + 90 * i, bottom - 20, 10, 10, colour))
            parts.append(svg.text(_LEFT + 90 * i + 15, bottom - 11, said))
        if self.window:
            edge = _TOP + (n - self.window) * _CELL - 0.5
            parts.append(svg.line(_LEFT - 4, edge, right - 10, edge, svg.INK, 1.5))
            parts.append(svg.text(_LEFT + 290, bottom - 11, "below the line: the window"))
        return svg.page(right, bottom, self.words(), parts)


def _cells(x_TD: Tensor, keep_TD: Tensor, left: float) -> list[str]:
    """A square for each element, those of one shade as one path; 0 to the largest in few steps."""
    step_TD = (x_TD / x_TD.abs().max() * _LEVELS).round().long()
    shades = {step: svg.shade(step / _LEVELS) for step in range(-_LEVELS, _LEVELS + 1)}
    parts = [_path(~keep_TD, left, _PRUNED, "pruned")]
    parts += [
        _path(keep_TD & (step_TD == step), left, fill, "kept") for step, fill in shades.items()
    ]
    return [part for part in parts if part]


def _path(here_TD: Tensor, left: float, fill: str, name: str) -> str:
    side = _CELL - 1
    squares = [
        f"M{left + d * _CELL:g} {_TOP + t * _CELL:g}h{side}v{side}h-{side}z"
        for t, d in here_TD.nonzero().tolist()
    ]
    return f'<path class="{name}" fill="{fill}" d="{"".join(squares)}"/>' if squares else ""
