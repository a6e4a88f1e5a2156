"""What kvlab computes, as digests: run before and after a change that should change nothing.

python -m benchmarks.identity --out before.json
python -m benchmarks.identity --compare before.json after.json

One thread, fixed seeds. Everything runs twice, in processes of its own, and the second counts: the
first compiles the kernels, since code that numba has just compiled can round otherwise than the
same code loaded from its cache. Three minutes on one core. A name that has moved is looked for in
its homes old and new, so the same script runs on both sides of the restructuring. What was meant to
change stands under "intended". One long file, since it is carried from checkout to checkout and
deleted once the change is in.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "NUMBA")}
warnings.simplefilter("ignore", FutureWarning)

import torch  # noqa: E402

import kvlab  # noqa: E402
from kvlab import (  # noqa: E402
    Elements,
    Evict,
    Probe,
    Pruner,
    Sampler,
    Sparsify,
    Then,
    decode,
    density,
    generate,
    needs,
    prefill,
    stream,
)  # fmt: skip

F32, F64, BF16, HALF = torch.float32, torch.float64, torch.bfloat16, torch.float16
RENAMED = {"sinks": "sink", "every": "at_once", "packed": "storage", "k_rule": "k", "v_rule": "v"}


# --- names, wherever they are -------------------------------------------------------------------


def home(names: str, *modules: str):
    """The first of some names ("new old") that one of kvlab's modules has."""
    for module in modules:
        try:
            found = import_module(f"kvlab.{module}")
        except ModuleNotFoundError as error:
            if not str(error.name).startswith("kvlab"):
                raise
            continue
        for name in names.split():
            value = getattr(found, name, None)
            if value is not None and not isinstance(value, ModuleType):
                return value
    raise LookupError(f"{names} is in none of {', '.join(modules)}")


class Room:
    """Attributes that are looked for in several modules; `a_or_b` tries both names."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules

    def __getattr__(self, name: str):
        return home(name.replace("_or_", " "), *self._modules)


zoo = Room("prune.scores", "prune.zoo", "prune", "policies")
cut = Room("prune", "prune.selections", "prune.tokens", "prune.elements", "prune.pruner")
pack = Room("pack", "pack.cache", "pack.rules", "packed")
rows = Room("pack.rows", "rows")
clocks = Room("measure", "measure.clocks", "measure.roofline", "measure.intervals", "quality")
quality = Room("quality", *(f"quality.{m}" for m in ("methods", "bytes", "prompts", "answers")))
report = Room("quality.report", "prune_report")
ours = Room("prompts", "sampling", "generation", "config", "checkpoint", "tokenizer")


def named(function, **wanted):
    """Keywords under the names that a function gives them now."""
    has = inspect.signature(function).parameters
    return {n if n in has else RENAMED.get(n, n): value for n, value in wanted.items()}


# --- how things are told ------------------------------------------------------------------------


def tell(*tensors: torch.Tensor) -> str:
    """A digest of all bytes, with shape and a mean to read."""
    hashed = hashlib.sha256()
    for x in tensors:
        x = x.detach().cpu().contiguous()
        hashed.update(f"{x.dtype}{tuple(x.shape)}".encode())
        hashed.update(x.flatten().view(torch.uint8).numpy().tobytes())
    first = tensors[0].double()
    mean = float(first.mean()) if first.numel() else 0.0
    return f"{hashed.hexdigest()[:20]} {tuple(first.shape)} mean {mean:.9g}"


def text(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:20]


def spans(numbers: list[int]) -> str:
    """[0, 1, 2, 7] as "0-2 7", in the order that they have."""
    breaks = [i + 1 for i, (a, b) in enumerate(pairwise(numbers)) if b != a + 1]
    parts = [numbers[a:b] for a, b in pairwise([0, *breaks, len(numbers)]) if a < b]
    return " ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


COUNTERS = (
    "seen", "live_bytes", "allocated_bytes", "bytes_written", "bytes_read", "bytes_copied",
    "bytes_unpacked",
)  # fmt: skip


def counters(cache) -> dict:
    return {name: getattr(cache, name) for name in COUNTERS if hasattr(cache, name)}


def held(cache) -> dict:
    """Counters first, since reading counts; then which tokens are left, and all their numbers."""
    found = counters(cache) | {"used": list(cache.used_L), "capacity": cache.capacity}
    if hasattr(cache, "packed_L"):
        found["packed"] = list(cache.packed_L)
    kept, keys, values, zeros = {}, [], [], []
    for layer in range(cache.n_layers):
        kv = cache.read(layer)
        there = (kv.pos_BGT >= 0)[..., None]  # what lies in an empty slot is nobody's business
        keys.append(kv.k_BGTD.where(there, 0).clone())
        values.append(kv.v_BGTD.where(there, 0).clone())
        zeros.append([int(((x == 0) & there).sum()) for x in (keys[-1], values[-1])])
        for b, g in torch.cartesian_prod(*map(torch.arange, kv.pos_BGT.shape[:2])).tolist():
            pos = [p for p in kv.pos_BGT[b, g].tolist() if p >= 0]
            kept[f"layer {layer} row {b} head {g}"] = f"{len(pos)}: {spans(pos)}"
    found |= {"kept": kept, "k": tell(*keys), "v": tell(*values), "zeros of k, v": zeros}
    return found | {"allocated when read": cache.allocated_bytes}


def said(steps) -> dict:
    steps = list(steps)
    tokens = torch.stack([s.token_B for s in steps], 1).tolist()
    return {"tokens": tokens, "logits": tell(torch.stack([s.logits_BV for s in steps], 1))}


# --- models and prompts -------------------------------------------------------------------------


def weigh(model, seed: int = 0):
    """Random weights, each by its own name; no norm or bias at its default."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            draw = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
            noise = torch.randn(weight.shape, generator=draw, dtype=F64)
            scale = 1.3 * weight.shape[-1] ** -0.5 if weight.dim() == 2 else 0.3
            weight.copy_(noise * scale + ("norm" in name))
    return model.requires_grad_(False).eval()


