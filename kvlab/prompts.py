"""Prompts as tensors, and what is refused before anything is read.

B rows, S prompt tokens. Prompts of different lengths are padded at the end; padding has position
-1, and nothing ever attends to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from kvlab import checks
from kvlab.model import Transformer

Prompt = Tensor | Sequence[int] | Sequence[Sequence[int]]


def pad(prompts: Prompt, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None]:
    """Prompts as one tensor, and the positions if their lengths differ.

    Shapes: -> tokens_BS and pos_BS (-1 where padded), or None when no row is padded.
    Raises: ValueError for an empty prompt or ids that are not whole numbers.
    """
    if isinstance(prompts, Tensor):
        checks.tensor("A prompt", prompts, "S" if prompts.dim() == 1 else "BS", checks.IDS)
        if prompts.numel() == 0:
            raise ValueError("The prompt is empty; expected at least one token.")
        return torch.atleast_2d(prompts).to(device), None
    rows = _rows(prompts)
    tokens_BS = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    if all(len(row) == tokens_BS.shape[1] for row in rows):
        return tokens_BS.to(device), None
    pos_BS = pad_sequence([torch.arange(len(row)) for row in rows], True, padding_value=-1)
    return tokens_BS.to(device), pos_BS.to(device)


def _rows(prompts: Prompt) -> list[list[int]]:
    """One prompt or several, as lists of Python's whole numbers."""
    given = _listed(prompts)
    alone = given and all(isinstance(i, Integral) for i in given)
    rows = [given] if alone else [_listed(row) for row in given]
    if not rows or not all(rows):
        raise ValueError("A prompt is empty; expected at least one token in each.")
    return [[checks.whole("A token of a prompt", i, None) for i in row] for row in rows]


def _listed(ids: object) -> Sequence:
    ids = checks.plain(ids)
    if not isinstance(ids, Sequence) or isinstance(ids, (str, bytes, bytearray)):
        raise ValueError(
            f"{checks.shown(ids)} came as a prompt; expected whole token ids, as Tokenizer.encode "
            "gives them."
        )
    return ids


def read(model: Transformer, prompts: Prompt, n_new: int) -> tuple[Tensor, Tensor | None]:
    """Prompts on the model's device, checked as far as that needs no waiting for a device."""
    checks.model("model", model)
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
