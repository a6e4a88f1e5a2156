import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kvlab.policies import (
    h2o,
    k_magnitude,
    knorm,
    random,
    recency,
    snapkv,
    think,
    tova,
    v_magnitude,
)

from kvlab import (
    Elements,
    Evict,
    KVCache,
    Probe,
    Pruner,
    Sparsify,
    Then,
    check_policy,
    density,
    generate,
    needs,
    stream,
)
from kvlab.attention import allowed_BGST, attend
from kvlab.cache import LayerKV
from kvlab.fast.compiled import CompiledDecode, StaticDecode
from kvlab.generation import decode, prefill
from kvlab.pack import Body, PerToken
from kvlab.pack.rows import n_kept
from kvlab.prompts import pad
from kvlab.prune import (
    Evidence,
    across_heads,
    all_heads,
    apply,
    attention_mass,
    needs_of,
    per_channel,
    per_head,
    per_token,
    ranks,
    whole_channels,
)
from tests.conftest import tiny_model

PROMPT = torch.arange(24).remainder(19)[None]


def same(e):
    """All tokens are worth the same: only protection and age tell them apart."""
    return torch.zeros_like(e.pos_BGT, dtype=torch.float64)


def filled(batch=1, n=24, groups=2, width=8, layers=2, seed=0, device="cpu"):
    """A cache of random keys and values, without a model."""
    draw = torch.Generator().manual_seed(seed)
    cache = KVCache(layers, batch, groups, n + 8, width, dtype=torch.float64, device=device)
    for i in range(layers):
        k, v = torch.randn(2, batch, groups, n, width, generator=draw, dtype=torch.float64)
        cache.append(i, k.to(device), v.to(device))
    return cache


def evidence(cache, layer=0, **more):
    kv = cache.read(layer)
    return Evidence(
        layer, cache.n_layers, kv.k_BGTD, kv.v_BGTD, kv.pos_BGT, (cache.seen,) * cache.batch, **more
    )


def small(device="cpu", **changes):
    return tiny_model(n_layers=2, device=device, **changes)


# --- selections ---


