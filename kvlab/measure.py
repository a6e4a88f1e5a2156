"""Clocks that can be trusted on a noisy machine, and the machine they ran on.

Things are compared by running them in turn in one process and looking at the ratio of each pair. A
time on its own says more about the machine than about the code. What the machine could do at best,
`roofline` measures, and `decode_work` and `prefill_work` say what there is to do.

B rows, S new tokens, T slots, L layers, H query heads, D head width.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from kvlab.config import ModelConfig


@dataclass(frozen=True)
class Comparison:
    """Seconds of two things run in turn, and the verdict on "the second is faster"."""

    slow_seconds: tuple[float, ...]
    fast_seconds: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        return [s / f for s, f in zip(self.slow_seconds, self.fast_seconds, strict=True)]

    @property
    def ratio(self) -> float:
        """Median over the pairs of how many times longer the first took."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest ratio."""
        return min(self.ratios), max(self.ratios)

    def verdict(self, at_least: float = 1.0) -> str:
        """ "faster" than `at_least` times, "not faster", or "too noisy" when the pairs disagree.

        Up to a fifth of them may disagree. Where both take the same time a pair falls either way
        like a coin, and five then agree by luck once in three runs: ask for more than 1.
        """
        agree = sum(r > at_least for r in self.ratios) / len(self.ratios)
        if agree >= 0.8:
            return "faster"
        return "not faster" if agree <= 0.2 else "too noisy"


def compare(
    slow: Callable[[], object], fast: Callable[[], object], *, pairs: int = 5, warm_up: int = 1
) -> Comparison:
    """Time two functions in turn, after warming both up; the order alternates."""
    seconds = interleaved({"slow": slow, "fast": fast}, rounds=pairs, warm_up=warm_up)
    return Comparison(seconds["slow"], seconds["fast"])


def interleaved(
    runs: Mapping[str, Callable[[], object]], *, rounds: int = 5, warm_up: int = 1
) -> dict[str, tuple[float, ...]]:
    """Seconds of each of several functions, run in turn, every other round in reverse order."""
    for _ in range(warm_up):
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name in runs if i % 2 == 0 else reversed(runs):
            seconds[name].append(clock(runs[name]))
    return {name: tuple(found) for name, found in seconds.items()}


def clock(run: Callable[[], object]) -> float:
    """Seconds that one call takes, device work included."""
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for the GPU, which works on after a call returns; nothing to do on a CPU."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Work:
    """What something has to do at least: arithmetic, and memory to read and write."""

    flops: int
    bytes: int

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

    @property
    def ridge(self) -> float:
        """FLOP per byte from which on arithmetic is the limit, and no longer memory."""
        return self.gigaflops / self.gigabytes_per_second

    def attainable(self, intensity: float) -> float:
        """GFLOP/s at best for work of so many FLOP per byte."""
        return min(self.gigaflops, intensity * self.gigabytes_per_second)

    def seconds(self, work: Work) -> float:
        """The least time that some work takes."""
        return max(work.bytes / self.gigabytes_per_second, work.flops / self.gigaflops) / 1e9


def decode_work(
    config: ModelConfig, *, batch: int = 1, context: int, bytes_per_number: int = 4
) -> Work:
    """One decoding step: a new token per row, `context` tokens in its cache, itself included.

    Every matrix is read once, whatever the batch; the cache is read once per row.
    """
    flops = 2 * batch * (_matrix_params(config) + _head_params(config))
    flops += batch * _attention_flops(config, context)
    weights = _matrix_params(config) + _head_params(config) + _small_params(config)
    rows = batch * (config.hidden_size + 1 * config.kv_bytes_per_token(1))
    cache = batch * context * config.kv_bytes_per_token(1)
    return Work(flops, (weights + rows + cache) * bytes_per_number)


def prefill_work(
    config: ModelConfig, *, batch: int = 1, prompt: int, bytes_per_number: int = 4
) -> Work:
    """Reading a prompt, with logits of its last token only.

    Attention counts every query with every key of the prompt, as a product without a mask does;
    a kernel that skips what no query may see needs about half of that.
    """
    flops = 2 * batch * (prompt * _matrix_params(config) + _head_params(config))
    flops += batch * prompt * _attention_flops(config, prompt)
    weights = _matrix_params(config) + _head_params(config) + _small_params(config)
    rows = batch * prompt * (config.hidden_size + 2 * config.kv_bytes_per_token(1))
    return Work(flops, (weights + rows) * bytes_per_number)


def _matrix_params(config: ModelConfig) -> int:
    c, heads = config.hidden_size, config.n_heads + config.n_kv_heads
    return config.n_layers * (2 * c * heads * config.head_dim + 3 * c * config.intermediate_size)


def _head_params(config: ModelConfig) -> int:
    return config.hidden_size * config.vocab_size


def _small_params(config: ModelConfig) -> int:
    embeddings = _head_params(config) * (1 if config.tie_embeddings else 2)
    return config.n_params - _matrix_params(config) - embeddings


def _attention_flops(config: ModelConfig, n_slots: int) -> int:
    """Of one query in every layer: a product with each key, and one with each value."""
    return 4 * config.n_layers * config.n_heads * config.head_dim * n_slots


def roofline(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, *, rounds: int = 7
) -> Roofline:
    """Measure a machine's two limits with torch's threads as they are: the best of some rounds.

    Reading is a sum over far more than the caches hold (a copy on a GPU, both ways counted),
    arithmetic a square matrix product.
    """
    big = torch.ones(2**26 if str(device) == "cpu" else 2**29, device=device)
    side = 2048 if str(device) == "cpu" else 8192
    a, b = torch.ones(2, side, side, device=device, dtype=dtype)
    if str(device) == "cpu":
        read, n_bytes = big.sum, big.nbytes
    else:
        other = torch.empty_like(big)
        read, n_bytes = lambda: other.copy_(big), 2 * big.nbytes
    seconds = interleaved({"read": read, "multiply": lambda: a @ b}, rounds=rounds)
    return Roofline(
        n_bytes / min(seconds["read"]) / 1e9, 2 * side**3 / min(seconds["multiply"]) / 1e9
    )


def machine() -> dict[str, object]:
    """What a number depends on: processor, cores, threads, versions."""
    return {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
