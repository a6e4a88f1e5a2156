"""What the processes of a mesh exchange, by a formula. No tensor.

With L layers on a stage, B rows of S new tokens, a model C wide with a vocabulary of V, numbers of
w bytes, T processes in a stage:

    sum     2 L messages of B S C w bytes, one more on the first stage for the embedding; if T > 1
    gather  one message of M ceil(V / T) w bytes on the last stage, for M rows of logits; if T > 1
    send    one message of B S C w bytes, but not from the last stage
    tell    one message of 8 M bytes, to all: the tokens
"""

from __future__ import annotations

from kvlab import checks
from kvlab.config import ModelConfig
from kvlab.parallel.mesh import Messages
from kvlab.parallel.shares import check, stages


def exchanged(
    config: ModelConfig,
    *,
    tp: int = 1,
    pp: int = 1,
    stage: int = 0,
    rows: int = 1,
    n_new: int = 1,
    n_logits: int | None = None,
    bytes_per_number: int = 4,
) -> dict[str, Messages]:
    """What a process of some stage exchanges in one forward, and for the tokens picked after it.

    `rows` of `n_new` tokens each come in, and logits are made of `n_logits` of these, one of each
    row unless told. The bytes are those of the tensors that a process gives to each exchange, as
    `Mesh.exchanged` counts them; kinds that do not occur are left out.
    """
    check(config, tp, pp)
    sizes = {"rows": rows, "n_new": n_new, "bytes_per_number": bytes_per_number}
    for name, value in sizes.items():
        checks.whole(name, value)
    if checks.whole("stage", stage, 0) >= pp:
        raise ValueError(f"Stage {stage} was asked for; with pp = {pp} they are 0 to {pp - 1}.")
    n_logits = rows if n_logits is None else checks.whole("n_logits", n_logits)
    stream_bytes = rows * n_new * config.hidden_size * bytes_per_number
    found = {}
    if tp > 1:
        n = 2 * len(stages(config, pp)[stage]) + (stage == 0)
        found["sum"] = Messages(n, n * stream_bytes)
    if tp > 1 and stage == pp - 1:
        most = -(-config.vocab_size // tp)
        found["gather"] = Messages(1, n_logits * most * bytes_per_number)
    if stage < pp - 1:
        found["send"] = Messages(1, stream_bytes)
    if tp * pp > 1:
        found["tell"] = Messages(1, 8 * n_logits)
    return found


def added(*parts: dict[str, Messages]) -> dict[str, Messages]:
    """The sum of several, as of a prompt and the steps after it."""
    kinds = {kind for part in parts for kind in part}
    return {
        kind: Messages(*map(sum, zip(*(p[kind] for p in parts if kind in p), strict=True)))
        for kind in kinds
    }
