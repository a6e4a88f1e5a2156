"""What every policy is, and several of them one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from torch import nn

from kvlab.cache import Cache
from kvlab.pack.body import Body
from kvlab.prune.parts import check_once, check_policy, parts_of
from kvlab.prune.pruner import Pruner


class Policy:
    """What `prune=` takes: `Evict`, `Sparsify`, or `Then` of these."""

    same_in_all_heads = True

    def watch(
        self, model: nn.Module, cache: Cache, ends_B: tuple[int, ...], *, once: bool = False
    ) -> Pruner:
        """A pruner for a prompt after which each row of `cache` has seen so many tokens.

        With `once` another cache takes over what is left, and nothing can be pruned after that.
        Raises: ValueError for all that cannot work, since nothing has been read yet.
        """
        if once:
            check_once(self)
        pruner = Pruner(model, cache, self)
        pruner.check(ends_B)
        return pruner

    def evicts(self, seen_B: tuple[int, ...]) -> bool:
        """Whether whole tokens go, of rows of these lengths."""
        return False


@dataclass(frozen=True)
class Then(Policy):
    """Several policies, applied one after the other; each sees what those before it left."""

    parts: tuple[Policy, ...]

    def __init__(self, *parts: Policy) -> None:
        for part in parts:
            check_policy(part)
        object.__setattr__(self, "parts", tuple(p for part in parts for p in parts_of(part)))

    @property
    def bodies(self) -> tuple[tuple[Body, ...], tuple[Body, ...]]:
        """By which rules which tokens are held, of keys and of values."""
        k, v = zip(*(part.bodies for part in self.parts), strict=True) if self.parts else ((), ())
        return tuple(chain(*k)), tuple(chain(*v))
