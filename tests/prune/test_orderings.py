"""The report of published orderings: its arithmetic, a small run, and what is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import orderings
from kvlab import pocket
from kvlab.pocket.questions import sha256

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "orderings.json"


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (8, 2, 0.109375), (3, 3, 1.0)],
)
def test_sign_test_by_hand(wins, losses, p):
    assert orderings.sign_test(wins, losses) == pytest.approx(p)


@pytest.mark.parametrize(
    ("wins", "losses", "by_model", "says"),
    [
        (30, 5, (10, 8, 7), "holds"),
        (30, 5, (30, 5, -10), "differs between models"),
        (5, 30, (-10, -8, -7), "the opposite holds"),
        (5, 30, (-10, -20, 5), "differs between models"),
        (4, 2, (1, 1, 0), "no difference"),
        (14, 2, (6, 6, 0), "holds"),
        (14, 4, (5, 5, 0), "not decided"),
    ],
)
def test_verdicts(wins, losses, by_model, says):
    assert orderings.verdict(wins, losses, 300, by_model) == says


def test_every_claim_compares_what_is_measured():
    measured = {(m.name, m.sparsity) for m in orderings.methods(tiny=False)}
    assert len(measured) == len(orderings.methods(tiny=False))
    for claim in orderings.CLAIMS:
        for sparsity in claim.sparsities:
            assert {(claim.better, sparsity), (claim.worse, sparsity)} <= measured, claim.text


def test_a_small_run_writes_the_numbers_and_the_page(tmp_path, monkeypatch):
    out, keep = tmp_path / "orderings.json", tmp_path / "keep"
    line = ["--tiny", "--prompts", "2", "--tokens", "150", "--out", str(out), "--keep", str(keep)]
    assert orderings.main(line) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {row["task"] for row in result["rows"]} == set(orderings.TASKS)
    proved, free = ("V per token", "K per channel"), ("K per token", "V per channel")
    assert result["identities"] == dict.fromkeys(proved, 1) | dict.fromkeys(free, 0)
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert all(row["method"] in page for row in result["rows"])
    assert len(list(keep.iterdir())) == 1
    monkeypatch.setattr(orderings, "measured", None)  # what was kept is not measured again
    assert orderings.main(line) == 0
    again = json.loads(out.read_text(encoding="utf-8"))
    assert (again["rows"], again["seconds"]) == (result["rows"], result["seconds"])
    assert min(result["seconds"].values()) > 0


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        orderings.main([str(tmp_path)])
    assert "no Hugging Face files in" in capsys.readouterr().err


def test_recorded_over_three_seeds_with_the_shipped_one_among_them():
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    hashes = set(result["weights_sha256"].values())
    assert len(hashes) == len(result["weights_sha256"]) >= 3
    assert sha256(pocket.path() / "model.safetensors") in hashes
    assert all(row["of"] >= 100 for row in result["rows"])
    assert (
        result["identities"]["V per token"] == result["identities"]["K per channel"] == len(hashes)
    )
    names = {(row["method"], row["sparsity"]) for row in result["rows"]} - {("dense", 0.0)}
    assert names == {(m.name, m.sparsity) for m in orderings.methods(tiny=False)}
    page = RESULT.with_suffix(".md").read_text(encoding="utf-8")
    assert orderings.in_words(result) == page
