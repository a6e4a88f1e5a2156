"""The random model that laws, exercises and tests share."""

import torch

from kvlab.measure.random_model import random_model


def test_a_seed_is_a_model_and_the_callers_chance_is_left_alone():
    torch.manual_seed(5)
    want = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (random_model(s, qkv_bias=True) for s in (3, 3, 4))
    assert torch.equal(torch.rand(1), want)
    for name, weight in one.named_parameters():
        assert torch.equal(weight, same.get_parameter(name)), name
        assert "norm" in name or not torch.equal(weight, other.get_parameter(name)), name


def test_sizes_type_and_spread_are_what_was_asked_for():
    model = random_model(n_layers=1, hidden_size=64, dtype=torch.float32, spread=3)
    assert model.config.n_layers == len(model.model.layers) == 1 and model.dtype == torch.float32
    deviation = model.model.layers[0].mlp.gate_proj.weight.std()
    assert abs(float(deviation) * 64**0.5 - 3) < 0.1
    assert not any(weight.requires_grad for weight in model.parameters()) and not model.training
