"""Packed rows: what goes in comes out, in exactly the bytes that the formula says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlab.pack.rows import code_bytes, n_kept, pack, quantise, row_bytes, smaller_marks

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def slowly(dense, score, count):
    """Row by row, with Python's own stable sort: what stays, and in its place."""
    out = torch.zeros_like(dense)
    flat, scores = dense.reshape(-1, dense.shape[-1]), score.reshape(-1, dense.shape[-1])
    for row, (numbers, ranks) in enumerate(zip(flat, scores.tolist(), strict=True)):
        order = sorted(range(len(ranks)), key=lambda j: -ranks[j])[:count]
        out.reshape(flat.shape)[row, order] = numbers[order]
    return out


@given(
    lead=st.lists(st.integers(0, 3), max_size=3), bytes_=st.integers(1, 33), data=st.data(),
    dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**20), ties=st.booleans(),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_exactly_the_highest_stay_and_come_back_in_place(lead, bytes_, data, dtype, seed, ties):
    width = 8 * bytes_
    count = data.draw(st.integers(1, width))
    marks = data.draw(st.sampled_from([None, "bitmap", *(["index"] if width <= 256 else [])]))
    dense = draw(*lead, width, dtype=dtype, seed=seed)
    score = dense.abs()
    if ties:
        score = (score * 2).round()
    rows = pack(dense, score, count, marks=marks)
    want = slowly(dense, score, count)
    assert torch.equal(rows.unpack(), want) and rows.unpack().dtype == dtype
    assert rows.n_kept == rows.values.shape[-1] == count
    assert rows.kind == (marks or smaller_marks(width, count))
    n_rows = dense[..., 0].numel()
    assert rows.nbytes == n_rows * row_bytes(width, count, dtype, marks=marks)
    storage = rows.values.untyped_storage().nbytes() + rows.marks.untyped_storage().nbytes()
    assert rows.nbytes == storage
    # a mask of the same numbers is the same rows
    if dense.numel():
        kept = torch.zeros_like(score, dtype=torch.bool).scatter_(
            -1, score.double().argsort(dim=-1, descending=True, stable=True)[..., :count], True
        )
        again = pack(dense, kept, count, marks=marks)
        assert torch.equal(again.values, rows.values) and torch.equal(again.marks, rows.marks)


def test_on_every_device(device):
    dense = draw(2, 3, 64)
    rows = pack(dense.to(device), dense.to(device).abs(), 19)
    want = pack(dense, dense.abs(), 19)
    assert torch.equal(rows.marks.cpu(), want.marks) and rows.marks.device.type == device
    assert torch.equal(rows.unpack().cpu(), want.unpack())
    codes = quantise(dense.to(device), 4)
    torch.testing.assert_close(codes.unpack().cpu(), quantise(dense, 4).unpack())


def test_the_bitmap_is_little_endian():
    dense = torch.zeros(1, 64)
    dense[0, [0, 9, 35, 63]] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    rows = pack(dense, dense, 4, marks="bitmap")
    word = int.from_bytes(bytes(rows.marks[0].tolist()), "little")
    assert word == 1 << 0 | 1 << 9 | 1 << 35 | 1 << 63
    assert rows.values.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert pack(dense, dense, 4, marks="index").marks.tolist() == [[0, 9, 35, 63]]


@pytest.mark.parametrize(
    ("sparsity", "dtype", "share"),
    [
        (0.5, torch.float16, 0.5625),
        (0.7, torch.float16, 0.359375),
        (0.7, torch.bfloat16, 0.359375),
        (0.7, torch.float32, 0.328125),
        (0.8, torch.float16, 0.265625),
        (0.9, torch.float16, 0.15234375),
    ],
)
def test_the_share_of_dense_bytes(sparsity, dtype, share):
    dense = draw(5, 128, dtype=dtype)
    rows = pack(dense, dense.abs(), n_kept(sparsity, 128))
    assert rows.nbytes / dense.nbytes == share


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("marks", ["bitmap", "index"])
def test_sparsity_zero_is_dense_to_the_bit(dtype, marks):
    dense = draw(3, 40, dtype=dtype)
    dense[0, 3] = -0.0
    back = pack(dense, dense.abs(), n_kept(0, 40), marks=marks).unpack()
    assert torch.equal(back, dense) and torch.equal(back.signbit(), dense.signbit())


