"""How a GGUF file's header says that rope is stretched, as Hugging Face's config has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kvlab import checks

FREQS = "rope_freqs.weight"
_SCALED = ("linear", "yarn")
# what would change the sums, and the value by which it does not; llama.cpp reads some of them for
# some architectures only, so another value has no one meaning
_NEUTRAL = {
    "attn_factor": 1.0,
    "yarn_ext_factor": 1.0,
    "yarn_attn_factor": 1.0,
    "yarn_beta_fast": 32.0,
    "yarn_beta_slow": 1.0,
    "yarn_log_multiplier": 0.0,
}
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_LLAMA3_FACTORS = (8.0, 32.0)  # Llama 3.1's and 3.2's


def read(entry: Callable[..., Any], tensors: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A rope object; Llama 3's stretching is in the file as a factor for each pair of channels.

    `entry` gives an entry of the header by its name without the architecture's.
    Raises: ValueError for a rule that is none of `rope_scaling`'s.
    """
    theta = float(entry("rope.freq_base", 10000.0))
    if scaled := _scaled(entry, path):
        if FREQS in tensors:
            raise ValueError(f"{path} stretches rope twice, by {FREQS} too; expected one rule.")
        return {"rope_theta": theta, **scaled}
    if FREQS not in tensors:
        return {"rope_type": "default", "rope_theta": theta}
    came = torch.tensor(tensors[FREQS].data).flatten().double()
    for factor in _LLAMA3_FACTORS:
        want = _stretched(theta, len(came), factor)
        if torch.allclose(came, want, rtol=1e-3):
            return {"rope_type": "llama3", "rope_theta": theta, "factor": factor, **_LLAMA3}
    raise ValueError(
        f"{path} stretches rope by factors of its own ({FREQS}); expected those of Llama 3.1 or "
        f"3.2, {' or '.join(f'{factor:.0f}' for factor in _LLAMA3_FACTORS)} at the most."
    )


def _scaled(entry: Callable[..., Any], path: Path) -> dict[str, Any]:
    """The rule of `rope_scaling` that the header names, as a rope object; nothing for none."""
    for name, neutral in _NEUTRAL.items():
        if (came := entry(f"rope.scaling.{name}", neutral)) != neutral:
            raise ValueError(f"{path} asks for {name} = {came}; this engine runs {neutral} only.")
    kind, older = entry("rope.scaling.type", "linear"), entry("rope.scale_linear", 1.0)
    factor = entry("rope.scaling.factor", older) or 1.0
    if kind == "none" or (factor == 1.0 and kind in _SCALED):
        return {}
    if kind not in _SCALED:
        raise ValueError(
            f"{path} asks for rope scaling {checks.shown(kind)}; expected {' or '.join(_SCALED)}, "
            "or none."
        )
    found = {"rope_type": kind, "factor": factor}
    original = entry("rope.scaling.original_context_length", None)
    if kind == "yarn" and original is not None:
        found["original_max_position_embeddings"] = original
    return found


def _stretched(theta: float, n_pairs: int, factor: float) -> Tensor:
    """How many times slower each pair of channels turns by llama3's rule (`rope_scaling`)."""
    wave = 2 * math.pi * theta ** (torch.arange(n_pairs).double() / n_pairs)
    low, high, longest = _LLAMA3.values()
    share = ((longest / wave - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - share) / factor + share)
