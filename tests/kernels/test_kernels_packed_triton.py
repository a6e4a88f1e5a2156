"""The GPU's kernel for packed rows: its arithmetic in Triton's interpreter, and on a GPU itself."""

import os
import subprocess
import sys

import pytest
import torch

from kvlab import attend
from kvlab.cache import LayerKV
from kvlab.pack import PerToken
from tests.kernels.test_kernels_packed import draw, filled

pytest.importorskip("triton", reason="triton is not installed (it is for Linux only)")
# Triton asks when it is imported, so interpreted tests run in a process of their own
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs inside test_interpreted")


@pytest.mark.skipif(INTERPRETED, reason="this is the inside")
def test_interpreted():
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    env = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr


def error(cache, sharing, q_pos=None):
    """The greatest difference of the kernel's output from the formula's."""
    kv = cache.read(0)
    q = draw(2, 2 * sharing, 1, kv.k_BGTD.shape[-1], seed=9)
    wide = LayerKV(kv.k_BGTD.double(), kv.v_BGTD.double(), kv.pos_BGT, kv.in_order, kv.whole)
    want = attend(q.double(), wide, q_pos, backend="reference").out_BHSD
    got = cache.read(0).by_triton(q[:, :, 0], q_pos)
    return float((got - want[:, :, 0]).abs().max())


@interpreted
@pytest.mark.parametrize("sharing", [1, 3, 4, 8])
def test_heads_of_a_group_share_the_rows(sharing):
    rule = PerToken(19, marks="bitmap")
    assert error(filled(300, 64, rule, rule, sink=2), sharing) < 1e-5


@interpreted
@pytest.mark.parametrize(("width", "k_kept", "v_kept"), [(8, 1, 8), (80, 5, 30), (128, 38, 13)])
def test_any_width_and_any_count(width, k_kept, v_kept):
    rules = PerToken(k_kept, marks="bitmap"), PerToken(v_kept, marks="bitmap")
    assert error(filled(70, width, *rules), 4) < 1e-5


@interpreted
@pytest.mark.parametrize("slots", [1, 13, 44, 269])
@pytest.mark.parametrize("sinks", [0, 4])
def test_any_length(slots, sinks):
    rule = PerToken(5, marks="bitmap")
    assert error(filled(slots, 16, rule, rule, sink=sinks), 2) < 1e-5


@interpreted
def test_a_long_text_has_longer_parts(monkeypatch):
    from kvlab.kernels import packed_triton

    monkeypatch.setattr(packed_triton, "LONG", 100)
    monkeypatch.setattr(packed_triton, "LONG_PART", 128)
    rule = PerToken(5, marks="bitmap")
    assert error(filled(400, 16, rule, rule), 2) < 1e-5


@interpreted
def test_padding_and_the_future_are_not_seen():
    pos = torch.arange(300).repeat(2, 1)
    pos[0, 40:90] = -1
    pos[1, :280] = -1  # a whole part of nothing
    pos[1, 280:] = torch.arange(20)
    rule = PerToken(7, marks="bitmap")
    cache = filled(300, 16, rule, rule, pos=pos, sink=2)
    assert error(cache, 4) < 1e-5
    assert error(cache, 4, torch.tensor([[200], [3]])) < 1e-5
    nothing = torch.tensor([[-1], [3]])
    assert cache.read(0).by_triton(draw(2, 8, 16), nothing).isfinite().all()


@interpreted
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    rule = PerToken(19, marks="bitmap")
    assert error(filled(300, 64, rule, rule, dtype=dtype), 4) < 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu(dtype):
    rule = PerToken(38, marks="bitmap")
    cache = filled(3000, 128, rule, rule, dtype=dtype, sink=4, device="cuda")
    q = draw(2, 8, 1, 128, seed=9).to("cuda", dtype)
    got = attend(q, cache.read(0))
    assert got.backend == "rows"
    want = attend(q, cache.read(0), backend="reference").out_BHSD
    assert (got.out_BHSD - want).abs().max() < (1e-5 if dtype == torch.float32 else 2e-2)