@given(
    rows=st.integers(0, 5), width=st.integers(1, 40), bits=st.sampled_from([2, 4, 8]),
    dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**20),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_codes_are_within_half_a_step(rows, width, bits, dtype, seed, scale):
    dense = draw(rows, width, dtype=dtype, seed=seed) * scale
    codes = quantise(dense, bits)
    back = codes.unpack()
    assert back.dtype == dtype and back.shape == dense.shape
    low, high = dense.double().amin(-1, keepdim=True), dense.double().amax(-1, keepdim=True)
    info = torch.finfo(dtype)
    rounding = 2 * info.eps * (low.abs() + high.abs() + high - low) + 1e-6 * scale
    rounding += info.smallest_normal * info.eps * 2**bits  # a step so small that it lost its bits
    step = (high - low) / (2**bits - 1)
    assert ((back.double() - dense.double()).abs() <= step / 2 + rounding).all()
    assert codes.nbytes == rows * code_bytes(width, bits, dtype)
    assert codes.nbytes == sum(
        t.untyped_storage().nbytes() for t in (codes.codes, codes.scale, codes.zero)
    )


def test_codes_by_hand():
    codes = quantise(torch.tensor([[-1.0, 0.0, 1.0, 2.0, 0.4]]), 2)
    assert codes.zero.tolist() == [-1.0] and codes.scale.tolist() == [1.0]
    assert codes.codes.tolist() == [[0 | 1 << 2 | 2 << 4 | 3 << 6, 1]]
    assert codes.unpack().tolist() == [[-1.0, 0.0, 1.0, 2.0, 0.0]]
    flat = quantise(torch.full((1, 5), 3.5, dtype=torch.float16), 4)
    assert flat.unpack().tolist() == [[3.5] * 5]
    wide = quantise(torch.tensor([[-60000.0, 60000.0]], dtype=torch.float16), 8)
    assert wide.unpack().isfinite().all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_pruned_then_quantised(bits):
    dense = draw(4, 128)
    rows = pack(dense, dense.abs(), 38, bits=bits)
    exact = pack(dense, dense.abs(), 38)
    assert rows.n_kept == 38 and torch.equal(rows.marks, exact.marks)
    assert torch.equal(rows.values.unpack(), quantise(exact.values, bits).unpack())
    back = rows.unpack()
    assert torch.equal(back == 0, exact.unpack() == 0) or bits == 2  # a code may be a zero
    assert rows.nbytes == 4 * row_bytes(128, 38, torch.float32, bits=bits)


def test_bad_input_is_refused_by_name():
    dense = draw(2, 16)
    score = dense.abs()
    for width in (4, 12):
        with pytest.raises(ValueError, match="multiple of 8"):
            pack(draw(2, width), draw(2, width), 3)
    for count in (0, 17, -1, 2.0):
        with pytest.raises(ValueError, match="from 1 to 16"):
            pack(dense, score, count)
    with pytest.raises(ValueError, match="they reach 256"):
        pack(draw(1, 264), draw(1, 264), 3, marks="index")
    with pytest.raises(ValueError, match="'csr' were asked"):
        pack(dense, score, 3, marks="csr")
    with pytest.raises(ValueError, match="3 bits"):
        pack(dense, score, 3, bits=3)
    with pytest.raises(ValueError, match="5 bits"):
        quantise(dense, 5)
    with pytest.raises(ValueError, match="expected the same of both"):
        pack(dense, score[:1], 3)
    with pytest.raises(ValueError, match="does not keep 3"):
        pack(dense, dense > 9, 3)
    with pytest.raises(ValueError, match="NaN"):
        pack(dense, score / 0 * 0, 3)
    with pytest.raises(ValueError, match="expected floats"):
        pack(dense.long(), score, 3)
    with pytest.raises(ValueError, match="expected floats"):
        quantise(dense.long(), 4)
    for sparsity in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"\[0, 1\)"):
            n_kept(sparsity, 16)
