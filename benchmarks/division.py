"""What the division by the root of the width does for a head that learns to look names up.

    python -m benchmarks.division --out benchmarks/results/division.json

The task is that of chapter 1: six pairs of a name and a word, one name asks for its word, and the
last 20 names are never learned with. Each width is trained from several random starts, with the
division and without. N lists, T pairs, C an embedding, D queries and keys, E names and words.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import arguments, record

NAMES, HELD_OUT, WORDS, PAIRS, LISTS, FRESH = 114, 20, 60, 6, 64, 500


class Setting(NamedTuple):
    """What is wide, and how large the steps are."""

    name: str
    names: int  # width of a name, a word and a value
    keys: int  # width of a query and a key
    rate: float


SETTINGS = (
    Setting("as in the chapter", 16, 16, 0.02),
    Setting("queries and keys 256 wide", 16, 256, 0.02),
    Setting("queries and keys 256 wide, steps a quarter as large", 16, 256, 0.005),
    Setting("everything 256 wide, steps a quarter as large", 256, 256, 0.005),
)


class Head:
    """Three random matrices, the vectors of names and words, and lists drawn of them."""

    def __init__(self, setting: Setting, divided: bool, seed: int) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        E, D = setting.names, setting.keys
        self.scale = D**-0.5 if divided else 1.0
        self.names, self.words = self.normal(NAMES, E), self.normal(WORDS, E)
        widths = (D, D, E)
        self.matrices = [self.normal(n, 2 * E) / (2 * E) ** 0.5 for n in widths]
        for w in self.matrices:
            w.requires_grad_()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.draw)

    def lists(self, n: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The head on lists of some names: attention on the right pair, and the loss."""
        order_NT = torch.rand(n, last - first, generator=self.draw).argsort(-1)[:, :PAIRS]
        who_NT = order_NT + first
        what_NT = torch.randint(WORDS, (n, PAIRS), generator=self.draw)
        asked_N = torch.randint(PAIRS, (n,), generator=self.draw)
        each = torch.arange(n)
        name_NE = self.names[who_NT[each, asked_N]]
        pairs_NTC = torch.cat([self.names[who_NT], self.words[what_NT]], -1)
        ask_NC = torch.cat([name_NE, torch.zeros_like(name_NE)], -1)
        w_q, w_k, w_v = self.matrices
        scores_NT = torch.einsum("nd,ntd->nt", ask_NC @ w_q.T, pairs_NTC @ w_k.T) * self.scale
        weights_NT = scores_NT.softmax(-1)
        out_NE = torch.einsum("nt,nte->ne", weights_NT, pairs_NTC @ w_v.T)
        loss = F.cross_entropy(out_NE @ self.words.T, what_NT[each, asked_N])
        return weights_NT[each, asked_N].mean(), loss

    def seen(self) -> tuple[float, float]:
        """Attention on the right pair of names never learned, and the loss on fresh lists."""
        with torch.no_grad():
            held_out = self.lists(FRESH, NAMES - HELD_OUT, NAMES)[0]
            return held_out.item(), self.lists(FRESH, 0, NAMES - HELD_OUT)[1].item()

    def learn(self, rate: float, steps: Sequence[int]) -> list[tuple[float, float]]:
        """What is seen after so many steps."""
        optimizer, found = torch.optim.Adam(self.matrices, lr=rate), []
        for step in range(1, max(steps) + 1):
            _, loss = self.lists(LISTS, 0, NAMES - HELD_OUT)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step in steps:
                found.append(self.seen())
        return found


def main() -> None:
    """Train all settings from all starts, and say least, middle and most."""
    parser = arguments(__doc__, rounds=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = (2, 4) if args.tiny else (50, 200)
    rows = []
    for setting in SETTINGS[:2] if args.tiny else SETTINGS:
        for divided in (True, False):
            runs = [
                Head(setting, divided, seed).learn(setting.rate, steps)
                for seed in range(args.rounds)
            ]
            for i, step in enumerate(steps):
                right, loss = zip(*(run[i] for run in runs), strict=True)
                rows.append({
                    "name": setting.name, "divided": divided, "step": step, "starts": args.rounds,
                    "right_least": round(min(right), 3),
                    "right_middle": round(statistics.median(right), 3),
                    "right_most": round(max(right), 3),
                    "loss_middle": round(statistics.median(loss), 4),
                })  # fmt: skip
    record("benchmarks.division", args.out, rows)


if __name__ == "__main__":
    main()
