"""Requests over time: the clock, the stories, and what limits make of them."""

import itertools
import json

import pytest

from kvlab.serve.compare import compare
from kvlab.serve.engine import Engine
from kvlab.serve.policies import chunked, prefill_first
from kvlab.serve.workload import Arrival, Log, Story, bursts, poisson, serve
from kvlab.shell.cli import main
from tests.conftest import tiny_model


def seconds_of(*lengths):
    """A clock by which steps take these seconds, and then one each."""
    now = [0.0]
    steps = itertools.chain(lengths, itertools.repeat(1.0))

    def clock():
        clock.began = not clock.began
        if not clock.began:
            now[0] += next(steps)
        return now[0]

    clock.began = False
    return clock


def test_a_story_tells_when_each_token_came_and_idle_time_is_jumped_over():
    engine = Engine(tiny_model(), n_blocks=40, size=4, policy=chunked)
    arrivals = [Arrival(100.0, [1, 2], 2), Arrival(0.5, [3], 3), Arrival(2.0, [4, 5, 6], 2)]
    log = serve(engine, arrivals, clock=seconds_of(1.0, 2.0))
    # the second comes first; its steps end at 1.5, 3.5 and 4.5, and the third comes meanwhile
    assert [s.tokens for s in log.stories] == [[101.0, 102.0], [1.5, 3.5, 4.5], [4.5, 5.5]]
    assert [(s.start, s.n_tokens) for s in log.steps[:4]] == [
        (0.5, {1: 1}), (1.5, {1: 1}), (3.5, {1: 1, 2: 3}), (4.5, {2: 1}),
    ]  # fmt: skip
    assert log.seconds == 101.5
    assert [s.first for s in log.stories] == [1.0, 1.0, 2.5]
    assert [s.longest_gap for s in log.stories] == [1.0, 2.0, 1.0]


def test_goodput_counts_who_met_both_limits():
    stories = [Story(0.0, [1.0, 2.0, 5.0]), Story(1.0, [4.0, 4.5]), Story(2.0, [3.0])]
    log = Log(stories)
    assert log.good(first=1.0, gap=3.0) == [True, False, True]
    assert log.good(first=3.0, gap=1.0) == [False, True, True]
    assert log.goodput(first=1.0, gap=3.0) == pytest.approx(2 / 5)


def test_arrivals_come_at_their_rate_and_the_same_seed_gives_the_same():
    many = poisson(4.0, 2000, 50, seed=3)
    assert many == poisson(4.0, 2000, 50, seed=3) != poisson(4.0, 2000, 50, seed=4)
    assert many[-1].at == pytest.approx(500, rel=0.1) and many[0].at == 0
    assert {len(a.prompt) for a in many} == set(range(8, 65))
    assert {a.max_new for a in many} == set(range(4, 49))
    together = bursts(4.0, 20, 50, together=8, seed=3)
    assert [a.prompt for a in together] == [a.prompt for a in poisson(4.0, 20, 50, seed=3)]
    assert [len(list(g)) for _, g in itertools.groupby(together, lambda a: a.at)] == [8, 8, 4]


def test_the_policy_decides_who_waits():
    """Four users are being answered as a long prompt comes: by the tokens that steps computed."""
    users = [Arrival(0.0, [1, 2, i], 40) for i in range(4)]
    longest = {}
    for policy, budget in ((chunked, 16), (prefill_first, 4096)):
        engine = Engine(tiny_model(), n_blocks=80, size=8, policy=policy, budget=budget)
        log = serve(engine, [*users, Arrival(5.0, list(range(50)) * 2, 1)], clock=seconds_of())
        sizes = [sum(step.n_tokens.values()) for step in log.steps]
        longest[policy] = max(sizes), len(log.steps)
    assert longest[chunked][0] == 16 and longest[prefill_first][0] == 100


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "2", None])
def test_a_rate_is_a_number_above_0(wrong):
    with pytest.raises(ValueError, match="rate is"):
        poisson(wrong, 3, 50)


def test_a_comparison_takes_its_times_from_the_clock_that_it_is_given():
    """By one that goes on a second at each look, every step takes a second."""
    ticks = itertools.count()
    report, logs = compare(
        tiny_model(max_positions=128), policies=("chunked",), loads=(0.5,), requests=4,
        clock=lambda: float(next(ticks)),
    )  # fmt: skip
    assert report["decode_step_seconds"] == 1.0
    assert {step.seconds for log in logs.values() for step in log.steps} == {1.0}


def test_requests_that_cannot_fit_are_refused_and_long_ones_are_cut_to_what_fits():
    with pytest.raises(
        ValueError, match="take up to 111 positions, and the model reads at most 96"
    ):
        compare(tiny_model(max_positions=96))
    with pytest.raises(ValueError, match="6 blocks of 16 hold 96; give at least 7 blocks"):
        compare(tiny_model(max_positions=128), n_blocks=6)
    _, logs = compare(
        tiny_model(max_positions=4096), policies=("prefill_first",), loads=(1,), requests=8,
        n_blocks=8,
    )  # fmt: skip
    (log,) = logs.values()
    read = sum(step.n_tokens.get(7, 0) for step in log.steps)
    assert read == 8 * 16 - 1 and all(story.tokens for story in log.stories)


def test_the_command_serves_the_same_requests_by_each_policy(tmp_path, capsys):
    out, plot = tmp_path / "report.json", tmp_path / "who.png"
    asked = ["serve-bench", "--policies", "chunked,decode_first", "--loads", "2", "--requests", "8"]
    assert main([*asked, "--out", str(out), "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    assert "chunked" in text and "decode_first" in text and "fair" not in text
    report = json.loads(out.read_text())
    first, second = report["rows"]
    assert first["load"] == 2 and 0 <= first["served_strict"] <= first["served_relaxed"] <= 1
    assert second["first_token_worst"] > 0 and plot.read_bytes().startswith(b"\x89PNG")
    for log in report["logs"].values():
        computed = {}
        for _start, _seconds, n_tokens in log["steps"]:
            for request, n in n_tokens.items():
                computed[request] = computed.get(request, 0) + n
        # the last token of an answer is written and never read
        written = [len(story["tokens"]) for story in log["stories"]]
        assert len(written) == 8 and all(computed[str(i)] >= n for i, n in enumerate(written))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policies", "first come"], "There is no policy 'first come'; there are prefill_first"),
        (["--policies", ","], "at least one policy"),
        (["--loads", "much"], "Loads 'much' were asked for"),
        (["--loads", "0"], "A load is 0"),
        (["--loads", "1e-20"], "A load is 1e-20; expected a number from 1e-6"),
        (["--loads", ""], "as in --policies chunked --loads 0.8"),
        (["--requests", "0"], "--requests is 0"),
        (["--budget", "0"], "--budget is 0"),
        (["--plot", "who.txt"], "who.txt"),
    ],
)
def test_a_wrong_option_of_the_command_is_named(options, said, capsys):
    assert main(["serve-bench", "--requests", "2", *options]) == 1
    assert said in capsys.readouterr().err
