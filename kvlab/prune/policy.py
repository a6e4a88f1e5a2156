"""Policies one after the other, and what holds for every policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from kvlab.pack.body import Body
from kvlab.prune.elements import Sparsify
from kvlab.prune.masks import unwrapped
from kvlab.prune.tokens import Evict, all_heads


@dataclass(frozen=True)
class Then:
    """Several policies, applied one after the other; each sees what those before it left."""

    parts: tuple[Evict | Sparsify | Then, ...]

    def __init__(self, *parts: Evict | Sparsify | Then) -> None:
        for part in parts:
            check_policy(part)
        object.__setattr__(self, "parts", tuple(p for part in parts for p in parts_of(part)))

    @property
    def bodies(self) -> tuple[tuple[Body, ...], tuple[Body, ...]]:
        """By which rules which tokens are held, of keys and of values."""
        k, v = zip(*(part.bodies for part in self.parts), strict=True) if self.parts else ((), ())
        return tuple(chain(*k)), tuple(chain(*v))


Policy = Evict | Sparsify | Then


def parts_of(policy: Policy | None) -> tuple[Evict | Sparsify, ...]:
    """The single policies of a policy, in the order in which they are applied."""
    if policy is None:
        return ()
    return getattr(policy, "parts", (policy,))


def check_once(policy: Policy | None) -> None:
    """Refuse a policy that goes on thinning where what it left is to be packed."""
    if any(part.every for part in parts_of(policy)):
        raise ValueError(
            f"{policy} goes on thinning while text is generated, but packed rows stay as they are. "
            "Use every=0, or a cache that is not packed."
        )


def check_policy(policy: object) -> None:
    if not isinstance(policy, Evict | Sparsify | Then):
        raise ValueError(
            f"{policy!r} came as a policy; expected Evict(score, budget), Sparsify(k=..., v=...) "
            "or Then(...) of these."
        )


def check_parts(parts: Sequence[Evict | Sparsify], seen_B: tuple[int, ...]) -> None:
    """Refuse budgets too small for these lengths, and one choice for heads that differ by then."""
    for part in parts:
        part.check(seen_B)
    active = [p for p in parts if isinstance(p, Evict) and any(p.tokens(n) < n for n in seen_B)]
    apart = [p for p in active if not _same_in_all_heads(p)]
    for i, part in enumerate(active):
        before = [p for p in apart if part.every or p in active[:i]]
        if before and _same_in_all_heads(part):
            raise ValueError(
                f"{part} chooses the same tokens for all heads, but {before[0]} leaves each head "
                "its own. Apply it first, and once (every=0), or use select=per_head."
            )


def _same_in_all_heads(policy: Evict) -> bool:
    return unwrapped(policy.select)[0] is all_heads
