"""What all tests share: one thread, a device, a tiny model."""

import os
import tempfile

import pytest
import torch

from kvlab import ModelConfig, Transformer

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


def tiny_config(**changes) -> ModelConfig:
    sizes = {
        "vocab_size": 61,
        "hidden_size": 24,
        "intermediate_size": 40,
        "n_layers": 3,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 8,
        "max_positions": 256,
        "eos_ids": (),
    }
    return ModelConfig(**{**sizes, **changes})


def tiny_model(seed=0, dtype=torch.float64, device="cpu", **changes) -> Transformer:
    """Random weights, large enough that tokens differ and attention is not uniform."""
    torch.manual_seed(seed)
    model = Transformer(tiny_config(**changes)).double()
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=1.5 * weight.shape[1] ** -0.5)
    return model.to(device, dtype).requires_grad_(False).eval()
