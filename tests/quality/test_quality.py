import math
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from kvlab import Elements, Evict, Probe, Pruner, Sparsify, Then, policies, quality
from kvlab.attention import attend
from kvlab.cache import LayerKV
from kvlab.generation import decode, prefill
from kvlab.pack import (
    CodesPerChannel,
    CodesPerToken,
    Dense,
    PackedKVCache,
    PerChannel,
    PerToken,
    rows,
)
from kvlab.prune import per_channel, per_token, whole_channels
from kvlab.quality import Prompts, Question, Shape, Stored
from tests.conftest import tiny_model

HALF = torch.float16
TEXTS = [[(7 * i) % 59 + 1 for i in range(40)], [(5 * i) % 57 + 1 for i in range(33)]]
RESTS = [[3, 9, 27, 20, 1], [11, 2, 6, 5]]
ASKED = Prompts(TEXTS, RESTS, [2, 3], "unseen")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def by_hand(model, policy, row):
    """Logits of the scored tokens, one row by itself, token after token."""
    cache = model.new_cache(1, 60)
    last = prefill(model, torch.tensor(TEXTS[row])[None], cache, prune=policy)
    logits = [last]
    for token in RESTS[row][:-1]:
        logits.append(decode(model, torch.tensor([token]), cache))
    return torch.cat(logits[-ASKED.scored[row] :]).log_softmax(-1)


@pytest.mark.parametrize(
    "policy",
    [
        Evict(policies.knorm, 14, sink=1, recent=6),
        policies.adakv(0.4, sink=1, recent=4, score=policies.knorm),
        Sparsify(v=Elements(policies.v_magnitude, 0.75), k=Elements(policies.k_magnitude, 0.5),
                 recent=4),
    ],
)  # fmt: skip
def test_metrics_are_those_computed_by_hand(model, policy):
    methods = {"dense": None, "thin": policy}
    dense, thin = quality.measure(model, ASKED, methods)
    for row, rest in enumerate(RESTS):
        want, got = by_hand(model, None, row), by_hand(model, policy, row)
        value = torch.tensor(rest[-ASKED.scored[row] :])
        kl = (want.exp() * (want - got)).sum(-1).mean().item()
        assert thin["kl"][row] == pytest.approx(kl, abs=1e-9) and kl > 1e-3
        agree = (want.argmax(-1) == got.argmax(-1)).double().mean().item()
        assert thin["agree"][row] == pytest.approx(agree)
        for found, logp in ((dense, want), (thin, got)):
            nats = -logp.gather(-1, value[:, None]).mean().item()
            assert found["nats"][row] == pytest.approx(nats)
            assert found["right"][row] == torch.equal(logp.argmax(-1), value)


def test_recall_is_what_greedy_decoding_says(model):
    best = [by_hand(model, None, row).argmax(-1).tolist() for row in range(2)]
    rests = [RESTS[0][:-2] + best[0], RESTS[1][:-3] + best[1]]
    # the first scored token was right; those after it depend on the tokens fed
    (found,) = quality.measure(model, Prompts(TEXTS, rests, [1, 1], "unseen"), {"dense": None})
    for row in range(2):
        cache = model.new_cache(1, 60)
        logits = prefill(model, torch.tensor(TEXTS[row])[None], cache)
        for token in rests[row][:-1]:
            logits = decode(model, torch.tensor([token]), cache)
        assert found["right"][row] == (int(logits.argmax()) == rests[row][-1])


def test_dense_is_exactly_dense(model):
    full = Then(Evict(policies.h2o, 1.0), Sparsify(k=Elements(policies.think, 0, whole_channels)))
    for row in quality.measure(model, ASKED, {"dense": None, "full": full}):
        assert row["kl"] == [0, 0] and row["agree"] == [1, 1] and row["error"] == [0, 0]
        assert row["error_L"] == [0, 0, 0] and row["bytes"] == 1 == row["tokens_left"]


