"""What all tests share: one thread, a device, a tiny model."""

import os
import tempfile

import pytest
import torch

from kvlab import ModelConfig, Transformer
from kvlab.measure.random_model import SIZES, random_model

torch.set_num_threads(1)
# What tests do is not a reader's progress.
_data = tempfile.TemporaryDirectory(prefix="kvlab-data-")
os.environ["KVLAB_DATA"] = _data.name


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


@pytest.fixture(scope="session")
def nursery():
    """One process that starts answers' processes, for all tests that grade."""
    from kvlab.course.sandbox.nursery import Nursery

    with Nursery() as made:
        yield made


TINY = {
    "hidden_size": 24, "intermediate_size": 40, "n_layers": 3, "head_dim": 8, "max_positions": 256,
    "eos_ids": (),
}  # fmt: skip


def tiny_config(**changes) -> ModelConfig:
    return ModelConfig(**{**SIZES, **TINY, **changes})


def tiny_model(seed=0, dtype=torch.float64, device="cpu", **changes) -> Transformer:
    """Random weights, in every precision the same ones."""
    return random_model(seed, **{**TINY, **changes}).to(device, dtype)
