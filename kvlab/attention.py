"""Reading a cache: every query weighs the keys it may see and mixes their values.

B rows, H query heads, G key/value heads, R = H / G, S new tokens, T slots, D head width.

A backend is one function `(q_BHSD, kv, q_pos_BS, weights) -> (out_BHSD, weights_BHST | None)`.
`reference` is the specification; the others must agree with it. `rows` is a layer's own reader,
which "auto" prefers where there is one that can answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab import checks
from kvlab.protocol import LayerKV, Reader


@dataclass(frozen=True)
class Attended:
    """What attention gives back, and which backend made it and why."""

    out_BHSD: Tensor
    weights_BHST: Tensor | None
    backend: str
    why: str


def attend(
    q_BHSD: Tensor,
    kv: LayerKV,
    q_pos_BS: Tensor | None = None,
    *,
    backend: str = "auto",
    weights: bool = False,
) -> Attended:
    """Scaled dot-product attention of new queries over one layer's used slots.

    `q_pos_BS` holds the queries' positions (-1 for padding); None says that the queries are those
    of the last S slots, as they are just after `append`. With `weights` the attention weights come
    back too, which only the reference backend can do.
    Raises: ValueError when more queries than slots come without positions.
    Source: Vaswani et al. 2017, equation 1; grouped heads: Ainslie et al. 2023.
    """
    checks.tensor("q_BHSD", q_BHSD, "BHSD")
    checks.has("kv", kv, "pos_BGT", "one layer, as cache.read gives it")
    return chosen(backend, weights=weights)(q_BHSD, kv, q_pos_BS)


def chosen(backend: str = "auto", *, weights: bool = False) -> Chosen:
    """`attend` with its backend chosen once, for all layers of a forward.

    Raises: ValueError for a backend that there is not, or that cannot give weights.
    """
    if backend == "auto" and weights:
        return Chosen("reference", "weights were asked for", False, True)
    if backend == "auto":
        return Chosen("sdpa", "fastest that fits", True, False)
    if backend not in BACKENDS:
        raise ValueError(
            f"Attention backend {backend!r} was asked for; there are "
            f"{', '.join(map(repr, BACKENDS))} and 'auto'."
        )
    if weights and backend != "reference":
        raise ValueError(
            f"Attention weights were asked for, but backend {backend!r} never forms them. "
            "Use backend='reference' or 'auto'."
        )
    return Chosen(backend, "asked for", False, weights)


@dataclass(frozen=True)
class Chosen:
    """A backend with the reason why; a call attends by it. `auto`: a layer's reader goes first."""

    name: str
    why: str
    auto: bool
    weights: bool

    def __call__(self, q_BHSD: Tensor, kv: LayerKV, q_pos_BS: Tensor | None = None) -> Attended:
        if q_pos_BS is None and q_BHSD.shape[2] > kv.pos_BGT.shape[2]:
            raise ValueError(
                f"{q_BHSD.shape[2]} queries came without positions to a layer of "
                f"{kv.pos_BGT.shape[2]} slots, so they are not those of its last ones. Append "
                "first, or pass q_pos_BS."
            )
        name, why = self.name, self.why
        if kv.reader is not None or BACKENDS[name] is _own:
            name, why = self._with_reader(q_BHSD, kv.reader)
        out_BHSD, weights_BHST = BACKENDS[name](q_BHSD, kv, q_pos_BS, self.weights)
        return Attended(out_BHSD, weights_BHST, name, why)

    def _with_reader(self, q_BHSD: Tensor, reader: Reader | None) -> tuple[str, str]:
        """Let a layer be read by its own reader where that is possible, else say why not."""
        reason = "this cache is not packed" if reader is None else reader.missing(q_BHSD)
        if BACKENDS[self.name] is _own and reason is not None:
            raise ValueError(f"Attention backend {self.name!r} was asked for, but {reason}.")
        if not self.auto:
            return self.name, self.why
        if reason is None:
            return reader.name, reader.why
        return self.name, f"{self.why}; {reader.unread}: {reason}"


