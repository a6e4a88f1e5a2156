import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from kvlab.checkpoint import load, read_config
from tests.conftest import tiny_model


def write_tokenizer(folder):
    Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")).save(
        str(folder / "tokenizer.json")
    )


@pytest.fixture
def folder(tmp_path):
    """A whole checkpoint."""
    model = tiny_model(dtype=torch.float32)
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_hf()))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    write_tokenizer(tmp_path)
    return tmp_path


def test_what_was_saved_is_what_is_loaded(folder):
    model, _ = load(folder)
    want = tiny_model(dtype=torch.float32).state_dict()
    assert all(torch.equal(model.state_dict()[name], w) for name, w in want.items())
    assert not model.training and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64", torch.float16])
def test_the_precision_asked_for_is_the_one_that_comes(folder, dtype):
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert load(folder, dtype=dtype)[0].dtype == wanted


def test_auto_keeps_the_files_precision(folder):
    weights = {k: v.half() for k, v in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    assert load(folder, dtype="auto")[0].dtype == torch.float16


def test_unknown_names_and_folders_say_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"'nowhere'.*is not a folder.*'pocket'"):
        load("nowhere")
    with pytest.raises(ValueError, match="has no config.json"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name):
        load(folder)


@pytest.mark.parametrize("keep", [0, 4, 60, 0.5, -10])
def test_truncated_weights_are_named(folder, keep):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    cut = int(len(whole) * keep) if isinstance(keep, float) else keep
    path.write_bytes(whole[:cut])
    with pytest.raises(ValueError, match=r"model.safetensors is truncated or not a safetensors"):
        load(folder)


def test_weights_that_are_something_else_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"\x80\x04pickle" * 100)
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(folder)


@pytest.mark.parametrize("text", ["{", "", "[1, 2]", "\udcff"])
def test_a_config_that_is_no_json_object_is_named(folder, text):
    (folder / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"config.json"):
        load(folder)


def test_a_tokenizer_that_is_none_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not a readable tokenizer.json"):
        load(folder)


@pytest.mark.parametrize("change", ["missing", "unexpected", "shape"])
def test_weights_that_do_not_fit_the_config_are_named(folder, change):
    weights = load_file(folder / "model.safetensors")
    if change == "missing":
        del weights["model.norm.weight"]
    elif change == "unexpected":
        weights["model.layers.9.mlp.up_proj.weight"] = torch.zeros(2, 2)
    else:
        weights["model.norm.weight"] = torch.zeros(5)
    save_file(weights, folder / "model.safetensors")
    named = "layers.9.mlp.up_proj" if change == "unexpected" else "model.norm.weight"
    with pytest.raises(ValueError, match=named):
        load(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="model-00001-of-00002"):
        load(folder)


def test_another_architecture_is_refused_by_name(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    with pytest.raises(ValueError, match="'mamba'"):
        load(folder)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "mps", 3.5])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"{device}"):
        load("pocket", device=device)


@pytest.mark.parametrize("dtype", ["float8", "int64", torch.int32, None])
def test_a_precision_that_is_none_is_named(folder, dtype):
    with pytest.raises(ValueError, match="dtype"):
        load(folder, dtype=dtype)


def test_the_pocket_model_loads_from_a_copy_as_well(tmp_path):
    from kvlab.hub import NAMED

    shutil.copytree(NAMED["pocket"], tmp_path / "copy")
    a, b = load("pocket")[0].state_dict(), load(tmp_path / "copy")[0].state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_architecture_alone_is_that_of_the_model(folder):
    assert read_config("pocket") == load("pocket")[0].config
    assert read_config(folder) == load(folder)[0].config
    (folder / "model.safetensors").unlink()
    assert read_config(folder).n_layers > 0
    with pytest.raises(ValueError, match="'nowhere' was asked for: that is not a folder"):
        read_config("nowhere")


def test_quantised_weights_are_refused_by_name(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(24, dtype=torch.int8)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.norm.weight .* torch.int8"):
        load(folder)


def test_auto_refuses_a_mixture_which_a_named_precision_settles(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].half()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"torch.float16, torch.float32"):
        load(folder, dtype="auto")
    assert load(folder)[0].dtype == torch.float32


