import json

import pytest
import torch

from kvlab.fast import choosing
from kvlab.shell import cli, demo


@pytest.fixture(scope="module")
def report():
    return demo.run(None, 12)


def test_both_ways_give_the_same_tokens_and_the_counts_are_right(report):
    p, n = report["prompt_tokens"], report["new_tokens"]
    assert report["same_tokens"]
    assert report["cached"]["rows_projected"] == p + n - 1
    assert report["uncached"]["rows_projected"] == n * p + n * (n - 1) // 2
    assert report["cache_bytes"] == (p + n - 1) * 2 * 4 * 2 * 32 * 4


def test_the_answer_is_right_and_ends(report):
    assert report["answer"].strip() in ("lemon.", "The password of Tom is lemon.")


def test_the_clock_runs_forward(report):
    for side in ("cached", "uncached"):
        seconds = report[side]["seconds_at_token"]
        assert len(seconds) == 12 and seconds == sorted(seconds) and seconds[0] > 0
    assert report["ratio"] > 0


def test_the_text_says_what_was_measured_where(report):
    text = demo.as_text(report)
    threads = report["machine"]["threads"]
    counted = "1 thread," if threads == 1 else f"{threads} threads,"
    for part in ("the same tokens", "rows projected", counted, "times as fast", "lemon"):
        assert part in text


def test_a_small_model_keeps_to_one_thread_and_a_larger_one_to_what_there_are(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert demo.run("hi", 2)["machine"]["threads"] == 1
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(demo, "ONE_THREAD_BYTES", 1)
        assert demo.run("hi", 2)["machine"]["threads"] == 2
    finally:
        torch.set_num_threads(before)


def test_json_and_picture(tmp_path, capsys):
    picture = tmp_path / "demo.png"
    assert cli.main(["demo", "-n", "5", "--json", "--plot", str(picture)]) == 0
    assert json.loads(capsys.readouterr().out)["new_tokens"] == 5
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (["demo", " "], "prompt is empty"),
        (["demo", "-n", "0"], "number of new tokens is 0"),
        (["demo", "-n", "3000"], "at most 2048"),
        (["demo", "-n", "2", "--plot", "no/such/folder/x.png"], "folder is not there"),
        (["demo", "-n", "2", "--plot", "x.xyz"], "x.xyz"),
    ],
)
def test_bad_input_is_named(line, named, capsys):
    assert cli.main(line) == 1
    assert named in capsys.readouterr().err


def test_a_prompt_of_ones_own_is_asked_in_the_models_form(capsys):
    said = {}
    for how in ([], ["--raw"], ["--system", "You are helpful."]):
        assert cli.main(["demo", "What is the capital of France?", "-n", "8", *how]) == 0
        said["".join(how[:1])] = capsys.readouterr().out
    for how in ("", "--system"):
        assert said[how].startswith("What is the capital of France?\nThe capital of France is Par")
    counts = [int(text.split(" prompt tokens")[0].split()[-1]) for text in said.values()]
    assert counts[1] < counts[0] < counts[2]


def test_where_the_compiled_step_pays_a_third_run_uses_it(report, monkeypatch):
    assert report["compiled"] is None and report["step"]["how"] == "plain"
    monkeypatch.setattr(choosing, "LOADING", 0)
    found = demo.run(None, 12)
    assert found["same_tokens"] and found["step"]["how"] == "compiled"
    assert found["compiled"]["rows_projected"] == found["cached"]["rows_projected"]
    assert len(found["compiled"]["seconds_at_token"]) == 12
    shown = demo.as_text(found)
    assert "compiled step    with cache       without" in shown and "in all three ways" in shown
    assert "For up to 12 new tokens the compiled step saves" in shown
    assert "compiled" not in demo.as_text(report)
