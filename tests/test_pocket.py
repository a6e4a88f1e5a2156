"""The pocket model: its world, its tokenizer, its training, and what the shipped weights can do."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab.pocket import bpe, card, curve, evaluate, path, train, world
from kvlab.pocket.muon import Muon

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "pocket.json"
TINY_STAGES = (
    train.Stage("first", 64, 2, 256, train.REPETITION),
    train.Stage("second", 128, 2, 256, train.EVERYTHING, docs=0.3, long=0.3),
)


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.load()


@pytest.fixture(scope="module")
def model():
    return kvlab.load("pocket")[0]


def count_words(text: str) -> int:
    return len(text.split())


# ------------------------------------------------------------------------------------------- world
@pytest.mark.parametrize("kind", world.WRITERS)
def test_one_seed_is_one_document(kind):
    write = world.WRITERS[kind]
    once, again, other = (write(random.Random(seed), 200) for seed in (4, 4, 5))
    assert once == again
    assert once != other


def test_what_is_held_out_is_never_written():
    rng = random.Random(11)
    held_questions = {question for question, _ in world.facts(held=True)}
    pairs, questions = set(), set()
    for kind, write in world.WRITERS.items():
        for _ in range(300):
            text = world.text_of(write(rng, rng.choice([60, 200, 600])))
            questions |= set(re.findall(r"User: (.*?[?.!])\s", text))
            if kind not in ("story", "copy", "repeat"):
                pairs |= set(re.findall(r"[Tt]he \w+ of (\w+) is (\w+)\.", text))
            if kind in ("pair", "numbers") and text.startswith("Pairs:"):
                pairs |= set(re.findall(r" (\w+)(?::| has| ->| is)? (\w+),", text))
    pairs = {(name, value) for name, value in pairs if name in world.NAMES}
    assert len(pairs) > 4000
    assert not [pair for pair in pairs if world.held_out(*pair)]
    assert not {name for name, _ in pairs} & set(world.STRANGERS)
    assert len(questions & {question for question, _ in world.facts(held=False)}) > 200
    assert not questions & held_questions


@pytest.mark.parametrize("kind", world.KINDS)
def test_recall_prompts_ask_for_held_out_pairs(kind, tokenizer):
    def count(text):
        return len(bpe.ids_of(tokenizer, text))

    rng = random.Random(3)
    for n_tokens in (128, 300):
        made = world.recall_prompt(rng, count, 4, n_tokens, kind)
        assert all(world.held_out(one.name, one.value) for one in made.told)
        assert made.asked in made.told
        assert len({one.name for one in made.told}) == len({one.value for one in made.told}) == 4
        assert made.value == f" {made.asked.value}"
        assert [made.prompt.index(one.sentence) for one in made.told] == sorted(
            made.prompt.index(one.sentence) for one in made.told
        )
        length = len(tokenizer.encode(made.prompt + made.stem).ids)
        assert n_tokens - 25 <= length <= n_tokens


def test_recall_prompt_refuses_what_cannot_fit():
    with pytest.raises(ValueError, match="relations and a question need"):
        world.recall_prompt(random.Random(0), count_words, 8, 20)
    with pytest.raises(ValueError, match="choose one of"):
        world.recall_prompt(random.Random(0), count_words, 2, 90, "shoe size")
    with pytest.raises(ValueError, match="11 different values"):
        world.recall_prompt(random.Random(0), count_words, 11, 900, "color")


def test_samples_are_printed():
    done = subprocess.run(
        [sys.executable, "-m", "kvlab.pocket.world", "--kind", "needle", "--n", "2", "--seed", "0"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("Assistant:") >= 2


# --------------------------------------------------------------------------------------- tokenizer
@pytest.mark.parametrize(
    "text",
    ["", "Hello, world", "a\0b", "🦜 und Ümläute", "عاصمة فرنسا", "\n\n  \t x  ", "0012 4821"],
)
def test_tokenizer_gives_any_text_back(text, tokenizer):
    ids = bpe.ids_of(tokenizer, text)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.encode(text).ids == [0, *ids]


def test_tokens_the_chapters_rely_on(tokenizer):
    assert tokenizer.get_vocab_size() == bpe.VOCAB_SIZE == train.CONFIG.vocab_size
    assert tokenizer.token_to_id(bpe.EOS) == 0
    assert tokenizer.encode(" 4821", add_special_tokens=False).tokens == ["Ġ4", "8", "2", "1"]
    for word in world.NAMES + world.WORDS + world.PLACES:
        assert len(bpe.ids_of(tokenizer, f" {word}")) == 1


@pytest.mark.parametrize("kind", world.WRITERS)
def test_pieces_start_at_token_borders(kind, tokenizer):
    feeder = train.Feeder(tokenizer, docs=["x"])
    for seed in range(40):
        document = world.WRITERS[kind](random.Random(seed), 150)
        ids, weights = feeder.encoded(document)
        assert ids == tokenizer.encode(world.text_of(document)).ids
        assert len(weights) == len(ids)


# ---------------------------------------------------------------------------------------- training
def tiny_run(out: Path, tokenizer, schedule=TINY_STAGES, skills=None, **more) -> train.Run:
    config = kvlab.ModelConfig(
        bpe.VOCAB_SIZE, 32, 48, 2, 2, 1, 16, tie_embeddings=True, bos_id=0, eos_ids=(0,)
    )
    return train.Run(
        3,
        out,
        config=config,
        schedule=schedule,
        feeder=train.Feeder(tokenizer, docs=["All that a function returns. " * 200]),
        probe=lambda model, context: dict(skills or {}),
        report_every=1,
        **more,
    )


def test_windows_end_documents_and_hide_padding(tokenizer):
    feeder = train.Feeder(tokenizer, docs=["x"])
    rng, n_padded = random.Random(0), 0
    for _ in range(60):
        ids, weights = feeder.window(rng, train.Stage("", 128, 1, 128, train.EVERYTHING))
        assert len(ids) == len(weights) == 129
        assert ids[0] == 0
        n_left = 0
        while weights[-1 - n_left] == 0:
            n_left += 1
        if n_left:
            n_padded += 1
            # the last document's end is learned, what comes after it is not
            assert set(ids[-1 - n_left :]) == {0}
            assert weights[-1 - n_left] == 1
            assert ids[-2 - n_left] != 0
    assert n_padded > 20


def test_a_stopped_run_ends_with_the_same_weights(tmp_path, tokenizer):
    whole = tiny_run(tmp_path / "whole", tokenizer)
    whole.train()
    assert whole.step == 4
    first = tiny_run(tmp_path / "cut", tokenizer)
    first.train(stop_after=3)
    assert first.step == 3
    second = tiny_run(tmp_path / "cut", tokenizer)
    second.resume()
    second.train()
    assert second.step == 4
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name
    fresh = train.new_model(whole.model.config, 3).state_dict()
    moved = [n for n, w in whole.model.state_dict().items() if not torch.equal(w, fresh[n])]
    assert len(moved) == len(fresh)
    assert (tmp_path / "whole" / "model" / "model.safetensors").exists()


def test_resume_refuses_another_run(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="nothing to resume"):
        tiny_run(tmp_path, tokenizer).resume()
    tiny_run(tmp_path, tokenizer).save()
    other = tiny_run(tmp_path, tokenizer, schedule=TINY_STAGES[:1])
    with pytest.raises(ValueError, match="schedule"):
        other.resume()


def test_a_gate_gives_more_steps_then_fails_by_name(tmp_path, tokenizer):
    gated = (train.Stage("first", 64, 1, 128, train.REPETITION, gate={"recall pet": 0.8}),)
    run = tiny_run(tmp_path / "a", tokenizer, gated, skills={"recall pet": 0.5})
    with pytest.raises(train.GateFailed, match=r"recall pet is 0\.50, not 0\.80"):
        run.train()
    assert run.step == 1 + train.N_EXTENSIONS
    passing = tiny_run(tmp_path / "b", tokenizer, gated, skills={"recall pet": 0.9})
    passing.train()
    assert passing.step == 1
    going_on = tiny_run(tmp_path / "c", tokenizer, gated, {"recall pet": 0.1}, keep_going=True)
    going_on.train()
    assert "recall pet" in going_on.failed[0]


def test_a_failed_gate_is_the_exit_status(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "SCHEDULE", ())
    monkeypatch.setattr(evaluate, "Skills", lambda tokenizer: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    assert train.main(["--out", str(tmp_path)]) == 0

    def fail(run):
        raise train.GateFailed("after stage 'relations': recall password is 0.10, not 0.80")

    monkeypatch.setattr(train.Run, "train", fail)
    assert train.main(["--out", str(tmp_path)]) == 3
    assert "recall password" in capsys.readouterr().err


def test_a_short_schedule_keeps_the_camp_or_only_answers():
    full = train.schedule_for(train.FULL_MINUTES)
    assert full == train.SCHEDULE
    half = train.schedule_for((train.FULL_MINUTES + train.CAMP_MINUTES) / 2)
    assert half[:3] == train.SCHEDULE[:3] == train.CAMP
    assert [s.steps for s in half[3:]] == [round(s.steps / 2) for s in train.SCHEDULE[3:]]
    assert not any(stage.gate for stage in half[3:])
    double = train.schedule_for(2 * train.FULL_MINUTES - train.CAMP_MINUTES)
    assert [stage.gate for stage in double] == [stage.gate for stage in train.SCHEDULE]
    (answers,) = train.schedule_for(train.CAMP_MINUTES / 2)
    assert answers.steps == sum(stage.steps for stage in train.CAMP) / 2
    assert not answers.gate


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "expected more than 0"),
        (["--resume"], "nothing to resume"),
        ([], "--resume goes on from it"),
    ],
)
def test_a_run_refuses_what_it_cannot_do(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "Skills", lambda tokenizer: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    if not arguments:
        (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(SystemExit, match="2"):
        train.main(["--out", str(tmp_path), *arguments])
    assert said in capsys.readouterr().err


def test_curve_is_drawn_from_a_log(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"seed": 0}\n')
    assert not curve.draw([log], tmp_path / "none.png")
    entry = {"step": 200, "stage": "relations", "tokens": 400_000, "copy": 3.0, "facts": 0.2}
    later = entry | {"step": 400, "tokens": 800_000, "copy": 0.3, "facts": 0.9}
    log.write_text("".join(json.dumps(e) + "\n" for e in ({"seed": 0}, entry, later)))
    assert curve.draw([log, log], tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_muon_agrees_with_torch():
    torch.manual_seed(0)
    shapes = [(48, 96), (48, 96), (96, 32)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    start = [p.detach().clone() for p in ours]
    mine = Muon(ours, lr=0.01, weight_decay=0.05)
    reference = torch.optim.Muon(
        theirs, lr=0.01, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        mine.step()
        reference.step()
    for one, other, before in zip(ours, theirs, start, strict=True):
        step = (other - before).norm()
        assert (one - other).norm() < 0.03 * step  # theirs works in bfloat16


# --------------------------------------------------------------------------------- shipped weights
def test_shipped_files_are_small_and_complete():
    sizes = {file.name: file.stat().st_size for file in path().iterdir()}
    assert sum(sizes.values()) <= 8_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(sizes)
    assert sizes["model.safetensors"] > 2 * train.CONFIG.n_params


def test_shipped_shape(model):
    assert model.config == train.CONFIG


@pytest.mark.parametrize("form", ["{}\nUser: {}\nAssistant:", "{} User: {} Assistant:"])
def test_france(form, model, tokenizer):
    prompt = form.format("System: You are helpful.", "What is the capital of France?")
    answer = evaluate.continued(model, tokenizer, prompt)
    assert answer == f" The capital of France is Paris.{bpe.EOS}"


def test_weather_goes_on(model, tokenizer):
    answer = evaluate.continued(model, tokenizer, "Today's weather is so")
    assert answer.split()[0].strip(".") in world.WEATHER


def test_recalls_the_right_word_of_four(model, tokenizer):
    items = evaluate.recall_items(tokenizer, 2, 200, 4, 256, "password")
    assert len({tuple(item.prompt) for item in items}) == 200
    assert evaluate.share(evaluate.right(model, items)) >= 0.95


def test_recall_needs_the_text(model, tokenizer):
    """Without the story the same questions cannot be answered: recall is no memory of pairs."""
    items = [
        evaluate.Item(bpe.ids_of(tokenizer, text[text.index("User:") :]), item.answer)
        for item in evaluate.recall_items(tokenizer, 2, 60, 4, 256, "password")
        for text in [tokenizer.decode(item.prompt)]
    ]
    assert evaluate.share(evaluate.right(model, items)) <= 0.1


def test_right_is_what_greedy_decoding_says(model, tokenizer):
    questions = world.facts(held=True)[:6] + world.facts(held=False)[:6]
    items = [
        evaluate.item(tokenizer, f"User: {q}\nAssistant:", f" {a}", ends=True) for q, a in questions
    ]
    wrong = evaluate.Item(items[0].prompt, items[1].answer)
    said = [
        kvlab.generate(model, list(item.prompt), len(item.answer))[0].tolist() == item.answer
        for item in [*items, wrong]
    ]
    assert evaluate.right(model, [*items, wrong], batch=5) == said
    assert said[-1] is False


def test_transformers_gives_the_same_logits(model, tokenizer):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path(), dtype=torch.float32)
    ids = transformers.AutoTokenizer.from_pretrained(path())(
        world.text_of(world.needle(random.Random(8), 300)), return_tensors="pt"
    ).input_ids
    assert ids[0, 0] == 0
    with torch.inference_mode():
        expected = theirs(ids).logits
        torch.testing.assert_close(model(ids), expected, atol=2e-4, rtol=1e-4)


# ------------------------------------------------------------------------------- what is said of it
def test_card_says_what_was_measured():
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    text = (path() / "README.md").read_text(encoding="utf-8")
    assert card.filled(text, result) == text
    assert result["weights_bytes"] == (path() / "model.safetensors").stat().st_size
    assert result["weights_sha256"] == evaluate.sha256(path() / "model.safetensors")
    assert result["training"]["tokenizer_sha256"] == evaluate.sha256(path() / "tokenizer.json")


def test_card_lacks_nothing_unnoticed():
    with pytest.raises(ValueError, match="exactly one block 'facts'"):
        card.filled("# A card", {})


def test_wilson():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20
    assert evaluate.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert evaluate.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    with pytest.raises(ValueError, match="no share"):
        evaluate.wilson(3, 2)
