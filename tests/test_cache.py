import pytest
import torch

from kvlab import KVCache, decode, prefill
from tests.conftest import tiny_model


def rows(n, seed=0, batch=2, heads=3, width=4):
    torch.manual_seed(seed)
    return torch.randn(batch, heads, n, width), torch.randn(batch, heads, n, width)


def filled(*lengths, layers=2, capacity=12):
    cache = KVCache(layers, 2, 3, capacity, 4)
    for i, n in enumerate(lengths):
        for layer in range(layers):
            cache.append(layer, *rows(n, seed=10 * i + layer))
    return cache


def test_read_gives_back_what_was_appended_as_views():
    cache = filled(3, 2)
    for layer in range(2):
        kv = cache.read(layer)
        assert torch.equal(kv.k_BGTD, torch.cat([rows(3, layer)[0], rows(2, 10 + layer)[0]], 2))
        assert torch.equal(kv.v_BGTD, torch.cat([rows(3, layer)[1], rows(2, 10 + layer)[1]], 2))
        assert kv.pos_BGT.tolist() == [[[0, 1, 2, 3, 4]] * 3] * 2
        assert kv.in_order
        assert kv.k_BGTD.untyped_storage().data_ptr() == cache.k_LBGTD.untyped_storage().data_ptr()


def test_each_layer_counts_its_own():
    cache = filled(3)
    cache.append(0, *rows(2, 5))
    assert cache.read(0).k_BGTD.shape[2] == 5
    assert cache.read(1).k_BGTD.shape[2] == 3
    assert cache.length == 3


def test_overflow_is_refused_and_changes_nothing():
    cache = filled(3, 2, capacity=6)
    before = cache.k_LBGTD.clone()
    with pytest.raises(ValueError, match=r"2 tokens .* 1 of 6 slots free"):
        cache.append(1, *rows(2))
    assert torch.equal(cache.k_LBGTD, before) and cache.length == 5


def test_bytes_reported_are_those_of_the_storage_and_the_formula():
    cache = filled(3, 2)
    storage = cache.k_LBGTD.untyped_storage().nbytes() + cache.v_LBGTD.untyped_storage().nbytes()
    assert cache.allocated_bytes == storage == 2 * 2 * 2 * 3 * 12 * 4 * 4
    assert cache.live_bytes == cache.bytes_written == 2 * 2 * 2 * 3 * 5 * 4 * 4
    before = cache.bytes_read
    cache.read(0)
    assert cache.bytes_read - before == 2 * 2 * 3 * 5 * 4 * 4


def test_fork_has_its_own_memory():
    cache = filled(3)
    twin = cache.fork()
    assert twin.bytes_copied == cache.live_bytes
    cache.append(0, *rows(1, 50))
    twin.append(0, *rows(1, 60))
    for store in ("k_BGTD", "v_BGTD"):
        ours, theirs = getattr(cache.read(0), store), getattr(twin.read(0), store)
        assert torch.equal(ours[:, :, :3], theirs[:, :, :3]) and ours[:, :, :3].any()
    assert torch.equal(cache.read(0).k_BGTD[:, :, 3:], rows(1, 50)[0])
    assert torch.equal(twin.read(0).k_BGTD[:, :, 3:], rows(1, 60)[0])


def test_rewind_copies_nothing_and_writing_goes_on_there():
    cache = filled(3, 2)
    pointer = cache.k_LBGTD.data_ptr()
    cache.rewind(2)
    assert (cache.length, cache.k_LBGTD.data_ptr(), cache.bytes_copied) == (2, pointer, 0)
    cache.append(0, *rows(1, 70))
    assert torch.equal(cache.read(0).k_BGTD[:, :, 2:], rows(1, 70)[0])
    assert cache.read(0).pos_BGT[0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("length", [-1, 6])
def test_rewinding_to_what_is_not_there_is_refused(length):
    cache = filled(3, 2)
    with pytest.raises(ValueError, match=f"Rewinding to {length} tokens"):
        cache.rewind(length)
    assert cache.length == 5


def test_padding_takes_the_cache_out_of_order_until_it_is_empty():
    cache = KVCache(1, 2, 3, 8, 4)
    cache.append(0, *rows(3), torch.tensor([[0, 1, 2], [0, 1, -1]]))
    assert not cache.in_order
    assert cache.next_pos_B().tolist() == [3, 2]
    assert cache.fork().next_pos_B().tolist() == [3, 2]
    with pytest.raises(ValueError, match="was given positions"):
        cache.append(0, *rows(1))
    cache.reset()
    assert cache.in_order and cache.next_pos_B().tolist() == [0, 0]
    cache.append(0, *rows(2))
    assert cache.read(0).pos_BGT[1, 2].tolist() == [0, 1]


@pytest.mark.parametrize(("batch", "capacity", "named"), [(0, 4, "batch 0"), (1, 0, "capacity 0")])
def test_a_cache_of_nothing_is_refused(batch, capacity, named):
    with pytest.raises(ValueError, match=named):
        KVCache(1, batch, 1, capacity, 4)


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_of_another_shape_are_refused_and_change_nothing(batch):
    """One row would otherwise be copied into every row of the cache."""
    cache = filled(3)
    before = cache.k_LBGTD.clone()
    with pytest.raises(ValueError, match=rf"\({batch}, 3, 2, 4\).*expected \(2, 3, 2, 4\)"):
        cache.append(0, *rows(2, batch=batch), torch.tensor([[3, 4]]))
    assert torch.equal(cache.k_LBGTD, before) and cache.length == 3 and cache.in_order


def test_rows_of_another_type_or_layer_are_refused_and_change_nothing():
    cache = filled(3)
    before = cache.k_LBGTD.clone()
    k, v = rows(1)
    for wrong in ((k.double(), v.double()), (k, v.half())):
        with pytest.raises(ValueError, match="to a cache of torch.float32"):
            cache.append(0, *wrong)
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=f"Layer {layer} .* 0 to 1"):
            cache.append(layer, k, v)
        with pytest.raises(ValueError, match=f"Layer {layer}"):
            cache.read(layer)
    assert torch.equal(cache.k_LBGTD, before) and cache.length == 3


