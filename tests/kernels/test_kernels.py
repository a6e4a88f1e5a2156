"""The CPU's kernels one by one, against torch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kvlab import kernels, ops
from kvlab.kernels import cpu

STORED = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int8]
BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


def numbers(tensor):
    return tensor.view(BITS.get(tensor.dtype, tensor.dtype)).numpy()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("rows", [1, 4, 12])
@pytest.mark.parametrize(("n_in", "n_out"), [(8, 1), (24, 61), (1300, 130), (5, 64)])
def test_a_linear_layer(stored, rows, n_in, n_out):
    work = torch.float64 if stored == torch.float64 else torch.float32
    w = (draw(n_out, n_in) * (50 if stored == torch.int8 else 1)).to(stored)
    x, bias, scale = (t.to(work) for t in (draw(rows, n_in), draw(n_out), draw(n_out, seed=1)))
    none = np.zeros(0, bias.numpy().dtype)
    plain = F.linear(x.double(), w.double())
    near = (1e-12 if work == torch.float64 else 1e-5) * plain.abs().max() * n_in**0.5
    for add in (False, True):
        y = draw(rows, n_out, seed=2).to(work)
        before = y.double() * add
        cpu.project(numbers(w), scale.numpy(), bias.numpy(), x.numpy(), y.numpy(), add)
        assert (y - (before + plain * scale.double() + bias)).abs().max() < near
        y = draw(rows, n_out, seed=2).to(work)
        cpu.project(numbers(w), none, none, x.numpy(), y.numpy(), add)
        assert (y - (before + plain)).abs().max() < near


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(("n_in", "n_out"), [(8, 1), (24, 61), (1300, 130), (5, 64)])
def test_a_linear_layer_of_int8_in_whole_numbers(n_in, n_out, add):
    w = (draw(n_out, n_in) * 50).clamp(-127, 127).to(torch.int8)
    x, bias, scale = (t.float() for t in (draw(1, n_in), draw(n_out), draw(n_out, seed=1)))
    none, y = np.zeros(0, np.float32), draw(1, n_out, seed=2).float()
    before = y.double() * add
    for vector, more in ((bias, bias), (none, 0)):
        got = y.clone()
        cpu.project_int8(w.numpy(), scale.numpy(), np.asarray(vector), x.numpy(), got.numpy(), add)
        # each number of the row is off by at most half a step
        off = w.double().abs().sum(1) * scale.double().abs() * x.abs().max() / 16383 * 0.51
        want = before + F.linear(x.double(), w.double()) * scale.double() + more
        assert ((got - want).abs() <= off + 1e-4).all()


def test_the_largest_sum_of_int8_fits_and_a_row_of_zeros_is_zero():
    w, x = np.full((1, 4096), 127, np.int8), np.full((1, 4096), 3.0, np.float32)
    one, none, y = np.ones(1, np.float32), np.zeros(0, np.float32), np.empty((1, 1), np.float32)
    cpu.project_int8(w, one, none, x, y, False)
    assert y[0, 0] == pytest.approx(4096 * 127 * 3)
    cpu.project_int8(w, one, none, 0 * x, y, False)
    assert y[0, 0] == 0


@pytest.mark.parametrize("work", [torch.float64, torch.float32])
def test_norm_turn_and_swiglu(work):
    near = 1e-12 if work == torch.float64 else 1e-5
    x, weight = draw(3, 48).to(work), draw(48, seed=1).to(work)
    y = torch.empty_like(x)
    cpu.norm(x.numpy(), weight.numpy(), 1e-5, y.numpy())
    torch.testing.assert_close(y, ops.rms_norm(x, weight, 1e-5), rtol=near, atol=near)

    heads = draw(3, 4, 8).to(work)
    cos, sin = ops.rope_angles(torch.tensor([[0], [7], [300]]), 8, 1e4, work)
    want = ops.apply_rope(heads[:, :, None], cos, sin)[:, :, 0]
    cpu.turn(heads.numpy(), cos[:, 0].contiguous().numpy(), sin[:, 0].contiguous().numpy())
    torch.testing.assert_close(heads, want, rtol=near, atol=near)

    gate, up = draw(2, 50).to(work) * 30, draw(2, 50, seed=3).to(work)
    want = ops.swiglu(gate, up)
    cpu.swiglu(gate.numpy(), up.numpy())
    torch.testing.assert_close(gate, want, rtol=10 * near, atol=near)


@pytest.mark.parametrize("stored", STORED[:-1])
@pytest.mark.parametrize("used", [1, 255, 256, 700])
def test_attention_over_marked_slots(stored, used):
    batch, heads, groups, width, capacity = 2, 6, 2, 8, 700
    work = torch.float64 if stored == torch.float64 else torch.float32
    q = draw(batch, heads, width).to(work)
    k, v = (draw(batch, groups, capacity, width, seed=s).to(stored) for s in (1, 2))
    pos = torch.arange(capacity).repeat(batch, groups, 1)
    pos[0, 1, 1:250:3], pos[1, 0, 260:520] = -1, -1
    q_pos = torch.tensor([used, max(0, used - 3)])
    scratch = tuple(
        torch.zeros(batch, heads, *size, dtype=work).numpy()
        for size in ((capacity,), (3,), (3,), (3, width))
    )
    for whole in (False, True):
        ok = (pos >= 0) & (pos <= q_pos[:, None, None]) | whole
        out = torch.empty_like(q)
        cpu.attend(
            q.numpy(), numbers(k), numbers(v), pos.numpy(), q_pos.numpy(), used, whole,
            0.3, scratch, out.numpy(),
        )  # fmt: skip
        folded = q.double().unflatten(1, (groups, -1))
        scores = folded @ k[:, :, :used].double().mT * 0.3
        scores = scores.masked_fill(~ok[:, :, None, :used], -torch.inf)
        want = (scores.softmax(-1) @ v[:, :, :used].double()).flatten(1, 2)
        near = 1e-12 if work == torch.float64 else 2e-6
        assert (out - want).abs().max() < near


@pytest.mark.parametrize("stored", STORED[:-1])
def test_keys_and_values_are_stored_as_torch_rounds_them(stored):
    work = torch.float64 if stored == torch.float64 else torch.float32
    k, v = (draw(2, 3, 5, seed=s).to(work) * 300 for s in (1, 2))
    k[0, 0, :4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-11), 0.0])  # halfway, twice
    keys, values = torch.zeros(2, 2, 3, 7, 5).to(stored)
    pos = torch.full((2, 3, 7), -1)
    cpu.store(
        k.numpy(), v.numpy(), np.array([4, 9]), 6, numbers(keys), numbers(values), pos.numpy()
    )
    assert torch.equal(keys[:, :, 6], k.to(stored)) and torch.equal(values[:, :, 6], v.to(stored))
    assert not keys[:, :, :6].any() and not values[:, :, :6].any()
    assert pos[:, :, 6].tolist() == [[4] * 3, [9] * 3] and (pos[:, :, :6] == -1).all()


@pytest.mark.parametrize("lowest", [-90, -20, -1])
def test_the_fast_exponential_is_right_to_the_last_bits(lowest):
    """Seen through swiglu, whose exponential it is."""
    gate = torch.linspace(lowest, -lowest, 10_001).reshape(1, -1)
    got = gate.clone()
    cpu.swiglu(got.numpy(), torch.ones_like(got).numpy())
    want = F.silu(gate.double())
    assert ((got - want).abs() <= 4e-7 * want.abs() + 1e-35).all()


def test_what_is_missing_is_said(monkeypatch):
    assert kernels.missing("cpu") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kernels.missing("cpu") == "numba is not installed (pip install numba)"


@pytest.mark.parametrize("old, new", [("numbers", "as_numpy"), ("threads", "numba_threads")])
def test_old_names_warn_and_still_work(old, new):
    with pytest.warns(FutureWarning, match=f"kvlab.kernels.{old} is {new} now"):
        assert getattr(kernels, old) is getattr(kernels, new)
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        kernels.frobnicate  # noqa: B018
