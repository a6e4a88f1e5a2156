"""What the model writes to and reads from while it computes one step of many requests.

B requests of one new token each, H query heads, G key/value heads, S new tokens of all requests, D
head width.

The tokens of a step stand in one row, one request after the other: what treats each token alone,
which is all of the model but attention, neither knows nor cares whose they are. Attention looks up
where its request's keys lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from kvlab.protocol import Cache, LayerKV
from kvlab.serve.reading import Gathered, InPlace, Pieces
from kvlab.serve.store import BlockStore, Part


class StepCache(Cache):
    """The cache of one step.

    Requests of one new token are read together, and those whose pieces have the same length and
    come after the same number of tokens.
    """

    name, why, unread = "rows", "keys lie in blocks", "nothing else can read blocks"

    def __init__(self, store: BlockStore, parts: Sequence[Part]) -> None:
        self._store, self.n_layers, device = store, store.n_layers, store.device
        self.seen = 0  # positions are always given
        pos = [p.dropped + p.held + i for p in parts for i in range(p.n_new)]
        self.pos_1S = torch.tensor([pos], device=device)
        # nothing to look at: it is read by `attend` below
        none_BGTD = store.none_BGTD
        self._kv = LayerKV(none_BGTD, none_BGTD, none_BGTD[..., 0], False, reader=self)
        starts = [0, *accumulate(p.n_new for p in parts)]
        kernel = store.unread is None
        alike: dict[tuple[int, int], list[int]] = {}  # what is read together
        for i, p in enumerate(parts):
            alike.setdefault((p.n_new, p.held if p.n_new > 1 else 0), []).append(i)
        self._readers = []
        for (n_new, _), which in alike.items():
            reader = Pieces if n_new > 1 else InPlace if kernel else Gathered
            where = _where([(starts[i], starts[i + 1]) for i in which], device)
            self._readers.append((where, reader(store, [parts[i] for i in which])))
        # the kernel for single tokens writes them as well
        pieces = any(n_new > 1 for n_new, _ in alike)
        self._slot_S = store.slots(parts) if pieces or not kernel else None

    def append(
        self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None = None
    ) -> None:
        """Write the step's new tokens to their slots, or leave that to the kernel."""
        self._new = layer, k_BGSD[0].transpose(0, 1), v_BGSD[0].transpose(0, 1)
        if self._slot_S is not None:
            self._store.write(*self._new[:1], self._slot_S, *self._new[1:])

    def read(self, layer: int) -> LayerKV:
        """The layer that was appended to."""
        return self._kv

    def missing(self, q_BHSD: Tensor) -> str | None:
        """Nothing: it reads any queries."""
        return None

    def attend(self, q_BHSD: Tensor, q_pos_BS: Tensor | None) -> Tensor:
        """Attention of each request's new tokens over its own. Shapes: q_BHSD -> out_BHSD."""
        layer, k_SGD, v_SGD = self._new
        q_SHD = q_BHSD[0].transpose(0, 1)
        if len(self._readers) == 1:
            out_SHD = self._readers[0][1](layer, q_SHD, k_SGD, v_SGD)
        else:
            out_SHD = torch.empty(q_SHD.shape, dtype=q_SHD.dtype, device=q_SHD.device)
            for at, reader in self._readers:
                out_SHD[at] = reader(layer, q_SHD[at], k_SGD[at], v_SGD[at])
        return out_SHD.transpose(0, 1)[None]


def _where(spans: Sequence[tuple[int, int]], device: torch.device) -> slice | Tensor:
    """Where the tokens of some requests stand in a step: a slice if they are neighbours."""
    if all(stop == start for (_, stop), (start, _) in pairwise(spans)):
        return slice(spans[0][0], spans[-1][1])
    return torch.tensor([i for span in spans for i in range(*span)], device=device)
