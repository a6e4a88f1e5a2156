"""The pocket model as exercises lend it. L stages, S tokens, C width of the stream."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from kvlab.course.author import Lent, pocket_model


@lru_cache(maxsize=256)
def read(text: str) -> tuple[list[str], Tensor]:
    """A text's tokens, and the stream at each stage: stream_LSC with L = 5."""
    model, tokenizer = pocket_model()
    ids, stages = tokenizer.encode(text), []
    decoder = model.model
    heard = [
        part.register_forward_hook(lambda _module, _given, x_BSC: stages.append(x_BSC[0].clone()))
        for part in (decoder.embed_tokens, *decoder.layers)
    ]
    try:
        with torch.inference_mode():
            model(torch.tensor([ids]))
    finally:
        for hook in heard:
            hook.remove()
    return tokenizer.pieces(ids), torch.stack(stages)


class Pocket(Lent):
    """The pocket model, of which a text's tokens and its stream may be asked."""

    lends = ("__call__",)

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, text: str) -> tuple[list[str], Tensor]:
        if not isinstance(text, str) or not 0 < len(text) <= 200:
            raise ValueError("pocket takes a text of 1 to 200 letters")
        self.calls += 1
        pieces, stream_LSC = read(text)
        return list(pieces), stream_LSC.clone()
