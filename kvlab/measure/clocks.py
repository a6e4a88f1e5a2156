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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kvlab.config import ModelConfig


@dataclass(frozen=True)
class Comparison:
    """Seconds of two things run in turn, and the verdict on "the second is faster"."""

    slow_seconds: tuple[float, ...]
    fast_seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        n_slow, n_fast = len(self.slow_seconds), len(self.fast_seconds)
        if n_slow != n_fast or n_slow == 0:
            raise ValueError(f"{n_slow} and {n_fast} times came; expected pairs, and at least one.")
        if min(*self.slow_seconds, *self.fast_seconds) <= 0:
            raise ValueError(
                "A run took no time that the clock could see; let each call do more work."
            )

    def __str__(self) -> str:
        low, high = self.spread
        sure = f"{self.confidence:.0%}" if self.confidence < 0.99 else "more than 99%"
        return (
            f"{self.ratio:.2f} times as fast: median of {len(self.ratios)} pairs, from {low:.2f} "
            f"to {high:.2f}, between which the true median lies with {sure}"
        )

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

    @property
    def confidence(self) -> float:
        """How sure it is that the true median ratio lies within `spread`.

        A pair falls above or below it like a coin, and it is outside only when all n pairs fall on
        one side: 1 - 2 / 2^n, which is 75 % for three pairs and 94 % for five. Pairs must not
        disturb each other; a machine that is slowed down for all of them still deceives.
        """
        return 1 - 2 ** (1 - len(self.ratios))

    def verdict(self, at_least: float = 1.0) -> str:
        """ "faster", at least so many times; "not faster"; or "too noisy" when pairs disagree.

        A pair holds the claim when its ratio is above 1 and not below `at_least`. Up to a fifth of
        the pairs may differ from the rest. At the very edge of the claim, as when both take the
        same time, each pair falls like a coin and five agree by luck in 12 runs of 32: ask for
        more than 1.
        Raises: ValueError for `at_least` below 1, since a slower thing is never "faster".
        """
        agree = self._held(at_least) / len(self.ratios)
        if agree >= 0.8:
            return "faster"
        return "not faster" if agree <= 0.2 else "too noisy"

    def _held(self, at_least: float) -> int:
        """In how many pairs the claim holds."""
        if not at_least >= 1:
            raise ValueError(
                f'A verdict on "at least {at_least} times as fast" was asked for; expected 1 or '
                "more. To bound a loss, look at `ratio` and `spread`."
            )
        return sum(r > 1 and r >= at_least for r in self.ratios)


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
    if rounds < 1 or not runs:
        raise ValueError(f"{rounds} rounds of {len(runs)} runs were asked for; expected one each.")
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


@contextmanager
def threads(n: int | None) -> Iterator[None]:
    """Let torch use n threads for a while; None leaves them as they are."""
    if n is not None and (type(n) is not int or n < 1):
        raise ValueError(f"{n!r} threads were asked for; expected a whole number of at least 1.")
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Work:
    """What something has to do at least: arithmetic, and memory to read and write.

    `masked_flops` are those of `flops` that a mask throws away: attention between a token and later
    ones. A kernel may skip them, so leave them out where a rate is to be quoted.
    """

    flops: int
    bytes: int
    masked_flops: int = 0

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
    later = prompt * (prompt - 1) // 2
    return _work(config, batch, prompt, prompt, bytes_per_number, later)


def _work(
    config: ModelConfig, batch: int, n_new: int, n_slots: int, bytes_per_number: int, n_masked: int
) -> Work:
    """`n_new` tokens a row look at `n_slots` each; of these pairs `n_masked` a row are masked."""
    if min(batch, n_new, n_slots) < 1:
        raise ValueError(f"{batch} rows and {n_slots} tokens came; expected at least one of each.")
    c, width, f = config.hidden_size, config.head_dim, config.intermediate_size
    projections = 2 * c * (config.n_heads + config.n_kv_heads) * width
    matrices = config.n_layers * (projections + 3 * c * f)
    head = c * config.vocab_size
    pair = 4 * batch * config.n_layers * config.n_heads * width
    flops = 2 * batch * (n_new * matrices + head) + pair * n_new * n_slots
    weights = config.n_params - (0 if config.tie_embeddings else head)
    rows = batch * (n_new * c + (n_slots + n_new) * config.kv_bytes_per_token(1))
    return Work(flops, (weights + rows) * bytes_per_number, pair * n_masked)


def read_bandwidth(n_threads: int | None = None, *, n_bytes: int = 2**28, rounds: int = 7) -> float:
    """GB/s at which the processor reads: torch's sum over far more than its caches hold.

    The best of some rounds, since whatever disturbs a round makes it slower. `n_bytes` should be
    many times the last cache.
    """
    with threads(n_threads):
        numbers = torch.ones(max(1, n_bytes // 4))
        return numbers.nbytes / _best(numbers.sum, rounds) / 1e9


def copy_bandwidth(
    device: torch.device | str = "cuda", *, n_bytes: int = 2**31, rounds: int = 7
) -> float:
    """GB/s at which a device copies within its memory, reading and writing both counted."""
    source = torch.ones(max(1, n_bytes // 4), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), rounds) / 1e9


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
