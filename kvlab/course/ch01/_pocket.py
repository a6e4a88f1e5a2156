"""The pocket model as 1.7 lends it, and texts for it to read.

L layers, H heads, G sets of keys, S tokens that ask, T tokens that are asked, D width of a query.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kvlab.course.author import Lent, pocket_model
from kvlab.measure.probe import Probe

Read = tuple[list[str], Tensor, Tensor]

# {} is a name: once in each text the name comes again, before the others do
FRAMES = (
    "Story: {0} gave the shoe to {1}. Then {0} went to the market with the shoe, and {1} went home.",
    "The king and the queen live in the castle. {0} and {1} met the king, and {0} met the queen.",
    "Facts: The password of {0} is tiger. The password of {1} is lemon. What is the password of {0}?",
    "The weather in the city of {0} is so cold. {1} is in the city, and the weather is so windy.",
)
NAMES = ("Anna", "Tom", "Lucy", "Peter")


@lru_cache(maxsize=256)
def read(text: str) -> Read:
    """A text's tokens, and each token's query in each head and key in each set: q_LHSD, k_LGTD."""
    model, tokenizer = pocket_model()
    ids = tokenizer.encode(text)
    with Probe(model, keep=("queries", "keys")) as seen, torch.inference_mode():
        model.hidden(torch.tensor([ids]))
    kept = (torch.stack([calls[0][0] for calls in of]) for of in (seen.queries, seen.keys))
    q_LHSD, k_LGTD = (x.clone() for x in kept)
    return tokenizer.pieces(ids), q_LHSD, k_LGTD


class Heads(Lent):
    """The pocket model, of which a text's tokens, queries and keys may be asked.

    With `stop` it tells of that many tokens at the beginning of the text, and of no more.
    """

    lends = ("__call__",)

    def __init__(self, stop: int | None = None) -> None:
        self._stop = stop

    def __call__(self, text: str) -> Read:
        if not isinstance(text, str) or not 0 < len(text) <= 200:
            raise ValueError("pocket takes a text of 1 to 200 letters")
        pieces, q_LHSD, k_LGTD = read(text)
        stop = self._stop
        return pieces[:stop], q_LHSD[:, :, :stop].clone(), k_LGTD[:, :, :stop].clone()


class MadeUp(Lent):
    """In place of the model: these tokens, and random queries and keys of another shape."""

    lends = ("__call__",)

    def __init__(self, pieces: list[str], sizes: tuple[int, int, int, int], seed: int) -> None:
        n_layers, n_heads, n_sets, width = sizes
        torch_rng = torch.Generator().manual_seed(seed)

        def normal(n: int) -> Tensor:
            shape = n_layers, n, len(pieces), width
            return torch.randn(shape, generator=torch_rng, dtype=torch.float64)

        self._read = pieces, 2 * normal(n_heads), 2 * normal(n_sets)

    def __call__(self, text: str) -> Read:
        if not isinstance(text, str):
            raise ValueError("pocket takes a text")
        pieces, q_LHSD, k_LGTD = self._read
        return list(pieces), q_LHSD.clone(), k_LGTD.clone()
