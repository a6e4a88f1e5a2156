import io
import json

import pytest
from safetensors import safe_open

from kvlab import Transformer
from kvlab.course.grading import notebooks
from kvlab.fast import choosing
from kvlab.shell import cli


def test_no_command_prints_help(capsys):
    assert cli.main([]) == 0
    assert "JupyterLab" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line", [["dmeo"], ["demo", "--frob"], ["doctor", "x"], ["grade"], ["--x"]]
)
def test_a_wrong_line_is_refused_with_usage(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line)
    assert stopped.value.code == 2 and "usage:" in capsys.readouterr().err


def test_generate_answers_the_question_and_ends(capsys):
    assert cli.main(["generate", "What is the capital of France?"]) == 0
    assert capsys.readouterr().out.strip() == "The capital of France is Paris."


def test_generate_as_json_and_by_draw(capsys):
    line = ["generate", "Today's weather is so", "--raw", "--json", "-n", "9", "--temperature", "1"]
    outs = []
    for seed in ("1", "1", "2"):
        assert cli.main([*line, "--seed", seed]) == 0
        outs.append(json.loads(capsys.readouterr().out))
    assert outs[0] == outs[1] != outs[2]
    assert 1 <= len(outs[0]["new_tokens"]) <= 9 and outs[0]["text"]


def test_generate_tells_its_times_and_bytes(capsys):
    line = ["generate", "What is the capital of France?", "--stats"]
    assert cli.main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stats = found["stats"]
    n_fed = len(found["prompt_tokens"]) + len(found["new_tokens"]) - 1
    assert stats["prompt_tokens"] == len(found["prompt_tokens"])
    assert stats["new_tokens"] == len(found["new_tokens"]) > 2
    assert stats["first_token_seconds"] > 0 and stats["tokens_per_second"] > 0
    per_token = stats["cache_bytes"] / n_fed
    assert stats["cache_bytes_allocated"] == per_token * (len(found["prompt_tokens"]) + 63)
    assert "cache_bytes" not in found
    assert cli.main([*line, "-n", "1"]) == 0
    said = capsys.readouterr().err
    assert "1 new ones: the first after" in said and "no more came" in said
    assert "\nthe plain step: for up to 1 new tokens the compiled step saves about 0.0 s" in said


@pytest.mark.parametrize("how", [[], ["--policy", "snapkv"], ["--sparsity", "0.5"]])
def test_the_compiled_step_gives_the_same_tokens_where_it_pays(how, capsys, monkeypatch):
    prompt = "The password of Anna is tiger. " * 12 + "What is the password of Anna?"
    line, found = ["generate", prompt, "-n", "24", "--json", "--stats", *how], {}
    for loading in (10**9, 0):
        monkeypatch.setattr(choosing, "LOADING", loading)
        assert cli.main(line) == 0
        found[loading] = json.loads(capsys.readouterr().out)
    plain, compiled = found.values()
    assert plain["new_tokens"] == compiled["new_tokens"]
    assert (plain["stats"]["step"], compiled["stats"]["step"]) == ("plain", "compiled")
    assert compiled["stats"]["step_ready_seconds"] > 0 == plain["stats"]["step_ready_seconds"]
    assert cli.main([part for part in line if part != "--json"]) == 0
    assert "\nthe compiled step, ready after " in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", [["generate", "Hi"], ["generate", "Hi", "--policy", "snapkv"], ["demo", "Hi"]]
)
def test_more_tokens_than_positions_are_refused_before_memory_is_taken(line, capsys, monkeypatch):
    monkeypatch.setattr(Transformer, "new_cache", None)
    assert cli.main([*line, "-n", "9999999"]) == 1
    assert "9999999 new ones were asked for, but the model reads" in capsys.readouterr().err


def test_generate_thins_and_packs_and_says_what_is_left(capsys):
    prompt = "The password of Anna is tiger. " * 12 + "What is the password of Anna?"
    line, bytes_ = ["generate", prompt, "-n", "12", "--json"], []
    for how in (["--sparsity", "0"], ["--sparsity", "0.7"], ["--policy", "snapkv"],
                ["--policy", "snapkv", "--budget", "0.4", "--sparsity", "0.5"]):  # fmt: skip
        assert cli.main([*line, *how]) == 0
        out = json.loads(capsys.readouterr().out)
        bytes_.append(out["cache_bytes"] / out["dense_bytes"])
        if how == ["--sparsity", "0"]:
            whole = out["text"]
    assert bytes_[0] > 1 > bytes_[1] and bytes_[3] < bytes_[2] < 0.6
    assert cli.main([*line]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == whole
    assert cli.main(["generate", prompt, "-n", "2", "--sparsity", "0.5"]) == 0
    assert "bytes" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["\U0001f642?", "مرحبا", "a\x00b"])
