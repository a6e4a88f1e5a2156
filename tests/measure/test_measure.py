import math
import runpy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kvlab import Probe, decode, prefill
from kvlab.attention import allowed_BGST
from kvlab.measure import (
    Comparison,
    Roofline,
    Work,
    clock,
    compare,
    copy_bandwidth,
    decode_work,
    gemm_rate,
    hardware,
    interleaved,
    machine,
    prefill_work,
    read_bandwidth,
    roofline,
    threads,
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
        ((1.0,) * 5, 1.0, "not faster"),
        ((1.1,) * 5, 1.0, "faster"),
        ((1.5,) * 3, 1.5, "faster"),
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


@pytest.fixture
def work(monkeypatch):
    """What a run does to a clock that only work moves, so that no machine can disturb it."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def work(seconds):
        now[0] += seconds

    return work


def test_more_work_takes_longer(work):
    comparison = compare(lambda: work(6), lambda: work(2), pairs=5)
    assert comparison.ratios == [3.0] * 5
    assert comparison.verdict(2.9) == "faster" and comparison.verdict(3.1) == "not faster"


def test_a_verdict_on_less_than_as_fast_is_refused():
    for at_least in (0.9, float("nan")):
        with pytest.raises(ValueError, match="expected 1 or more"):
            Comparison((2.0,), (1.0,)).verdict(at_least)


def test_what_five_pairs_can_tell():
    """Against every way in which five pairs can fall on the two sides of a median."""
    five = Comparison((2.0, 2.1, 2.2, 1.9, 1.0), (1.0,) * 5)
    falls = [[(fall >> i) & 1 for i in range(5)] for fall in range(32)]
    both_sides = sum(0 < sum(fall) < 5 for fall in falls)
    assert five.confidence == both_sides / 32 == 0.9375
    assert str(five) == (
        "2.00 times as fast: median of 5 pairs, from 1.00 to 2.20, between which the true median "
        "lies with 94%"
    )


@pytest.mark.parametrize(
    ("slow", "fast", "said"),
    [
        ((), (), "0 and 0 times"),
        ((1.0, 1.0), (1.0,), "2 and 1 times"),
        ((1.0,), (0.0,), "took no time"),
        ((0.0,), (1.0,), "took no time"),
    ],
)
def test_times_that_give_no_ratio_are_refused(slow, fast, said):
    with pytest.raises(ValueError, match=said):
        Comparison(slow, fast)


def test_several_things_run_in_turn_and_the_order_alternates():
    ran = []
    runs = {name: (lambda name=name: ran.append(name)) for name in "abc"}
    seconds = interleaved(runs, rounds=3, warm_up=1)
    assert "".join(ran) == "abc" + "abc" + "cba" + "abc"
    assert list(seconds) == ["a", "b", "c"] and all(len(s) == 3 for s in seconds.values())
    for rounds, some in ((0, runs), (3, {})):
        with pytest.raises(ValueError, match="expected one each"):
            interleaved(some, rounds=rounds)


def test_several_things_are_compared_with_the_first_round_by_round(work):
    """The machine gets slower from call to call, by the same factor for all within a round."""
    slowness = iter([1, 1, 1, 2, 2, 2, 9, 9, 9])
    alone = {"a": 6, "b": 3, "c": 12}
    runs = {name: (lambda s=s: work(s * next(slowness))) for name, s in alone.items()}
    found = interleaved(runs, rounds=3, warm_up=0)
    ratios = {name: Comparison(found["a"], some).ratio for name, some in found.items()}
    assert ratios == {"a": 1, "b": 2, "c": 0.5}
    assert found["a"] == (6, 12, 54)


def test_a_roofline_has_two_sides():
    roof = Roofline(gigabytes_per_second=20.0, gigaflops=100.0)
    assert roof.seconds(Work(flops=0, bytes=40 * 10**9)) == 2
    assert roof.seconds(Work(flops=300 * 10**9, bytes=1)) == 3


def test_a_machine_has_a_roofline():
    roof = roofline(rounds=1)
    assert 0 < roof.gigabytes_per_second < math.inf and 0 < roof.gigaflops < math.inf


@pytest.mark.parametrize(
    ("rate", "done"),
    [
        (lambda: read_bandwidth(n_bytes=4000, rounds=3), 4000),
        (lambda: copy_bandwidth("cpu", n_bytes=4000, rounds=3), 2 * 4000),
        (lambda: gemm_rate(torch.float64, size=10, rounds=3), 2 * 10**3),
    ],
)
def test_rates_are_work_over_the_best_time(monkeypatch, rate, done):
    """Three runs take 2, 1 and 4 seconds."""
    looks = iter([0, 2, 2, 3, 3, 7])
    monkeypatch.setattr("time.perf_counter", lambda: next(looks))
    assert rate() == done / 1e9


def test_rates_of_a_device_are_numbers(device):
    for dtype in (torch.float32, torch.bfloat16):
        assert 0 < gemm_rate(dtype, device, size=64, rounds=1) < math.inf
    assert 0 < copy_bandwidth(device, n_bytes=2**20, rounds=1) < math.inf


def test_threads_are_as_before_even_after_an_error(monkeypatch):
    before = torch.get_num_threads()
    within = []
    monkeypatch.setattr(
        "kvlab.measure.clocks.clock", lambda run: within.append(torch.get_num_threads())
    )
    with pytest.raises(TypeError):
        read_bandwidth(before + 1, n_bytes=40, rounds=1)
    assert within == [before + 1] and torch.get_num_threads() == before
    with threads(None):
        assert torch.get_num_threads() == before
    for n in (0, True, 1.5):
        with pytest.raises(ValueError, match="expected a whole number of at least 1"):
            read_bandwidth(n)


SHAPES = [
    {},
    {"n_kv_heads": 1},
    {"tie_embeddings": True},
    {"head_dim": 16},
    {"qkv_bias": True, "o_bias": True, "mlp_bias": True, "qk_norm": True},
]


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


def test_masked_flops_are_the_pairs_that_a_mask_throws_away():
    model = tiny_model()
    cache = model.new_cache(3, 12)
    prefill(model, torch.zeros(3, 12, dtype=torch.int64), cache)
    masked = int((~allowed_BGST(cache.read(0), None, 12)).sum())
    work = prefill_work(model.config, batch=3, prompt=12)
    assert work.masked_flops == masked * 3 * 3 * 4 * 4 * 8  # rows, layers, heads, 2 products, D
    assert decode_work(model.config, context=13).masked_flops == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_are_the_weights_and_what_the_cache_counted(shape):
    model = tiny_model(**shape)
    cache = model.new_cache(2, 20)
    with Probe(model, cache) as prompt:
        prefill(model, torch.zeros(2, 12, dtype=torch.int64), cache)
    with Probe(model, cache) as step:
        decode(model, torch.zeros(2, dtype=torch.int64), cache)
    embedding = model.model.embed_tokens.weight
    unread = 0 if model.config.tie_embeddings else embedding.nbytes
    weights = sum(p.nbytes for p in model.parameters()) - unread
    for seen, work in (
        (prompt, prefill_work(model.config, batch=2, prompt=12, bytes_per_number=8)),
        (step, decode_work(model.config, batch=2, context=13, bytes_per_number=8)),
    ):
        rows = seen.tokens * embedding[0].nbytes
        assert work.bytes == weights + rows + seen.bytes_read + seen.bytes_written


def test_work_on_nothing_is_refused():
    config = tiny_model().config
    with pytest.raises(ValueError, match="tokens is 0"):
        decode_work(config, context=0)
    with pytest.raises(ValueError, match="batch is 0"):
        prefill_work(config, batch=0, prompt=5)


def test_a_machine_is_described():
    found = machine()
    assert found["threads"] >= 1 and found["cpu"] and found["torch"]
    assert clock(lambda: None) >= 0


def test_a_machine_says_how_its_threads_wait(monkeypatch):
    """As OpenMP was told when it began: what is set later is not read, and so not said."""
    told = {}
    for policy in ("PASSIVE", None):
        if policy is None:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        else:
            monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        told[policy] = runpy.run_path(hardware.__file__)["machine"]
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert told["PASSIVE"]()["waiting"] == "PASSIVE"
    assert told[None]()["waiting"] == "as OpenMP comes"


def test_a_thing_compared_with_itself_is_timed_twice(work):
    """Two lists of the same length, not one that both fill."""
    longer = iter(range(1, 99))

    def run():
        work(next(longer))

    comparison = compare(run, run, pairs=2, warm_up=0)
    assert (comparison.slow_seconds, comparison.fast_seconds) == ((1, 4), (2, 3))


def test_functions_to_be_timed_may_have_keys_of_any_kind():
    assert set(interleaved({("a", 1): lambda: 0, 2: lambda: 0}, rounds=1)) == {("a", 1), 2}
