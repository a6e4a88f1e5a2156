"""Watching a model work, from outside: what was computed, and what attention looked at.

B rows, S new tokens, H query heads, G key/value heads, T slots, D head width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kvlab import checks
from kvlab.cache import KVCache
from kvlab.measure.taps import LayerListener, listen, refuse_compiled
from kvlab.model import Transformer

_TAPS = {"queries": "tap_q", "keys": "tap_k", "values": "tap_v", "weights": "tap_weights"}
_COUNTERS = ("bytes_read", "bytes_written", "bytes_copied")


@dataclass(frozen=True)
class Forward:
    """One call of the model: its tokens in all, its tokens in each request, and its time.

    `seconds` runs from the embedding to the logits, or to the last norm where no logits were made.
    """

    tokens: int
    new: int
    seconds: float


class Probe:
    """Counts and keeps what passes a model's taps while the `with` block runs.

    `rows_projected` is the number of token rows whose key was computed, in each layer (a row is
    one token of one request). `forwards` lists the model's calls with their tokens and seconds:
    of a generation, the time to the first token and then the time of each token. On a GPU the
    probe waits for the device before and after each call, which nothing does without a probe.
    `queries`, `keys`, `values` and `weights` hold what passed in each layer, one entry per
    forward, when asked for with `keep`.
    With a cache, `bytes_read`, `bytes_written` and `bytes_copied` count what was done to it in the
    block, also when it was reset there. A second block with the same probe counts on.
    Raises: ValueError on leaving, when weights were to be kept and a forward formed none: only
    backend="reference" does.
    """

    queries: list[list[Tensor]]
    keys: list[list[Tensor]]
    values: list[list[Tensor]]
    weights: list[list[Tensor]]

    def __init__(
        self, model: Transformer, cache: KVCache | None = None, *, keep: Sequence[str] = ()
    ) -> None:
        _refuse_what_passes_no_taps(model)
        checks.listed("keep", (keep,) if isinstance(keep, str) else keep)
        if cache is not None:
            checks.has("cache", cache, "bytes_read", "a cache that counts bytes, as KVCache")
        keep = [keep] if isinstance(keep, str) else list(keep)
        unknown = [checks.shown(x) for x in keep if not isinstance(x, str) or x not in _TAPS]
        if unknown:
            raise ValueError(
                f"A probe was asked to keep {', '.join(unknown)}; it knows {', '.join(_TAPS)}."
            )
        keep = set(keep)
        self._model, self._cache, self._keep = model, cache, keep
        self._listening: ExitStack | None = None
        self._at: dict[str, int] = {}
        self._bytes = dict.fromkeys(_COUNTERS, 0)
        self._started = 0.0
        self._awaits_logits = False
        self.rows_projected_L = [0] * model.config.n_layers
        self.calls = 0
        self.forwards: list[Forward] = []
        for name in keep:
            setattr(self, name, [[] for _ in self.rows_projected_L])

    def __getattr__(self, name: str):
        if name in _TAPS:
            raise AttributeError(f"No {name} were kept; ask for them: Probe(model, keep={name!r}).")
        raise AttributeError(f"A Probe has no attribute {name!r}.")

    def __enter__(self) -> Probe:
        if self._listening:
            raise ValueError("This probe listens already; make another one to nest them.")
        self._at, self._awaits_logits = self._counters(), False
        kept = {_TAPS[name]: self._keeps(getattr(self, name)) for name in self._keep}
        with ExitStack() as both:
            passed = {"tap_k": self._counts, "tap_logits": self._has_logits}
            both.enter_context(listen(self._model, starts=self._begins, ends=self._ends, **passed))
            both.enter_context(listen(self._model, **kept))
            self._listening = both.pop_all()
        return self

    def __exit__(self, kind, *_) -> None:
        self._listening.close()
        self._listening = None
        self._count_bytes()
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
        """Time spent in the model: all forwards, and nothing between them."""
        return sum(forward.seconds for forward in self.forwards)

    @property
    def bytes_read(self) -> int:
        """Bytes of keys and values that attention was handed."""
        return self._counted("bytes_read")

    @property
    def bytes_written(self) -> int:
        """Bytes of keys and values that were appended."""
        return self._counted("bytes_written")

    @property
    def bytes_copied(self) -> int:
        """Bytes of keys and values that were moved."""
        return self._counted("bytes_copied")

    def _counted(self, name: str) -> int:
        if self._cache is None:
            raise ValueError(f"{name} was asked for; give the cache as well: Probe(model, cache).")
        if self._listening:
            self._count_bytes()
        return self._bytes[name]

    def _counters(self) -> dict[str, int]:
        return {} if self._cache is None else {n: getattr(self._cache, n) for n in _COUNTERS}

    def _count_bytes(self) -> None:
        """Add what the cache counted since the last look; a reset starts its counters again."""
        before, self._at = self._at, self._counters()
        was_reset = any(now < before[name] for name, now in self._at.items())
        for name, now in self._at.items():
            self._bytes[name] += now - (0 if was_reset else before[name])

    def _begins(self, tokens_BS: Tensor) -> None:
        self._count_bytes()
        self._started = self._now()

    def _ends(self, x_BSC: Tensor) -> None:
        seconds = self._now() - self._started
        self.forwards.append(Forward(x_BSC[..., 0].numel(), x_BSC.shape[1], seconds))
        self._awaits_logits = True
        self._count_bytes()

    def _has_logits(self, logits: Tensor) -> None:
        if self._awaits_logits:
            seconds = self._now() - self._started
            self.forwards[-1] = replace(self.forwards[-1], seconds=seconds)
            self._awaits_logits = False

    def _now(self) -> float:
        """The time, when the device has done what it was given."""
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
        if self._model.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    def _counts(self, i: int, k_BGSD: Tensor) -> None:
        self.rows_projected_L[i] += k_BGSD.shape[0] * k_BGSD.shape[2]
        self.calls += i == 0

    def _keeps(self, kept_L: list[list[Tensor]]) -> LayerListener:
        return lambda i, passed: kept_L[i].append(passed.detach().clone())


def _refuse_what_passes_no_taps(model: object) -> None:
    if not isinstance(model, Transformer):
        raise ValueError(
            f"A probe was given a {type(model).__name__}; expected a Transformer. A compiled "
            "step passes no taps: watch the model while plain decode runs."
        )
    refuse_compiled(model, "A probe was given")
