"""`kvlab serve` with sizes that no text fits, or no memory."""

import pytest

from kvlab.shell import cli

pytest.importorskip("uvicorn", reason="needs what serving takes: pip install '.[serve]'")
pytest.importorskip("fastapi", reason="needs what serving takes: pip install '.[serve]'")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (
            "--blocks 1 --block-size 1",
            "hold one token; the shortest prompt and its answer take two",
        ),
        ("--blocks 1 --block-size 1", "Give --blocks 2 or more"),
        ("--block-size 2049", "reads at most 2048 positions, so that the rest of a block would"),
        ("--block-size 1000000000000", "Give --block-size 2048 or less; 16 is the default."),
        ("--blocks 1000000000", "1000000000 blocks of 16 tokens take 32,768.0 GB for keys and"),
        ("--blocks 0", "--blocks is 0; expected a whole number of at least 1."),
        ("--block-size 0", "--block-size is 0; expected a whole number of at least 1."),
        ("--budget 0", "--budget is 0; expected a whole number of at least 1."),
        ("--max-running 0", "--max-running is 0; expected a whole number of at least 1."),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_what_to_give_instead(sizes, said, capsys):
    assert cli.main(["serve", "--port", "0", *sizes.split()]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and len(line) < 250


@pytest.mark.parametrize(("sizes", "short"), [("--blocks 2 --block-size 1", True), ("", False)])
def test_the_least_that_serves_says_how_short_its_texts_are(sizes, short, monkeypatch, capsys):
    from kvlab.serve import running

    monkeypatch.setattr(running.Server, "run", lambda self, sockets: None)
    assert cli.main(["serve", "--port", "0", *sizes.split()]) == 0
    said = capsys.readouterr().err
    assert ("for keys and values, of 2 tokens at most; " in said) == short
