"""Every family that kvlab reads, against `transformers`: the same files, the same numbers."""

import itertools
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from kvlab import ModelConfig, Transformer, export, generate, ops, prefill
from kvlab.checkpoint import load
from tests.conftest import tiny_config, tiny_model
from tests.test_checkpoint import write_tokenizer

transformers = pytest.importorskip("transformers", reason="needs transformers")

SHAPES = {  # query heads, KV heads, head width, which is not hidden / heads in the last
    "mha": (4, 4, 8),
    "gqa": (6, 2, 8),
    "mqa": (4, 1, 8),
    "wide": (4, 2, 16),
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
FAMILIES = {
    "llama": ("Llama", {}),
    "llama-biased": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "linear": ("Llama", {"rope_parameters": LINEAR}),
    "yarn": ("Qwen2", {"rope_parameters": YARN}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "qwen3-biased": ("Qwen3", {"attention_bias": True}),
}


def peer(family, shape="gqa", *, seed=0, **changes):
    """A random model of `transformers`; no two tokens alike, no norm or bias at its default."""
    kind, extra = FAMILIES[family]
    n_heads, n_kv_heads, head_dim = SHAPES[shape]
    sizes = {
        "vocab_size": 101, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 3,
        "num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads, "head_dim": head_dim,
        "max_position_embeddings": 512, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    # transformers checks that heads divide the hidden size even where head_dim says otherwise
    config = getattr(transformers, f"{kind}Config")(**sizes | extra | changes)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=1.2 * weight.shape[1] ** -0.5)
        elif "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
        else:
            torch.nn.init.normal_(weight, std=0.5)
    return model.eval()


def saved(model, folder, **how):
    model.save_pretrained(folder, **how)
    write_tokenizer(folder)
    return folder


def logits_of(model, tokens_BS):
    with torch.inference_mode():
        out = model(tokens_BS)
    return out if isinstance(out, torch.Tensor) else out.logits


CASES = [
    *itertools.product(FAMILIES, ["gqa"]),
    *itertools.product(["llama", "qwen2", "qwen3"], ["mha", "mqa", "wide"]),
]


@pytest.fixture(params=CASES, ids="-".join)
def both(request, tmp_path):
    theirs = peer(*request.param)
    return theirs, load(saved(theirs, tmp_path))[0]


def test_logits_agree(both):
    theirs, ours = both
    tokens_BS = torch.randint(0, 101, (2, 200), generator=torch.Generator().manual_seed(1))
    want = logits_of(theirs, tokens_BS)
    assert want.abs().max() > 1
    assert (logits_of(ours, tokens_BS) - want).abs().max() <= 1e-5


def test_greedy_tokens_agree_for_64_steps(both):
    theirs, ours = both
    prompt = torch.randint(0, 101, (2, 70), generator=torch.Generator().manual_seed(2))
    want = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False,
        pad_token_id=0,
    )  # fmt: skip
    assert torch.equal(generate(ours, prompt, 64), want[:, 70:])


def test_a_prompt_in_chunks_is_the_prompt(both):
    theirs, ours = both
    tokens_BS = torch.randint(0, 101, (2, 90), generator=torch.Generator().manual_seed(3))
    cache = ours.new_cache(2, 90)
    for start, stop in ((0, 1), (1, 18), (18, 64), (64, 90)):
        logits_BV = prefill(ours, tokens_BS[:, start:stop], cache)
    assert (logits_BV - logits_of(theirs, tokens_BS)[:, -1]).abs().max() <= 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_are_their_rows_alone(both, side):
    theirs, ours = both
    draw = torch.Generator().manual_seed(4)
    rows = [torch.randint(0, 101, (n,), generator=draw) for n in (31, 17, 5)]
    tokens_BS, pos_BS = torch.zeros(3, 31, dtype=torch.int64), torch.full((3, 31), -1)
    for b, row in enumerate(rows):
        place = slice(31 - len(row), None) if side == "left" else slice(0, len(row))
        tokens_BS[b, place], pos_BS[b, place] = row, torch.arange(len(row))
    logits_BV = prefill(ours, tokens_BS, ours.new_cache(3, 31), pos_BS=pos_BS)
    for logits_V, row in zip(logits_BV, rows, strict=True):
        assert (logits_V - logits_of(theirs, row[None])[0, -1]).abs().max() <= 1e-5


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("how", ["tied", "sharded"])
def test_tied_and_sharded_checkpoints_load(tmp_path, family, how):
    theirs = peer(family, tie_word_embeddings=how == "tied")
    saved(theirs, tmp_path, **({"max_shard_size": "40KB"} if how == "sharded" else {}))
    assert (how == "sharded") == (tmp_path / "model.safetensors.index.json").is_file()
    tokens_BS = torch.arange(60)[None]
    difference = logits_of(load(tmp_path)[0], tokens_BS) - logits_of(theirs, tokens_BS)
    assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_files_load_as_float32(tmp_path, family, dtype):
    saved(peer(family).to(dtype), tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens_BS = torch.arange(80)[None]
    difference = logits_of(load(tmp_path)[0], tokens_BS) - logits_of(theirs, tokens_BS)
    assert difference.abs().max() <= 1e-5
    assert load(tmp_path, dtype="auto")[0].dtype == dtype


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("family", ["llama3", "linear", "yarn"])
def test_both_spellings_of_scaling_are_read(tmp_path, family, old):
    theirs = peer(family)
    saved(theirs, tmp_path)
    if old:
        written = json.loads((tmp_path / "config.json").read_text())
        scaling = written.pop("rope_parameters")
        written["rope_theta"] = scaling.pop("rope_theta")
        (tmp_path / "config.json").write_text(json.dumps({**written, "rope_scaling": scaling}))
    tokens_BS = torch.randint(0, 101, (1, 300), generator=torch.Generator().manual_seed(5))
    got, want = logits_of(load(tmp_path)[0], tokens_BS), logits_of(theirs, tokens_BS)
    assert (got - want).abs().max() <= 1e-5
    plain = load(saved(peer("qwen2" if family == "yarn" else "llama"), tmp_path / "plain"))[0]
    plain.load_state_dict(load(tmp_path)[0].state_dict())
    assert (logits_of(plain, tokens_BS) - want).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_what_we_export_opens_in_transformers_and_here(tmp_path, family):
    theirs = peer(family)
    model, tokenizer = load(saved(theirs, tmp_path / "came"))
    folder = export(model, tokenizer, tmp_path / "new" / "went")
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens_BS = torch.arange(90)[None]
    assert type(again) is type(theirs)
    assert (logits_of(again, tokens_BS) - logits_of(theirs, tokens_BS)).abs().max() <= 1e-6
    back = load(folder)[0]
    assert back.config == model.config
    assert all(torch.equal(back.state_dict()[n], w) for n, w in model.state_dict().items())


def test_one_file_wins_over_an_index_as_it_does_in_transformers(tmp_path):
    saved(peer("llama", seed=1), tmp_path, max_shard_size="40KB")
    alone = peer("llama", seed=2)
    save_file(
        {n: w.detach() for n, w in alone.state_dict().items()},
        tmp_path / "model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens_BS = torch.arange(40)[None]
    assert torch.equal(logits_of(theirs, tokens_BS), logits_of(alone, tokens_BS))
    difference = logits_of(load(tmp_path)[0], tokens_BS) - logits_of(alone, tokens_BS)
    assert difference.abs().max() <= 1e-5


def test_the_ids_that_end_a_text_are_those_that_generate_in_transformers_uses(tmp_path):
    theirs = peer("llama")
    theirs.config.eos_token_id = 3
    theirs.generation_config.eos_token_id = [3, 7, 9]
    assert load(saved(theirs, tmp_path))[0].config.eos_ids == (3, 7, 9)


def test_turns_beyond_the_original_length_are_those_of_transformers():
    """With the numbers of Llama 3.1, up to its last position."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = {**LLAMA3, "original_max_position_embeddings": 8192}
    config = transformers.LlamaConfig(
        head_dim=128, max_position_embeddings=131072, rope_parameters=scaling
    )
    pos_BS = torch.tensor([[0, 1, 63, 8191, 8192, 40000, 131071]])
    want = LlamaRotaryEmbedding(config)(torch.zeros(1), pos_BS)
    read = ModelConfig.from_hf(config.to_dict())
    cos, sin = ops.rope_angles(pos_BS, 128, read.rope_theta, torch.float32, read.rope_scaling)
    assert (cos - want[0]).abs().max() <= 1e-5
    assert (sin[..., 64:] - want[1][..., 64:]).abs().max() <= 1e-5
    plain, _ = ops.rope_angles(pos_BS, 128, read.rope_theta, torch.float32)
    assert (plain - want[0]).abs().max() > 0.5


def test_prompts_of_different_lengths_are_continued_as_if_alone(both):
    _, ours = both
    draw = torch.Generator().manual_seed(6)
    rows = [torch.randint(0, 101, (n,), generator=draw).tolist() for n in (31, 17, 5)]
    for together, row in zip(generate(ours, rows, 16), rows, strict=True):
        assert torch.equal(together, generate(ours, row, 16)[0])


# Linux lets a child's ru_maxrss begin at its parent's, so this reads the process's own mark.
PEAK = """
import sys
import kvlab.checkpoint as loading

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

loading.load(sys.argv[1])
before = peak()
model, _ = loading.load(sys.argv[2], dtype=sys.argv[3])
for weight in model.parameters():
    weight.sum()  # a mapped file is read when it is used
print((peak() - before) / sum(weight.nbytes for weight in model.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux tells it")
@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_memory_peaks_at_about_the_size_of_the_weights(tmp_path, stored):
    """Whatever the file's precision: a file of twice the size is never in memory as a whole."""
    model = Transformer(
        tiny_config(n_layers=4, hidden_size=1024, intermediate_size=4096, head_dim=256)
    )
    _, tokenizer = load("pocket")
    big = export(model, tokenizer, tmp_path / "big", dtype=stored)
    small = export(tiny_model(), tokenizer, tmp_path / "small")
    assert (big / "model.safetensors").stat().st_size > (200e6 if stored == "float32" else 100e6)
    for dtype in ("float32", "float16"):
        out = subprocess.run(
            [sys.executable, "-c", PEAK, str(small), str(big), dtype],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert 0.95 < float(out) < 1.3
