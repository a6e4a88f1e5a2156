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

# What one compiled step saves, in seconds for each layer and each byte of weights that it reads,
# and what it takes to load its code, which is kept on the disk: processor seconds of whole answers
# with the pocket model and SmolLM2 on one thread (`python -m benchmarks.steps`).
PER_LAYER, PER_BYTE, LOADING = 6e-4, 3.3e-11, 1.1


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
    saved = n_new * (PER_LAYER * model.config.n_layers + PER_BYTE * _read_bytes(model))
    said = (
        f"for up to {n_new} new tokens the compiled step saves about {saved:,.1f} s, and takes "
        f"about {LOADING:.1f} s to load"
    )
    if model.device.type != "cpu":
        return Step(decode, "plain", f"the model is on {model.device}")
    if saved < LOADING:
        return Step(decode, "plain", said)
    start = time.perf_counter()
    if (reason := missing("cpu")) is not None:
        return Step(decode, "plain", reason)
    try:
        step = compiled_decode(model, cache)
        first = model.new_cache(1, 1)
        compiled_decode(model, first)(model, torch.zeros(1, dtype=torch.int64), first)
    except ValueError as error:  # a cache that its kernels do not read
        return Step(decode, "plain", str(error))
    return Step(step, "compiled", said, time.perf_counter() - start)


def _read_bytes(model: Transformer) -> int:
    """Bytes of weights that one step reads: all but an embedding that is not the head too."""
    total = sum(weight.nbytes for weight in model.parameters())
    tied = model.config.tie_embeddings
    return total - (0 if tied else model.model.embed_tokens.weight.nbytes)
