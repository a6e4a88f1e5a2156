"""What a model has inside: each measure on a case that is known by hand, and a small run."""

from __future__ import annotations

import json

import pytest
import torch

import kvlab
from benchmarks.orderings import asking, inside
from kvlab import quality


@pytest.fixture(scope="module")
def pocket():
    return kvlab.load("pocket")


@pytest.fixture(scope="module")
def needles(pocket):
    return asking.PLAIN["needle"].make(pocket[1], 4, 256, "visible")


def test_slots_go_from_the_layers_that_were_named(pocket, needles):
    base = quality.read(pocket[0], needles, quality.needs_of_all([]))
    cache = inside.without(base, [0, 5], [1, 3]).cache
    assert cache.used_L == (256, 254, 256, 254)
    assert cache.pos_LBGT[1, 2, 0, :6].tolist() == [1, 2, 3, 4, 6, 7]
    assert base.cache.used_L == (256,) * 4


def test_thirds_of_the_layers_have_all_of_them_once():
    for n in (3, 4, 30, 31):
        assert [i for third in inside._thirds(n) for i in third] == list(range(n))


def test_the_asked_sentence_is_found_where_it_stands(pocket, needles):
    for text, rest in zip(needles.texts, needles.rests, strict=True):
        at = inside._found(text, rest)
        assert pocket[1].decode(text[at : at + len(rest)]) == pocket[1].decode(rest)
        assert pocket[1].decode(text[at + len(rest) :]).startswith(".")


def test_attention_on_the_needle_is_a_share_and_found_again_by_hand(pocket, needles):
    model = pocket[0]
    mass_LH = inside.on_the_needle(model, needles)
    text, rest = needles.texts[0], needles.rests[0]
    with kvlab.Probe(model, keep="weights") as seen, torch.inference_mode():
        model(torch.tensor([[*text, *rest[:-1]]]), backend="reference")
    at = inside._found(text, rest)
    one = inside.on_the_needle(model, next(iter(asking.in_batches(needles, 1).values())))
    by_hand = seen.weights[2][0][0, 1, -1, at : at + len(rest)].sum()
    assert one[2, 1] == pytest.approx(float(by_hand))
    assert mass_LH.shape == (4, 6) and mass_LH.min() >= 0 and mass_LH.max() <= 1


def test_a_silent_head_adds_nothing_and_comes_back(pocket):
    model, ids = pocket[0], torch.tensor([[0, 5, 9, 7]])
    given = []
    hook = model.attentions[1].o_proj.register_forward_hook(lambda *passed: given.append(passed))
    with torch.inference_mode():
        whole = model(ids)
        with inside.without_heads(model, [(1, 2), (1, 0), (3, 5)]):
            less = model(ids)
        again = model(ids)
    hook.remove()
    heads_BSHD = given[1][1][0].unflatten(-1, (6, 32))
    assert [bool(heads_BSHD[:, :, h].any()) for h in range(6)] == [False, True, False] + [True] * 3
    assert torch.equal(whole, again) and not torch.allclose(whole, less)


def test_channels_of_a_known_shape():
    x_GSD = torch.ones(2, 6, 4) * torch.tensor([1.0, 2.0, 2.0, 8.0])
    x_GSD[:, 0] *= 3
    found = inside._shape_of([x_GSD])
    rms = (x_GSD[0].square().mean(0)).sqrt()
    assert found["ratio"] == pytest.approx(float(rms[3] / rms[1]), abs=1e-3)
    assert found["first"] == 3.0
    noise = inside._shape_of([torch.randn(2, 4000, 4, generator=torch.manual_seed(1))])
    assert noise["kurtosis"] == pytest.approx(3, abs=0.2) and noise["common"] < 0.05


def test_a_small_run_writes_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(inside, "BATCH", 2)
    out = tmp_path / "inside.json"
    line = ["pocket", "--prompts", "3", "--tokens", "256", "--inside", "1", "--out", str(out)]
    assert inside.main(line) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["evicted_recall"]["dense"]["kl_nats"] == 0
    assert {row["of"] for row in found["evicted_text"].values()} == {3}
    assert len(found["channels"]["keys before rope"]) == 4
    before, after = (found["channels"][f"keys {when} rope"] for when in ("before", "after"))
    assert all(b["common"] > a["common"] for b, a in zip(before, after, strict=True))  # rope turns
    assert found["retrieval"]["heads"] == 24
