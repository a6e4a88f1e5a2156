import pytest
import torch

from kvlab import Probe, compiled_decode, decode, generate, prefill
from kvlab.fast.compiled import StaticDecode, slots_for
from tests.conftest import tiny_model

KINDS = ["compiled", "static"]


def step_for(kind, model, cache):
    """The step that is compiled for this device, or the one for GPUs run without a graph."""
    if kind == "compiled":
        return compiled_decode(model, cache)
    if model.device.type == "cuda":
        pytest.skip("on a GPU the compiled step is the static one")
    static = StaticDecode(model, cache)
    return torch.inference_mode()(lambda _model, token_B, _cache: static(token_B))


def prompts(n, batch=2, device="cpu"):
    draw = torch.Generator().manual_seed(n)
    return torch.randint(0, 61, (batch, n), generator=draw).to(device)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 13])
@pytest.mark.parametrize("family", [{}, {"qk_norm": True, "qkv_bias": True}, {"n_kv_heads": 1}])
def test_it_is_decode_only_faster(kind, batch, family, device):
    model = tiny_model(device=device, **family)
    cache, plain = model.new_cache(batch, 300), model.new_cache(batch, 300)
    step = step_for(kind, model, cache)
    token_B = prefill(model, prompts(9, batch, device), cache).argmax(-1)
    prefill(model, prompts(9, batch, device), plain)
    for _ in range(150):  # past one power of two, and one part of a row's slots
        got, want = step(model, token_B, cache), decode(model, token_B, plain)
        assert (got - want).abs().max() < 1e-9
        token_B = want.argmax(-1)
    for name in ("bytes_written", "bytes_read", "seen", "live_bytes", "used_L", "in_order"):
        assert getattr(cache, name) == getattr(plain, name), name
    assert (cache.k_LBGTD - plain.k_LBGTD).abs().max() < 1e-9
    assert torch.equal(cache.pos_LBGT, plain.pos_LBGT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_stays_near(kind, dtype, device):
    model = tiny_model(dtype=dtype, device=device)
    exact = tiny_model(device=device)
    exact.load_state_dict(model.state_dict())
    cache, other = model.new_cache(2, 40), exact.new_cache(2, 40)
    step = step_for(kind, model, cache)
    prefill(model, prompts(9, device=device), cache)
    prefill(exact, prompts(9, device=device), other)
    for token_B in prompts(5, 20, device).T[:, :2]:
        got, want = step(model, token_B.contiguous(), cache), decode(exact, token_B, other)
        assert got.dtype == dtype
        near = {torch.float32: 1e-4, torch.bfloat16: 0.5, torch.float16: 0.1}[dtype]
        assert (got.double() - want).abs().max() < near * want.abs().max()


def test_it_works_on_a_cache_that_holds_padding(kind, device):
    model = tiny_model(device=device)
    cache, plain = model.new_cache(2, 40), model.new_cache(2, 40)
    pos_BS = torch.tensor([[0, 1, 2, 3, 4], [-1, -1, 0, 1, 2]], device=device)
    step = step_for(kind, model, cache)
    for one in (cache, plain):
        token_B = prefill(model, prompts(5, device=device), one, pos_BS=pos_BS).argmax(-1)
    for _ in range(9):
        got, want = step(model, token_B, cache), decode(model, token_B, plain)
        assert (got - want).abs().max() < 1e-9
        token_B = want.argmax(-1)
    assert torch.equal(cache.next_pos_B(), plain.next_pos_B())


def test_it_goes_on_after_whatever_else_happened_to_the_cache(kind, device):
    model = tiny_model(device=device)
    cache, plain = model.new_cache(2, 60), model.new_cache(2, 60)
    step = step_for(kind, model, cache)
    draw = torch.Generator().manual_seed(1)

    def evict(one, share):
        draw.manual_seed(7)
        for layer, used in enumerate(one.used_L):
            keep = torch.rand(2, 2, used, generator=draw) < share
            one.keep(layer, keep.to(device))

    def agree(n):
        token_B = torch.tensor([3, 5], device=device)
        for _ in range(n):
            got, want = step(model, token_B, cache), decode(model, token_B, plain)
            assert (got - want).abs().max() < 1e-9
            token_B = want.argmax(-1)

    happenings = [
        lambda one: prefill(model, prompts(8, device=device), one),
        lambda one: one.rewind(one.seen - 3),
        lambda one: prefill(model, prompts(4, device=device), one),
        lambda one: evict(one, 0.6),
        lambda one: evict(one, 0.6),
        lambda one: one.rewind(one.seen - 1),
        lambda one: one.rewind(0),
        lambda one: prefill(model, prompts(6, device=device), one),
        lambda one: one.rewind(one.seen),
        lambda one: decode(model, torch.tensor([1, 2], device=device), one),
    ]
    for happening in happenings:
        for one in (cache, plain):
            happening(one)
        agree(4)


def test_generate_takes_it(device):
    model = tiny_model(device=device)
    want = generate(model, prompts(7, device=device), 40)
    cache = model.new_cache(2, 50)
    got = generate(
        model, prompts(7, device=device), 40, cache=cache, decode=compiled_decode(model, cache)
    )
    assert torch.equal(got, want) and cache.seen == 46


def test_what_it_was_not_made_for_is_refused_and_nothing_is_written(device):
    model, other = tiny_model(device=device), tiny_model(device=device)
    cache = model.new_cache(2, 10)
    step = compiled_decode(model, cache)
    prefill(model, prompts(9, device=device), cache)
    before, token_B = cache.k_LBGTD.clone(), torch.tensor([1, 2], device=device)
    refusals = [
        ((other, token_B, cache), "another model"),
        ((model, token_B, cache.fork()), "another cache"),
        ((model, token_B[:1], cache), r"expected torch.int64 of shape \(2,\)"),
        ((model, token_B.int(), cache), "torch.int32 came"),
    ]
    for call, named in refusals:
        with pytest.raises(ValueError, match=named):
            step(*call)
    with Probe(model), pytest.raises(ValueError, match="A probe watches"):
        step(model, token_B, cache)
    assert torch.equal(cache.k_LBGTD, before) and cache.seen == 9
    step(model, token_B, cache)
    with pytest.raises(ValueError, match="0 of 10 slots free"):
        step(model, token_B, cache)
    cache.rewind(5)
    cache.shrink(8)
    with pytest.raises(ValueError, match="moved to other memory"):
        step(model, token_B, cache)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_layers": 2}, "2 layers"),
        ({"n_kv_heads": 4}, "4 KV heads of 8"),
        ({"head_dim": 16}, "2 KV heads of 16"),
        ({"dtype": torch.float32}, "torch.float32"),
    ],
)
def test_a_cache_of_another_model_is_refused(change, named):
    with pytest.raises(ValueError, match=f"{named}.* came; expected 3 layers, 2 KV heads of 8"):
        compiled_decode(tiny_model(), tiny_model(**change).new_cache(1, 8))


def test_slots_grow_by_powers_of_two():
    wanted = {1: 128, 128: 128, 129: 256, 256: 256, 600: 1000, 512: 512}
    assert {n: slots_for(n, 1000) for n in wanted} == wanted
    assert slots_for(5, 60) == 60


def test_the_static_step_is_one_graph_for_the_compiler():
    """No part of it falls back to Python, which is what a CUDA graph needs as well."""
    model = tiny_model(dtype=torch.float32)
    cache = model.new_cache(2, 200)
    prefill(model, prompts(5), cache)
    static = StaticDecode(model, cache)
    with torch.no_grad():
        found = torch._dynamo.explain(static._run)(128)
    assert (found.graph_count, found.graph_break_count) == (1, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_each_number_of_slots_is_captured_once_and_no_step_waits():
    model = tiny_model(dtype=torch.float32, device="cuda")
    cache = model.new_cache(2, 300)
    step = compiled_decode(model, cache)
    token_B = prefill(model, prompts(9, device="cuda"), cache).argmax(-1)
    for _ in range(200):
        token_B = step(model, token_B, cache).argmax(-1)
    assert step.how == "CUDA graph" and sorted(step._step._graphs) == [128, 256]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(40):
            token_B = step(model, token_B, cache).argmax(-1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
