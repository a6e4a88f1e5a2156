"""One way to listen to a model at work."""

import pytest
import torch

from kvlab.measure.taps import compiled, listen, taps, watched
from tests.conftest import tiny_model

TOKENS = torch.tensor([[1, 2, 3, 4]])
OF_LAYERS = ("tap_q", "tap_k", "tap_v", "tap_weights", "after")
OF_THE_MODEL = ("starts", "ends", "tap_logits")


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


def test_all_that_passes_is_heard_in_its_order_and_shape():
    model, heard = tiny_model(), []
    of_layers = {
        name: lambda i, x, name=name: heard.append((name, i, tuple(x.shape))) for name in OF_LAYERS
    }
    of_the_model = {
        name: lambda x, name=name: heard.append((name, tuple(x.shape))) for name in OF_THE_MODEL
    }
    with listen(model, **of_layers, **of_the_model):
        model(TOKENS, backend="reference")
    c = model.config
    q, kv = (1, c.n_heads, 4, c.head_dim), (1, c.n_kv_heads, 4, c.head_dim)
    out, weights = (1, 4, c.hidden_size), (1, c.n_heads, 4, 4)
    shapes = dict(zip(OF_LAYERS, (q, kv, kv, weights, out), strict=True))
    assert heard == [
        ("starts", (1, 4)),
        *((name, i, shapes[name]) for i in range(c.n_layers) for name in OF_LAYERS),
        ("ends", out),
        ("tap_logits", (1, 4, c.vocab_size)),
    ]


def test_it_ends_with_its_block_or_by_hand_and_after_an_error():
    model, heard = tiny_model(), []
    with pytest.raises(ValueError), listen(model, tap_q=lambda i, q: heard.append(i)):
        model(torch.tensor([[99]]))
    assert hooks(model) == 0
    open_ended = listen(model, after=lambda i, out: heard.append(i))
    model(TOKENS)
    open_ended.close()
    model(TOKENS)
    assert heard == list(range(model.config.n_layers)) and hooks(model) == 0


def test_what_a_listener_returns_goes_on_in_place_of_what_passed():
    model = tiny_model()
    plain = model(TOKENS)
    with listen(model, tap_v=lambda i, v: None, after=lambda i, out: None):
        assert torch.equal(model(TOKENS), plain)
    with listen(model, after=lambda i, out: torch.zeros_like(out) if i == 1 else None):
        muted = model(TOKENS)
    torch.nn.init.zeros_(model.attentions[1].o_proj.weight)
    assert torch.equal(muted, model(TOKENS)) and not torch.equal(muted, plain)


@pytest.mark.parametrize("part", ["whole", "a layer", "an attention"])
def test_a_compiled_model_is_refused_whatever_was_compiled(part):
    model = tiny_model()
    assert not compiled(model)
    whole = {"whole": model, "a layer": model.model.layers[1], "an attention": model.attentions[2]}
    whole[part].compile()
    assert compiled(model)
    with pytest.raises(ValueError, match=r"`.compile\(\)` changed, .* passes no taps"):
        listen(model, tap_q=lambda i, q: None)
    assert hooks(model) == 0


@pytest.mark.parametrize("name", ["tap_q", "tap_k", "tap_v", "tap_weights", "tap_logits"])
def test_a_listener_at_any_tap_is_seen(name):
    model = tiny_model()
    with listen(model, **{name: lambda *_: None}):
        assert watched(taps(model))
    assert not watched(taps(model))
    with listen(model, starts=lambda tokens: None, after=lambda i, out: None):
        assert not watched(taps(model))