def test_generate_takes_text_the_model_has_never_seen(text, capsys):
    assert cli.main(["generate", text, "-n", "5"]) == 0


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ([""], "prompt is empty"),
        (["  \n"], "prompt is empty"),
        (["x", "--temperature", "-1"], "temperature is -1.0"),
        (["x", "--top-p", "0"], "top_p is 0.0"),
        (["x", "--top-p", "2"], "top_p is 2.0"),
        (["x", "--top-k", "0"], "top_k is 0"),
        (["x", "-n", "0"], "number of new tokens is 0"),
        (["x", "-n", "5000"], "at most 2048 positions"),
        (["word " * 4000], "at most 2048 positions"),
        (["x", "--model", "nowhere"], "'nowhere'"),
        (["x", "--policy", "nobody"], "no policy 'nobody'"),
        (["x", "--policy", "snapkv", "--budget", "20"], "fewer than 4 sinks"),
        (["x", "--policy", "snapkv", "--budget", "1.5"], "budget is 1.5"),
        (["x", "--budget", "0.5"], "without a policy"),
        (["x", "--sparsity", "1"], "Sparsity 1.0"),
        (["x", "--raw", "--system", "y"], "--raw leaves it away"),
        (["x", "--device", "cuda:42"], "cuda:42"),
        (["x", "--dtype", "int4"], "int4"),
    ],
)
def test_bad_input_is_one_sentence_on_stderr(line, named, capsys):
    assert cli.main(["generate", *line]) == 1
    seen = capsys.readouterr()
    assert named in seen.err and seen.out == "" and len(seen.err.splitlines()) == 1


def test_hint_prints_a_hint(capsys):
    assert cli.main(["hint", "6.4", "3"]) == 0
    assert "Hint 3 of 3 for 6.4" in capsys.readouterr().out
    assert cli.main(["hint", "6.9"]) == 1


def test_normalise_tidies_and_checks(tmp_path, capsys):
    path = tmp_path / "x.ipynb"
    cell = {
        "cell_type": "code",
        "id": "abc",
        "metadata": {"execution": {"iopub": "now"}, "tags": ["t"]},
        "source": "1",
        "execution_count": 41,
        "outputs": [],
    }
    notebooks.write(path, {"cells": [cell], "metadata": {"kernelspec": {"name": "mine"}}})
    assert cli.main(["normalise", "--check", str(path)]) == 1
    assert cli.main(["normalise", str(path)]) == 0
    assert cli.main(["normalise", "--check", str(path)]) == 0
    tidy = notebooks.read(path)["cells"][0]
    assert tidy["execution_count"] == 1 and tidy["metadata"] == {"tags": ["t"]}
    assert tidy["id"] == "cell-01"


@pytest.mark.parametrize(("line", "stored"), [([], "F16"), (["--dtype", "bfloat16"], "BF16")])
def test_export_writes_a_folder_that_loads(tmp_path, capsys, line, stored):
    assert cli.main(["export", str(tmp_path / "out"), *line]) == 0
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.get_slice("model.norm.weight").get_dtype() == stored
    assert "written" in capsys.readouterr().out
    assert cli.main(["generate", "Hello", "-n", "2", "--model", str(tmp_path / "out")]) == 0
    assert cli.main(["export", str(tmp_path / "out")]) == 1
    assert "something already" in capsys.readouterr().err


def evaluated(monkeypatch, tmp_path, passed):
    """Replace the minutes of measuring; the files are read and written as always."""
    from kvlab.pocket import exam

    found = {"passed": passed, "scores": {"facts": 1}}
    monkeypatch.setattr(exam, "evaluate", lambda folder, n: found | {"folder": folder, "n": n})
    monkeypatch.setattr(exam, "as_json", lambda result: json.dumps(result, default=str))
    monkeypatch.setattr(exam, "as_text", lambda result: f"a table of {result['n']}")


def test_eval_says_by_its_status_whether_every_bar_is_passed(monkeypatch, tmp_path, capsys):
    for passed, status in ((True, 0), (False, 1)):
        evaluated(monkeypatch, tmp_path, passed)
        out = tmp_path / "out.json"
        assert cli.main(["eval", "pocket", "--out", str(out), "--prompts", "3"]) == status
        assert capsys.readouterr().out == "a table of 3\n"
        result = json.loads(out.read_text())
        assert result["passed"] is passed
        assert result["command"] == "kvlab eval pocket --prompts 3"
        assert "training" not in result
        assert cli.main(["eval", "--json"]) == status
        assert json.loads(capsys.readouterr().out)["n"] == 200