def test_the_error_of_attention_is_each_layers_own(model):
    policy = Evict(policies.knorm, 14, sink=1, recent=6)
    (found,) = quality.measure(model, ASKED, {"thin": policy})
    want = []
    for row in range(2):
        cache = model.new_cache(1, 60)
        prefill(model, torch.tensor(TEXTS[row])[None], cache)
        pruner = Pruner(model, cache.fork(), policy)
        pruner.prune()
        with Probe(model, keep="queries") as probe:
            model(torch.tensor(RESTS[row][:-1])[None], None, cache)
        n, s = len(TEXTS[row]), len(RESTS[row]) - 1
        errors = []
        for layer in range(3):
            kv, q = cache.read(layer), probe.queries[layer][0]
            kept = pruner.cache.read(layer).pos_BGT
            stays = (kv.pos_BGT[..., None] == kept[:, :, None]).any(-1) | (kv.pos_BGT >= n)
            only = LayerKV(kv.k_BGTD, kv.v_BGTD, kv.pos_BGT.where(stays, -1), False)
            pos = torch.arange(n, n + s)[None]
            full, part = (attend(q, x, pos).out_BHSD for x in (kv, only))
            errors.append(((part - full).norm() / full.norm()).item())
        want.append(sum(errors) / 3)
    assert found["error"] == pytest.approx(want)


def test_a_policy_for_decoding_is_applied_while_decoding(model):
    """As `generate` does it: the same tokens are left when the rest has been fed."""
    policy = Evict(policies.h2o, 14, sink=1, recent=6, every=1)
    once = replace(policy, every=0)
    found = list(quality.measure(model, ASKED, {"each": policy, "once": once}))
    assert found[0]["kl"] != found[1]["kl"]
    alone = Prompts(TEXTS[:1], RESTS[:1], [2], "unseen")
    pruner = quality.pruned(quality.read(model, alone, policy), policy)
    quality.answers(model, pruner, alone)
    assert pruner.cache.used_L == (14, 14, 14)


# --- bytes ---


def n_bytes(model, method, prompts=ASKED, dtype=HALF):
    pruner = quality.pruned(quality.read(model, prompts, quality.needs_of_all([method])), method)
    return quality.held_bytes(pruner.cache, method, dtype)


