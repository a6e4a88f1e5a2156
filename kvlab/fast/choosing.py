"""Which decoding step an answer is made with: the compiled one where that pays."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from kvlab.cache import Cache
from kvlab.fast.compiled import compiled_decode
from kvlab.generation import Decode, decode
from kvlab.kernels import missing
from kvlab.model import Transformer

# An answer that reads fewer bytes of weights is done before the compiled code, which is kept on
# the disk, would have been loaded (`python -m benchmarks.steps`).
FEWEST_BYTES = 8_000_000_000


@dataclass(frozen=True)
class Step:
    """A step for `generate(decode=)`; `how` is "compiled" or "plain", `why` says why in words, and
    `seconds` is what it took to have it ready."""

    decode: Decode
    how: str
    why: str
    seconds: float = 0.0


def step_for(model: Transformer, cache: Cache, n_new: int) -> Step:
    """The faster step for so many new tokens at most, ready to run; by sizes, not by the clock.

    The compiled step, which gives the same result up to rounding, is for a CPU. Where numba has not
    compiled it before, it does so now and says so on stderr.
    """
    n_bytes = n_new * _read_bytes(model)
    pays = f"{FEWEST_BYTES / 1e9:.0f} GB on"
    said = f"up to {n_new} new tokens read {n_bytes / 1e9:,.1f} GB of weights"
    if model.device.type != "cpu":
        return Step(decode, "plain", f"the model is on {model.device}")
    if n_bytes < FEWEST_BYTES:
        return Step(decode, "plain", f"{said}, and compiled code pays from {pays}")
    start = time.perf_counter()
    if (reason := missing("cpu")) is not None:
        return Step(decode, "plain", reason)
    try:
        step = compiled_decode(model, cache)
        first = model.new_cache(1, 1)
        compiled_decode(model, first)(model, torch.zeros(1, dtype=torch.int64), first)
    except ValueError as error:  # a cache that its kernels do not read
        return Step(decode, "plain", str(error))
    why = f"{said}, which pays from {pays}"
    return Step(step, "compiled", why, time.perf_counter() - start)


def _read_bytes(model: Transformer) -> int:
    """Bytes of weights that one step reads: all but an embedding that is not the head too."""
    total = sum(weight.nbytes for weight in model.parameters())
    tied = model.config.tie_embeddings
    return total - (0 if tied else model.model.embed_tokens.weight.nbytes)
