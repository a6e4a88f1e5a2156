"""Watching a model work, from outside: what was computed, and what attention looked at."""

from __future__ import annotations

from torch import Tensor

from kvlab.model import Transformer


class Probe:
    """Counts and keeps what passes a model's taps while the `with` block runs.

    `rows_projected` is the number of token rows whose key was computed, in each layer (a row is
    one token of one request). `keys` and `weights` hold what passed in each layer, one entry per
    forward, when asked for with `keep`; weights are formed in the reference backend only.
    """

    def __init__(self, model: Transformer, *, keep: tuple[str, ...] = ()) -> None:
        unknown = set(keep) - {"keys", "weights"}
        if unknown:
            raise ValueError(
                f"A probe was asked to keep {sorted(unknown)}; it knows keys, weights."
            )
        self._layers = [layer.self_attn for layer in model.model.layers]
        self._keep = keep
        self.rows_projected_L = [0] * len(self._layers)
        self.calls = 0
        self.keys: list[list[Tensor]] = [[] for _ in self._layers]
        self.weights: list[list[Tensor]] = [[] for _ in self._layers]

    def __enter__(self) -> Probe:
        self._hooks = []
        for i, attention in enumerate(self._layers):
            self._hooks.append(attention.tap_k.register_forward_hook(self._saw_keys(i)))
            self._hooks.append(attention.tap_weights.register_forward_hook(self._saw_weights(i)))
        return self

    def __exit__(self, *_) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def rows_projected(self) -> int:
        """Rows whose key was computed, the same in every layer of a whole forward."""
        return max(self.rows_projected_L)

    def _saw_keys(self, i: int):
        def saw(_module, _inputs, k_BGSD: Tensor) -> None:
            self.rows_projected_L[i] += k_BGSD.shape[0] * k_BGSD.shape[2]
            self.calls += i == 0
            if "keys" in self._keep:
                self.keys[i].append(k_BGSD.detach().clone())

        return saw

    def _saw_weights(self, i: int):
        def saw(_module, _inputs, weights_BHST: Tensor) -> None:
            if "weights" in self._keep:
                self.weights[i].append(weights_BHST.detach())

        return saw
