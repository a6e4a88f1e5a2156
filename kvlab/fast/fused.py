"""A decoding step for a CPU: everything between two reads of the cache in compiled code.

B rows, H query heads, G key/value heads, T slots, D head width, C model width, F MLP width,
V vocabulary, P parts of a row's slots.

Keys and values are written and read where they lie, in the one cache, dense or packed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kvlab import kernels
from kvlab.cache import Cache, KVCache
from kvlab.kernels import ONE_THREAD_BYTES, as_numpy, numba_threads
from kvlab.model import Layer, Transformer

# Up to so many rows our own kernel reads each weight once; more rows are torch's matrix product.
MOST_ROWS = 12


class FusedDecode:
    """A decoding step for one model and one cache, both on the CPU.

    Activations stay in float32 (float64 in a float64 model) where `decode` rounds each of them to
    the model's precision. It looks at the model's matrices where they lie, and copies its small
    vectors: make it again after changing those. numba compiles it when it first runs, and keeps
    the code. It checks nothing: `compiled.CompiledDecode` does. A cache that it may not write by
    itself, as one that packs, appends and attends in its own way, between the compiled parts.
    Raises: ValueError when numba is missing, the model is not on a CPU, the CPU cannot read
    float16, or a packed cache holds what the kernel for packed rows does not read.
    """

    def __init__(self, model: Transformer, cache: Cache) -> None:
        reason = kernels.missing("cpu")
        self._writes = hasattr(cache, "advance")
        if reason is None and (model.device.type != "cpu" or cache.device.type != "cpu"):
            reason = f"the model is on {model.device}"
        if reason is None and model.dtype == torch.float16 and not _reads_float16():
            reason = "this processor has no instruction that reads float16; load another dtype"
        own = getattr(type(cache), "slots", _OwnSlots)  # blocks have their own way
        if reason is None and not self._writes:
            reason = _unread(cache) if own is _OwnSlots else cache.unread
        if reason:
            raise ValueError(f"The compiled step for a CPU was asked for, but {reason}.")
        self._rope = model.model.rope
        self._embed = model.model.embed_tokens
        self._dtype = model.dtype
        self._work = torch.float64 if model.dtype == torch.float64 else torch.float32
        self._layers = [_LayerStep(layer, self._work) for layer in model.model.layers]
        self._norm = _Norm(model.model.norm, self._work)
        self._head = _Matrix(model.head_weights, self._work)
        matrices = [m for layer in self._layers for m in layer.matrices]
        read = sum(m.weight.nbytes for m in [*matrices, self._head])
        self._one_thread = read < ONE_THREAD_BYTES
        self._slots_of = _DenseSlots if self._writes else own
        self._bind(model, cache)

    def _bind(self, model: Transformer, cache: Cache) -> None:
        self._cache = cache
        self._slots = [self._slots_of(cache, layer) for layer in range(cache.n_layers)]
        self._acts = _Activations(model, cache, self._work)

    def beside(self, model: Transformer, cache: Cache) -> FusedDecode:
        """The same step for another cache of the same kind; the model's vectors are shared."""
        other = copy.copy(self)
        other._bind(model, cache)
        return other

    def __call__(self, token_B: Tensor) -> Tensor:
        """Feed one token per row. Shapes: token_B -> logits_BV."""
        cache, acts = self._cache, self._acts
        pos_B1 = None if cache.counts_positions else cache.next_pos_B()[:, None]
        acts.x[: cache.batch] = self._embed(token_B).to(self._work).numpy()
        cos, sin = self._rope(pos_B1, cache.seen, 1, acts.like)
        rope = [_rows(half, cache.batch, self._work) for half in (cos, sin)]
        with numba_threads(1 if self._one_thread else torch.get_num_threads()):
            for layer, slots in zip(self._layers, self._slots, strict=True):
                layer(acts, rope, slots, pos_B1)
            self._norm(acts.x, acts.normed)
            logits = np.empty((len(acts.x), self._head.n_out), acts.x.dtype)
            self._head(acts.normed, logits)
        if self._writes:
            cache.advance()
        return torch.from_numpy(logits[: cache.batch]).to(self._dtype)


