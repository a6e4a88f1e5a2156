import json
from dataclasses import FrozenInstanceError, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from kvlab.policies import (
    _pooled,
    adakv,
    criticalkv,
    evictions,
    expected_attention,
    k_magnitude,
    k_output_aware,
    keydiff,
    knorm,
    observed,
    pyramid,
    pyramidkv,
    random,
    snapkv,
    sparsities,
    streaming,
    think,
    tova,
    v_magnitude,
    v_output_aware,
)

from kvlab import Evict, ModelConfig, Pruner, Sparsify, Then, Transformer, density, generate, needs
from kvlab.generation import prefill
from kvlab.prompts import pad
from kvlab.prune import Elements, all_heads, per_channel, per_token, whole_channels
from kvlab.prune.hashing import chance
from kvlab.prune.parts import check_parts
from tests.conftest import tiny_model
from tests.prune.kvpress import weights as recorded

TOKENS = torch.arange(30).remainder(19)[None]
FEW = {"sink": 2, "recent": 5}
EVICTIONS = evictions(12, **FEW)
SPARSITIES = sparsities(0.5, sink=1, recent=5, group=3)


def shorter(policy, n=4):
    """The same policy with a window that fits these short prompts."""
    if isinstance(policy, Evict) and policy.needs.queries > n:
        score = needs(queries=n, rope=policy.needs.rope, output=policy.needs.output)(
            partial(policy.score)
        )
        return Evict(score, policy.budget, policy.sink, policy.recent, policy.select,
                     policy.every, policy.layers)  # fmt: skip
    return policy


def small(device="cpu"):
    return tiny_model(n_layers=2, device=device)


def pruned(model, policy, *chunks, pos_BS=None):
    """The cache after a prompt that came in pieces."""
    cache = model.new_cache(chunks[0].shape[0], 40)
    pruner = Pruner(model, cache, policy)
    with pruner:
        for chunk in chunks:
            prefill(model, chunk.to(model.device), cache, pos_BS=pos_BS)
    pruner.prune()
    return cache


def kept_sets(cache, b=0):
    return [
        [sorted(t for t in head if t >= 0) for head in cache.read(i).pos_BGT[b].tolist()]
        for i in range(cache.n_layers)
    ]


# --- laws of every policy ---


@pytest.mark.parametrize("name", EVICTIONS)
def test_every_eviction_keeps_its_budget_its_order_and_what_is_protected(name, device):
    policy = shorter(EVICTIONS[name])
    model = small(device)
    cache = pruned(model, policy, TOKENS)
    total = 0
    for i in range(2):
        pos_BGT = cache.read(i).pos_BGT[0]
        for head in pos_BGT.tolist():
            there = [t for t in head if t >= 0]
            assert there == sorted(set(there)) and head[: len(there)] == there
            assert set(range(25, 30)) <= set(there)
            assert name == "recency" or {0, 1} <= set(there)
            assert name in ("adakv", "pyramidkv") or len(there) == 12
            total += len(there)
    assert total == 12 * 2 * 2


@pytest.mark.parametrize("name", EVICTIONS)
def test_a_prompt_in_pieces_and_a_padded_row_lose_the_same_tokens(name):
    policy, model = shorter(EVICTIONS[name]), small()
    alone = kept_sets(pruned(model, policy, TOKENS))
    assert kept_sets(pruned(model, policy, TOKENS[:, :7], TOKENS[:, 7:21], TOKENS[:, 21:])) == alone
    short = TOKENS[0, :20].flip(0)
    tokens, pos = pad([short.tolist(), TOKENS[0].tolist()])
    together = pruned(model, policy, tokens, pos_BS=pos)
    assert kept_sets(together, 1) == alone
    assert kept_sets(together, 0) == kept_sets(pruned(model, policy, short[None]))


@pytest.mark.parametrize("name", EVICTIONS)
def test_answers_of_padded_rows_are_those_of_rows_alone_while_evicting(name):
    policy, model = shorter(evictions(12, **FEW, every=2)[name]), small()
    rows = [TOKENS[0].tolist(), TOKENS[0, :16].tolist()]
    together = generate(model, rows, 6, prune=policy)
    for row, answer in zip(rows, together, strict=True):
        assert torch.equal(generate(model, row, 6, prune=policy)[0], answer)


