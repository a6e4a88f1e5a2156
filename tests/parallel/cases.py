"""What each of four processes does and finds; `test_parallel` starts them once and looks at it.

A finding is plain data. Every case makes a whole model beside its share, so that each process can
compare for itself.
"""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import contextmanager
from unittest import mock

import torch
import torch.distributed as dist

from kvlab import generate, parallel
from kvlab.pack import CodesPerToken, PerChannel, PerToken
from kvlab.parallel import Mesh, shard_
from kvlab.parallel.trial import both_ways
from kvlab.sampling import Sampler, greedy
from kvlab.serve.engine import Engine
from tests.conftest import tiny_model

MESHES = {
    "two share": (2, 1), "four share": (4, 1), "two stages": (1, 2), "four stages": (1, 4),
    "two stages of two": (2, 2),
}  # fmt: skip
BIASED = {"qkv_bias": True, "o_bias": True, "mlp_bias": True}
MODELS = {
    "llama": {},
    "llama, biased": BIASED,
    "llama, tied": {"tie_embeddings": True},
    "mistral": {"family": "mistral", "n_heads": 8},
    "qwen2": {"family": "qwen2", "qkv_bias": True, "tie_embeddings": True},
    "qwen3": {"family": "qwen3", "qk_norm": True},
    "one KV head": {"n_kv_heads": 1, **BIASED},
    "a KV head each": {"n_heads": 4, "n_kv_heads": 4},
    "three KV heads": {"n_heads": 6, "n_kv_heads": 3, "qk_norm": True, **BIASED},
}
N_LAYERS, N_NEW = 4, 5
PADDED = [[5, 9, 2, 44], [7], [1, 59, 33, 8, 17, 3, 21], [2, 4]]
ASKED = [[7, 300, 12], [5, 9, 1000]]
CACHES = {
    "per token": {"k": PerToken(4), "v": PerToken(4), "recent": 2},
    "per channel": {"k": PerChannel(4, 8), "v": CodesPerToken(4, 8), "recent": 4},
}


# Families differ in what is cut by heads; stages hold whole layers, which are alike to them.
PAIRS = [
    *((name, where) for name in MODELS for where in ("two share", "four share")),
    *((name, where) for name in ("llama, tied", "qwen3") for where in list(MESHES)[2:]),
]


class Apart(Mesh):
    """A place in a mesh of which the other processes are not there: for sizes, not for answers."""

    def __init__(self, tp, pp, stage, rank):
        self.tp, self.pp, self.size, self.stage, self.tp_rank = tp, pp, tp * pp, stage, rank
        self.rank = stage * tp + rank


def model_of(name, **more):
    """A whole model, nothing in it at its default."""
    model = tiny_model(3, n_layers=N_LAYERS, **{**MODELS[name], **more})
    draw = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        if weight.dim() == 1:
            weight.copy_(torch.rand(weight.shape, generator=draw, dtype=weight.dtype) + 0.5)
    return model


def tokens_of(rows, n, seed=1):
    return torch.randint(61, (rows, n), generator=torch.Generator().manual_seed(seed))


def off(found, wanted):
    """How far logits are off; nan counts as infinitely far, as another shape does."""
    if found.shape != wanted.shape:
        return float("inf")
    return float((found - wanted).abs().max().nan_to_num(nan=float("inf")))


def equality(whole, mesh):
    """How far a share's logits and tokens are from the whole model's."""
    shard, tokens = shard_(copy.deepcopy(whole), mesh), tokens_of(3, 7)
    logits_BSV = shard(tokens)
    found = {"off": off(logits_BSV, whole(tokens)) if mesh.is_last else 0.0}
    chosen = generate(shard, PADDED, N_NEW, pick=mesh.same(greedy))
    found["tokens"] = chosen.tolist()
    found["wanted"] = generate(whole, PADDED, N_NEW).tolist()
    return found


def stored(whole, mesh, how):
    """The same with prompts of one length, from a cache that packs."""
    shard, tokens = shard_(copy.deepcopy(whole), mesh), tokens_of(3, 20)
    caches = [m.new_cache(3, 20 + N_NEW, **how) for m in (whole, shard)]
    found = generate(shard, tokens, N_NEW, cache=caches[1], pick=mesh.same(greedy))
    n_held = shard.config.n_layers * shard.config.n_kv_heads
    n_whole = whole.config.n_layers * whole.config.n_kv_heads
    return {
        "tokens": found.tolist(),
        "wanted": generate(whole, tokens, N_NEW, cache=caches[0]).tolist(),
        "share": (caches[1].live_bytes * n_whole, caches[0].live_bytes * n_held),
    }


def served(whole, mesh):
    """Requests that the engine answers from blocks."""
    answers = []
    for model, pick in ((shard_(copy.deepcopy(whole), mesh), mesh.same(greedy)), (whole, greedy)):
        engine = Engine(model, n_blocks=12, size=4, budget=8)
        requests = [engine.add(i, p, N_NEW, pick=pick) for i, p in enumerate(PADDED)]
        engine.run()
        answers.append([request.answer for request in requests])
    return {"tokens": answers[0], "wanted": answers[1]}