@pytest.mark.parametrize("mask", [torch.ones(2, 3, 4).bool(), torch.ones(2, 3, 3)])
def test_a_mask_that_does_not_fit_is_refused_and_evicts_nothing(mask):
    cache = filled(3)
    with pytest.raises(ValueError, match=r"expected booleans of shape \(2, 3, 3\)"):
        cache.keep(0, mask)
    assert cache.length == 3 and cache.in_order


def test_keeping_everything_changes_nothing():
    cache = filled(3, 2)
    cache.keep(0, torch.ones(2, 3, 5, dtype=torch.bool))
    assert cache.in_order and cache.bytes_copied == 0 and cache.length == 5


def test_heads_may_keep_different_numbers_and_empty_slots_are_marked():
    cache = filled(4, layers=1)
    keep = torch.ones(2, 3, 4, dtype=torch.bool)
    keep[0, 0, 1:3], keep[1] = False, torch.tensor([False, True, True, False])
    k = cache.read(0).k_BGTD.clone()
    cache.keep(0, keep)
    kv = cache.read(0)
    assert kv.pos_BGT.tolist() == [
        [[0, 3, -1, -1], [0, 1, 2, 3], [0, 1, 2, 3]],
        [[1, 2, -1, -1]] * 3,
    ]
    assert torch.equal(kv.k_BGTD[0, 0, :2], k[0, 0, [0, 3]])
    assert torch.equal(kv.k_BGTD[1, 2, :2], k[1, 2, [1, 2]])
    assert not kv.whole and not cache.in_order
    kept, moved, row = 2 + 4 + 4 + 3 * 2, 1 + 3 * 2, 2 * 4 * 4
    assert (cache.live_bytes, cache.bytes_copied) == (kept * row, moved * row)
    assert (cache.seen, cache.length, cache.next_pos_B().tolist()) == (4, 4, [4, 4])


def test_only_shrink_gives_memory_back():
    cache = filled(4)
    for layer in range(2):
        cache.keep(layer, torch.tensor([True, False, True, False]).expand(2, 3, 4))
    assert cache.allocated_bytes == 2 * 2 * 2 * 3 * 12 * 4 * 4
    before = [cache.read(layer).k_BGTD.clone() for layer in range(2)]
    copied = cache.bytes_copied
    with pytest.raises(ValueError, match="Shrinking to 1 slots .* 2 are used"):
        cache.shrink(1)
    cache.shrink()
    storage = cache.k_LBGTD.untyped_storage().nbytes() + cache.v_LBGTD.untyped_storage().nbytes()
    assert cache.allocated_bytes == storage == cache.live_bytes == 2 * 2 * 2 * 3 * 2 * 4 * 4
    assert cache.bytes_copied - copied == cache.live_bytes
    assert all(torch.equal(cache.read(layer).k_BGTD, before[layer]) for layer in range(2))
    with pytest.raises(ValueError, match="0 of 2 slots free"):
        cache.append(0, *rows(1))


def test_what_was_evicted_cannot_be_rewound_to():
    cache = filled(4, layers=1)
    cache.keep(0, torch.tensor([True, False, True, True]).expand(2, 3, 4))
    for i in range(2):
        cache.append(0, *rows(1, 80 + i))
    assert cache.read(0).pos_BGT[1, 2].tolist() == [0, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="evicted some after token 4"):
        cache.rewind(3)
    cache.rewind(5)
    assert cache.read(0).pos_BGT[0, 0].tolist() == [0, 2, 3, 4]
    assert cache.next_pos_B().tolist() == [5, 5]
    cache.rewind(0)
    assert cache.in_order and cache.live_bytes == 0


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_decoding_after_eviction_is_attention_over_what_was_kept(padded, ragged, backend, device):
    """The oracle never moves a row: it only marks evicted slots, so that nothing may see them."""
    model = tiny_model(device=device)
    draw = torch.Generator().manual_seed(3)
    tokens_BS = torch.randint(0, 61, (2, 14), generator=draw).to(device)
    pos_BS = torch.arange(12).repeat(2, 1)
    if padded:
        pos_BS[1, 9:] = -1
    pos_BS = pos_BS.to(device)
    cache, marked = model.new_cache(2, 20), model.new_cache(2, 20)
    prefill(model, tokens_BS[:, :12], cache, pos_BS=pos_BS if padded else None)
    prefill(model, tokens_BS[:, :12], marked, pos_BS=pos_BS)
    for layer in range(3):
        keep = torch.rand(2, 2, 12, generator=draw) < 0.5
        keep[:, :, 0] = True
        if not ragged:
            keep = keep[:1, :1].expand(2, 2, -1)
        keep = keep.to(device)
        marked.pos_LBGT[layer, :, :, :12][~keep] = -1
        cache.keep(layer, keep)
    assert cache.live_bytes < marked.live_bytes
    cache.shrink(15)
    next_B = (pos_BS.amax(-1) + 1)[:, None]
    for step in range(2):
        token_B = tokens_BS[:, 12 + step]
        got = decode(model, token_B, cache, backend=backend)
        want = model(token_B[:, None], next_B + step, marked, backend="reference")[:, -1]
        assert (got - want).abs().max() < 1e-9
