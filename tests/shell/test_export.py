import json

import pytest
import torch
from safetensors import SafetensorError

from kvlab import Tokenizer, export, load
from kvlab.chat import ChatTemplate
from tests.conftest import tiny_model

JINJA = "chat_template.jinja"


@pytest.fixture(scope="module")
def pocket():
    return load("pocket")


@pytest.mark.parametrize("dtype", ["auto", "float16", torch.float16])
def test_the_pocket_model_opens_in_transformers(pocket, tmp_path, dtype):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    model, tokenizer = pocket
    folder = export(*pocket, tmp_path / "pocket", dtype=dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = "User: What is the capital of France?\nAssistant:"
    theirs_too = transformers.AutoTokenizer.from_pretrained(folder)
    arabic = "\u0645\u0631\u062d\u0628\u0627"
    for some in ("12.50 and -3", "  x\n\ty ", f"{arabic} \U0001f642", "<eos>a", text):
        ids = theirs_too(some).input_ids
        assert ids == tokenizer.encode(some)
    assert len(theirs_too(["a", text], padding=True).input_ids[0]) == len(ids)
    with torch.inference_mode():
        want, got = theirs(torch.tensor([ids])).logits, model(torch.tensor([ids]))
    # the weights were trained into float16, so that precision loses nothing
    assert (got - want).abs().max() <= 1e-6 * want.abs().max()
    written = theirs.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0]
    assert tokenizer.decode(written[len(ids) :].tolist()).strip().startswith("The capital")


def test_a_chat_template_goes_with_its_model(pocket, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    model, tokenizer = pocket
    source = "{{ unk_token }}{% for m in messages %}{{ m.content | trim }}é\n{% endfor %}{{ x }}\n"
    spoken = Tokenizer(tokenizer.inner, ChatTemplate(source, {"unk_token": "a"}, tmp_path))
    folder = export(model, spoken, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    talk = [{"role": "user", "content": " Hi "}]
    want = theirs.apply_chat_template(talk, return_dict=False)
    assert spoken.chat(talk) == load(folder)[1].chat(talk) == want
    assert load(folder)[1].template.source == source
    assert not (export(model, Tokenizer(tokenizer.inner), tmp_path / "b") / JINJA).exists()


def test_large_weights_go_into_several_files(pocket, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    model, tokenizer = pocket
    want = model.state_dict()
    most = max(weight.nbytes for weight in want.values()) + 1
    monkeypatch.setattr("kvlab.shell.export.SHARD_BYTES", most)
    folder = export(model, tokenizer, tmp_path / "out")
    shards = sorted(folder.glob("model*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(shards) > 2 and shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert set(index["weight_map"].values()) == {path.name for path in shards}
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in want.values())
    assert all(path.stat().st_size < most + 10_000 for path in shards)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for name, weight in load(folder)[0].state_dict().items():
        assert torch.equal(weight, want[name]) and torch.equal(theirs[name], weight)


def test_what_is_there_already_is_not_touched(pocket, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"something already \(mine.txt\)"):
        export(*pocket, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(ValueError, match="it is a file"):
        export(*pocket, tmp_path / "mine.txt")


def test_an_empty_folder_will_do(pocket, tmp_path):
    assert (export(*pocket, tmp_path) / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", [OSError, SafetensorError])
def test_a_failure_leaves_nothing_behind(pocket, tmp_path, monkeypatch, kind):
    def full(*_, **__):
        raise kind("No space left on device")

    monkeypatch.setattr("kvlab.shell.export.save_file", full)
    with pytest.raises(ValueError, match="No space left"):
        export(*pocket, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_shape_that_transformers_refuses_is_not_written(pocket, tmp_path):
    with pytest.raises(ValueError, match="must divide hidden_size"):
        export(tiny_model(hidden_size=26), pocket[1], tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_model_of_no_tokenizer_of_its_own_keeps_its_sizes(pocket, tmp_path):
    model = tiny_model(dtype=torch.float64, n_kv_heads=1, tie_embeddings=True, eos_ids=(3, 4))
    back, _ = load(export(model, pocket[1], tmp_path / "tiny"), dtype="auto")
    assert back.config == model.config
    assert all(torch.equal(back.state_dict()[n], w) for n, w in model.state_dict().items())


def test_into_the_folder_in_which_one_is(pocket, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = (tmp_path / "here").stat().st_ino
    export(*pocket, ".")
    assert (tmp_path / "here").stat().st_ino == before and load(".")[0].config == pocket[0].config
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    with pytest.raises(ValueError, match="there is something already"):
        export(*pocket, ".")