def test_bytes_are_the_formula_and_the_storage(model):
    heads, row = 3 * 2, 16  # layers x KV heads; a row is 8 numbers of 2 bytes
    evict = Evict(policies.knorm, 14, sink=1, recent=6)
    assert n_bytes(model, evict) == 2 * heads * 2 * 14 * row
    assert n_bytes(model, policies.adakv(14, sink=1, recent=6, score=policies.knorm)) == (
        2 * heads * 2 * 14 * row
    )
    ripe = [40 - 8, 33 - 8]  # 1 sink, 7 recent
    some = {"sink": 1, "recent": 7}
    k = Elements(policies.k_magnitude, 0.5, per_token)
    packed = rows.pack(torch.rand(sum(ripe), 8).half(), torch.rand(sum(ripe), 8), 4).nbytes
    assert n_bytes(model, Sparsify(k=k, **some)) == heads * (packed + (16 + 73) * row)
    channel = Elements(policies.k_magnitude, 0.75, partial(per_channel, group=8))
    groups = sum(n // 8 for n in ripe)
    packed = rows.pack(torch.rand(groups * 8, 8).half(), torch.rand(groups * 8, 8), 2).nbytes
    assert n_bytes(model, Sparsify(v=channel, **some)) == heads * (
        packed + (73 - groups * 8 + 73) * row
    )
    think = Elements(policies.think_v, 0.5, whole_channels)
    assert n_bytes(model, Sparsify(v=think, **some)) == heads * (
        sum(ripe) * 4 * 2 + 2 * 1 + (16 + 73) * row
    )
    both = Then(evict, Sparsify(k=k, sink=1, recent=6))
    assert n_bytes(model, both) == 2 * heads * (7 * 9 + 7 * row + 14 * row)
    assert n_bytes(model, both, dtype=torch.float64) == 2 * heads * (
        7 * (4 * 8 + 1) + 7 * 64 + 14 * 64
    )


class Above:
    """A rule that says what stays, and not in what form: each token keeps its large numbers."""

    unit = 1

    def mask(self, score_BGTD):
        return score_BGTD > 1.0


def above(score, place, ripe, sparsity):
    """The same as a selection was written before there were rules."""
    return (score > 1.0) | (place < 0)[..., None]


@pytest.mark.parametrize("old", [False, True])
def test_a_rule_without_a_form_is_counted_as_uneven_rows(model, old):
    if old:
        with pytest.warns(FutureWarning, match="The selection above takes"):
            keys = Elements(policies.k_magnitude, 0.5, above)
    else:
        keys = Elements(policies.k_magnitude, Above())
    method = Sparsify(k=keys, sink=1, recent=7)
    pruner = quality.pruned(quality.read(model, ASKED, quality.needs_of_all([method])), method)
    left = 0
    for layer in range(3):
        pos, k = pruner.cache.pos_LBGT[layer, :, :, :40], pruner.cache.k_LBGTD[layer, :, :, :40]
        ages = torch.tensor([40, 33])[:, None, None] - 1 - pos
        there = (pos >= 1) & (ages >= 7)
        assert (k[there].abs() > 1.0).equal(k[there] != 0)
        left += int((k != 0)[there].sum())
    want = left * 2 + 6 * 57 * (1 + 2) + 6 * (16 + 73) * 16
    assert quality.held_bytes(pruner.cache, method, HALF) == want


def test_two_rules_on_one_side_are_counted_as_uneven_rows(model):
    some = {"sink": 1, "recent": 7}
    first, second = (
        Sparsify(k=Elements(policies.k_magnitude, rule), **some)
        for rule in (PerToken(4), PerChannel(2, group=8))
    )
    pruner = quality.pruned(quality.read(model, ASKED, quality.needs_of_all([first])), both := Then(
        first, second))  # fmt: skip
    left = 0
    for layer in range(3):
        pos, k = pruner.cache.pos_LBGT[layer, :, :, :40], pruner.cache.k_LBGTD[layer, :, :, :40]
        left += int((k != 0)[pos >= 0].sum())
    assert quality.held_bytes(pruner.cache, both, HALF) == left * 2 + 6 * 73 * (1 + 2 + 16)


@pytest.mark.parametrize("bits", [2, 8])
def test_packed_is_what_a_packed_cache_holds(model, bits):
    method = Stored(CodesPerChannel(bits, 8), CodesPerToken(bits, 8), sink=1, recent=8)
    assert method.unit == 8 and method.n_packed(40) == 24
    alone = Prompts(TEXTS[:1], RESTS[:1], [2], "unseen")
    base = quality.read(model, alone, quality.needs_of_all([method]))
    cache = quality.pruned(base, method).cache
    packed = PackedKVCache.of(base.cache, k=method.k, v=method.v, sink=1, recent=8, at_once=8)
    assert quality.held_bytes(cache, method, torch.float64) == packed.live_bytes
    for layer in range(3):
        k, v = packed.unpacked(layer)
        assert torch.equal(cache.k_LBGTD[layer, :, :, :40], k)
        assert torch.equal(cache.v_LBGTD[layer, :, :, :40], v)


def test_what_an_unprotected_eviction_left_is_held_as_a_packed_cache_holds_it(model):
    """Sinks and window are the first and latest of the tokens that are left."""
    evict = Evict(policies.knorm, 24, sink=0, recent=0)
    method = Stored(CodesPerChannel(4, 8), CodesPerToken(4, 8), evict, sink=2, recent=6)
    alone = Prompts(TEXTS[:1], RESTS[:1], [2], "unseen")
    base = quality.read(model, alone, quality.needs_of_all([method]))
    only, cache = (quality.pruned(base, m).cache for m in (evict, method))
    how = {"k_rule": method.k, "v_rule": method.v, "sinks": 2, "recent": 6, "every": 8}
    packed = PackedKVCache.of(only, **how)
    assert packed.packed_L == (16, 16, 16)
    assert quality.held_bytes(cache, method, torch.float64) == packed.live_bytes
    for layer in range(3):
        for x, store in zip(packed.unpacked(layer), (cache.k_LBGTD, cache.v_LBGTD), strict=True):
            assert torch.equal(store[layer, :, :, :24], x)


def test_evicting_and_then_packing_counts_each_head_by_itself(model):
    evict = policies.adakv(16, sink=0, recent=2, score=policies.knorm)
    method = Stored(PerToken(3, bits=4), None, evict, sink=0, recent=2)
    base = quality.read(model, ASKED, quality.needs_of_all([method]))
    only, cache = (quality.pruned(base, m).cache for m in (evict, method))
    counts = [(only.pos_LBGT[i, :, :, :n] >= 0).sum(-1) for i, n in enumerate(only.used_L)]
    counts = torch.cat([c.flatten() for c in counts])
    assert counts.unique().numel() > 1
    want = sum((n - 2) * rows.row_bytes(8, 3, HALF, bits=4) + 2 * 16 + n * 16 for n in counts)
    assert quality.held_bytes(cache, method, HALF) == want
    kept = (cache.k_LBGTD != 0).sum(-1)[0, 0, 0]
    assert int((kept[: int(counts[0]) - 2] <= 3).sum()) == int(counts[0]) - 2


def test_think_is_held_as_a_packed_cache_holds_it():
    wide = tiny_model(head_dim=32, n_layers=2, max_positions=512)
    prompts = Prompts([[i % 59 + 1 for i in range(230)]], [[1, 2]], [1], "unseen")
    method = quality.METHODS["think"](0.5, Shape(230, 32, sink=2, recent=8))
    base = quality.read(wide, prompts, quality.needs_of_all([method]))
    cache = quality.pruned(base, method).cache
    rule = {"sparsity": 1 - method.k.n_kept / 32, "select": whole_channels}
    scores = Elements(policies.think, **rule), Elements(policies.think_v, **rule)
    narrow = quality.pruned(base, Sparsify(*scores, sink=2, recent=8)).cache
    how = {"k": method.k, "v": method.v, "sink": 2, "recent": 8}
    packed = PackedKVCache.of(narrow, **how)
    assert quality.held_bytes(cache, method, torch.float64) == packed.live_bytes
    for held, was, seen in zip(
        packed.unpacked(1), (narrow.k_LBGTD, narrow.v_LBGTD), (cache.k_LBGTD, cache.v_LBGTD),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(held, was[1, :, :, :230]) and torch.equal(held, seen[1, :, :, :230])


def test_what_is_stored_may_be_pruned_by_the_policy_on_the_other_side(model):
    """A side without a rule is counted as the policy left it."""
    thin = Sparsify(v=Elements(policies.v_magnitude, PerToken(4)), sink=1, recent=7)
    base = quality.read(model, ASKED, quality.needs_of_all([thin]))
    method = Stored(CodesPerToken(4, 8), None, thin, sink=1, recent=7)
    cache = quality.pruned(base, method).cache
    body, row = 32 + 25, 16
    codes = body * rows.code_bytes(8, 4, HALF) + 16 * row
    assert quality.held_bytes(cache, method, HALF) == 6 * (
        codes + body * rows.row_bytes(8, 4, HALF) + 16 * row
    )


def test_groups_are_those_of_the_tokens_that_are_left(model):
    """As a packed cache holds them: numbers and bytes where an eviction left ragged heads."""
    evict = policies.adakv(17, sink=0, recent=2, score=policies.knorm)
    rule = PerChannel(2, group=8)
    thin = Sparsify(k=Elements(policies.k_magnitude, rule), sink=0, recent=2)
    both = Then(evict, thin)
    cache = quality.pruned(quality.read(model, ASKED, quality.needs_of_all([both])), both).cache
    total = 0
    for layer, used in enumerate(cache.used_L):
        pos_BGT = cache.pos_LBGT[layer, :, :, :used]
        for b, g in torch.cartesian_prod(torch.arange(2), torch.arange(2)).tolist():
            there = pos_BGT[b, g] >= 0
            k = cache.k_LBGTD[layer, b, g, :used][there]
            n = (len(k) - 2) // 8 * 8
            assert ((k[:n].unflatten(0, (-1, 8)) != 0).sum(1) == 2).all() and (k[n:] != 0).all()
            total += n // 8 * 8 * rows.row_bytes(8, 2, HALF) + (len(k) - n + len(k)) * 16
    assert quality.held_bytes(cache, both, HALF) == total


def test_the_old_names_work_and_say_so(model):
    evict = Evict(policies.knorm, 14, sink=1, recent=6)
    with pytest.warns(FutureWarning, match="is now Stored"):
        old = quality.Packed(PerToken(4), Dense(), evict, sink=1)
    assert old == Stored(PerToken(4), None, evict, sink=1)
    with pytest.warns(FutureWarning, match="k_rule is now k"):
        assert old.k_rule == PerToken(4)
    with pytest.warns(FutureWarning, match="packed is now n_packed"):
        assert old.packed(60) == 27
    for name, now in {
        "thinned": "pruned", "heard": "record", "Heard": "Recorded", "fed": "fed_tokens",
        "collecting": "needs_of_all", "floor": "window_only", "measured": "measure",
        "FLOOR": "WINDOW_ONLY",
    }.items():  # fmt: skip
        with pytest.warns(FutureWarning, match=f"kvlab.quality.{name} is now kvlab.quality.{now};"):
            assert getattr(quality, name) is getattr(quality, now)
    with pytest.raises(AttributeError, match="frobnicate"):
        quality.frobnicate  # noqa: B018


# --- at equal bytes ---


def test_every_method_keeps_at_most_its_share(model):
    wide = tiny_model(head_dim=32, n_layers=2, max_positions=512)
    prompts = Prompts([[i % 59 + 1 for i in range(230)]], [[1, 2]], [1], "unseen")
    shape = Shape(230, 32, sink=2, recent=8)
    assert set(policies.evictions(1.0)) == set(quality.EVICTIONS)
    for share in (0.6, 0.35):
        needs = {name: make(share, shape) for name, make in quality.METHODS.items()}
        methods, refused = quality.at_bytes(quality.METHODS, share, shape)
        assert not refused and methods.keys() == needs.keys()
        quick = {k: v for k, v in methods.items() if k in PARTLY or k not in quality.EVICTIONS}
        for row in quality.measure(wide, prompts, quick):
            least = 0.5 if row["method"] in STEPS else 0.88
            assert least * share < row["bytes"] <= share * 1.004, (row["method"], row["bytes"])


STEPS = ("kivi", "mustafar_4bit", "snapkv_4bit")  # bits come in few steps, and end at 8 or 4
PARTLY = ("random", "recency", "pyramidkv", "adakv", "tova")


def test_what_cannot_keep_a_share_is_refused_with_the_reason():
    shape = Shape(100, 32)
    methods, refused = quality.at_bytes(["kivi", "snapkv"], 0.42, shape)
    assert list(methods) == ["random", "recency", "snapkv"] and "2 bits take" in refused["kivi"]
    with pytest.raises(ValueError, match="36 tokens stay dense"):
        quality.at_bytes([], 0.36, shape)
    with pytest.raises(ValueError, match="There is no method frob"):
        quality.at_bytes(["frob"], 0.5, shape)
    with pytest.raises(ValueError, match="budget of 1"):
        quality.at_bytes([], 1, shape)
    with pytest.raises(ValueError, match="came as a policy"):
        quality.at_bytes([], 0.5, shape, {"mine": 3})


# --- prompts ---


class Letters:
    """A tokenizer of single characters."""

    class inner:
        @staticmethod
        def encode(text, add_special_tokens=True):
            class Encoding:
                ids = [ord(c) % 60 for c in text]  # noqa: RUF012
                offsets = [(i, i + 1) for i in range(len(text))]  # noqa: RUF012

            return Encoding


def test_a_question_is_cut_before_or_after_it_is_asked():
    one = Question("abc", "?de", " f", "gh", 0.5)
    unseen, visible = (quality.asked(Letters, [one], seen, [7]) for seen in (False, True))
    ids = [ord(c) % 60 for c in "abc?de fgh"]
    assert unseen.texts == [[7, *ids[:3]]] and unseen.rests == [ids[3:]]
    assert visible.texts == [[7, *ids[:6]]] and visible.rests == [ids[6:]]
    assert unseen.scored == visible.scored == [2] and unseen.depths == [0.5]
    assert (unseen.question, visible.question) == ("unseen", "visible")


def test_plain_questions_fit_and_are_spread_over_the_text():
    made = quality.plain_questions(Letters, random.Random(0), 8, 900)
    for i, q in enumerate(made):
        assert 800 < len(q.text + q.question + q.stem) <= 900
        name = q.stem.split()[-2]
        assert f"The password of {name} is{q.value}." in q.text and name in q.question
        assert q.text.count("The password of") == 5
        assert abs(q.depth - (i + 0.5) / 8) < 0.2
    with pytest.raises(ValueError, match="Five passwords and a question need"):
        quality.plain_questions(Letters, random.Random(0), 1, 100)


def test_continuations_are_pieces_of_the_text():
    ids = list(range(100))
    got = quality.continuations(ids, random.Random(1), 5, 20, 8, [0])
    for text, rest, n in zip(got.texts, got.rests, got.scored, strict=True):
        assert text[0] == 0 and text[1:] + rest == list(range(text[1], text[1] + 27))
        assert (len(text), len(rest), n) == (20, 8, 7)
    with pytest.raises(ValueError, match="The text has 100 tokens"):
        quality.continuations(ids, random.Random(1), 5, 100, 8)


def test_prompts_that_cannot_be_scored_are_refused(model):
    for texts, rests, scored in (
        ([[]], [[1, 2]], [1]),
        ([[1]], [[1]], [1]),
        ([[1]], [[1, 2]], [0]),
    ):
        with pytest.raises(ValueError, match="expected a text, and at least one more"):
            Prompts(texts, rests, scored, "unseen")
    long = Prompts([[1] * 250], [[1] * 10], [1], "unseen")
    with pytest.raises(ValueError, match="reads at most 256"):
        quality.read(model, long, quality.needs_of_all([]))


# --- intervals ---


def test_intervals():
    # Wilson 1927, worked by hand for 8 of 10: centre 0.7167, half width 0.2267
    assert quality.wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-4)
    # Newcombe 1998, table I: 81 of 263 and 0 of 20
    assert quality.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert quality.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert quality.wilson(0, 5)[0] == 0 and quality.wilson(5, 5)[1] == 1
    with pytest.raises(ValueError, match="6 of 5"):
        quality.wilson(6, 5)
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).tolist()
    low, high = quality.bootstrap(values)
    mean = sum(values) / 400
    assert low < mean < high and high - low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.15)
    assert quality.bootstrap([3.0, 3.0]) == (3, 3)
    assert quality.bootstrap(values, seed=torch.tensor(0).numpy()[()]) == (low, high)
    with pytest.raises(ValueError, match="no values"):
        quality.bootstrap([])


def test_measuring_runs_on_the_device(device):
    model = tiny_model(device=device, dtype=torch.float32)
    method = Evict(policies.snapkv, 36, sink=1, recent=6)
    alone = Prompts(TEXTS[:1], RESTS[:1], [2], "unseen")
    dense, thin = quality.measure(model, alone, {"dense": None, "thin": method})
    assert dense["kl"] == [0] and thin["bytes"] == pytest.approx(0.9)
