"""Watching a model work, from outside: what was computed, and what attention looked at.

B rows, S new tokens, H query heads, G key/value heads, T slots, D head width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.cache import KVCache
from kvlab.model import Transformer

_TAPS = {"queries": "tap_q", "keys": "tap_k", "values": "tap_v", "weights": "tap_weights"}


@dataclass(frozen=True)
class Forward:
    """One call of the model: `tokens` rows and columns together, `new` columns, and its time."""

    tokens: int
    new: int
    seconds: float


class Probe:
    """Counts and keeps what passes a model's taps while the `with` block runs.

    `rows_projected` is the number of token rows whose key was computed, in each layer (a row is
    one token of one request). `forwards` lists the model's calls with their tokens and seconds,
    for which the probe, and only then, waits for a GPU. `queries`, `keys`, `values` and `weights`
    hold what passed in each layer, one entry per forward, when asked for with `keep`.
    With a cache, `bytes_read`, `bytes_written` and `bytes_copied` count what the block did to it.
    Raises: ValueError on leaving, when weights were to be kept and a forward formed none: only
    backend="reference" does.
    """

    def __init__(
        self, model: Transformer, cache: KVCache | None = None, *, keep: tuple[str, ...] = ()
    ) -> None:
        if not isinstance(model, Transformer):
            raise ValueError(
                f"A probe was given a {type(model).__name__}; expected a Transformer. A compiled "
                "step passes no taps: watch the model while plain decode runs."
            )
        unknown = set(keep) - set(_TAPS)
        if unknown:
            raise ValueError(
                f"A probe was asked to keep {', '.join(sorted(unknown))}; it knows "
                f"{', '.join(_TAPS)}."
            )
        self._model, self._cache, self._keep = model, cache, keep
        self._layers = [layer.self_attn for layer in model.model.layers]
        self._hooks: list = []
        self._before: dict[str, int] = {}
        self._after: dict[str, int] = {}
        self._started = 0.0
        self.rows_projected_L = [0] * len(self._layers)
        self.calls = 0
        self.forwards: list[Forward] = []
        self.queries: list[list[Tensor]] = [[] for _ in self._layers]
        self.keys: list[list[Tensor]] = [[] for _ in self._layers]
        self.values: list[list[Tensor]] = [[] for _ in self._layers]
        self.weights: list[list[Tensor]] = [[] for _ in self._layers]

    def __enter__(self) -> Probe:
        if self._hooks:
            raise ValueError("This probe listens already; make another one to nest them.")
        decoder = self._model.model
        self._hooks = [
            decoder.register_forward_pre_hook(self._begins),
            decoder.register_forward_hook(self._ends),
        ]
        for i, attention in enumerate(self._layers):
            self._hooks.append(attention.tap_k.register_forward_hook(self._counts(i)))
            for name in self._keep:
                tap = getattr(attention, _TAPS[name])
                self._hooks.append(tap.register_forward_hook(self._keeps(getattr(self, name)[i])))
        self._before = self._bytes()
        return self

    def __exit__(self, kind, *_) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._after = self._bytes()
        if kind is None and "weights" in self._keep and len(self.weights[0]) < self.calls:
            raise ValueError(
                f"Attention weights were to be kept, but {self.calls - len(self.weights[0])} of "
                f"{self.calls} forwards formed none; run the model with backend='reference'."
            )

    @property
    def rows_projected(self) -> int:
        """Rows whose key was computed, the same in every layer of a whole forward."""
        return max(self.rows_projected_L)

    @property
    def tokens(self) -> int:
        """Token rows that went into the model."""
        return sum(forward.tokens for forward in self.forwards)

    @property
    def seconds(self) -> float:
        """Time spent in the model's layers."""
        return sum(forward.seconds for forward in self.forwards)

    @property
    def bytes_read(self) -> int:
        """Bytes of keys and values that attention was handed."""
        return self._difference("bytes_read")

    @property
    def bytes_written(self) -> int:
        """Bytes of keys and values that were appended."""
        return self._difference("bytes_written")

    @property
    def bytes_copied(self) -> int:
        """Bytes of keys and values that were moved."""
        return self._difference("bytes_copied")

    def _difference(self, name: str) -> int:
        if self._cache is None:
            raise ValueError(f"{name} was asked for; give the cache as well: Probe(model, cache).")
        after = self._bytes() if self._hooks else self._after
        return after.get(name, 0) - self._before.get(name, 0)

    def _bytes(self) -> dict[str, int]:
        names = ("bytes_read", "bytes_written", "bytes_copied")
        return {} if self._cache is None else {name: getattr(self._cache, name) for name in names}

    def _begins(self, _module, _inputs) -> None:
        self._wait()
        self._started = time.perf_counter()

    def _ends(self, _module, inputs, _output) -> None:
        self._wait()
        tokens_BS = inputs[0]
        seconds = time.perf_counter() - self._started
        self.forwards.append(Forward(tokens_BS.numel(), tokens_BS.shape[1], seconds))

    def _wait(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)

    def _counts(self, i: int):
        def saw(_module, _inputs, k_BGSD: Tensor) -> None:
            self.rows_projected_L[i] += k_BGSD.shape[0] * k_BGSD.shape[2]
            self.calls += i == 0

        return saw

    def _keeps(self, kept: list[Tensor]):
        def saw(_module, _inputs, passed: Tensor) -> None:
            kept.append(passed.detach().clone())

        return saw
