"""Every family that kvlab reads, against `transformers`: the same files, the same numbers."""

import itertools
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from kvlab import export, generate, prefill
from kvlab.loading import load
from tests.test_loading import write_tokenizer

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
FAMILIES = {
    "llama": ("Llama", {}),
    "llama-biased": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "qwen3-biased": ("Qwen3", {"attention_bias": True}),
}


def peer(family, shape="gqa", *, seed=0, **changes):
    """A random model of `transformers`; no two tokens alike, no norm or bias at its default."""
    kind, extra = FAMILIES[family]
    n_heads, n_kv_heads, head_dim = SHAPES[shape]
    # transformers checks that heads divide the hidden size even where head_dim says otherwise
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=101, hidden_size=48, intermediate_size=56, num_hidden_layers=3,
        num_attention_heads=n_heads, num_key_value_heads=n_kv_heads, head_dim=head_dim,
        max_position_embeddings=512, bos_token_id=None, eos_token_id=None, **{**extra, **changes},
    )  # fmt: skip
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
def test_both_spellings_of_llama3_scaling_are_read(tmp_path, old):
    theirs = peer("llama3")
    saved(theirs, tmp_path)
    if old:
        written = json.loads((tmp_path / "config.json").read_text())
        scaling = written.pop("rope_parameters")
        written["rope_theta"] = scaling.pop("rope_theta")
        (tmp_path / "config.json").write_text(json.dumps({**written, "rope_scaling": scaling}))
    tokens_BS = torch.randint(0, 101, (1, 300), generator=torch.Generator().manual_seed(5))
    got, want = logits_of(load(tmp_path)[0], tokens_BS), logits_of(theirs, tokens_BS)
    assert (got - want).abs().max() <= 1e-5
    plain = load(saved(peer("llama"), tmp_path / "plain"))[0]
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


PEAK = """
import resource, sys
import torch, kvlab.loading as loading
torch.zeros(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loading.load(sys.argv[1], dtype=sys.argv[2])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux tells it")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_peaks_at_about_the_size_of_the_weights(tmp_path, dtype):
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=4,
        num_attention_heads=8, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).to(torch.float32)
    n_bytes = sum(w.nbytes for w in theirs.parameters())
    assert n_bytes > 200e6
    saved(theirs, tmp_path)
    del theirs
    out = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), dtype],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    # the file's own pages count as well: in its own precision that is all there is
    allowed = 1.2 if dtype == "float32" else 1.7
    assert int(out) < allowed * n_bytes


def test_a_hub_id_is_fetched_and_a_folder_wins_over_it(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(name, **_):
        asked.append(name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    theirs = saved(peer("qwen3"), tmp_path)
    assert load("owner/name")[0].config.family == "qwen3"
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path.parent / "owner").mkdir()
    theirs.rename(tmp_path.parent / "owner" / "name")
    assert load("owner/name")[0].config.family == "qwen3"
    assert asked == ["owner/name"]


@pytest.mark.parametrize("name", ["./owner/name", "a/b/c", "~/name", "/owner/name", "owner\\name"])
def test_a_path_is_never_asked_of_the_hub(monkeypatch, name):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(ValueError, match="that is not a folder"):
        load(name)


def test_a_hub_that_cannot_be_reached_is_said_plainly(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code = "import kvlab; kvlab.load('owner/name')"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.returncode
    assert "could not be fetched from the hub" in out.stderr.splitlines()[-1]
