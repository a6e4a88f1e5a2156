"""The public names as others' code uses them: pyright reads this file, and nobody runs it."""

from collections.abc import Iterator
from typing import assert_type

from torch import Tensor

import kvlab
from kvlab import Evict, Evidence, KVCache, ModelConfig, Probe, Tokenizer, Transformer
from kvlab.generation import Step


def answers(text: str) -> str:
    model, tokenizer = kvlab.load("pocket", device="cpu", dtype="float32")
    assert_type(model, Transformer)
    assert_type(tokenizer, Tokenizer)
    assert_type(model.config, ModelConfig)
    prompt = tokenizer.chat(text)
    assert_type(prompt, list[int])
    cache = model.new_cache(batch=1, capacity=len(prompt) + 20)
    assert_type(cache, KVCache)
    ids = kvlab.generate(model, prompt, 20, cache=cache, prune=Evict(loud, 64, recent=16))
    return tokenizer.decode(ids[0])


def steps(model: Transformer, prompt: list[int]) -> Iterator[Tensor]:
    for step in kvlab.stream(model, prompt, 4):
        assert_type(step, Step)
        assert_type(step.token_B, Tensor)
        yield step.token_B


def loud(evidence: Evidence) -> Tensor:
    return evidence.v_BGTD.abs().sum(-1)


def watched(model: Transformer, tokens_BS: Tensor, cache: KVCache) -> float:
    with Probe(model, cache) as seen:
        logits_BV = kvlab.prefill(model, tokens_BS, cache)
        assert_type(logits_BV, Tensor)
    assert_type(kvlab.decode(model, logits_BV.argmax(-1), cache), Tensor)
    return seen.seconds + cache.live_bytes / cache.allocated_bytes