@pytest.mark.parametrize("name", SPARSITIES)
def test_every_sparsity_is_the_same_in_pieces_and_padded(name, device):
    policy, model = SPARSITIES[name], small(device)
    alone = pruned(model, policy, TOKENS)
    pieces = pruned(model, policy, TOKENS[:, :11], TOKENS[:, 11:])
    tokens, pos = pad([TOKENS[0].tolist(), TOKENS[0, :9].tolist()])
    together = pruned(model, policy, tokens, pos_BS=pos.to(device))
    what = "k_LBGTD" if name[0] == "k" or name == "think" else "v_LBGTD"
    zeros = getattr(alone, what)[:, 0, :, :30] == 0
    assert torch.equal(getattr(pieces, what)[:, 0, :, :30] == 0, zeros)
    assert torch.equal(getattr(together, what)[:, 0, :, :30] == 0, zeros)
    assert zeros[:, :, 1:25].double().mean() == pytest.approx(0.5 if "channel" not in name else
                                                              1 / 3)  # fmt: skip
    assert not zeros[:, :, :1].any() and not zeros[:, :, 25:].any()
    single = pruned(model, policy, TOKENS[:, :9])
    assert torch.equal(
        getattr(together, what)[:, 1, :, :9] == 0, getattr(single, what)[:, 0, :, :9] == 0
    )


def test_output_aware_is_magnitude_for_values_per_token_and_keys_per_channel():
    model = small()
    groups = partial(per_channel, group=5)
    for aware, plain, select, what in (
        (v_output_aware, v_magnitude, per_token, "v"),
        (k_output_aware, k_magnitude, groups, "k"),
    ):
        caches = [
            pruned(model, Sparsify(**{what: Elements(score, 0.6, select)}, recent=5), TOKENS)
            for score in (aware, plain)
        ]
        one, other = (getattr(cache, f"{what}_LBGTD") for cache in caches)
        assert torch.equal(one, other) and (one[:, :, :, :25] == 0).any()
    for aware, plain, select, what in (
        (v_output_aware, v_magnitude, groups, "v"),
        (k_output_aware, k_magnitude, per_token, "k"),
    ):
        caches = [
            pruned(model, Sparsify(**{what: Elements(score, 0.6, select)}, recent=5), TOKENS)
            for score in (aware, plain)
        ]
        one, other = (getattr(cache, f"{what}_LBGTD") for cache in caches)
        assert not torch.equal(one, other)


# --- single policies ---


def test_streaming_and_recency_are_what_they_say():
    model = small()
    for score, want in (
        (streaming, [0, 1, 2, 3, *range(22, 30)]),
        (partial(streaming, sinks=0), list(range(18, 30))),
    ):
        cache = pruned(model, Evict(score, 12, sink=0, recent=0), TOKENS)
        assert kept_sets(cache) == [[want] * 2] * 2


def test_chance_differs_by_seed_layer_and_head_and_is_even():
    model = small()
    found = [
        kept_sets(pruned(model, Evict(partial(random, seed=s), 12, **FEW), TOKENS))
        for s in range(2)
    ]
    assert len({str(head) for sets in found for layer in sets for head in layer}) == 8
    drawn = chance(0, 3, torch.arange(20_000))
    assert drawn.min() > 0 and drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01 and abs(drawn.var() - 1 / 12) < 0.003
    assert drawn.unique().numel() == 20_000


@pytest.mark.parametrize("n, room", [(24, 60), (44, 60), (7, 100), (3, 4), (0, 9), (1, 1)])
@pytest.mark.parametrize("n_layers", [1, 2, 3, 7, 32])
def test_a_pyramid_gives_away_exactly_its_budget(n, room, n_layers):
    got = [pyramid(n, room, i, n_layers) for i in range(n_layers)]
    assert sum(got) == n * n_layers
    assert all(0 <= x <= room for x in got)
    # whole numbers may wobble by one
    assert all(a + 1 >= b for a, b in pairwise(got))
    with pytest.raises(ValueError, match="beta is 0.5"):
        pyramid(4, 9, 0, 3, beta=0.5)


def test_settings_of_policies_are_checked():
    with pytest.raises(ValueError, match="alpha is 1.5"):
        adakv(50, alpha=1.5)
    with pytest.raises(ValueError, match="pooling kernel of 4"):
        pruned(small(), shorter(Evict(partial(snapkv, kernel=4), 12, **FEW)), TOKENS)


def test_snapkv_pools_over_tokens_and_not_over_padding():
    x = torch.tensor([0.0, 0, 9, 100, 0, 0]).view(1, 1, 1, 6)
    valid = torch.tensor([[[True, True, True, False, True, True]]])
    assert _pooled(x * valid[:, :, None], valid, 3)[0, 0, 0, [0, 1, 2, 4, 5]].tolist() == [
        0, 3, 3, 3, 0
    ]  # fmt: skip


