import pytest
import torch

from kvlab import Probe, compiled_decode, decode, generate, prefill
from kvlab.measure.taps import taps, watched
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


class Clock:
    """Time stands still until somebody works."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def takes(self, module, seconds):
        def work(_module, inputs):
            self.now += seconds * inputs[0].shape[1]

        module.register_forward_pre_hook(work)


@pytest.mark.parametrize("tied", [False, True])
def test_a_forward_has_tokens_and_lasts_until_its_logits(monkeypatch, tied):
    """Layers take 3 seconds a column; a projection of logits 10; picking a token 100."""
    clock = Clock(monkeypatch)
    model = tiny_model(tie_embeddings=tied)
    for layer in model.model.layers:
        clock.takes(layer, 1.0)
    clock.takes(model.tap_logits, 10.0)
    cache = model.new_cache(2, 8)

    def pick(logits_BV):
        clock.now += 100
        return logits_BV.argmax(-1)

    with Probe(model) as seen:
        model.hidden(torch.randint(61, (2, 5)), cache=cache)
        clock.now += 1000
        model(torch.randint(61, (2, 1)), cache=cache)
        clock.now += 1000
        model.head(torch.zeros(2, 1, 24, dtype=torch.float64))
    assert [(f.tokens, f.new, f.seconds) for f in seen.forwards] == [(10, 5, 15), (2, 1, 13)]
    assert (seen.tokens, seen.seconds) == (12, 28)
    with Probe(model) as seen:
        generate(model, [[1, 2, 3, 4]], 3, pick=pick, eos=())
    # the tap sees (B, V) here, 61 columns
    assert [(f.new, f.seconds) for f in seen.forwards] == [(4, 622), (1, 613), (1, 613)]


def test_logits_made_before_the_block_or_for_no_forward_are_nobodys(monkeypatch):
    clock = Clock(monkeypatch)
    model = tiny_model()
    x_BSC = model.hidden(torch.tensor([[1, 2]]))
    probe = Probe(model)
    with probe:
        model.head(x_BSC)
        model.hidden(torch.tensor([[1, 2]]))
    clock.now += 7
    with probe:
        model.head(x_BSC)
    assert [f.seconds for f in probe.forwards] == [0]


def test_a_gpu_is_waited_for_only_while_a_probe_listens(device, monkeypatch):
    waits = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda *at: waits.append(at))
    model = tiny_model(device=device)
    tokens = torch.randint(61, (1, 4), device=device)
    cache = model.new_cache(1, 6)
    with Probe(model):
        prefill(model, tokens, cache)
    before = len(waits)
    decode(model, tokens[:, 0], cache)
    assert (len(waits), before) == ((3, 3) if device == "cuda" else (0, 0))


def test_a_model_may_move_while_it_is_watched(device):
    model = tiny_model()
    tokens = torch.randint(61, (1, 4))
    with Probe(model, keep=("keys",)) as seen:
        model(tokens)
        model.to(device, torch.float32)
        model(tokens.to(device))
    assert [k.device.type for k in seen.keys[1]] == ["cpu", device]
    assert seen.rows_projected == 8 and len(seen.forwards) == 2 and hooks(model) == 0


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


def test_bytes_outlive_a_reset_and_add_up_over_blocks():
    model = tiny_model()
    cache, tokens = model.new_cache(1, 9), torch.randint(61, (1, 4))
    row = 2 * 3 * 2 * 8 * 8
    seen = Probe(model, cache)
    with seen:
        for _ in range(3):
            cache.reset()
            model(tokens, cache=cache)
    assert (seen.bytes_read, seen.bytes_written) == (12 * row, 12 * row)
    cache.reset()
    model(tokens, cache=cache)
    with seen:
        model(tokens[:, :1], cache=cache)
        assert (seen.bytes_read, seen.bytes_read) == (17 * row, 17 * row)
    assert (seen.bytes_written, seen.rows_projected, seen.calls) == (13 * row, 13, 4)


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


def test_nothing_is_left_behind_even_after_an_error():
    model = tiny_model()
    with pytest.raises(ValueError), Probe(model, keep=("weights", "queries")):
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
    with pytest.raises(ValueError, match=r"keep .logits.; it knows queries, keys, values, weights"):
        Probe(model, keep=("logits",))
    step = compiled_decode(model, model.new_cache(1, 4))
    with pytest.raises(ValueError, match="given a CompiledDecode; expected a Transformer"):
        Probe(step)
    with pytest.raises(ValueError, match="given a OptimizedModule; expected a Transformer"):
        Probe(torch.compile(model))
    model.model.layers[1].compile()
    with pytest.raises(ValueError, match=r"`.compile\(\)` changed, .* passes no taps"):
        Probe(model)
    assert hooks(model) == 0


def test_what_was_not_kept_is_missed_aloud():
    model = tiny_model()
    with Probe(model, keep=("keys", "keys")) as seen:
        model(torch.tensor([[1]]))
    assert [len(kept) for kept in seen.keys] == [1, 1, 1]
    for name in ("queries", "values", "weights"):
        with pytest.raises(AttributeError, match=rf"No {name} were kept.*keep='{name}'"):
            getattr(seen, name)
    with pytest.raises(AttributeError, match="no attribute 'logits'"):
        seen.logits  # noqa: B018
    with Probe(model, keep="values") as seen:
        model(torch.tensor([[1]]))
    assert seen.values[0][0].shape == (1, 2, 1, 8)
