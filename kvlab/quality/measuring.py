"""One reading of some prompts, and every method's cost on them.

L layers, B prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from kvlab import checks
from kvlab.checks import finest
from kvlab.model import Transformer
from kvlab.prune import (
    density,
)
from kvlab.quality.errors import output_errors, record
from kvlab.quality.held import held_bytes, storage
from kvlab.quality.methods import Method
from kvlab.quality.prompts import Prompts
from kvlab.quality.reading import answers, needs_of_all, pruned, read


@checks.takes(model=checks.model, prompts=Prompts, methods=Mapping)
@torch.inference_mode()
def measure(
    model: Transformer,
    prompts: Prompts,
    methods: Mapping[Any, Method | None],
    *,
    dtype: torch.dtype | None = None,
) -> Iterator[dict[str, Any]]:
    """One reading of the prompts, and under each method what it cost, prompt by prompt.

    None is the dense cache itself. Records hold the method's key, `bytes` as a share of the dense
    ones in `dtype` (see `storage`), what is left (`tokens_left`, `k_left`, `v_left`), and for each
    prompt `right` (all scored tokens exact), `nats` (mean loss), `kl` (nats), `agree` (share of
    likeliest tokens that are the dense cache's) and `error` (of attention's output, mean of layers;
    `error_L` by layer, mean of prompts).
    """
    dtype = dtype or storage(model)
    base = read(model, prompts, needs_of_all(m for m in methods.values() if m is not None))
    dense, recorded = record(model, base, prompts)
    whole = held_bytes(base.cache, None, dtype)
    for key, method in methods.items():
        pruner = pruned(base, method)
        left, held = density(pruner.cache), held_bytes(pruner.cache, method, dtype)
        error_LB = output_errors(pruner.cache, recorded)
        found = answers(model, pruner, prompts)
        yield {
            "method": key,
            "bytes": held / whole,
            "tokens_left": left.tokens,
            "k_left": left.k,
            "v_left": left.v,
            "right": found.right_B.tolist(),
            "nats": found.nats_B.tolist(),
            "kl": found.mean_B(finest(found.kl_N(dense))).tolist(),
            "agree": found.mean_B(finest(found.agrees_N(dense))).tolist(),
            "error": error_LB.mean(0).tolist(),
            "error_L": error_LB.mean(1).tolist(),
        }
