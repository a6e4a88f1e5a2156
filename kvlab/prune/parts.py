"""What a policy consists of, as a Pruner sees it: single policies, and what must hold for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kvlab import checks
from kvlab.prune.evidence import Evidence, Needs
from kvlab.prune.masks import Masks


class Part(Protocol):
    """A single policy: `Evict` or `Sparsify`."""

    needs: Needs
    every: int
    same_in_all_heads: bool

    def check(self, seen_B: tuple[int, ...]) -> None: ...

    def evicts(self, seen_B: tuple[int, ...]) -> bool: ...

    def masks(self, e: Evidence) -> Masks: ...


def parts_of(policy: object) -> tuple[Part, ...]:
    """The single policies of a policy, in the order in which they are applied."""
    if policy is None:
        return ()
    return getattr(policy, "parts", (policy,))


def check_once(policy: object) -> None:
    """Refuse a policy that goes on pruning where what it left is to be packed."""
    if policy is not None:
        check_policy(policy)
    if any(part.every for part in parts_of(policy)):
        raise ValueError(
            f"{policy} goes on pruning while text is generated, but packed rows stay as they are. "
            "Use every=0, or a cache that is not packed."
        )


def check_policy(policy: object) -> None:
    if not callable(getattr(policy, "watch", None)):
        raise ValueError(
            f"{checks.shown(policy)} came as a policy; expected Evict(score, budget), "
            "Sparsify(k=..., v=...) or Then(...) of these."
        )


def check_parts(parts: Sequence[Part], seen_B: tuple[int, ...]) -> None:
    """Refuse budgets too small for these lengths, and one choice for heads that differ by then."""
    for part in parts:
        part.check(seen_B)
    active = [part for part in parts if part.evicts(seen_B)]
    apart = [part for part in active if not part.same_in_all_heads]
    for i, part in enumerate(active):
        before = [p for p in apart if part.every or p in active[:i]]
        if before and part.same_in_all_heads:
            raise ValueError(
                f"{part} chooses the same tokens for all heads, but {before[0]} leaves each head "
                "its own. Apply it first, and once (every=0), or use select=per_head."
            )
