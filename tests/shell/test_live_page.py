"""The live page: its model is kvlab's, its rules are kvlab's, and a reader can use it."""

import json
import random
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab.generation import prefill
from kvlab.pocket.asking import world_question
from kvlab.prune import Elements, Evict, Evidence, Pruner, Sparsify, per_channel, per_token, scores
from kvlab.shell import site

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="needs node (apt-get install nodejs)")
DRIVER = Path(__file__).with_name("live_page.cjs")
SCORES = {
    "recent": scores.recency, "sinks": scores.streaming, "heavy": scores.h2o,
    "keydiff": scores.keydiff, "random": scores.random,
}  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return site.build(tmp_path_factory.mktemp("site"), book=False) / "live"


@pytest.fixture(scope="module")
def pocket():
    return kvlab.load("pocket")


def run(page, cases):
    """What the page's own scripts say to some cases."""
    told = subprocess.run(
        [NODE, DRIVER, page], input=json.dumps(cases), capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def asked(tokenizer, n, first=0):
    """Questions of the pocket model's world, about texts of 60 tokens and more."""
    return [world_question(tokenizer, random.Random(first + i), 60 + 3 * i) for i in range(n)]


@needs_node
def test_texts_are_spelt_as_the_tokenizer_spells_them(page, pocket):
    rng, letters = random.Random(0), "abc XYZ019 ,.'\n\t-éß東🙂’"
    texts = ["", "The password of Tom is lemon 4821.", "don't I'll\n\n  x", "a<eos>b", " 12 3a4"]
    texts += ["".join(rng.choices(letters, k=rng.randrange(1, 30))) for _ in range(300)]
    for text, told in zip(
        texts, run(page, [{"do": "spell", "text": t} for t in texts]), strict=True
    ):
        assert told["ids"] == pocket[1].encode(text), text
        assert told["text"] == pocket[1].decode(told["ids"]), text


@needs_node
def test_logits_are_the_models(page, pocket):
    model, tokenizer = pocket
    prompts = [tokenizer.encode(q.text + q.question) for q in asked(tokenizer, 50)]
    pieces = [[ids[: i + 1], ids[i + 1 :]] if i % 2 else [ids] for i, ids in enumerate(prompts)]
    for ids, told in zip(
        prompts, run(page, [{"do": "logits", "pieces": p} for p in pieces]), strict=True
    ):
        logits_V = model(torch.tensor([ids]))[0, -1]
        torch.testing.assert_close(torch.tensor(told["logits"]), logits_V, atol=1e-4, rtol=0)
        assert all(abs(sum(weights) - 1) < 1e-5 for heads in told["weights"] for weights in heads)


@needs_node
def test_answers_are_those_of_generate_with_a_cache_and_without(page, pocket):
    model, tokenizer = pocket
    some = asked(tokenizer, 50, first=100)
    question = [q.question.removeprefix("\nUser: ").removesuffix("\nAssistant:") for q in some]
    wanted = [
        {"do": "session", "text": q.text, "question": w}
        for q, w in zip(some, question, strict=True)
    ]
    told = run(page, wanted + [{**one, "cache": False} for one in wanted[:5]])
    for q, said in zip(some, told[:50], strict=True):
        ids = tokenizer.encode(q.text + q.question)
        right = kvlab.generate(model, ids, 32).tolist()[0]
        right = right[: right.index(0)] if 0 in right else right
        assert said["ids"] == ids + right and said["answer"] == tokenizer.decode(right)
        assert said["cost"]["tokens"] == len(ids) + len(right)
        assert said["rows"] == [len(ids) + len(right)] * 8
    for cached, said in zip(told, told[50:], strict=False):
        assert said["ids"] == cached["ids"]
        n_prompt, n = len(said["ids"]) - len(said["steps"]) + 2, len(said["ids"])
        n_text = said["cost"]["tokens"] - sum(range(n_prompt, n + 1))
        assert 0 < n_text < n_prompt  # text, then text and question, then a token more each time


def kept(page, pocket, policies, **how):
    """Of each prompt and policy the page's cache and kvlab's, after pruning and one more token."""
    model, tokenizer = pocket
    prompts = [tokenizer.encode(q.text + q.question) for q in asked(tokenizer, 8, first=7)]
    cases = [{"do": "pruned", "ids": ids, **case} for ids in prompts for case, _ in policies]
    told = iter(run(page, cases))
    for ids in prompts:
        for _, policy in policies:
            cache = model.new_cache(1, len(ids) + 1)
            with Pruner(model, cache, policy) as pruner:
                prefill(model, torch.tensor([ids]), cache)
            pruner.prune()
            logits_V = model(torch.tensor([ids[-1:]]), cache=cache)[0, -1]
            yield next(told), cache, logits_V


@needs_node
@pytest.mark.parametrize("name", SCORES)
def test_the_same_tokens_stay(page, pocket, name):
    sink = 4 if name == "sinks" else 0
    policies = [
        ({"policy": name, "how": {"share": share, "recent": 8}},
         Evict(SCORES[name], share, sink=sink, recent=8))
        for share in (0.05, 0.3, 0.7, 1.0)
    ]  # fmt: skip
    for told, cache, logits_V in kept(page, pocket, policies):
        for layer, heads in enumerate(told["heads"]):
            for g, head in enumerate(heads):
                used = cache.used_L[layer]
                assert head["pos"] == cache.pos_LBGT[layer, 0, g, :used].tolist()
        torch.testing.assert_close(torch.tensor(told["logits"]), logits_V, atol=1e-4, rtol=0)


def equal_rows(page, config, keys, cases, n=64):
    """Rows of which many are worth the same by any score, exact in 32 bits and in 64: of each case
    and layer the evidence, and what the page left of each head.

    Each key is one of `keys` at a random place; positions are shared by five slots each.
    """
    rng, (G, D) = random.Random(0), (config.n_kv_heads, config.head_dim)
    pos_BGT, layers = (torch.arange(n) // 5 * 5).expand(1, G, n), []
    for layer in range(config.n_layers):
        drawn = [rng.sample(rng.choice(keys), D) for _ in range(G * n)]
        k_BGTD = torch.tensor(drawn, dtype=torch.float32).view(1, G, n, D)
        mass = [rng.choice([0.0, 0.5, 2.0]) for _ in range(G * n)]
        mass_BGT = torch.tensor(mass).view(1, G, n)
        layers.append(
            Evidence(layer, config.n_layers, k_BGTD, k_BGTD, pos_BGT, (n,), mass_BGT=mass_BGT)
        )
    rows = [
        {"pos": e.pos_BGT[0, g].tolist(), "mass": e.mass_BGT[0, g].tolist(),
         "k": e.k_BGTD[0, g].flatten().tolist()}
        for e in layers for g in range(G)
    ]  # fmt: skip
    told = run(page, [{"do": "tied", "seen": n, "heads": rows, **case} for case in cases])
    return [list(zip(layers, one["stays"], strict=True)) for one in told]


@needs_node
@pytest.mark.parametrize("name", SCORES)
def test_of_rows_that_are_worth_the_same_the_same_stay(page, pocket, name):
    shares, parted = (0.2, 0.4, 0.6, 0.8), []
    cases = [{"policy": name, "how": {"share": share, "recent": 3}} for share in shares]
    keys = [[sign] + [0] * 31 for sign in (1, -1)]
    for share, told in zip(shares, equal_rows(page, pocket[0].config, keys, cases), strict=True):
        policy = Evict(SCORES[name], share, sink=4 if name == "sinks" else 0, recent=3)
        for e, heads in told:
            worth, keeps = SCORES[name](e)[0], policy.masks(e).tokens_BGT[0]
            for score_T, keep_T, stays in zip(worth, keeps, heads, strict=True):
                assert stays == keep_T.nonzero().flatten().tolist(), share
                parted.append(bool(torch.isin(score_T[~keep_T], score_T[keep_T]).any()))
    assert sum(parted) > len(parted) / 2  # a rule for equals was needed


@needs_node
@pytest.mark.parametrize("along", ["token", "channel"])
def test_of_numbers_of_the_same_size_the_same_stay(page, pocket, along):
    rule = per_token if along == "token" else partial(per_channel, group=16)
    how = [{"sparsity": sparsity, "recent": 3} for sparsity in (0.2, 0.5, 0.9)]
    cases = [{"along": along, "how": one} for one in how]
    keys = [[1, -1, 2, -2] * 8, [3, -1, 1, -1] * 8]
    for one, told in zip(how, equal_rows(page, pocket[0].config, keys, cases), strict=True):
        policy = Sparsify(k=Elements(scores.k_magnitude, one["sparsity"], rule), recent=3)
        for e, heads in told:
            for keep_TD, stays in zip(policy.masks(e).k_BGTD[0], heads, strict=True):
                assert stays == keep_TD.flatten().nonzero().flatten().tolist(), one


@needs_node
@pytest.mark.parametrize("along", ["token", "channel"])
@pytest.mark.parametrize("side", ["k", "v"])
def test_the_same_numbers_are_zero(page, pocket, side, along):
    score = scores.k_magnitude if side == "k" else scores.v_magnitude
    rule = per_token if along == "token" else partial(per_channel, group=16)
    policies = [
        ({"side": side, "along": along, "sparsity": sparsity, "how": {"recent": 8}},
         Sparsify(**{side: Elements(score, sparsity, rule)}, recent=8))
        for sparsity in (0.2, 0.5, 0.9)
    ]  # fmt: skip
    for told, cache, logits_V in kept(page, pocket, policies):
        for layer, heads in enumerate(told["heads"]):
            kv = cache.read(layer)
            for g, head in enumerate(heads):
                for name, own_BGTD in (("k", kv.k_BGTD), ("v", kv.v_BGTD)):
                    own = own_BGTD[0, g].flatten()
                    x = torch.tensor(head[name])
                    torch.testing.assert_close(x, own, atol=1e-4, rtol=0)
                    assert torch.equal(x == 0, own == 0)
        torch.testing.assert_close(torch.tensor(told["logits"]), logits_V, atol=1e-4, rtol=0)


@needs_node
def test_what_was_clicked_away_is_gone_and_the_answer_with_it(page):
    (told,) = run(page, [{"do": "pruned", "ids": [0, 5, 6, 7, 8], "gone": [2, 3]}])
    assert all(head["pos"] == [0, 1, 4, 5] for heads in told["heads"] for head in heads)
    text = "The password of Anna is tiger. The password of Tom is lemon."
    ask = {"do": "session", "text": text, "question": "What is the password of Tom?"}
    whole, without = run(page, [ask, {**ask, "gone": [13]}])
    assert whole["answer"] == " The password of Tom is lemon." != without["answer"]
    assert without["steps"][:2] == ["text", "pruned"]


@needs_node
def test_bad_input_is_one_sentence_and_a_broken_link_asks_for_nothing(page):
    long, empty = run(page, [{"do": "refused", "text": "tiger " * 1100}, {"do": "refused"}])
    assert "expected at most 1024" in long["message"] and "empty" in empty["message"]
    broken = "#policy=best&share=1000&gone=a.-1.2.3e9&when=never&cache=0&sparsity=x"
    good = "#text=x%26y&policy=heavy&share=25&side=both&along=channel&gone=3.5"
    bad, right = run(page, [{"do": "link", "hash": h} for h in (broken, good)])
    assert bad["wanted"]["policy"] == "none" and bad["wanted"]["share"] == 50
    assert bad["wanted"]["gone"] == [2] and bad["wanted"]["cache"] is False
    assert right["wanted"]["text"] == "x&y" and right["wanted"]["gone"] == [3, 5]
    assert right["again"] == right["wanted"] and bad["again"] == bad["wanted"]


def test_the_page_is_small_and_asks_nobody(page):
    sizes = {file.name: file.stat().st_size for file in page.iterdir()}
    assert sum(sizes.values()) < 6e6, sizes
    assert sum(size for name, size in sizes.items() if name != "weights.js") < 150_000, sizes
    for file in page.iterdir():
        if file.name != "weights.js":
            assert "http" not in file.read_text("utf-8"), file


def test_a_folder_without_the_project_gets_one_sentence(tmp_path, capsys):
    assert site.build(tmp_path / "out", root=tmp_path) is None
    assert "the folder site is not here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
