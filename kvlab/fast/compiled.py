"""Decoding steps that are compiled once for one model and one cache.

B rows, L layers, G key/value heads, T slots, D head width, V vocabulary.

Most of a small step's time goes into starting its many small operations. On a GPU they are
captured once as a CUDA graph and started together; on a CPU numba compiles them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvlab import checks
from kvlab.attention import chosen
from kvlab.cache import Cache, KVCache, LayerKV
from kvlab.fast.fused import FusedDecode
from kvlab.measure.taps import taps, watched
from kvlab.model import Transformer

FEWEST_SLOTS = 128


def compiled_decode(model: Transformer, cache: Cache) -> CompiledDecode:
    """A faster `decode` for this model and this cache: same call, same result up to rounding.

    Give it to `generate(..., cache=cache, decode=compiled_decode(model, cache))`. The first step
    compiles or captures, which takes seconds. It works as long as the cache keeps its memory: make
    it again after `shrink`. On a CPU the cache may be packed, by rules whose rows attention reads
    as they are.
    Raises: ValueError when model and cache do not fit each other, for a packed cache on a GPU or
    of other rules, a model that is spread over processes, or on a CPU without numba.
    """
    checks.model("model", model)
    return CompiledDecode(model, cache)


class CompiledDecode:
    """What `compiled_decode` returns. `how` says what runs: "numba" or "CUDA graph".

    Calling it raises ValueError, before anything is written, for another model or cache, a cache
    that is full or was shrunk, tokens of another shape, and a model that a probe watches.
    """

    passes_taps = False  # what listens at a model's taps hears nothing of this step

    def __init__(self, model: Transformer, cache: Cache) -> None:
        checks.in_one_piece("A compiled step was asked for", model)
        config = model.config
        wanted = (config.n_layers, config.n_kv_heads, config.head_dim, model.dtype, model.device)
        sizes = ("n_layers", "n_kv_heads", "head_dim", "dtype", "device")
        came = tuple(getattr(cache, name, None) for name in sizes)
        if came != wanted:
            raise ValueError(
                f"A cache of {_words(came)} came; expected {_words(wanted)}, as the model has. "
                "Make it with model.new_cache."
            )
        if model.device.type == "cuda" and not hasattr(cache, "advance"):
            raise ValueError(
                "A CUDA graph was asked for, but this cache is packed, and where its window lies "
                "changes from step to step. Use decode, or a KVCache."
            )
        self.model, self._cache = model, cache
        self._memory, self._taps = _memory(cache), taps(model)
        if model.device.type == "cuda":
            self.how, self._step = "CUDA graph", StaticDecode(model, cache)
        else:
            self.how, self._step = "numba", FusedDecode(model, cache)

    @torch.inference_mode()
    def __call__(self, model: Transformer, token_B: Tensor, cache: KVCache) -> Tensor:
        """Feed one token per row and return the next logits. Shapes: token_B -> logits_BV."""
        if model is not self.model or cache is not self._cache:
            other = "model" if model is not self.model else "cache"
            raise ValueError(
                f"This step was compiled for another {other}; make one with "
                "compiled_decode(model, cache)."
            )
        if _memory(cache) != self._memory:
            raise ValueError(
                "The cache moved to other memory after this step was compiled, as shrink does; "
                "make the step again with compiled_decode(model, cache)."
            )
        if tuple(token_B.shape) != (cache.batch,) or token_B.dtype != torch.int64:
            raise ValueError(
                f"Tokens of shape {tuple(token_B.shape)} and type {token_B.dtype} came; expected "
                f"torch.int64 of shape ({cache.batch},), one for each row of the cache."
            )
        if token_B.device != cache.device:
            raise ValueError(f"Tokens on {token_B.device} came; the model is on {cache.device}.")
        if watched(self._taps):
            raise ValueError(
                "A probe watches this model, but a compiled step passes no taps. Leave the probe, "
                "or use plain decode."
            )
        cache.check_capacity(1)
        return self._step(token_B)


class StaticDecode:
    """A decoding step whose shapes and addresses never change, so that a CUDA graph can hold it.

    The new token's slot and position are numbers on the device that count up by themselves. It
    attends over the first T slots, T a power of two that holds all used ones, and positions mask
    the rest; each T has its graph, and all share one pool of memory. On a CPU the same step runs
    without a graph.
    """

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        device = model.device
        self._model, self._cache, self._attend = model, cache, chosen("sdpa")
        self._token_B1 = torch.zeros(cache.batch, 1, dtype=torch.int64, device=device)
        self._pos_B1 = torch.zeros(cache.batch, 1, dtype=torch.int64, device=device)
        self._slot_L = torch.zeros(cache.n_layers, dtype=torch.int64, device=device)
        self._expected: tuple | None = None
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = None

    def __call__(self, token_B: Tensor) -> Tensor:
        """Feed one token per row. Shapes: token_B -> logits_BV."""
        cache = self._cache
        if self._state() != self._expected:
            # something else than this step wrote, evicted or rewound: look again where to go on
            self._slot_L.copy_(torch.tensor(cache.used_L))
            self._pos_B1.copy_(cache.next_pos_B()[:, None])
        self._token_B1.copy_(token_B[:, None])
        n_slots = slots_for(max(cache.used_L) + 1, cache.capacity)
        if token_B.device.type == "cuda":
            logits_BV = self._replay(n_slots)
        else:
            logits_BV = self._run(n_slots)
            self._count_up()
        cache.advance()
        self._expected = self._state()
        return logits_BV

    def _state(self) -> tuple:
        cache = self._cache
        return cache.used_L, cache.seen, cache.counts_positions, cache.bytes_written

    def _run(self, n_slots: int) -> Tensor:
        slots = _Slots(self._cache, self._slot_L, n_slots)
        x_BSC = self._model.model(self._token_B1, self._pos_B1, slots, self._attend)
        return self._model.head(x_BSC[:, -1])

    def _count_up(self) -> None:
        self._slot_L.add_(1)
        self._pos_B1.add_(1)

    def _replay(self, n_slots: int) -> Tensor:
        if n_slots not in self._graphs:
            self._graphs[n_slots] = self._capture(n_slots)
        graph, logits_BV = self._graphs[n_slots]
        graph.replay()
        return logits_BV.clone()  # the next replay writes over it

    def _capture(self, n_slots: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        # Libraries set themselves up in their first calls, which must not be captured. Those calls
        # write only where the step itself is about to write.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run(n_slots)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits_BV = self._run(n_slots)
            self._count_up()
        self._pool = graph.pool()
        return graph, logits_BV


class _Slots:
    """The cache as a captured step sees it: where it writes is known to the device alone."""

    seen = 0  # positions are always given

    def __init__(self, cache: KVCache, slot_L: Tensor, n_slots: int) -> None:
        self._cache, self._slot_L, self._n_slots = cache, slot_L, n_slots

    def append(self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor) -> None:
        cache, slot_S = self._cache, self._slot_L[layer : layer + 1]
        cache.k_LBGTD[layer].index_copy_(2, slot_S, k_BGSD)
        cache.v_LBGTD[layer].index_copy_(2, slot_S, v_BGSD)
        pos_BGS = pos_BS[:, None].expand(-1, k_BGSD.shape[1], -1)
        cache.pos_LBGT[layer].index_copy_(2, slot_S, pos_BGS)

    def read(self, layer: int) -> LayerKV:
        cache, n_slots = self._cache, self._n_slots
        return LayerKV(
            cache.k_LBGTD[layer, :, :, :n_slots],
            cache.v_LBGTD[layer, :, :, :n_slots],
            cache.pos_LBGT[layer, :, :, :n_slots],
            in_order=False,
            whole=False,
        )


def slots_for(n_used: int, capacity: int) -> int:
    """How many slots a static step looks at: the next power of two, within the capacity."""
    return min(capacity, max(FEWEST_SLOTS, 1 << (n_used - 1).bit_length()))


def _memory(cache: Cache) -> tuple[int, ...]:
    """Where a cache lies that a step writes; others find their own way after they moved."""
    if not hasattr(cache, "advance"):
        return ()
    stores = (cache.k_LBGTD, cache.v_LBGTD, cache.pos_LBGT)
    return (*(store.data_ptr() for store in stores), cache.capacity)


def _words(kind: tuple) -> str:
    n_layers, n_kv_heads, width, dtype, device = kind
    return f"{n_layers} layers, {n_kv_heads} KV heads of {width}, {dtype} on {device}"
