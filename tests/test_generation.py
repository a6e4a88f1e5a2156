import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kvlab import (
    Probe,
    Sampler,
    compiled_decode,
    decode,
    generate,
    generate_uncached,
    generation,
    greedy,
    prefill,
    stream,
)
from kvlab.prompts import pad
from tests.conftest import tiny_model

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9, 8, 7], [4, 5, 6, 7, 8]]


@pytest.fixture
def model(device):
    return tiny_model(device=device)


def test_cached_tokens_equal_uncached_ones_in_p_plus_n_minus_1_rows(model):
    prompt = torch.tensor([PROMPTS[0], PROMPTS[0][::-1]])
    with Probe(model) as seen:
        cached = generate(model, prompt, 12)
    assert seen.rows_projected == 2 * (7 + 12 - 1) and seen.calls == 12
    with Probe(model) as seen:
        uncached = generate_uncached(model, prompt, 12)
    assert seen.rows_projected == 2 * (12 * 7 + 12 * 11 // 2)
    assert torch.equal(cached, uncached) and cached.shape == (2, 12)


def test_a_batch_of_different_lengths_equals_its_rows_alone(model):
    together = generate(model, PROMPTS, 12)
    for prompt, row in zip(PROMPTS, together, strict=True):
        assert torch.equal(generate(model, prompt, 12)[0], row)


def test_a_conversation_goes_on_in_its_cache(model):
    said = generate(model, PROMPTS[0], 4)[0].tolist()
    whole = generate(model, PROMPTS[0] + said + PROMPTS[1], 5)
    cache = model.new_cache(1, 30)
    generate(model, PROMPTS[0], 4, cache=cache)
    cache.rewind(7)
    assert torch.equal(generate(model, said + PROMPTS[1], 5, cache=cache), whole)


def test_a_ragged_conversation_goes_on_in_its_cache(model):
    cache = model.new_cache(3, 40)
    first = generate(model, PROMPTS, 3, cache=cache)
    # the last of the new tokens was returned but not fed
    more = [[int(row[-1]), 11, 12][: 2 + b % 2] for b, row in enumerate(first)]
    together = generate(model, more, 6, cache=cache)
    for b, prompt in enumerate(PROMPTS):
        text = prompt + first[b, :-1].tolist() + more[b]
        assert torch.equal(generate(model, text, 6)[0], together[b])


def test_a_row_ends_at_its_ending_id_and_the_others_go_on(model):
    free = generate(model, PROMPTS, 12, eos=())
    end = int(free[0, 4])
    stopped = generate(model, PROMPTS, 12, eos=(end,))
    for row, its in zip(free.tolist(), stopped.tolist(), strict=True):
        cut = row.index(end) if end in row else len(row)
        want = row[:cut] + [end] * (len(its) - cut)
        assert its == want[: len(its)]
    assert generate(model, PROMPTS[0], 12, eos=(end,)).shape[1] == free[0].tolist().index(end) + 1


def test_the_models_own_ending_id_is_the_default():
    free = generate(tiny_model(), PROMPTS[0], 12)[0].tolist()
    ending = tiny_model(eos_ids=(free[3],))
    assert generate(ending, PROMPTS[0], 12)[0].tolist() == free[: free.index(free[3]) + 1]
    assert generate(ending, PROMPTS[0], 12, eos=())[0].tolist() == free


def test_a_stream_yields_as_it_goes_and_checks_before_the_first_token(model):
    with Probe(model) as seen:
        steps = stream(model, PROMPTS[0], 50)
        assert seen.calls == 0
        first = next(steps)
        assert seen.calls == 1 and first.index == 0
        next(steps)
        assert seen.calls == 2
    with pytest.raises(ValueError, match="positions"):
        stream(model, PROMPTS[0], 1000)


def test_prefill_and_decode_are_what_generate_does(model):
    cache = model.new_cache(1, 9)
    tokens = torch.tensor([PROMPTS[0]], device=model.device)
    first = greedy(prefill(model, tokens, cache))
    second = greedy(decode(model, first, cache))
    assert [int(first), int(second)] == generate(model, PROMPTS[0], 2)[0].tolist()


def test_decode_never_waits_for_the_device():
    """Reading a number back (.item(), bool(tensor)) would stall a GPU at every token."""

    class NoReading(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            assert func is not torch.ops.aten.nonzero.default
            return func(*args, **(kwargs or {}))

    model = tiny_model()
    for prompts in (PROMPTS[:1], PROMPTS):
        tokens, pos = pad(prompts)
        cache = model.new_cache(len(prompts), 20)
        prefill(model, tokens, cache, pos_BS=pos)
        with NoReading():
            for _ in range(3):
                decode(model, tokens[:, 0], cache)


def test_what_does_not_fit_is_refused_and_loses_nothing():
    model = tiny_model()
    with pytest.raises(ValueError, match="250 prompt tokens and 8 new ones .* at most 256"):
        generate(model, [1] * 250, 8)
    generate(model, [1] * 250, 7)
    with pytest.raises(ValueError, match="number of new tokens is 0"):
        generate(model, [1], 0)
    cache = model.new_cache(1, 5)
    with pytest.raises(ValueError, match="6 tokens .* 5 of 5 slots free"):
        generate(model, [1, 2, 3, 4], 3, cache=cache)
    assert cache.length == 0
    with pytest.raises(ValueError, match="2 prompts came with a cache of 1 rows"):
        generate(model, [[1], [2]], 3, cache=cache)


def test_the_baseline_checks_as_much_as_the_cached_way():
    for n_new, named in [
        (0, "number of new tokens is 0"),
        (1.5, "number of new tokens is 1.5"),
        (250, "at most 256"),
    ]:
        for make in (generate, generate_uncached):
            with pytest.raises(ValueError, match=named):
                make(tiny_model(), PROMPTS[0] * 2, n_new)


def test_a_row_repeats_the_very_id_that_ended_it(model):
    free = generate(model, PROMPTS, 6, eos=())
    ends = tuple(free[:, 0].tolist())
    assert len(set(ends)) > 1
    rows = generate(model, [*PROMPTS, [2, 2, 9]], 6, eos=ends)
    assert rows.shape[1] > 1
    for row, end in zip(rows.tolist(), ends, strict=False):
        assert row == [end] * len(row)


@pytest.mark.parametrize("n_new", [12, 40])
def test_a_device_that_is_seldom_asked_gives_the_same_tokens_and_cache(model, n_new, monkeypatch):
    """A GPU decodes on past the end of all rows, but leaves no trace of it."""
    free = generate(model, PROMPTS[0], 4, eos=())[0].tolist()

    def answer():
        cache = model.new_cache(1, 60)
        return generate(
            model, PROMPTS[0], n_new, cache=cache, eos=(free[3],)
        ).tolist(), cache.length

    monkeypatch.setitem(generation._ASKED, "cpu", 1)
    often = answer()
    monkeypatch.setitem(generation._ASKED, "cpu", 16)
    assert answer() == often
    assert often[1] == 7 + len(often[0][0]) - 1


@pytest.mark.parametrize(
    "ends", [5, np.int64(5), [5], (5, 6), {5}, np.array([5, 6]), torch.tensor(5), torch.tensor([5])]
)
def test_an_ending_id_is_one_or_several(ends):
    model = tiny_model()
    logits_BV = torch.zeros(1, model.config.vocab_size)
    logits_BV[0, 5] = 1

    def fives(_model, _token_B, cache):
        return logits_BV

    got = generate(model, [1, 2], 9, eos=ends, pick=lambda _: torch.tensor([5]), decode=fives)
    assert got.tolist() == [[5]]


def broken_model(dtype=torch.float32, after=0):
    """Logits are NaN from the token on that follows so many others."""
    model = tiny_model(dtype=dtype)
    calls = []

    def spoil(_module, _given, logits_BV):
        calls.append(1)
        return logits_BV * float("nan") if len(calls) > after else logits_BV

    model.tap_logits.register_forward_hook(spoil)
    return model


@pytest.mark.parametrize("pick", [greedy, Sampler(), lambda logits_BV: logits_BV.argmin(-1)])
@pytest.mark.parametrize("prompts", [[1, 5], [[1, 5], [2]]])
@pytest.mark.parametrize("after", [0, 2])
def test_logits_that_are_no_numbers_are_no_answer(pick, prompts, after):
    with pytest.raises(ValueError, match="logits are not numbers"):
        generate(broken_model(after=after), prompts, 6, pick=pick)
    steps = stream(broken_model(after=after), prompts, 6, pick=pick)
    with pytest.raises(ValueError, match="logits are not numbers"):
        list(steps)
    if isinstance(prompts[0], int):
        with pytest.raises(ValueError, match="logits are not numbers"):
            generate_uncached(broken_model(after=after), prompts, 6, pick=greedy)


def test_compiled_steps_refuse_them_too():
    model = tiny_model(dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight[0, 0] = float("nan")
    cache = model.new_cache(1, 9)
    with pytest.raises(ValueError, match="logits are not numbers"):
        generate(model, [1, 5], 3, cache=cache, decode=compiled_decode(model, cache))
    healthy = tiny_model(dtype=torch.float32)
    cache = healthy.new_cache(1, 9)
    step = compiled_decode(healthy, cache)

    def fails(model, token_B, cache):
        return step(model, token_B, cache) * float("nan")

    with pytest.raises(ValueError, match="logits are not numbers"):
        generate(healthy, [1, 5], 3, cache=cache, decode=fails, pick=lambda x: x.argmin(-1))


def test_a_device_that_is_seldom_asked_tells_of_them_in_the_end(monkeypatch):
    monkeypatch.setitem(generation._ASKED, "cpu", 16)
    taken = []
    with pytest.raises(ValueError, match="logits are not numbers"):
        for step in stream(
            broken_model(after=2), [1, 5], 40, pick=lambda x: torch.zeros(1, dtype=torch.int64)
        ):
            taken.append(step)
    assert len(taken) == 15
    with pytest.raises(ValueError, match="logits are not numbers"):  # the last step asks
        generate(
            broken_model(after=2), [1], 5, pick=lambda x: torch.zeros(1, dtype=torch.int64), eos=()
        )
