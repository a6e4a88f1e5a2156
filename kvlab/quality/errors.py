"""How far off attention's output is, layer by layer, when it is asked what the dense run was asked.

L layers, B prompts, H query heads, S fed tokens, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab import checks
from kvlab.attention import attend
from kvlab.cache import KVCache
from kvlab.checks import finest
from kvlab.measure.taps import listen
from kvlab.model import Transformer
from kvlab.prune import (
    Pruner,
)
from kvlab.quality.prompts import Prompts
from kvlab.quality.reading import Answers, answers, fed_tokens, pruned


@dataclass(frozen=True)
class Recorded:
    """Of the dense run: the queries of the fed tokens, their keys and values, what came out."""

    q_L: list[Tensor]
    k_L: list[Tensor]
    v_L: list[Tensor]
    out_L: list[Tensor]
    pos_BS: Tensor


@checks.takes(model=checks.model, base=Pruner, prompts=Prompts)
@torch.inference_mode()
def record(model: Transformer, base: Pruner, prompts: Prompts) -> tuple[Answers, Recorded]:
    """The dense answers, and what each layer's attention was asked meanwhile and gave."""
    q_L: list[Tensor] = []
    dense = pruned(base, None)
    used = dense.cache.used_L
    with listen(model, tap_q=lambda _layer, q_BHSD: q_L.append(q_BHSD)):
        found = answers(model, dense, prompts)
    _, pos_BS = fed_tokens(model, prompts)
    cache = dense.cache
    k_L = [cache.k_LBGTD[i, :, :, n : cache.used_L[i]] for i, n in enumerate(used)]
    v_L = [cache.v_LBGTD[i, :, :, n : cache.used_L[i]] for i, n in enumerate(used)]
    out_L = [attend(q, cache.read(i), pos_BS).out_BHSD for i, q in enumerate(q_L)]
    return found, Recorded(q_L, k_L, v_L, out_L, pos_BS)


@checks.takes(cache=KVCache, dense=Recorded)
@torch.inference_mode()
def output_errors(cache: KVCache, dense: Recorded) -> Tensor:
    """Relative error of each layer's attention output, asked what the dense run was asked.

    So each layer's error is its own: none is carried over from the layers before it. The cache is
    afterwards as before.
    Shapes: -> (L, B): |out - dense| / |dense|, over heads, channels and fed tokens.
    """
    seen, found = cache.seen, []
    there_B1S1 = (dense.pos_BS >= 0)[:, None, :, None]
    for i, (q, out) in enumerate(zip(dense.q_L, dense.out_L, strict=True)):
        cache.append(i, dense.k_L[i], dense.v_L[i], dense.pos_BS)
        off = attend(q, cache.read(i), dense.pos_BS).out_BHSD - out
        norms = [finest(x * there_B1S1).flatten(1).norm(dim=1) for x in (off, out)]
        found.append(norms[0] / norms[1])
    cache.rewind(seen)
    return torch.stack(found)
