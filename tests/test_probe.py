import pytest
import torch

from kvlab import Probe, compiled_decode
from kvlab.model import taps, watched
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


def test_everything_that_passes_can_be_kept():
    model = tiny_model()
    cache = model.new_cache(2, 5)
    with Probe(model, cache, keep=("queries", "keys", "values", "weights")) as seen:
        model(torch.randint(61, (2, 5)), cache=cache, backend="reference")
    for layer in range(3):
        (q,), (k,), (v,), (w,) = (
            kept[layer] for kept in (seen.queries, seen.keys, seen.values, seen.weights)
        )
        assert torch.equal(k, cache.read(layer).k_BGTD)
        assert torch.equal(v, cache.read(layer).v_BGTD)
        k = k.repeat_interleave(2, 1)
        mask = torch.ones(5, 5).tril().log()
        torch.testing.assert_close((q @ k.mT * 8**-0.5 + mask).softmax(-1), w)


def test_weights_that_were_never_formed_are_missed_aloud():
    model = tiny_model()
    tokens = torch.randint(61, (2, 5))
    seen = Probe(model, keep=("weights",))
    with pytest.raises(ValueError, match=r"1 of 2 forwards formed none.*='reference'"), seen:
        model(tokens, backend="reference")
        model(tokens, backend="sdpa")
    assert [w.shape for w in seen.weights[2]] == [(2, 4, 5, 5)]


def test_forwards_have_tokens_and_seconds(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now) ** 2))
    model = tiny_model()
    with Probe(model) as seen:
        model(torch.randint(61, (2, 5)))
        model(torch.randint(61, (2, 1)))
    assert [(f.tokens, f.new, f.seconds) for f in seen.forwards] == [(10, 5, 1.0), (2, 1, 5.0)]
    assert (seen.tokens, seen.seconds) == (12, 6.0)


def test_bytes_are_those_of_the_block():
    model = tiny_model()
    cache = model.new_cache(1, 9)
    model(torch.randint(61, (1, 4)), cache=cache)
    row = 2 * 3 * 2 * 8 * 8
    with Probe(model, cache) as seen:
        model(torch.randint(61, (1, 2)), cache=cache)
        assert seen.bytes_written == 2 * row
        cache.fork()
        cache.keep(0, torch.tensor([True, False, True, True, True, True]).expand(1, 2, 6))
    assert (seen.bytes_read, seen.bytes_written) == (6 * row, 2 * row)
    assert seen.bytes_copied == 4 * row // 3
    model(torch.randint(61, (1, 1)), cache=cache)
    assert seen.bytes_written == 2 * row
    with pytest.raises(ValueError, match=r"Probe\(model, cache\)"):
        Probe(model).bytes_read  # noqa: B018


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_nothing_is_left_behind_even_after_an_error():
    model = tiny_model()
    with pytest.raises(IndexError), Probe(model, keep=("weights", "queries")):
        model(torch.tensor([[99]]))
    assert hooks(model) == 0 and not watched(taps(model))
    with Probe(model) as outer:
        assert watched(taps(model))
        with Probe(model) as inner:
            model(torch.tensor([[1]]))
        model(torch.tensor([[1]]))
        with pytest.raises(ValueError, match="listens already"), outer:
            pass
    assert (outer.rows_projected, inner.rows_projected) == (2, 1)
    assert hooks(model) == 0


def test_something_else_to_keep_or_to_watch_is_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"keep logits; it knows queries, keys, values, weights"):
        Probe(model, keep=("logits",))
    step = compiled_decode(model, model.new_cache(1, 4))
    with pytest.raises(ValueError, match="given a CompiledDecode; expected a Transformer"):
        Probe(step)
