import json
import random
import warnings
from importlib import import_module
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from kvlab import Evict, export, policies, quality
from kvlab.chat import ChatTemplate
from kvlab.pocket import asking, path
from kvlab.quality import asked, cells, doable, forecast, measuring
from kvlab.quality import plain as plain_tasks
from kvlab.quality import report as prune_report
from kvlab.quality.tasks import TASKS
from kvlab.shell import cli
from kvlab.tokenizer import Tokenizer as Wrapped
from kvlab.view import pareto
from tests.conftest import tiny_model

TEXT = "The cat sat on the mat, and the queen looked at the sea. " * 60
SMALL = {"n_tokens": 120, "n_prompts": 2, "seeds": 2, "budgets": (0.6,)}


@pytest.fixture(scope="module")
def plain():
    """A random model that speaks no known language: prompts are plain English."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    words = [*quality.FILLER, quality.NAMES, quality.WORDS, TEXT[:60]]
    words += [" The password of Alice is tiger.\nQuestion: What is the password of Ben?\nAnswer:"]
    inner.train_from_iterator(words * 3, trainer)
    return tiny_model(vocab_size=600, n_layers=2, max_positions=512), Wrapped(inner)


@pytest.fixture(scope="module")
def pocket_tokenizer():
    return Wrapped.from_file(path() / "tokenizer.json")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_the_report_has_all_of_a_models_tasks_and_baselines(plain, text, tmp_path):
    own = {"mine": policies.knorm, "sized": Evict(policies.keydiff, 70, sink=1, recent=6)}
    report = prune_report.run(("snapkv", "kivi"), own=own, model=plain, text=text, **SMALL)
    rows = {(r["task"], r["question"], r["method"], r["budget"]): r for r in report["rows"]}
    tasks = {(r["task"], r["question"]) for r in report["rows"]}
    assert tasks == {("recall", "visible"), ("recall", "unseen"), ("text", "unseen")}
    names = {r["method"] for r in report["rows"]}
    always = {"dense", "sinks and window", "random", "recency"}
    assert names == {*always, "snapkv", "kivi", "mine", "sized"}
    for (task, _, name, _), r in rows.items():
        assert r["prompts"] == 4 and r["seeds"] == 2 and 0 < r["bytes"] <= 1
        for what in ("kl", "agree", "error", "perplexity"):
            assert r[what]["low"] <= r[what]["mean"] <= r[what]["high"], (name, what)
        if task == "recall":
            assert r["recall"]["of"] == 4 == sum(x["of"] for x in r["by_depth"])
        if name == "dense":
            assert (r["kl"]["mean"], r["agree"]["mean"], r["error"]["mean"]) == (0, 1, 0)
    # the others are measured at the bytes of the policy that has a size of its own
    assert len(report["budgets"]) == 2
    sized = rows["recall", "visible", "sized", None]["bytes"]
    beside = rows["recall", "visible", "snapkv", report["budgets"][1]]["bytes"]
    assert beside == pytest.approx(sized, abs=0.02)
    shown = prune_report.as_text(report)
    for part in ("question visible", "question unseen", "mine", "perplexity", "float16"):
        assert part in shown


def test_a_second_start_goes_on_and_gives_the_same(plain, text, tmp_path, monkeypatch):
    out, calls = tmp_path / "r.json", []
    measure = cells.measure

    def counted(model, prompts, methods, **more):
        for row in measure(model, prompts, methods, **more):
            if len(calls) == 9:
                raise KeyboardInterrupt
            calls.append(row["method"])
            yield row

    def run(**more):
        return prune_report.run(("knorm",), model=plain, text=text, out=out, **SMALL | more)

    monkeypatch.setattr(cells, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        run()
    log = out.with_suffix(".jsonl")
    assert len(log.read_text().splitlines()) == 1 + 9
    with log.open("a") as file:
        file.write('{"key": ["recall", "vis')  # ended while it wrote
    calls[:] = [None] * 10
    again = run()
    assert len(calls) == 10 + 2 * 3 * 5 - 9  # seeds, tasks, methods
    calls[:] = [None] * 10
    assert run()["rows"] == again["rows"] and len(calls) == 10
    fresh = prune_report.run(("knorm",), model=plain, text=text, **SMALL)
    assert fresh["rows"] == again["rows"]
    calls[:] = [None] * 10
    more = run(seeds=3, budgets=(0.6, 0.5))  # more is added to what is there
    assert [r["budget"] for r in more["rows"][:8]] == [None, *[0.6] * 3, *[0.5] * 3, None]
    assert len(calls) == 10 + 3 * 3 * (2 + 2 * 3) - 2 * 3 * 5


def test_a_log_of_other_settings_is_refused(plain, text, tmp_path):
    out = tmp_path / "r.json"
    log = out.with_suffix(".jsonl")
    settings = {"model": "given", "tokens": 99}
    log.write_text(json.dumps({"settings": settings}) + "\n")
    with pytest.raises(ValueError, match=r"other settings: .*tokens was 99 and is 120"):
        prune_report.run(("knorm",), model=plain, text=text, out=out, **SMALL)
    for other in ("[1, 2]\n", "hello\n", '{"a": 1}\n'):
        log.write_text(other)
        with pytest.raises(ValueError, match="is not the log of a prune-report"):
            prune_report.run(("knorm",), model=plain, text=text, out=out, **SMALL)
        assert log.read_text() == other


def test_more_seeds_draw_other_prompts(plain):
    made = cells.Cells(plain, {"tokens": 120, "prompts": 2, "sink": 4, "recent": 32},
                       ("recall",), None)  # fmt: skip
    unseen = [made.prompts("recall", "unseen", seed).texts for seed in (0, 1, 0)]
    assert unseen[0] == unseen[2] != unseen[1]
    visible = made.prompts("recall", "visible", 0)
    for text, longer in zip(unseen[0], visible.texts, strict=True):
        assert longer[: len(text)] == text and len(longer) > len(text)


def test_the_pocket_models_command_from_end_to_end(tmp_path, capsys, text):
    out, picture = tmp_path / "r.json", tmp_path / "r.png"
    line = ["prune-report", "--policies", "snapkv,mustafar", "--budgets", "0.5", "--tokens", "200"]
    line += ["--prompts", "2", "--seeds", "1", "--text", str(text), "--out", str(out)]
    assert cli.main([*line, "--plot", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "snapkv" in shown and "The next 63 tokens" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli.main([*line, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    written = json.loads(out.read_text())
    assert report["rows"] == written["rows"] and report["settings"]["model"] == "pocket"
    assert len(out.with_suffix(".jsonl").read_text().splitlines()) == 1 + 3 * 6
    line[line.index("200")] = "190"
    assert cli.main(line) == 1
    assert "tokens was 200 and is 190" in capsys.readouterr().err


def test_any_checkpoint_is_asked_what_it_can_do_and_the_rest_is_named(plain, tmp_path, capsys):
    export(*plain, tmp_path / "model")
    line = ["prune-report", "--model", str(tmp_path / "model"), "--policies", "knorm"]
    line += ["--budgets", "0.6", "--tokens", "120", "--prompts", "1", "--seeds", "1"]
    assert cli.main(line) == 1
    said = capsys.readouterr().err
    assert "can do none of the tasks (recall: right in 0 of 1; codes: right in 0 of 1" in said
    assert len(said.splitlines()) == 1
    assert cli.main([*line, "--all-tasks", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["task"] for row in report["rows"]} == {"recall", "codes", "needle", "text"}
    assert report["settings"]["text"].startswith("own_text, ") and report["left_out"] == {}


def test_what_the_dense_model_cannot_do_is_left_out_and_named(plain, monkeypatch, tmp_path):
    monkeypatch.setattr(doable, "GUESSING", 2.0)  # a random model's loss counts as one that reads
    how = SMALL | {"questions": plain_tasks.MAKERS, "tasks": tuple(TASKS), "text": lambda t: TEXT}
    out = tmp_path / "r.json"
    report = prune_report.run((), model=plain, only_doable=True, out=out, **how)
    assert list(report["left_out"]) == ["recall", "codes", "needle"]
    assert report["left_out"]["codes"] == "right in 0 of 2"
    assert {row["task"] for row in report["rows"]} == {"text"}
    said = prune_report.as_text(report)
    assert "Left out: One fact. The model with all of its cache: right in 0 of 2." in said
    # what was tried is in the log, and a second start does not try it again
    monkeypatch.setattr(doable, "measured", None)
    again = prune_report.run((), model=plain, only_doable=True, out=out, **how)
    assert again["rows"] == report["rows"]
    assert prune_report.run((), model=plain, **how)["left_out"] == {}


@pytest.mark.parametrize("task", plain_tasks.MAKERS)
def test_a_checkpoints_own_chat_form_is_used(plain, task):
    _, bare = plain
    source = "<<{{ messages[0].content | trim }}>>{% if add_generation_prompt %}[{% endif %}"
    tokenizer = Wrapped(bare.inner, ChatTemplate(source, {}, Path("here")))
    formed, without = (
        plain_tasks.MAKERS[task](t, random.Random(1), 3, 120) for t in (tokenizer, bare)
    )
    for q in formed:
        assert q.text.startswith("<<Notes:") and q.question.endswith("?>>[")
        assert not q.stem.startswith(" ") and q.opens
        assert tokenizer.template(q.text[2:] + q.question[:-3]) == q.text + q.question
    for q in without:
        assert q.text.startswith("Notes:") and q.question.endswith("\nAnswer:") and not q.opens
    for made, first in ((formed, []), (without, [7])):
        prompts = asked(bare, made, True, [7])
        for text, rest, n in zip(prompts.texts, prompts.rests, prompts.scored, strict=True):
            assert (text[:1] == [7]) == bool(first) and len(text) + len(rest) <= 121 + len(first)
            said = bare.decode(rest[-n:]).replace(" ", "").strip("Ġ")
            assert said in {q.value.strip() for q in made}
    strange = Wrapped(bare.inner, ChatTemplate("{{ messages | length }}", {}, Path("here")))
    assert plain_tasks.MAKERS[task](strange, random.Random(1), 3, 120) == without


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (["--policies", "frob"], "no method frob"),
        (["--budgets", "half"], "'half'"),
        (["--budgets", "2"], "budget of 2.0"),
        (["--budgets", ","], "No budgets"),
        (["--budgets", "0.05"], "5% of the bytes of 400 tokens"),
        (["--prompts", "0"], "0 prompts"),
        (["--seeds", "-1"], "-1 seeds"),
        (["--tokens", "0"], "0 tokens"),
        (["--tokens", "90000"], "positions"),
        (["--text", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--out", "nowhere/r.json"], "its folder is not there"),
        (["--out", "r.jsonl"], "ends in .jsonl"),
        (["--plot", "r.frob"], "r.frob"),
        (["--model", "nowhere"], "'nowhere'"),
    ],
)
def test_bad_input_is_one_sentence_and_comes_first(line, named, capsys, monkeypatch):
    for module in (cells, measuring):
        monkeypatch.setattr(module, "read", None)
    assert cli.main(["prune-report", "--text", __file__, *line]) == 1
    seen = capsys.readouterr()
    assert named in seen.err and seen.out == "" and len(seen.err.splitlines()) == 1


def test_own_policies_are_checked_first(plain):
    with pytest.raises(ValueError, match="'snapkv' already"):
        prune_report.run((), own={"snapkv": policies.knorm}, model=plain)
    with pytest.raises(ValueError, match="came as a policy"):
        prune_report.run((), own={"mine": 3}, model=plain)
    with pytest.raises(ValueError, match="Tasks"):
        prune_report.run((), model=plain, tasks=("frob",))
    with pytest.raises(ValueError, match="no text was given"):
        prune_report.run((), model=plain, tasks=("text",))


def test_who_calls_says_what_is_asked(plain, pocket_tokenizer):
    asked = []

    def questions(tokenizer, rng, n_prompts, n_tokens):
        asked.append((n_prompts, n_tokens))
        return quality.plain_questions(tokenizer, rng, n_prompts, n_tokens)

    how = SMALL | {"seeds": 1, "tasks": ("recall",)}
    report = prune_report.run((), model=plain, questions=questions, **how)
    assert len(asked) >= 3 and set(asked) == {(2, 120)}  # once before anything is read
    assert report["settings"]["questions"] == "questions"
    rng = random.Random(0)
    for tokenizer, word in ((plain[1], "Notes:"), (pocket_tokenizer, "")):
        made = asking.questions(tokenizer, rng, 2, 200)
        assert all(one.text.startswith(word) and one.value in one.text for one in made)
        assert ("password" in made[0].question) and bool(word) == ("Notes" in made[0].text)
    assert asking.own_text(plain[1]) == plain_tasks.own_text(plain[1])
    assert asking.codes(pocket_tokenizer, rng, 2, 200) is None
    assert len(asking.MAKERS["needle"](plain[1], rng, 2, 200)) == 2


def test_a_function_may_know_the_text(plain, text):
    how = SMALL | {"seeds": 1, "tasks": ("text",)}
    from_file = prune_report.run((), model=plain, text=text, **how)
    given = prune_report.run((), model=plain, text=lambda tokenizer: TEXT, **how)
    assert given["rows"] == from_file["rows"]
    assert given["settings"]["text"].startswith("<lambda>, ")
    with pytest.raises(ValueError, match="no text was given"):
        prune_report.run((), model=plain, text=lambda tokenizer: None, **how)


def test_the_report_by_its_old_name_asks_as_it_did(monkeypatch):
    monkeypatch.setattr(prune_report, "run", lambda *names, **how: (names, how))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        old = import_module("kvlab.prune_report")
    names, how = old.run(("knorm",), seeds=1)
    assert names == (("knorm",),) and how["seeds"] == 1
    assert (how["questions"], how["text"]) == (asking.questions, asking.own_text)
    assert old.run(text="mine.txt")[1]["text"] == "mine.txt"
    with pytest.warns(FutureWarning, match="kvlab.view.pareto.plot"):
        assert prune_report.plot is pareto.plot


def test_a_text_opens_as_the_tokenizer_opens_it(plain, text, pocket_tokenizer):
    model = tiny_model(vocab_size=600, n_layers=2, max_positions=512, bos_id=7)
    settings = {"tokens": 120, "prompts": 2, "sink": 4, "recent": 32}
    made = cells.Cells((model, plain[1]), settings, ("text",), text)
    assert made.first == []  # the config names one, and the tokenizer adds none
    assert pocket_tokenizer.encode("a")[:1] == cells._opening(pocket_tokenizer) == [0]


def test_a_model_that_cannot_answer_is_told_apart_from_pruning(plain, text):
    report = prune_report.run((), model=plain, text=text, **SMALL)
    said = prune_report.as_text(report)
    assert said.count("The dense model itself is right in 0 of 4 only") == 2
    for row in report["rows"]:
        if "recall" in row:
            row["recall"]["right"] = 3
    assert "The dense model itself" not in prune_report.as_text(report)


def test_what_takes_long_says_so_first(plain, text, capsys, monkeypatch):
    prune_report.run((), model=plain, text=text, **SMALL)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(forecast, "WORTH_SAYING", 0)
    prune_report.run((), model=plain, text=text, **SMALL)
    assert capsys.readouterr().err.startswith("This takes up to 1 minute, from a look")
