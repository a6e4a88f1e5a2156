"""Files of weights whose header lies about them; tests/test_checkpoint.py has the others."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from kvlab.checkpoint import load
from tests.conftest import tiny_model


@pytest.fixture
def folder(tmp_path):
    """A checkpoint up to its tokenizer, which is read after the weights."""
    model = tiny_model(dtype=torch.float32)
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_hf()))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def stretched(folder, times):
    """The file's header with first axes so many times as long; its numbers take no disk."""
    header, at = {}, 0
    for name, tensor in load_file(folder / "model.safetensors").items():
        shape = [times * tensor.shape[0], *tensor.shape[1:]]
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    with open(folder / "model.safetensors", "wb") as file:
        written = json.dumps(header).encode()
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + at)


def test_shapes_are_refused_by_the_header_before_a_number_is_read(folder, monkeypatch):
    stretched(folder, 2**12)
    monkeypatch.setattr(
        "kvlab.safetensors_file._tensors", lambda *given: pytest.fail("it was read")
    )
    with pytest.raises(ValueError, match=r"is \(\d{5,}.*, expected \(\d{1,3}[,)]"):
        load(folder)


def test_a_file_larger_than_the_memory_is_named(folder, monkeypatch):
    def no_room(*given, **more):
        raise MemoryError("Cannot allocate memory")

    monkeypatch.setattr("kvlab.safetensors_file.safe_open", no_room)
    with pytest.raises(ValueError, match=r"model.safetensors is larger than the memory that there"):
        load(folder)
