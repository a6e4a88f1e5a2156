import pytest

from kvlab.measure import Comparison, clock, compare, machine


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


def test_more_work_takes_longer():
    comparison = compare(lambda: sum(range(300_000)), lambda: sum(range(3_000)), pairs=5)
    assert comparison.verdict(3) == "faster"


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
