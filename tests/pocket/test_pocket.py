"""The pocket model: its world, its tokenizer, its training, and what the shipped weights can do."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import kvlab
from kvlab.measure.intervals import wilson
from kvlab.pocket import (
    bars,
    bpe,
    card,
    card_tables,
    curve,
    exam,
    heads,
    path,
    perplexity,
    question_sets,
    questions,
    train,
    training_log,
    world,
)
from kvlab.pocket.feeder import Feeder
from kvlab.pocket.learning import CONFIG, export, new_model
from kvlab.pocket.muon import Muon
from kvlab.pocket.run import N_EXTENSIONS, WARMUP_STEPS, GateFailed, Run
from kvlab.pocket.schedule import (
    CAMP,
    CAMP_MINUTES,
    COPYING,
    EVERYTHING,
    FULL_MINUTES,
    LEARNING_RATE,
    REPETITION,
    SCHEDULE,
    Stage,
    schedule_for,
)
from kvlab.pocket.skills import Skills

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "pocket.json"
TINY_STAGES = (
    Stage("first", 64, 2, 256, REPETITION),
    Stage("second", 128, 2, 256, EVERYTHING, docs=0.3, long=0.3),
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


def paired(text: str) -> list[tuple[str, str]]:
    """List who goes with what in a text of pairs."""
    between = "|".join(sorted(map(re.escape, world.APART), key=len, reverse=True))
    return re.findall(rf" ([A-Z]\w+)(?:{between}) ([^,]+),", text)


def test_a_name_and_its_value_lie_at_many_distances():
    distances, reworded = set(), []
    for seed in range(400):
        pieces = world.apart(random.Random(seed), 100)
        told = {piece.text.rstrip(",") for piece in pieces if piece.text.endswith(",")}
        asked = [(a.text, b.text) for a, b in pairwise(pieces) if b.weight == 4]
        distances |= {len(said.split()) - 1 for said, _ in asked}
        reworded.append(not {said + value for said, value in asked} <= told)
    assert distances >= set(range(5))
    assert 0.15 < sum(reworded) / len(reworded) < 0.35


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
            if kind in ("pair", "records", "apart", "numbers") and text.startswith("Pairs:"):
                pairs |= {(n, word) for n, value in paired(text) for word in value.split()}
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
    assert tokenizer.get_vocab_size() == bpe.VOCAB_SIZE == CONFIG.vocab_size
    assert tokenizer.token_to_id(bpe.EOS) == 0
    assert tokenizer.encode(" 4821", add_special_tokens=False).tokens == ["Ġ4", "8", "2", "1"]
    for word in world.NAMES + world.WORDS + world.PLACES:
        assert len(bpe.ids_of(tokenizer, f" {word}")) == 1


@pytest.mark.parametrize("kind", world.WRITERS)
def test_pieces_start_at_token_borders(kind, tokenizer):
    feeder = Feeder(tokenizer, docs=["x"])
    for seed in range(40):
        document = world.WRITERS[kind](random.Random(seed), 150)
        ids, weights = feeder.encoded(document)
        assert ids == tokenizer.encode(world.text_of(document)).ids
        assert len(weights) == len(ids)


# ---------------------------------------------------------------------------------------- training
def tiny_run(out: Path, tokenizer, schedule=TINY_STAGES, skills=None, **more) -> Run:
    config = kvlab.ModelConfig(
        bpe.VOCAB_SIZE, 32, 48, 2, 2, 1, 16, tie_embeddings=True, bos_id=0, eos_ids=(0,)
    )
    return Run(
        3,
        out,
        config=config,
        schedule=schedule,
        feeder=Feeder(tokenizer, docs=["All that a function returns. " * 200]),
        probe=lambda model, context: dict(skills or {}),
        report_every=1,
        **more,
    )


def test_windows_end_documents_and_hide_padding(tokenizer):
    feeder = Feeder(tokenizer, docs=["x"])
    rng, n_padded = random.Random(0), 0
    for _ in range(60):
        ids, weights = feeder.window(rng, Stage("", 128, 1, 128, EVERYTHING))
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
    fresh = new_model(whole.model.config, 3).state_dict()
    moved = [n for n, w in whole.model.state_dict().items() if not torch.equal(w, fresh[n])]
    assert len(moved) == len(fresh)
    assert (tmp_path / "whole" / "model" / "model.safetensors").exists()


def test_resume_refuses_another_run(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="nothing to resume"):
        tiny_run(tmp_path, tokenizer).resume()
    tiny_run(tmp_path, tokenizer).save()
    run = tiny_run(tmp_path / "begun", tokenizer)
    run.train(stop_after=3)
    run.save()
    other = tiny_run(tmp_path / "begun", tokenizer, schedule=(replace(TINY_STAGES[0], docs=0.1),))
    with pytest.raises(ValueError, match="another schedule"):
        other.resume()


def test_what_is_to_come_may_change_before_a_run_goes_on(tmp_path, tokenizer):
    run = tiny_run(tmp_path, tokenizer)
    run.train(stop_after=2)
    run.save()
    longer = (TINY_STAGES[0], replace(TINY_STAGES[1], steps=5))
    more = tiny_run(tmp_path, tokenizer, schedule=longer)
    more.resume()
    assert more.stage_steps == [2, 5]


def test_a_gate_gives_more_steps_then_fails_by_name(tmp_path, tokenizer):
    gated = (Stage("first", 64, 1, 128, REPETITION, gate={"recall pet": 0.8}),)
    run = tiny_run(tmp_path / "a", tokenizer, gated, skills={"recall pet": 0.5})
    with pytest.raises(GateFailed, match=r"recall pet is 0\.50, not 0\.80"):
        run.train()
    assert run.step == 1 + N_EXTENSIONS
    passing = tiny_run(tmp_path / "b", tokenizer, gated, skills={"recall pet": 0.9})
    passing.train()
    assert passing.step == 1
    going_on = tiny_run(tmp_path / "c", tokenizer, gated, {"recall pet": 0.1}, keep_going=True)
    going_on.train()
    assert "recall pet" in going_on.failed[0]


def test_a_gate_on_a_loss_passes_below_it(tmp_path, tokenizer):
    gated = (Stage("first", 64, 1, 128, REPETITION, gate={"repeat": 0.5}),)
    run = tiny_run(tmp_path / "low", tokenizer, gated, skills={"repeat": 0.4})
    run.train()
    assert run.step == 1
    with pytest.raises(GateFailed, match=r"repeat is 0\.60, not 0\.50"):
        tiny_run(tmp_path / "high", tokenizer, gated, skills={"repeat": 0.6}).train()


def test_each_stage_may_ask_for_more_steps(tmp_path, tokenizer):
    gate = {"recall pet": 0.8}
    stages = [Stage(n, 64, 1, 128, REPETITION, gate=gate) for n in ("one", "two")]
    run = tiny_run(tmp_path, tokenizer, stages, {"recall pet": 0.1}, keep_going=True)
    run.train()
    assert run.stage_steps == [1 + N_EXTENSIONS] * 2


def test_gates_ask_for_what_is_measured(tokenizer):
    skills = Skills(tokenizer)
    measured = {*skills.copies, *skills.recall, *skills.facts, *(name for _, name in skills.longer)}
    for stage in SCHEDULE:
        assert set(stage.gate) <= measured
    assert set(COPYING) == set(skills.copies)


def test_codes_open_alike_but_not_all_of_a_text():
    shared, several = [], []
    for seed in range(80):
        told = world.text_of(world.codes(random.Random(seed), 200)[:1])
        found = re.findall(r"The code of \w+ is (\d{4})\.", told)
        if len(found) >= 6:
            firsts = [code[0] for code in found]
            shared.append(sum(firsts.count(first) > 1 for first in firsts) / len(firsts))
            several.append(len(set(firsts)) > 1)
    assert len(shared) > 20
    assert sum(shared) / len(shared) > 0.8  # four of eight drawn freely
    assert sum(several) > 0.9 * len(several)


def test_records_go_on_alike_after_the_same_word_or_digit():
    """To go on from any record that has the last word or digit is right in half of the cases."""
    chances = []
    for seed in range(300):
        records = dict(paired(world.text_of(world.records(random.Random(seed), 100))))
        rows = [list(value) if value.isdigit() else value.split() for value in records.values()]
        steps = [step for row in rows for step in pairwise(row)]
        for last, following in steps:
            others = [after for before, after in steps if before == last]
            chances.append(others.count(following) / len(others))
    assert len(chances) > 1000
    assert 0.4 < sum(chances) / len(chances) < 0.65


def test_a_text_that_asks_for_what_it_opens_with():
    n_asked = []
    for seed in range(20):
        told = "".join(piece.text for piece in world.far(random.Random(seed), 900))
        opening = re.match(r"\w+:((?: The \w+ of \w+ is \w+\.)+)", told)
        assert opening, told[:80]
        first = re.findall(r"The (\w+ of \w+) is", opening[1])
        asked = [what for what in first if f"hat is the {what}?" in told]
        assert first[0] in asked
        n_asked.append(len(asked))
    assert {1, 2, 3, 4} <= set(n_asked)


def test_a_failed_gate_is_the_exit_status(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "SCHEDULE", ())
    monkeypatch.setattr("kvlab.pocket.run.Skills", lambda tokenizer: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    assert train.main(["--out", str(tmp_path)]) == 0

    def fail(run):
        raise GateFailed("after stage 'relations': recall password is 0.10, not 0.80")

    monkeypatch.setattr(Run, "train", fail)
    assert train.main(["--out", str(tmp_path)]) == 3
    assert "recall password" in capsys.readouterr().err


def test_a_short_schedule_keeps_the_camp_or_only_answers():
    full = schedule_for(FULL_MINUTES)
    assert full == SCHEDULE
    half = schedule_for((FULL_MINUTES + CAMP_MINUTES) / 2)
    n_camp = len(CAMP)
    assert half[:n_camp] == SCHEDULE[:n_camp] == CAMP
    assert all(stage.context == 128 for stage in CAMP)
    long = SCHEDULE[n_camp:]
    assert [s.steps for s in half[n_camp:]] == [round(s.steps / 2) for s in long]
    assert not any(stage.gate for stage in half[n_camp:])
    double = schedule_for(2 * FULL_MINUTES - CAMP_MINUTES)
    assert [stage.gate for stage in double] == [stage.gate for stage in SCHEDULE]
    (answers,) = schedule_for(CAMP_MINUTES / 2)
    assert answers.steps == sum(stage.steps for stage in CAMP) / 2
    assert not answers.gate


@pytest.mark.parametrize(("minutes", "every"), [(["--minutes", "5"], 47), ([], 200)])
def test_a_short_run_has_a_curve_of_ten_points_as_well(minutes, every, tmp_path, monkeypatch):
    monkeypatch.setattr("kvlab.pocket.run.Skills", lambda tokenizer: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    runs = []
    monkeypatch.setattr(Run, "train", lambda run: runs.append(run))
    train.main(["--out", str(tmp_path), *minutes])
    assert runs[0].report_every == every


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--minutes", "0"], "expected more than 0"),
        (["--resume"], "nothing to resume"),
        ([], "--resume goes on from it"),
    ],
)
def test_a_run_refuses_what_it_cannot_do(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kvlab.pocket.run.Skills", lambda tokenizer: None)
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


def test_a_stage_has_its_own_rates(tmp_path, tokenizer):
    first = Stage("first", 64, 100, 128, REPETITION)
    second = Stage("second", 64, 100, 128, REPETITION, rate=(2e-3, 1e-3))
    run = tiny_run(tmp_path, tokenizer, (first, second))
    assert run.rate() == pytest.approx(LEARNING_RATE / WARMUP_STEPS)
    run.step = run.step_in_stage = 99
    assert run.rate() == LEARNING_RATE
    run.stage, run.step_in_stage = 1, 50
    assert run.rate() == pytest.approx(1.5e-3)


def test_rates_of_the_schedule_follow_on_each_other():
    rates = [stage.rate for stage in SCHEDULE]
    assert all(a[1] == b[0] for a, b in pairwise(rates[:-1]))  # the last warms up once more
    assert rates[-1][1] < 0.01 * LEARNING_RATE


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
    assert sizes["model.safetensors"] > 2 * CONFIG.n_params


def test_shipped_shape(model):
    assert model.config == CONFIG


@pytest.mark.parametrize("form", ["{}\nUser: {}\nAssistant:", "{} User: {} Assistant:"])
def test_france(form, model, tokenizer):
    prompt = form.format("System: You are helpful.", "What is the capital of France?")
    answer = questions.continued(model, tokenizer, prompt)
    assert answer == f" The capital of France is Paris.{bpe.EOS}"


def test_weather_goes_on(model, tokenizer):
    answer = questions.continued(model, tokenizer, "Today's weather is so")
    assert answer.split()[0].strip(".") in world.WEATHER


def test_recalls_the_right_word_of_four(model, tokenizer):
    items = questions.recall_items(tokenizer, 2, 200, 4, 256, "password")
    assert len({tuple(item.prompt) for item in items}) == 200
    assert questions.share(questions.right(model, items)) >= 0.95


def test_recall_needs_the_text(model, tokenizer):
    """Without the story the same questions cannot be answered: recall is no memory of pairs."""
    items = [
        questions.Item(bpe.ids_of(tokenizer, text[text.index("User:") :]), item.answer)
        for item in questions.recall_items(tokenizer, 2, 60, 4, 256, "password")
        for text in [tokenizer.decode(item.prompt)]
    ]
    assert questions.share(questions.right(model, items)) <= 0.1


def test_right_is_what_greedy_decoding_says(model, tokenizer):
    asked = world.facts(held=True)[:6] + world.facts(held=False)[:6]
    items = [
        questions.item(tokenizer, f"User: {q}\nAssistant:", f" {a}", ends=True) for q, a in asked
    ]
    wrong = questions.Item(items[0].prompt, items[1].answer)
    said = [
        kvlab.generate(model, list(item.prompt), len(item.answer))[0].tolist() == item.answer
        for item in [*items, wrong]
    ]
    assert questions.right(model, [*items, wrong], batch=5) == said
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


def surely_below(score, bar) -> bool:
    """Whether even luck of one in a thousand does not lift a share to its bar."""
    return wilson(score["right"], score["of"], z=3.3)[1] < bar


@pytest.mark.parametrize("row", [name for name in bars.LEAST if name.startswith("facts")])
def test_facts_are_not_below_their_bar(row, model, tokenizer):
    score = questions.scored(model, question_sets.rows(tokenizer, seed=2, n_prompts=1)[row]())
    assert not surely_below(score, bars.LEAST[row]), questions.in_words(score)


@pytest.mark.parametrize("kind", question_sets.GRID)
@pytest.mark.parametrize(
    "n_tokens", [n for n in question_sets.LENGTHS if n <= question_sets.BARRED_TOKENS]
)
def test_recall_is_not_below_its_bar_at_any_depth(kind, n_tokens, model, tokenizer):
    makers = question_sets.cells(tokenizer, model.config.max_positions, seed=2, n_prompts=8)
    cells = [
        questions.scored(model, makers[kind, n_tokens, depth]()) for depth in question_sets.DEPTHS
    ]
    for depth, cell in zip(question_sets.DEPTHS, cells, strict=True):
        assert not surely_below(cell, bars.CELL_LEAST), (depth, questions.in_words(cell))
    row = questions.counted(sum(c["right"] for c in cells), sum(c["of"] for c in cells))
    bar = bars.LEAST[question_sets.needle_row(kind, n_tokens)]
    assert row["of"] == 40
    assert not surely_below(row, bar), questions.in_words(row)


def test_one_layer_looks_at_the_needle_and_recall_needs_it(model, tokenizer):
    found = heads.retrieval(model, tokenizer, 8, seed=2)
    assert found["mass_on_sentence"] >= bars.MASS_LEAST - 0.1  # eight prompts only
    without = found["recall_without_layer"][str(found["best_layer"])]
    assert wilson(without["right"], without["of"], z=3.3)[0] <= bars.ABLATED_MOST


def test_documentation_costs_less_than_gzip_and_five_grams(model, tokenizer):
    bits = perplexity.documentation(model, tokenizer, [2048])["bits_per_byte"]["together"]
    assert all(bits["the model, windows of 2048"] < bits[other] for other in bars.COMPRESSORS), bits


def test_sampled_prose_does_not_loop(model, tokenizer):
    for name, found in perplexity.prose(model, tokenizer, 3).items():
        if name.startswith("temperature"):
            low, _ = wilson(found["loop"], found["texts"], z=3.3)
            assert low <= bars.LOOPS_MOST, (name, found)


# ------------------------------------------------------------------------------- what is said of it
def test_record_is_of_the_shipped_weights_and_every_bar_is_passed():
    result, _ = card.recorded(RESULT)
    assert result["weights_bytes"] == (path() / "model.safetensors").stat().st_size
    assert result["weights_sha256"] == questions.sha256(path() / "model.safetensors")
    for made_with in (result, result["training"]):
        assert made_with["tokenizer_sha256"] == questions.sha256(path() / "tokenizer.json")
    assert result["documentation"]["trained_sha256"] == result["training"]["docs_sha256"]
    assert result["prompts"] == 200
    assert all(result["scores"][row]["of"] >= 200 for row in bars.LEAST if row != bars.IN_SENTENCES)
    for by_length in result["grid"].values():
        cells = [
            c
            for n, row in by_length.items()
            for c in row.values()
            if int(n) <= question_sets.BARRED_TOKENS
        ]
        assert len(cells) == 20 and all(cell["of"] == 200 for cell in cells)
    assert result["retrieval"]["prompts"] == result["prose"]["temperature 1"]["texts"] == 200
    assert bars.bars(result) == result["bars"]
    assert not [bar["what"] for bar in result["bars"] if not bar["passed"]]
    assert result["passed"]


def test_card_says_what_was_measured():
    words = (path() / "README.md").read_text(encoding="utf-8")
    assert card.filled(words, *card.recorded(RESULT)) == words


def test_recorded_seeds_are_different_runs():
    shipped, others = card.recorded(RESULT)
    every = [shipped, *others]
    assert len({one["weights_sha256"] for one in every}) == len(every) >= 3
    assert len({one["training"]["seed"] for one in every}) == len(every)
    stages = [stage.name for stage in SCHEDULE]
    for one in every:  # trained to the end, by today's stages
        assert list(dict.fromkeys(e["stage"] for e in one["training"]["curve"])) == stages


# ------------------------------------------------------------------------------- the examination
def made_up_result(**changes):
    """A result in which every bar is just passed, but for the changes."""
    score = lambda right, of: questions.counted(right, of)  # noqa: E731
    bits = {"the model, windows of 2048": 1.9, "gzip -9": 2.5} | {
        "5-gram of bytes": 2.0, "5-gram of its tokens": 1.95, "bytes": 1000
    }  # fmt: skip
    result = {
        "command": "kvlab eval pocket",
        "weights_sha256": "aa",
        "weights_bytes": 4_000_000,
        "parameters": 1_967_808,
        "max_positions": 2048,
        "seconds": 300.4,
        "machine": {"cpu": "a cpu", "threads": 1, "torch": "2"},
        "prompt_tokens": {"Hello": 3},
        "scores": {name: score(round(1000 * least), 1000) for name, least in bars.LEAST.items()}
        | {name: score(150, 200) for name in card_tables.SPREAD if name not in bars.LEAST},
        "grid": {
            kind: {
                str(n): {f"{d:g}": score(34 if n <= 1000 else 2, 40) for d in question_sets.DEPTHS}
                for n in question_sets.LENGTHS
            }
            for kind in question_sets.GRID
        },
        "documentation": {
            "source": "texts", "python": "3", "sha256": "bb", "trained_sha256": "cc",
            "trained_bytes": 9, "bytes_held_out": 1500, "bits_per_byte": {"together": bits},
        },
        "retrieval": {
            "best_layer": 1, "mass_on_sentence": 0.8, "prompts": 10, "tokens": 450, "relations": 5,
            "sentence_by_layer_and_head": [[0.1, 0.0], [0.9, 0.7]],
            "value_by_layer_and_head": [[0.1, 0.0], [0.9, 0.5]],
            "recall": score(10, 10),
            "recall_without_layer": {"0": score(9, 10), "1": score(1, 10)},
        },
        "sinks": {
            "of_all_queries": [0.01, 0.02], "even": 0.003,
            "first_token_evicted": {"kl": 0.01, "right": 9, "of": 10},
            "filler_token_evicted": {"kl": 0.0, "right": 10, "of": 10},
        },
        "outliers": {
            which: [{"rms_ratio": 2.0, "kurtosis": 3.0, "first_token": 1.0}] * 2
            for which in ("keys", "values")
        },
        "prose": {
            name: {"texts": 100, "loop": 5, "repeated_4_grams": 0.05, "first": "The king."}
            for name in ("temperature 1", "temperature 0.8")
        },
        "samples": {"Hello": " Hello!"},
        "training": {
            "command": "python -m kvlab.pocket.train --seed 0", "seed": 0, "cpu": "a cpu",
            "threads": 1, "torch": "2", "steps": 200, "tokens": 5_000_000,
            "minutes": {"learning": 40.0, "writing": 2.5}, "emerged": {"facts": 200},
            "gates": [{"gate": "more steps"}],
            "curve": [{"step": 200, "tokens": 5e6, "stage": "last", "facts": 0.9}],
        },
    } | changes  # fmt: skip
    return result | {"bars": bars.bars(result)}


def test_every_bar_is_passed_at_its_edge_and_missed_below():
    result = made_up_result()
    assert all(bar["passed"] for bar in result["bars"])
    assert len(result["bars"]) == len(bars.LEAST) + 2 + 3 + 2 + 2

    def missed(**changes):
        return [bar["what"] for bar in made_up_result(**changes)["bars"] if not bar["passed"]]

    for name, least in bars.LEAST.items():
        low = {name: questions.counted(round(1000 * least) - 1, 1000)}
        assert missed(scores=result["scores"] | low) == [name]
    low = {kind: dict(rows) for kind, rows in result["grid"].items()}
    low["code"]["1000"] = low["code"]["1000"] | {"0.5": questions.counted(33, 40)}
    assert missed(grid=low) == ["code of 5, weakest depth and length up to 1000 tokens"]
    for other in bars.COMPRESSORS:
        bits = result["documentation"]["bits_per_byte"]["together"] | {other: 1.9}
        found = missed(
            documentation=result["documentation"] | {"bits_per_byte": {"together": bits}}
        )
        assert found == [f"held-out documentation, bits a byte, against {other}"]
    seen = result["retrieval"]
    assert missed(retrieval=seen | {"mass_on_sentence": 0.79}) == [
        "attention on the needle in layer 1"
    ]
    without = {"0": questions.counted(0, 10), "1": questions.counted(2, 10)}
    assert missed(retrieval=seen | {"recall_without_layer": without}) == [
        "recall without attention in layer 1"
    ]
    prose = result["prose"] | {"temperature 0.8": result["prose"]["temperature 1"] | {"loop": 6}}
    assert missed(prose=prose) == ["free prose that loops, temperature 0.8"]


def test_report_names_every_score_and_every_missed_bar():
    result = made_up_result(prose={"temperature 1": {"texts": 4, "loop": 4, "repeated_4_grams": 1}})
    said = exam.as_text(result)
    assert all(name in said for name in result["scores"])
    assert said.count("MISSED") == 1
    assert "4 of 4 texts loop" in said


def test_card_sets_the_seeds_side_by_side():
    one = made_up_result()
    two = made_up_result(
        weights_sha256="dd",
        training=one["training"] | {"seed": 7, "emerged": {"where": 100, "facts": 50}},
    )
    blocks = "".join(f"<!-- {n} -->\nold\n<!-- /{n} -->\n" for n in [*card.BLOCKS, "spread"])
    words = card.filled(blocks, one, [one, two])
    assert "old" not in words
    assert "|  | seed 0, shipped | seed 7 |" in words
    assert "| step of the first 0.8: where | never | 100 |" in words
    assert "| step of the first 0.8: facts | 200 | 50 |" in words
    assert "| minutes | 42.5 | 42.5 |" in words
    assert card.filled(words, one, [two]) == words


def test_card_lacks_nothing_unnoticed():
    with pytest.raises(ValueError, match="exactly one block 'facts'"):
        card.filled("# A card", made_up_result())
    words = (path() / "README.md").read_text(encoding="utf-8")
    assert card.filled(words, made_up_result())


def test_the_whole_examination_runs_and_can_be_written(monkeypatch, tmp_path):
    bits = made_up_result()["documentation"]  # it alone takes ten seconds, and is tested above
    monkeypatch.setattr(perplexity, "documentation", lambda model, tokenizer: bits)
    steps = []
    monkeypatch.setattr(exam, "progress", lambda: nullcontext(lambda *seen: steps.append(seen)))
    result = exam.evaluate(path(), 1)
    assert steps[-1] == (len(steps) - 1, "done", len(steps) - 1)
    assert set(bars.LEAST) <= set(result["scores"])
    assert set(card_tables.SPREAD) - set(result["scores"]) <= {"password of 5, 2000 tokens"} | {
        "code of 5, 2000 tokens"
    }
    again = json.loads(exam.as_json(result))
    assert exam.as_text(again) == exam.as_text(result)
    training = made_up_result()["training"]
    words = (path() / "README.md").read_text(encoding="utf-8")
    assert questions.in_words(result["scores"]["facts"]) in card.filled(
        words, again | {"command": "", "training": training}
    )


def test_only_a_pocket_model_is_examined(tmp_path, tokenizer):
    run = tiny_run(tmp_path, tokenizer, schedule=())
    export(run.model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["max_position_embeddings"] = 512
    bpe.write_json(tmp_path / "model" / "config.json", config)
    with pytest.raises(ValueError, match="512 positions; expected a pocket model"):
        exam.evaluate(tmp_path / "model")


def test_a_training_log_tells_when_each_skill_came(tmp_path):
    log = tmp_path / "log.jsonl"
    common = {"stage": "a", "seconds": {"learning": 90.0}, "rate": 1, "loss": 2.0, "copy": 3.0}
    entries = [
        {"seed": 3},
        {"step": 100, "tokens": 10, **common, "facts": 0.79, "code": 0.0, "code 1900": 0.9},
        {"gate": "more steps"},
        {"step": 200, "tokens": 20, **common, "facts": 0.8, "code": 0.7},
        {"step": 300, "tokens": 30, **common, "facts": 0.7, "code": 0.7},
    ]
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    found = training_log.training_of(log)
    assert found["emerged"] == {"facts": 200, "code 1900": 100}  # though the end does not ask it
    assert (found["seed"], found["steps"], found["minutes"]) == (3, 300, {"learning": 1.5})
    log.write_text(json.dumps(entries[0]))
    with pytest.raises(ValueError, match="no report"):
        training_log.training_of(log)
    with pytest.raises(ValueError, match="no log of a training run"):
        training_log.training_of(tmp_path / "none")


def test_changed_passwords_ask_for_the_last_one(tokenizer):
    changed = 0
    for one in questions.latest_items(tokenizer, 3, 20):
        prompt, answer = tokenizer.decode(one.prompt), tokenizer.decode(one.answer)
        name = re.search(r"What is the password of (\w+) now\?", prompt)[1]
        told = re.findall(rf"he password of {name} is (\w+)\.", prompt)
        assert answer == f" {told[-1]}"
        assert len(set(re.findall(r"he password of (\w+) is \w+\.", prompt))) == 5
        changed += len(told) > 1
    assert changed >= 5


def test_two_kinds_of_five_people_have_ten_different_values(tokenizer):
    for one in questions.two_kinds_items(tokenizer, 3, 10, 5):
        told = re.findall(r"he (\w+) of (\w+) is (\w+)\.", tokenizer.decode(one.prompt))
        assert len({value for _, _, value in told}) == 10
        assert len({(kind, name) for kind, name, _ in told}) == 10


def test_an_answer_in_its_own_words_is_the_value_or_a_sentence(model, tokenizer):
    pairs = question_sets.in_own_words(tokenizer, seed=3, n_prompts=12)[
        "password of 5, 256 tokens, in its own words"
    ]()
    for alone, sentence in pairs:
        assert alone.prompt == sentence.prompt
        assert tokenizer.decode(alone.prompt).endswith("Assistant:")
        name, value = re.fullmatch(
            r" The password of (\w+) is (\w+)\.", tokenizer.decode(sentence.answer)
        ).groups()
        assert tokenizer.decode(alone.answer) == f" {value}."
        assert alone.answer[-1] == sentence.answer[-1] == 0
        assert f"he password of {name} is {value}." in tokenizer.decode(alone.prompt)
    heard = [
        questions.continued(model, tokenizer, tokenizer.decode(alone.prompt))
        in [tokenizer.decode(one.answer, skip_special_tokens=False) for one in (alone, sentence)]
        for alone, sentence in pairs
    ]
    assert questions.scored_either(model, pairs)["right"] == sum(heard) > 6
    wrong = [(a._replace(answer=[5, 0]), s._replace(answer=[6, 0])) for a, s in pairs]
    assert questions.scored_either(model, wrong)["right"] == 0


def test_strangers_and_depths_reach_the_prompts(tokenizer):
    sets = question_sets.rows(tokenizer, seed=3, n_prompts=5)
    for one in sets["password of 5, 256 tokens, strangers"]():
        names = set(re.findall(r"he password of (\w+) is \w+\.", tokenizer.decode(one.prompt)))
        assert len(names) == 5
        assert names <= set(world.STRANGERS)
    at = []
    for depth in (0.0, 0.5, 1.0):
        one = question_sets.cells(tokenizer, 2048, seed=3, n_prompts=1)["code", 256, depth]()[0]
        words = tokenizer.decode(one.prompt)
        sentence = re.search(r"What is (the code of \w+)\?", words)[1]
        at.append(words.index(f"{sentence[0].upper()}{sentence[1:]} is") / len(words))
    assert at[0] < 0.05 < 0.3 < at[1] < 0.7 < 0.8 < at[2]


# ----------------------------------------------------------------------------------------- inside
def test_needle_is_where_the_answer_stands(tokenizer):
    made = questions.recall_prompts(tokenizer, 4, 3, 5, 200, "code")
    for one, prompt in zip([heads.located(tokenizer, m) for m in made], made, strict=True):
        ids = one.item.prompt
        assert tokenizer.decode([ids[i] for i in one.sentence]) == f" {prompt.asked.sentence}"
        assert [ids[i] for i in one.value] == one.item.answer


def test_masses_are_those_of_the_last_query_in_a_whole_forward(model, tokenizer):
    one = heads.needles(tokenizer, 4, 1)[0]
    with kvlab.Probe(model, keep="weights") as seen, torch.inference_mode():
        model(torch.tensor([one.item.prompt]), backend="reference")
    found = heads.masses(model, [one])
    for layer, (weights_BHST,) in enumerate(seen.weights):
        last_HT = weights_BHST[0, :, -1]
        for place, slots in (("sentence", one.sentence), ("value", one.value), ("first", [0])):
            expected_H = last_HT[:, list(slots)].sum(-1)
            torch.testing.assert_close(found[place][layer], expected_H, atol=1e-4, rtol=1e-3)


def test_a_layer_without_attention_adds_nothing_and_comes_back(model):
    ids = torch.tensor([[0, 5, 9, 17]])
    added = []
    with torch.inference_mode():
        before = model(ids)
        with pytest.raises(RuntimeError, match="stop"), heads.without_attention(model, 1):
            layer = model.model.layers[1].self_attn
            layer.register_forward_hook(lambda m, i, out: added.append(out.abs().max()))
            assert not torch.equal(model(ids), before)
            layer._forward_hooks.popitem()
            raise RuntimeError("stop")
        assert added == [0]
        assert torch.equal(model(ids), before)


def test_evicting_an_unseen_token_costs_nothing_and_a_seen_one_something(model, tokenizer):
    found = heads.sinks(model, tokenizer, 2)
    assert len(found["of_all_queries"]) == model.config.n_layers
    assert 0 < found["even"] < 0.01
    assert found["first_token_evicted"]["kl"] >= 0
    assert found["first_token_evicted"]["of"] == found["filler_token_evicted"]["of"] == 2
    one = heads.needles(tokenizer, 1, 1)[0]
    cache = heads.read_up_to_last(model, one.item.prompt)
    whole = kvlab.decode(model, heads.last_token(one.item.prompt), cache.fork())
    costs = [heads._cost(model, one, cache, slot, whole)[0] for slot in (one.value[0], 60)]
    assert costs[0] > 10 * costs[1]


def test_outliers_are_found_where_one_is_made(tokenizer):
    made = kvlab.load("pocket")[0]
    plain = heads.outliers(made, tokenizer, 2)
    with torch.no_grad():
        made.model.layers[2].self_attn.v_proj.weight[5] *= 40
    louder = heads.outliers(made, tokenizer, 2)
    assert louder["values"][2]["rms_ratio"] > 10 * plain["values"][2]["rms_ratio"]
    assert louder["values"][2]["kurtosis"] > 10
    assert louder["values"][1] == plain["values"][1]
    assert louder["keys"][2] == plain["keys"][2]


# ------------------------------------------------------------------------------------------- text
def test_n_grams_are_a_distribution_after_any_context():
    rng = random.Random(0)
    learned = [rng.choice([0, 0, 1, 2, 5]) for _ in range(300)]
    grams = perplexity.NGrams(learned, 3, 3)
    for context in ([], [0], [0, 0], [5, 1], [7, 7], [3, 0]):
        before = grams.bits_of(context)
        p = [2 ** (before - grams.bits_of([*context, token])) for token in range(8)]
        assert sum(p) == pytest.approx(1)
        assert p[0] > p[3] > 0


def test_n_grams_by_hand():
    # bigrams of 0 1 0 1 0 2: 01 twice, 10 twice, 02 once; discount 1 / (1 + 2 * 2)
    grams = perplexity.NGrams([0, 1, 0, 1, 0, 2], 2, 2)
    # each number follows one other one only, so three of three counts are 1: discount 1
    lower = 1 / 4
    assert grams.bits_of([0, 2]) - grams.bits_of([0]) == pytest.approx(
        -math.log2((1 - 0.2) / 3 + 0.2 * 2 / 3 * lower)
    )


def test_n_grams_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="at most 63"):
        perplexity.NGrams([1, 2], 6, 11)


def test_windows_score_every_token_once(model, tokenizer):
    ids = bpe.ids_of(tokenizer, "The king and the queen live in the castle. It is cold in Rome.")
    assert len(ids) > 12
    expected = 0.0
    for start in range(0, len(ids), 5):
        window = torch.tensor([[0, *ids[start : start + 5]]])
        log_p_SV = model(window)[0].log_softmax(-1)
        expected -= log_p_SV[:-1].gather(1, window[0, 1:, None]).sum().item()
    assert perplexity.nats(model, ids, 6, 12) == pytest.approx(expected, rel=1e-4)


def test_loops_and_repetition():
    assert perplexity.loops([9] * 48)
    assert perplexity.loops([*range(100), *(list(range(24)) * 2)])
    assert not perplexity.loops([*(list(range(25)) * 4)])
    assert not perplexity.loops([*([1, 2] * 30), 3])
    assert perplexity.repeated(range(20)) == 0
    assert perplexity.repeated([1, 2, 3, 4] * 3) == pytest.approx(5 / 9)


def test_known_paragraphs_are_no_held_out_text():
    known = perplexity.paragraphs("Old words.\n\n  Older words.")
    held = {"module a": "New words.\n\nOld words.", "module b": "Older words.", "topic c": "No."}
    assert perplexity.unseen_text(held, "module ", known) == "New words."


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--minutes", "inf"], "--minutes inf was asked for"),
        (["--minutes", "1e300"], "--minutes 1e"),
        (["--minutes", "nan"], "--minutes nan"),
        (["--threads", "0"], "--threads 0 was asked for"),
        (["--resume"], "nothing to resume"),
        (["--out", __file__], f"nothing can be written into {__file__}"),
        (["--out", f"{__file__}/runs/one"], f"nothing can be written into {__file__}"),
    ],
)
def test_training_refuses_before_it_begins(line, said, tmp_path, capsys, monkeypatch):
    from kvlab.pocket import train

    monkeypatch.setattr(train, "Run", None)  # nothing is built
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path), *line])
    assert said in capsys.readouterr().err
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(SystemExit):
        train.main(["--out", str(tmp_path)])
    assert "is there already" in capsys.readouterr().err


BUILDING = """
import signal, sys
from kvlab.pocket import run, train
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
feeder = run.Feeder
run.Feeder = lambda *given: (print("building", flush=True), feeder(*given))[1]
sys.exit(train.main(["--minutes", "1", "--out", sys.argv[1]]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to send Ctrl-C to")
def test_ctrl_c_while_the_texts_feeder_is_built_ends_in_one_sentence(tmp_path):
    job = subprocess.Popen(
        [sys.executable, "-c", BUILDING, str(tmp_path / "run")], start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while job.stdout.readline() != "building\n":
        assert job.poll() is None, job.stderr.read()
    os.killpg(job.pid, signal.SIGINT)
    _, said = job.communicate(timeout=500)
    assert job.returncode == 130
    assert said.strip() == "Stopped before the first step; nothing was kept yet."
