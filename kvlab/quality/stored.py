"""A policy, and rules that hold what it left: what a packed cache does, seen in a dense one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import lcm

from kvlab.cache import KVCache
from kvlab.pack import Body, Dense, Rule
from kvlab.prune import Policy, parts_of, seen_in


@dataclass(frozen=True)
class Stored:
    """A policy, and then what is left as a PackedKVCache would hold it.

    All but the first `sink` and at least the latest `recent` tokens of each head are held by the
    rules, in whole groups. Numbers go through the rule and back; bytes are those of the rules. A
    side without a rule stays as the policy left it.
    """

    k: Rule | None = None
    v: Rule | None = None
    policy: Policy | None = None
    sink: int = 4
    recent: int = 32

    @property
    def parts(self) -> tuple[Policy, ...]:
        """The single policies, in the order in which they are applied."""
        return parts_of(self.policy)

    @property
    def unit(self) -> int:
        """Tokens that are packed together."""
        return lcm(*(rule.unit for rule in (self.k, self.v) if rule is not None))

    def n_packed(self, used: int) -> int:
        """Of so many tokens of a head, how many the rules hold."""
        return max(0, used - self.sink - self.recent) // self.unit * self.unit

    @property
    def bodies(self) -> tuple[tuple[Body, ...], tuple[Body, ...]]:
        """By which rule which tokens are held, of keys and of values."""
        left = ((), ()) if self.policy is None else self.policy.bodies
        own = zip(self._own, left, strict=True)
        return tuple(was if body is None else (body,) for body, was in own)

    def hold(self, cache: KVCache) -> None:
        """Put what the rules hold through them and back, in place."""
        seen_B = seen_in(cache)
        for layer, used in enumerate(cache.used_L):
            pos_BGT = cache.pos_LBGT[layer, :, :, :used]
            for body, store in zip(self._own, (cache.k_LBGTD, cache.v_LBGTD), strict=True):
                if body is not None and used:
                    x_BGTD = store[layer, :, :, :used]
                    x_BGTD.copy_(body.hold(x_BGTD, body.tokens_BGT(pos_BGT, seen_B)))

    @property
    def _own(self) -> tuple[Body | None, Body | None]:
        return tuple(
            None if rule is None else Body(rule, self.sink, self.recent, self.unit, by_slot=True)
            for rule in (self.k, self.v)
        )

    def __getattr__(self, name: str) -> object:
        if name not in _FORMER:
            raise AttributeError(f"A Stored has no attribute {name!r}.")
        now = _FORMER[name]
        warnings.warn(f"{name} is now {now}; the old name will go.", FutureWarning, stacklevel=2)
        return getattr(self, now)


_FORMER = {"k_rule": "k", "v_rule": "v", "packed": "n_packed"}


def Packed(
    k_rule: Rule, v_rule: Rule, policy: Policy | None = None, sink: int = 4, recent: int = 32
) -> Stored:
    """`Stored`, as it was called; Dense() was a side that stays as the policy left it."""
    warnings.warn(
        "Packed(k_rule, v_rule, ...) is now Stored(k, v, ...), where None leaves a side as it is; "
        "the old name will go with the next release.",
        FutureWarning,
        stacklevel=2,
    )
    k, v = (None if rule == Dense() else rule for rule in (k_rule, v_rule))
    return Stored(k, v, policy, sink, recent)
