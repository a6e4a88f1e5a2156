"""What all our caches have in common: the same slots, positions and refusals, dense or packed."""

import pytest
import torch

from kvlab import KVCache
from kvlab.pack import Dense, PackedKVCache, PerToken
from kvlab.slots import Slots
from tests.conftest import tiny_model

SIZES = (2, 2, 3, 40, 8)
KINDS = {
    "dense": lambda: KVCache(*SIZES),
    "packed": lambda: PackedKVCache(*SIZES, k=PerToken(4), v=Dense(), recent=3, sink=1, at_once=2),
}


def new(n, seed=0):
    return torch.randn(2, 2, 3, n, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=KINDS)
def cache(request):
    made = KINDS[request.param]()
    for layer in range(2):
        made.append(layer, *new(9))
    return made


def test_sizes_and_counts(cache):
    assert isinstance(cache, Slots)
    sizes = cache.n_layers, cache.batch, cache.n_kv_heads, cache.capacity, cache.head_dim
    assert sizes == SIZES and cache.device == torch.device("cpu") and cache.dtype == torch.float32
    assert (cache.used_L, cache.seen, cache.length) == ((9, 9), 9, 9)
    assert cache.in_order and cache.counts_positions and cache.whole_L == (True, True)
    assert cache.next_pos_B().tolist() == [9, 9]
    assert torch.equal(cache.read(1).pos_BGT, torch.arange(9).expand(2, 3, 9))


def test_padded_positions_and_what_follows_them(cache):
    pos_BS = torch.tensor([[9, 10, -1], [9, -1, -1]])
    for layer in range(2):
        cache.append(layer, *new(3), pos_BS)
    assert not cache.counts_positions and cache.whole_L == (False, False)
    assert cache.next_pos_B().tolist() == [11, 10]
    assert cache.read(0).pos_BGT[1, 2].tolist() == [*range(10), -1, -1]
    assert cache.pos_LBGT[:, :, :, 12:].eq(-1).all()
    with pytest.raises(ValueError, match="Pass pos_BS"):
        cache.append(0, *new(1))
    cache.rewind(10)
    assert cache.read(1).pos_BGT[0, 0].tolist() == [*range(10)]
    assert cache.pos_LBGT[:, :, :, 10:].eq(-1).all()
    cache.reset()
    assert cache.counts_positions and cache.in_order and cache.next_pos_B().tolist() == [0, 0]
    assert torch.equal(cache.pos_LBGT, torch.arange(40).expand(2, 2, 3, 40))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            (new(1)[0][:1], new(1)[1]),
            r"k_BGSD .* shape \(1, 3, 1, 8\) .* expected a tensor \(2, 3, 1, 8\)",
        ),
        (
            (new(1)[0].half(), new(1)[1]),
            "k_BGSD .* type torch.float16; .* of torch.float32 on cpu. .*new_cache",
        ),
        (new(32), "32 tokens were to be appended, but the cache has 31 of 40 slots free"),
        (
            (*new(1), torch.zeros(1, 1, dtype=torch.int64)),
            r"pos_BS .* shape \(1, 1\) .* tensor \(2, 1\)",
        ),
        ((*new(1), torch.zeros(2, 1)), "type torch.float32; .* of whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(cache, given, why):
    before = cache.live_bytes, cache.bytes_written, cache.used_L
    with pytest.raises(ValueError, match=why):
        cache.append(0, *given)
    with pytest.raises(ValueError, match="Layer 2 was asked for"):
        cache.append(2, *new(1))
    with pytest.raises(ValueError, match="Layer -1 was asked for"):
        cache.read(-1)
    assert (cache.live_bytes, cache.bytes_written, cache.used_L) == before


def test_a_model_makes_any_cache():
    model = tiny_model(dtype=torch.float32)
    dense, packed = model.new_cache(2, 30), model.new_cache(2, 30, k=PerToken(4), v=Dense(), sink=3)
    assert type(dense) is KVCache and type(packed) is PackedKVCache
    for cache in (dense, packed):
        assert (cache.n_layers, cache.batch, cache.n_kv_heads, cache.capacity) == (3, 2, 2, 30)
    assert packed.rules == (PerToken(4), Dense()) and (packed.sink, packed.recent) == (3, 32)
    for how, why in [
        ({"k": PerToken(4)}, "'v': None}; expected a rule for keys, k=, and one for values"),
        ({"v": PerToken(4)}, "'k': None, 'v': PerToken"),
        ({"recent": 3}, "'recent': 3}; expected a rule"),
        ({"k": 3, "v": 4}, "Neither 3 nor 4 makes a cache"),
    ]:
        with pytest.raises(ValueError, match=why):
            model.new_cache(2, 30, **how)


def test_old_names_work_with_one_warning_each():
    with pytest.warns(FutureWarning) as seen:
        old = PackedKVCache(*SIZES, k_rule=PerToken(4), v_rule=Dense(), recent=3, sinks=1, every=2)
    assert [str(w.message).split(";")[0] for w in seen] == [
        "k_rule= is now k=", "v_rule= is now v=", "sinks= is now sink=", "every= is now at_once=",
    ]  # fmt: skip
    assert {w.filename for w in seen} == {__file__}
    for name, now in {"sinks": "sink", "every": "at_once", "packed_L": "n_packed_L"}.items():
        with pytest.warns(FutureWarning, match=f"PackedKVCache.{name} is now PackedKVCache.{now};"):
            assert getattr(old, name) == getattr(old, now)
    with pytest.warns(FutureWarning, match="check_room is now PackedKVCache.check_capacity"):
        old.check_room(40)
    with pytest.warns(FutureWarning, match="LayerKV.packed is now LayerKV.reader"):
        assert KVCache(*SIZES).read(0).packed is None
    with pytest.warns(FutureWarning, match="k_rule= is now k="):
        packed = PackedKVCache.of(KVCache(*SIZES), k_rule=PerToken(4), v=Dense())
    assert packed.rules == old.rules
    with pytest.raises(TypeError, match="was given every= and at_once=, which are one"):
        PackedKVCache(*SIZES, k=Dense(), v=Dense(), every=2, at_once=2)


@pytest.mark.parametrize("kind", ["dense", "packed"])
def test_a_cache_of_one_head_knows_the_positions_that_come_next(kind):
    sizes = (1, 2, 1, 20, 8)
    cache = KVCache(*sizes) if kind == "dense" else PackedKVCache(*sizes, k=PerToken(4), v=Dense())
    cache.append(0, *torch.randn(2, 2, 1, 3, 8), torch.tensor([[-1, 0, 1], [0, 1, 2]]))
    assert cache.next_pos_B().tolist() == [2, 3]
    cache.append(0, *torch.randn(2, 2, 1, 1, 8), torch.tensor([[2], [3]]))
    assert cache.next_pos_B().tolist() == [3, 4]
