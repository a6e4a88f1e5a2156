import math

import pytest
import torch

from kvlab import ops


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_is_the_formula(dtype, device):
    x = torch.randn(2, 3, 16, device=device).to(dtype)
    weight = torch.rand(16, device=device).to(dtype)
    wide = x.double()
    want = weight.double() * wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    got = ops.rms_norm(x, weight, 1e-5)
    assert got.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 3e-2}.get(dtype, 4e-3)
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def test_rms_norm_of_large_half_precision_rows_does_not_overflow():
    x = torch.full((1, 8), 3e4, dtype=torch.float16)
    assert torch.allclose(ops.rms_norm(x, torch.ones(8).half(), 1e-5), torch.ones(8).half())


def test_rope_turns_each_pair_by_its_angle():
    x = torch.randn(1, 1, 1, 8, dtype=torch.float64)
    cos, sin = ops.rope_angles(torch.tensor([[5]]), 8, 100.0, torch.float64)
    got = ops.apply_rope(x, cos, sin)[0, 0, 0]
    for i in range(4):
        angle = 5 * 100.0 ** (-2 * i / 8)
        a, b = x[0, 0, 0, i].item(), x[0, 0, 0, i + 4].item()
        assert got[i].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle))
        assert got[i + 4].item() == pytest.approx(b * math.cos(angle) + a * math.sin(angle))


def test_a_score_depends_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def score(q_pos, k_pos):
        turn = [ops.rope_angles(torch.tensor([[p]]), 8, 1e4, torch.float64) for p in (q_pos, k_pos)]
        return (ops.apply_rope(q, *turn[0]) * ops.apply_rope(k, *turn[1])).sum().item()

    assert score(9, 4) == pytest.approx(score(105, 100))
    assert score(9, 4) != pytest.approx(score(9, 5))


def test_padding_turns_like_position_0():
    cos, sin = ops.rope_angles(torch.tensor([[-1, 0]]), 8, 1e4, torch.float32)
    assert torch.equal(cos[:, 0], cos[:, 1]) and torch.equal(sin[:, 0].abs(), sin[:, 1].abs())


def test_swiglu_is_the_formula():
    gate, up = torch.randn(2, 5)
    torch.testing.assert_close(ops.swiglu(gate, up), gate / (1 + (-gate).exp()) * up)


def test_double_angles_are_double_far_out():
    far = 100_000
    cos, sin = ops.rope_angles(torch.tensor([[far]]), 8, 10_000.0, torch.float64)
    for i in range(4):
        angle = far / 10_000.0 ** (2 * i / 8)
        # float32 is off by about 1e-3 here
        assert cos[0, 0, i].item() == pytest.approx(math.cos(angle), abs=1e-9)
        assert sin[0, 0, i + 4].item() == pytest.approx(math.sin(angle), abs=1e-9)
