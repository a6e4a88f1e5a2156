"""What 9.1 and 9.3 share: a lent model with seats, each of which holds the keys of one text.

B rows of a call, V vocabulary.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from kvlab.course.author import Lent, tiny_model

VOCABULARY = 61
MAX_CALLS, MAX_TEXT = 200, 300


@lru_cache(4)
def _model(seed: int) -> Any:
    return tiny_model(seed)


@lru_cache(4096)
def _logits(seed: int, text: tuple[int, ...]) -> Tensor:
    """What a model of this seed says after a text. Shapes: (V,)."""
    with torch.inference_mode():
        return _model(seed)(torch.tensor([text]))[0, -1].clone()


def alone(seed: int, prompt: list[int], limit: int, eos: int = -1) -> list[int]:
    """The likeliest tokens after a prompt that is served alone."""
    said: list[int] = []
    while len(said) < limit and (not said or said[-1] != eos):
        said.append(int(_logits(seed, (*prompt, *said)).argmax()))
    return said


class Seats(Lent):
    """A model with seats: `model(rows)` takes in the tokens of each row, behind what its seat holds.

    `calls` has, for each call, what each row's seat held before and what came.
    """

    lends = ("__call__", "clear")

    def __init__(self, seed: int, n_seats: int) -> None:
        self._seed, self._texts = seed, [()] * n_seats
        self.calls: list[list[tuple[int, int, list[int]]]] = []

    def __call__(self, rows: Any) -> Tensor:
        if not isinstance(rows, list) or not rows:
            raise ValueError("a call takes a list of rows, [seat, ids] each, and one row at least")
        if len(self.calls) == MAX_CALLS:
            raise ValueError(f"more than {MAX_CALLS} calls are beyond any need here")
        taken: set[int] = set()
        for row in rows:
            seat, ids = self._row(row)
            if seat in taken:
                raise ValueError(f"seat {seat} has two rows in one call; it takes one")
            taken.add(seat)
        self.calls.append([(seat, len(self._texts[seat]), list(ids)) for seat, ids in rows])
        found = []
        for seat, ids in rows:
            self._texts[seat] = (*self._texts[seat], *ids)
            found.append(_logits(self._seed, self._texts[seat]))
        return torch.stack(found)

    def clear(self, seat: Any) -> None:
        """Forget what a seat holds."""
        self._texts[self._seat(seat)] = ()

    def _seat(self, seat: Any) -> int:
        if isinstance(seat, bool) or not isinstance(seat, int) or seat not in range(self.n_seats):
            raise ValueError(f"seat {str(seat)[:40]} came; there are seats 0 to {self.n_seats - 1}")
        return seat

    def _row(self, row: Any) -> tuple[int, list[int]]:
        if not isinstance(row, list) or len(row) != 2 or not isinstance(row[1], list):
            raise ValueError("a row is [seat, ids], with a list of ids")
        seat, ids = self._seat(row[0]), row[1]
        if not ids or any(type(t) is not int or not 0 <= t < VOCABULARY for t in ids):
            raise ValueError(
                f"ids {str(ids)[:60]} came; expected at least one, each from 0 to {VOCABULARY - 1}"
            )
        if len(self._texts[seat]) + len(ids) > MAX_TEXT:
            raise ValueError(f"a text of more than {MAX_TEXT} tokens is beyond any need here")
        return seat, ids

    @property
    def n_seats(self) -> int:
        return len(self._texts)

    @property
    def sizes(self) -> list[list[int]]:
        """How many tokens each row of each call has, the most first, whatever their seats."""
        return [sorted((len(ids) for _, _, ids in call), reverse=True) for call in self.calls]


def prompts(rng: random.Random, n: int, shortest: int = 2, longest: int = 9) -> list[list[int]]:
    """Prompts of random ids, no two of one length where that can be."""
    lengths = list(range(shortest, longest + 1))
    drawn = rng.sample(lengths, n) if n <= len(lengths) else rng.choices(lengths, k=n)
    return [[rng.randrange(VOCABULARY) for _ in range(length)] for length in drawn]
