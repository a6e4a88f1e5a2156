import pytest

from kvlab import ModelConfig, Transformer
from tests.conftest import tiny_config

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


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
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "linear"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2, "head_dim": 8}, "3 query heads"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"num_hidden_layers": 0}, "n_layers is 0"),
    ],
)
def test_what_would_run_wrongly_is_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_hf({**LLAMA, **change})


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
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear"}},
            "rope type = 'linear'",
        ),
    ],
)
def test_entries_of_the_wrong_kind_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_hf({**tiny_config().to_hf(), **change})


def test_a_model_that_never_ends_says_so_in_one_way():
    assert tiny_config().to_hf()["eos_token_id"] is None
    assert ModelConfig.from_hf(tiny_config().to_hf()) == tiny_config()
