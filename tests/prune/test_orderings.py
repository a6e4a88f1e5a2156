"""The report of published orderings: its arithmetic, a small run, and what is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kvlab
from benchmarks.orderings import __main__ as orderings
from benchmarks.orderings import asking, claims, measuring, methods, report
from kvlab import pocket, quality
from kvlab.pocket.questions import sha256
from kvlab.prune import density

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "orderings.json"


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (8, 2, 0.109375), (3, 3, 1.0)],
)
def test_sign_test_by_hand(wins, losses, p):
    assert claims.sign_test(wins, losses) == pytest.approx(p)


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
    assert claims.verdict(wins, losses, 300, by_model) == says


def test_every_claim_compares_what_is_measured():
    plan = methods.Plan(more=True)
    measured = {(m.name, m.sparsity) for m in methods.methods(False, plan)}
    assert len(measured) == len(methods.methods(False, plan))
    for claim in claims.CLAIMS:
        for sparsity in claim.sparsities:
            assert {(claim.better, sparsity), (claim.worse, sparsity)} <= measured, claim.text


def test_a_small_run_writes_the_numbers_and_the_page(tmp_path, monkeypatch):
    out, keep = tmp_path / "orderings.json", tmp_path / "keep"
    line = ["--tiny", "--prompts", "2", "--tokens", "150", "--out", str(out), "--keep", str(keep)]
    assert orderings.main(line) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {row["task"] for row in result["rows"]} == set(asking.POCKET)
    proved, free = ("V per token", "K per channel"), ("K per token", "V per channel")
    assert result["identities"] == dict.fromkeys(proved, 1) | dict.fromkeys(free, 0)
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert all(row["method"] in page for row in result["rows"])
    assert len(list(keep.rglob("*.json"))) == 4  # a batch of each task and time of the question
    monkeypatch.setattr(measuring, "_batch", None)  # what was kept is not measured again
    assert orderings.main(line) == 0
    again = json.loads(out.read_text(encoding="utf-8"))
    assert (again["rows"], again["seconds"]) == (result["rows"], result["seconds"])
    assert min(result["seconds"].values()) > 0


def test_a_model_of_the_web_has_tasks_of_its_own_and_the_pocket_beside_it(tmp_path, monkeypatch):
    for module in (measuring, orderings):
        monkeypatch.setattr(module, "speaks_pocket", lambda tokenizer: False)
    monkeypatch.setattr(measuring, "LARGE_BATCH", 2)
    out = tmp_path / "web.json"
    line = ["--prompts", "3", "--tokens", "256", "288", "--out", str(out), "--methods"]
    assert orderings.main([*line, "KV per token", "evict: keydiff", "evict: random"]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    cells = {(row["task"], row["question"], row["tokens"]) for row in result["rows"]}
    asked = {(name, q) for name, task in asking.PLAIN.items() for q in task.questions}
    assert cells == {(*cell, tokens) for cell in asked for tokens in (256, 288)}
    assert all(row["of"] == 3 for row in result["rows"])  # batches of two and of one, joined
    dense = [row for row in result["rows"] if row["method"] == "dense"]
    assert len(dense) == len(cells) and all(row["kl_nats"] == 0 for row in dense)
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "text, 288 tokens" in page and "evicting: keydiff beats random" in page
    assert "nothing is claimed: words, 256 tokens, visible" in page  # it knows no plain English
    few = ["--prompts", "2", "--tokens", "256", "--out", str(out), "--methods", "KV per token"]
    assert orderings.main([*few, "--questions", "unseen"]) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert {row["question"] for row in rows} == {"unseen"}
    assert {row["task"] for row in rows} == set(asking.PLAIN)


@pytest.mark.parametrize("question", ["visible", "unseen", "second"])
@pytest.mark.parametrize("task", ["words", "codes"])
def test_notes_are_exactly_as_long_and_cut_where_they_say(task, question):
    _, tokenizer = kvlab.load("pocket")
    made = asking.PLAIN[task].make(tokenizer, 4, 256, question)
    noun = {"words": "password", "codes": "code"}[task]
    for text, rest, scored in zip(made.texts, made.rests, made.scored, strict=True):
        assert (len(text), text[0]) == (256, 0)
        told, later = tokenizer.decode(text), tokenizer.decode(rest)
        value = later.split()[-1]
        assert told.count(f"The {noun} of") == {"visible": 4, "unseen": 3, "second": 4}[question]
        assert told.count("Question:") == {"visible": 2, "unseen": 0, "second": 1}[question]
        assert f" is {value}." in told and scored >= 1


def test_notes_that_do_not_fit_are_refused():
    _, tokenizer = kvlab.load("pocket")
    with pytest.raises(ValueError, match="behind 8 sentences, and 192 tokens hold"):
        asking.PLAIN["words"].make(tokenizer, 1, 128, "unseen")


def test_equal_sparsity_is_equal_density_where_groups_come_out_even():
    model, tokenizer = kvlab.load("pocket")
    asked = asking.PLAIN["words"].make(tokenizer, 2, 256, "unseen")
    base = quality.read(model, asked, methods.COLLECT)
    plan = methods.Plan(model.config.head_dim, elements=(0.5,))
    left = {}
    for method in methods.methods(False, plan, ("K per token", "K per channel")):
        left[method.name] = density(method.thin(base, asked.mean_tokens).cache).k
    assert left["K per token"] == left["K per channel"] == pytest.approx((32 + 0.5 * 224) / 256)


def _row(model, method, task, right, kl=(0.0, 0.0)):
    cell = {"task": task, "question": "unseen", "tokens": 9, "model": model, "sparsity": 0.5}
    return cell | {"method": method, "right": list(right), "kl_nats": list(kl)}


def test_a_claim_is_judged_by_answers_or_by_nearness_to_the_dense_text():
    rows = [
        *(_row("m", "K per token", "words", (True,) * 12 + (False,) * 2) for _ in "1"),
        _row("m", "K per whole channels", "words", (False,) * 14),
        _row("m", "K per token", "text", (False,) * 9, [0.1] * 9),
        _row("m", "K per whole channels", "text", (True,) * 9, [0.2] * 9),
    ]
    words, text = claims.judged(rows)
    assert (words["verdict"], words["better_right"], words["worse_right"]) == ("holds", 12, 0)
    assert (text["verdict"], text["better_kl"], text["worse_kl"]) == ("holds", 0.1, 0.2)
    assert [(one["wins"], one["losses"]) for one in (words, text)] == [(12, 0), (9, 0)]


def test_a_mean_comes_with_its_interval():
    row = _row("m", "K per token", "text", (True, False) * 4, [0.1, 0.3] * 4) | {"nats": [1.0] * 8}
    (found,) = report.summed([row])
    assert (found["kl_nats"], found["right"], found["of"]) == (0.2, 4, 8)
    assert 0.1 <= found["kl_low"] < 0.2 < found["kl_high"] <= 0.3


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
    assert names == {(m.name, m.sparsity) for m in methods.methods(tiny=False)}
    page = RESULT.with_suffix(".md").read_text(encoding="utf-8")
    assert report.in_words(result) == page
