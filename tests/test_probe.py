import pytest
import torch

from kvlab import Probe
from tests.conftest import tiny_model


def test_a_probe_counts_rows_only_while_it_listens():
    model = tiny_model()
    tokens = torch.randint(61, (2, 5))
    model(tokens)
    with Probe(model) as seen:
        model(tokens)
        model(tokens[:, :1])
    model(tokens)
    assert seen.rows_projected_L == [12, 12, 12] and seen.calls == 2


def test_keys_are_those_in_the_cache():
    model = tiny_model()
    cache = model.new_cache(2, 5)
    with Probe(model, keep=("keys",)) as seen:
        model(torch.randint(61, (2, 5)), cache=cache)
    for layer in range(3):
        assert torch.equal(seen.keys[layer][0], cache.read(layer).k_BGTD)


def test_weights_are_kept_in_the_reference_backend():
    model = tiny_model()
    with Probe(model, keep=("weights",)) as seen:
        model(torch.randint(61, (2, 5)), backend="reference")
        model(torch.randint(61, (2, 5)), backend="sdpa")
    assert [w.shape for w in seen.weights[2]] == [(2, 4, 5, 5)]


def test_something_else_to_keep_is_refused():
    with pytest.raises(ValueError, match="queries"):
        Probe(tiny_model(), keep=("queries",))
