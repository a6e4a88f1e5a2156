"""What the compiled step for a CPU promises besides being `decode` (see test_graphs)."""

import subprocess
import sys

import numba
import pytest
import torch

from kvlab import KVCache, attend, kernels
from kvlab.fast.fused import ONE_THREAD_BYTES, FusedDecode, compiled_attention
from tests.conftest import tiny_model


def test_numba_missing_is_said_plainly(monkeypatch):
    monkeypatch.setattr(kernels, "missing", lambda name: f"numba for {name} is not installed")
    model = tiny_model()
    with pytest.raises(ValueError, match="but numba for cpu is not installed"):
        FusedDecode(model, model.new_cache(1, 4))


def test_a_processor_without_float16_is_told_before_it_fails(monkeypatch):
    monkeypatch.setattr("kvlab.kernels.cpu.reads_float16", lambda: False)
    FusedDecode(tiny_model(), tiny_model().new_cache(1, 4))
    model = tiny_model(dtype=torch.float16)
    with pytest.raises(ValueError, match="no instruction that reads float16"):
        FusedDecode(model, model.new_cache(1, 4))


def test_the_matrices_are_looked_at_and_not_copied():
    model = tiny_model(dtype=torch.bfloat16)
    step = FusedDecode(model, model.new_cache(1, 4))
    for layer, ours in zip(model.model.layers, step._layers, strict=True):
        assert ours.q._numbers.ctypes.data == layer.self_attn.q_proj.weight.data_ptr()
        assert ours.down._numbers.ctypes.data == layer.mlp.down_proj.weight.data_ptr()


def test_numbas_threads_are_given_back():
    before = numba.get_num_threads()
    model = tiny_model()
    assert sum(p.nbytes for p in model.parameters()) < ONE_THREAD_BYTES
    with torch.inference_mode():
        FusedDecode(model, model.new_cache(1, 4))(torch.tensor([1]))
    assert numba.get_num_threads() == before


@torch.inference_mode()
def test_the_start_of_numbas_threads_leaves_torch_its_own():
    """In a process of its own, where they have not started; both may share one OpenMP library."""
    code = (
        "import torch; from kvlab import kernels; torch.set_num_threads(1)\n"
        "before = torch.get_num_threads()\n"
        "with kernels.numba_threads(1): pass\n"
        "print(before, torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_several_threads_make_what_one_makes(monkeypatch):
    monkeypatch.setattr("kvlab.fast.fused.ONE_THREAD_BYTES", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    model = tiny_model()
    many, one = FusedDecode(model, model.new_cache(3, 4)), FusedDecode(model, model.new_cache(3, 4))
    assert not many._one_thread
    one._one_thread = True
    token_B = torch.tensor([1, 2, 3])
    assert torch.equal(many(token_B), one(token_B))


def test_its_attention_alone_is_attention():
    cache = KVCache(1, 2, 3, 300, 16)
    cache.append(0, *torch.randn(2, 2, 3, 257, 16))
    q_BHSD = torch.randn(2, 6, 1, 16)
    out_BHSD = compiled_attention(q_BHSD, cache)()
    want = attend(q_BHSD, cache.read(0), backend="reference").out_BHSD
    torch.testing.assert_close(out_BHSD, want, rtol=1e-4, atol=1e-5)


def test_a_poisoned_slot_matters_only_when_it_is_used():
    model = tiny_model()
    cache = model.new_cache(1, 8)
    with torch.inference_mode():
        step = FusedDecode(model, cache)
        step(torch.tensor([1]))
        step(torch.tensor([2]))
        want = step(torch.tensor([3]))
        cache.rewind(2)
        cache.k_LBGTD[:, :, :, 3:], cache.v_LBGTD[:, :, :, 3:] = float("nan"), float("nan")
        assert torch.equal(step(torch.tensor([3])), want)
        cache.rewind(2)
        cache.v_LBGTD[0, :, :, 0] += 1
        assert not torch.allclose(step(torch.tensor([3])), want)