def in_micro_batches(whole, mesh, n, ends=()):
    """All rows through the stages in parts."""
    shard = shard_(copy.deepcopy(whole), mesh)
    found = parallel.pipelined(shard, PADDED, N_NEW, micro_batches=n, eos=ends)
    return {"tokens": found.tolist(), "wanted": generate(whole, PADDED, N_NEW, eos=ends).tolist()}


def order(whole, mesh, n):
    """What a process does one after the other: handing on and waiting for tokens."""
    shard, done = shard_(copy.deepcopy(whole), mesh), []
    send, wait = Mesh.send, Mesh.wait

    def noted(what, function):
        return lambda self, x: (done.append(what), function(self, x))[1]

    with mock.patch.multiple(Mesh, send=noted("send", send), wait=noted("wait", wait)):
        parallel.pipelined(shard, PADDED, 3, micro_batches=n)
    return {"done": done}


def drawn(whole, mesh):
    """Every process has another seed, and all must write what the one that picks draws."""
    shard, seed = shard_(copy.deepcopy(whole), mesh), 10 + mesh.rank
    found = generate(shard, PADDED, N_NEW, pick=mesh.same(Sampler(1.5, seed=seed)))
    picking = Sampler(1.5, seed=10 + mesh.size - mesh.tp)
    return {
        "tokens": found.tolist(),
        "wanted": generate(whole, PADDED, N_NEW, pick=picking).tolist(),
    }


@contextmanager
def counting():
    """Count what goes to torch.distributed, by other means than the mesh's own."""
    seen = Counter()

    def counted(kind, function):
        def called(*given, **how):
            x = given[1] if kind == "gather" else given[0]
            seen[f"{kind} messages"] += 1
            seen[f"{kind} bytes"] += x.numel() * x.element_size()
            return function(*given, **how)

        return called

    names = {"sum": "all_reduce", "gather": "all_gather", "send": "isend", "tell": "broadcast"}
    patched = {name: counted(kind, getattr(dist, name)) for kind, name in names.items()}
    with mock.patch.multiple(dist, **patched):
        yield seen


def bytes_of(whole, mesh, n_micro):
    """Bytes of one answer: counted by the mesh, counted below it, and by the formula."""
    shard, tokens = shard_(copy.deepcopy(whole), mesh), tokens_of(4, 7)
    before = dict(mesh.exchanged)
    with counting() as seen:
        parallel.pipelined(shard, tokens, N_NEW, micro_batches=n_micro)
    sizes = {"tp": mesh.tp, "pp": mesh.pp, "stage": mesh.stage, "bytes_per_number": 8}
    rows = 4 // n_micro
    prompt = parallel.exchanged(whole.config, rows=rows, n_new=7, **sizes)
    steps = [parallel.exchanged(whole.config, rows=rows, **sizes)] * (N_NEW - 1)
    formula = parallel.added(*[prompt, *steps] * n_micro)
    counted = {k: (m.n, m.bytes) for k, m in mesh.exchanged.items()}
    counted = {
        k: (n - before.get(k, (0, 0))[0], size - before.get(k, (0, 0))[1])
        for k, (n, size) in counted.items()
    }
    below = {k: (seen[f"{k} messages"], seen[f"{k} bytes"]) for k in formula}
    return {
        "counted": counted,
        "below": below,
        "formula": {k: tuple(m) for k, m in formula.items()},
    }


def everything(_mesh):
    """All findings of this process, by case."""
    from tests.parallel.planted import planted

    found = {}
    meshes = {name: Mesh(*sizes) for name, sizes in MESHES.items()}
    for name, where in PAIRS:
        found[f"equal: {name}, {where}"] = equality(model_of(name), meshes[where])
    whole = model_of("three KV heads")
    first = generate(whole, PADDED, 2)[:, 1].tolist()
    for where, mesh in meshes.items():
        for cache, how in CACHES.items():
            found[f"stored: {cache}, {where}"] = stored(whole, mesh, how)
        found[f"served: {where}"] = served(whole, mesh)
        found[f"drawn: {where}"] = drawn(whole, mesh)
        for n in (1, 2):
            found[f"order: {n}, {where}"] = order(whole, mesh, n)
            found[f"bytes: {n}, {where}"] = bytes_of(whole, mesh, n)
        for n, ends in ((2, ()), (4, first[:2]), (3, first)) if mesh.pp > 1 else ():
            case = f"micro-batches: {n}, {len(ends)} ends, {where}"
            found[case] = in_micro_batches(whole, mesh, n, ends)
    tried = both_ways(meshes["four share"], "pocket", ASKED, 4)
    found |= {f"tried: {way}": one._asdict() for way, one in tried.items()}
    return found | planted(meshes)
