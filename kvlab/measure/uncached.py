"""Generation without a cache, to be compared with.

B rows, S tokens so far, N new tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kvlab import checks
from kvlab.model import Transformer
from kvlab.prompts import Prompt, check_positions, read
from kvlab.sampling import Pick, greedy


def generate_uncached(
    model: Transformer, prompts: Prompt, n_new: int, *, pick: Pick = greedy
) -> Tensor:
    """`generate` as it would be without a cache: every step reads the whole text again.

    It exists to be compared with. Each step still forms the last row's logits only, so the
    comparison shows the cache and not a wasteful head. No row ends early.
    Shapes: -> tokens_BN.
    """
    return torch.stack(list(stream_uncached(model, prompts, n_new, pick=pick)), dim=1)


def stream_uncached(
    model: Transformer, prompts: Prompt, n_new: int, *, pick: Pick = greedy
) -> Iterator[Tensor]:
    """`generate_uncached`, one token_B at a time."""
    checks.functions(pick=pick)
    tokens_BS, pos_BS = read(model, prompts, n_new)
    if pos_BS is not None:
        raise ValueError("Prompts of different lengths came; this baseline takes equal ones.")
    check_positions(model, tokens_BS.shape[1], n_new)
    return _uncached_steps(model, tokens_BS, n_new, pick)


@torch.inference_mode()
def _uncached_steps(
    model: Transformer, tokens_BS: Tensor, n_new: int, pick: Pick
) -> Iterator[Tensor]:
    for _ in range(n_new):
        token_B = pick(model.head(model.hidden(tokens_BS)[:, -1]))
        tokens_BS = torch.cat((tokens_BS, token_B[:, None]), dim=1)
        yield token_B
