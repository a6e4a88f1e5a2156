"""What an exercise can lend to an answer: a function, a device, or a model that can be poisoned.

It stays in the judge's process, where an answer can neither look inside nor change a counter.

B rows of the batch, S new tokens, V vocabulary.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from kvlab import checks
from kvlab.checkpoint import load
from kvlab.course.sandbox.loan import Lent
from kvlab.measure.random_model import random_model
from kvlab.model import Transformer
from kvlab.tokenizer import Tokenizer

F = TypeVar("F", bound=Callable[..., Any])


def per_thread(make: F) -> F:
    """A `cache` for what makes a model: in each thread the call is made once, and its result kept.

    `grade` judges several answers at once, a thread each. What one of them hooks into a model, or
    puts into its place, would be met by the forwards of all others that have the same one.
    """
    here = threading.local()

    @functools.wraps(make)
    def kept(*args: Any, **named: Any) -> Any:
        if not hasattr(here, "made"):
            here.made = functools.cache(make)
        return here.made(*args, **named)

    return kept


class LentFunction(Lent):
    """A function to call; `calls` counts."""

    lends = ("__call__",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.calls = 0

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.calls += 1
        return self._function(*args, **named)


class LentDevice(Lent):
    """A device with a clock of its own, in seconds, to which work is handed over.

    With `queues` that takes a moment, and the work goes on until somebody synchronizes. `run` is
    an exercise's own: it says what takes how long. `looks` counts looks at the clock.
    """

    lends = ("now", "run", "synchronize")

    def __init__(self, *, queues: bool = False) -> None:
        self._queues, self._time, self._free_at = queues, 0.0, 0.0
        self.looks = 0

    def now(self) -> float:
        self.looks += 1
        return self._time

    def synchronize(self) -> None:
        self._time = max(self._time, self._free_at)

    def _hand_over(self, takes: float, moment: float) -> None:
        """Work of so many seconds, and how long it takes to hand it over."""
        self._free_at = max(self._free_at, self._time) + takes
        self._time += moment
        if not self._queues:
            self.synchronize()


class LentCache(Lent):
    """A cache for an answer to hand back to the model; it cannot look inside."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner


# The work is the judge's: an answer must not be able to fill its memory or its time with it.
MAX_TOKENS, MAX_SLOTS, MAX_CAPACITY, MAX_ROWS = 2**9, 2**14, 2**10, 2**16


class LentModel(Lent):
    """A model that counts: `new_cache(batch, capacity)` and calling it are all it lends.

    With `poison`, that slot of the cache is overwritten with noise after the first call.
    """

    lends = ("new_cache", "__call__")

    def __init__(self, model: Transformer, poison: int | None = None) -> None:
        self._model, self._poison = model, poison
        self._slots = 0
        self.rows = 0
        self.calls: list[tuple[int, list[int]]] = []  # slots in use before, positions of row 0

    def new_cache(self, batch: int, capacity: int) -> LentCache:
        batch, capacity = checks.whole("batch", batch), checks.whole("capacity", capacity)
        if capacity > MAX_CAPACITY or self._slots + batch * capacity > MAX_SLOTS:
            raise ValueError(
                f"a cache for {batch} rows of {capacity} slots is beyond any need here"
            )
        self._slots += batch * capacity
        return LentCache(self._model.new_cache(batch, capacity))

    def __call__(self, tokens_BS: Tensor, pos_BS: Tensor, cache: LentCache | None = None) -> Tensor:
        for name, value in {"tokens_BS": tokens_BS, "pos_BS": pos_BS}.items():
            expected = "a tensor (B, S) of whole numbers, as torch.tensor([[1, 2, 3]])"
            checks.kind(name, value, Tensor, expected)
        if cache is not None:
            checks.kind("cache", cache, LentCache, "a cache, as model.new_cache makes it")
        if tokens_BS.dim() != 2:
            raise ValueError(f"tokens of shape {tuple(tokens_BS.shape)} came; expected (B, S)")
        if tokens_BS.shape != pos_BS.shape:
            raise ValueError(
                f"tokens of shape {tuple(tokens_BS.shape)} came with positions of shape "
                f"{tuple(pos_BS.shape)}; expected one position per token"
            )
        if not 1 <= tokens_BS.numel() <= MAX_TOKENS:
            raise ValueError(f"{tokens_BS.numel()} tokens at once are beyond any need here")
        if self.rows + tokens_BS.shape[1] > MAX_ROWS:
            raise ValueError(f"more than {MAX_ROWS} tokens in all are beyond any need here")
        inner = cache.inner if cache is not None else None
        self.calls.append((inner.length if inner is not None else 0, pos_BS[0].tolist()))
        with torch.inference_mode():
            logits_BSV = self._model(tokens_BS, pos_BS, inner).clone()
        self.rows += tokens_BS.shape[1]
        if len(self.calls) == 1 and self._poison is not None and inner is not None:
            _poison(inner, self._poison)
        return logits_BSV


def _poison(cache: Any, slot: int) -> None:
    """Overwrite one slot's keys and values in every layer, the same way each time."""
    torch_rng = torch.Generator().manual_seed(slot)
    for store in (cache.k_LBGTD, cache.v_LBGTD):
        noise = torch.randn(store[:, :, :, slot].shape, generator=torch_rng, dtype=store.dtype)
        store[:, :, :, slot] = 3 * noise


def tiny_model(seed: int, dtype: torch.dtype = torch.float64, **sizes: int) -> Transformer:
    """A model of random weights, large enough that every position and slot matters."""
    own = {"hidden_size": 24, "intermediate_size": 40, "n_layers": 3, "head_dim": 6}
    own |= {"max_positions": 1024}
    return random_model(seed, dtype=dtype, spread=2, **{**own, **sizes})


@per_thread
def pocket_model() -> tuple[Transformer, Tokenizer]:
    """The pocket model in float64 and its tokenizer, loaded once in each thread."""
    return load("pocket", dtype="float64")
