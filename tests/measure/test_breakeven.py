"""Where a smaller cache pays, as `benchmarks.breakeven` says it."""

import json
import sys

import pytest
import torch

from benchmarks.breakeven import __main__ as breakeven
from benchmarks.breakeven import lines, memory, report
from benchmarks.breakeven.lines import Line, Pays
from benchmarks.breakeven.ways import BASE, WAYS
from tests.conftest import tiny_model


def seconds_of(line, lengths, noise=()):
    rounds = noise or (1.0,)
    return {n: [x * (line.intercept + line.slope * n) for x in rounds] for n in lengths}


def test_a_line_is_found_again_through_medians():
    line = Line(0.02, 3e-6)
    found = lines.fitted(seconds_of(line, (64, 512, 4096), (1.0, 1.0, 9.0)), [0, 1, 2])
    assert found == pytest.approx(line)
    assert lines.fitted(seconds_of(line, (64, 512), (1.0, 2.0)), [1, 1]) == pytest.approx(
        (0.04, 6e-6)
    )


@pytest.mark.parametrize(
    ("way", "first", "last"),
    [
        (Line(2.0, 0.5), 2.0, float("inf")),  # dearer to start, cheaper a token
        (Line(0.5, 2.0), 0.0, 0.5),  # the other way round: up to where they meet
        (Line(0.5, 0.5), 0.0, float("inf")),
        (Line(2.0, 2.0), 0.0, 0.0),
        (Line(0.5, 1.0), 0.0, float("inf")),
        (Line(1.0, 1.0), 0.0, 0.0),
    ],
)
def test_where_two_lines_meet_decides_where_a_way_pays(way, first, last):
    found = lines.pays(way, Line(1.0, 1.0))
    assert found == (first, last) and found.nowhere == (first == last)


def test_nothing_is_claimed_beyond_the_lengths_that_were_measured():
    assert Pays(2.0, float("inf")).within(64, 512) == (64, 512)
    assert Pays(100.0, float("inf")).within(64, 512) == (100, 512)
    assert Pays(600.0, float("inf")).within(64, 512).nowhere
    assert Pays(0.0, 50.0).within(64, 512).nowhere


def test_an_interval_is_of_draws_and_draws_are_of_rounds():
    assert lines.interval(list(range(1001))) == (25, 975)
    draws = lines.draws_of(3, 50)
    assert draws == lines.draws_of(3, 50) and all(len(d) == 3 and max(d) < 3 for d in draws)


@pytest.mark.parametrize("name", WAYS)
def test_a_way_holds_what_it_says(name):
    model = tiny_model(0, WAYS[name].dtype, head_dim=32, max_positions=512)
    cache = WAYS[name].cache(model, 200, 10)
    dense = WAYS[BASE].cache(tiny_model(0, torch.float32, head_dim=32), 200, 10)
    assert cache.seen == 200 and cache.capacity - cache.used_L[0] >= 10
    least, most = {
        "dense": (1, 1), "dense, plain": (1, 1), "float16": (0.5, 0.5), "evicted": (0.24, 0.26),
        "int8": (0.3, 0.6), "4 bits": (0.2, 0.5), "packed": (0.3, 0.7),
    }[name]  # fmt: skip
    assert least <= cache.live_bytes / dense.live_bytes <= most
    step, how = WAYS[name].step(model, cache)
    assert how == ("plain" if name in ("dense, plain", "int8", "4 bits") else "compiled")
    step(model, torch.ones(1, dtype=torch.int64), cache)


def run(monkeypatch, *more):
    line = ["breakeven", "--tiny", "--rounds", "2", "--steps", "2", *more]
    monkeypatch.setattr(sys, "argv", line)
    breakeven.main()


def test_a_measurement_goes_on_and_prints_who_loses(tmp_path, monkeypatch, capsys):
    out = tmp_path / "b.json"
    run(monkeypatch, "--out", str(out), "--ways", "packed", "evicted")
    first = json.loads(out.read_text())
    assert [row["way"] for row in first["rows"]] == [BASE, "packed", "evicted"]
    log = out.with_suffix(".jsonl").read_text().splitlines()
    assert len(log) == 1 + 2 * 2 * 3
    monkeypatch.setattr(breakeven, "timed", None)  # all is there already
    run(monkeypatch, "--out", str(out), "--ways", "packed", "evicted")
    assert json.loads(out.read_text())["rows"] == first["rows"]
    shown = capsys.readouterr().err
    assert "pays at" in shown and "evicted" in shown
    assert "2 rounds are too few for the intervals to be trusted" in shown
    assert "; intervals of 95 %." in report.as_text(first | {"rounds": 5})[0]
    slow = json.loads(out.read_text())
    for n in slow["rows"][1]["milliseconds"]:
        slow["rows"][1]["milliseconds"][n] = 2 * slow["rows"][0]["milliseconds"][n]
    assert any("packed: slower than the dense cache at" in line for line in report.as_text(slow))
    with pytest.raises(SystemExit, match="begun with other settings: steps was 2 and is 3"):
        run(monkeypatch, "--out", str(out), "--steps", "3")


@pytest.mark.parametrize(
    ("more", "said"), [(["--rounds", "0"], "--rounds is 0"), (["--steps", "-1"], "--steps is -1")]
)
def test_bad_input_is_one_sentence(more, said, monkeypatch):
    with pytest.raises(SystemExit, match=said):
        run(monkeypatch, *more)


@pytest.mark.skipif(not memory.STATUS.exists(), reason="reads memory as Linux tells it")
def test_memory_is_measured_and_not_derived():
    found = memory.measured("pocket", BASE, 512, 1)
    assert found["cache_bytes"] == (512 + 8) * 2 * 4 * 2 * 32 * 4
    assert found["peak_bytes"] >= found["resident_bytes"]
    assert found["peak_bytes"] > 0.5 * found["cache_bytes"]
