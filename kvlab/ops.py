"""Pure maths: arrays in, arrays out, nothing remembered.

B rows, S new tokens, H heads, D head width, C model width, F MLP width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from kvlab.rope_scaling import Scaling


def rms_norm(x_BSC: Tensor, weight_C: Tensor, eps: float) -> Tensor:
    """Divide each row by its root mean square, then scale each channel.

    Half-precision rows are squared in float32, where they cannot overflow.
    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """
    if x_BSC.dtype in (torch.float16, torch.bfloat16):
        return weight_C * F.rms_norm(x_BSC.float(), weight_C.shape, eps=eps).to(x_BSC.dtype)
    return F.rms_norm(x_BSC, weight_C.shape, weight_C, eps)


def wide(x: Tensor) -> Tensor:
    """Half precision as float32, for sums and products; others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rope_turns(
    head_dim: int,
    theta: float,
    scaling: Scaling | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """How far each pair of channels turns per position, in radians, the fastest first.

    `scaling` stretches them: see `kvlab.rope_scaling`.
    Shapes: -> (D/2,).
    Source: Su et al. 2021, "RoFormer", section 3.2.2.
    """
    channel_D = torch.arange(0, head_dim, 2, device=device, dtype=dtype)
    turns_D = 1.0 / theta ** (channel_D / head_dim)
    return turns_D if scaling is None else scaling.turns(turns_D, theta)


def rope_angles(
    pos_BS: Tensor,
    head_dim: int,
    theta: float,
    dtype: torch.dtype,
    scaling: Scaling | None = None,
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's turn, ready for `apply_rope`.

    Channels i and i + D/2 turn together, so the cosine comes twice, and the sine with both signs.
    Shapes: pos_BS -> two tensors (B, S, D) in `dtype`; a pad's position (-1) turns like 0.
    Angles are computed in float32 (float64 for a float64 model), as `transformers` does, because
    half precision cannot tell position 2049 from 2050.
    `scaling` stretches them, and may make both larger: see `kvlab.rope_scaling`.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    turns_D = rope_turns(head_dim, theta, scaling, dtype=wide, device=pos_BS.device)
    angle = pos_BS.clamp(min=0)[..., None].to(wide) * turns_D
    cos, sin = angle.cos(), angle.sin()
    if scaling is not None:
        cos, sin = cos * scaling.attention_factor, sin * scaling.attention_factor
    cos, sin = cos.to(dtype), sin.to(dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def apply_rope(x_BHSD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (channel i, channel i + D/2) by its position's angle.

    Shapes: cos and sin are (B, S, D), from `rope_angles`, shared by all heads.
    Differs: RoFormer pairs neighbouring channels; checkpoints in Hugging Face's layout pair the
    two halves. The two are the same model with its channels renamed.
    """
    cos, sin = cos[:, None], sin[:, None]
    half = x_BHSD.shape[-1] // 2
    swapped = x_BHSD.roll(half, dims=-1)
    return torch.addcmul(x_BHSD * cos, swapped, sin)


def swiglu(gate_BSF: Tensor, up_BSF: Tensor) -> Tensor:
    """One channel decides how much of its partner passes.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6.
    """
    return F.silu(gate_BSF) * up_BSF
