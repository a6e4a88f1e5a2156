import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from kvlab import generate
from kvlab.attention import BACKENDS
from kvlab.checkpoint import load
from tests.conftest import tiny_model
from tests.test_checkpoint import write_tokenizer

# "rows" reads packed caches only: tests/pack/test_packed.py
DENSE = sorted(BACKENDS.keys() - {"rows"})

SHAPES = {
    "MHA": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "GQA": {"num_attention_heads": 6, "num_key_value_heads": 2},
    "MQA": {"num_attention_heads": 4, "num_key_value_heads": 1},
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("heads", SHAPES)
def test_logits_and_greedy_tokens_equal_those_of_transformers(heads, tied, tmp_path, device):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=101,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        head_dim=16,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.1,
        eos_token_id=None,
        bos_token_id=None,
        **SHAPES[heads],
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="40KB" if heads == "GQA" else "5GB")
    write_tokenizer(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists() == (heads == "GQA")
    ours, _ = load(tmp_path, device=device)
    tokens = torch.randint(101, (2, 77))
    with torch.no_grad():
        want = theirs(tokens).logits
        for backend in DENSE:
            got = ours(tokens.to(device), backend=backend).cpu()
            assert (got - want).abs().max().item() <= 1e-5
        new = generate(ours, tokens[:1], 32).cpu()
        hf = theirs.generate(tokens[:1], max_new_tokens=32, do_sample=False, pad_token_id=0)
    assert new[0].tolist() == hf[0, 77:].tolist()


@settings(max_examples=25, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    batch=st.integers(1, 3),
    backend=st.sampled_from(DENSE),
    seed=st.integers(0, 1000),
)
def test_cached_equals_uncached_at_every_position(chunks, batch, backend, seed):
    model = tiny_model(seed % 3)
    torch.manual_seed(seed)
    tokens = torch.randint(61, (batch, sum(chunks)))
    whole = model(tokens, backend="reference")
    cache, start = model.new_cache(batch, sum(chunks)), 0
    for n in chunks:
        got = model(tokens[:, start : start + n], cache=cache, backend=backend)
        assert (got - whole[:, start : start + n]).abs().max() <= 1e-9
        start += n


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    left=st.booleans(),
    backend=st.sampled_from(DENSE),
)
def test_padded_rows_equal_unpadded_singles(lengths, cuts, left, backend):
    """Padding may stand before or behind a row, and chunks may cut it anywhere."""
    model = tiny_model(1)
    torch.manual_seed(sum(lengths))
    longest = max(lengths)
    tokens = torch.randint(61, (len(lengths), longest))
    pos = torch.full_like(tokens, -1)
    for b, n in enumerate(lengths):
        where = slice(longest - n, None) if left else slice(None, n)
        pos[b, where] = torch.arange(n)
    cache, start, parts = model.new_cache(len(lengths), longest), 0, []
    for cut in [*cuts, longest]:
        stop = min(start + cut, longest)
        if stop > start:
            part = slice(start, stop)
            parts.append(model(tokens[:, part], pos[:, part], cache, backend=backend))
        start = stop
    got = torch.cat(parts, 1)
    assert got.isfinite().all()
    for b in range(len(lengths)):
        real = pos[b] >= 0
        single = model(tokens[b][real][None])[0]
        assert (got[b][real] - single).abs().max() <= 1e-9


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("store", ["k_LBGTD", "v_LBGTD"])
def test_a_poisoned_row_changes_the_output_and_an_unused_slot_does_not(layer, store):
    model = tiny_model()
    tokens = torch.randint(61, (1, 6))

    def after(slot, value):
        cache = model.new_cache(1, 9)
        model(tokens, cache=cache)
        if slot is not None:
            getattr(cache, store)[layer, :, :, slot] = value
        return model(torch.tensor([[5]]), cache=cache)

    honest = after(None, None)
    for slot in range(6):
        assert not torch.equal(after(slot, 7.0), honest)
    for slot in (7, 8):
        assert torch.equal(after(slot, float("nan")), honest)


def test_poison_in_a_padded_slot_does_not_change_the_output():
    model = tiny_model()
    tokens, pos = torch.randint(61, (2, 5)), torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, -1, -1]])

    def after(value):
        cache = model.new_cache(2, 8)
        model(tokens, pos, cache)
        if value is not None:
            cache.k_LBGTD[:, 1, :, 3:5] = value
            cache.v_LBGTD[:, 1, :, 3:5] = -value
        return model(torch.tensor([[5], [6]]), torch.tensor([[5], [3]]), cache)

    torch.testing.assert_close(after(1e6), after(None), rtol=1e-12, atol=1e-12)


