"""6.1: a cache that takes its memory once.

L layers, B rows of the batch, G key/value heads, S new tokens, T slots, D head width.

Long because a cache goes wrong in many ways, and each of them is named.
"""

from __future__ import annotations

from functools import partialmethod
from operator import ge, gt

import torch
from torch import Tensor

from kvlab.course.author import Exercise, raised_by
from kvlab.course.ch06._caches import (
    cache_with,
    fill,
    fill_or_raise,
    kv,
    read_all,
    rows,
    same_memory,
    sizes,
    two_in_turn,
)

Q = Exercise(
    "6.1",
    "A cache that never moves",
    "KVCache",
    points=3,
    minutes=15,
    difficulty=2,
    statement="""
Write a cache that takes its memory once, in float64. `append` writes new keys and values of one layer behind those
already there; each layer counts its own tokens, since in the middle of a step layer 0 has the new token
and layer 3 does not yet. `read` returns keys and values as *views* (slices), not copies. Tokens that do
not fit raise `ValueError` and change nothing. `reset` only sets the counters to 0: a view that somebody read
earlier still looks at the same memory, and shows what is appended next.
""",
    hints=(
        "How many numbers will the cache hold when it is full? You know that before the first "
        "token comes. And how many counters does a step need that goes through the layers one "
        "after another?",
        "Make one tensor for all keys, torch.zeros(n_layers, batch, n_kv_heads, capacity, "
        "head_dim, dtype=torch.float64), one like it for all values, and a list with one counter "
        "per layer. reset needs no tensor at all.",
        "append: start = self.used[layer]; stop = start + k_BGSD.shape[2]; raise ValueError if "
        "stop > capacity; then self.k[layer, :, :, start:stop] = k_BGSD (values alike) and "
        "self.used[layer] = stop. read returns the slices [layer, :, :, :self.used[layer]].",
    ),
    cases=sizes,
    size=lambda case: case["capacity"] * case["n_layers"],
)


@Q.solution
class KVCache:
    """Keys and values of all layers, in memory that is taken once."""

    def __init__(self, n_layers, batch, n_kv_heads, capacity, head_dim):
        ### BEGIN SOLUTION
        shape = (n_layers, batch, n_kv_heads, capacity, head_dim)
        self.k = torch.zeros(shape, dtype=torch.float64)
        self.v = torch.zeros(shape, dtype=torch.float64)
        self.capacity = capacity
        self.used = [0] * n_layers
        ### END SOLUTION

    def append(self, layer, k_BGSD, v_BGSD):
        """Write S new tokens into the next free slots of one layer."""
        ### BEGIN SOLUTION
        start = self.used[layer]
        stop = start + k_BGSD.shape[2]
        if stop > self.capacity:
            raise ValueError(f"{stop} tokens do not fit into {self.capacity} slots")
        self.k[layer, :, :, start:stop] = k_BGSD
        self.v[layer, :, :, start:stop] = v_BGSD
        self.used[layer] = stop
        ### END SOLUTION

    def read(self, layer):
        """Return k_BGTD and v_BGTD: views of what this layer holds so far."""
        ### BEGIN SOLUTION
        used = self.used[layer]
        return self.k[layer, :, :, :used], self.v[layer, :, :, :used]
        ### END SOLUTION

    def reset(self):
        """Forget all tokens; keep the memory."""
        ### BEGIN SOLUTION
        self.used = [0] * len(self.used)
        ### END SOLUTION


@Q.also_right
class TensorPerLayer:
    """One tensor per layer, in a dict, written with index_copy_."""

    def __init__(self, n_layers, batch, n_kv_heads, capacity, head_dim):
        self.limit = capacity
        self.stores = {
            layer: [torch.empty(2, batch, n_kv_heads, capacity, head_dim, dtype=torch.float64), 0]
            for layer in range(n_layers)
        }

    def append(self, layer, k_BGSD, v_BGSD):
        store, filled = self.stores[layer]
        where = torch.arange(filled, filled + k_BGSD.size(2))
        if where[-1] >= self.limit:
            raise ValueError("full")
        store.index_copy_(3, where, torch.stack((k_BGSD, v_BGSD)))
        self.stores[layer][1] += len(where)

    def read(self, layer):
        store, filled = self.stores[layer]
        return tuple(store.narrow(3, 0, filled).unbind(0))

    def reset(self):
        for entry in self.stores.values():
            entry[1] = 0


