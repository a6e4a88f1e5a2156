"""6.5: two continuations of one text, and a way back.

L layers, B rows of the batch, G key/value heads, S new tokens, T slots, D head width.
"""

from __future__ import annotations

import copy

import torch

from kvlab.course.author import Exercise, raised_by
from kvlab.course.ch06._caches import cache_with, fill, read_all, rows, sizes

Q = Exercise(
    "6.5",
    "Fork and rewind",
    "ForkingCache",
    points=4,
    minutes=15,
    difficulty=2,
    statement="""
Below stands a cache like that of 6.1, complete but for two methods. `fork` returns a second cache with
the same tokens; whatever is appended to one must never show in the other. `rewind(length)` forgets every
token from `length` on, in all layers, and copies nothing; it raises `ValueError` for a length that the
cache does not hold. It holds every length from 0 to that of its shortest layer.
""",
    hints=(
        "What makes two caches independent: two names, or two pieces of memory? And what has to "
        "change so that a slot counts as free again?",
        "fork needs new tensors with the old contents (clone) and its own list of counters. rewind "
        "needs no tensor at all.",
        "fork: twin = ForkingCache(*self.k.shape); twin.k.copy_(self.k); twin.v.copy_(self.v); "
        "twin.used = list(self.used); return twin. rewind: raise ValueError unless "
        "0 <= length <= min(self.used); then self.used = [length] * len(self.used).",
    ),
    size=lambda case: case["capacity"] * case["n_layers"],
)


@Q.case
def case(rng):
    made = sizes(rng)
    start, end = chunks = [rng.randint(2, 5), rng.randint(1, 4)]
    rewind_to = rng.randint(1, start - 1)
    # room for both continuations in one memory: sharing it must show in what is read
    capacity = start + 2 * end + rng.randint(1, 5)
    return {**made, "chunks": chunks, "rewind_to": rewind_to, "capacity": capacity}


@Q.solution
class ForkingCache:
    """The cache of 6.1, and two ways to go back."""

    def __init__(self, n_layers, batch, n_kv_heads, capacity, head_dim):
        self.shape = (n_layers, batch, n_kv_heads, capacity, head_dim)
        self.k = torch.zeros(self.shape, dtype=torch.float64)
        self.v = torch.zeros(self.shape, dtype=torch.float64)
        self.used = [0] * n_layers

    def append(self, layer, k_BGSD, v_BGSD):
        start, stop = self.used[layer], self.used[layer] + k_BGSD.shape[2]
        if stop > self.shape[3]:
            raise ValueError(f"{stop} tokens do not fit into {self.shape[3]} slots")
        self.k[layer, :, :, start:stop] = k_BGSD
        self.v[layer, :, :, start:stop] = v_BGSD
        self.used[layer] = stop

    def read(self, layer):
        used = self.used[layer]
        return self.k[layer, :, :, :used], self.v[layer, :, :, :used]

    def fork(self):
        """A second cache with the same tokens and memory of its own."""
        ### BEGIN SOLUTION
        twin = ForkingCache(*self.shape)
        twin.k.copy_(self.k)
        twin.v.copy_(self.v)
        twin.used = list(self.used)
        return twin
        ### END SOLUTION

    def rewind(self, length):
        """Forget every token from `length` on."""
        ### BEGIN SOLUTION
        if not 0 <= length <= min(self.used):
            raise ValueError(f"cannot rewind to {length}: {min(self.used)} tokens are held")
        self.used = [length] * len(self.used)
        ### END SOLUTION


@Q.also_right
class DeepCopied:
    """Lists of per-layer tensors, deep-copied for a fork."""

    def __init__(self, n_layers, batch, n_kv_heads, capacity, head_dim):
        shape = (batch, n_kv_heads, capacity, head_dim)
        self.kv = [[torch.zeros(shape, dtype=torch.float64) for _ in "kv"] for _ in range(n_layers)]
        self.n = [0] * n_layers

    def append(self, layer, k_BGSD, v_BGSD):
        stop = self.n[layer] + k_BGSD.shape[2]
        for store, new in zip(self.kv[layer], (k_BGSD, v_BGSD), strict=True):
            store[:, :, self.n[layer] : stop].copy_(new)
        self.n[layer] = stop

    def read(self, layer):
        return [store[:, :, : self.n[layer]] for store in self.kv[layer]]

    def fork(self):
        return copy.deepcopy(self)

    def rewind(self, length):
        if length < 0 or any(length > n for n in self.n):
            raise ValueError(length)
        self.n = [length for _ in self.n]


# --- laws: each drives the answer, and the solution beside it ---


@Q.law("two continuations, no cross-talk")
def _(answer, case):
    ours, theirs = rows(case), rows(case, salt=1)
    cache = cache_with(answer, case, ours[:1])
    twin = cache.make("fork")
    fill(cache, ours[1:])
    fill(twin, theirs[1:])
    return {**read_all(cache, case, "the first: "), **read_all(twin, case, "its fork: ")}


@Q.law("rewind forgets the end, and writing goes on there")
def _(answer, case):
    cache = cache_with(answer, case, rows(case))
    cache.call("rewind", case["rewind_to"])
    before = read_all(cache, case, "after rewind: ")
    fill(cache, rows(case, salt=1)[1:])
    return {**before, **read_all(cache, case, "after writing on: ")}


@Q.law("rewind copies nothing")
def _(answer, case):
    """A view read before still sees the slots."""
    cache = cache_with(answer, case, rows(case)[:1])
    early = cache.hold("read", 0)
    cache.call("rewind", 0)
    fill(cache, rows(case, salt=1)[:1])
    k, v = early.now()
    return {"through a view read before, k_BGTD": k, "through a view read before, v_BGTD": v}