def test_a_prompt_longer_than_the_cache_is_refused_before_anything_is_written():
    model = tiny_model()
    cache = model.new_cache(1, 6)
    model(torch.randint(61, (1, 4)), cache=cache)
    before = cache.k_LBGTD.clone()
    with pytest.raises(ValueError, match=r"3 tokens .* 2 of 6 slots free"):
        model(torch.randint(61, (1, 3)), cache=cache)
    assert torch.equal(cache.k_LBGTD, before) and cache.length == 4


def test_a_layer_that_is_ahead_is_noticed_before_the_others_are_written():
    """An interrupted step leaves layers uneven; the next must not write half."""
    model = tiny_model()
    cache = model.new_cache(1, 4)
    model(torch.randint(61, (1, 3)), cache=cache)
    kv = cache.read(2)
    cache.append(2, kv.k_BGTD[:, :, :1], kv.v_BGTD[:, :, :1])
    with pytest.raises(ValueError, match="0 of 4 slots free"):
        model(torch.randint(61, (1, 1)), cache=cache)
    assert cache.read(0).k_BGTD.shape[2] == 3


def test_decoding_moves_no_memory():
    model = tiny_model()
    cache = model.new_cache(1, 20)
    pointers = cache.k_LBGTD.data_ptr(), cache.v_LBGTD.data_ptr()
    model(torch.randint(61, (1, 4)), cache=cache)
    for _ in range(10):
        model(torch.randint(61, (1, 1)), cache=cache)
    assert pointers == (cache.k_LBGTD.data_ptr(), cache.v_LBGTD.data_ptr())
    assert cache.bytes_copied == 0 and cache.bytes_written == cache.live_bytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_and_pads_stay_numbers(dtype, device):
    exact, low = tiny_model(device=device), tiny_model(dtype=dtype, device=device)
    tokens = torch.randint(61, (2, 9), device=device)
    pos = torch.arange(9, device=device).repeat(2, 1)
    pos[1, 6:] = -1
    want, got = exact(tokens, pos), low(tokens, pos).double()
    assert got.isfinite().all()
    real = pos >= 0
    error = (got - want)[real].abs().mean() / want[real].abs().mean()
    assert error < (0.08 if dtype == torch.bfloat16 else 0.02)


def test_positions_past_the_first_table_are_right():
    """The rotary table starts at 256 positions and grows."""
    model = tiny_model(max_positions=1024)
    tokens = torch.randint(61, (1, 600))
    cache = model.new_cache(1, 600)
    got = torch.cat([model(tokens[:, i : i + 100], cache=cache) for i in range(0, 600, 100)], 1)
    pos = torch.arange(600)[None]
    assert (got - model(tokens, pos)).abs().max() <= 1e-9


def test_a_model_can_be_trained_after_it_has_generated():
    """What generation keeps for later must not be a tensor of inference mode."""
    model = tiny_model().requires_grad_(True)
    generate(model, [1, 2, 3], 2)
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.any()


@pytest.mark.parametrize(
    ("tokens", "options", "named"),
    [
        ((2, 3), {"backend": "nope"}, "'nope'"),
        ((1, 3), {}, "2 rows came; expected 3 layers and 1 rows"),
        ((3, 3), {}, "2 rows came; expected 3 layers and 3 rows"),
        (
            (2, 3),
            {"pos_BS": torch.zeros(2, 1, dtype=torch.int64)},
            r"\(2, 1\) .* expected a tensor \(2, 3\)",
        ),
    ],
)
def test_a_refused_call_leaves_every_layer_as_it_was(tokens, options, named):
    model = tiny_model()
    cache = model.new_cache(2, 8)
    with pytest.raises(ValueError, match=named):
        model(torch.ones(tokens, dtype=torch.int64), cache=cache, **options)
    assert not cache.k_LBGTD.any() and cache.live_bytes == 0 and cache.in_order


def test_a_cache_of_another_model_is_refused():
    cache = tiny_model(n_layers=2).new_cache(1, 8)
    with pytest.raises(ValueError, match="2 layers"):
        tiny_model()(torch.tensor([[1]]), cache=cache)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_given_positions_turn_as_those_that_follow_on(dtype):
    """From the table as from the formula, to the bit; beyond what the model reads as well."""
    decoder, like = tiny_model().model, torch.zeros(0, dtype=dtype)
    most = decoder.config.max_positions
    for pos in ([[3, 0, 7]], [[-1, -1, 0], [most - 1, 5, 5]], [[most, 2 * most, 1]]):
        pos_BS = torch.tensor(pos)
        turned, wanted = decoder.rope(pos_BS, 0, 3, like), decoder._turns(pos_BS, dtype)
        assert all(torch.equal(*both) for both in zip(turned, wanted, strict=True))
    empty = torch.zeros(1, 0, dtype=torch.int64)
    assert decoder.rope(empty, 0, 0, like)[0].shape[1] == 0