# --- laws: each drives the answer, and the solution beside it ---


@Q.law("read gives back what was appended")
def _(answer, case):
    cache = cache_with(answer, case, [])
    seen = fill_or_raise(cache, rows(case)) | read_all(cache, case)
    kinds = {str(t.dtype) for t in seen.values() if isinstance(t, Tensor)}
    return {**seen, "the type of what read returns": sorted(kinds)}


@Q.law("a layer without tokens")
def _(answer, case):
    """A new cache, and one that was reset."""
    cache = cache_with(answer, case, [])
    seen = read_all(cache, case, "of a new cache: ")
    fill(cache, rows(case))
    cache.call("reset")
    return seen | read_all(cache, case, "after reset: ")


@Q.law("each layer counts its own tokens")
def _(answer, case):
    """In the middle of a step, when layer 0 already has the new tokens and the others do not."""
    *before, last = rows(case)
    cache = cache_with(answer, case, before)
    cache.call("append", 0, *last[0])
    return read_all(cache, case)


@Q.law("too many tokens raise ValueError and change nothing")
def _(answer, case):
    cache = cache_with(answer, case, rows(case))
    too_many = case["capacity"] - sum(case["chunks"]) + 1
    k, v = kv(case, too_many, torch.Generator().manual_seed(case["_seed"] + 9))
    raised = raised_by(cache.call, "append", 0, k, v)
    return {"raised when one token too many came": raised, **read_all(cache, case)}


@Q.law("the last slot can be filled")
def _(answer, case):
    rest = case["capacity"] - sum(case["chunks"])
    chunks, cache = rows({**case, "chunks": [*case["chunks"], rest]}), cache_with(answer, case, [])
    return fill_or_raise(cache, chunks) | read_all(cache, case)


Q.law("two caches know nothing of each other")(two_in_turn)


@Q.law("memory is taken once, and read gives views of it")
def _(answer, case):
    """A view that was read early shows what is written into the same slots after a reset."""
    first, second = rows(case), rows(case, salt=1)
    cache = cache_with(answer, case, first[:1])
    early = [cache.hold("read", layer) for layer in range(case["n_layers"])]
    fill(cache, first[1:])
    cache.call("reset")
    seen = {}
    for layer, view in enumerate(early):
        k, _ = view.now()
        seen[f"layer {layer}, read before reset, looked at before anything is appended, k_BGTD"] = k
    fill(cache, second[:1])
    for layer, view in enumerate(early):
        k, v = view.now()
        seen[f"layer {layer}, read before reset, looked at after it, k_BGTD"] = k
        seen[f"layer {layer}, read before reset, looked at after it, v_BGTD"] = v
    return {**seen, **read_all(cache, case), **same_memory(cache, case)}


@Q.law("too many tokens change no number in a free slot")
def _(answer, case):
    """Old numbers lie there after a reset, and a view that was read before it shows them."""
    cache, chunks = cache_with(answer, case, rows(case)), rows(case, salt=1)
    view = cache.hold("read", 0)
    cache.call("reset")
    fill(cache, chunks[:1])
    k, v = kv(case, case["capacity"], torch.Generator().manual_seed(case["_seed"] + 9))
    raised = raised_by(cache.call, "append", 0, k, v)
    k, v = view.now()
    name = "layer 0, read before reset, looked at after a refused append"
    return {"raised when too many came": raised, f"{name}, k_BGTD": k, f"{name}, v_BGTD": v}


