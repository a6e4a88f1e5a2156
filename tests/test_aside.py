"""What the chapters say in passing of a real model is measured on what the model computes."""

import pytest
import torch

from benchmarks import aside
from kvlab.course.plugging import own_attention
from kvlab.measure.random_model import random_model


@pytest.fixture(scope="module")
def model():
    return random_model(
        2, vocab_size=64, hidden_size=32, intermediate_size=48, n_heads=4, n_kv_heads=2,
        head_dim=16, dtype=torch.float32,
    )  # fmt: skip


IDS = [i * 7 % 64 for i in range(40)]


@torch.inference_mode()
def test_attention_as_it_is_is_the_models_own(model):
    own_BSV = model(torch.tensor([IDS]))
    for name, same in (("as it is", True), ("not divided", False), ("no mask", False)):
        with own_attention(model, aside.attention(aside.VARIANTS[name], name != "no mask")):
            mine_BSV = model(torch.tensor([IDS]))
        assert torch.allclose(mine_BSV, own_BSV, atol=1e-4) == same, name


def test_keys_that_share_nothing_move_nothing(model):
    found = aside.shared(model, IDS)
    assert found["heads"] == 8 and 0 < found["middle"] < 1
    for attention in model.attentions:
        with torch.no_grad():
            attention.k_proj.weight.zero_()
    assert aside.shared(model, IDS)["middle"] == 0


def test_of_equal_numbers_the_share_that_goes_is_the_root_of_its_count(model):
    with torch.no_grad():
        for attention in model.attentions:
            attention.v_proj.weight.zero_()
            attention.v_proj.weight[:, 0] = 1.0  # each row holds one number, many times over
    found = aside.elements(model, IDS, share=0.75, group=16)
    assert found["v_per_token"] == pytest.approx(0.75**0.5, abs=0.001)
