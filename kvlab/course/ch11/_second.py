"""Prompts with two questions for the pocket model, and how many answers are right after a pruning.

G key/value heads, H query heads, T tokens, D head width.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kvlab.course.author import per_thread, pocket_model
from kvlab.measure.probe import Probe
from kvlab.pocket.questions import recall_prompts

SHARE, SINKS, RECENT = 0.3, 4, 16
POOL, N_TOKENS = 48, 150
Score = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Asked:
    """A cache that has read a text and a first question, all layers' queries, and what is asked.

    `rests` are the ids that are fed after pruning, once for each question; an answer's are the last.
    """

    cache: object
    q_LHTD: Tensor
    rests: tuple[tuple[list[int], int], ...]


@per_thread
def pool() -> list[Asked]:
    """All prompts, read once in each thread."""
    model, tokenizer = pocket_model()
    made = recall_prompts(tokenizer.inner, 77, POOL, 4, N_TOKENS, "password")
    return [_read(model, tokenizer, one) for one in made]


def _read(model, tokenizer, one) -> Asked:
    """The first question is read with the text; it and one about another person come after that."""
    first = re.search(r"password of (\w+)\?", one.prompt)[1]
    told = dict(re.findall(r"The password of (\w+) is (\w+)\.", one.prompt))
    second = next(name for name in told if name != first)
    ids = tokenizer.encode(one.prompt)
    cache = model.new_cache(1, len(ids) + 40)
    with Probe(model, keep="queries") as seen, torch.inference_mode():
        model.hidden(torch.tensor([ids]), None, cache)
    q_LHTD = torch.stack([calls[0][0] for calls in seen.queries])
    rests = []
    for name, asks in (
        (second, f"\nUser: What is the password of {second}?\nAssistant:"),
        (first, ""),
    ):
        stem = tokenizer.encode(f"{asks} The password of {name} is", special=False)
        rests.append((stem, tokenizer.encode(f" {told[name]}", special=False)[0]))
    return Asked(cache, q_LHTD.clone(), tuple(rests))


def draw(seed: int, n: int) -> list[Asked]:
    return random.Random(seed).sample(pool(), n)


def keeps(score_GT: Tensor) -> Tensor:
    """The protected tokens and the best of the others, three tenths in all. Shapes: -> (G, T)."""
    n_tokens = score_GT.shape[1]
    place_T = torch.arange(n_tokens)
    safe_T = (place_T < SINKS) | (place_T >= n_tokens - RECENT)
    n_free = round(SHARE * n_tokens) - int(safe_T.sum())
    contest_GT = score_GT.masked_fill(safe_T, float("-inf"))
    order = contest_GT.argsort(dim=-1, descending=True, stable=True)[:, :n_free]
    return torch.zeros_like(contest_GT, dtype=torch.bool).scatter(-1, order, True) | safe_T


@torch.inference_mode()
def right_answers(asked: list[Asked], score: Score) -> tuple[int, int]:
    """How many second questions and how many first ones are answered rightly after the pruning."""
    model, _ = pocket_model()
    right = [0, 0]
    for one in asked:
        kept = []
        for layer in range(model.config.n_layers):
            kv = one.cache.read(layer)
            given = kv.k_BGTD[0].clone(), kv.v_BGTD[0].clone(), one.q_LHTD[layer].clone()
            kept.append(keeps(score(*given)))
        for i, (rest, token) in enumerate(one.rests):
            cache = one.cache.fork()
            for layer, keep_GT in enumerate(kept):
                cache.keep(layer, keep_GT[None])
            n_tokens = one.q_LHTD.shape[2]
            pos_BS = torch.arange(n_tokens, n_tokens + len(rest))[None]
            logits_BSV = model(torch.tensor([rest]), pos_BS, cache)
            right[i] += int(logits_BSV[0, -1].argmax()) == token
    return right[0], right[1]
