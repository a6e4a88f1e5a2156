"""Answers of a model in stages, with the rows of a batch on their way through them at once.

Of one batch all stages but one would wait at any time. So its rows are cut into micro-batches, each
with a cache of its own, and a stage goes on to the next one as soon as it has handed one over.

B rows, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kvlab import checks
from kvlab.cache import Cache
from kvlab.generation import decode, stream
from kvlab.model import Transformer
from kvlab.parallel.mesh import Mesh
from kvlab.parallel.shares import split
from kvlab.prompts import Prompt, read
from kvlab.sampling import Pick, greedy


class MicroBatch:
    """Some rows of a batch, whose next tokens are waited for only when they are needed."""

    def __init__(
        self, model: Transformer, rows: list[list[int]], n_new: int, mesh: Mesh, pick: Pick
    ) -> None:
        self._mesh, self._pick, self._work = mesh, pick, None
        self.tokens: list[Tensor] = []  # the last one may be on its way
        self._steps = stream(model, rows, n_new, pick=self._told, decode=self._decode, eos=())

    def go_on(self) -> None:
        """Compute the next step's logits; its tokens are on their way then."""
        self.tokens.append(next(self._steps).token_B)

    def arrived(self) -> None:
        """Wait for the latest tokens."""
        self._mesh.wait(self._work)

    def _told(self, logits_BV: Tensor) -> Tensor:
        token_B, self._work = self._mesh.tell(self._pick, logits_BV)
        return token_B

    def _decode(self, model: Transformer, token_B: Tensor, cache: Cache) -> Tensor:
        self.arrived()
        return decode(model, token_B, cache)


def pipelined(
    model: Transformer,
    prompts: Prompt,
    n_new: int,
    *,
    micro_batches: int | None = None,
    pick: Pick = greedy,
    eos: int | Sequence[int] | None = None,
) -> Tensor:
    """As `kvlab.generate`, for a model that `shard_` cut: the same tokens in all its processes.

    The rows go through the stages in so many micro-batches, as many as there are stages unless
    told. A `pick` that draws sees the rows of one after the other.
    Shapes: -> tokens_BN with N <= n_new; after a row's end its ending id repeats.
    Raises: ValueError as `kvlab.generate`, and for a model that is no share.
    """
    mesh = getattr(model, "mesh", None)
    if mesh is None:
        raise ValueError("A model that is whole came; cut it with shard_, or use kvlab.generate.")
    checks.functions(pick=pick)
    rows = _rows(model, prompts, n_new)
    if micro_batches is not None:
        checks.whole("micro_batches", micro_batches)
    n = min(micro_batches or mesh.pp, len(rows))
    ends = model.config.eos_ids if eos is None else checks.ids("eos", eos)
    parts = [
        MicroBatch(model, rows[own.start : own.stop], n_new, mesh, pick)
        for own in split(len(rows), n)
    ]
    for i in range(n_new):
        for part in parts:
            part.go_on()
        # looked at a step late, when nobody has to wait for them
        if i and ends and bool((_ended_from(_so_far(parts, i), ends) < i).all()):
            break
    for part in parts:
        part.arrived()
    return _cut(_so_far(parts, i + 1), ends)


def _rows(model: Transformer, prompts: Prompt, n_new: int) -> list[list[int]]:
    tokens_BS, pos_BS = read(model, prompts, n_new)
    if pos_BS is None:
        return tokens_BS.tolist()
    return [row_S[pos_S >= 0].tolist() for row_S, pos_S in zip(tokens_BS, pos_BS, strict=True)]


def _so_far(parts: list[MicroBatch], n: int) -> Tensor:
    """The first `n` new tokens of all rows. Shapes: tokens_BN."""
    return torch.cat([torch.stack(part.tokens[:n], dim=1) for part in parts])


def _ended_from(tokens_BN: Tensor, ends: Sequence[int]) -> Tensor:
    """Where each row's first ending id is, or N. Shapes: (B,)."""
    ends_BN = torch.isin(tokens_BN, torch.tensor(ends, device=tokens_BN.device))
    first_B = ends_BN.byte().argmax(1)
    return torch.where(ends_BN.any(1), first_B, tokens_BN.shape[1])


def _cut(tokens_BN: Tensor, ends: Sequence[int]) -> Tensor:
    """Each row's ending id repeated to the place where the last row ends."""
    if not ends:
        return tokens_BN
    n_new = tokens_BN.shape[1]
    first_B = _ended_from(tokens_BN, ends)
    last_B1 = first_B.clamp(max=n_new - 1)[:, None]
    over_BN = torch.arange(n_new, device=tokens_BN.device) > last_B1
    tokens_BN = torch.where(over_BN, tokens_BN.gather(1, last_B1), tokens_BN)
    return tokens_BN[:, : int(last_B1.max()) + 1]