def allowed_BGST(kv: LayerKV, q_pos_BS: Tensor | None, n_new: int) -> Tensor:
    """Which slot each new query may use: 0 <= slot's position <= query's position.

    A query with nothing to see in a head sees everything there, empty slots too, so that its row
    stays a number; of no slots at all it is 0. Nobody reads that row: a token that was appended
    sees at least itself, so only padding before any text and heads evicted to nothing come to this.
    Shapes: (B, G, S, T), or an axis of 1 where all rows or heads agree.
    """
    if q_pos_BS is None and kv.in_order:
        n_slots = kv.k_BGTD.shape[2]
        slot_T = torch.arange(n_slots, device=kv.k_BGTD.device)
        return (slot_T <= slot_T[-n_new:, None])[None, None]
    if q_pos_BS is None:
        q_pos_BS = kv.pos_BGT[:, 0, -n_new:]  # new tokens have the same slots in every head
    pos_BG1T = kv.pos_BGT[:, :, None, :]
    allowed = (pos_BG1T >= 0) & (pos_BG1T <= q_pos_BS[:, None, :, None])
    return allowed | ~allowed.any(-1, keepdim=True)


def _reference(
    q_BHSD: Tensor, kv: LayerKV, q_pos_BS: Tensor | None, weights: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention as the formula says it, softmax in float32 or wider."""
    n_groups, n_new, width = kv.k_BGTD.shape[1], q_BHSD.shape[2], q_BHSD.shape[3]
    q_BGRSD = q_BHSD.unflatten(1, (n_groups, -1))
    scores_BGRST = q_BGRSD @ kv.k_BGTD[:, :, None].transpose(-1, -2) * width**-0.5
    allowed = allowed_BGST(kv, q_pos_BS, n_new)[:, :, None]
    scores_BGRST = scores_BGRST.masked_fill(~allowed, float("-inf"))
    wide = torch.float64 if q_BHSD.dtype == torch.float64 else torch.float32
    weights_BGRST = scores_BGRST.softmax(-1, dtype=wide).to(q_BHSD.dtype)
    out_BHSD = (weights_BGRST @ kv.v_BGTD[:, :, None]).flatten(1, 2)
    return out_BHSD, weights_BGRST.flatten(1, 2) if weights else None


def _sdpa(
    q_BHSD: Tensor, kv: LayerKV, q_pos_BS: Tensor | None, weights: bool
) -> tuple[Tensor, None]:
    """torch's fused attention, given as little mask as the positions allow."""
    n_groups, n_slots, n_new = kv.k_BGTD.shape[1], kv.k_BGTD.shape[2], q_BHSD.shape[2]
    if q_pos_BS is None and kv.in_order and n_new == n_slots > 1:
        grouped = n_groups != q_BHSD.shape[1]
        out_BHSD = F.scaled_dot_product_attention(
            q_BHSD, kv.k_BGTD, kv.v_BGTD, is_causal=True, enable_gqa=grouped
        )
        return out_BHSD, None
    # The R heads that share keys become R times as many query rows, so that the keys are read once
    # per group and not once per head. A single new token sees every slot of a whole layer.
    n_shared = q_BHSD.shape[1] // n_groups
    q_BGQD = q_BHSD.reshape(q_BHSD.shape[0], n_groups, n_shared * n_new, q_BHSD.shape[3])
    if q_pos_BS is None and n_new == 1 and kv.whole:
        mask = None
    else:
        mask = allowed_BGST(kv, q_pos_BS, n_new)
        mask = mask.repeat(1, 1, n_shared, 1) if n_new > 1 else mask
    out_BGQD = F.scaled_dot_product_attention(q_BGQD, kv.k_BGTD, kv.v_BGTD, attn_mask=mask)
    return out_BGQD.reshape(q_BHSD.shape), None


def _own(
    q_BHSD: Tensor, kv: LayerKV, q_pos_BS: Tensor | None, weights: bool
) -> tuple[Tensor, None]:
    """A layer's own reader."""
    return kv.reader.attend(q_BHSD, q_pos_BS), None


Backend = Callable[[Tensor, LayerKV, Tensor | None, bool], tuple[Tensor, Tensor | None]]
BACKENDS: dict[str, Backend] = {"reference": _reference, "sdpa": _sdpa, "rows": _own}
