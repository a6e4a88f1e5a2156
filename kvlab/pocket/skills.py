"""The few skills that training measures again and again, on prompts drawn once.

N copied tokens of all rows, S tokens of a row.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from kvlab.model import Transformer
from kvlab.pocket import bpe, world
from kvlab.pocket.questions import (
    fact_items,
    recall_items,
    right,
    share,
    two_kinds_items,
    written_items,
)


class Skills:
    """The few measurements that training takes again and again, on prompts drawn once."""

    def __init__(self, tokenizer: Tokenizer, seed: int = 777) -> None:
        self.recall = {
            f"recall {kind}": recall_items(
                tokenizer, seed, 64 if kind == "password" else 32, 8, 0, kind
            )
            for kind in world.KINDS
        }
        self.longer = {
            (n_tokens, f"recall password {n_tokens}"): recall_items(
                tokenizer, seed, 40, 4, n_tokens, "password"
            )
            for n_tokens in (256, 450, 950, 1900)
        }
        self.longer[950, "recall first code 950"] = recall_items(
            tokenizer, seed, 80, 4, 950, "code", depth=0.0
        )
        self.recall |= {
            "two kinds": two_kinds_items(tokenizer, seed, 64),
            "latest": written_items(tokenizer, seed, 64, "latest", "What", 60),
            "counting": written_items(tokenizer, seed, 64, "counting", "How", 60),
            "where": written_items(tokenizer, seed, 64, "story", "Where"),
            "has": written_items(tokenizer, seed, 64, "story", "What"),
        }
        rng = random.Random(seed)
        self.facts = {
            "facts": rng.sample(fact_items(tokenizer, held=False), 60),
            "facts held out": fact_items(tokenizer, held=True),
        }
        self.copies = {
            kind: [
                self._tokens_and_copied(tokenizer, world.WRITERS[kind](rng, 110)) for _ in range(40)
            ]
            for kind in ("copy", "repeat", "pair", "apart")
        }

    @staticmethod
    def _tokens_and_copied(tokenizer: Tokenizer, document: world.Document):
        ids, copied = [0], [False]
        for piece in document:
            more = bpe.ids_of(tokenizer, piece.text)
            ids += more
            copied += [piece.weight >= world.STEM] * len(more)
        return ids, copied

    def __call__(self, model: Transformer, context: int) -> dict[str, float]:
        """Measure with a model trained on texts up to `context` tokens long."""
        found = {kind: self._copy_loss(model, rows) for kind, rows in self.copies.items()}
        items = dict(self.recall)
        items |= {name: some for (n, name), some in self.longer.items() if n <= context}
        items |= self.facts
        return found | {name: share(right(model, some)) for name, some in items.items()}

    @staticmethod
    @torch.inference_mode()
    def _copy_loss(model: Transformer, rows) -> float:
        longest = max(len(ids) for ids, _ in rows)
        tokens_BS = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
        copied_BS = torch.tensor([marks + [False] * (longest - len(marks)) for _, marks in rows])
        x_NC = model.hidden(tokens_BS[:, :-1])[copied_BS[:, 1:]]
        return F.cross_entropy(model.head(x_NC), tokens_BS[:, 1:][copied_BS[:, 1:]]).item()