@settings(max_examples=60, deadline=None)
@given(
    slots=st.integers(1, 12), groups=st.integers(1, 3), n=st.integers(0, 12),
    levels=st.integers(1, 4), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_selections_keep_exact_counts_and_the_protected_and_the_best(
    slots, groups, n, levels, seed
):
    draw = torch.Generator().manual_seed(seed)
    score = torch.randint(0, levels, (2, groups, slots), generator=draw).double()
    valid = torch.rand(2, 1, slots, generator=draw).expand(2, groups, slots) < 0.8
    first = (torch.rand(2, 1, slots, generator=draw).expand(2, groups, slots) < 0.3) & valid
    n_B = torch.tensor([n, max(0, n - 1)])
    there, must = valid.sum(-1), first.sum(-1)
    for select in (per_head, all_heads):
        keep = select(score, first, valid, n_B)
        assert torch.equal(keep.sum(-1), n_B[:, None].expand(2, groups).minimum(there))
        assert not (keep & ~valid).any()
        enough = n_B[:, None] >= must
        assert not (first & ~keep)[enough].any()
    keep = per_head(score, first, valid, n_B)
    for b in range(2):
        for g in range(groups):
            key = [
                (not first[b, g, t], -float(score[b, g, t]), t)
                for t in range(slots) if valid[b, g, t]
            ]  # fmt: skip
            best = sorted(key)[: int(n_B[b])]
            assert keep[b, g].nonzero()[:, 0].tolist() == sorted(t for *_, t in best)
    keep = across_heads(score, first, valid, n_B)
    assert torch.equal(keep.sum((1, 2)), (n_B * groups).minimum(there.sum(1)))


def test_each_head_keeps_its_floor_across_heads():
    score = torch.stack((torch.arange(10.0), torch.arange(10.0) + 100))[None]
    none = torch.zeros(1, 2, 10, dtype=torch.bool)
    keep = across_heads(score, none, ~none, torch.tensor([5]), alpha=0.4)
    assert keep.sum(-1).tolist() == [[2, 8]]
    assert keep[0, 0].nonzero()[:, 0].tolist() == [8, 9]
    assert across_heads(score, none, ~none, torch.tensor([5]), alpha=0.0).sum(-1).tolist() == [
        [0, 10]
    ]


def test_one_mask_for_all_heads_goes_by_their_mean():
    score = torch.tensor([[[3.0, 0, 2, 0], [0.0, 4, 2, 0]]])
    none = torch.zeros(1, 2, 4, dtype=torch.bool)
    keep = all_heads(score, none, ~none, torch.tensor([2]))
    assert keep.tolist() == [[[False, True, True, False]] * 2]


def test_protection_beats_infinity():
    score = torch.tensor([[[float("inf"), float("inf"), -float("inf"), 0.0]]])
    first = torch.tensor([[[False, False, True, False]]])
    valid = torch.tensor([[[True, True, True, False]]])
    assert ranks(score, first, valid).tolist() == [[[1, 2, 0, 3]]]


@settings(max_examples=50, deadline=None)
@given(
    slots=st.integers(1, 14), width=st.integers(1, 6), group=st.integers(1, 5),
    sparsity=st.floats(0, 0.999), sink=st.integers(0, 3), recent=st.integers(0, 5),
    levels=st.integers(1, 50), holes=st.booleans(), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_element_masks_have_exact_counts_of_the_best(
    slots, width, group, sparsity, sink, recent, levels, holes, seed
):
    draw = torch.Generator().manual_seed(seed)
    score = torch.randint(0, levels, (1, 2, slots, width), generator=draw).double()
    pos = torch.arange(slots).expand(1, 2, slots)
    if holes:  # evicted since, in each head others
        pos = pos.where(torch.rand(1, 2, slots, generator=draw) < 0.7, -1)
    ripe = (pos >= sink) & (pos < slots - recent)

    def masked(select, score=score):
        body = Body(rule := select(sparsity), sink, recent, rule.unit)
        return body.mask(score, body.tokens_BGT(pos, (slots,)))

    keep = masked(per_token)
    n = n_kept(sparsity, width)
    assert torch.equal(keep.sum(-1), torch.where(ripe, n, width))
    keep = masked(partial(per_channel, group=group))
    for g in range(2):
        body = ripe[0, g].nonzero()[:, 0].tolist()
        while body:
            inside, body = body[:group], body[group:]
            want = n_kept(sparsity, group) if len(inside) == group else len(inside)
            for d in range(width):
                best = sorted(inside, key=lambda t, g=g, d=d: (-float(score[0, g, t, d]), t))
                stays = [t for t in inside if keep[0, g, t, d]]
                assert stays == sorted(best[:want])
    assert keep[~ripe].all()
    keep = masked(whole_channels, score[:, :, 0])
    assert torch.equal(keep.expand_as(score).sum(-1), torch.where(ripe, n, width))
    for g in range(2):
        best = sorted(range(width), key=lambda d, g=g: (-float(score[0, g, 0, d]), d))[:n]
        for t in ripe[0, g].nonzero()[:, 0].tolist():
            assert keep[0, g, t].nonzero()[:, 0].tolist() == sorted(best)


# --- evidence ---


def test_weights_of_the_window_are_those_of_attention(device):
    cache = filled(device=device)
    q = torch.randn(1, 6, 5, 8, dtype=torch.float64, device=device)
    e = evidence(cache, q_BHWD=q, q_pos_BW=torch.arange(19, 24, device=device)[None])
    want = attend(q, cache.read(0), weights=True).weights_BHST.unflatten(1, (2, 3))
    assert torch.allclose(e.weights_BGRWT(), want)
    assert torch.allclose(e.over_group(want, "sum"), want.sum(2))
    assert torch.allclose(e.over_group(want), want.mean(2))
    assert torch.allclose(e.over_group(want, "max"), want.amax(2))
    missing = replace(e, q_pos_BW=torch.tensor([[-1, 20, 21, 22, 23]], device=device))
    assert missing.weights_BGRWT()[:, :, :, 0].eq(0).all()
    assert torch.allclose(missing.over_queries(want.where(missing.weights_BGRWT() > 0, 0)),
                          want[:, :, :, 1:].mean(3))  # fmt: skip


def test_evidence_refuses_what_it_does_not_have():
    e = evidence(filled())
    with pytest.raises(ValueError, match=r"@needs\(queries"):
        e.weights_BGRWT()
    q = torch.zeros(1, 5, 1, 8)
    with pytest.raises(ValueError, match="5 query heads came with 2"):
        replace(e, q_BHWD=q).q_BGRWD  # noqa: B018
    with pytest.raises(ValueError, match="median"):
        e.over_group(q, "median")
    assert needs_of(partial(snapkv, kernel=7)).queries == 32
    assert needs_of(needs(queries=8)(partial(snapkv))).queries == 8
    with pytest.raises(ValueError, match="queries.* is -1"):
        needs(queries=-1)


# --- applying ---


def test_ties_evict_nobody_who_is_protected_and_order_is_kept(device):
    model = small(device)
    cache = model.new_cache(1, 24)
    prefill(model, PROMPT.to(device), cache, prune=Evict(same, 10, sink=3, recent=5))
    want = [0, 1, 2, 3, 4, 19, 20, 21, 22, 23]
    assert cache.read(1).pos_BGT.tolist() == [[want, want]]


@pytest.mark.parametrize("budget", [24, 100, 1.0])
def test_a_budget_of_everything_is_bit_exact_identity(budget):
    model = small()
    plain, thin = model.new_cache(1, 40), model.new_cache(1, 40)
    policy = Then(
        Evict(h2o, budget, sink=0, recent=0, every=0),
        Sparsify(k=Elements(think, 0, whole_channels), v=Elements(v_magnitude, 0.0), every=1),
    )
    assert torch.equal(
        generate(model, PROMPT, 6, cache=plain),
        generate(model, PROMPT, 6, cache=thin, prune=policy),
    )
    assert torch.equal(plain.k_LBGTD, thin.k_LBGTD) and torch.equal(plain.v_LBGTD, thin.v_LBGTD)
    assert plain.in_order and thin.in_order


def test_budgets_are_tokens_or_shares_of_each_rows_own_length():
    model = small()
    tokens, pos = pad([list(range(24)), list(range(9))])
    cache = model.new_cache(2, 40)
    prefill(model, tokens, cache, pos_BS=pos, prune=Evict(knorm, 0.5, sink=1, recent=2))
    assert (cache.read(0).pos_BGT >= 0).sum(-1).tolist() == [[12, 12], [4, 4]]
    cache = model.new_cache(2, 40)
    prefill(model, tokens, cache, pos_BS=pos, prune=Evict(knorm, 11, sink=1, recent=2))
    assert (cache.read(0).pos_BGT >= 0).sum(-1).tolist() == [[11, 11], [9, 9]]


def test_when_to_prune():
    model = small()
    for every, used in ((0, 10 + 7), (1, 10), (3, 10 + 7 % 3), (5, 10 + 7 % 5)):
        cache = model.new_cache(1, 40)
        policy = Evict(recency, 10, sink=2, recent=3, every=every)
        generate(model, PROMPT, 8, cache=cache, prune=policy)  # the 8th is not fed
        assert cache.used_L == (used, used), every
        assert cache.seen == 31


def test_no_hook_outlives_a_step():
    model = small()
    for _ in stream(model, PROMPT, 4, prune=Evict(tova, 10, sink=1, recent=1, every=1)):
        assert not any(m._forward_hooks for m in model.modules())


def test_eviction_then_decoding_is_attention_restricted_to_the_kept_sets(device):
    """Heads of a layer keep different tokens, and different numbers of them."""
    cache = filled(device=device)
    full = cache.fork()
    score = partial(random, seed=3)
    policy = Evict(score, 9, sink=1, recent=2, select=partial(across_heads, alpha=0.1))
    keep = policy.masks(evidence(cache)).tokens_BGT
    assert keep.sum(-1).unique().numel() == 2
    cache.keep(0, keep)
    k, v = torch.randn(2, 1, 2, 1, 8, dtype=torch.float64, device=device)
    q = torch.randn(1, 6, 1, 8, dtype=torch.float64, device=device)
    cache.append(0, k, v)
    full.append(0, k, v)
    kv = full.read(0)
    also_new = torch.cat((keep, torch.ones_like(keep[..., :1])), -1)
    only = LayerKV(kv.k_BGTD, kv.v_BGTD, kv.pos_BGT.where(also_new, -1), False, False)
    assert torch.allclose(
        attend(q, cache.read(0)).out_BHSD,
        attend(q, only, torch.tensor([[24]], device=device)).out_BHSD,
    )


def test_a_zeroed_key_is_not_an_evicted_token(device):
    q = torch.randn(1, 2, 1, 8, dtype=torch.float64, device=device)
    cache = filled(device=device)
    zeroed, gone = cache.fork(), cache.fork()
    keep = torch.arange(24, device=device).expand(1, 2, 24) >= 6
    zeroed.k_LBGTD[0, :, :, :6] = 0
    gone.keep(0, keep)
    weights = attend(q, zeroed.read(0), weights=True).weights_BHST
    logits = q[0, 0, 0] @ zeroed.read(0).k_BGTD[0, 0].T * 8**-0.5
    assert torch.allclose(weights[0, 0, 0], logits.softmax(-1))
    assert (logits[:6] == 0).all() and (weights[..., :6] > 0).all()
    left = attend(q, gone.read(0), torch.tensor([[23]], device=device), weights=True).weights_BHST
    assert left.shape[-1] == 18
    assert torch.allclose(left, weights[..., 6:] / weights[..., 6:].sum(-1, keepdim=True))
    assert gone.live_bytes < zeroed.live_bytes == cache.live_bytes


def test_zeros_save_nothing_and_density_is_the_true_one():
    model = small()
    cache = model.new_cache(1, 40)
    prefill(model, PROMPT, cache)
    before, allocated = cache.live_bytes, cache.allocated_bytes
    apply(model, cache, Sparsify(k=Elements(k_magnitude, 0.7), recent=4))
    assert (cache.live_bytes, cache.allocated_bytes) == (before, allocated)
    left = density(cache)
    assert left.tokens == 1 and left.v == 1
    assert left.k == pytest.approx((20 * n_kept(0.7, 8) + 4 * 8) / (24 * 8))
    apply(model, cache, Evict(recency, 12, sink=0, recent=4))
    assert cache.live_bytes == before // 2 and density(cache).tokens == 0.5


def test_what_is_out_of_the_window_stays_as_it_was_pruned():
    """The same tokens at once, and one by one, leave the same cache, bit for bit."""
    model, all_of_it = small(), filled(n=30)
    in_groups = partial(per_channel, group=3)
    rules = [
        Sparsify(k=Elements(k_magnitude, 0.5), v=Elements(v_magnitude, 0.6), recent=4, every=1),
        Sparsify(v=Elements(v_magnitude, 0.5, in_groups), sink=1, recent=4, every=1),
    ]
    for policy in rules:
        ends = []
        for n_prompt in (1, 11, 30):
            cache = model.new_cache(1, 30)
            pruner = Pruner(model, cache, policy)
            for begin, end in [(0, n_prompt), *((i, i + 1) for i in range(n_prompt, 30))]:
                for layer in range(2):
                    k, v = all_of_it.k_LBGTD[layer], all_of_it.v_LBGTD[layer]
                    cache.append(layer, k[:, :, begin:end], v[:, :, begin:end])
                pruner.prune()
            ends.append(cache)
        for other in ends[1:]:
            assert torch.equal(other.k_LBGTD, ends[0].k_LBGTD)
            assert torch.equal(other.v_LBGTD, ends[0].v_LBGTD)
        assert density(ends[0]).v < 0.75


def test_mass_is_the_sum_of_all_attention_also_across_evictions(device):
    """Accumulated in blocks while reading, against weights that the reference backend formed."""
    model = small(device)
    cache = model.new_cache(1, 40)
    pruner = Pruner(model, cache, Evict(h2o, 9, sink=1, recent=2, every=1))
    with pruner, Probe(model, keep="weights") as probe:
        prefill(model, PROMPT.to(device), cache, backend="reference")
    want = probe.weights[1][0].unflatten(1, (2, 2)).sum((2, 3))
    assert torch.allclose(pruner._mass[attention_mass][1], want)
    seen = {(g, t): float(want[0, g, t]) for g in range(2) for t in range(24)}
    pruner.prune()
    token = torch.tensor([5], device=device)
    for at in range(24, 30):
        pos = cache.pos_LBGT[1, 0, :, : cache.used_L[1]].tolist()
        with pruner, Probe(model, keep="weights") as probe:
            decode(model, token, cache, backend="reference")
        new = probe.weights[1][0].unflatten(1, (2, 2)).sum((2, 3))
        for g in range(2):
            for t, w in zip([*pos[g], at], new[0, g].tolist(), strict=True):
                seen[g, t] = seen.get((g, t), 0) + w
        mass = pruner._mass[attention_mass][1]
        for g in range(2):
            assert torch.allclose(
                mass[0, g].cpu(), torch.tensor([seen[g, t] for t in [*pos[g], at]]).double()
            )
        pruner.prune()


def test_mass_in_small_blocks_is_the_same(monkeypatch):
    model = small()
    found = []
    for block in (1, 10**9):
        monkeypatch.setattr("kvlab.prune.pruner.BLOCK", block)
        cache = model.new_cache(1, 24)
        pruner = Pruner(model, cache, Evict(h2o, 9, sink=1, recent=2))
        with pruner:
            prefill(model, PROMPT, cache)
        found.append(pruner._mass[attention_mass][0])
    assert torch.allclose(*found)


def test_one_policy_after_another():
    model = small()
    cache = model.new_cache(1, 40)
    policy = Then(
        Then(Evict(tova, 12, sink=0, recent=2, select=all_heads)),
        Sparsify(v=Elements(v_magnitude, 0.5), recent=2),
    )
    assert len(policy.parts) == 2
    generate(model, PROMPT, 1, cache=cache, prune=policy)
    assert cache.used_L == (12, 12)
    assert density(cache).v == pytest.approx((10 * 4 + 2 * 8) / (12 * 8))
    # nobody watches the tokens between two steps of the second part
    mixed = Then(Evict(h2o, 14, sink=0, recent=2), Evict(recency, 12, sink=0, recent=2, every=1))
    assert generate(model, PROMPT, 5, prune=mixed).shape == (1, 5)


def test_every_row_ends_by_itself_while_its_cache_is_thinned():
    model = small()
    policy = Evict(knorm, 8, sink=1, recent=2, every=1)
    free = generate(model, PROMPT, 10, prune=policy)
    end = int(free[0, 5])
    cut = generate(model, PROMPT, 10, prune=policy, eos=(end,))
    assert torch.equal(cut, free[:, : cut.shape[1]]) and int(cut[0, -1]) == end


# --- refusals ---


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Evict(knorm, 35), "fewer than 4 sinks and 32 recent"),
        (lambda: Evict(knorm, 0), "budget is 0"),
        (lambda: Evict(knorm, 1.5), "budget is 1.5"),
        (lambda: Evict(knorm, float("nan")), "budget is nan"),
        (lambda: Evict(knorm, True), "budget is True"),
        (lambda: Evict(knorm, 50, sink=-1), "sink is -1"),
        (lambda: Evict(knorm, 50, every=0.5), "every is 0.5"),
        (lambda: Evict("knorm", 50), "'knorm' came as a score"),
        (lambda: Elements(k_magnitude, 1.0), "sparsity is 1.0"),
        (lambda: Elements(k_magnitude, -0.1), "sparsity is -0.1"),
        (lambda: Elements(k_magnitude, float("nan")), "sparsity is nan"),
        (lambda: Elements(k_magnitude, "half"), "or a rule like PerToken"),
        (lambda: Elements(k_magnitude, PerToken(4), per_channel), "Give one of them"),
        (lambda: Elements(k_magnitude, 0.5, lambda sparsity: 3), "3 came as a rule"),
        (lambda: Elements(k_magnitude, PerToken(4, bits=4)), "holds numbers as codes"),
        (lambda: Elements(k_magnitude, 0.5, partial(per_channel, group=0)), "Groups of 0 tokens"),
        (lambda: Sparsify(), "Nothing is to be pruned"),
        (lambda: Sparsify(k=0.5), "0.5 came; expected Elements"),
        (lambda: Then(Evict(knorm, 40), "snapkv"), "'snapkv' came as a policy"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def nan_late(e):
    return same(e) + (float("nan") if e.layer == 1 else 0)


@pytest.mark.parametrize(
    "policy, message",
    [
        (Evict(nan_late, 9, sink=0, recent=2), "NaN.* in layer 1; nothing was pruned"),
        (Evict(lambda e: e.k_BGTD, 9, sink=0, recent=2), r"returned shape \(1, 2, 24, 8\)"),
        (Evict(lambda e: 3, 9, sink=0, recent=2), "returned int"),
        (Sparsify(k=Elements(knorm, 0.5)), r"returned shape \(1, 2, 24\)"),
        (Sparsify(k=Elements(think, 0.5), recent=4), r"PerToken\(.* was given a score of shape"),
        (
            Sparsify(k=Elements(k_magnitude, 0.5, whole_channels), recent=4),
            r"Channels\(.* was given a score of shape",
        ),
        (Evict(snapkv, 9, sink=0, recent=2), "A row of 24 tokens is to keep 9, but the 32"),
        (Evict(lambda e: e.weights_BGRWT(), 9, sink=0, recent=2), "@needs"),
    ],
)
def test_a_bad_score_changes_nothing(policy, message):
    model = small()
    cache = model.new_cache(1, 40)
    pruner = Pruner(model, cache, policy)
    with pruner:
        prefill(model, PROMPT, cache)
    before = cache.k_LBGTD.clone()
    with pytest.raises(ValueError, match=message):
        pruner.prune()
    assert torch.equal(cache.k_LBGTD, before) and cache.in_order and cache.used_L == (24, 24)


def test_what_cannot_be_supplied_is_refused_before_anything_is_read():
    model = small()
    cache = model.new_cache(1, 40)
    with pytest.raises(ValueError, match="expected a policy"):
        generate(model, PROMPT, 3, cache=cache, prune="snapkv")
    for n_queries in (24, 32):  # a window that is as long as the prompt, or longer
        wide = needs(queries=n_queries)(partial(snapkv))
        with pytest.raises(
            ValueError, match=f"24 tokens is to keep 9, but the {n_queries} queries"
        ):
            generate(model, PROMPT, 3, cache=cache, prune=Evict(wide, 9, sink=0, recent=2))
    assert cache.seen == 0
    short = Evict(needs(queries=23)(partial(snapkv)), 9, sink=0, recent=2)
    assert generate(model, PROMPT, 3, prune=short).shape == (1, 3)
    prefill(model, PROMPT, cache)
    policy = Evict(h2o, 9, sink=0, recent=2)
    with pytest.raises(ValueError, match="mass of all queries, but 24 slots"):
        generate(model, PROMPT[:, :3], 3, cache=cache, prune=policy)
    for needy in (policy, Evict(tova, 9, sink=0, recent=2)):
        with pytest.raises(ValueError, match="which nobody collected"):
            apply(model, cache, needy)
    assert cache.seen == 24
    with pytest.raises(ValueError, match="3 layers came with a model of 2"):
        Pruner(model, tiny_model().new_cache(1, 4), policy)
    pruner = Pruner(model, cache, Evict(tova, 9, sink=0, recent=2))
    with pruner, pytest.raises(ValueError, match="watches already"), pruner:
        pass


def test_one_choice_for_all_heads_is_refused_where_heads_differ():
    model, how = small(), {"sink": 0, "recent": 2}
    alike, own = Evict(tova, 8, select=all_heads, **how), Evict(knorm, 12, **how)
    for wrong in (
        Then(own, alike),
        Then(replace(alike, budget=12, every=2), replace(own, budget=8)),
    ):
        cache = model.new_cache(1, 40)
        with pytest.raises(ValueError, match="leaves each head its own"):
            generate(model, PROMPT, 3, cache=cache, prune=wrong)
        assert cache.seen == 0
        pruner = Pruner(model, cache, wrong)
        with pruner:
            prefill(model, PROMPT, cache)
        with pytest.raises(ValueError, match="leaves each head its own"):
            pruner.prune()
        assert cache.used_L == (24, 24)
    for right in (
        Then(replace(alike, budget=12), replace(own, budget=8)),
        Then(replace(own, budget=1.0), alike),
    ):
        generate(model, PROMPT, 3, prune=right)


def test_compiled_steps_evict_by_what_needs_no_queries():
    model = small()
    for policy in (
        Evict(knorm, 10, sink=1, recent=2, every=2),
        Evict(partial(random, seed=1), 10, sink=1, recent=2, select=across_heads, every=1),
        Evict(tova, 10, sink=1, recent=2),
        Sparsify(k=Elements(k_magnitude, 0.5), recent=2, every=1),
    ):
        cache = model.new_cache(1, 40)
        step = StaticDecode(model, cache)
        got = generate(
            model, PROMPT, 8, cache=cache, decode=lambda _m, t, _c, step=step: step(t), prune=policy
        )
        assert torch.equal(got, generate(model, PROMPT, 8, prune=policy))
    needy = Evict(tova, 10, sink=1, recent=2, every=1)
    cache = model.new_cache(1, 40)
    step = CompiledDecode.__new__(CompiledDecode)  # it is refused before it would run
    with pytest.raises(ValueError, match="a compiled step passes no taps"):
        generate(model, PROMPT, 3, cache=cache, decode=step, prune=needy)
    assert cache.seen == 0


def test_a_way_of_sharing_budgets_out_must_give_what_there_is():
    cache = filled()
    for wrong in (-1, 23, 2.0):
        policy = Evict(knorm, 9, sink=0, recent=2, layers=lambda n, room, i, of, w=wrong: w)
        with pytest.raises(ValueError, match=f"gave layer 0 {wrong} of 7 tokens"):
            policy.masks(evidence(cache))


def test_padding_may_be_no_number():
    def odd(e):
        return same(e).masked_fill(~e.valid_BGT, float("nan"))

    model = small()
    tokens, pos = pad([list(range(24)), list(range(9))])
    cache = model.new_cache(2, 40)
    prefill(model, tokens, cache, pos_BS=pos, prune=Evict(odd, 8, sink=1, recent=2))
    assert (cache.read(0).pos_BGT >= 0).sum(-1).tolist() == [[8, 8], [8, 8]]


def test_allowed_is_what_evidence_allows():
    cache = filled()
    q_pos = torch.tensor([[20, 23]])
    e = evidence(cache, q_BHWD=torch.ones(1, 2, 2, 8, dtype=torch.float64), q_pos_BW=q_pos)
    seen = e.weights_BGRWT()[:, 0, 0] > 0
    assert torch.equal(seen, allowed_BGST(cache.read(0), q_pos, 2)[:, 0].expand_as(seen))


def test_a_text_with_nothing_to_evict_loses_nothing():
    model = small()
    texts = [list(range(1, 25)), [7, 8, 9]]
    for policy in (Evict(knorm, 0.5), Evict(snapkv, 0.1), Evict(h2o, 36), Evict(tova, 1000)):
        assert torch.equal(
            generate(model, texts, 5, prune=policy), generate(model, texts, 5, prune=None)
        )


def test_what_is_protected_stays_whatever_the_share():
    model = small()
    tokens, pos = pad([list(range(24)), list(range(9)), list(range(4))])
    cache = model.new_cache(3, 40)
    prefill(model, tokens, cache, pos_BS=pos, prune=Evict(knorm, 0.3, sink=2, recent=4))
    assert (cache.read(0).pos_BGT >= 0).sum(-1).tolist() == [[7, 7], [6, 6], [4, 4]]
    left = cache.read(0).pos_BGT[1, 0]
    assert left[left >= 0].tolist() == [0, 1, 5, 6, 7, 8]


@pytest.mark.parametrize("budget", [9, 9.0, np.int64(9), np.float64(9)])
def test_a_whole_number_is_a_budget_in_tokens(budget):
    assert Evict(knorm, budget, sink=0, recent=0).tokens(24) == 9
    assert type(Evict(knorm, budget, sink=0, recent=0).budget) is int
    assert Evict(knorm, np.float32(0.5), sink=np.int64(1), recent=0).tokens(24) == 12


def test_a_window_that_is_too_long_names_the_row():
    policy = Evict(snapkv, 9, sink=0, recent=2)
    with pytest.raises(ValueError, match="Row 1 of 12 tokens is to keep 9, but the 32"):
        generate(small(), [[1] * 40, [2] * 12], 3, prune=policy)


def _beside(name):
    return lambda e: torch.zeros(e.pos_BGT.shape) + getattr(e, name)


@pytest.mark.parametrize(
    ("score", "cure"),
    [
        *((_beside(n), "queries=32") for n in ("q_BHWD", "q_pos_BW")),
        (lambda e: e.q_BHWD.sum(), "queries=32"),
        (lambda e: e.q_BGRWD, "queries=32"),
        (lambda e: e.over_queries(e.k_BGTD), "queries=32"),
        (lambda e: e.weights_BGRWT(), "queries=32"),
        (lambda e: -e.q_pos_BW, "queries=32"),
        (lambda e: e.mass_BGT, "mass=attention_mass"),
        (lambda e: e.mass_BGT / 2, "mass=attention_mass"),
        (lambda e: torch.relu(e.mass_BGT), "mass=attention_mass"),
        (lambda e: torch.stack([e.mass_BGT, e.mass_BGT]), "mass=attention_mass"),
        (lambda e: max(e.mass_BGT), "mass=attention_mass"),
        (lambda e: e.turns * 1, "rope=True"),
        (lambda e: 1 + e.turns[0], "rope=True"),
        (_beside("o_CI"), "output=True"),
        (lambda e: e.o_CI.unflatten(1, (2, -1)), "output=True"),
        (lambda e: e.v_BGTD @ e.o_CI, "output=True"),
    ],
)
def test_a_score_that_looks_at_what_it_did_not_declare_is_told_which(score, cure):
    with pytest.raises(ValueError, match=rf"was not collected; .*@needs\({cure}\)"):
        generate(small(), PROMPT, 2, prune=Evict(score, 9, sink=0, recent=2))
    with pytest.raises(ValueError, match=rf"was not collected; .*@needs\({cure}\)"):
        check_policy(score)
    with pytest.raises(ValueError, match=rf"was not collected; .*@needs\({cure}\)"):
        generate(small(), PROMPT, 2, prune=Sparsify(k=Elements(score, 0.5), recent=2))


def test_what_has_no_meaning_where_it_is_looked_at_says_so():
    def mass(e):
        return e.weights_BGRWT() * e.seen_B11

    with pytest.raises(ValueError, match="a mass function is not told how long"):
        score = needs(mass=mass)(lambda e: e.mass_BGT)
        generate(small(), PROMPT, 2, prune=Evict(score, 9, sink=0, recent=2))
    with pytest.raises(ValueError, match="only a score of whole tokens, in Evict"):
        side = Elements(lambda e: e.k_BGTD * e.n_B[0], 0.5)
        generate(small(), PROMPT, 2, prune=Sparsify(k=side, recent=2))


def test_evidence_can_be_changed_and_copied_without_what_is_missing():
    e = evidence(filled())
    assert replace(e, step=3).step == 3 and "Missing('turns')" in repr(e)
    assert copy.deepcopy(replace(e, step=3)).step == 3
