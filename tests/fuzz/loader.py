"""Checkpoint folders and GGUF files, changed and then opened; what opens must answer."""

import json
import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

import kvlab
from tests.conftest import tiny_model
from tests.fuzz.mutating import bytes_of, json_of, odd, text_of

REFUSALS = (ValueError,)


@cache
def whole():
    """A checkpoint's files, one of them in two shards, and a GGUF file."""
    model = tiny_model(dtype=torch.float32, n_layers=2, bos_id=0, eos_ids=(1,))
    words = {"a": 0, "<unk>": 1, **{f"w{i}": i for i in range(2, model.config.vocab_size)}}
    weights = model.state_dict()
    names = sorted(weights)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save_file(weights, folder / "model.safetensors")
        for i, part in enumerate((names[:9], names[9:])):
            save_file({n: weights[n] for n in part}, folder / f"part{i}.safetensors")
        Tokenizer(models.WordLevel(words, "<unk>")).save(str(folder / "tokenizer.json"))
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    index = {n: f"part{int(n in names[9:])}.safetensors" for n in names}
    files["model.safetensors.index.json"] = text_of({"weight_map": index})
    files["config.json"] = text_of(model.config.to_hf())
    files["generation_config.json"] = text_of({"eos_token_id": [1]})
    files["tokenizer_config.json"] = text_of(
        {"bos_token": "a", "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    )
    return files


@cache
def gguf_file():
    from tests.test_gguf_file import wide, write

    with tempfile.TemporaryDirectory() as made:
        changes = [("llama.rope.scaling.factor", 1.0), ("llama.expert_count", 0)]
        template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        path = write(Path(made, "m.gguf"), wide("llama"), "Q8_0",
                     changes=changes, template=template)  # fmt: skip
        return path.read_bytes()


def make(rng):
    """Files by name: a folder's, or one GGUF file."""
    if rng.random() < 0.2:
        file = gguf_file()
        head = rng.choice((256, 3000, len(file)))
        return {"m.gguf": bytes_of(rng, file[:head]) + file[head:]}
    made = dict(whole())
    if rng.random() < 0.7:
        del made["model.safetensors.index.json"]
    else:
        del made["model.safetensors"]
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(sorted(made))
        if rng.random() < 0.03:
            del made[name]
        elif name.endswith(".json") and rng.random() < 0.8:
            try:
                made[name] = text_of(json_of(rng, json.loads(made[name])))
            except (ValueError, RecursionError):  # changed before, into what nobody reads
                made[name] = bytes_of(rng, made[name])
        elif name.endswith(".safetensors") and rng.random() < 0.6:
            made[name] = _header(rng, made[name])
        else:
            made[name] = bytes_of(rng, made[name])
    return made


def _header(rng, file):
    """A safetensors file whose header says something else."""
    n = int.from_bytes(file[:8], "little")
    if n > len(file):
        return bytes_of(rng, file)
    try:
        header = text_of(json_of(rng, json.loads(file[8 : 8 + n])))
    except (ValueError, RecursionError):
        return bytes_of(rng, file)
    length = len(header) if rng.random() < 0.9 else odd_length(rng)
    return struct.pack("<Q", length) + header + file[8 + n :]


def odd_length(rng):
    value = odd(rng)
    return value % 2**64 if isinstance(value, int) else 2**40


def run(case, folder):
    for name, content in case.items():
        (folder / name).write_bytes(content)
    model, tokenizer = kvlab.load(folder / "m.gguf" if "m.gguf" in case else folder)
    ids = kvlab.generate(model, [0, 1 % model.config.vocab_size], 2)
    "".join(tokenizer.stream(ids[0].tolist()))
    tokenizer.encode("a")
    if tokenizer.template is not None:
        tokenizer.chat("a")


def tidy(folder):
    shutil.rmtree(folder)
