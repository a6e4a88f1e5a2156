"""What the model and `generate` ask of others: a cache, a layer of it, a rule, a policy.

L layers, B rows of the batch, G key/value heads, T slots, S new tokens, D head width.

A class of your own that answers these runs the model as ours do.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from kvlab.old import Former


class Reader(Protocol):
    """How a layer that stores keys and values in its own way is read without unpacking them."""

    name: str  # the attention backend, of those in `attention.BACKENDS`
    why: str  # what it does better
    unread: str  # what had to be done where it cannot answer

    def missing(self, q_BHSD: Tensor) -> str | None:
        """Why these queries cannot be answered so, or None if they can."""
        ...

    def attend(self, q_BHSD: Tensor, q_pos_BS: Tensor | None) -> Tensor:
        """Attention over all slots. Shapes: out_BHSD."""
        ...


@dataclass(frozen=True)
class LayerKV:
    """One layer's used slots, as views into the cache.

    `in_order` says that slot i holds position i in every row and head; `whole`, which follows from
    it, that no used slot is padding or empty. The host knows both without asking the device, and
    attention needs no mask for a single new token of a whole layer. `reader` reads what is stored
    where it lies, if the cache has a way to.
    """

    k_BGTD: Tensor
    v_BGTD: Tensor
    pos_BGT: Tensor
    in_order: bool
    whole: bool = False
    reader: Reader | None = None

    packed = Former("reader")


class Cache(Protocol):
    """What the model and `generate` ask of a cache. A class of your own derives from this.

    It must have `seen`, `append` and `read`, and may leave the rest as it stands here: that is a
    cache for one prompt, or several of one length, which never is full and forgets nothing.
    tests/test_protocol.py has one of fifteen lines. What else a `KVCache` has is asked for where
    it is needed: `keep` and the stores by policies, `advance` and the stores by compiled steps, the
    counters of bytes by a `Probe`.
    """

    seen: int  # tokens that every layer was given, padding too; the next position, if they count
    n_layers: int | None = None  # None goes with any model,
    batch: int | None = None  # and with any number of rows
    counts_positions: bool = True  # whether the next token's position is simply `seen`

    def append(
        self, layer: int, k_BGSD: Tensor, v_BGSD: Tensor, pos_BS: Tensor | None = None
    ) -> None:
        """Add S new tokens to one layer; layers come in turn, from 0, in every forward.

        `pos_BS` holds their positions, -1 for padding; None means that they follow on. Keys are
        turned by their positions already.
        Raises: ValueError when they do not fit; the layer must then be as before.
        """
        ...

    def read(self, layer: int) -> LayerKV:
        """All tokens of one layer, the new ones last. `pos_BGT` is each one's position."""
        ...

    def check_capacity(self, n_new: int) -> None:
        """Refuse so many more tokens with a ValueError, where they do not fit into every layer.

        It is asked before a forward, so that no layer is written if a later one would be full, and
        by `generate` for prompt and answer together. Here there is always space.
        """

    def next_pos_B(self) -> Tensor:
        """The position that each row's next token will have; asked once positions were given.

        Shapes: whole numbers (B,).
        """
        raise ValueError(
            f"Positions were to be given to a {type(self).__name__}, as prompts of different "
            "lengths need them, but it only counts. Give each prompt alone, or let the class have "
            "counts_positions and next_pos_B."
        )

    def rewind(self, seen: int) -> None:
        """Forget the latest tokens, so that `seen` are left.

        `generate` asks for it where tokens were fed after the end of all rows, as on a GPU.
        """
        if seen != self.seen:
            raise ValueError(
                f"A {type(self).__name__} of {self.seen} tokens was to forget all but {seen}, and "
                "has no rewind of its own. Write one, or generate with eos=()."
            )

    def draft(self, n_prompt: int) -> Cache:
        """Where a policy prunes a prompt of so many tokens: here, or in a cache beside this one."""
        return self

    def take(self, draft: Cache) -> None:
        """Go on from what was pruned in `draft`. Here that is this cache, and nothing is to do."""


class Storage(Protocol):
    """What `new_cache` takes for keys and for values, as the rules of `kvlab.pack` are."""

    def cache_of(
        self, *sizes: int, k: Storage, v: Storage, dtype: torch.dtype, device: object, **how: object
    ) -> Cache:
        """An empty cache that holds keys by `k` and values by `v`. `sizes` are a KVCache's."""
        ...


class Watcher(AbstractContextManager, Protocol):
    """What a policy's `watch` returns: a block that the prompt is read in, and then `prune`."""

    @property
    def cache(self) -> Cache: ...
    @property
    def again(self) -> bool: ...  # whether something is pruned after decoded tokens too
    @property
    def watches_decoding(self) -> bool: ...  # whether these must be decoded inside the block

    def prune(self) -> None:
        """Apply what is due: after the prompt, then after each decoded token."""
        ...


class Policy(Protocol):
    """What `prune=` takes."""

    def watch(
        self, model: nn.Module, cache: Cache, ends_B: tuple[int, ...], *, once: bool = False
    ) -> Watcher:
        """Get ready for a prompt after which each row has seen so many tokens.

        With `once` another cache takes over what is left, and nothing can be pruned after that.
        Raises: ValueError for all that cannot work, since nothing has been read yet.
        """
        ...