# --- what kvpress keeps ---

CASES = json.loads((Path(__file__).parent / "kvpress" / "kept.json").read_text())["cases"]


def ours(case, name):
    n, four = case["n"], recorded.WINDOW
    window = needs(queries=four)(partial(snapkv))
    window_4 = {"sink": 0, "recent": four}
    none = {"sink": 0, "recent": 0}
    return {
        "snapkv": Evict(window, n, **window_4),
        "tova": Evict(tova, n, sink=0, recent=1, select=all_heads),
        "streaming": Evict(streaming, n, **none),
        "knorm": Evict(knorm, n, **none),
        "keydiff": Evict(keydiff, n, **none),
        "observed": Evict(observed, n, **none),
        "expected_attention": Evict(expected_attention, n, sink=4, recent=0),
        "pyramidkv": Evict(window, n, **none, layers=partial(pyramid, beta=4)),
        "criticalkv": Evict(
            needs(queries=four, output=True)(partial(criticalkv, base=window)), n, **window_4
        ),
        "adakv": adakv(n, score=window, **window_4),
        "think": Sparsify(
            k=Elements(
                needs(queries=four)(partial(think)), 1 - n / recorded.N_TOKENS, whole_channels
            ),
            recent=0,
        ),
    }[name]


@pytest.fixture(scope="module")
def llamas():
    found = {}
    for n_shared in recorded.SHARES:
        for seed in recorded.SEEDS:
            made, tokens = recorded.weights(n_shared, seed)
            config = ModelConfig(**recorded.SIZES, n_heads=recorded.SIZES["n_kv_heads"] * n_shared)
            model = Transformer(config).double().requires_grad_(False)
            model.load_state_dict({name: torch.tensor(x) for name, x in made.items()})
            found[n_shared, seed] = model, torch.tensor(tokens)
    return found


@pytest.mark.parametrize("name", [key for key in CASES[0] if key not in ("n_shared", "seed", "n")])
def test_what_stays_is_what_kvpress_keeps(name, llamas):
    compared = 0
    for case in CASES:
        if name == "pyramidkv" and case["n"] != 24:
            continue  # kvpress holds the first layer down to all but the window: docs/pruning.md
        model, tokens = llamas[case["n_shared"], case["seed"]]
        cache = model.new_cache(1, recorded.N_TOKENS)
        prefill(model, tokens, cache, prune=ours(case, name))
        for i, heads in enumerate(case[name]):
            for g, mask in enumerate(heads):
                want = [t for t in range(recorded.N_TOKENS) if int(mask, 16) >> t & 1]
                if name == "think":
                    got = (cache.read(i).k_BGTD[0, g] != 0).any(0).nonzero()[:, 0].tolist()
                else:
                    got = [t for t in cache.read(i).pos_BGT[0, g].tolist() if t >= 0]
                assert got == want, (case["n_shared"], case["seed"], case["n"], i, g)
                compared += 1
    assert compared == len(CASES) * 3 * 2 // (2 if name == "pyramidkv" else 1)


def test_pyramidkv_is_snapkv_with_a_pyramid():
    policy = pyramidkv(40)
    assert (policy.score, policy.layers) == (snapkv, pyramid)


def test_a_sequence_of_policies_is_flat_and_stays_as_it_is():
    keys, values = Sparsify(k=Elements(k_magnitude, 0.5)), Sparsify(v=Elements(v_magnitude, 0.5))
    both = Then(Then(keys), values)
    assert both == Then(keys, values) and both.parts == (keys, values)
    assert both.bodies == (keys.bodies[0], values.bodies[1]) and len(both.bodies[0]) == 1
    assert Then().bodies == ((), ())
    with pytest.raises(FrozenInstanceError):
        both.parts = ()


def test_one_choice_for_all_heads_comes_before_each_heads_own_and_once():
    alike = Evict(streaming, 8, 2, 2, select=all_heads)
    own = Evict(knorm, 8, 2, 2)
    for policy in (Then(alike, own), Then(own, own), Then(alike, alike), Then(alike)):
        check_parts(policy.parts, (20,))
    for policy in (Then(own, alike), Then(replace(alike, every=3), own)):
        with pytest.raises(ValueError, match="the same tokens for all heads"):
            check_parts(policy.parts, (20,))
    check_parts((own, alike), (4,))  # nothing goes yet


def test_a_cache_that_has_seen_nothing_has_a_density():
    kept = density(tiny_model().new_cache(2, 8))
    assert kept.tokens == 0