LLAMA3 = (8.0, 1.0, 4.0, 64)
FAMILIES = {
    "llama": {"rope_theta": 5e5, "rope_scaling": LLAMA3},
    "llama, biased": {"qkv_bias": True, "o_bias": True, "mlp_bias": True, "tie_embeddings": True},
    "mistral": {"family": "mistral", "n_heads": 4, "n_kv_heads": 1},
    "qwen2": {"family": "qwen2", "qkv_bias": True, "tie_embeddings": True},
    "qwen3": {"family": "qwen3", "qk_norm": True, "n_heads": 4, "n_kv_heads": 4},
}


def small(family: str = "llama", dtype: torch.dtype = F32, **changes):
    sizes = {"n_layers": 3, "n_heads": 6, "n_kv_heads": 2, "head_dim": 16, "max_positions": 2048}
    about = {**sizes, **FAMILIES[family], **changes}
    if "rope_scaling" in about:
        about["rope_scaling"] = ours.Llama3Scaling(*about["rope_scaling"])
    config = kvlab.ModelConfig(vocab_size=101, hidden_size=48, intermediate_size=56, **about)
    return weigh(kvlab.Transformer(config).double()).to(dtype)


def ids(*lengths: int, seed: int = 0) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 101, (n,), generator=draw).tolist() for n in lengths]


# --- an answer ----------------------------------------------------------------------------------


@torch.inference_mode()
def forwards(model) -> dict:
    found = {}
    for name, prompts in (("even", ids(41, 41)), ("padded", ids(41, 29, 7))):
        tokens_BS, pos_BS = ours.pad(prompts)
        real = torch.ones_like(tokens_BS) > 0 if pos_BS is None else pos_BS >= 0
        for backend in ("auto", "sdpa", "reference"):
            logits = model(tokens_BS, pos_BS, backend=backend)
            found[f"{name}, {backend}"] = tell(logits.where(real[..., None], 0))
            whole, pieces = (model.new_cache(len(prompts), 60) for _ in range(2))
            last = prefill(model, tokens_BS, whole, pos_BS=pos_BS, backend=backend)
            for at in range(0, 41, 9):
                pos = None if pos_BS is None else pos_BS[:, at : at + 9]
                out = model(tokens_BS[:, at : at + 9], pos, pieces, backend=backend)
            out = out.where(real[:, at:, None], 0)
            found[f"{name}, {backend}, prefill, last piece"] = tell(last), tell(out)
            after = [decode(model, t, whole, backend=backend) for t in tokens_BS.T[:5]]
            found[f"{name}, {backend}, decode"] = tell(*after)
        found[f"{name}, cache"] = held(whole), held(pieces)
    return found


def generating(model) -> dict:
    found = {}
    for name, prompts in (("even", ids(23, 23)), ("padded", ids(31, 20, 6)), ("one", ids(9))):
        cache = model.new_cache(len(prompts), 80)
        found[name] = said(stream(model, prompts, 12, cache=cache, eos=())) | held(cache)
        first = generate(model, prompts, 12, eos=())
        short = model.new_cache(len(prompts), 80)
        ends = generate(model, prompts, 12, cache=short, eos=first[:, 3].tolist())
        found[f"{name}, ended"] = {"tokens": ends.tolist()} | held(short)
        for seed in (0, 7):
            pick = Sampler(temperature=0.8, top_k=40, top_p=0.9, seed=seed)
            found[f"{name}, sampled {seed}"] = generate(model, prompts, 12, pick=pick).tolist()
        more = generate(model, ids(*[5] * len(prompts), seed=1), 6, cache=cache, eos=())
        found[f"{name}, continued"] = {"tokens": more.tolist()} | held(cache)
        twin = cache.fork()
        twin.rewind(twin.seen - 4)
        twin.shrink()
        twin.grow(twin.capacity + 9)
        found[f"{name}, fork, rewind, shrink, grow"] = held(twin)
        cache.reset()
        found[f"{name}, reset"] = counters(cache)
    found["uncached"] = kvlab.generate_uncached(model, ids(23, 23), 8).tolist()
    return found