@Q.law("what a larger cache beside it can hold does not count")
def _(answer, case):
    cache = cache_with(answer, case, rows(case))
    larger = cache_with(answer, {**case, "capacity": 2 * case["capacity"]}, [])
    too_many = case["capacity"] - sum(case["chunks"]) + 1
    k, v = kv(case, too_many, torch.Generator().manual_seed(case["_seed"] + 9))
    return {
        "raised when one token too many came": raised_by(cache.call, "append", 0, k, v),
        "raised by the larger one": raised_by(larger.call, "append", 0, k, v),
        **read_all(cache, case),
    }


# --- what goes wrong: each replaces a method of this, or what it does with one tensor ---


class _Cache(KVCache):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.k, self.v = self.memory(self.k), self.memory(self.v)

    def memory(self, x_LBGTD):
        return x_LBGTD

    def read(self, layer):
        return tuple(self.shown(x_BGTD) for x_BGTD in super().read(layer))

    def shown(self, x_BGTD):
        return x_BGTD


class _Concatenates(KVCache):
    def __init__(self, *shape):
        super().__init__(*shape)
        self.reset()

    def append(self, layer, k_BGSD, v_BGSD):
        k_BGTD, v_BGTD = self.kv[layer]
        if k_BGTD.shape[2] + k_BGSD.shape[2] > self.capacity:
            raise ValueError("the cache is full")
        self.kv[layer] = torch.cat((k_BGTD, k_BGSD), dim=2), torch.cat((v_BGTD, v_BGSD), dim=2)

    def read(self, layer):
        return self.kv[layer]

    def reset(self):
        self.kv = [(self.k[0, :, :, :0], self.v[0, :, :, :0])] * len(self.k)


def _one_counter(self, layer, k_BGSD, v_BGSD, refuses=False):
    start = self.used[0]
    if refuses and start + k_BGSD.shape[2] > self.capacity:
        raise ValueError("the cache is full")
    stop = min(start + k_BGSD.shape[2], self.capacity)
    self.k[layer, :, :, start:stop] = k_BGSD[:, :, : stop - start]
    self.v[layer, :, :, start:stop] = v_BGSD[:, :, : stop - start]
    self.used = [stop] * len(self.used)


def _refuses(too_many, kind=ValueError):
    def append(self, layer, k_BGSD, v_BGSD):
        if too_many(self.used[layer] + k_BGSD.shape[2], self.capacity):
            raise kind("the cache is full")
        KVCache.append(self, layer, k_BGSD, v_BGSD)

    return append


def _cuts_off(self, layer, k_BGSD, v_BGSD):
    free = self.capacity - self.used[layer]
    KVCache.append(self, layer, k_BGSD[:, :, :free], v_BGSD[:, :, :free])


def _counts_before_check(self, layer, k_BGSD, v_BGSD):
    start = self.used[layer]
    self.used[layer] += k_BGSD.shape[2]
    if self.used[layer] > self.capacity:
        raise ValueError("the cache is full")
    self.k[layer, :, :, start : self.used[layer]] = k_BGSD
    self.v[layer, :, :, start : self.used[layer]] = v_BGSD


def _grows(self, layer, k_BGSD, v_BGSD):
    stop = self.used[layer] + k_BGSD.shape[2]
    if stop > self.capacity:
        n_layers, batch, n_kv_heads, _, head_dim = self.k.shape
        self.capacity, small = 2 * stop, self.k
        shape = n_layers, batch, n_kv_heads, self.capacity, head_dim
        self.k, self.v = torch.zeros(2, *shape, dtype=torch.float64)
        # the rows are moved as one flat block: right in layer 0, shifted in all others
        self.k.view(-1)[: small.numel()] = small.reshape(-1)
    KVCache.append(self, layer, k_BGSD, v_BGSD)


def _writes_then_raises(self, layer, k_BGSD, v_BGSD):
    start = self.used[layer]
    free = self.capacity - start
    self.k[layer, :, :, start : start + k_BGSD.shape[2]] = k_BGSD[:, :, :free]
    self.v[layer, :, :, start : start + k_BGSD.shape[2]] = v_BGSD[:, :, :free]
    if k_BGSD.shape[2] > free:
        raise ValueError("the cache is full")
    self.used[layer] += k_BGSD.shape[2]


