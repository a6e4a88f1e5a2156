"""How GGUF headers say that rope is stretched, beside `transformers` and llama.cpp."""

import pytest
import torch

from kvlab import gguf_rope
from kvlab.checkpoint import load
from tests.test_families import LLAMA3
from tests.test_gguf_file import TOKENS_BS, llama_cpp_agrees, logits, wide, write

YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def scaled(**entries):
    return {"changes": [(f"llama.rope.{k.replace('__', '.')}", v) for k, v in entries.items()]}


def yarn_entries(**more):
    names = {"scaling__type": "yarn", "scaling__factor": 8.0}
    return scaled(**names, scaling__original_context_length=32, **more)


# how a header says it, and what `transformers` calls the same
SPELLINGS = {
    "linear": (
        scaled(scaling__type="linear", scaling__factor=4.0),
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    ),
    "a factor alone": (
        scaled(scaling__factor=4.0), {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    ),
    "an older factor": (
        scaled(scale_linear=2.0), {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    ),
    "yarn": (yarn_entries(), YARN),
    "neutral": (
        yarn_entries(scaling__yarn_ext_factor=1.0, scaling__yarn_beta_fast=32.0), YARN
    ),
    "none": (scaled(scaling__type="none", scaling__factor=4.0), {"rope_type": "default"}),
    "yarn by 1": (scaled(scaling__type="yarn", scaling__factor=1.0), {"rope_type": "default"}),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_rules_are_those_of_transformers(tmp_path, spelling):
    entries, rope = SPELLINGS[spelling]
    theirs = wide("llama", rope_parameters={"rope_theta": 10000.0, **rope})
    model, _ = load(write(tmp_path / "m.gguf", theirs, **entries))
    pos_BS = torch.arange(40).expand(2, -1)
    torch.testing.assert_close(model(TOKENS_BS, pos_BS), logits(theirs).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("spelling", ["linear", "yarn"])
def test_rules_are_those_of_llama_cpp(tmp_path, spelling):
    llama_cpp_agrees(write(tmp_path / "m.gguf", wide("llama"), "F16", **SPELLINGS[spelling][0]))


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_rope_is_known_by_its_factors(tmp_path, factor):
    rope = LLAMA3 | {"factor": factor, "original_max_position_embeddings": 8192}
    theirs = wide("llama3", rope_parameters=rope)
    inv_freq = theirs.model.rotary_emb.inv_freq
    plain = rope["rope_theta"] ** -(torch.arange(0, 64, 2) / 64)
    write(tmp_path / "m.gguf", theirs, freqs=(plain / inv_freq).numpy())
    model, _ = load(tmp_path / "m.gguf")
    assert model.config.rope_scaling == (factor, 1.0, 4.0, 8192)
    pos_BS = torch.arange(40).expand(2, -1)
    torch.testing.assert_close(model(TOKENS_BS, pos_BS), logits(theirs).logits, rtol=0, atol=1e-5)
    write(tmp_path / "own.gguf", theirs, freqs=(1.1 * plain / inv_freq).numpy())
    with pytest.raises(ValueError, match=r"own\.gguf stretches rope by factors of its own"):
        load(tmp_path / "own.gguf")


REFUSED = {
    "longrope": (scaled(scaling__type="longrope", scaling__factor=4.0), "rope scaling 'longrope'"),
    "attention": (yarn_entries(scaling__attn_factor=1.5), "asks for attn_factor = 1.5"),
    "less of it": (yarn_entries(scaling__yarn_ext_factor=0.5), "yarn_ext_factor = 0.5"),
    "without a factor": (scaled(scaling__attn_factor=1.5), "asks for attn_factor = 1.5"),
    "bounds of its own": (yarn_entries(scaling__yarn_beta_slow=0.5), "yarn_beta_slow = 0.5"),
    "deepseek's": (yarn_entries(scaling__yarn_log_multiplier=0.1), "yarn_log_multiplier = 0.1"),
    "a negative factor": (scaled(scaling__factor=-4.0), "linear rope has factor = (-4.0,)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_rules_that_are_not_run_are_refused_by_name(tmp_path, what):
    entries, said = REFUSED[what]
    write(tmp_path / "m.gguf", wide("llama"), **entries)
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "m.gguf")
    assert said in str(caught.value) and len(str(caught.value)) < 500


def test_factors_of_pairs_and_a_rule_are_not_both_run(tmp_path):
    write(tmp_path / "m.gguf", wide("llama"), freqs=torch.ones(32).numpy(), **yarn_entries())
    with pytest.raises(ValueError, match=rf"stretches rope twice, by {gguf_rope.FREQS}"):
        load(tmp_path / "m.gguf")
