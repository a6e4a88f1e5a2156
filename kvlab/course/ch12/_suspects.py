"""Caches of the pocket model that are said to be small: some are, others only look it.

T tokens that were read before the step.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

import kvlab
from kvlab.cache import KVCache
from kvlab.course.author import Lent, per_thread, pocket_model
from kvlab.pack import CodesPerToken, PackedKVCache

RECENT = 8


def dense_bytes(n_tokens: int) -> int:
    """What a dense cache of the pocket model takes for so many tokens."""
    model, _ = pocket_model()
    return n_tokens * model.config.kv_bytes_per_token(model.dtype.itemsize)


@per_thread
def _read() -> dict[tuple[int, int], KVCache]:
    """Caches by length and seed, each with room for one more token."""
    return {}


def read(n_tokens: int, seed: int) -> KVCache:
    """A dense cache that has read all but the last of so many random tokens."""
    known = _read()
    if (n_tokens, seed) not in known:
        known.clear()
        model, _ = pocket_model()
        rng = random.Random(seed)
        ids = rng.choices(range(model.config.vocab_size), k=n_tokens - 1)
        known[n_tokens, seed] = cache = model.new_cache(1, n_tokens)
        kvlab.prefill(model, torch.tensor([ids]), cache)
    return known[n_tokens, seed]


class Suspect(Lent):
    """A cache that has read a text, and may be asked for its memory, its counters and a step.

    `kind` is one of KINDS, `n_tokens` the length of the text with the token that the step adds.
    """

    lends = ("memory", "counted", "step")

    def __init__(self, kind: str, n_tokens: int, seed: int) -> None:
        whole = read(n_tokens, seed)
        cache = whole.fork()
        cache.bytes_read = whole.bytes_read  # what was read while the text was
        self._beside: list[Tensor] = []
        self._unpacked = 0  # while the text was read
        self._cache, self._times = KINDS[kind](self, cache), 3 if "three times" in kind else 1
        self.steps = 0

    def memory(self) -> list[list[int]]:
        """For each tensor: the number of its piece of memory, the piece's bytes, its own bytes."""
        pieces: dict[int, int] = {}
        listed = []
        for x in (*_tensors(self._cache), *self._beside):
            storage = x.untyped_storage()
            number = pieces.setdefault(storage.data_ptr(), len(pieces))
            listed.append([number, storage.nbytes(), x.numel() * x.itemsize])
        return listed

    def counted(self) -> dict[str, int]:
        """Bytes read, and dense bytes written when rows were unpacked, since the cache was made."""
        unpacked = self._unpacked + getattr(self._cache, "bytes_unpacked", 0)
        return {"read": self._times * self._cache.bytes_read, "unpacked": unpacked}

    def step(self) -> None:
        """Let the model read the next token."""
        if self.steps:
            raise ValueError("step() came a second time; one step is all there is room for.")
        self.steps += 1
        kvlab.decode(pocket_model()[0], torch.tensor([1]), self._cache)


def _tensors(cache: KVCache | PackedKVCache) -> list[Tensor]:
    """What holds keys, values and marks; and what they are unpacked to, once that was needed."""
    if isinstance(cache, KVCache):
        return [cache.k_LBGTD, cache.v_LBGTD]
    scratch = [] if cache._scratch is None else [cache._scratch]
    return [x for side in cache.sides for x in (side.dense, *side.body)] + scratch


def _kept(cache: KVCache, n: int) -> KVCache:
    """The latest n tokens of each head, at the front; memory as before."""
    for layer in range(cache.n_layers):
        cache.keep(layer, cache.pos_LBGT[layer, :, :, : cache.used_L[layer]] >= cache.seen - n)
    return cache


def _shrunk(cache: KVCache, n: int, spare: int = 0) -> KVCache:
    _kept(cache, n).shrink(n + 1 + spare)
    return cache


def _half(cache: KVCache) -> int:
    return cache.seen // 2


def _zeroed(suspect: Suspect, cache: KVCache) -> KVCache:
    cache.k_LBGTD[:, :, :, : _half(cache)] = 0
    cache.v_LBGTD[:, :, :, : _half(cache)] = 0
    return cache


def _in_a_view(suspect: Suspect, cache: KVCache) -> KVCache:
    """Few slots of the memory that was there before."""
    large = cache.k_LBGTD, cache.v_LBGTD
    few = _half(cache) + 1
    _shrunk(cache, few - 1)
    for store, name in zip(large, ("k_LBGTD", "v_LBGTD"), strict=True):
        view = store[:, :, :, :few]
        view.copy_(getattr(cache, name))
        setattr(cache, name, view)
    return cache


def _in_one_piece(suspect: Suspect, cache: KVCache) -> KVCache:
    """Keys and values as two halves of one piece of memory."""
    _shrunk(cache, 3 * cache.seen // 5)
    both = torch.stack((cache.k_LBGTD, cache.v_LBGTD))
    cache.k_LBGTD, cache.v_LBGTD = both
    return cache


def _copy_beside(suspect: Suspect, cache: KVCache) -> KVCache:
    suspect._beside = [cache.k_LBGTD.clone(), cache.v_LBGTD.clone()]
    return _shrunk(cache, _half(cache))


def _unpacked_before(suspect: Suspect, cache: KVCache) -> KVCache:
    """Rows were unpacked as the text came in, and no more since tokens were evicted."""
    suspect._unpacked = dense_bytes(cache.seen)
    return _shrunk(cache, _half(cache))


def _rounded(suspect: Suspect, cache: KVCache) -> PackedKVCache:
    rule = CodesPerToken(4)
    return PackedKVCache.of(cache, k=rule, v=rule, recent=RECENT, at_once=1)


def _rounded_with_copy(suspect: Suspect, cache: KVCache) -> PackedKVCache:
    suspect._beside = [cache.k_LBGTD, cache.v_LBGTD]
    return _rounded(suspect, cache)


KINDS: dict[str, Callable[[Suspect, KVCache], KVCache | PackedKVCache]] = {
    "evicts half, and shrinks": lambda _, cache: _shrunk(cache, _half(cache)),
    "evicts half, and has two slots to spare": lambda _, cache: _shrunk(cache, _half(cache), 2),
    "evicts half, and keeps the memory": lambda _, cache: _kept(cache, _half(cache)),
    "evicts half, into a view of the old memory": _in_a_view,
    "evicts, and holds keys and values in one piece": _in_one_piece,
    "evicts half, and keeps a dense copy": _copy_beside,
    "puts zeros into half of the tokens": _zeroed,
    "changes nothing": lambda _, cache: cache,
    "rounds to 4 bits, and unpacks": _rounded,
    "rounds to 4 bits, unpacks, and keeps the dense cache": _rounded_with_copy,
    "unpacks while it reads the text, then evicts half": _unpacked_before,
    "evicts half, and reads the rest three times": lambda _, cache: _shrunk(cache, _half(cache)),
    "evicts two thirds, and reads the rest three times": lambda _, cache: _shrunk(
        cache, (cache.seen + 1) // 3 - 1
    ),
}
