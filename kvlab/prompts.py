"""Prompts as tensors, and what is refused before anything is read.

B rows, S prompt tokens. Prompts of different lengths are padded at the end; padding has position
-1, and nothing ever attends to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from kvlab import checks
from kvlab.checks import IDS
from kvlab.model import Transformer

Prompt = Tensor | Sequence[int] | Sequence[Sequence[int]]


def pad(prompts: Prompt, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None]:
    """Prompts as one tensor, and the positions if their lengths differ.

    Shapes: -> tokens_BS and pos_BS (-1 where padded), or None when no row is padded.
    Raises: ValueError for an empty prompt or ids that are not whole numbers.
    """
    if isinstance(prompts, Tensor):
        rows = prompts[None] if prompts.dim() == 1 else prompts
        checks.tensor("A prompt", rows, "(B, S) or (S,)", IDS)
        if rows.numel() == 0:
            raise ValueError("The prompt is empty; expected at least one token.")
        return rows.to(device), None
    rows = _rows(prompts)
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    tokens_BS = torch.tensor(
        [[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.int64, device=device
    )
    if min(lengths) == longest:
        return tokens_BS, None
    slot_S = torch.arange(longest, device=device)
    length_B1 = torch.tensor(lengths, device=device)[:, None]
    return tokens_BS, torch.where(slot_S < length_B1, slot_S, -1)


def _rows(prompts: Prompt) -> list[list[int]]:
    """One prompt or several, as lists of Python's whole numbers."""
    given = prompts.tolist() if hasattr(prompts, "tolist") else prompts
    if isinstance(given, Sequence) and given and all(isinstance(i, Integral) for i in given):
        given = [given]
    rows = [r.tolist() if hasattr(r, "tolist") else r for r in _listed(given)]
    if not rows or not all(map(_listed, rows)):
        raise ValueError("A prompt is empty; expected at least one token in each.")
    for i in (i for row in rows for i in row):
        if not isinstance(i, Integral) or isinstance(i, bool):
            raise ValueError(f"A prompt holds {i!r}; expected whole token ids.")
    return [[int(i) for i in row] for row in rows]


def _listed(ids: object) -> Sequence:
    if not isinstance(ids, Sequence) or isinstance(ids, (str, bytes, bytearray)):
        raise ValueError(
            f"{ids!r} came as a prompt; expected whole token ids, as Tokenizer.encode gives them."
        )
    return ids


def read(model: Transformer, prompts: Prompt, n_new: int) -> tuple[Tensor, Tensor | None]:
    """Prompts on the model's device, checked as far as that needs no waiting for a device."""
    checks.model(model)
    tokens_BS, pos_BS = pad(prompts, prompts.device if isinstance(prompts, Tensor) else "cpu")
    checks.whole("The number of new tokens", n_new)
    if tokens_BS.device.type == "cpu":
        low, high = (int(end) for end in tokens_BS.aminmax())
        if low < 0 or high >= model.config.vocab_size:
            raise ValueError(
                f"The prompt holds token {low if low < 0 else high}; the model knows 0 to "
                f"{model.config.vocab_size - 1}. Is this another model's tokenizer?"
            )
    return tokens_BS.to(model.device), None if pos_BS is None else pos_BS.to(model.device)


def check_positions(model: Transformer, n_prompt: int, n_new: int) -> None:
    if n_prompt + n_new - 1 > model.config.max_positions:
        raise ValueError(
            f"{n_prompt} prompt tokens and {n_new} new ones were asked for, but the model "
            f"reads at most {model.config.max_positions} positions. Shorten the prompt or ask for "
            "fewer tokens."
        )
