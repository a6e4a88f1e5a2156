import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kvlab import Probe, decode, prefill
from kvlab.measure import (
    Comparison,
    Roofline,
    Work,
    clock,
    compare,
    decode_work,
    interleaved,
    machine,
    prefill_work,
    roofline,
)
from tests.conftest import tiny_model


@pytest.mark.parametrize(
    ("slow", "at_least", "verdict"),
    [
        ((2.0, 2.1, 2.2), 1.5, "faster"),
        ((1.0, 1.1, 0.9), 1.5, "not faster"),
        ((2.0, 0.9, 2.0), 1.5, "too noisy"),
        ((2.0, 2.0, 2.0, 2.0, 0.5), 1.5, "faster"),
        ((0.5, 0.5, 0.5, 0.5, 2.0), 1.5, "not faster"),
    ],
)
def test_a_verdict_has_three_values(slow, at_least, verdict):
    assert Comparison(slow, (1.0,) * len(slow)).verdict(at_least) == verdict


def test_the_ratio_is_the_median_of_pairs():
    comparison = Comparison((2.0, 30.0, 3.0), (1.0, 3.0, 1.0))
    assert comparison.ratio == 3.0 and comparison.spread == (2.0, 10.0)


def test_compared_things_run_in_turn_and_the_order_alternates():
    ran = []
    compare(lambda: ran.append("slow"), lambda: ran.append("fast"), pairs=2, warm_up=1)
    assert ran == ["slow", "fast", "slow", "fast", "fast", "slow"]


def test_more_work_takes_longer(monkeypatch):
    """On a clock that work itself moves, so that no machine can disturb it."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def work(seconds):
        now[0] += seconds

    comparison = compare(lambda: work(6), lambda: work(2), pairs=5)
    assert comparison.ratios == [3.0] * 5
    assert comparison.verdict(2.9) == "faster" and comparison.verdict(3.1) == "not faster"


def test_what_takes_the_same_time_is_not_faster():
    assert Comparison((1.0,) * 5, (1.0,) * 5).verdict() == "not faster"


def test_several_things_run_in_turn_and_the_order_alternates():
    ran = []
    runs = {name: (lambda name=name: ran.append(name)) for name in "abc"}
    seconds = interleaved(runs, rounds=3, warm_up=1)
    assert "".join(ran) == "abc" + "abc" + "cba" + "abc"
    assert list(seconds) == ["a", "b", "c"] and all(len(s) == 3 for s in seconds.values())


def test_a_roofline_has_two_sides():
    roof = Roofline(gigabytes_per_second=20.0, gigaflops=100.0)
    assert roof.ridge == 5 and roof.attainable(2.0) == 40 and roof.attainable(50.0) == 100
    assert roof.seconds(Work(flops=0, bytes=40 * 10**9)) == 2
    assert roof.seconds(Work(flops=300 * 10**9, bytes=1)) == 3


def test_a_machine_has_a_roofline():
    roof = roofline(rounds=1)
    assert 0 < roof.gigabytes_per_second < 1e5 and 0 < roof.gigaflops < 1e6


SHAPES = [{}, {"n_kv_heads": 1}, {"tie_embeddings": True}, {"head_dim": 16}]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_flops_are_those_that_torch_counts(shape, batch):
    model = tiny_model(**shape)
    cache = model.new_cache(batch, 20)
    tokens_BS = torch.zeros(batch, 12, dtype=torch.int64)
    with FlopCounterMode(display=False) as prompt:
        prefill(model, tokens_BS, cache, backend="reference")
    with FlopCounterMode(display=False) as step:
        decode(model, tokens_BS[:, 0], cache, backend="reference")
    want = prefill_work(model.config, batch=batch, prompt=12)
    assert prompt.get_total_flops() == want.flops
    assert step.get_total_flops() == decode_work(model.config, batch=batch, context=13).flops


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_are_the_weights_and_what_the_cache_counted(shape):
    model = tiny_model(**shape)
    cache = model.new_cache(2, 20)
    prefill(model, torch.zeros(2, 12, dtype=torch.int64), cache)
    with Probe(model, cache) as seen:
        decode(model, torch.zeros(2, dtype=torch.int64), cache)
    embedding = model.model.embed_tokens.weight
    unread = 0 if model.config.tie_embeddings else embedding.nbytes
    weights = sum(p.nbytes for p in model.parameters()) - unread
    rows = 2 * embedding[0].nbytes
    work = decode_work(model.config, batch=2, context=13, bytes_per_number=8)
    assert work.bytes == weights + rows + seen.bytes_read + seen.bytes_written


def test_a_machine_is_described():
    found = machine()
    assert found["threads"] >= 1 and found["cpu"] and found["torch"]
    assert clock(lambda: None) >= 0


def test_a_thing_compared_with_itself_is_timed_twice():
    """Two lists of the same length, not one that both fill."""

    def work():
        return sum(range(1000))

    comparison = compare(work, work, pairs=4)
    assert len(comparison.slow_seconds) == len(comparison.fast_seconds) == 4
    assert comparison.slow_seconds != comparison.fast_seconds