def test_eval_finds_the_log_beside_the_folder(monkeypatch, tmp_path, capsys):
    evaluated(monkeypatch, tmp_path, True)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    log = {"step": 9, "tokens": 5, "seconds": {"learning": 60}, "stage": "a", "facts": 0.9}
    (tmp_path / "log.jsonl").write_text(json.dumps({"seed": 4}) + "\n" + json.dumps(log))
    assert cli.main(["eval", str(folder), "--json"]) == 0
    training = json.loads(capsys.readouterr().out)["training"]
    assert (training["seed"], training["steps"], training["emerged"]) == (4, 9, {"facts": 9})


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (["--prompts", "0"], "0 prompts were asked for"),
        (["nowhere"], "'nowhere' was to be evaluated"),
        (["--out", "no/such/folder/x.json"], "expected a file in a folder that is there"),
        (["--out", "."], "expected a file in a folder that is there"),
        (["--log", "nowhere.jsonl"], "nowhere.jsonl is no log of a training run"),
    ],
)
def test_eval_refuses_in_one_sentence(line, named, capsys):
    assert cli.main(["eval", *line]) == 1
    seen = capsys.readouterr()
    assert named in seen.err and seen.out == "" and len(seen.err.splitlines()) == 1


@pytest.mark.parametrize("held", [b"The cat\n", b"\xef\xbb\xbfThe cat\r\n"])
def test_a_dash_reads_the_prompt_from_standard_input(held, capsys, monkeypatch):
    assert cli.main(["generate", "The cat", "-n", "4"]) == 0
    want = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(held)))
    assert cli.main(["generate", "-", "-n", "4"]) == 0
    assert capsys.readouterr().out == want
    for broken, named in ((b"\xff\xfe", "not text in UTF-8"), (b"", "prompt is empty")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(broken)))
        assert cli.main(["generate", "-"]) == 1
        assert named in capsys.readouterr().err


def test_a_budget_may_be_a_number_of_tokens(capsys):
    line = ["generate", "word " * 60, "-n", "2", "--policy", "knorm"]
    assert cli.main([*line, "--budget", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    n_seen = len(found["prompt_tokens"]) + 1  # 40 stayed of the prompt, and one came after it
    assert found["cache_bytes"] * n_seen == found["dense_bytes"] * 41
    assert cli.main(["generate", "short", "-n", "2", "--policy", "snapkv"]) == 0


def asked(capsys, *line):
    assert cli.main(["generate", *line, "--json", "-n", "2"]) == 0
    return json.loads(capsys.readouterr().out)["prompt_tokens"]


def test_a_prompt_is_put_into_the_models_own_form(tmp_path, capsys):
    from kvlab import export, load
    from kvlab.chat import ChatTemplate

    model, tokenizer = load("pocket")
    assert asked(capsys, "Hi") == tokenizer.encode("User: Hi\nAssistant:")
    said = asked(capsys, "Hi", "--system", "Be brief.")
    assert said == tokenizer.encode("System: Be brief.\nUser: Hi\nAssistant:")
    assert asked(capsys, "Hi", "--raw") == tokenizer.encode("Hi")
    own = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    tokenizer.template = ChatTemplate(own, {}, tmp_path)
    folder = str(export(model, tokenizer, tmp_path / "own"))
    want = tokenizer.encode("[system] S[user] Hi", special=False)
    assert asked(capsys, "Hi", "--system", "S", "--model", folder) == want
    tokenizer.template = None
    folder = str(export(model, tokenizer, tmp_path / "base"))
    assert asked(capsys, "Hi", "--model", folder) == tokenizer.encode("Hi")
    assert cli.main(["generate", "Hi", "--system", "S", "--model", folder]) == 1
    assert "has no chat template" in capsys.readouterr().err


def test_an_answer_without_text_says_so(capsys):
    line = ["generate", "User: Who are you?\nAssistant: I am a small model.", "--raw", "-n", "3"]
    for given, said in ((line, "<eos>"), (["generate", "Hi", "-n", "1"], None)):
        assert cli.main(given) == 0
        seen = capsys.readouterr()
        empty = not seen.out.strip()
        assert ("the answer has no text; the model said" in seen.err) == empty
        assert not said or said in seen.err


CELL = {"cell_type": "code", "metadata": {}, "source": "1", "outputs": []}


@pytest.mark.parametrize(
    "cell",
    [{"metadata": 7}, {"cell_type": None, "metadata": "x"}, {"outputs": 5}, {"outputs": [{}]},
     {"outputs": [{"output_type": "stream", "name": "a", "text": [1.5]}]}],
)  # fmt: skip
def test_a_notebook_that_is_not_as_the_format_has_it_is_named(cell, tmp_path, capsys):
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({"cells": [{**CELL, **cell}]}))
    assert cli.main(["normalise", str(path)]) == 1
    said = capsys.readouterr().err
    assert "x.ipynb: The notebook's cells" in said and len(said.splitlines()) == 1