class _LayerStep:
    """One layer's weights as the kernels take them, and their order of use."""

    def __init__(self, layer: Layer, work: torch.dtype) -> None:
        from kvlab.kernels import cpu

        self._cpu = cpu
        at, mlp = layer.self_attn, layer.mlp
        names = "q_proj", "k_proj", "v_proj", "o_proj"
        self.q, self.k, self.v, self.o = (_Matrix(getattr(at, name), work) for name in names)
        names = "gate_proj", "up_proj", "down_proj"
        self.gate, self.up, self.down = (_Matrix(getattr(mlp, name), work) for name in names)
        self.matrices = self.q, self.k, self.v, self.o, self.gate, self.up, self.down
        self.before_attention = _Norm(layer.input_layernorm, work)
        self.before_mlp = _Norm(layer.post_attention_layernorm, work)
        self.head_norms = [
            None if isinstance(norm, nn.Identity) else _Norm(norm, work)
            for norm in (at.q_norm, at.k_norm)
        ]

    def __call__(self, acts: _Activations, rope, slots, pos_B1: Tensor | None) -> None:
        cpu = self._cpu
        self.before_attention(acts.x, acts.normed)
        self.q(acts.normed, acts.q)
        self.k(acts.normed, acts.k)
        self.v(acts.normed, acts.v)
        for norm, x_BHD in zip(self.head_norms, (acts.q_BHD, acts.k_BGD), strict=True):
            if norm is not None:
                rows = x_BHD.reshape(-1, x_BHD.shape[-1])
                norm(rows, rows)
        cpu.turn(acts.q_BHD, *rope)
        cpu.turn(acts.k_BGD, *rope)
        slots(acts, pos_B1)
        self.o(acts.out, acts.x, add=True)
        self.before_mlp(acts.x, acts.normed)
        self.gate(acts.normed, acts.gate)
        self.up(acts.normed, acts.up)
        cpu.swiglu(acts.gate, acts.up)
        self.down(acts.gate, acts.x, add=True)


