"""Pure maths: arrays in, arrays out, nothing remembered.

B rows, S new tokens, H heads, D head width, C model width, F MLP width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x_BSC: Tensor, weight_C: Tensor, eps: float) -> Tensor:
    """Divide each row by its root mean square, then scale each channel.

    Half-precision rows are squared in float32, where they cannot overflow.
    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """
    wide = _at_least_float32(x_BSC)
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight_C * (wide * scale).to(x_BSC.dtype)


def rope_angles(
    pos_BS: Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's turn, one angle per pair of channels.

    Shapes: pos_BS -> two tensors (B, S, D/2) in `dtype`; a pad's position (-1) turns like 0.
    Angles are computed in float32 (float64 for a float64 model), as `transformers` does, because
    half precision cannot tell position 2049 from 2050.
    Source: Su et al. 2021, "RoFormer", section 3.2.2.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    channel = torch.arange(0, head_dim, 2, device=pos_BS.device, dtype=wide)
    turn_per_position = 1.0 / theta ** (channel / head_dim)
    angle = pos_BS.clamp(min=0)[..., None].to(wide) * turn_per_position
    return angle.cos().to(dtype), angle.sin().to(dtype)


def apply_rope(x_BHSD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (channel i, channel i + D/2) by its position's angle.

    Shapes: cos and sin are (B, S, D/2), shared by all heads.
    Differs: RoFormer pairs neighbouring channels; checkpoints in Hugging Face's layout pair the
    two halves. The two are the same model with its channels renamed.
    """
    cos, sin = cos[:, None], sin[:, None]
    left, right = x_BHSD.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


def swiglu(gate_BSF: Tensor, up_BSF: Tensor) -> Tensor:
    """One channel decides how much of its partner passes.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6.
    """
    return F.silu(gate_BSF) * up_BSF


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
