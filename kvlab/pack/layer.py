"""One layer of a packed cache as attention reads it: unpacked, or as it lies, by a kernel.

B rows of the batch, G key/value heads, T slots, S new tokens, D head width.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from kvlab import kernels
from kvlab.ledger import LayerState
from kvlab.old import Former
from kvlab.pack.rows import wants_gradient
from kvlab.pack.rule import Rule
from kvlab.slots import Slots


class PackedLayer:
    """One layer of a packed cache, with what a LayerKV has; keys and values unpack when asked for.

    It is its own `reader`: attention asks whether the rows can be read as they are, and does it.
    Where torch records gradients they are unpacked, so that these flow through what a rule kept.
    """

    name, why = "rows", "reads packed rows as they are"
    unread = "rows were unpacked"

    def __init__(self, cache: Slots, layer: int, state: LayerState) -> None:
        self.cache, self.layer = cache, layer
        self.used, self.in_order, self.whole = state.used, state.in_order, state.whole
        self.pos_BGT = cache.pos_LBGT[layer, :, :, : self.used]

    @property
    def reader(self) -> PackedLayer:
        return self

    packed = Former("reader")

    @property
    def k_BGTD(self) -> Tensor:
        return self._dense[0]

    @property
    def v_BGTD(self) -> Tensor:
        return self._dense[1]

    def missing(self, q_BHSD: Tensor) -> str | None:
        """Why these queries cannot read the rows as they are, or None if they can."""
        cache, device = self.cache, q_BHSD.device.type
        if device not in ("cpu", "cuda"):
            return f"packed rows have kernels for CPU and CUDA, and the cache is on {device}"
        if q_BHSD.shape[2] != 1:
            return f"{q_BHSD.shape[2]} new tokens, and the kernel takes one"
        if wants_gradient(q_BHSD, *(x for s in cache.sides for x in (s.dense, *s.body))):
            return "gradients are wanted, and the kernel gives none"
        for name, rule in zip(("keys", "values"), cache.rules, strict=True):
            if _row_marks(rule, cache.head_dim) is None:
                return f"{name} are held by {rule}, and the kernel reads PerToken rows of floats"
        if cache.head_dim > 256:
            return f"heads are {cache.head_dim} wide, and the kernel's indices reach 256"
        if cache.dtype == torch.float64:
            return "the kernel works in float32, and the cache holds float64"
        if device == "cuda":
            if not all(map(self._by_bitmap, cache.rules)):
                return "the GPU's kernel reads bitmaps, and a rule here marks by indices"
            return kernels.missing("packed_triton")
        return kernels.missing("packed") or _unreadable(cache.dtype)

    def attend(self, q_BHSD: Tensor, q_pos_BS: Tensor | None) -> Tensor:
        """Attention of one new token per row, straight from the rows. Shapes: out_BHSD."""
        self._check()
        on_cpu = q_BHSD.device.type == "cpu"
        out_BHD = (self._on_cpu if on_cpu else self.by_triton)(q_BHSD[:, :, 0], q_pos_BS)
        return out_BHD[:, :, None].to(q_BHSD.dtype)

    def by_triton(self, q_BHD: Tensor, q_pos_BS: Tensor | None) -> Tensor:
        """What the GPU's kernel makes of this layer; on a CPU, Triton's interpreter can run it."""
        from kvlab.kernels import packed_triton

        cache, layer = self.cache, self.layer
        q_pos_B = self.pos_BGT[:, 0, -1] if q_pos_BS is None else q_pos_BS[:, 0]
        return packed_triton.attend(
            q_BHD.detach().contiguous(),
            *(tuple(part[layer] for part in side.body) for side in cache.sides),
            tuple(side.dense[layer] for side in cache.sides),
            self._places(),
            cache.pos_LBGT[layer],
            q_pos_B.contiguous(),
            self.whole and q_pos_BS is None,
            q_BHD.shape[-1] ** -0.5,
        )

    def _on_cpu(self, q_BHD: Tensor, q_pos_BS: Tensor | None) -> Tensor:
        from kvlab.kernels import packed as kernel

        cache, layer = self.cache, self.layer
        whole = self.whole and q_pos_BS is None
        q_pos_B = self.pos_BGT[:, 0, -1] if q_pos_BS is None else q_pos_BS[:, 0]
        q_BHD = (q_BHD.detach().float() * q_BHD.shape[-1] ** -0.5).contiguous()
        out_BHD = torch.empty_like(q_BHD)
        k, v = (
            (kernels.as_numpy(values[layer]), marks[layer].numpy(), self._by_bitmap(side.rule))
            for side in cache.sides
            for values, marks in (side.body,)
        )
        dense = tuple(kernels.as_numpy(side.dense[layer]) for side in cache.sides)
        with kernels.numba_threads(torch.get_num_threads()):
            kernel.attend(
                q_BHD.numpy(), k, v, dense, self._places(), cache.pos_LBGT[layer].numpy(),
                q_pos_B.long().contiguous().numpy(), whole, kernel.spread(k, v, q_BHD.shape[-1]),
                out_BHD.numpy(),
            )  # fmt: skip
        return out_BHD

    def _by_bitmap(self, rule: Rule) -> bool:
        return _row_marks(rule, self.cache.head_dim) == "bitmap"

    def _places(self) -> tuple[int, int, int, int]:
        """Sinks, packed tokens, where the tail begins among the dense slots, and its tokens."""
        stretch, sinks = self.cache._stretches[self.layer], min(self.used, self.cache.sink)
        return sinks, stretch.packed, stretch.tail, self.used - sinks - stretch.packed

    @cached_property
    def _dense(self) -> tuple[Tensor, Tensor]:
        self._check()
        return self.cache.unpacked(self.layer)

    def _check(self) -> None:
        if self.cache.ledger[self.layer].used != self.used:
            raise ValueError(
                f"Layer {self.layer} was read when it had {self.used} tokens; it has "
                f"{self.cache.used_L[self.layer]} now. Read it again."
            )


def _row_marks(rule: Rule, width: int) -> str | None:
    """How the kernels find a rule's kept numbers: see `Format.row_marks`. A rule need not say."""
    asked = getattr(rule, "row_marks", None)
    return None if asked is None else asked(width)


def _unreadable(dtype: torch.dtype) -> str | None:
    from kvlab.kernels import cpu

    if dtype == torch.float16 and not cpu.reads_float16():
        return "this processor has no instruction that reads float16"
    return None
