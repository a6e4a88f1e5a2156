import pytest
import torch

from kvlab import compiled_decode, decode, export, generate, int8_weights_, load, prefill
from kvlab.fast.int8 import Int8Linear
from tests.conftest import tiny_model


def test_no_weight_is_off_by_more_than_half_a_step(device):
    torch.manual_seed(0)
    linear = torch.nn.Linear(33, 17, device=device)
    rounded = Int8Linear(linear)
    off = (rounded.weight * rounded.scale[:, None] - linear.weight).abs()
    assert (off <= rounded.scale[:, None] * 0.5001).all() and off.any()
    assert rounded.weight.abs().amax(1).eq(127).all()
    x = torch.randn(5, 33, device=device)
    assert (rounded(x) - linear(x)).abs().max() < 0.05
    assert torch.equal(rounded(torch.zeros(1, 33, device=device))[0], linear.bias)


def test_a_row_of_zeros_stays_zero():
    linear = torch.nn.Linear(4, 2, bias=False)
    linear.weight.data[0] = 0
    assert not Int8Linear(linear)(torch.ones(1, 4))[0, 0]


@pytest.mark.parametrize("family", [{}, {"qkv_bias": True, "mlp_bias": True}])
@pytest.mark.parametrize("batch", [1, 3, 13])
def test_the_compiled_step_reads_them_as_they_are(family, batch, device):
    model = int8_weights_(tiny_model(dtype=torch.float32, device=device, **family))
    cache, plain = model.new_cache(batch, 20), model.new_cache(batch, 20)
    step = compiled_decode(model, cache)
    tokens_BS = torch.randint(0, 61, (batch, 7)).to(device)
    for one in (cache, plain):
        token_B = prefill(model, tokens_BS, one).argmax(-1)
    for _ in range(5):
        got, want = step(model, token_B, cache), decode(model, token_B, plain)
        # one row is rounded to 15 bits as well
        assert (got - want).abs().max() < (5e-3 if batch == 1 and device == "cpu" else 1e-4)
        token_B = want.argmax(-1)


def test_the_pocket_model_still_answers():
    model, tokenizer = load("pocket")
    ids = tokenizer.encode("User: What is the capital of France?\nAssistant:")
    want = generate(model, ids, 12)
    before = sum(p.nbytes for p in model.model.layers.parameters())
    int8_weights_(model)
    layers = model.model.layers
    after = sum(w.nbytes for w in (*layers.parameters(), *layers.buffers()))
    assert after < 0.27 * before
    assert torch.equal(generate(model, ids, 12), want)


def test_what_would_lose_something_silently_is_refused(tmp_path):
    with pytest.raises(ValueError, match="in training"):
        int8_weights_(tiny_model().train())
    with pytest.raises(ValueError, match="int8 weights"):
        export(int8_weights_(tiny_model()), load("pocket")[1], tmp_path / "out")
