import json

import pytest
import torch

from kvlab import ModelConfig, Transformer, ops
from tests.conftest import tiny_config

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}


def test_missing_entries_fall_back_to_hugging_faces_defaults():
    config = ModelConfig.from_hf(LLAMA)
    assert (config.n_kv_heads, config.head_dim, config.rope_theta) == (4, 8, 10000.0)
    assert config.norm_eps == 1e-6
    assert config.eos_ids == ()


def test_both_spellings_of_rope_theta_are_read():
    assert ModelConfig.from_hf({**LLAMA, "rope_theta": 5e5}).rope_theta == 5e5
    new = {**LLAMA, "rope_parameters": {"rope_theta": 7e5, "rope_type": "default"}}
    assert ModelConfig.from_hf(new).rope_theta == 7e5


def test_a_config_survives_the_round_trip():
    for config in (tiny_config(eos_ids=(0,)), tiny_config(eos_ids=(1, 2), tie_embeddings=True)):
        assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": None}, "None"),
        ({"model_type": "mistral", "attention_bias": True}, "attention_bias"),
        ({"model_type": "mixtral"}, "mixtral"),
        ({"model_type": "qwen3_moe"}, "qwen3_moe"),
        ({"model_type": "mistral"}, "sliding_window = 4096"),
        ({"model_type": "mistral", "sliding_window": 64}, "sliding_window = 64"),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1}, "4096"),
        ({"model_type": "qwen3", "layer_types": ["sliding_attention"] * 2}, "sliding"),
        ({"model_type": "qwen2", "layer_types": ["chunked"], "sliding_window": None}, "chunked"),
        ({"model_type": "mistral", "mlp_bias": True}, "mlp_bias"),
        ({"model_type": "mistral", "sliding_window": 9, "max_position_embeddings": None}, "= 9"),
        ({"model_type": "qwen2", "layer_types": ["linear_attention"]}, "linear_attention"),
        ({"model_type": "qwen2", "layer_types": 5}, "layer_types = 5"),
        ({"sliding_window": 64}, "sliding_window = 64"),
        ({"model_type": "mistral", "max_position_embeddings": 4097}, "4096 of 4097"),
        ({"is_causal": False}, "is_causal"),
        ({"per_layer_config": {"1": {"rms_norm_eps": 0.5}}}, "per_layer_config"),
        ({"compression_config": {"bits": 4}}, "compression_config"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "auto_map"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 7.0}}}, "full_attention"),
        ({"rope_parameters": {**LLAMA3, "attention_factor": 2.0}}, "attention_factor"),
        ({"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "more than low_freq_factor"),
        ({"rope_parameters": {"rope_type": ["x"]}}, "rope type"),
        ({"eos_token_id": "<eos>"}, "'<eos>'"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "low_freq_factor"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 8}}, "longrope"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "no entry 'factor'"),
        ({"rope_parameters": {**YARN, "beta_fast": 0.5}}, "beta_fast no less than beta_slow"),
        ({"rope_parameters": {**YARN, "rope_theta": 1.0}}, "rope_theta above 1"),
        ({"rope_parameters": {**YARN, "truncate": 2}}, "truncate true or false"),
        ({"rope_parameters": {**YARN, "attention_factor": 0}}, "attention_factor = "),
        ({"rope_parameters": {**YARN, "mscale": -1.0, "mscale_all_dim": 1.0}}, "mscale is -1.0"),
        ({"rope_parameters": {**YARN, "mscale": "x", "mscale_all_dim": 1.0}}, "mscale is 'x'"),
        ({"rope_parameters": {**YARN, "low_freq_factor": 2.0}}, "low_freq_factor in a yarn rope"),
        ({"rope_scaling": {"type": "dynamic", "factor": 8}}, "dynamic"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_scaling": {"type": "linear"}}, "no entry 'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": -2}}, "linear rope has factor = "),
        ({"rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 3}}, "beta_fast in a lin"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2, "head_dim": 8}, "3 query heads"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"num_hidden_layers": 0}, "n_layers is 0"),
    ],
)
def test_what_would_run_wrongly_is_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_hf({**LLAMA, **change})


def test_llama3_scaling_that_makes_no_sense_is_named():
    with pytest.raises(ValueError, match="numbers above 0"):
        scaling = {**LLAMA3, "original_max_position_embeddings": 0}
        ModelConfig.from_hf({**LLAMA, "rope_scaling": scaling})


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "mistral", "sliding_window": 4096, "max_position_embeddings": 4096},
        {"model_type": "qwen2", "sliding_window": 64},
        {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2},
        {"model_type": "qwen3", "layer_types": ["full_attention"] * 2},
    ],
)
def test_a_sliding_window_that_hides_nothing_is_no_obstacle(change):
    config = ModelConfig.from_hf({**LLAMA, "num_key_value_heads": 2, **change})
    assert config.family == change["model_type"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"rope_theta": 5e5},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 7e5}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}, "rope_parameters": LLAMA3},
        {"rope_scaling": {"rope_type": "default", "rope_theta": 123.0}},
        {"rope_scaling": {**LLAMA3, "rope_theta": 123.0}},
        {"rope_theta": 5e5, "rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3, "rope_parameters": {"rope_theta": 7e5}},
        {"rope_parameters": LLAMA3, "original_max_position_embeddings": 64},
        {
            "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 128},
            "original_max_position_embeddings": 64,
        },
        {"rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": YARN},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "yarn", "factor": None}},
        {"rope_parameters": {**YARN, "factor": None}},
        {"rope_parameters": YARN, "original_max_position_embeddings": 512},
        {"rope_parameters": {**YARN, "factor": 0.5}},
        {"rope_parameters": {**YARN, "original_max_position_embeddings": 6}},
        {"rope_parameters": {**YARN, "truncate": False}},
        {"rope_parameters": {**YARN, "truncate": None}},
        {"rope_parameters": {**YARN, "beta_fast": 4, "beta_slow": 2.0}},
        {"rope_parameters": {**YARN, "beta_fast": 2, "beta_slow": 2}},
        {"rope_parameters": {**YARN, "beta_fast": None, "beta_slow": 0}},
        {"rope_parameters": {**YARN, "attention_factor": 1.5}},
        {"rope_parameters": {**YARN, "attention_factor": None, "mscale": 1.0}},
        {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.3}},
        {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0}},
        {"rope_parameters": {**YARN, "attention_factor": 1.5, "mscale": 2, "mscale_all_dim": 1}},
    ],
)
def test_every_spelling_of_rope_means_what_transformers_takes_it_to_mean(change):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = ModelConfig.from_hf(json.loads(json.dumps({**LLAMA, **change})))
    theirs = transformers.LlamaConfig.from_dict(json.loads(json.dumps({**LLAMA, **change})))
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(theirs)
    turns_D = ops.rope_turns(config.head_dim, config.rope_theta, config.rope_scaling)
    torch.testing.assert_close(turns_D, rotary.inv_freq, rtol=1e-6, atol=0)
    factor = 1.0 if config.rope_scaling is None else config.rope_scaling.attention_factor
    assert factor == pytest.approx(rotary.attention_scaling, rel=1e-12)
    assert ModelConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    "change",
    [
        {"qk_norm": True},
        {"qkv_bias": True},
        {"hidden_size": 26},
        {"family": "mistral", "mlp_bias": True},
        {"family": "qwen2"},
        {"family": "qwen3", "qk_norm": True, "o_bias": True},
    ],
)
def test_a_model_that_no_config_describes_is_not_written(change):
    with pytest.raises(ValueError, match="cannot be written as a|asks for mlp_bias"):
        tiny_config(**change).to_hf()


