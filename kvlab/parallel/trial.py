"""One model cut in both ways over the same processes: what each of them finds.

B rows, C model width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from kvlab import checks
from kvlab.checkpoint import load
from kvlab.parallel.mesh import Mesh, Messages
from kvlab.parallel.micro_batches import pipelined
from kvlab.parallel.sharding import shard_

ROUNDS, SUMS = 5, 50


class Answered(NamedTuple):
    """The answers, and what they took of this process.

    `exchanged` is what the mesh counted for them. `seconds` is the least time of a few runs,
    prompts and all. `message_seconds` is the least time of a sum over the processes of a stage, of
    B rows; 0 where a stage is one process.
    """

    tokens: list[list[int]]
    matrix_bytes: int
    exchanged: dict[str, Messages]
    seconds: float
    message_seconds: float


def both_ways(
    mesh: Mesh, name: str, prompts: Sequence[Sequence[int]], n_new: int
) -> dict[str, Answered]:
    """Answer some prompts, greedily, with a model whose layers all processes share ("tp"), and with
    one that stands in stages ("pp").

    `kvlab.parallel.start(both_ways, "pocket", prompts, 8, tp=2)` starts the processes, once for
    both. Raises: ValueError as `shard_` and `pipelined`.
    """
    checks.kind("mesh", mesh, Mesh, "a Mesh, as kvlab.parallel.Mesh(tp=2)")
    ways = {"tp": Mesh(tp=mesh.size), "pp": Mesh(pp=mesh.size)}
    return {way: _answered(one, name, prompts, n_new) for way, one in ways.items()}


def _answered(mesh: Mesh, name: str, prompts: Sequence[Sequence[int]], n_new: int) -> Answered:
    model = shard_(load(name)[0], mesh)
    with torch.inference_mode():
        tokens_BN = pipelined(model, prompts, n_new, eos=())
        exchanged = dict(mesh.exchanged)
        runs = [_timed(lambda: pipelined(model, prompts, n_new, eos=())) for _ in range(ROUNDS)]
        x_BC = torch.ones(len(prompts), model.config.hidden_size)
        sums = [_timed(lambda: mesh.sum(x_BC)) for _ in range(SUMS)] if mesh.tp > 1 else [0.0]
    matrix_bytes = sum(w.nbytes for w in model.parameters())
    return Answered(tokens_BN.tolist(), matrix_bytes, exchanged, min(runs), min(sums))


def _timed(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
