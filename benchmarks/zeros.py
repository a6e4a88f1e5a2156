"""What zeros, masks and formats that have to be unpacked cost: attention of one new token.

    python -m benchmarks.zeros --out benchmarks/results/zeros.json

Each way has less to say than the dense one and takes as long or longer. Bytes are those that the
way fetches, as a share of the dense ones; a ratio is how many times as fast, the median of pairs of
the time in which the processor worked for this thread, so that other programs count little.
"""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.common import arguments, over, record
from kvlab.pack import rows

Run = Callable[[], torch.Tensor]
HEADS, SHARED, WIDTH = 4, 4, 128  # key/value heads, query heads of each, numbers of a row


class Way(NamedTuple):
    """A name, what is compared, its rivals, itself, and its bytes as a share of theirs."""

    name: str
    what: str
    dense: dict[str, Run]
    ours: Run
    bytes: float


def ways(tokens: int) -> list[Way]:
    """All ways on one cache of random rows."""
    torch.manual_seed(0)
    k_GTD, v_GTD = torch.randn(2, HEADS, tokens, WIDTH)
    q_GRD = torch.randn(HEADS, SHARED, WIDTH)
    found = []
    for share in (0.5, 0.7, 0.9):
        kept = round((1 - share) * WIDTH)
        found += sparse(k_GTD, q_GRD, kept, f"{1 - kept / WIDTH:.0%} of K zeroed")
    gone_T = torch.rand(tokens).argsort() >= tokens // 4
    found.append(masked(q_GRD, k_GTD, v_GTD, gone_T))
    found.append(unpacked(q_GRD, k_GTD, v_GTD, round(0.3 * WIDTH)))
    return found


def beside(way: Way, rounds: int) -> dict[str, float | str]:
    """How many times as fast as the fastest of its rivals, all in turn; the first round is none."""
    runs = {**way.dense, "ours": way.ours}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            begin = time.thread_time()
            run()
            seconds[name] += [time.thread_time() - begin] * (i > 0)
    rival = min(way.dense, key=lambda name: statistics.median(seconds[name]))
    return {"rival": rival, **over(seconds[rival], seconds["ours"])}


def sparse(k_GTD: torch.Tensor, q_GRD: torch.Tensor, kept: int, name: str) -> list[Way]:
    """Zeros where they stood, and a general sparse matrix with a column for each number."""
    zeroed_GTD = k_GTD * rows.best(k_GTD.abs(), kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once that these are in beta
        each = [k_TD.to_sparse_csr() for k_TD in zeroed_GTD]
    q_GDR = q_GRD.transpose(1, 2).contiguous()

    def products(k: torch.Tensor) -> dict[str, Run]:
        return {
            "k @ q": lambda: k @ q_GDR,
            "q @ k.T": lambda: q_GRD @ k.mT,
            "einsum": lambda: torch.einsum("gtd,grd->gtr", k, q_GRD),
        }

    def csr() -> torch.Tensor:
        return torch.stack([k_TD @ q_DR for k_TD, q_DR in zip(each, q_GDR, strict=True)])

    torch.testing.assert_close(csr(), zeroed_GTD @ q_GDR, atol=1e-4, rtol=1e-4)
    n = sum(
        part.nbytes for m in each for part in (m.values(), m.col_indices(), m.crow_indices())
    )  # fmt: skip
    dense = products(k_GTD)
    lies = products(zeroed_GTD)["einsum"]
    return [
        Way(f"{name}, where it lies", "scores", {"einsum": dense["einsum"]}, lies, 1.0),
        Way(f"{name}, as CSR", "scores", dense, csr, n / k_GTD.nbytes),
    ]


def masked(q_GRD, k_GTD, v_GTD, gone_T) -> Way:
    """Tokens that a mask hides and that stay where they are."""
    mask_1T = torch.zeros(1, len(gone_T)).masked_fill(gone_T, -torch.inf)
    return Way(
        "three quarters of the tokens masked", "attention",
        {"sdpa": lambda: F.scaled_dot_product_attention(q_GRD, k_GTD, v_GTD)},
        lambda: F.scaled_dot_product_attention(q_GRD, k_GTD, v_GTD, attn_mask=mask_1T), 1.0,
    )  # fmt: skip


def unpacked(q_GRD, k_GTD, v_GTD, kept: int) -> Way:
    """Rows that are packed, and unpacked again whenever they are read."""
    k, v = (rows.pack(x_GTD, x_GTD.abs(), kept, marks="bitmap") for x_GTD in (k_GTD, v_GTD))

    def ours() -> torch.Tensor:
        return F.scaled_dot_product_attention(q_GRD, k.unpack(), v.unpack())

    share = (k.nbytes + v.nbytes) / (k_GTD.nbytes + v_GTD.nbytes)
    return Way(
        f"{1 - kept / WIDTH:.0%} packed, unpacked to be read", "attention",
        {"sdpa": lambda: F.scaled_dot_product_attention(q_GRD, k_GTD, v_GTD)}, ours, share,
    )  # fmt: skip


def main() -> None:
    """Time every way in turn with its dense rival, on one thread."""
    parser = arguments(__doc__, rounds=25)
    parser.add_argument("--tokens", type=int, default=8192)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokens = 64 if args.tiny else args.tokens
    found = []
    with torch.inference_mode():
        for way in ways(tokens):
            found.append({
                "name": way.name, "what": way.what, "bytes": round(way.bytes, 4),
                **beside(way, args.rounds),
            })  # fmt: skip
    record(
        "benchmarks.zeros",
        args.out,
        found,
        load=round(os.getloadavg()[0], 1),
        tokens=tokens,
        heads=HEADS,
        shared=SHARED,
        width=WIDTH,
    )


if __name__ == "__main__":
    main()
