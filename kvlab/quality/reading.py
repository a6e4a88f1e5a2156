"""Reading prompts once, pruning what was read, and answering from it.

B prompts, G key/value heads, T slots, S fed tokens, N scored tokens, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab import checks
from kvlab.checks import finest
from kvlab.model import Transformer
from kvlab.prompts import pad
from kvlab.prune import (
    Evict,
    Policy,
    Pruner,
    Then,
    parts_of,
    scores,
)
from kvlab.quality.methods import Method
from kvlab.quality.prompts import Prompts
from kvlab.quality.stored import Stored


@checks.takes(methods=checks.listed)
def needs_of_all(methods: Iterable[Method]) -> Then:
    """A policy that looks at whatever any of the methods looks at: one reading serves them all."""
    return Then(Evict(scores.recency, 1.0), *(p for m in methods for p in parts_of(m)))


@checks.takes(model=checks.model, prompts=Prompts)
@torch.inference_mode()
def read(model: Transformer, prompts: Prompts, collect: Policy) -> Pruner:
    """Read all texts into one cache, collecting what `collect` looks at; nothing is pruned.

    Raises: ValueError when text and rest together are longer than the model reads.
    """
    longest = max(len(t) + len(r) for t, r in zip(prompts.texts, prompts.rests, strict=True)) - 1
    if longest > model.config.max_positions:
        raise ValueError(
            f"Text and rest have {longest} tokens, and the model reads at most "
            f"{model.config.max_positions}. Ask for fewer."
        )
    tokens_BS, pos_BS = pad(prompts.texts, model.device)
    capacity = tokens_BS.shape[1] + max(map(len, prompts.rests))
    cache = model.new_cache(len(prompts.texts), capacity)
    with Pruner(model, cache, collect) as pruner:
        model.hidden(tokens_BS, pos_BS, cache)
    return pruner


@checks.takes(base=Pruner)
@torch.inference_mode()
def pruned(base: Pruner, method: Method | None) -> Pruner:
    """A method applied to a fork of what was read; None leaves it dense."""
    parts = parts_of(method)
    pruner = base.fork(Then(*parts) if parts else needs_of_all([]))
    pruner.prune()
    if isinstance(method, Stored):
        method.hold(pruner.cache)
    return pruner


@dataclass(frozen=True)
class Answers:
    """Log-probabilities where the scored tokens are looked up, and which prompt each is of."""

    logp_NV: Tensor
    token_N: Tensor
    row_N: Tensor
    n_rows: int

    def mean_B(self, x_N: Tensor) -> Tensor:
        """Each prompt's mean over its scored tokens."""
        total_B = x_N.new_zeros(self.n_rows).index_add_(0, self.row_N, x_N)
        return total_B / torch.bincount(self.row_N, minlength=self.n_rows)

    @property
    def right_B(self) -> Tensor:
        """Whether greedy decoding gives exactly the scored tokens."""
        return self.mean_B(finest(self.logp_NV.argmax(-1) == self.token_N)) == 1

    @property
    def nats_B(self) -> Tensor:
        """Mean loss of the scored tokens."""
        return self.mean_B(-finest(self.logp_NV.gather(-1, self.token_N[:, None])[:, 0]))

    def kl_N(self, dense: Answers) -> Tensor:
        """KL(dense || this) in nats at each scored token."""
        return (dense.logp_NV.exp() * (dense.logp_NV - self.logp_NV)).sum(-1)

    def agrees_N(self, dense: Answers) -> Tensor:
        """Whether the likeliest token is the dense cache's."""
        return self.logp_NV.argmax(-1) == dense.logp_NV.argmax(-1)


@checks.takes(model=checks.model, prompts=Prompts)
def fed_tokens(model: Transformer, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """What is fed after pruning, and its positions, -1 where padded. Shapes: (B, S) both."""
    tokens_BS, pos_BS = pad([rest[:-1] for rest in prompts.rests], model.device)
    if pos_BS is None:
        pos_BS = torch.arange(tokens_BS.shape[1], device=model.device).expand_as(tokens_BS)
    seen_B1 = torch.tensor([len(text) for text in prompts.texts], device=model.device)[:, None]
    return tokens_BS, torch.where(pos_BS >= 0, pos_BS + seen_B1, -1)


@checks.takes(model=checks.model, pruner=Pruner, prompts=Prompts)
@torch.inference_mode()
def answers(model: Transformer, pruner: Pruner, prompts: Prompts) -> Answers:
    """Feed the rest of each prompt, the right tokens whatever the model would say.

    A policy that is applied while decoding gets token after token, others get all at once.
    """
    tokens_BS, pos_BS = fed_tokens(model, prompts)
    if not pruner.again:
        x_BSC = model.hidden(tokens_BS, pos_BS, pruner.cache)
    else:
        x_BSC = torch.cat(list(_one_by_one(model, pruner, tokens_BS, pos_BS)), 1)
    where = [
        (row, len(rest) - 1 - n + i, rest[len(rest) - n + i])
        for row, (rest, n) in enumerate(zip(prompts.rests, prompts.scored, strict=True))
        for i in range(n)
    ]
    row_N, at_N, token_N = torch.tensor(where, device=model.device).unbind(1)
    logits_NV = model.head(x_BSC[row_N, at_N])
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    return Answers(logits_NV.log_softmax(-1, dtype=wide), token_N, row_N, len(prompts.rests))


def _one_by_one(model: Transformer, pruner: Pruner, tokens_BS: Tensor, pos_BS: Tensor):
    for i in range(tokens_BS.shape[1]):
        with pruner if pruner.watches_decoding else nullcontext():
            yield model.hidden(tokens_BS[:, i : i + 1], pos_BS[:, i : i + 1], pruner.cache)
        pruner.prune()
