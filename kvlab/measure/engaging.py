"""Whether a cache that should hold less really does: told from memory, reads and logits.

B rows, H query heads, G key/value heads, T slots, D head width, N new tokens, V vocabulary.

Caches that were meant to be small and are not are common: a setting that is passed over in silence,
keys and values stored once for each query head, zeros that take the room of what they replaced,
memory taken in advance, dense copies made at every step. None of these shows in an answer.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kvlab import checks
from kvlab.cache import Cache
from kvlab.generation import stream
from kvlab.measure.in_use import InUse, findings
from kvlab.model import Transformer
from kvlab.protocol import Policy


def engaged(
    model: nn.Module,
    cache: Any,
    prompt: Sequence[int],
    n_new: int = 8,
    *,
    prune: Policy | None = None,
) -> InUse:
    """Run a prompt and a few tokens through an empty cache, and say what it holds and reads.

    `model` is ours, or one of `transformers` with a cache of its kind, `kvlab.hf.cache` among them.
    The tokens fed are those that a dense cache leads to, so that logits can be compared.
    Raises: ValueError for a cache that is not empty, or a policy beside a model of `transformers`,
    which takes it as `kvlab.hf.cache(model, policy)`.
    """
    ids, n_new = checks.ids("prompt", prompt), checks.whole("n_new", n_new, 2)
    ours = isinstance(model, Transformer)
    if not ours and not hasattr(model, "get_decoder"):
        checks.model("model", model)
    checks.has("cache", cache, "read" if ours else "update", "an empty cache of this model")
    if not ours and prune is not None:
        raise ValueError("A policy came for a model of transformers; expected it in its cache.")
    if _seen(cache):
        raise ValueError(f"The cache holds {_seen(cache)} tokens; expected an empty one.")
    run = _ours if ours else _theirs
    want_NV = run(model, None, ids, n_new, None, None)
    with _watching(model, cache) as watch:
        got_NV = run(model, cache, ids, n_new, want_NV.argmax(-1), prune)
    found = _found(model, cache, watch, len(ids) + n_new - 1, want_NV, got_NV)
    drift_of_rounding = 100 * torch.finfo(want_NV.dtype).eps
    return InUse(**found, findings=dict(findings(found, _kv_heads(model), drift_of_rounding)))


def _seen(cache: Any) -> int:
    return cache.get_seq_length() if hasattr(cache, "get_seq_length") else cache.seen


def _ours(
    model: Transformer,
    cache: Cache | None,
    ids: list[int],
    n_new: int,
    forced_N: Tensor | None,
    prune: Policy | None,
) -> Tensor:
    """The logits that each new token is chosen from. Shapes: logits_NV."""
    logits: list[Tensor] = []

    def pick(logits_BV: Tensor) -> Tensor:
        logits.append(logits_BV[0])
        return logits_BV.argmax(-1) if forced_N is None else forced_N[len(logits) - 1][None]

    for _ in stream(model, ids, n_new, cache=cache, pick=pick, eos=(), prune=prune):
        pass
    return torch.stack(logits)


@torch.inference_mode()
def _theirs(
    model: nn.Module, cache: Any, ids: list[int], n_new: int, forced_N: Tensor | None, _prune: None
) -> Tensor:
    """The same of a model of `transformers`; without a cache, with the one it makes by itself."""
    tokens_BS, logits = torch.tensor([ids], device=model.device), []
    for n in range(n_new):
        out = model(tokens_BS, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits.append(out.logits[0, -1])
        chosen = logits[-1].argmax() if forced_N is None else forced_N[n]
        tokens_BS = chosen.reshape(1, 1)
    return torch.stack(logits)


@dataclass
class _Watch:
    """What was seen while the cache was filled."""

    n_layers: int
    peak_bytes: int = 0
    before: dict[str, int] = field(default_factory=dict)  # counters at the last step's start
    handed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@contextmanager
def _watching(model: nn.Module, cache: Any) -> Iterator[_Watch]:
    """Look at the cache after every layer, and at what it hands to a model of `transformers`."""
    layers = [
        part for name, part in model.named_modules() if re.search(r"(^|\.)layers\.\d+$", name)
    ]
    if not layers:
        raise ValueError(f"A {type(model).__name__} came; expected a model with `layers`.")
    watch, beside = _Watch(len(layers)), [cache]

    def begins(*_: object) -> None:
        watch.before = _counters(cache)

    def ends(*_: object) -> None:
        watch.peak_bytes = max(watch.peak_bytes, stored_bytes(beside))

    def drafts(n_prompt: int) -> Cache:
        beside.append(type(cache).draft(cache, n_prompt))
        return beside[-1]

    def updates(k: Tensor, v: Tensor, layer_idx: int, *args: object, **more: object) -> tuple:
        both = type(cache).update(cache, k, v, layer_idx, *args, **more)
        watch.handed[layer_idx] = both
        return both

    with ExitStack() as stack:
        stack.callback(layers[0].register_forward_pre_hook(begins).remove)
        for layer in layers:
            stack.callback(layer.register_forward_hook(ends).remove)
        for name, ours in (("draft", drafts), ("update", updates)):
            if hasattr(cache, name):
                setattr(cache, name, ours)
                stack.callback(delattr, cache, name)
        yield watch


def _counters(cache: Any) -> dict[str, int]:
    """What a cache of ours, or one inside a cache for `transformers`, counts by itself."""
    inner = getattr(cache, "kv", None) or cache
    names = ("bytes_read", "bytes_unpacked")
    return {name: getattr(inner, name) for name in names if hasattr(inner, name)}


def stored_bytes(thing: object) -> int:
    """Memory of all tensors that an object keeps, in whatever attributes, each storage once.

    Positions (int64) do not count, nor do models that it refers to.
    """
    storages: dict[int, int] = {}
    todo, known = [thing], set()
    while todo:
        one = todo.pop()
        elsewhere = isinstance(one, (nn.Module, type)) or inspect.isroutine(one)
        if id(one) in known or (elsewhere and one is not thing):
            continue
        known.add(id(one))
        if isinstance(one, Tensor):
            if one.dtype != torch.int64:
                storage = one.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, Mapping):
            todo.extend(one.values())
        elif isinstance(one, (list, tuple, set)):
            todo.extend(one)
        else:
            todo.extend(vars(one).values() if hasattr(one, "__dict__") else ())
            slots = getattr(type(one), "__slots__", ())
            todo.extend(getattr(one, name) for name in slots if hasattr(one, name))
    return sum(storages.values())


def _handed(cache: Any, watch: _Watch) -> list[tuple[Tensor, Tensor]]:
    """Keys and values as attention sees them, of every layer; none where they stay packed."""
    inner = getattr(cache, "kv", None) or cache
    if not hasattr(inner, "read"):
        return list(watch.handed.values())
    kvs = [inner.read(layer) for layer in range(watch.n_layers)]
    return [(kv.k_BGTD, kv.v_BGTD) for kv in kvs if kv.reader is None]


def _found(
    model: nn.Module, cache: Any, watch: _Watch, tokens: int, want_NV: Tensor, got_NV: Tensor
) -> dict[str, Any]:
    held, counted = stored_bytes(cache), _counters(cache)
    handed = _handed(cache, watch)
    numbers = [x for both in handed for x in both]
    read = sum(counted[name] - watch.before.get(name, 0) for name in counted)
    return {
        "tokens": tokens,
        "dense_bytes": tokens * _per_token(model),
        "held_bytes": held,
        "peak_bytes": max(watch.peak_bytes, held),
        "read_bytes": read if counted else sum(x.nbytes for x in numbers),
        "heads": max((x.shape[1] for x in numbers), default=None),
        "zeros": _share_of_zeros(numbers),
        "drift": float((got_NV - want_NV).abs().max() / want_NV.abs().max()),
    }


def _kv_heads(model: nn.Module) -> int:
    if isinstance(model, Transformer):
        return model.config.n_kv_heads
    config = model.get_decoder().config
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def _per_token(model: nn.Module) -> int:
    """Bytes of a token's keys and values in the model's own type."""
    per_number = next(model.parameters()).element_size()
    if isinstance(model, Transformer):
        return model.config.kv_bytes_per_token(per_number)
    config = model.get_decoder().config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * _kv_heads(model) * width * per_number


def _share_of_zeros(numbers: list[Tensor]) -> float | None:
    n = sum(x.numel() for x in numbers)
    return sum(int((x == 0).sum()) for x in numbers) / n if n else None
