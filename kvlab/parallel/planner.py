"""Which split of a model fits on some devices, and what a step of it takes, on paper. No tensor.

A decoding step reads all weights, keys and values that a device holds, once; then it exchanges what
`traffic` says. A device reads at its rate, a message takes its latency, and its bytes the link's
rate. A sum of x bytes over T devices passes 2 (T - 1) / T x through each link, a gathering of x
from each (T - 1) x. What is left out makes a real step slower, never faster: norms, the start of
each operation, and arithmetic, which counts once a batch has hundreds of rows.
Source: Pope et al. 2022, "Efficiently Scaling Transformer Inference", sections 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvlab import checks
from kvlab.config import ModelConfig
from kvlab.parallel.shares import Share, check, share, split, stages
from kvlab.parallel.traffic import exchanged


@dataclass(frozen=True)
class Devices:
    """`n` equal devices: memory, how fast each reads it, and the link between any two.

    Units: bytes; GB/s; seconds that a message takes beside its bytes.
    """

    n: int
    memory_bytes: int
    read_gigabytes_per_second: float
    link_gigabytes_per_second: float
    message_seconds: float = 0.0

    def __post_init__(self) -> None:
        checks.whole("n", self.n)
        checks.whole("memory_bytes", self.memory_bytes)
        for name in ("read_gigabytes_per_second", "link_gigabytes_per_second"):
            checks.number(name, getattr(self, name), lambda x: x > 0, "a number above 0")
        fits, expected = lambda x: x >= 0, "0 or a number above it"
        checks.number("message_seconds", self.message_seconds, fits, expected)


@dataclass(frozen=True)
class Workload:
    """So many texts at once, of so many tokens each when they are longest."""

    rows: int = 1
    context: int = 2048
    bytes_per_number: int = 2

    def __post_init__(self) -> None:
        for name in ("rows", "context", "bytes_per_number"):
            checks.whole(name, getattr(self, name))


@dataclass(frozen=True)
class Split:
    """What one way to cut a model costs.

    `device_bytes` are weights, keys and values of the fullest device. `step_seconds` is the time
    between two tokens of a text while all are decoded; a text alone with the devices gets one after
    each `alone_seconds`. Where it does not fit, times are what they would be.
    """

    tp: int
    pp: int
    fits: bool
    device_bytes: int
    step_seconds: float
    alone_seconds: float
    tokens_per_second: float


def plan(config: ModelConfig, devices: Devices, workload: Workload) -> list[Split]:
    """All ways to cut a model over all devices, or over fewer, the shortest step first.

    What fits stands before what does not. With `pp` stages the rows go through them in `pp`
    micro-batches, so that a step takes as long as the slowest stage needs for all of them.
    """
    checks.kind("config", config, ModelConfig, "a ModelConfig, as model.config")
    checks.kind("devices", devices, Devices, "Devices, as kvlab.parallel.Devices(...)")
    checks.kind("workload", workload, Workload, "a Workload, as kvlab.parallel.Workload(rows=8)")
    found = []
    for tp in range(1, min(devices.n, config.n_heads) + 1):
        for pp in range(1, min(devices.n // tp, config.n_layers) + 1):
            found.append(_priced(config, devices, workload, tp, pp))
    return sorted(found, key=lambda s: (not s.fits, s.step_seconds, s.tp * s.pp))


def _priced(config: ModelConfig, devices: Devices, workload: Workload, tp: int, pp: int) -> Split:
    check(config, tp, pp)
    n_parts = min(pp, workload.rows)
    most = max(len(part) for part in split(workload.rows, n_parts))
    held = max(
        stage_bytes(config, workload, tp, pp, stage, rank).held
        for stage in range(pp)
        for rank in range(tp)
    )
    busy = [_seconds(config, devices, workload, tp, pp, stage, most) for stage in range(pp)]
    single = [_seconds(config, devices, workload, tp, pp, stage, 1) for stage in range(pp)]
    step = max(sum(busy), n_parts * max(busy))
    fits = held <= devices.memory_bytes
    return Split(tp, pp, fits, held, step, sum(single), workload.rows / step)


@dataclass(frozen=True)
class StageBytes:
    """Bytes that a device holds, and those of its weights that a step reads."""

    held: int
    read: int


def stage_bytes(
    config: ModelConfig, workload: Workload, tp: int, pp: int, stage: int, rank: int
) -> StageBytes:
    """Weights of a share, and keys and values of all rows at their longest.

    A step reads all of it but an embedding that is not the head too.
    """
    own = share(config, rank, tp)
    n_layers = len(stages(config, pp)[stage])
    embedding = len(own.vocab) * config.hidden_size
    n_ends = (stage == 0) + (stage == pp - 1) - (config.tie_embeddings and pp == 1)
    read = n_layers * _layer_numbers(config, own, rank == 0)
    read += (embedding + config.hidden_size) * (stage == pp - 1)
    held = read + (n_ends - (stage == pp - 1)) * embedding
    kv = 2 * n_layers * len(own.kv_heads) * config.head_dim * workload.rows * workload.context
    return StageBytes(
        (held + kv) * workload.bytes_per_number, (read + kv) * workload.bytes_per_number
    )


def _layer_numbers(config: ModelConfig, own: Share, has_biases: bool) -> int:
    c, d, f = config.hidden_size, config.head_dim, len(own.mlp)
    heads, kv_heads = len(own.heads), len(own.kv_heads)
    numbers = 2 * c * d * (heads + kv_heads) + 3 * c * f + 2 * c
    numbers += config.qkv_bias * (heads + 2 * kv_heads) * d + config.qk_norm * 2 * d
    numbers += has_biases * c * (config.o_bias + config.mlp_bias) + config.mlp_bias * 2 * f
    return numbers


def _seconds(
    config: ModelConfig, devices: Devices, workload: Workload, tp: int, pp: int, stage: int,
    rows: int,
) -> float:  # fmt: skip
    """What a stage needs for one step of some of the rows, with handing them on."""
    some = Workload(rows, workload.context, workload.bytes_per_number)
    read = max(stage_bytes(config, some, tp, pp, stage, rank).read for rank in range(tp))
    given = exchanged(
        config, tp=tp, pp=pp, stage=stage, rows=rows, bytes_per_number=workload.bytes_per_number
    )
    through = {"sum": 2 * (tp - 1) / tp, "gather": tp - 1, "send": 1, "tell": 1}
    if stage < pp - 1:
        given.pop("tell", None)  # once for all stages: the last one's
    n_messages = sum(m.n for m in given.values())
    n_bytes = sum(through[kind] * m.bytes for kind, m in given.items())
    return (
        read / devices.read_gigabytes_per_second / 1e9
        + n_messages * devices.message_seconds
        + n_bytes / devices.link_gigabytes_per_second / 1e9
    )
