"""The packed cache: random lives beside plain tensors, and bytes that are really gone."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kvlab.policies import adakv, snapkv, think, think_v, v_magnitude

from kvlab import (
    Elements,
    Evict,
    KVCache,
    Pruner,
    Sparsify,
    Then,
    attend,
    compiled_decode,
    decode,
    generate,
    kernels,
    needs,
    prefill,
)
from kvlab.pack import (
    Channels,
    CodesPerChannel,
    CodesPerToken,
    Dense,
    PackedKVCache,
    PerChannel,
    PerToken,
    rows,
)
from kvlab.prompts import pad
from kvlab.prune import whole_channels
from tests.conftest import tiny_model

RULES = [
    Dense(),
    PerToken(5),
    PerToken(3, marks="index"),
    PerToken(9, bits=4),
    PerToken(16),
    PerChannel(3, group=8),
    PerChannel(5, group=16, bits=8),
    Channels(5, group=8),
    CodesPerToken(4, group=8),
    CodesPerChannel(2, group=8),
]
D = 16


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def held(rule, x_BGTD):
    """What a rule leaves of tokens, by the tested functions of `rows` alone."""
    if isinstance(rule, Dense):
        return x_BGTD
    if isinstance(rule, PerToken):
        by = x_BGTD.abs()
        return rows.pack(x_BGTD, by, rule.n_kept, marks=rule.marks, bits=rule.bits).unpack()
    if isinstance(rule, CodesPerToken):
        groups = x_BGTD.unflatten(-1, (-1, rule.group))
        return rows.quantise(groups, rule.bits).unpack().flatten(-2)
    if isinstance(rule, Channels):
        out = x_BGTD.clone()
        for start in range(0, out.shape[2], rule.group):
            group = out[:, :, start : start + rule.group]
            energy_BGD = group.float().square().sum(2)
            gone = energy_BGD.argsort(dim=-1, descending=True, stable=True)[..., rule.n_kept :]
            group.scatter_(-1, gone[:, :, None].expand(-1, -1, group.shape[2], -1), 0)
        return out
    x_BGTDM = x_BGTD.unflatten(2, (-1, rule.group)).transpose(-1, -2)
    if isinstance(rule, PerChannel):
        packed = rows.pack(x_BGTDM, x_BGTDM.abs(), rule.n_kept, bits=rule.bits)
        return packed.unpack().transpose(-1, -2).flatten(2, 3)
    return rows.quantise(x_BGTDM, rule.bits).unpack().transpose(-1, -2).flatten(2, 3)


def stored_bytes(rule, x_BGTD, tokens):
    """Bytes of what the rule holds for so many tokens: the storage itself."""
    if tokens == 0:
        return 0
    return sum(p.numel() * p.element_size() for p in rule.encode(x_BGTD[:, :, :tokens]))


class Shadow:
    """Everything that was appended, and which of it is packed, in the slowest way."""

    def __init__(self, cache):
        self.cache, self.packed = cache, [0] * cache.n_layers
        self.x = [[draw(2, 2, 0, D, dtype=cache.dtype) for _ in range(2)] for _ in self.packed]

    def append(self, layer, new):
        had = self.x[layer][0].shape[2]
        self.x[layer] = [torch.cat(pair, 2) for pair in zip(self.x[layer], new, strict=True)]
        cache, n = self.cache, self.x[layer][0].shape[2]
        due = max(0, n - cache.sink - cache.recent) // cache.at_once * cache.at_once
        self.packed[layer] = max(self.packed[layer], due)
        return had if cache.sink + self.packed[layer] > had else None

    def want(self, layer, fresh=None):
        """Keys and values as a read must show them; those from `fresh` on as they were given."""
        first, last = self.cache.sink, self.cache.sink + self.packed[layer]
        out = []
        for rule, x in zip(self.cache.rules, self.x[layer], strict=True):
            x = x.clone()
            if last > first:
                was = x[:, :, fresh:] if fresh is not None else None
                x[:, :, first:last] = held(rule, x[:, :, first:last])
                if fresh is not None:
                    x[:, :, fresh:] = was if fresh > 0 else self.x[layer][len(out)]
            out.append(x)
        return out

    def check(self, cache, layer, fresh=None):
        kv = cache.read(layer)
        if fresh is not None:
            now = self.x[layer]
            for got, want in zip((kv.k_BGTD, kv.v_BGTD), self.want(layer), strict=True):
                assert torch.equal(got[:, :, :fresh], want[:, :, :fresh])
            for got, want in zip((kv.k_BGTD, kv.v_BGTD), now, strict=True):
                assert torch.equal(got[:, :, fresh:], want[:, :, fresh:])
        else:
            for got, want in zip((kv.k_BGTD, kv.v_BGTD), self.want(layer), strict=True):
                assert torch.equal(got, want)
        n = self.x[layer][0].shape[2]
        assert kv.pos_BGT[0, 0].tolist() == list(range(n))
        assert cache.n_packed_L[layer] == self.packed[layer] and cache.used_L[layer] == n

    def live(self):
        total = 0
        for x, packed in zip(self.x, self.packed, strict=True):
            for rule, y in zip(self.cache.rules, x, strict=True):
                total += stored_bytes(rule, y, packed) + y[:, :, packed:].nbytes
        return total


@given(
    k_rule=st.sampled_from(RULES), v_rule=st.sampled_from(RULES), recent=st.integers(1, 20),
    sinks=st.integers(0, 5), groups=st.integers(1, 2), seed=st.integers(0, 2**20),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), data=st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_random_lives(k_rule, v_rule, recent, sinks, groups, seed, dtype, data):
    unit = torch.tensor([k_rule.unit, v_rule.unit]).max().item()  # 1, 8 or 16
    cache = PackedKVCache(
        2, 2, 2, 150, D, k=k_rule, v=v_rule, recent=recent, sink=sinks,
        at_once=unit * groups, dtype=dtype,
    )  # fmt: skip
    shadow = Shadow(cache)
    for step in range(data.draw(st.integers(1, 6))):
        what = data.draw(st.sampled_from(["append"] * 5 + ["rewind", "fork", "reset", "shrink"]))
        if what == "append":
            n = data.draw(st.sampled_from([0, 1, 1, 2, 7, 33, 70]))
            if n > cache.capacity - cache.length:
                with pytest.raises(ValueError, match=f"{n} tokens were to be appended"):
                    cache.append(0, *draw(2, 2, 2, n, D, dtype=dtype))
                continue
            for layer in range(2):
                new = draw(2, 2, 2, n, D, dtype=dtype, seed=seed + 10 * step + layer)
                cache.append(layer, *new)
                shadow.check(cache, layer, shadow.append(layer, new))
        elif what == "rewind" and cache.length:
            to = data.draw(st.integers(1, cache.length))
            if any(shadow.packed) and to < sinks + max(shadow.packed):
                with pytest.raises(ValueError, match="are packed"):
                    cache.rewind(to)
                continue
            cache.rewind(to)
            shadow.x = [[x[:, :, :to] for x in pair] for pair in shadow.x]
        elif what == "fork":
            twin, other = cache.fork(), draw(2, 2, 2, 1, D, dtype=dtype)
            if cache.length < cache.capacity:
                cache.append(0, *other)  # it must not show in the twin
            cache = twin
        elif what == "reset":
            cache.reset()
            shadow = Shadow(cache)
        elif what == "shrink" and cache.length:
            cache.shrink(data.draw(st.integers(cache.length, cache.capacity)))
        assert cache.live_bytes == shadow.live()
        assert cache.live_bytes <= cache.allocated_bytes
    cache._fresh = None
    for layer in range(2):
        shadow.check(cache, layer)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_live_bytes_are_the_storage_when_all_of_it_is_used(rule):
    cache = PackedKVCache(1, 2, 2, 40, D, k=rule, v=rule, recent=8, at_once=16)
    cache.append(0, *draw(2, 2, 2, 40, D))
    body = sum(p.untyped_storage().nbytes() for side in cache.sides for p in side.body)
    assert cache.n_packed_L == (32,)
    assert cache.live_bytes == body + 8 * 2 * 2 * 2 * D * 4
    assert cache.allocated_bytes > cache.live_bytes  # the call's own tokens are held until the next
    cache._fresh = None
    assert cache.allocated_bytes == body + sum(
        side.dense.untyped_storage().nbytes() for side in cache.sides
    )


def test_a_long_cache_is_a_third():
    n = rows.n_kept(0.7, 128)
    cache = PackedKVCache(1, 1, 2, 4096, 128, k=PerToken(n), v=PerToken(n), dtype=torch.float16)
    cache.append(0, *draw(2, 1, 2, 4096, 128, dtype=torch.float16))
    cache.append(0, *draw(2, 1, 2, 0, 128, dtype=torch.float16))
    dense = 2 * 2 * 4096 * 128 * 2
    assert 0.359375 < cache.live_bytes / dense < 0.37
    assert cache.allocated_bytes / dense < 0.4


def test_the_packing_of_a_long_prompt_does_not_depend_on_how_it_came():
    how = {"k": PerToken(4), "v": PerChannel(3, group=8), "recent": 5, "sink": 2}
    x = draw(2, 1, 2, 2300, D)
    whole, bits = (PackedKVCache(1, 1, 2, 2300, D, **how) for _ in range(2))
    whole.append(0, *x)
    for low in range(0, 2300, 77):
        bits.append(0, *x[:, :, :, low : low + 77])
    for cache in (whole, bits):
        cache.append(0, *x[:, :, :, :0])
    for a, b in zip(whole.unpacked(0), bits.unpacked(0), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("marks", rows.MARKS)
@pytest.mark.parametrize("n_kept", [1, 5, 16])
def test_the_kernel_packs_what_torch_packs(n_kept, marks, dtype):
    rule = PerToken(n_kept, marks=marks)
    x = draw(2, 3, 301, D, dtype=dtype)
    x[0, 0, :40] = x[0, 0, :40].round()  # ties, zeros of both signs
    x[0, 0, 0, 3], x[0, 0, 1] = torch.inf, -torch.inf
    x[0, 0, 2] = 0
    want = rows.pack(x, x.abs(), rule.n_kept, marks=rule.marks)
    values, marks = rule.encode(x)
    assert torch.equal(marks, want.marks)
    assert torch.equal(values.view(torch.uint8), want.values.view(torch.uint8))
    x[1, 2, 300, 15] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        rule.encode(x)


def test_without_numba_torch_packs(monkeypatch):
    x = draw(1, 2, 20, D)
    want = PerToken(5).encode(x)
    monkeypatch.setattr(kernels, "missing", lambda name: "no numba")
    assert all(map(torch.equal, PerToken(5).encode(x), want))


def test_numbers_that_cannot_be_ranked_change_nothing():
    x = draw(2, 1, 2, 12, D)
    x[1, 0, 0, 5, 3] = torch.nan
    cache = PackedKVCache(1, 1, 2, 40, D, k=Dense(), v=PerToken(4), recent=3, at_once=2)
    cache.append(0, *x[:, :, :, :4])
    before = [t.clone() for t in cache.unpacked(0)]
    with pytest.raises(ValueError, match="NaN"):
        cache.append(0, *x[:, :, :, 4:])
    assert cache.used_L == (4,) and cache.n_packed_L == (0,) and cache.seen == 4
    assert all(torch.equal(a, b) for a, b in zip(cache.unpacked(0), before, strict=True))


@pytest.mark.parametrize("ragged", [False, True])
def test_evict_then_pack(ragged):
    dense = KVCache(1, 2, 2, 60, D)
    x = draw(2, 2, 2, 50, D)
    dense.append(0, *x)
    keep = torch.rand(2, 2, 50, generator=torch.Generator().manual_seed(3)) < 0.6
    if not ragged:
        keep = keep[:1, :1].expand(2, 2, -1)
    dense.keep(0, keep)
    how = {"k": PerToken(D), "v": PerToken(D), "recent": 4, "sink": 2, "at_once": 3}
    packed = PackedKVCache.of(dense, **how)
    assert packed.n_packed_L[0] > 0 and packed.seen == 50
    for cache in (dense, packed):
        cache.append(0, *draw(2, 2, 2, 1, D, seed=5))
    q = draw(2, 4, 1, D)
    a, b = dense.read(0), packed.read(0)
    assert torch.equal(a.pos_BGT, b.pos_BGT) and (a.in_order, a.whole) == (b.in_order, b.whole)
    assert torch.equal(a.k_BGTD.where(a.pos_BGT[..., None] >= 0, 0), b.k_BGTD.where(
        b.pos_BGT[..., None] >= 0, 0))  # fmt: skip
    want = attend(q, a, backend="reference").out_BHSD
    got = attend(q, packed.read(0))
    assert got.backend == "rows"
    assert (got.out_BHSD - want).abs().max() < 1e-6
    assert torch.equal(dense.next_pos_B(), packed.next_pos_B())


@pytest.mark.parametrize("evicted", [False, True])
def test_whole_channels_are_held_narrower_and_seen_as_if_zeroed(evicted):
    """Think's channels of keys, its twin's of values, after an eviction or by themselves."""
    model = tiny_model(head_dim=16, dtype=torch.float32)
    tokens = torch.stack((torch.arange(180), torch.arange(180) + 7)) % 61
    narrow = Sparsify(
        Elements(think, 0.5, whole_channels), Elements(think_v, 0.75, whole_channels),
        sink=4, recent=12,
    )  # fmt: skip
    policy = Then(Evict(snapkv, 96, sink=4, recent=12), narrow) if evicted else narrow
    dense = model.new_cache(2, 190)
    prefill(model, tokens, dense, prune=policy)
    how = {"k": Channels(8), "v": Channels(4), "recent": 12, "sink": 4}
    cache = PackedKVCache.of(dense, **how, capacity=dense.used_L[0] + 8)
    n, packed = dense.used_L[0], cache.n_packed_L[0]
    assert packed == (64 if evicted else 160)
    heads = 3 * 2 * 2  # layers, rows, KV heads
    formula = heads * (packed * (8 + 4) * 4 + packed // 32 * (8 + 4) + (n - packed) * 2 * 16 * 4)
    body = sum(p.untyped_storage().nbytes() for side in cache.sides for p in side.body)
    assert cache.live_bytes == formula == body + heads * (n - packed) * 2 * 16 * 4
    assert cache.live_bytes < 0.6 * dense.live_bytes
    for a, b in zip(cache.unpacked(1), (dense.k_LBGTD, dense.v_LBGTD), strict=True):
        assert torch.equal(a, b[1, :, :, :n])
    for t in range(5):
        want = decode(model, tokens[:, t], dense, backend="reference")
        assert (decode(model, tokens[:, t], cache) - want).abs().max() < 1e-4 * want.abs().max()


def test_nothing_pruned_is_dense_to_the_bit(device):
    model = tiny_model(head_dim=16, device=device)
    rule = PerToken(16)
    tokens = torch.arange(50, device=device).reshape(2, 25) % 61
    packed = model_cache(model, rule, device)
    dense = model.new_cache(2, 60)
    for cache in (dense, packed):
        cache.logits = [prefill(model, tokens, cache, backend="reference")]
        for t in range(12):
            cache.logits.append(decode(model, tokens[:, t], cache, backend="reference"))
    assert min(packed.n_packed_L) == 32
    for a, b in zip(dense.logits, packed.logits, strict=True):
        assert torch.equal(a, b)


def model_cache(model, rule, device="cpu", **how):
    config = model.config
    return PackedKVCache(
        config.n_layers, 2, config.n_kv_heads, 60, config.head_dim, k=rule, v=rule,
        dtype=model.dtype, device=device, **{"recent": 4, "sink": 1, "at_once": 2, **how},
    )  # fmt: skip


def test_decode_reads_the_rows_and_agrees_with_the_reference():
    model = tiny_model(head_dim=16, dtype=torch.float32)
    tokens = torch.arange(50).reshape(2, 25) % 61
    by_rows, by_reference = (model_cache(model, PerToken(5)) for _ in range(2))
    a = prefill(model, tokens, by_rows)
    b = prefill(model, tokens, by_reference, backend="reference")
    for t in range(10):
        assert (a - b).abs().max() < 1e-4
        a = decode(model, tokens[:, t], by_rows)
        b = decode(model, tokens[:, t], by_reference, backend="reference")
    assert by_rows.bytes_unpacked == 0 < by_reference.bytes_unpacked
    assert by_rows.bytes_read == by_reference.bytes_read


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_compiled_step_reads_and_packs_the_rows(dtype):
    model = tiny_model(head_dim=16, dtype=dtype)
    prompts = [list(range(1, 24)), list(range(5, 20))]
    tokens, pos = pad(prompts)
    found = []
    for way in (decode, compiled_decode):
        cache = model_cache(model, PerToken(5))
        step = decode if way is decode else compiled_decode(model, cache)
        logits = [prefill(model, tokens, cache, pos_BS=pos)]
        for t in range(20):
            if t == 10:
                cache.shrink(50)
            logits.append(step(model, tokens[:, t], cache))
        found.append((torch.stack(logits).float(), cache))
    (want, plain), (got, compiled) = found
    assert (got - want).abs().max() < (1e-4 if dtype == torch.float32 else 0.05) * want.abs().max()
    assert compiled.n_packed_L == plain.n_packed_L and min(plain.n_packed_L) > 30
    assert (compiled.seen, compiled.bytes_unpacked) == (plain.seen, 0)
    assert compiled.bytes_written == plain.bytes_written


def test_prompts_of_different_lengths_are_each_as_if_alone():
    model = tiny_model(head_dim=16, dtype=torch.float32)
    prompts = [list(range(1, 24)), list(range(5, 20))]
    got = generate(model, prompts, 6, cache=model_cache(model, PerToken(16)))
    want = generate(model, prompts, 6)
    assert torch.equal(got, want)


@pytest.mark.parametrize("padded", [False, True])
def test_generate_packs_what_a_policy_left(padded):
    model = tiny_model(head_dim=16, dtype=torch.float32)
    prompts = [list(range(1, 46)), list(range(5, 45 if padded else 50))]
    policy = Then(
        adakv(24, sink=1, recent=4, score=needs(queries=8)(partial(snapkv))),
        Sparsify(v=Elements(v_magnitude, 0.7), sink=1, recent=4),
    )
    cache, dense = model_cache(model, PerToken(16)), model.new_cache(2, 60)
    want = generate(model, prompts, 9, cache=dense, prune=policy)
    assert torch.equal(generate(model, prompts, 9, cache=cache, prune=policy), want)
    assert cache.used_L == dense.used_L and min(cache.n_packed_L) > 15
    cache.reset()
    tokens, pos = pad(prompts)
    prefill(model, tokens, cache, pos_BS=pos, prune=policy)
    assert max(cache.used_L) < 40 and cache.seen == 45
    before = cache.live_bytes
    for how, why in [
        ({"cache": cache, "prune": policy}, "packed cache that holds 45 tokens"),
        (
            {"cache": model_cache(model, PerToken(16)), "prune": replace(policy.parts[0], every=2)},
            "goes on pruning",
        ),
        (
            {"cache": model_cache(model, PerToken(16)), "prune": Evict(snapkv, 4, 2, 2)},
            "queries that judge",
        ),
    ]:
        with pytest.raises(ValueError, match=why):
            generate(model, [prompt[:9] for prompt in prompts], 3, **how)
        assert how["cache"].live_bytes in (0, before)
    with pytest.raises(ValueError, match="PackedKVCache came with .* nothing can be taken out"):
        Pruner(model, cache, policy)


def test_a_packed_cache_takes_only_what_is_like_it():
    dense = KVCache(1, 2, 2, 60, D)
    dense.append(0, *draw(2, 2, 2, 50, D))
    how = {"k": PerToken(4), "v": PerToken(4), "recent": 4}
    cache = PackedKVCache(1, 2, 2, 60, D, **how)
    cache.take(dense)
    before = cache.live_bytes
    for twin in (cache, *(PackedKVCache(*s, **how) for s in ((2, 2, 2, 60, D), (1, 1, 2, 60, D)))):
        with pytest.raises(ValueError, match="expected an empty one of the same"):
            twin.take(dense)
    with pytest.raises(ValueError, match="50 tokens were to be appended"):
        PackedKVCache(1, 2, 2, 40, D, **how).take(dense)
    assert cache.live_bytes == before
    two = KVCache(2, 2, 2, 60, D)
    for layer in range(2):
        two.append(layer, *draw(2, 2, 2, 50, D))
    two.v_LBGTD[1, 1, 1, 7, 5] = torch.nan
    cache = PackedKVCache(2, 2, 2, 60, D, **how)
    with pytest.raises(ValueError, match="NaN"):
        cache.take(two)  # layer 0 was packed by then
    assert (cache.seen, cache.used_L, cache.n_packed_L, cache.live_bytes) == (0, (0, 0), (0, 0), 0)


def test_a_draft_that_cannot_be_packed_leaves_no_trace():
    """Its second layer holds NaN, which is found when the first is packed, and it is padded."""
    cache = PackedKVCache(2, 1, 2, 60, D, k=PerToken(4), v=PerToken(4), recent=4, at_once=2)
    draft = cache.draft(20)
    assert type(draft) is KVCache and (draft.capacity, draft.used_L) == (20, (0, 0))
    pos_BS = torch.arange(20)[None].where(torch.arange(20) < 15, -1)
    for layer in range(2):
        x = draw(2, 1, 2, 20, D)
        x[:, :, :, 3] = torch.nan if layer else 1.0
        draft.append(layer, *x, pos_BS)
    with pytest.raises(ValueError, match="NaN"):
        cache.take(draft)
    assert torch.equal(cache.pos_LBGT, torch.arange(60).expand(2, 1, 2, 60))
    assert cache.counts_positions and (cache.used_L, cache.n_packed_L) == ((0, 0), (0, 0))


def test_why_the_rows_are_not_read_is_said():
    x, q = draw(2, 2, 2, 30, D), draw(2, 4, 1, D)

    def ask(k_rule, v_rule, dtype=torch.float32, q=q):
        cache = PackedKVCache(1, 2, 2, 40, D, k=k_rule, v=v_rule, recent=4, dtype=dtype)
        cache.append(0, *x.to(dtype))
        return attend(q.to(dtype), cache.read(0))

    assert ask(PerToken(4), PerToken(4)).backend == "rows"
    for args, why in [
        ((PerToken(4), CodesPerToken(4, group=8)), "values are held by CodesPerToken"),
        ((Dense(), PerToken(4)), "keys are held by Dense"),
        ((PerToken(4, bits=4), PerToken(4)), "keys are held by PerToken"),
        ((PerToken(4), PerToken(4), torch.float64), "holds float64"),
        ((PerToken(4), PerToken(4), torch.float32, draw(2, 4, 3, D)), "3 new tokens"),
    ]:
        seen = ask(*args)
        assert seen.backend == "sdpa" and why in seen.why, seen.why
    dense = KVCache(1, 2, 2, 40, D)
    dense.append(0, *x)
    with pytest.raises(ValueError, match="not packed"):
        attend(q, dense.read(0), backend="rows")


@pytest.mark.parametrize("sink", [0, 2])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_gradients_flow_through_what_a_rule_kept(rule, sink):
    """As they do in the dense cache: a model whose weights are trained may read a packed one."""
    cache = PackedKVCache(1, 2, 2, 40, D, k=rule, v=rule, recent=4, sink=sink, at_once=16)
    new = [draw(2, 2, n, D, seed=n + i).requires_grad_() for n in (23, 1) for i in range(2)]
    q_BHSD = draw(2, 4, 1, D, seed=9).requires_grad_()
    cache.append(0, *new[:2])
    cache.append(0, *new[2:])
    assert cache.n_packed_L == (16,)
    got = attend(q_BHSD, cache.read(0)).out_BHSD
    whole = [torch.cat((
        x[:, :, :sink], held(rule, x[:, :, sink : sink + 16]), x[:, :, sink + 16 :], last
    ), 2) for x, last in zip(new[:2], new[2:], strict=True)]  # fmt: skip
    dense = KVCache(1, 2, 2, 40, D)
    dense.append(0, *whole)
    expected = attend(q_BHSD, dense.read(0)).out_BHSD
    torch.testing.assert_close(got, expected)
    found = [torch.autograd.grad(out.square().sum(), (q_BHSD, *new)) for out in (got, expected)]
    torch.testing.assert_close(*found)
    with torch.no_grad():  # then the rows are read as they are, where there is a kernel
        torch.testing.assert_close(attend(q_BHSD, cache.read(0)).out_BHSD, expected)


def test_gradients_flow_before_anything_is_packed_too():
    """No sinks and no body: torch took what nothing was written to for a leaf."""
    cache = PackedKVCache(1, 2, 2, 40, D, k=PerToken(5), v=PerToken(5), recent=8)
    k, v = (draw(2, 2, 3, D, seed=i).requires_grad_() for i in range(2))
    cache.append(0, k, v)
    attend(draw(2, 4, 2, D), cache.read(0)).out_BHSD.sum().backward()
    assert k.grad.any() and v.grad.any()


def test_a_compiled_step_goes_on_from_a_cache_that_was_filled_with_gradients():
    model = tiny_model(dtype=torch.float32).requires_grad_()
    ids = torch.arange(9)[None]
    filled, plain = model.new_cache(1, 12), model.new_cache(1, 12)
    model.hidden(ids, None, filled)
    prefill(model, ids, plain)
    token_B = torch.tensor([3])
    got = compiled_decode(model, filled)(model, token_B, filled)
    torch.testing.assert_close(got, decode(model, token_B, plain))


def test_what_a_packed_cache_cannot_do_is_refused_by_name():
    model = tiny_model(head_dim=16, dtype=torch.float32)
    cache = model_cache(model, PerToken(5))
    for name in ("keep", "grow", "advance", "k_LBGTD", "v_LBGTD"):
        assert not hasattr(cache, name)
    with pytest.raises(ValueError, match="compiled step.* held by CodesPerChannel"):
        compiled_decode(model, model_cache(model, CodesPerChannel(4, group=2)))
    kv = cache.read(0)
    cache.append(0, *draw(2, 2, 2, 1, 16))
    with pytest.raises(ValueError, match="Read it again"):
        kv.k_BGTD  # noqa: B018


def test_bad_sizes_are_refused_before_anything_is_made():
    def make(width=D, k=PerToken(4), v=None, **how):  # noqa: B008
        return PackedKVCache(1, 1, 1, 40, width, k=k, v=v or k, **how)

    for args, how, why in [
        ((12,), {}, "multiple of 8"),
        ((D, PerToken(17)), {}, "from 1 to 16"),
        ((D, PerToken(0)), {}, "from 1 to 16"),
        ((264, PerToken(4, marks="index")), {}, "they reach 256"),
        ((D, CodesPerToken(4, group=7)), {}, "expected a divisor"),
        ((D, CodesPerToken(3, group=8)), {}, "3 bits"),
        ((D, PerChannel(3, group=12)), {}, "multiple of 8"),
        ((D, PerChannel(3, group=0)), {}, "groups of 0"),
        ((D, Channels(3, group=0)), {}, "groups of 0"),
        ((D, Channels(17)), {}, "from 1 to 16"),
        ((264, Channels(3)), {}, "they reach 256"),
        ((D, Channels(3, group=None)), {}, r"Channels\(n_kept=3, group=None.* once for all tokens"),
        ((D, PerChannel(3, group=8)), {"at_once": 12}, "multiple of 8"),
        ((D, PerChannel(3, group=16), CodesPerChannel(2, group=24)), {"at_once": 24}, "of 48"),
        ((D,), {"recent": 0}, "at least 1"),
        ((D,), {"sink": -1}, "-1 sinks"),
        ((0,), {}, "head_dim of a cache is 0"),
    ]:
        with pytest.raises(ValueError, match=why):
            make(*args, **how)


@pytest.mark.parametrize("width, refused", [(248, False), (256, False), (264, True)])
def test_the_kernel_takes_heads_as_wide_as_its_indices_reach(width, refused):
    cache = PackedKVCache(1, 1, 1, 20, width, k=PerToken(8), v=PerToken(8))
    cache.append(0, *torch.randn(2, 1, 1, 5, width))
    why = cache.read(0).reader.missing(torch.randn(1, 1, 1, width))
    assert (why is not None and "indices reach 256" in why) == refused
