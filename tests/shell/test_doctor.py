import json

from kvlab.shell import cli, doctor


def test_the_doctor_says_what_is_here(capsys):
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for part in (
        "python",
        "torch",
        "threads, waiting ",
        "device",
        "chromium",
        "grading",
        "missing     nothing",
    ):
        assert part in text


def test_the_doctor_speaks_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"]["devices"][0] == "cpu" and found["missing"] == []


def test_what_is_missing_is_named_and_fails(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "jupyterlab" else "1.0")
    assert cli.main(["doctor"]) == 1
    assert "jupyterlab (for the book)" in capsys.readouterr().out
