"""The laws that hold for every policy, in one call, for a reader's own.

    check_policy(my_score)                      # or Evict(...), Sparsify(...), Then(...)

Nothing happens when all hold. Otherwise a sentence names the law, what was seen, and what helps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor

from kvlab import checks
from kvlab.cache import KVCache
from kvlab.checks import finest
from kvlab.generation import generate
from kvlab.measure.random_model import random_model
from kvlab.model import Transformer
from kvlab.old._names import former
from kvlab.prune import (
    Elements,
    Evict,
    Evidence,
    Policy,
    Score,
    Sparsify,
    Then,
    name_of,
    needs,
    needs_of,
    parts_of,
)
from kvlab.prune.missing import Missing
from kvlab.quality.cases import Case, difference, few, stays
from kvlab.quality.methods import Method, as_method


class LawBroken(ValueError):
    """A policy breaks a law that holds for all policies."""


@torch.inference_mode()
def check_policy(policy: Method | Score, *, model: Transformer | None = None) -> None:
    """Hold a policy, or a score by itself, to the laws; silence means that all of them hold.

    It runs on short random texts with a small random model, or with yours. A score is checked as
    the eviction of half of the tokens.
    Raises: LawBroken, a ValueError, for the first law that does not hold; whatever the policy's own
    functions raise.
    """
    policy = as_method(policy, 0.5)
    model = random_model() if model is None else model
    checks.model("model", model)
    for part in parts_of(policy):
        case = Case.of(model, part)
        for law in _LAWS:
            law(case)
    if len(parts_of(policy)) > 1:
        case = Case.of(model, Then(*parts_of(policy)))
        for law in (_alone_is_as_beside_others, _at_once_is_as_in_pieces):
            law(case)


def _scores_are_numbers(case: Case) -> None:
    """A score has a number for every slot, gives it again, and changes nothing."""
    for texts, where in ((case.texts[:1], "a text by itself"), (case.texts, "texts of 3 lengths")):
        watched = replace(case, policy=_with_scores(case.policy, partial(_spied, where=where)))
        watched.pruned(texts)


def _with_scores(policy: Evict | Sparsify, change: Callable[[Score], Score]) -> Policy:
    """The same policy with every score changed."""
    if isinstance(policy, Evict):
        return replace(policy, score=change(policy.score))
    sides = {
        name: replace(side, score=change(side.score))
        for name in ("k", "v")
        if (side := getattr(policy, name)) is not None
    }
    return replace(policy, **sides)


def _spied(score: Score, *, where: str) -> Score:
    """A score that is looked at while it works."""
    name, need = name_of(score), needs_of(score)

    def spy(e: Evidence) -> Tensor:
        tensors = {f.name: getattr(e, f.name) for f in fields(e)}
        tensors = {k: x for k, x in tensors.items() if isinstance(x, Tensor)}
        before = {k: x.clone() for k, x in tensors.items()}
        got = score(e)
        changed = [k for k, x in tensors.items() if not torch.equal(x, before[k])]
        if changed:
            raise LawBroken(
                f"Law 'a score changes nothing': {name} wrote into {', '.join(changed)}, which is "
                "the cache itself. Use operations that make a new tensor (x * 2, not x *= 2)."
            )
        _check_scores(name, got, e, where)
        if not torch.equal(got, again := score(e)):
            n = int((got != again).sum()) if got.shape == again.shape else got.numel()
            raise LawBroken(
                f"Law 'the same evidence gives the same score': asked twice, {name} differs in "
                f"{n} of {got.numel()} scores. Chance must come from a seed and from positions, as "
                "in policies.random."
            )
        return got

    return needs(queries=need.queries, mass=need.mass, rope=need.rope, output=need.output)(spy)


def _check_scores(name: str, got: Tensor, e: Evidence, where: str) -> None:
    if isinstance(got, Missing):
        got.refuse()
    batch, heads, _, width = e.k_BGTD.shape
    shapes = [tuple(e.pos_BGT.shape), tuple(e.k_BGTD.shape), (batch, heads, width)]
    if not isinstance(got, Tensor) or tuple(got.shape) not in shapes:
        came = f"shape {tuple(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        raise LawBroken(
            f"Law 'one score for each token': with {where}, {name} returned {came}; expected "
            f"{shapes[0]} (rows, KV heads, slots) for tokens, {shapes[1]} for elements or "
            f"{shapes[2]} for channels. e.over_group joins query heads, e.over_queries queries."
        )
    bad = got.isnan()
    if not bool(bad.any()):
        return
    if got.dim() == 3 and got.shape == e.pos_BGT.shape and not bool((bad & e.valid_BGT).any()):
        raise LawBroken(
            f"Law 'a score is a number': with {where}, {name} is NaN for padding, and only there. "
            "Padding has position -1: divide by a count that is at least 1 (.clamp(min=1)), or "
            "give it any number with score.where(e.valid_BGT, 0)."
        )
    raise LawBroken(
        f"Law 'a score is a number': with {where}, {name} is NaN in {int(bad.sum())} of "
        f"{got.numel()} places of layer {e.layer}. 0 / 0, inf - inf and the square root or "
        "logarithm of a negative number give NaN."
    )


def _budget_is_kept(case: Case) -> None:
    """An eviction keeps its budget exactly: summed over heads and layers, or less."""
    policy, cache = case.policy, case.pruned(case.texts[:1])
    n, kept = len(case.texts[0]), [len(pos) for _, _, pos, _, _ in stays(cache)]
    if isinstance(policy, Sparsify):
        return _sparsity_is_kept(policy, cache, n)
    wanted = policy.tokens(n) * len(kept)
    if sum(kept) != wanted:
        raise LawBroken(
            f"Law 'the budget is kept': of {n} tokens {policy.tokens(n)} were to stay in each of "
            f"{len(kept)} heads, {wanted} in all, and {sum(kept)} did ({few(kept)} by head). "
            f"Look at {name_of(policy.select)} and {name_of(policy.layers)}."
        )
    return None


def _sparsity_is_kept(policy: Sparsify, cache: KVCache, n: int) -> None:
    for layer, head, pos, *masks in stays(cache):
        body = (pos >= policy.sink) & (n - 1 - pos >= policy.recent)
        for what, side, mask in zip(("keys", "values"), (policy.k, policy.v), masks, strict=True):
            if side is None or type(side.sparsity) not in (int, float):
                continue  # a rule that was given says itself what stays
            left = finest(mask[body]).mean().item()
            # a group of tokens that is not complete may stay dense
            if left > 1 - side.sparsity + 1 / mask.shape[-1] + 32 / len(pos):
                raise LawBroken(
                    f"Law 'the sparsity is kept': {side.sparsity:.0%} of the {what} were to be 0, "
                    f"and {left:.0%} stay in layer {layer}, head {head}, outside sinks and window. "
                    f"Look at {name_of(side.select)}."
                )


def _protected_stay(case: Case) -> None:
    """Sinks and window stay in every head, dense."""
    policy, cache, n = case.policy, case.pruned(case.texts[:1]), len(case.texts[0])
    safe = {*range(policy.sink), *range(n - policy.recent, n)}
    for layer, head, pos, k, v in stays(cache):
        lost = sorted(safe - set(pos.tolist()))
        thin = pos[~(k.all(-1) & v.all(-1))].tolist()
        if lost or (isinstance(policy, Sparsify) and safe & set(thin)):
            lost = lost or sorted(safe & set(thin))
            raise LawBroken(
                f"Law 'the protected stay': in layer {layer}, head {head} tokens {few(lost)} are "
                f"{'gone' if isinstance(policy, Evict) else 'thinned'}, of {policy.sink} sinks and "
                f"{policy.recent} recent ones. A selection gets them as a mask and must keep them "
                "whatever the scores; an infinite score cannot do that."
            )


def _order_is_kept(case: Case) -> None:
    """Tokens stay in the order of the text, each once."""
    for layer, head, pos, _, _ in stays(case.pruned(case.texts[:1])):
        if not bool((pos[1:] > pos[:-1]).all()):
            raise LawBroken(
                f"Law 'the order is kept': layer {layer}, head {head} holds {few(pos.tolist())}."
            )


def _a_full_budget_changes_nothing(case: Case) -> None:
    """With room for all, the cache is bit for bit the dense one."""
    policy = case.policy
    if isinstance(policy, Evict):
        full: Policy = replace(policy, budget=1.0)
    else:
        sides = {name: getattr(policy, name) for name in ("k", "v")}
        full = replace(policy, **{
            name: Elements(side.score, 0) for name, side in sides.items() if side is not None
        })  # fmt: skip
    thin = replace(case, policy=full).pruned(case.texts)
    dense = replace(case, policy=Evict(_nothing, 1.0)).pruned(case.texts)
    same = torch.equal(thin.k_LBGTD, dense.k_LBGTD) and torch.equal(thin.v_LBGTD, dense.v_LBGTD)
    if not same or not torch.equal(thin.pos_LBGT, dense.pos_LBGT):
        raise LawBroken(
            f"Law 'a full budget changes nothing': {full} left another cache than no policy."
        )


def _nothing(e: Evidence) -> Tensor:
    return torch.zeros_like(e.age_BGT)


def _alone_is_as_beside_others(case: Case) -> None:
    """A text is pruned alike by itself and padded beside longer and shorter ones."""
    together = case.pruned(case.texts)
    for row, text in enumerate(case.texts):
        differs = difference(case.pruned([text]), 0, together, row)
        if differs:
            raise LawBroken(
                f"Law 'padding changes nothing': a text of {len(text)} tokens was thinned by "
                f"itself, and then beside texts of {few([len(t) for t in case.texts])}. {differs}."
                " Slots without a token have position -1 (e.valid_BGT), and their keys and values "
                "are not zero: leave them out of means, maxima and counts, take lengths from "
                "e.seen_B, and never the slot's number for the token's position (e.pos_BGT)."
            )


def _at_once_is_as_in_pieces(case: Case) -> None:
    """A text is pruned alike whether it was read at once or in pieces."""
    texts = case.texts[:1]
    differs = difference(case.pruned(texts), 0, case.pruned(texts, pieces=3), 0)
    if differs:
        raise LawBroken(
            "Law 'pieces change nothing': a text was read at once, and then in three pieces. "
            f"{differs}. A score must not count how often it or its mass function is called."
        )


def _again_while_decoding(case: Case) -> None:
    """A policy that is applied again keeps its budget while text grows."""
    policy = case.policy
    if not policy.every or isinstance(policy, Sparsify):
        return
    text, n_new = case.texts[0], 2 * policy.every + 1
    cache = case.model.new_cache(1, len(text) + n_new)
    generate(case.model, [text], n_new, cache=cache, prune=policy, eos=())
    n = len(text) + n_new - 1
    kept = sum(len(pos) for _, _, pos, _, _ in stays(cache))
    heads = cache.n_layers * cache.pos_LBGT.shape[2]
    if kept != policy.tokens(n) * heads:
        raise LawBroken(
            f"Law 'the budget is kept while decoding': after {n} tokens {policy.tokens(n)} were to "
            f"stay in each of {heads} heads, and {kept} stayed in all."
        )


_LAWS = (
    _scores_are_numbers,
    _budget_is_kept,
    _protected_stay,
    _order_is_kept,
    _a_full_budget_changes_nothing,
    _alone_is_as_beside_others,
    _at_once_is_as_in_pieces,
    _again_while_decoding,
)

__getattr__ = former(__name__, small_model="kvlab.measure.random_model.random_model")
