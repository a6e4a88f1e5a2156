"""Windows of tokens and loss weights, cut from what the world's writers write.

B windows, S tokens of each.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from kvlab.pocket import bpe, world
from kvlab.pocket.schedule import Stage


class Feeder:
    """Cuts written documents into windows of tokens and loss weights."""

    def __init__(self, tokenizer: Tokenizer, docs: Sequence[str] | None = None) -> None:
        self.tokenizer = tokenizer
        self.docs = bpe.ids_of(
            tokenizer, "\n\n".join(bpe.python_docs()[0].values() if docs is None else docs)
        )

    def encoded(self, document: world.Document) -> tuple[list[int], list[float]]:
        """Return the tokens of one document, after the token that opens it, and their weights."""
        ids, weights = [0], [world.PLAIN]
        for piece, found in zip(
            document,
            self.tokenizer.encode_batch([p.text for p in document], add_special_tokens=False),
            strict=True,
        ):
            ids += found.ids
            weights += [piece.weight] * len(found.ids)
        return ids, weights

    def window(self, rng: random.Random, stage: Stage) -> tuple[list[int], list[float]]:
        """Fill one window of context + 1 tokens; no document is cut, what is left is padding."""
        size = stage.context + 1
        if rng.random() < stage.docs:
            start = rng.randrange(len(self.docs) - size)
            return self.docs[start : start + size], [world.PLAIN] * size
        ids, weights = self._long(rng, stage) if rng.random() < stage.long else ([], [])
        misses = 0
        while len(ids) < size and misses < 3:
            room = 40 if misses else rng.randint(50, max(51, stage.context - 30))
            more, their_weights = self.encoded(world.document(rng, room, stage.mix))
            if len(ids) + len(more) <= size:
                ids += more
                weights += their_weights
            else:
                misses += 1
        n_left = size - len(ids)
        ends = [world.PLAIN] + [world.NOTHING] * n_left  # the last document ends, then nothing does
        return ids + [0] * n_left, weights + ends[:n_left]

    def _long(self, rng: random.Random, stage: Stage) -> tuple[list[int], list[float]]:
        size = stage.context + 1
        write = world.far if stage.far and rng.random() < stage.far else world.long
        for share in (1.0, 0.93, 0.86):
            ids, weights = self.encoded(write(rng, int((size - 20) * share)))
            if len(ids) <= size:
                return ids, weights
        return [], []

    def batch(self, rng: random.Random, stage: Stage) -> tuple[Tensor, Tensor]:
        """Draw one step's tokens_BS and weight_BS, one token longer than the context."""
        n_rows = max(1, stage.tokens_per_step // stage.context)
        rows = [self.window(rng, stage) for _ in range(n_rows)]
        return torch.tensor([ids for ids, _ in rows]), torch.tensor([w for _, w in rows])