@pytest.mark.parametrize("index", [{}, {"weight_map": ["a"]}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_map_is_named(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="no weight_map"):
        load(folder)


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("held", ["both", "head", "another"])
def test_tied_weights_may_be_written_twice_but_not_differ(folder, held):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(folder / "model.safetensors")
    weights[HEAD] = weights[EMBEDDING] + (held == "another")
    want = weights[EMBEDDING].clone()
    if held == "head":
        del weights[EMBEDDING]
    save_file(weights, folder / "model.safetensors")
    if held == "another":
        with pytest.raises(ValueError, match="ties lm_head.weight to the embedding"):
            load(folder)
    else:
        assert torch.equal(load(folder)[0].model.embed_tokens.weight, want)


def test_turns_that_old_files_hold_are_left_out(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4, dtype=torch.int8)
    save_file(weights, folder / "model.safetensors")
    load(folder)


def sharded(folder, first, second):
    """Two files in place of one, each with what its function keeps."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {}
    for file, keeps in (("a.safetensors", first), ("b.safetensors", second)):
        part = {name: w for name, w in weights.items() if keeps(name)}
        save_file(part, folder / file)
        names.update(dict.fromkeys(part, file))
    return names


def test_a_tensor_that_two_files_hold_is_named(folder):
    names = sharded(folder, lambda _: True, lambda name: name == "model.norm.weight")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ValueError, match="model.norm.weight is in two files"):
        load(folder)


def test_an_index_that_leaves_its_folder_is_named(folder):
    names = sharded(folder, lambda name: "norm" in name, lambda name: "norm" not in name)
    names = {name: f"../{folder.name}/{file}" for name, file in names.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ValueError, match=r"expected a file beside it"):
        load(folder)


DEEP = "[" * 100_000 + "]" * 100_000
LIES = {
    "layers": (
        {"num_hidden_layers": 10**9},
        r"asks for 1000000000 layers, but .* holds \d+ tensors",
    ),
    "width": ({"hidden_size": 2**63}, r"hidden_size is 9223372036854775808; expected a whole"),
    "heads": ({"num_attention_heads": 2**70}, r"n_heads is 1180591620717411303424; expected"),
    "digits": ({"hidden_size": 10**4000}, r"hidden_size is 1000\d+ …; expected a whole number"),
    "a list": ({"model_type": []}, r"architecture \[\]; kvlab"),
    "an object": ({"model_type": {}}, r"architecture \{\}; kvlab"),
    "a long one": ({"model_type": "x" * 10**6}, r"architecture 'x+ …; kvlab"),
    "endless eps": ({"rms_norm_eps": float("inf")}, r"norm_eps is inf; expected a finite number"),
    "endless theta": ({"rope_theta": float("inf")}, r"rope_theta is inf; expected a finite"),
    "tied in words": ({"tie_word_embeddings": "false"}, r"tie_word_embeddings = 'false'"),
    "bos": ({"bos_token_id": {}}, r"bos_token_id is \{\}; expected a whole number"),
    "bos in words": ({"bos_token_id": ""}, r"bos_token_id is ''; expected a whole"),
    "bos not a number": ({"bos_token_id": float("nan")}, r"bos_token_id is nan; expected"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_a_config_says_is_checked_before_anything_is_built(folder, lie):
    changes, said = LIES[lie]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=said) as caught:
        load(folder)
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_json_that_is_nested_too_deep_is_refused(folder, name):
    (folder / name).write_text('{"a": ' + DEEP + "}")
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is not readable JSON"):
        load(folder)


@pytest.mark.parametrize("name", ["x" * 5000, "~no_such_user_of_this_name/x", "a\0b"])
def test_what_is_no_path_is_no_name_of_a_model(name):
    with pytest.raises(ValueError, match=r"was asked for"):
        load(name)


@pytest.mark.parametrize("name", [None, 5, b"pocket"])
def test_a_name_is_text_or_a_path(name):
    with pytest.raises(ValueError, match=rf"and {type(name).__name__} came"):
        load(name)


BESIDE = {
    "pickled": ("pytorch_model.bin", r"which are not read.*save_pretrained\(folder\)"),
    "shards": ("model-00001-of-00002.safetensors", r"shards need model.safetensors.index.json"),
    "gguf": ("small.gguf", r"small\.gguf is there, which can be named itself"),
    "nothing": ("notes.txt", r"expected a safetensors file"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_is_there_in_place_of_weights_is_named_with_its_cure(folder, what):
    name, said = BESIDE[what]
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"1")
    with pytest.raises(ValueError, match=rf"No weights at .*model\.safetensors: .*{said}"):
        load(folder)


def test_a_folder_that_holds_a_gguf_file_alone_names_it(tmp_path):
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"no config\.json, but small\.gguf, which can be named"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json"])
def test_a_tokenizer_of_another_kind_is_named_with_its_cure(folder, name):
    (folder / "tokenizer.json").rename(folder / name)
    with pytest.raises(ValueError, match=rf"{name} is there: AutoTokenizer.*save_pretrained"):
        load(folder)


def test_a_head_that_the_embedding_lends_is_cured_by_tying(folder):
    weights = load_file(folder / "model.safetensors")
    del weights[HEAD]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.*missing.*set tie_word_embeddings to true"):
        load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    load(folder)
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match="model.norm.weight is missing") as caught:
        load(folder)
    assert "tie_word" not in str(caught.value)


@pytest.mark.parametrize("where", ["tensor", "quantised", "index", "name", "folder"])
def test_names_of_any_length_are_refused_in_few_words(folder, where):
    long, given = "x" * 5000, folder
    weights = load_file(folder / "model.safetensors")
    if where in ("tensor", "quantised"):
        kind = torch.int8 if where == "quantised" else torch.float32
        save_file({**weights, long: torch.zeros(2, dtype=kind)}, folder / "model.safetensors")
    elif where == "index":
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {"model.norm.weight": long}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        given = long if where == "name" else folder / ("y" * 200) / ("z" * 200) / ("y" * 200)
    with pytest.raises(ValueError) as caught:
        load(given)
    assert 20 < len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "key"),
    [("config.json", "bos_token_id"), ("config.json", "eos_token_id"),
     ("generation_config.json", "eos_token_id")],
)  # fmt: skip
def test_ids_outside_the_vocabulary_are_refused(folder, name, key):
    path = folder / name
    held = json.loads(path.read_text()) if path.is_file() else {}
    n = json.loads((folder / "config.json").read_text())["vocab_size"]
    path.write_text(json.dumps(held | {key: n}))
    with pytest.raises(ValueError, match=rf"is {n}; expected one of the {n} .*{name}"):
        load(folder)
    path.write_text(json.dumps(held | {key: n - 1}))
    load(folder)