def compiled_attention(q_BHSD: Tensor, cache: KVCache) -> Callable[[], Tensor]:
    """The compiled step's attention alone, over the first layer of a dense cache on the CPU.

    For a clock: what it needs is made here, and a call of the result only attends.
    Shapes: (B, H, 1, D) -> (B, H, 1, D).
    """
    from kvlab.kernels import cpu

    batch, heads, _, width = q_BHSD.shape
    used = cache.used_L[0]
    q_BHD = q_BHSD[:, :, 0].float().contiguous()
    out_BHD, n_parts = torch.empty_like(q_BHD), -(-used // cpu.PART)
    sizes = (used,), (n_parts,), (n_parts,), (n_parts, width)
    scratch = tuple(torch.empty(batch, heads, *size).numpy() for size in sizes)
    k, v = (as_numpy(x_LBGTD[0]) for x_LBGTD in (cache.k_LBGTD, cache.v_LBGTD))
    pos, q_pos = cache.pos_LBGT[0].numpy(), torch.full((batch,), cache.seen).numpy()

    def run() -> Tensor:
        with numba_threads(torch.get_num_threads()):
            cpu.attend(
                q_BHD.numpy(), k, v, pos, q_pos, used, True, width**-0.5, scratch, out_BHD.numpy()
            )
        return out_BHD[:, :, None]

    return run


class _DenseSlots:
    """One layer of a dense cache, all slots, used or not, as contiguous arrays."""

    def __init__(self, cache: KVCache, layer: int) -> None:
        from kvlab.kernels import cpu

        self._cpu, self._cache, self._layer = cpu, cache, layer
        self._kv = (
            as_numpy(cache.k_LBGTD[layer]),
            as_numpy(cache.v_LBGTD[layer]),
            cache.pos_LBGT[layer].numpy(),
        )
        self._scale = cache.head_dim**-0.5

    def __call__(self, acts: _Activations, pos_B1: Tensor | None) -> None:
        """Write the new token, and attend. Counting it is left to the whole step."""
        cache, state = self._cache, self._cache.ledger[self._layer]
        pos_B = np.full(cache.batch, cache.seen) if pos_B1 is None else pos_B1[:, 0].numpy()
        slot, whole = state.used, state.whole
        self._cpu.store(acts.k_BGD, acts.v_BGD, pos_B, slot, *self._kv)
        self._cpu.attend(
            acts.q_BHD, *self._kv, pos_B, slot + 1, whole, self._scale, acts.scratch, acts.out_BHD
        )


class _OwnSlots:
    """One layer of a cache that writes, counts and attends by itself."""

    def __init__(self, cache: Cache, layer: int) -> None:
        self._cache, self._layer = cache, layer

    def __call__(self, acts: _Activations, pos_B1: Tensor | None) -> None:
        cache, layer = self._cache, self._layer
        new = (torch.from_numpy(x)[:, :, None].to(cache.dtype) for x in (acts.k_BGD, acts.v_BGD))
        cache.append(layer, *new, pos_B1)
        q_BHSD = torch.from_numpy(acts.q_BHD)[:, :, None]
        acts.out_BHD[:] = cache.read(layer).reader.attend(q_BHSD, pos_B1)[:, :, 0].numpy()


class _Matrix:
    """A linear layer: few rows by our kernel, many by torch."""

    def __init__(self, linear: nn.Module, work: torch.dtype) -> None:
        from kvlab.kernels import cpu

        self.weight = linear.weight.detach()
        self._project = self._project_one = cpu.project
        if self.weight.dtype == torch.int8 and work == torch.float32:
            self._project_one = cpu.project_int8
        self.n_out = self.weight.shape[0]
        self._numbers = as_numpy(self.weight)
        none = torch.zeros(0)
        self._small = [
            none.to(work) if vector is None else vector.detach().to(work).contiguous()
            for vector in (getattr(linear, "scale", None), getattr(linear, "bias", None))
        ]
        self._vectors = [vector.numpy() for vector in self._small]

    def __call__(self, x_BI: np.ndarray, y_BO: np.ndarray, *, add: bool = False) -> None:
        if len(x_BI) <= MOST_ROWS:
            project = self._project_one if len(x_BI) == 1 else self._project
            project(self._numbers, *self._vectors, x_BI, y_BO, add)
            return
        scale_O, bias_O = self._small
        x, y = torch.from_numpy(x_BI), torch.from_numpy(y_BO)
        half = self.weight.dtype if self.weight.is_floating_point() else x.dtype
        product = F.linear(x.to(half), self.weight.to(half)).to(x.dtype)
        product = product * scale_O if len(scale_O) else product
        product = product + bias_O if len(bias_O) else product
        y.copy_(y + product if add else product)


class _Norm:
    """An RMSNorm."""

    def __init__(self, norm: nn.Module, work: torch.dtype) -> None:
        from kvlab.kernels import cpu

        self._norm = cpu.norm
        self._weight_C = norm.weight.detach().to(work).numpy().copy()
        self._eps = norm.eps

    def __call__(self, x_BC: np.ndarray, y_BC: np.ndarray) -> None:
        self._norm(x_BC, self._weight_C, self._eps, y_BC)


class _Activations:
    """Where a step keeps its activations; rows are rounded up to a multiple of four."""

    def __init__(self, model: Transformer, cache: KVCache, work: torch.dtype) -> None:
        from kvlab.kernels import cpu

        config, batch = model.config, cache.batch
        rows = -(-batch // 4) * 4 if 1 < batch <= MOST_ROWS else batch
        heads, groups, width = config.n_heads, config.n_kv_heads, config.head_dim

        def zeros(*shape: int) -> np.ndarray:
            return torch.zeros(shape, dtype=work).numpy()

        self.like = torch.zeros(0, dtype=work)
        self.x, self.normed = zeros(rows, config.hidden_size), zeros(rows, config.hidden_size)
        self.q, self.out = zeros(rows, heads * width), zeros(rows, heads * width)
        self.k, self.v = zeros(rows, groups * width), zeros(rows, groups * width)
        self.gate = zeros(rows, config.intermediate_size)
        self.up = zeros(rows, config.intermediate_size)
        # the same memory, by heads and without the rows that round up
        self.q_BHD = self.q[:batch].reshape(batch, heads, width)
        self.out_BHD = self.out[:batch].reshape(batch, heads, width)
        self.k_BGD = self.k[:batch].reshape(batch, groups, width)
        self.v_BGD = self.v[:batch].reshape(batch, groups, width)
        parts = -(-cache.capacity // cpu.PART)
        self.scratch = tuple(
            zeros(batch, heads, *size)
            for size in ((cache.capacity,), (parts,), (parts,), (parts, width))
        )


def _unread(cache: Cache) -> str | None:
    """Why a cache's own reader cannot serve single tokens, or None if it can."""
    if not hasattr(cache, "reader"):
        return f"a {type(cache).__name__} has no reader, so it takes decode"
    return cache.reader(0).missing(torch.empty(cache.batch, 1, 1, 1))


def _reads_float16() -> bool:
    from kvlab.kernels import cpu

    return cpu.reads_float16()


def _rows(half: Tensor, batch: int, work: torch.dtype) -> np.ndarray:
    """Rotary cosines or sines (1 or B, 1, D) as one row per row of the batch."""
    return half[:, 0].to(work).expand(batch, -1).contiguous().numpy()
