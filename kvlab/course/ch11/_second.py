"""Prompts with two questions for the pocket model, and how many answers are right after a pruning.

G key/value heads, H query heads, T tokens, D head width.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

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
    `known` remembers which answers were right by the tokens that were kept: a failed answer is judged
    many times over, each time with nearly the same ones.
    """

    cache: object
    q_LHTD: Tensor
    rests: tuple[tuple[list[int], int], ...]
    known: dict[bytes, list[bool]] = field(default_factory=dict)


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


def right_answers(asked: list[Asked], score: Score) -> tuple[int, int, Tensor]:
    """How many second questions and how many first ones are answered rightly after the pruning.

    The third is what was kept of the first text, in all layers. Shape: (L, G, T).
    """
    kept = [_kept(one, score) for one in asked]
    right = [_answered(one, keep_LGT) for one, keep_LGT in zip(asked, kept, strict=True)]
    return sum(second for second, _ in right), sum(first for _, first in right), kept[0]


def _kept(one: Asked, score: Score) -> Tensor:
    """What is kept of one text by its scores. Shape: -> (L, G, T)."""
    kept = []
    for layer, q_HTD in enumerate(one.q_LHTD):
        kv = one.cache.read(layer)
        kept.append(keeps(score(kv.k_BGTD[0].clone(), kv.v_BGTD[0].clone(), q_HTD.clone())))
    return torch.stack(kept)


@torch.inference_mode()
def _answered(one: Asked, keep_LGT: Tensor) -> list[bool]:
    """Whether each of the questions is answered rightly with what is kept."""
    key = keep_LGT.numpy().tobytes()
    if key not in one.known:
        one.known[key] = [_is_right(one, keep_LGT, *rest) for rest in one.rests]
    return one.known[key]


def _is_right(one: Asked, keep_LGT: Tensor, rest: list[int], token: int) -> bool:
    model, _ = pocket_model()
    cache = one.cache.fork()
    for layer, keep_GT in enumerate(keep_LGT):
        cache.keep(layer, keep_GT[None])
    n_tokens = keep_LGT.shape[2]
    pos_BS = torch.arange(n_tokens, n_tokens + len(rest))[None]
    return int(model(torch.tensor([rest]), pos_BS, cache)[0, -1].argmax()) == token


def weights(k_GTD: Tensor, q_HTD: Tensor) -> Tensor:
    """Causal attention of all queries, by KV head and the query heads that share it: for wrong
    answers, which look at it. Shapes: (G, H / G, T, T)."""
    q_GRTD = q_HTD.unflatten(0, (len(k_GTD), -1))
    logits = q_GRTD @ k_GTD[:, None].transpose(-1, -2) / k_GTD.shape[2] ** 0.5
    later = torch.ones(logits.shape[-2:]).triu(1).bool()
    return logits.masked_fill(later, float("-inf")).softmax(-1)