def _one_memory(self, *shape):
    KVCache.__init__(self, *shape)
    self.v = self.k


def _token_by_token(self, layer, k_BGSD, v_BGSD):
    for k_BG1D, v_BG1D in zip(k_BGSD.split(1, dim=2), v_BGSD.split(1, dim=2), strict=True):
        KVCache.append(self, layer, k_BG1D, v_BG1D)


Q.mistakes(
    _Cache,
    {
        "append makes a new tensor each time (torch.cat does), so the whole cache is copied for "
        "every token. Write into memory that you took once.": _Concatenates,
        "all layers share one store, so every layer reads what the last layer wrote. Each layer "
        "has keys and values of its own.": {"memory": lambda self, x: x[:1].expand(x.shape)},
        "the first token is never stored: writing starts one slot too late, or reading does.": {
            "shown": lambda self, x_BGTD: x_BGTD[:, :, 1:]
        },
        "there is one counter for all layers, so it moves on once per layer and not once per "
        "token.": {"append": _one_counter},
        "tokens that do not fit are cut off without a word. They raise ValueError, and nothing "
        "changes.": {"append": _cuts_off},
        "what belongs to one cache is kept on the class, so two of them share it. Set it on self in "
        "__init__.": {"__setattr__": lambda self, name, value: setattr(type(self), name, value)},
        "there is one counter for all layers, so the cache is full too early: it moves on once per "
        "layer and not once per token.": {"append": partialmethod(_one_counter, refuses=True)},
        "the error is a RuntimeError: your own, or torch's when what comes is longer than what is "
        "free. Compare first, and raise ValueError.": {"append": _refuses(gt, RuntimeError)},
        "read returns copies. A view costs nothing; a copy of the whole cache at every step costs "
        "as much as reading it.": {"shown": lambda self, x_BGTD: x_BGTD.clone()},
        "reset makes new tensors. It only has to set the counters to 0: what they do not count is "
        "free.": {"reset": lambda self: self.__init__(*self.k.shape)},
        "the last slot can never be filled: stop is one behind the last slot, so only stop > "
        "capacity is too many.": {"append": _refuses(ge)},
        "the counter moves before the check, so a refused append leaves it too far on. Check "
        "first.": {"append": _counts_before_check},
        "torch makes float32 unless it is told otherwise: half of the digits are lost. Ask for "
        "dtype=torch.float64.": {"memory": lambda self, x: x.float()},
        "keys are stored as values.": {
            "append": lambda self, layer, k, v: KVCache.append(self, layer, k, k)
        },
        "the cache grows when it is full, and growth moves the upper layers' rows. It should "
        "refuse instead.": {"append": _grows},
        "too many tokens are written as far as they fit before the error comes. Check first, then "
        "write.": {"append": _token_by_token},
        "too many tokens are written as far as there is room, though the counter stays. Check first, then write: a "
        "refused append changes no number.": {"append": _writes_then_raises},
        "a layer without tokens has keys and values as well, of no slot: the slices [..., :0, :], not None.": {
            "read": lambda self, layer: (
                KVCache.read(self, layer) if self.used[layer] else (None, None)
            )
        },
        "keys and values lie in one and the same tensor (self.k = self.v = ...). Each needs memory of its "
        "own.": {"__init__": _one_memory},
        "reset sets the counter of layer 0 alone.": {
            "reset": lambda self: self.used.__setitem__(0, 0)
        },
        "reset clears all the memory. It has to set the counters to 0 and nothing else: an earlier view still shows "
        "the old numbers.": {
            "reset": lambda self: (KVCache.reset(self), self.k.zero_(), self.v.zero_())
        },
        "reset clears the numbers but not the counters, so old slots still count as used.": {
            "reset": lambda self: (self.k.zero_(), self.v.zero_())
        },
    },
)