@Q.law("rewind refuses what is not there")
def _(answer, case):
    cache = cache_with(answer, case, rows(case))
    raised = {
        f"raised by rewind({length})": raised_by(cache.call, "rewind", length)
        for length in (sum(case["chunks"]) + 1, -1)
    }
    return {**raised, **read_all(cache, case)}


@Q.law("rewind to the present length")
def _(answer, case):
    """It is held, so going back to it is allowed and changes nothing."""
    cache = cache_with(answer, case, rows(case))
    raised = raised_by(cache.call, "rewind", sum(case["chunks"]))
    return {"raised by rewind to the present length": raised, **read_all(cache, case)}


@Q.law("rewind in the middle of a step")
def _(answer, case):
    """When layer 0 holds more tokens than the others."""
    first, second = rows(case)
    cache = cache_with(answer, case, [first])
    cache.call("append", 0, *second[0])
    too_far = raised_by(cache.call, "rewind", case["chunks"][0] + 1)
    cache.call("rewind", case["chunks"][0])
    seen = read_all(cache, case, "after rewind: ")
    return {"raised by rewind to what only layer 0 holds": too_far, **seen}


@Q.law("a fork in the middle of a step, and a fork of the fork")
def _(answer, case):
    """Each goes its own way, also back."""
    first, second = rows(case)
    cache = cache_with(answer, case, [first])
    cache.call("append", 0, *second[0])
    twin = cache.make("fork")
    third = twin.make("fork")
    for layer in range(1, case["n_layers"]):
        twin.call("append", layer, *second[layer])
    third.call("rewind", 0)
    fill(third, rows(case, salt=1)[:1])
    whose = {"the first": cache, "its fork": twin, "the fork's fork": third}
    seen = {}
    for name, each in whose.items():
        seen |= read_all(each, case, f"{name}: ")
    return seen


@Q.law("rewind where any one layer holds less than the others")
def _(answer, case):
    first, second = rows(case)
    seen = {}
    for behind in range(case["n_layers"]):
        cache = cache_with(answer, case, [first])
        for layer in set(range(case["n_layers"])) - {behind}:
            cache.call("append", layer, *second[layer])
        stop = case["chunks"][0]
        if case["n_layers"] > 1:
            raised = raised_by(cache.call, "rewind", stop + 1)
            seen[f"raised by rewind to what layer {behind} does not hold"] = raised
        cache.call("rewind", stop)
        seen |= read_all(cache, case, f"layer {behind} behind, after rewind: ")
    return seen


@Q.law("a fork, with a larger cache beside it")
def _(answer, case):
    cache = cache_with(answer, case, rows(case))
    cache_with(answer, {**case, "capacity": 2 * case["capacity"]}, [])
    return read_all(cache.make("fork"), case, "the fork: ")


# --- what goes wrong: each changes one thing of this ---


class _Forking(ForkingCache):
    shared = ()  # what a fork has in common with its first

    def counters(self):
        return list(self.used)

    def fork(self):
        twin = super().fork()
        twin.__class__, twin.used = type(self), self.counters()
        for name in self.shared:
            setattr(twin, name, getattr(self, name))
        return twin

    def holds(self, length):
        return 0 <= length <= min(self.used)

    def left(self, length):
        return [length] * len(self.used)

    def rewind(self, length):
        if not self.holds(length):
            raise ValueError(f"cannot rewind to {length}")
        self.used = self.left(length)


def _rewind_and_copy(self, length):
    _Forking.rewind(self, length)
    self.k, self.v = self.k.clone(), self.v.clone()


Q.mistakes(
    _Forking,
    {
        "the fork has the same memory and the same counters: that is what `return self` gives, and "
        "copy.copy too. Make new tensors.": {"fork": lambda self: self},
        "the fork shares its memory with the first: what one writes, the other reads.": {
            "shared": ("k", "v")
        },
        "the fork has keys of its own but shares the values.": {"shared": ("v",)},
        "both share one list of counters, so one moves the other along.": {"shared": ("used",)},
        "all layers of the fork have the count of layer 0. In the middle of a step each has its "
        "own: copy the list.": {"counters": lambda self: self.used[:1] * len(self.used)},
        "only layer 0 is rewound. Each layer counts its own tokens.": {
            "left": lambda self, length: [length, *self.used[1:]]
        },
        "one token too many is kept: rewinding to length n leaves slots 0 to n - 1.": {
            "left": lambda self, length: [min(length + 1, used) for used in self.used]
        },
        "rewind makes new tensors. Nothing needs to move: a slot is free when it is no longer "
        "counted.": {"rewind": _rewind_and_copy},
        "rewind goes to any length, even to slots that were never written.": {
            "holds": lambda self, length: True
        },
        "the length is compared with the capacity. Slots that were never written hold no token: "
        "compare with what is used.": {"holds": lambda self, length: 0 <= length <= self.shape[3]},
        "a negative length is let through.": {
            "holds": lambda self, length: length <= min(self.used)
        },
        "the length that the cache has now is refused. It does hold that many tokens: length <= "
        "used.": {"holds": lambda self, length: 0 <= length < min(self.used)},
        "the longest layer decides. In the middle of a step the others hold less, and have nothing "
        "to rewind to: ask the shortest.": {
            "holds": lambda self, length: 0 <= length <= max(self.used),
            "left": lambda self, length: [min(length, used) for used in self.used],
        },
    },
)
