"""As far as no Mac allows: what would be computed on an Apple GPU are numbers that it holds.

Without a Mac the CPU computes it and every result must be of such a type; on a Mac its GPU does.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kvlab import KVCache, Probe, Sampler, checks, export, generate, load
from kvlab.pack import Channels, CodesPerChannel, CodesPerToken, PerToken
from kvlab.quality import METHODS, Prompts, Shape, at_bytes, measure
from kvlab.rope_scaling import YarnScaling
from tests.conftest import tiny_model

MAC = torch.backends.mps.is_available()
PROMPTS = [list(range(1, 90)), list(range(3, 60))]


class Held(TorchDispatchMode):
    """Refuses results of a type that an Apple GPU does not hold."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor) and one.dtype in checks.FLOATS:
                assert one.dtype in checks.HOLDS["mps"], f"{function} gives {one.dtype}"
        return out


@pytest.fixture(params=["float32", "float16"])
def model(request, monkeypatch):
    if not MAC:
        monkeypatch.setitem(checks.HOLDS, "cpu", checks.HOLDS["mps"])
    dtype = getattr(torch, request.param)
    # random_model draws in float64
    made = tiny_model(0, dtype, vocab_size=101, rope_scaling=YarnScaling(4.0, 32))
    return made.to("mps") if MAC else made


def test_generating_alone_padded_in_chunks_and_drawn(model):
    with Held(), Probe(model):
        assert generate(model, PROMPTS, 6).shape == (2, 6)
        generate(model, PROMPTS[0], 6, pick=Sampler(0.8, top_k=20, top_p=0.9))
        cache = model.new_cache(1, 100)
        generate(model, PROMPTS[0], 6, cache=cache)
        cache.fork().rewind(10)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_measured(model, name):
    rests = [list(range(40, 52)), list(range(20, 32))]
    prompts = Prompts(PROMPTS, rests, [4, 4], "unseen")
    shape = Shape(prompts.mean_tokens, 8, torch.float16, 2, 4)
    with Held():
        methods, refused = at_bytes((name,), 0.6, shape)
        assert methods or refused
        (*rows,) = measure(model, prompts, {"dense": None} | methods, dtype=torch.float16)
    assert len(rows) == 1 + len(methods)


@pytest.mark.parametrize("rule", [PerToken(4), CodesPerToken(4, 8), Channels(4)])
def test_packed_caches_are_read_without_the_cpus_kernel(model, rule):
    keys = CodesPerChannel(4) if isinstance(rule, CodesPerToken) else rule
    cache = model.new_cache(1, 100, k=keys, v=rule, recent=8)
    with Held():
        generate(model, PROMPTS[0], 6, cache=cache)
    assert min(cache.n_packed_L) >= 64


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_refused_in_one_sentence(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    said = rf"^Numbers of {dtype} were asked for on 'mps'; expected float32 or float16 there\."
    with pytest.raises(ValueError, match=said):
        load("pocket", device="mps", dtype=dtype)
    with pytest.raises(ValueError, match=said):
        KVCache(1, 1, 1, 8, 8, dtype=dtype, device="mps")
    tokenizer = load("pocket")[1]
    export(tiny_model(0, dtype, vocab_size=len(tokenizer)), tokenizer, tmp_path / "other")
    with pytest.raises(ValueError, match=said):
        load(tmp_path / "other", device="mps", dtype="auto")


@pytest.mark.skipif(MAC, reason="for machines without an Apple GPU")
@pytest.mark.parametrize("name", ["mps", "mps:0", "mps:1"])
def test_without_an_apple_gpu_it_says_so(name):
    with pytest.raises(ValueError, match=rf"device is '{name}', but torch .* Apple GPU here"):
        load("pocket", device=name)