def compiled(model) -> dict:
    found = {}
    for name, prompts in (("even", ids(23, 23)), ("padded", ids(31, 20, 6)), ("one", ids(9))):
        cache = model.new_cache(len(prompts), 60)
        step = kvlab.compiled_decode(model, cache)
        steps = stream(model, prompts, 9, cache=cache, decode=step, eos=())
        found[name] = said(steps) | held(cache)
    return found


def answering() -> dict:
    models = {f"{f}, {d}": small(f, d) for f in FAMILIES for d in (F32, F64, BF16)}
    models |= {f"pocket, {d}": kvlab.load("pocket", dtype=d)[0] for d in (F32, F64, BF16)}
    models |= {f"int8, {d}": kvlab.int8_weights_(small("qwen3", d)) for d in (F32, F64, BF16)}
    models["int8 pocket"] = kvlab.int8_weights_(kvlab.load("pocket")[0])
    return {
        name: forwards(model) | {"generate": generating(model), "compiled": compiled(model)}
        for name, model in models.items()
    }


def training() -> dict:
    model = small("qwen3", F64).requires_grad_(True)
    tokens_BS = torch.tensor(ids(30, 30))
    logits = model(tokens_BS[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens_BS[:, 1:].flatten()).backward()
    return {name: tell(weight.grad) for name, weight in model.named_parameters()}


def exporting() -> dict:
    found, tokenizer = {}, kvlab.load("pocket")[1]
    for family, dtype in [*((f, "auto") for f in FAMILIES), ("llama", "bfloat16")]:
        with tempfile.TemporaryDirectory() as made:
            folder = kvlab.export(small(family), tokenizer, Path(made) / "new", dtype=dtype)
            files = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
            again, speaks = kvlab.load(folder, dtype="auto")
            found[f"{family}, {dtype}"] = {
                "files": {n: hashlib.sha256(b).hexdigest()[:20] for n, b in files.items()},
                "config": repr(again.config),
                "weights": tell(*again.state_dict().values()),
                "logits": tell(again(torch.tensor(ids(20)))),
                "ids": speaks.encode("The password of Tom is lemon."),
            }
    return found


# --- what stays ---------------------------------------------------------------------------------


def own(e):
    """A score of a reader's own: late tokens whose values are large for the latest queries."""
    return e.over_group(e.over_queries(e.weights_BGRWT())) * e.v_BGTD.abs().sum(-1) - e.age_BGT


def policies() -> dict:
    """Every way to prune, by name."""
    window = {"sink": 2, "recent": 6}
    found = {}
    for every in (0, 3):
        after = f", every {every}" if every else ""
        for budget in (0.5, 40):
            zoo_at = zoo.evictions(budget, **window, every=every)
            found |= {f"{name} {budget}{after}": policy for name, policy in zoo_at.items()}
        elements = zoo.sparsities(0.6, sink=1, recent=5, every=every, group=8)
        found |= {f"{name}{after}": policy for name, policy in elements.items()}
    snap, few = partial(zoo.snapkv, kernel=3, how="max"), partial(zoo.snapkv)
    groups = partial(cut.per_channel, group=16)
    k, v, key = zoo.k_magnitude, zoo.v_output_aware, Evict(zoo.knorm, 0.6, **window)
    single = Sparsify(Elements(k, 0.7), Elements(v, 0.4), sink=3, recent=8, every=2)
    found |= {
        "own score": Evict(needs(queries=8)(own), 0.4, **window),
        "snapkv, pooled otherwise": Evict(snap, 0.4, **window),
        "snapkv, 8 queries, every 2": Evict(needs(queries=8)(few), 30, **window, every=2),
        "adakv by knorm": zoo.adakv(0.4, score=zoo.knorm, alpha=0.5, **window),
        "a steep pyramid": Evict(zoo.h2o, 0.4, layers=partial(zoo.pyramid, beta=5), **window),
        "all heads": Evict(zoo.h2o, 0.4, select=cut.all_heads, **window, every=2),
        "across heads": Evict(zoo.keydiff, 0.4, select=cut.across_heads, **window, every=2),
        "criticalkv by knorm": Evict(
            needs(queries=32, output=True)(partial(zoo.criticalkv, base=zoo.knorm, first=0.3)),
            0.4, **window,
        ),
        "streaming, 9 sinks": Evict(
            partial(zoo.streaming, **named(zoo.streaming, sinks=9)), 0.4, **window
        ),
        "expected, 64 ahead": Evict(partial(zoo.expected_attention, ahead=64), 0.4, **window),
        "chance of seed 3": Evict(partial(zoo.random, seed=3), 0.4, **window),
        "k and v per token, every 2": single,
        "per channel, groups of 16": Sparsify(v=Elements(v, 0.7, groups), recent=4),
        "whole channels": Sparsify(
            Elements(zoo.think, 0.5, cut.whole_channels),
            Elements(zoo.think_v, 0.25, cut.whole_channels), recent=4,
        ),
        "nothing": Then(Evict(zoo.h2o, 1.0, **window), Sparsify(k=Elements(k, 0))),
        "then: evict, zero": Then(key, Sparsify(Elements(k, 0.5), recent=4)),
        "then: zero per channel, evict": Then(Sparsify(Elements(k, 0.5, groups)), key),
        "then: evict, evict": Then(key, Evict(zoo.h2o, 0.5, **window)),
        "then: evict, zero, every 2 and 3": Then(
            Evict(zoo.h2o, 34, **window, every=2), Sparsify(v=Elements(v, 0.5), every=3)
        ),
    }  # fmt: skip
    return found


def after_eviction() -> dict:
    """Per-channel groups behind an eviction: counted by position before, by slot later."""
    zero = Sparsify(
        Elements(zoo.k_magnitude, 0.5, partial(cut.per_channel, group=8)),
        Elements(zoo.v_magnitude, 0.75, partial(cut.per_channel, group=16)), recent=6,
    )  # fmt: skip
    key = Evict(zoo.knorm, 0.6, sink=2, recent=6)
    often = Evict(zoo.h2o, 34, sink=2, recent=6, every=2)
    more = Sparsify(v=Elements(zoo.v_magnitude, 0.5, zero.k.select), recent=6, every=3)
    return {
        "then: evict, zero per channel": Then(key, zero),
        "then: ragged heads, zero per channel": Then(zoo.adakv(0.5, sink=2, recent=6), zero),
        "then: evict, zero per channel, every 2 and 3": Then(often, more),
    }


def pruned(model, prompts, policy, n_new: int = 8) -> dict:
    cache = model.new_cache(len(prompts), max(map(len, prompts)) + n_new)
    found = said(stream(model, prompts, n_new, cache=cache, prune=policy, eos=()))
    found |= held(cache) | {"density": repr(density(cache))}
    cache.shrink()
    return found | {"shrunk": counters(cache)}


def pruning() -> dict:
    model, pocket, found = small(), kvlab.load("pocket")[0], {}
    for name, policy in policies().items():
        found[name] = pruned(model, ids(72, 57), policy)
        if "every" not in name:
            found[f"{name}, pocket"] = pruned(pocket, ids(130), policy, 4)
            found[f"{name}, bfloat16"] = pruned(small("qwen3", BF16), ids(66, 66), policy, 2)
    for name, policy in after_eviction().items():
        found[f"intended: {name}"] = pruned(model, ids(72, 57), policy)
    found["by hand"] = by_hand(model)
    return found


@torch.inference_mode()
def by_hand(model) -> dict:
    """A pruner over a prompt in pieces, forks of it under other policies, and `prune` itself."""
    tokens_BS, pos_BS = ours.pad(ids(72, 57))
    cache = model.new_cache(2, 100)
    wanted = [zoo.h2o, zoo.snapkv, zoo.knorm, zoo.keyformer, zoo.expected_attention]
    parts = [Evict(score, 0.5, sink=2, recent=6) for score in wanted]
    with Pruner(model, cache, Then(*parts)) as pruner:
        for at in range(0, 72, 25):
            model(tokens_BS[:, at : at + 25], pos_BS[:, at : at + 25], cache)
    found = {}
    for score, part in zip(wanted, parts, strict=True):
        twin = pruner.fork(part)
        twin.prune()
        found[score.__name__] = held(twin.cache)
    pruner.prune()
    found["all of them"] = held(cache)
    left = cache.fork()
    cut.apply_or_prune(model, left, Evict(zoo.keydiff, 20, sink=2, recent=6))
    return found | {"once more": held(left)}


# --- packed -------------------------------------------------------------------------------------


def rules() -> dict:
    """Every rule (but PerChannel, which goes), by name."""
    return {
        "dense": pack.Dense(),
        "5": pack.PerToken(5),
        "1": pack.PerToken(1),
        "3, index": pack.PerToken(3, marks="index"),
        "6, bitmap": pack.PerToken(6, marks="bitmap"),
        "9, 4 bits": pack.PerToken(9, bits=4),
        "7, index, 8 bits": pack.PerToken(7, marks="index", bits=8),
        "11, bitmap, 2 bits": pack.PerToken(11, marks="bitmap", bits=2),
        "16": pack.PerToken(16),
        "channels 5": pack.Channels(5, group=8),
        "channels 12": pack.Channels(12),
        "codes per token, 4": pack.CodesPerToken(4, group=8),
        "codes per token, 2": pack.CodesPerToken(2, group=16),
        "codes per channel, 2": pack.CodesPerChannel(2, group=8),
        "codes per channel, 8": pack.CodesPerChannel(8),
    }


def storage(k, v, **how) -> dict:
    return named(pack.PackedKVCache, k_rule=k, v_rule=v, **how)


def packed(model, batch: int, capacity: int, k, v, **how):
    c, how = model.config, storage(k, v, **{"recent": 7, "sinks": 3} | how)
    sizes = (c.n_layers, batch, c.n_kv_heads, capacity, c.head_dim)
    return pack.PackedKVCache(*sizes, **how, dtype=model.dtype)


def lives(model, prompts, k, v, n_new: int = 14, prune=None, **how) -> dict:
    """A packed cache through an answer, a fork, a rewind, more text, a shrink and a reset."""
    cache = packed(model, len(prompts), 140, k, v, **how)
    generate(model, prompts, 1, cache=cache, prune=prune)
    found = {"prompt read": held(cache)}
    cache.reset()
    found["answer"] = said(stream(model, prompts, n_new, cache=cache, prune=prune, eos=()))
    twin = cache.fork()
    found |= {"held": held(cache), "fork": held(twin)}
    twin.rewind(twin.seen - 2)
    more = generate(model, ids(*[9] * len(prompts), seed=2), 5, cache=twin, eos=())
    found["rewound and continued"] = {"tokens": more.tolist()} | held(twin)
    twin.shrink()
    found["shrunk"] = held(twin)
    twin.reset()
    return found | {"reset": counters(twin)}


def packing() -> dict:
    model, found = small(), {}
    for name, rule in rules().items():
        found[name] = {
            "unit": rule.unit,
            "bytes": {str(d): rule.unit_bytes(16, d) for d in (F32, HALF, BF16, F64)},
            "even": lives(model, ids(60, 60), rule, rule),
            "padded": lives(model, ids(60, 41), rule, rule, sinks=0),
            "keys alone": lives(small("qwen3", BF16), ids(60), rule, pack.Dense(), recent=20),
            "float64": lives(small("mistral", F64), ids(60), pack.PerToken(5), rule, every=64),
        }
    kivi = pack.CodesPerChannel(4, group=8), pack.CodesPerToken(4, group=16)
    five, half = pack.PerToken(5), pack.Channels(8, group=8)
    found["kivi"] = lives(model, ids(60, 60), *kivi, every=16)
    window = {"sink": 2, "recent": 6}
    thought = Sparsify(
        Elements(zoo.think, 0.5, cut.whole_channels),
        Elements(zoo.think_v, 0.5, cut.whole_channels), recent=6,
    )  # fmt: skip
    thin = {
        "snapkv": Evict(zoo.snapkv, 0.6, **window),
        "adakv": zoo.adakv(0.6, **window),
        "pyramidkv": zoo.pyramidkv(0.6, **window),
        "think": thought,
        "then": Then(Evict(zoo.h2o, 0.6, **window), Sparsify(Elements(zoo.k_magnitude, 0.5))),
    }
    for name, policy in thin.items():
        for how, (k, v) in {"kivi": kivi, "5": (five, five), "channels": (half, half)}.items():
            for rows_, lengths in {"even": (60, 60), "padded": (60, 44)}.items():
                made = lives(model, ids(*lengths), k, v, prune=policy)
                found[f"{name}, then {how}, {rows_}"] = made
    return found | reading_packed(model, five, kivi)


def reading_packed(model, five, kivi) -> dict:
    """`of` a dense cache, every backend, and the compiled step."""
    found, prompts = {}, ids(60, 44)
    dense = model.new_cache(2, 80)
    generate(model, prompts, 6, cache=dense, eos=(), prune=zoo.adakv(0.6, sink=2, recent=6))
    for name, pair in {"5": (five, five), "kivi": kivi}.items():
        made = pack.PackedKVCache.of(dense, capacity=90, **storage(*pair, recent=7, sinks=2))
        found[f"of, {name}"] = held(made)
        for backend in ("auto", "sdpa", "reference", *(["rows"] if name == "5" else [])):
            twin = made.fork()
            logits = [decode(model, torch.tensor([i, 9]), twin, backend=backend) for i in (3, 4)]
            found[f"of, {name}, {backend}"] = {"logits": tell(*logits)} | counters(twin)
    for dtype in (F32, BF16):
        model = small("qwen3", dtype)
        for lengths in ((50, 50), (50, 31)):
            cache = packed(model, 2, 90, five, pack.PerToken(2))
            step = kvlab.compiled_decode(model, cache)
            steps = stream(model, ids(*lengths), 20, cache=cache, decode=step, eos=())
            found[f"compiled, {dtype}, {lengths}"] = said(steps) | held(cache)
    return found


def packed_rows() -> dict:
    found, draw = {}, torch.Generator().manual_seed(0)
    x, score = (torch.randn(3, 5, 40, generator=draw) for _ in range(2))
    for dtype in (F32, HALF, BF16, F64):
        for n, marks, bits in ((3, None, None), (9, "bitmap", 4), (20, "index", 8), (40, None, 2)):
            made = rows.pack(x.to(dtype), score.to(dtype), n, marks=marks, bits=bits)
            size = rows.row_bytes(40, n, dtype, marks=marks, bits=bits)
            found[f"{dtype}, {n}, {marks}, {bits}"] = (
                tell(made.marks, made.unpack()), made.nbytes, made.kind, size,
            )  # fmt: skip
        for bits in (2, 4, 8):
            codes = rows.quantise(x.to(dtype), bits)
            parts = (codes.codes, codes.scale, codes.zero, codes.unpack())
            found[f"{dtype}, {bits} bits"] = tell(*parts), rows.code_bytes(40, bits, dtype)
    found["kept"] = [rows.n_kept(s / 20, w) for s in range(20) for w in (5, 8, 16, 33, 64, 128)]
    found["marks"] = [rows.smaller_marks(w, n) for w in (16, 64, 256, 512) for n in (1, 7, 9, 40)]
    return found


# --- what pruning costs -------------------------------------------------------------------------


def prompts_of(model, tokenizer):
    """Recall of plain passwords, and pieces of a text of random ids."""
    import random

    rng = random.Random(5)
    plain = quality.plain_questions(tokenizer, rng, 3, 200)
    asked = [quality.asked(tokenizer, plain, seen, [0]) for seen in (True, False)]
    return [*asked, quality.continuations(ids(900)[0], rng, 3, 150, 12, [0])]


def methods(shape) -> dict:
    found = {}
    for share in (0.7, 0.5, 0.35, 0.25):
        made, refused = quality.at_bytes(quality.METHODS, share, shape)
        found |= {f"{name} at {share}": method for name, method in made.items()}
        found |= dict.fromkeys(f"{name} at {share}" for name in refused)
    window = {"sink": 4, "recent": 10}
    kivi = pack.CodesPerChannel(4, 16), pack.CodesPerToken(4, 16)
    uneven, even = Elements(zoo.k_magnitude, 0.5, per_row), Elements(zoo.v_magnitude, 0.5)
    mine = Sparsify(uneven, even, **window)
    codes = quality.Packed(*kivi, Evict(zoo.knorm, 0.5, **window), **window)
    found |= zoo.sparsities(0.6, **window, group=16)
    found |= {name: policy for name, policy in policies().items() if "every" not in name}
    return found | {
        "own": quality.as_method(zoo.knorm, 0.4, shape),
        "floor": quality.floor_or_window_only(shape),
        "every 2": Evict(zoo.h2o, 0.5, **window, every=2),
        "packed": codes,
        "uneven rows": mine,
        "two rules": Then(mine, Sparsify(Elements(zoo.k_magnitude, 0.7), **window)),
    }


def per_row(score_BGTD, place_BGT, ripe_B, sparsity):
    """A reader's own selection, which keeps uneven rows."""
    return (score_BGTD > score_BGTD.mean(-1, keepdim=True)) | (place_BGT < 0)[..., None]


SHOWN = ("dense", "random", "h2o", "adakv", "mustafar", "mustafar_channel", "think", "kivi")
SHOWN += ("mustafar_4bit", "snapkv_4bit", "every 2", "packed", "own")


def costs() -> dict:
    (model, tokenizer), found = kvlab.load("pocket"), {}
    shape = quality.Shape(200, model.config.head_dim, HALF)
    found["shape"] = [shape.body(s, u) for s in (0.9, 0.5, 0.3) for u in (1, 32)]
    found["storage"] = str(quality.storage(model))
    made = methods(shape)
    for n, prompts in enumerate(prompts_of(model, tokenizer)):
        wanted = [m for m in made.values() if m is not None]
        base = quality.read(model, prompts, quality.collecting_or_needs_of_all(wanted))
        found[f"prompts {n}"] = text(repr((prompts.texts, prompts.rests, prompts.scored)))
        for name, method in {"dense": None, **made}.items():
            if method is None and name != "dense":
                found[f"{n}, {name}"] = "refused"
                continue
            pruner = quality.thinned_or_pruned(base, method)
            sizes = [quality.held_bytes(pruner.cache, method, d) for d in (HALF, F32)]
            found[f"{n}, {name}"] = {"bytes": sizes, "density": repr(density(pruner.cache))}
            found[f"{n}, {name}"] |= held(pruner.cache)
        some = {"dense": None}
        for name, method in made.items():
            kind, _, share = name.partition(" at ")
            if method is not None and kind in SHOWN and share in ("", "0.5", "0.25"):
                some[name] = method
        records = quality.measured_or_measure(model, prompts, some)
        found |= {f"{n}, measured, {r.pop('method')}": r for r in records}
    intended = quality.read(
        model, prompts, quality.collecting_or_needs_of_all(after_eviction().values())
    )
    for name, method in after_eviction().items():
        cache = quality.thinned_or_pruned(intended, method).cache
        size = quality.held_bytes(cache, method, HALF)
        found[f"intended: {name}"] = {"bytes": size} | held(cache)
    return found


def reported() -> dict:
    words = "The cat sat on the mat, and the queen looked at the sea. "
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "text.txt"
        path.write_text(words * 60, encoding="utf-8")
        how = {"n_tokens": 160, "n_prompts": 2, "seeds": 2, "budgets": (0.5,), "text": path}
        found = report.run(("snapkv", "kivi"), own={"mine": zoo.knorm}, **how)
    keep = ("policies", "budgets", "tasks", "refused", "rows")
    shown = report.as_text(found)
    settings = {k: v for k, v in found["settings"].items() if k != "text"}
    return {name: found[name] for name in keep} | {"settings": settings, "shown": text(shown)}


# --- watching, inside transformers, clocks, laws ------------------------------------------------


def watching() -> dict:
    model, found = small(), {}
    cache = model.new_cache(2, 60)
    with Probe(model, cache, keep=("queries", "keys", "values", "weights")) as seen:
        prefill(model, torch.tensor(ids(30, 30)), cache, backend="reference")
        decode(model, torch.tensor([1, 2]), cache, backend="reference")
        cut.apply_or_prune(model, cache, Evict(zoo.knorm, 20, sink=2, recent=6))
    for name in ("queries", "keys", "values", "weights"):
        found[name] = [tell(*layer) for layer in getattr(seen, name)]
    for name, run in {"cached": generate, "uncached": kvlab.generate_uncached}.items():
        with Probe(model) as probe:
            run(model, ids(20, 20), 6)
        found[name] = probe.rows_projected, probe.rows_projected_L, probe.tokens, probe.calls
        found[f"{name}, forwards"] = [(f.tokens, f.new) for f in probe.forwards]
    names = ("rows_projected", "tokens", "bytes_read", "bytes_written", "bytes_copied")
    return found | {name: getattr(seen, name) for name in names}


def in_transformers() -> dict:
    import transformers

    from kvlab import hf

    config = transformers.LlamaConfig(
        vocab_size=101, hidden_size=48, intermediate_size=56, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, head_dim=16, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model, found = weigh(transformers.LlamaForCausalLM(config).float()), {}
    rows_ = ids(50, 43)
    tokens = torch.tensor([[0] * (50 - len(row)) + row for row in rows_])
    mask = torch.tensor([[0] * (50 - len(row)) + [1] * len(row) for row in rows_])
    window = {"sink": 2, "recent": 6}
    five, kivi = pack.PerToken(5), (pack.CodesPerChannel(4, group=8), pack.CodesPerToken(4, 16))
    stores = {
        "none": None,
        "5": storage(five, five, recent=7, sinks=2),
        "kivi": storage(*kivi, recent=7),
    }
    ways = {
        "none": None,
        "adakv": zoo.adakv(0.5, **window),
        "h2o, every 2": Evict(zoo.h2o, 30, **window, every=2),
        "zeros": Sparsify(Elements(zoo.k_magnitude, 0.5), recent=5),
    }
    for name, policy in ways.items():
        for kept, how in stores.items():
            if how and "every" in name:
                continue
            more = {} if how is None else named(hf.cache, packed=how, capacity=80)
            cache = hf.cache(model, policy, **more)
            out = model.generate(
                tokens, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0,
                return_dict_in_generate=True, output_logits=True, past_key_values=cache,
            )  # fmt: skip
            found[f"{name}, packed {kept}"] = {
                "tokens": out.sequences[:, 50:].tolist(),
                "logits": tell(torch.stack(out.logits, 1)),
                "length": cache.get_seq_length(),
                "bytes": [cache.live_bytes, cache.allocated_bytes],
            } | held(cache.kv)
            if how is None:
                found[f"{name}, packed {kept}"]["density"] = repr(density(cache.kv))
    return found


def clocked() -> dict:
    found = {}
    for family in FAMILIES:
        config = small(family).config
        for batch, n, size in ((1, 1, 4), (3, 400, 2), (16, 2000, 1)):
            sides = {"decode": {"context": n}, "prefill": {"prompt": n}}
            for name, length in sides.items():
                work = getattr(clocks, f"{name}_work")(
                    config, batch=batch, bytes_per_number=size, **length
                )
                seconds = clocks.Roofline(100.0, 900.0).seconds(work)
                numbers = (work.flops, work.bytes, work.masked_flops, work.intensity, seconds)
                found[f"{family}, {name}, {batch}, {n}"] = numbers
    both = clocks.Comparison((3.0, 2.0, 4.0, 3.5, 1.0), (1.0, 1.0, 2.0, 1.5, 1.1))
    found["comparison"] = both.ratio, both.spread, both.confidence, both.verdict(1.5), str(both)
    found["wilson"] = [clocks.wilson(n, 20) for n in (0, 7, 20)]
    found["bootstrap"] = clocks.bootstrap([0.1, 0.4, 0.2, 0.9, 0.3])
    return found


def refusing() -> dict:
    """What is refused, by the kind of error; words may be mended."""
    model = small()
    full = model.new_cache(1, 8)
    prefill(model, torch.tensor(ids(8)), full)
    five = pack.PerToken(5)
    dense = packed(model, 1, 90, five, five)
    prefill(model, torch.tensor(ids(60)), dense)
    often = Evict(zoo.knorm, 20, sink=2, recent=6, every=2)
    zeros = Sparsify(Elements(zoo.k_magnitude, 0.5))
    calls = {
        "no room": lambda: decode(model, torch.tensor([1]), full),
        "empty prompt": lambda: generate(model, [[]], 3),
        "unknown ids": lambda: generate(model, [[1, 500]], 3),
        "too small a budget": lambda: Evict(zoo.knorm, 5),
        "no share": lambda: Evict(zoo.knorm, 1.5),
        "too long a window": lambda: generate(model, ids(20), 2, prune=Evict(zoo.snapkv, 12, 2, 6)),
        "sparsity 1": lambda: Elements(zoo.k_magnitude, 1.0),
        "nothing to zero": lambda: Sparsify(),
        "no policy": lambda: Then(3),
        "packed, every": lambda: generate(
            model, ids(60), 2, cache=packed(model, 1, 70, five, five), prune=often
        ),
        "packed, not empty": lambda: generate(
            model, ids(4), 2, cache=dense, prune=Evict(zoo.knorm, 20, 2, 6)
        ),
        "packed, rewound too far": lambda: dense.rewind(2),
        "packed, pruned": lambda: Pruner(model, dense, often),
        "too many kept": lambda: packed(model, 1, 40, pack.PerToken(17), five),
        "rewound past": lambda: full.rewind(9),
        "grown smaller": lambda: full.grow(2),
        "shrunk too far": lambda: full.shrink(2),
        "another model's cache": lambda: kvlab.compiled_decode(small(n_kv_heads=3), full),
        "a law broken": lambda: kvlab.check_policy(looks_at_padding),
        "all laws hold": lambda: kvlab.check_policy(Evict(zoo.keydiff, 0.5)),
        "all laws hold, zeros": lambda: kvlab.check_policy(zeros),
    }  # fmt: skip
    return {name: kind_of(call) for name, call in calls.items()}


def looks_at_padding(e):
    return (e.k_BGTD - e.k_BGTD.mean((0, 1, 2))).norm(dim=-1)


def kind_of(call) -> str:
    try:
        call()
    except Exception as error:
        return " < ".join(kind.__name__ for kind in type(error).__mro__[:-3])
    return "nothing"


# --- the command --------------------------------------------------------------------------------

SECTIONS = (
    answering, training, exporting, pruning, packing, packed_rows, costs, reported, watching,
    in_transformers, clocked, refusing,
)  # fmt: skip


def everything(only: list[str]) -> dict:
    torch.set_num_threads(1)
    found = {"machine": clocks.machine()}
    for section in SECTIONS:
        if only and section.__name__ not in only:
            continue
        start = time.perf_counter()
        try:
            found[section.__name__] = section()
        except Exception:
            found[section.__name__] = {"failed": traceback.format_exc().splitlines()[-1]}
            traceback.print_exc()
        print(f"{section.__name__}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return found


def leaves(tree, path: str = "") -> dict:
    """Every value of a tree by its path."""
    if isinstance(tree, dict):
        return {p: v for k, x in tree.items() for p, v in leaves(x, f"{path} / {k}").items()}
    if isinstance(tree, list) and any(isinstance(x, (list, dict)) for x in tree):
        return {p: v for i, x in enumerate(tree) for p, v in leaves(x, f"{path} / {i}").items()}
    return {path.removeprefix(" / "): tree}


ABSENT = "not there"
COMPILED = "KVLAB_IDENTITY_KERNELS"  # set in the processes that do the work


def compare(before: Path, after: Path, only: list[str]) -> int:
    """Print what differs; how much of it was not intended."""
    both = [json.loads(path.read_text(encoding="utf-8")) for path in (before, after)]
    old, new = (leaves({k: v for k, v in x.items() if not only or k in only}) for x in both)
    differ = [k for k in dict.fromkeys([*old, *new]) if old.get(k, ABSENT) != new.get(k, ABSENT)]
    meant = [key for key in differ if "intended: " in key]
    others = [key for key in differ if "intended: " not in key]
    for title, keys in (("differ as intended", meant), ("differ", others)):
        for key in keys:
            print(f"{key}\n  before {old.get(key, ABSENT)}\n  after  {new.get(key, ABSENT)}")
        print(f"{len(keys)} of {len(old)} values {title}\n")
    failed = [key for key in new if key.endswith("/ failed")]
    print(f"{len(failed)} sections failed")
    return len(others) + len(failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, nargs=2)
    parser.add_argument("--only", nargs="*", default=[], help="sections by name")
    args = parser.parse_args()
    if args.compare:
        sys.exit(compare(*args.compare, args.only) > 0)
    if COMPILED not in os.environ:
        with tempfile.TemporaryDirectory(prefix="identity-") as made:
            there = os.environ | {COMPILED: made, "NUMBA_CACHE_DIR": made}
            for turn in ("compiling", "counting"):
                print(turn, file=sys.stderr)
                subprocess.run([sys.executable, *sys.orig_argv[1:]], env=there, check=True)
        return
    result = json.dumps(everything(args.only), indent=1) + "\n"
    if args.out:
        args.out.write_text(result, encoding="utf-8")


if __name__ == "__main__":
    main()
