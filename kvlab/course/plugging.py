"""A function or a cache of the reader's own at work inside a model, in place of ours.

B rows, S new tokens, H query heads, G key/value heads, T slots, D head width, C model width.

```
with own_attention(model, my_attention, layers=[0]):
    answer = kvlab.generate(model, prompt, 20)
```
When the block ends the model is as it was. With a cache or without, in prefill and in decode, the
function is called once for each layer that it was given and each forward; for rope twice, with the
queries and with the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kvlab import checks
from kvlab.attention import Attended
from kvlab.measure.taps import refuse_compiled
from kvlab.model import Layer, Pass, Transformer
from kvlab.protocol import Cache, LayerKV

OwnAttention = Callable[[Tensor, Tensor, Tensor], Tensor]
OwnRope = Callable[[Tensor, Tensor], Tensor]


class Parts(NamedTuple):
    """What a layer is made of. Each takes x_BSC and returns a tensor of the same shape."""

    attention_norm: Callable[[Tensor], Tensor]
    attention: Callable[[Tensor], Tensor]
    mlp_norm: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]


OwnBlock = Callable[[Tensor, Parts], Tensor]


def own_attention(
    model: Transformer, function: OwnAttention, layers: Iterable[int] | None = None
) -> ExitStack:
    """Let `function(q_BHSD, k_BGTD, v_BGTD)` mix the values, in some layers or in all of them.

    Queries and keys come turned by their positions. The queries are those of the last S of T
    tokens: without a cache and in prefill S = T, in decode S = 1. It returns out_BHSD.
    Raises: ValueError for a compiled model, a layer that there is not, and, when the model runs,
    for prompts of different lengths, several tokens after an eviction, and a result of another
    shape or type.
    """
    checks.functions(function=function)

    def attend(q_BHSD: Tensor, kv: LayerKV, q_pos_BS: Tensor | None = None) -> Attended:
        if q_pos_BS is not None or not (kv.in_order or (kv.whole and q_BHSD.shape[2] == 1)):
            raise ValueError(
                "Your own attention is given no positions, so it cannot know which slots are "
                "padding or were evicted. Give one prompt, or several of one length, and no prune."
            )
        out_BHSD = function(q_BHSD, kv.k_BGTD, kv.v_BGTD)
        _check("attention", out_BHSD, q_BHSD, "BHSD, the shape of the queries")
        return Attended(out_BHSD, None, "own", "your own function was asked for")

    def plug(layer: Layer, hooks: ExitStack) -> None:
        _before(layer, hooks, lambda now: replace(now, attend=attend))

    return _plugged(model, layers, plug)


def own_rope(
    model: Transformer, function: OwnRope, layers: Iterable[int] | None = None
) -> ExitStack:
    """Let `function(x_BHSD, pos_S)` turn queries and then keys, in some layers or in all of them.

    `pos_S` holds the new tokens' positions, which go on from those in the cache. It returns the
    turned x_BHSD.
    Raises: ValueError as `own_attention`, and when the model runs with positions that were given.
    """
    checks.functions(function=function)

    def plug(layer: Layer, hooks: ExitStack) -> None:
        attention, at = layer.self_attn, {}

        def unturned(now: Pass) -> Pass:
            if now.pos_BS is not None:
                raise ValueError(
                    "Your own rope is given one position for each token, the same in all rows, but "
                    "positions came for each row. Give one prompt, or several of one length."
                )
            cos, sin = now.rope
            at["start"] = now.cache.seen if now.cache is not None else 0
            return replace(now, rope=(torch.ones_like(cos), torch.zeros_like(sin)))

        def turned(_tap: nn.Module, _given: tuple, x_BHSD: Tensor) -> Tensor:
            stop = at["start"] + x_BHSD.shape[2]
            out_BHSD = function(x_BHSD, torch.arange(at["start"], stop, device=x_BHSD.device))
            _check("rope", out_BHSD, x_BHSD, "BHSD, the shape of what it was given")
            return out_BHSD

        _before(layer, hooks, unturned)
        for tap in (attention.tap_q, attention.tap_k):
            hook = tap.register_forward_hook(turned, prepend=True)  # a probe hears what was turned
            hooks.callback(hook.remove)

    return _plugged(model, layers, plug)


def own_block(
    model: Transformer, function: OwnBlock, layers: Iterable[int] | None = None
) -> ExitStack:
    """Let `function(x_BSC, parts)` be the whole layer, made of the parts that the layer has.

    `parts` has `attention_norm`, `attention`, `mlp_norm` and `mlp`: functions of x_BSC, of which
    `attention` also sees the tokens before and the cache. It returns x_BSC for the next layer.
    Raises: ValueError as `own_attention` for the model, the layers and the result.
    """
    checks.functions(function=function)

    def plug(layer: Layer, hooks: ExitStack) -> None:
        def forward(x_BSC: Tensor, now: Pass) -> Tensor:
            attention = layer.self_attn
            norms = layer.input_layernorm, layer.post_attention_layernorm
            parts = Parts(norms[0], lambda x: attention(x, now), norms[1], layer.mlp)
            out_BSC = function(x_BSC, parts)
            _check("block", out_BSC, x_BSC, "BSC, the shape of what it was given")
            return out_BSC

        before = vars(layer).get("forward")  # another block of the reader's, one block up
        layer.forward = forward
        hooks.callback(_put_back, layer, "forward", before)

    return _plugged(model, layers, plug)


def own_cache(model: Transformer, make: Callable[..., Any]) -> ExitStack:
    """Let `make(n_layers, batch, n_kv_heads, capacity, head_dim)` be the cache that a model makes.

    Whoever asks `model.new_cache` for one while the block runs, `generate` too, gets an `OwnCache`
    around what `make` returned: an object with `append(layer, k_BGSD, v_BGSD)` and
    `read(layer) -> k_BGTD, v_BGTD`.
    Raises: ValueError for a compiled model and, when the cache is made, where a method is missing.
    """
    checks.kind("model", model, Transformer, "a Transformer, as in model, tokenizer = kvlab.load()")
    refuse_compiled(model, "A cache of your own was to be used by")
    if not callable(make):
        raise ValueError(f"make is {checks.shown(make)}; expected a class, or what makes a cache.")

    def new_cache(batch: int, capacity: int, **how: object) -> OwnCache:
        if how:
            raise ValueError(
                f"{', '.join(how)} was asked of new_cache while your own cache stands in; it takes "
                "the batch and the capacity."
            )
        config = model.config
        sizes = config.n_layers, batch, config.n_kv_heads, capacity, config.head_dim
        return OwnCache(make(*sizes), model, batch)

    with ExitStack() as undo:
        before = vars(model).get("new_cache")  # another cache of the reader's, one block up
        model.new_cache = new_cache
        undo.callback(_put_back, model, "new_cache", before)
        return undo.pop_all()


class OwnCache(Cache):
    """A cache of the reader's own, with what a model asks of one beside `append` and `read`.

    It counts the tokens and gives them their positions: one prompt, or several of one length.
    Numbers of another type, such as float64, are turned into the model's as they are read.
    """

    def __init__(self, own: Any, model: Transformer, batch: int) -> None:
        checks.has("Your own cache", own, "append", "an object with append and read")
        checks.has("Your own cache", own, "read", "an object with append and read")
        self.own, self.batch, self.n_layers = own, batch, model.config.n_layers
        self._like = next(model.parameters())
        self._given = [0] * self.n_layers

    @property
    def seen(self) -> int:
        """Tokens that every layer was given."""
        return self._given[-1]

    def append(
        self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None = None
    ) -> None:
        """Hand a layer's new keys and values on.

        Raises: ValueError for positions that do not follow on, and whatever your own raises.
        """
        start = self._given[layer]
        stop = start + k_BGSD.shape[2]
        if pos_BS is not None and not bool((pos_BS.cpu() == torch.arange(start, stop)).all()):
            raise ValueError(
                f"Layer {layer} of your own cache holds {start} tokens, and tokens came for the "
                f"positions {pos_BS.tolist()}; expected {start} to {stop - 1} in each row. No "
                "positions are kept: give one prompt, or several of one length, in order."
            )
        self.own.append(layer, k_BGSD, v_BGSD)
        self._given[layer] = stop

    def read(self, layer: int) -> LayerKV:
        """What your own cache has of a layer, in the order in which it was appended.

        Raises: ValueError for anything but two tensors with a slot for each token.
        """
        given, n = self.own.read(layer), self._given[layer]
        k, v = given if isinstance(given, tuple | list) and len(given) == 2 else (given, None)
        for what, x in (("keys", k), ("values", v)):
            if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[2] != n:
                raise ValueError(
                    f"read({layer}) of your own cache gave {checks.shown(x)} for the {what}; "
                    f"expected k_BGTD, v_BGTD with T = {n}, as many tokens as were appended."
                )
        k_BGTD, v_BGTD = (x.to(self._like.device, self._like.dtype) for x in (k, v))
        pos_BGT = torch.arange(n, device=k_BGTD.device).expand(*k_BGTD.shape[:2], n)
        return LayerKV(k_BGTD, v_BGTD, pos_BGT, in_order=True, whole=True)


def _put_back(module: nn.Module, name: str, before: Callable | None) -> None:
    if before is None:
        delattr(module, name)
    else:
        setattr(module, name, before)


def _plugged(
    model: Transformer, layers: Iterable[int] | None, plug: Callable[[Layer, ExitStack], None]
) -> ExitStack:
    """Plug into each layer asked for; leaving the block of the result takes all out again."""
    checks.kind("model", model, Transformer, "a Transformer, as in model, tokenizer = kvlab.load()")
    refuse_compiled(model, "A function of your own was to run in")
    every = model.model.layers
    if layers is None:
        layers = range(len(every))
    checks.listed("layers", layers)
    asked = [checks.whole("A layer", i, 0) for i in layers]
    for i in asked:
        if i >= len(every):
            raise ValueError(
                f"Layer {i} was asked for; this model has layers 0 to {len(every) - 1}."
            )
    with ExitStack() as hooks:
        for i in dict.fromkeys(asked):
            # a compiled step, which would pass by, refuses a model whose taps have a listener
            hook = every[i].self_attn.tap_q.register_forward_hook(lambda *_: None)
            hooks.callback(hook.remove)
            plug(every[i], hooks)
        return hooks.pop_all()


def _before(layer: Layer, hooks: ExitStack, changed: Callable[[Pass], Pass]) -> None:
    """Change what a layer's attention is handed beside the tokens."""
    hook = layer.self_attn.register_forward_pre_hook(
        lambda _attention, given: (given[0], changed(given[1]))
    )
    hooks.callback(hook.remove)


def _check(what: str, out: object, like: Tensor, axes: str) -> None:
    if isinstance(out, Tensor) and (out.shape, out.dtype) == (like.shape, like.dtype):
        return
    raise ValueError(
        f"Your own {what} gave {checks.shown(out)}; expected {tuple(like.shape)} of {like.dtype}: "
        f"{axes}."
    )
