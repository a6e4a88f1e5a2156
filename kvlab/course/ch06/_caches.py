"""What 6.1 and 6.5 share: sizes of a cache, rows to put into it, and what it reads back.

L layers, B rows of the batch, G key/value heads, S new tokens, T slots, D head width.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from kvlab.course.author import Answer, Case, Outcome, raised_by
from kvlab.course.sandbox.answer import Object

Chunks = list[list[tuple[Tensor, Tensor]]]


def sizes(rng: random.Random) -> Case:
    """Sizes with no two alike, and the chunks in which tokens arrive."""
    n_layers, batch, n_kv_heads, head_dim = rng.sample([2, 3, 4, 5, 6], 4)
    chunks = [rng.randint(1, 5) for _ in range(rng.randint(2, 4))]
    capacity = sum(chunks) + rng.choice([1, 2, 7])
    return {
        "n_layers": n_layers,
        "batch": batch,
        "n_kv_heads": n_kv_heads,
        "capacity": capacity,
        "head_dim": head_dim,
        "chunks": chunks,
        "_seed": rng.randrange(2**31),
    }


def cache_with(answer: Answer, case: Case, chunks: Chunks) -> Object:
    """The answer's cache in the case's sizes, with these chunks in it."""
    names = ("n_layers", "batch", "n_kv_heads", "capacity", "head_dim")
    cache = answer.make(*(case[name] for name in names))
    fill(cache, chunks)
    return cache


def kv(case: Case, n: int, torch_rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Keys and values of n tokens: k_BGSD, v_BGSD."""
    shape = (case["batch"], case["n_kv_heads"], n, case["head_dim"])
    k_BGSD, v_BGSD = (torch.randn(shape, generator=torch_rng, dtype=torch.float64) for _ in "kv")
    return k_BGSD, v_BGSD


def rows(case: Case, salt: int = 0) -> Chunks:
    """For each chunk, each layer's keys and values."""
    torch_rng = torch.Generator().manual_seed(case["_seed"] + salt)
    return [[kv(case, n, torch_rng) for _ in range(case["n_layers"])] for n in case["chunks"]]


def fill(cache: Object, chunks: Chunks) -> None:
    """Append chunk by chunk, in each of them layer by layer."""
    for chunk in chunks:
        for layer, (k, v) in enumerate(chunk):
            cache.call("append", layer, k, v)


def fill_or_raise(cache: Object, chunks: Chunks) -> Outcome:
    """The kind of error that each append raises, "nothing" where there is none."""
    return {
        f"raised by appending chunk {i} to layer {layer}": raised_by(
            cache.call, "append", layer, *kv
        )
        for i, chunk in enumerate(chunks)
        for layer, kv in enumerate(chunk)
    }


def read_all(cache: Object, case: Case, when: str = "") -> Outcome:
    """Keys and values of every layer, by name, with `when` before each name."""
    seen = {}
    for layer in range(case["n_layers"]):
        got = cache.call("read", layer)
        k, v = got if isinstance(got, list) and len(got) == 2 else (got, None)
        seen[f"{when}keys of layer {layer}, k_BGTD"] = k
        seen[f"{when}values of layer {layer}, v_BGTD"] = v
    return seen


def two_in_turn(answer: Answer, case: Case) -> Outcome:
    """What two caches hold that are made first and filled in turn."""
    one, other = (cache_with(answer, case, []) for _ in range(2))
    for ours, theirs in zip(rows(case), rows(case, salt=1), strict=True):
        fill(one, [ours])
        fill(other, [theirs])
    return {**read_all(one, case, "the first: "), **read_all(other, case, "the second: ")}


def same_memory(cache: Object, case: Case) -> Outcome:
    """Do two reads look at the same numbers, and do they before and after append and reset?

    It is not compared: it tells apart who copies in read, in append and in reset.
    """
    views: list[Object] = []

    def moved() -> bool:
        views.append(cache.make("read", 0).make("__getitem__", 0))  # held, so none takes its place
        return len(views) > 1 and views[-1].call("data_ptr") != views[-2].call("data_ptr")

    seen, (k, v) = {}, kv(case, 1, torch.Generator().manual_seed(0))
    steps = {"read": (), "append": ("append", 0, k, v), "reset": ("reset",)}
    moved()
    for name, step in steps.items():
        if step:
            cache.call(*step)
        if name == "reset":
            cache.call("append", 0, k, v)
        seen[f"_{name} moves what is read"] = moved()
    return seen
