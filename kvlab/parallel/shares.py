"""Which part of a model each process holds. No tensor.

Two ways to cut a model. *Tensor parallel*: every process holds some heads, some of the MLP's inner
numbers and some of the vocabulary, of each layer. *Pipeline parallel*: every process holds some
layers whole. What does not divide evenly is cut into parts that differ by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from kvlab import checks
from kvlab.config import ModelConfig


@dataclass(frozen=True)
class Share:
    """What one of the processes that share each layer holds of it, as ranges of the whole.

    `heads` are exactly the query heads that read `kv_heads`, or some of those of a single KV head.
    """

    heads: range
    kv_heads: range
    mlp: range
    vocab: range


def split(n: int, parts: int) -> list[range]:
    """`n` things in order, cut into parts of which the first ones may have one more."""
    size, more = divmod(n, parts)
    starts = [i * size + min(i, more) for i in range(parts + 1)]
    return [range(*ends) for ends in pairwise(starts)]


def check(config: ModelConfig, tp: int, pp: int) -> None:
    """Refuse to cut a model into more parts than it has.

    Raises: ValueError that says of what there are too few.
    """
    checks.kind("config", config, ModelConfig, "a ModelConfig, as model.config")
    there = [
        ("tp", tp, "query heads", config.n_heads),
        ("tp", tp, "numbers inside the MLP", config.intermediate_size),
        ("tp", tp, "tokens in the vocabulary", config.vocab_size),
        ("pp", pp, "layers", config.n_layers),
    ]
    for name, asked, what, most in there:
        if checks.whole(name, asked) > most:
            raise ValueError(
                f"A model was to be cut into {name} = {asked} parts, and it has {most} {what}; "
                f"expected at most {name} = {most}."
            )


def share(config: ModelConfig, rank: int, n: int) -> Share:
    """What process `rank` of `n` holds of each layer.

    KV heads are dealt out with all query heads that read them. Where there are fewer than
    processes, several hold the same KV head, and its query heads are dealt out among these.
    """
    n_shared = config.n_heads // config.n_kv_heads
    if n <= config.n_kv_heads:
        kv_heads = split(config.n_kv_heads, n)[rank]
        heads = range(kv_heads.start * n_shared, kv_heads.stop * n_shared)
    else:
        of_kv_head = split(n, config.n_kv_heads)
        head = next(i for i, ranks in enumerate(of_kv_head) if rank in ranks)
        ranks = of_kv_head[head]
        own = split(n_shared, len(ranks))[rank - ranks.start]
        kv_heads = range(head, head + 1)
        heads = range(head * n_shared + own.start, head * n_shared + own.stop)
    mlp = split(config.intermediate_size, n)[rank]
    return Share(heads, kv_heads, mlp, split(config.vocab_size, n)[rank])


def stages(config: ModelConfig, n: int) -> list[range]:
    """The layers of each of `n` processes that stand one after the other."""
    return split(config.n_layers, n)
