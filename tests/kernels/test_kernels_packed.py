"""The kernel for packed rows, against attention in float64 on the rows unpacked."""

import pytest
import torch

from kvlab import attend, kernels
from kvlab.cache import LayerKV
from kvlab.kernels import packed as kernel
from kvlab.kernels import placing
from kvlab.pack import PackedKVCache, PerToken


@pytest.fixture(params=[True, False], ids=["spread", "places"])
def way(request, monkeypatch):
    """Bitmaps are read in two ways; which one is the processor's business, being right is not."""
    monkeypatch.setattr(placing, "SPREADS", request.param)
    return request.param


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(slots, width, k_rule, v_rule, *, dtype=torch.float32, pos=None, **how):
    """A cache of two rows and two heads, one token after the rest, so that nothing is fresh."""
    cache = PackedKVCache(
        1, 2, 2, slots + 3, width, k=k_rule, v=v_rule, dtype=dtype,
        **{"recent": 8, "at_once": 4, **how},
    )  # fmt: skip
    k, v = draw(2, 2, 2, slots, width).to(how.get("device", "cpu"), dtype)
    cut = slots - 1
    for low, high in ((0, cut), (cut, slots)):
        part = None if pos is None else pos[:, low:high]
        cache.append(0, k[:, :, low:high], v[:, :, low:high], part)
    return cache


def error(cache, sharing, q_pos=None):
    """The greatest difference of the kernel's output from the formula's, on float32 queries."""
    kv = cache.read(0)
    q = draw(2, 2 * sharing, 1, kv.k_BGTD.shape[-1], seed=9)
    wide = LayerKV(kv.k_BGTD.double(), kv.v_BGTD.double(), kv.pos_BGT, kv.in_order, kv.whole)
    want = attend(q.double(), wide, q_pos, backend="reference").out_BHSD
    got = attend(q, cache.read(0), q_pos)
    assert got.backend == "rows" and got.out_BHSD.dtype == torch.float32
    return float((got.out_BHSD - want).abs().max())


@pytest.mark.parametrize("sharing", [1, 3, 4, 6, 8])
@pytest.mark.parametrize("marks", ["bitmap", "index"])
def test_heads_of_a_group_share_the_rows(sharing, marks, way):
    rule = PerToken(19, marks=marks)
    assert error(filled(300, 64, rule, rule), sharing) < 1e-5


@pytest.mark.parametrize(
    ("width", "k_kept", "v_kept"),
    [(8, 1, 8), (32, 3, 31), (128, 38, 13), (128, 128, 128), (256, 255, 77), (80, 5, 6)],
)
def test_any_width_and_any_count(width, k_kept, v_kept, way):
    cache = filled(70, width, PerToken(k_kept, marks="bitmap"), PerToken(v_kept))
    assert error(cache, 4) < 1e-5


@pytest.mark.parametrize("slots", [1, 2, 9, 12, 13, 44, 268, 520, 521, 1034])
@pytest.mark.parametrize("sinks", [0, 4])
def test_any_length(slots, sinks, way):
    """Nothing packed, an odd row, less than a block, whole blocks and parts, and one more."""
    rule = PerToken(12, marks="bitmap")
    assert error(filled(slots, 32, rule, rule, sink=sinks, at_once=1), 2) < 1e-5


def test_a_row_is_spread_where_it_can_be(way):
    tensors = (None, None)
    assert kernel.spread((*tensors, True), (*tensors, False), 64) == (way, False)
    assert kernel.spread((*tensors, True), (*tensors, True), 72) == (False, False)


def test_padding_and_the_future_are_not_seen(way):
    pos = torch.arange(300).repeat(2, 1)
    pos[0, 40:90] = -1
    pos[1, :280] = -1  # a whole part of nothing
    pos[1, 280:] = torch.arange(20)
    rule = PerToken(7, marks="bitmap")
    cache = filled(300, 32, rule, rule, pos=pos, sink=2)
    assert error(cache, 4) < 1e-5
    assert error(cache, 4, torch.tensor([[200], [3]])) < 1e-5
    q = draw(2, 8, 1, 32)
    alone = attend(
        q, cache.read(0), torch.tensor([[-1], [3]])
    )  # sees nothing: a number all the same
    assert alone.out_BHSD.isfinite().all()


def test_large_scores_do_not_overflow(way):
    rule = PerToken(20)
    cache = filled(300, 32, rule, rule)
    for part in (cache.sides[0].body[0], cache.sides[0].dense):
        part.mul_(200)
    assert error(cache, 4) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("marks", ["bitmap", "index"])
def test_half_precision_is_read_as_it_is_and_worked_with_in_float32(dtype, marks, way):
    rule = PerToken(9, marks=marks)
    assert error(filled(300, 32, rule, rule, dtype=dtype, sink=1), 4) < 1e-5


def test_two_threads_give_what_one_gives():
    rule = PerToken(19)
    cache, q = filled(700, 64, rule, rule), draw(2, 8, 1, 64)
    one = attend(q, cache.read(0)).out_BHSD
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(attend(q, cache.read(0)).out_BHSD, one)
    finally:
        torch.set_num_threads(before)


def test_no_query_of_another_kind_is_taken():
    rule = PerToken(5)
    cache = filled(40, 16, rule, rule)
    with pytest.raises(ValueError, match="2 new tokens"):
        attend(draw(2, 4, 2, 16), cache.read(0), backend="rows")


def test_without_numba_rows_are_unpacked_and_the_reason_said(monkeypatch):
    rule = PerToken(5)
    cache = filled(40, 16, rule, rule)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kernels.missing("packed") == "numba is not installed (pip install numba)"
    seen = attend(draw(2, 4, 1, 16), cache.read(0))
    assert seen.backend == "sdpa" and "numba is not installed" in seen.why
