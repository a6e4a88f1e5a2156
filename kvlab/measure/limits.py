"""What a machine could do at best, measured, and what there is to do at least.

B rows, S new tokens, T slots, L layers, H query heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kvlab import checks
from kvlab.config import ModelConfig
from kvlab.measure.clocks import interleaved, threads


@dataclass(frozen=True)
class Work:
    """What something has to do at least: arithmetic, and memory to read and write.

    `masked_flops` are those of `flops` that a mask throws away: attention between a token and later
    ones. A kernel may skip them, so leave them out where a rate is to be quoted.
    """

    flops: int
    bytes: int
    masked_flops: int = 0

    def __post_init__(self) -> None:
        for name, least in (("flops", 0), ("bytes", 1), ("masked_flops", 0)):
            checks.whole(name, getattr(self, name), least)

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flops / self.bytes


@dataclass(frozen=True)
class Roofline:
    """The two limits of a machine: reading in GB/s, arithmetic in GFLOP/s.

    Source: Williams, Waterman and Patterson 2009, "Roofline".
    """

    gigabytes_per_second: float
    gigaflops: float

    def __post_init__(self) -> None:
        for name in ("gigabytes_per_second", "gigaflops"):
            checks.number(name, getattr(self, name), lambda x: x > 0, "a number above 0")

    @checks.takes(work=Work)
    def seconds(self, work: Work) -> float:
        """The least time that some work takes."""
        return max(work.bytes / self.gigabytes_per_second, work.flops / self.gigaflops) / 1e9


def decode_work(
    config: ModelConfig, *, batch: int = 1, context: int, bytes_per_number: int = 4
) -> Work:
    """One decoding step: a new token per row, `context` tokens in its cache, itself included.

    FLOP: 2 B (M + C V) + 4 B L H D T, with M the numbers in the layers' matrices and C V in the
    head. Numbers moved: all parameters once, whatever the batch, but of an embedding that is not
    the head a row per token; and for each row T keys and values read, one written. Norms, rotary
    turns, softmax and activations are not counted, nor does torch's FLOP counter count them.
    """
    return _work(config, batch, 1, context, bytes_per_number, 0)


def prefill_work(
    config: ModelConfig, *, batch: int = 1, prompt: int, bytes_per_number: int = 4
) -> Work:
    """Reading a prompt of S tokens into an empty cache, with logits of its last token only.

    FLOP: 2 B (S M + C V) + 4 B L H D S^2, as the product without a mask needs; of S^2 pairs
    S (S - 1) / 2 are masked. Numbers moved: as in `decode_work`, with S keys and values read and S
    written for each row.
    """
    checks.whole("prompt", prompt)
    later = prompt * (prompt - 1) // 2
    return _work(config, batch, prompt, prompt, bytes_per_number, later)


def _work(
    config: ModelConfig, batch: int, n_new: int, n_slots: int, bytes_per_number: int, n_masked: int
) -> Work:
    """`n_new` tokens a row look at `n_slots` each; of these pairs `n_masked` a row are masked."""
    checks.kind("config", config, ModelConfig, "a ModelConfig, as model.config")
    sizes = {"batch": batch, "tokens": n_slots, "bytes_per_number": bytes_per_number}
    for name, value in sizes.items():
        checks.whole(name, value)
    c, width, f = config.hidden_size, config.head_dim, config.intermediate_size
    projections = 2 * c * (config.n_heads + config.n_kv_heads) * width
    matrices = config.n_layers * (projections + 3 * c * f)
    head = c * config.vocab_size
    pair = 4 * batch * config.n_layers * config.n_heads * width
    flops = 2 * batch * (n_new * matrices + head) + pair * n_new * n_slots
    weights = config.n_params - (0 if config.tie_embeddings else head)
    rows = batch * (n_new * c + (n_slots + n_new) * config.kv_bytes_per_token(1))
    return Work(flops, (weights + rows) * bytes_per_number, pair * n_masked)


_sized = checks.takes(
    n_bytes=checks.whole,
    rounds=checks.whole,
    device=checks.device,
    dtype=torch.dtype,
    size=checks.or_none(checks.whole),
)


@_sized
def read_bandwidth(n_threads: int | None = None, *, n_bytes: int = 2**28, rounds: int = 7) -> float:
    """GB/s at which the processor reads: torch's sum over far more than its caches hold.

    The best of some rounds, since whatever disturbs a round makes it slower. `n_bytes` should be
    many times the last cache.
    """
    with threads(n_threads):
        numbers = torch.ones(max(1, n_bytes // 4))
        return numbers.nbytes / _best(numbers.sum, rounds) / 1e9


@_sized
def copy_bandwidth(
    device: torch.device | str = "cuda", *, n_bytes: int = 2**31, rounds: int = 7
) -> float:
    """GB/s at which a device copies within its memory, reading and writing both counted."""
    source = torch.ones(max(1, n_bytes // 4), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), rounds) / 1e9


@_sized
def gemm_rate(
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    size: int | None = None,
    rounds: int = 7,
) -> float:
    """GFLOP/s of a square matrix product, 2048 wide on a CPU and 8192 elsewhere unless told.

    The matrices are random: a GPU multiplies ones faster than it multiplies real weights.
    """
    size = size or (2048 if torch.device(device).type == "cpu" else 8192)
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    return 2 * size**3 / _best(lambda: a @ b, rounds) / 1e9


@_sized
def roofline(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, *, rounds: int = 7
) -> Roofline:
    """Measure a machine's two limits, with torch's threads as they are; a GPU's by copying."""
    on_cpu = torch.device(device).type == "cpu"
    read = read_bandwidth(rounds=rounds) if on_cpu else copy_bandwidth(device, rounds=rounds)
    return Roofline(read, gemm_rate(dtype, device, rounds=rounds))


def _best(run: Callable[[], object], rounds: int) -> float:
    """The shortest of some runs' seconds, after one that does not count."""
    return min(interleaved({"it": run}, rounds=rounds)["it"])
