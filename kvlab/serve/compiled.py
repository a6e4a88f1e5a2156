"""A step in which every request gets one new token, compiled by numba.

B requests, H query heads, G key/value heads, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kvlab import checks
from kvlab.fast.fused import FusedDecode
from kvlab.measure.taps import taps, watched
from kvlab.model import Transformer
from kvlab.serve.reading import InPlace
from kvlab.serve.store import BlockStore, Part


class CompiledSteps:
    """The same result as the model's own step up to rounding, for any number of requests.

    Raises: ValueError where that cannot run, and for a model that is spread over processes.
    """

    def __init__(self, model: Transformer, store: BlockStore) -> None:
        checks.in_one_piece("A compiled step was asked for", model)
        self._model, self._store, self._taps = model, store, taps(model)
        one = Singles(store, 1)
        self._steps = {1: (one, FusedDecode(model, one))}

    def __call__(self, token_B: Sequence[int], parts: Sequence[Part]) -> Tensor:
        """Feed one token per request. Shapes: logits_BV.

        Raises: ValueError, before anything is written, while a probe watches the model.
        """
        if watched(self._taps):
            raise ValueError(
                "A probe watches this model, but a compiled step passes no taps. Leave the probe, "
                "or make the engine without compiled."
            )
        singles, step = self._of(len(parts))
        singles.take(parts)
        return step(torch.tensor(token_B))

    def _of(self, batch: int) -> tuple[Singles, FusedDecode]:
        if batch not in self._steps:
            singles, (_, first) = Singles(self._store, batch), self._steps[1]
            self._steps[batch] = singles, first.beside(self._model, singles)
        return self._steps[batch]


class Singles:
    """Blocks as `FusedDecode` sees a cache: B requests, others in each step."""

    seen, capacity, counts_positions = 0, 0, False  # positions are always given

    def __init__(self, store: BlockStore, batch: int) -> None:
        self.batch, self.n_layers, self.device = batch, store.n_layers, store.device
        self.unread, self._store = store.unread, store

    def take(self, parts: Sequence[Part]) -> None:
        """The requests of the next step."""
        self._pos_B = torch.tensor([p.dropped + p.held for p in parts])
        self._reader = InPlace(self._store, parts)

    def next_pos_B(self) -> Tensor:
        """Positions of the new tokens."""
        return self._pos_B

    def slots(self, layer: int) -> Callable[..., None]:
        """What writes keys and values of one layer, and reads all, where activations stand."""

        def attend(acts, _pos_B1: Tensor) -> None:
            new = acts.q_BHD, acts.k_BGD, acts.v_BGD
            self._reader.attend(layer, new, acts.out_BHD)

        return attend
