"""The pocket model as 2.8 lends it: each layer with a mask of its own.

L layers, S tokens, C width of a token's vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kvlab.course.author import LentFunction, pocket_model
from kvlab.course.plugging import own_attention

Back = range | int | None
MOST = 40

TEXTS = (
    "Today the weather is so cold that the king and the queen stay in",
    "Story: Anna gave the shoe to Martin, and Tom went to the market",
    "Facts: The password of Tom is lemon. The password of Anna is tiger.",
    "The capital of France is Paris, and the capital of Spain is Madrid.",
)


def ids_of(text: str) -> list[int]:
    """A text as ids, with the token in front that the model puts there."""
    return pocket_model()[1].encode(text)


def pocket_with(*backs: Back) -> Callable[[list[int]], Tensor]:
    """The pocket model, with one entry for each layer of how far back a token looks.

    3 is the token itself and the two before it, None all of them, and a range the distances that
    it looks back. The function reads ids and returns out_LSC, what each layer gives.
    """
    return lambda ids: _outputs(tuple(ids), backs).clone()


@lru_cache(maxsize=512)
def _outputs(ids: tuple[int, ...], backs: tuple[Back, ...]) -> Tensor:
    model, out = pocket_model()[0], []
    away_SS = torch.arange(len(ids))[:, None] - torch.arange(len(ids))
    with ExitStack() as plugs:
        for layer, (block, back) in enumerate(zip(model.model.layers, backs, strict=True)):
            back = len(ids) if back is None else back
            far = range(back) if isinstance(back, int) else back
            allowed_SS = torch.isin(away_SS, torch.tensor(far))
            plugs.enter_context(own_attention(model, _masked(allowed_SS), [layer]))
            hook = block.register_forward_hook(lambda _m, _given, x_BSC: out.append(x_BSC[0]))
            plugs.callback(hook.remove)
        with torch.inference_mode():
            model.hidden(torch.tensor([ids]))
    return torch.stack(out)


def _masked(allowed_SS: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda q_BHSD, k_BGTD, v_BGTD: F.scaled_dot_product_attention(
        q_BHSD, k_BGTD, v_BGTD, attn_mask=allowed_SS, enable_gqa=True
    )


def made_up(backs: Sequence[int], by: float) -> Callable[[list[int]], Tensor]:
    """Four layers of one channel, each of which adds up what a token sees in the layer before."""

    def outputs(ids: list[int]) -> Tensor:
        rows_SC, out = by * torch.tensor(ids, dtype=torch.float64)[:, None], []
        for back in backs:
            seen = [rows_SC[max(0, i + 1 - back) : i + 1].sum(0) for i in range(len(ids))]
            rows_SC = torch.stack(seen)
            out.append(rows_SC)
        return torch.stack(out)

    return outputs


def lent(outputs: Callable[[list[int]], Tensor]) -> LentFunction:
    """The function for an answer to call, which refuses what is no short list of ids."""
    n_ids = pocket_model()[0].config.vocab_size

    def call(ids: Sequence[int]) -> Tensor:
        if not isinstance(ids, list) or not 0 < len(ids) <= MOST:
            raise ValueError(f"outputs takes a list of 1 to {MOST} token ids")
        if not all(type(i) is int and 0 <= i < n_ids for i in ids):
            raise ValueError(f"a token's id is a whole number from 0 to {n_ids - 1}")
        return outputs(ids)

    return LentFunction(call)
