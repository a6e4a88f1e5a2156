"""Thinning a cache: collecting what a policy's scores need, and applying the policy.

B rows, H query heads, G key/value heads, R = H / G, W observed queries, T slots, D head width.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn

from kvlab import checks, ops
from kvlab.cache import KVCache
from kvlab.measure.taps import listen, refuse_compiled
from kvlab.protocol import Policy
from kvlab.prune.density import seen_in
from kvlab.prune.evidence import Evidence, Needs, Score
from kvlab.prune.masks import Masks, check_numbers
from kvlab.prune.parts import Part, check_parts, check_policy, parts_of

# Numbers of one block of attention weights, when those of a whole prompt are summed.
BLOCK = 1 << 24


class Pruner:
    """Applies a policy to one cache, and collects what the policy's scores need.

    ```
    pruner = Pruner(model, cache, policy)
    with pruner:                        # the queries that pass meanwhile are collected
        prefill(model, tokens_BS, cache)
    pruner.prune()                      # again after each decoded token, if policy.every
    ```
    `generate(..., prune=policy)` does just this. Where no score needs queries the `with` block does
    nothing. Text may be read in several forwards.
    Raises: ValueError, before anything is read, for a cache of another model, and on entering the
    block when a score needs the mass of all queries but the cache was filled unwatched.
    """

    def __init__(self, model: nn.Module, cache: KVCache, policy: Policy) -> None:
        checks.has("model", model, "attentions", "a Transformer")
        check_policy(policy)
        if not hasattr(cache, "keep"):
            raise ValueError(
                f"A {type(cache).__name__} came with {policy}, and nothing can be taken out of it. "
                "If it is packed, give it to prefill or generate with prune=, which prune first, "
                "or prune a KVCache and pack what is left: PackedKVCache.of(cache, ...)."
            )
        self.policy, self.cache, self._model = policy, cache, model
        self._parts = parts_of(policy)
        n_layers = len(model.attentions)
        if cache.n_layers != n_layers:
            raise ValueError(f"A cache of {cache.n_layers} layers came with a model of {n_layers}.")
        wanted = [part.needs for part in self._parts]
        self._n_queries = max(need.queries for need in wanted)
        masses = {need.mass for need in wanted if need.mass is not None}
        self._rope = _turns(model) if any(need.rope for need in wanted) else None
        self.watches = bool(self._n_queries or masses)
        if self.watches:
            refuse_compiled(model, "A policy that looks at queries came with")
        self._q: list[tuple[Tensor, Tensor] | None] = [None] * cache.n_layers
        self._new: list[Tensor | None] = [None] * cache.n_layers
        self._mass: dict[Score, list[Tensor | None]] = {m: [None] * cache.n_layers for m in masses}
        self._listening: ExitStack | None = None
        self.step = 0

    @property
    def watches_decoding(self) -> bool:
        """Whether decoded tokens must be watched too."""
        return any(p.every and (p.needs.queries or p.needs.mass) for p in self._parts)

    @property
    def again(self) -> bool:
        """Whether anything is applied after the prompt's end."""
        return any(p.every for p in self._parts)

    def check(self, seen_B: tuple[int, ...]) -> None:
        """Refuse budgets too small for rows of these lengths, and an order that cannot work.

        Also a cache that was filled unwatched, as `check_watched` does.
        """
        check_parts(self._parts, seen_B)
        self.check_watched()

    def check_watched(self) -> None:
        """Refuse a cache filled unwatched where a score needs the mass of all queries."""
        for kept_L in self._mass.values():
            for mass_BGT, used in zip(kept_L, self.cache.used_L, strict=True):
                if used != (0 if mass_BGT is None else mass_BGT.shape[-1]):
                    raise ValueError(
                        f"A score needs the attention mass of all queries, but {used} slots of the "
                        "cache were filled or thinned while nobody watched. Start with an empty "
                        "cache, and let one pruner watch it all."
                    )

    def fork(self, policy: Policy) -> Pruner:
        """Another policy on a fork of the cache, with what this pruner collected.

        So one reading of a prompt serves any number of policies.
        Raises: ValueError when the policy looks at more than this one's does.
        """
        twin = Pruner(self._model, self.cache.fork(), policy)
        lacking = [mass.__name__ for mass in twin._mass if mass not in self._mass]
        if twin._n_queries > self._n_queries or lacking:
            asked = [f"{twin._n_queries} queries", *(f"the mass {name}" for name in lacking)]
            raise ValueError(
                f"{policy} looks at {' and '.join(asked)}, and this pruner collected "
                f"{self._n_queries} queries and {len(self._mass)} masses; give it a policy that "
                "needs as much, as Then(...) of all of them does."
            )
        twin._q, twin.step = list(self._q), self.step
        twin._mass = {mass: list(self._mass[mass]) for mass in twin._mass}
        return twin

    def __enter__(self) -> Pruner:
        if self._listening and self.watches:
            raise ValueError("This pruner watches already.")
        self._listening = self.listen()
        return self

    def __exit__(self, *_) -> None:
        if self._listening:
            self._listening.close()
        self._listening = None

    def listen(self) -> ExitStack:
        """What the `with` block does, until the result is closed: collect what scores need."""
        self.check_watched()
        if not self.watches:
            return ExitStack()
        return listen(self._model, tap_q=self._asked, after=self._attended)

    def _asked(self, i: int, q_BHSD: Tensor) -> None:
        self._new[i] = q_BHSD.detach()

    def _attended(self, i: int, _out_BSC: Tensor) -> None:
        q_BHSD, self._new[i] = self._new[i], None
        with torch.no_grad():
            self._collect(i, q_BHSD)

    def _collect(self, i: int, q_BHSD: Tensor) -> None:
        """Sum up the mass of new queries, and keep the latest."""
        cache, n_new = self.cache, q_BHSD.shape[2]
        used = cache.used_L[i]
        pos_BS = cache.pos_LBGT[i, :, 0, used - n_new : used].clone()
        for mass, kept_L in self._mass.items():
            kept_L[i] = self._summed(i, mass, kept_L[i], q_BHSD, pos_BS)
        if self._n_queries:
            if self._q[i] is not None:
                q_BHSD = torch.cat((self._q[i][0], q_BHSD), 2)
                pos_BS = torch.cat((self._q[i][1], pos_BS), 1)
            self._q[i] = _latest(q_BHSD, pos_BS, self._n_queries)

    def _summed(
        self, i: int, mass: Score, sum_BGT: Tensor | None, q_BHSD: Tensor, pos_BS: Tensor
    ) -> Tensor:
        e = self._evidence(i, None)
        block = max(1, BLOCK // (q_BHSD.shape[0] * q_BHSD.shape[1] * e.pos_BGT.shape[-1]))
        wide = torch.promote_types(q_BHSD.dtype, torch.float32)
        total_BGT = torch.zeros(e.pos_BGT.shape, dtype=wide, device=q_BHSD.device)
        if sum_BGT is not None:
            total_BGT[..., : sum_BGT.shape[-1]] = sum_BGT
        for q_BHWD, pos_BW in zip(q_BHSD.split(block, 2), pos_BS.split(block, 1), strict=True):
            total_BGT += mass(replace(e, q_BHWD=q_BHWD, q_pos_BW=pos_BW)).sum((2, 3))
        return total_BGT

    def _evidence(
        self, i: int, seen_B: tuple[int, ...] | None, need: Needs | None = None
    ) -> Evidence:
        cache, used = self.cache, self.cache.used_L[i]
        e = Evidence(
            layer=i,
            n_layers=cache.n_layers,
            k_BGTD=cache.k_LBGTD[i, :, :, :used],
            v_BGTD=cache.v_LBGTD[i, :, :, :used],
            pos_BGT=cache.pos_LBGT[i, :, :, :used],
            seen_B=seen_B,
            step=self.step,
        )
        if need is None:
            return e
        found: dict = {"turns": self._rope} if need.rope else {}
        if need.queries:
            q_BHWD, pos_BW = self._q[i]
            found |= {
                "q_BHWD": q_BHWD[:, :, -need.queries :], "q_pos_BW": pos_BW[:, -need.queries :],
            }  # fmt: skip
        if need.mass is not None:
            found["mass_BGT"] = self._mass[need.mass][i]
        if need.output:
            found["o_CI"] = _weight(self._model.attentions[i].o_proj)
        return replace(e, **found)

    @torch.no_grad()
    def prune(self) -> None:
        """Apply what is due now: all after the prompt, then every part at its own steps.

        Masks of all layers are made before the first is applied. Asks the device for the rows'
        lengths where they are padded, and whether scores were numbers.
        Raises: ValueError when a score needs what was not collected, is no number or of another
        shape, or a budget is too small; that policy has then changed nothing.
        """
        due = [p for p in self._parts if self.step == 0 or (p.every and self.step % p.every == 0)]
        seen_B = seen_in(self.cache) if due else ()
        check_parts(due, seen_B)
        for part in due:
            self._check_collected(part)
        for part in due:
            need = part.needs
            masks_L = [
                part.masks(self._evidence(i, seen_B, need)) for i in range(self.cache.n_layers)
            ]
            check_numbers(part, masks_L)
            for i, masks in enumerate(masks_L):
                self._apply(i, masks)
        self.step += 1

    def _check_collected(self, part: Part) -> None:
        need = part.needs
        missing = []
        if need.queries and any(q is None for q in self._q):
            missing.append(f"the latest {need.queries} queries")
        if need.mass is not None:
            for mass_BGT, used in zip(self._mass[need.mass], self.cache.used_L, strict=True):
                if mass_BGT is None or mass_BGT.shape[-1] != used:
                    missing.append("the attention mass of all queries")
                    break
        if missing:
            raise ValueError(
                f"{part} needs {' and '.join(missing)}, which nobody collected. Let a Pruner watch "
                "(`with pruner: prefill(...)`), or use prefill(..., prune=) or generate(..., "
                "prune=)."
            )

    def _apply(self, i: int, masks: Masks) -> None:
        cache = self.cache
        used = cache.used_L[i]
        for store_LBGTD, keep_BGTD in (
            (cache.k_LBGTD, masks.k_BGTD),
            (cache.v_LBGTD, masks.v_BGTD),
        ):
            if keep_BGTD is not None:
                store_LBGTD[i, :, :, :used].masked_fill_(~keep_BGTD, 0)
        if masks.tokens_BGT is None:
            return
        keep_BGT = masks.tokens_BGT & (cache.pos_LBGT[i, :, :, :used] >= 0)
        cache.keep(i, keep_BGT)
        for kept_L in self._mass.values():
            if kept_L[i] is None or kept_L[i].shape[-1] != used:
                kept_L[i] = None  # nobody watched the latest tokens, so it is out of date
                continue
            order_BGT = (~keep_BGT).byte().argsort(dim=-1, stable=True)[..., : cache.used_L[i]]
            stays_BGT = cache.pos_LBGT[i, :, :, : cache.used_L[i]] >= 0
            kept_L[i] = kept_L[i].gather(-1, order_BGT).where(stays_BGT, 0)


def apply(model: nn.Module, cache: KVCache, policy: Policy) -> None:
    """Apply a policy once, to a cache as it is: for scores that look at the cache alone.

    Raises: ValueError when a score needs queries: those are gone. Use `prefill(..., prune=policy)`
    or a `Pruner`.
    """
    Pruner(model, cache, policy).prune()


prune = apply  # its name before the package was called so


def _latest(q_BHSD: Tensor, pos_BS: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Each row's latest n queries that are not padding; fewer have position -1 before them."""
    order_BW = (pos_BS >= 0).byte().argsort(dim=-1, stable=True)[:, -n:]
    from_BHWD = order_BW[:, None, :, None].expand(-1, q_BHSD.shape[1], -1, q_BHSD.shape[3])
    return q_BHSD.gather(2, from_BHWD), pos_BS.gather(1, order_BW)


def _turns(model: nn.Module) -> Tensor:
    config = model.config
    return ops.rope_turns(
        config.head_dim, config.rope_theta, config.rope_scaling, device=model.device
    )


def _weight(linear: nn.Module) -> Tensor:
    """A linear layer's weight as floats; int8 ones have a scale per output."""
    scale = getattr(linear, "scale", None)
    return linear.weight if scale is None else linear.weight * scale[:, None]