def test_a_family_means_what_transformers_takes_it_to_mean():
    config = ModelConfig.from_hf({**LLAMA, "model_type": "qwen3", "num_key_value_heads": 2})
    assert (config.head_dim, config.max_positions, config.qk_norm) == (128, 32768, True)
    assert not config.qkv_bias
    config = ModelConfig.from_hf({**LLAMA, "model_type": "qwen2", "num_key_value_heads": None})
    assert (config.n_kv_heads, config.qkv_bias, config.o_bias) == (4, True, False)


def test_a_missing_entry_is_named():
    with pytest.raises(ValueError, match="vocab_size"):
        ModelConfig.from_hf({k: v for k, v in LLAMA.items() if k != "vocab_size"})


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_and_cache_bytes_follow_the_formula(tied):
    config = tiny_config(tie_embeddings=tied)
    model = Transformer(config)
    assert config.n_params == sum(p.numel() for p in model.parameters())
    cache = model.new_cache(1, 7)
    assert cache.allocated_bytes == 7 * config.kv_bytes_per_token(4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_attention_heads": 0, "head_dim": None}, "n_heads is 0|head_dim is None"),
        ({"hidden_size": None, "head_dim": None}, "hidden_size is None"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"rms_norm_eps": None}, "norm_eps is None"),
        ({"rms_norm_eps": "1e-5"}, "norm_eps is '1e-5'"),
        ({"rope_theta": None}, "rope_theta is None"),
        ({"rope_scaling": "linear"}, "'linear'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "dynamic"}},
            "rope type = 'dynamic'",
        ),
    ],
)
def test_entries_of_the_wrong_kind_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_hf({**tiny_config().to_hf(), **change})


def test_a_model_that_never_ends_says_so_in_one_way():
    assert tiny_config().to_hf()["eos_token_id"] is None
    assert ModelConfig.from_hf(tiny_config().to_hf()) == tiny_config()


def test_numbers_are_floats_however_they_were_written():
    """A whole number of 31 digits is one that torch does not take."""
    config = tiny_config(rope_theta=10**30)
    assert type(config.rope_theta) is float
    ids = torch.tensor([[1, 2, 3]])
    want = Transformer(tiny_config(rope_theta=1e30))
    model = Transformer(config)
    model.load_state_dict(want.state_dict())
    assert torch.equal(model(ids), want(ids))
