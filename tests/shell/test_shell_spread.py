"""`kvlab generate` with a model that several processes hold."""

import json
import os
import subprocess
import sys

import pytest

from kvlab.shell import cli
from kvlab.shell.cli import ROOT

LINE = ["generate", "What is the capital of France?", "--json"]


@pytest.fixture(scope="module")
def alone():
    """What one process answers."""
    code = "import sys; from kvlab.shell import cli; sys.exit(cli.main(sys.argv[1:]))"
    out = subprocess.run([sys.executable, "-c", code, *LINE], capture_output=True, check=True)
    return json.loads(out.stdout)


def test_processes_that_the_command_starts_answer_once(capfd, alone):
    assert cli.main([*LINE, "--stats", "--tp", "3"]) == 0
    found = json.loads(capfd.readouterr().out)
    stats = found.pop("stats")
    assert found == alone and "Paris" in found["text"]
    n_read, n_new = len(found["prompt_tokens"]), len(found["new_tokens"])
    # embedding, two sums in each of four layers, logits, the token told
    assert stats["processes"] == 3 and stats["messages"] == n_new * (1 + 2 * 4 + 1 + 1)
    sums, logits = 9 * 192 * 4 * (n_read + n_new - 1), n_new * 683 * 4
    assert stats["message_bytes"] == sums + logits + 8 * n_new
    assert stats["step"] == "plain"


def test_processes_that_torchrun_starts_answer_once(tmp_path, alone):
    script = tmp_path / "start.py"
    script.write_text("from kvlab.shell import cli\nraise SystemExit(cli.main())\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [*torchrun, str(script), *LINE, "--pp", "2", "--sparsity", "0.25"],
        capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout)
    assert all(found[name] == alone[name] for name in alone)
    # a window of 32 tokens is dense; two of the four layers are here
    n_seen = len(found["prompt_tokens"]) + len(found["new_tokens"]) - 1
    assert found["cache_bytes"] == found["dense_bytes"] == n_seen * 2 * 2 * 2 * 32 * 4


@pytest.mark.parametrize(
    "more, there, said",
    [
        (["--tp", "0"], None, "--tp is 0; expected a whole number of at least 1."),
        (["--pp", "2", "--policy", "snapkv"], None, "A policy prunes a whole model"),
        (["--tp", "2"], "4", "torchrun started 4 processes; --tp 2 and --pp 1 need 2."),
        (["--tp", "2", "--device", "mps"], None, "mps"),
        (["--tp", "7"], None, "tp = 7 parts, and it has 6 query heads; expected at most tp = 6."),
        (["--pp", "1000000"], None, "and it has 4 layers; expected at most pp = 4."),
        (["--tp", "2", "--model", "nowhere"], None, "Model 'nowhere' was asked for: that is not"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(more, there, said, monkeypatch, capsys):
    if there:
        monkeypatch.setenv("WORLD_SIZE", there)
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    monkeypatch.setattr("torch.multiprocessing.start_processes", None)
    assert cli.main([*LINE, *more]) == 1
    assert said in capsys.readouterr().err


def test_what_a_process_refuses_is_said_once(capfd):
    assert cli.main([*LINE, "--tp", "2", "--sparsity", "2"]) == 1
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line == "kvlab generate: Sparsity 2.0 was asked for; expected a number in [0, 1)."
