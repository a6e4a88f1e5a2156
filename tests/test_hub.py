"""Checkpoints of the hub: what is asked of it, and what it says when it does not give them."""

import fnmatch
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvlab.checkpoint import load
from tests.test_families import peer, saved


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one repository. Its `asked` is what was asked of it; `error` is what it raises."""
    import huggingface_hub

    def fetch(name, *, allow_patterns, **_):
        state.asked.append((name, allow_patterns))
        if state.error is not None:
            raise state.error
        return str(state.folder)

    state = SimpleNamespace(asked=[], error=None, folder=tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return state


def test_a_hub_id_is_fetched_and_a_folder_wins_over_it(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(peer("qwen3"), hub.folder)
    assert load("owner/name")[0].config.family == "qwen3"
    assert [name for name, _ in hub.asked] == ["owner/name"] * 2
    (tmp_path / "owner").mkdir()
    hub.folder.rename(tmp_path / "owner" / "name")
    assert load("owner/name")[0].config.family == "qwen3"
    assert len(hub.asked) == 2


def test_only_what_is_read_is_fetched(hub):
    saved(peer("llama"), hub.folder, max_shard_size="40KB")
    load("owner/name")
    patterns = hub.asked[-1][1]
    for path in hub.folder.iterdir():
        assert any(fnmatch.fnmatch(path.name, p) for p in patterns), path.name
    for other in ("consolidated.safetensors", "pytorch_model.bin", "onnx/model.safetensors"):
        assert not any(fnmatch.fnmatch(other, pattern) for pattern in patterns)


def test_weights_of_a_model_that_is_refused_are_not_fetched(hub):
    hub.folder.mkdir()
    (hub.folder / "config.json").write_text('{"model_type": "mixtral"}')
    with pytest.raises(ValueError, match="'mixtral'"):
        load("owner/name")
    assert hub.asked == [("owner/name", ["config.json"])]


@pytest.mark.parametrize("name", ["./owner/name", "a/b/c", "~/name", "/owner/name", "owner\\name"])
def test_a_path_is_never_asked_of_the_hub(hub, name):
    for given in (name, Path(name), Path("owner/name")):
        with pytest.raises(ValueError, match="that is not a folder"):
            load(given)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("GatedRepoError", "is gated: accept its terms"),
        ("RepositoryNotFoundError", "does not exist or is private"),
        ("LocalEntryNotFoundError", r"could not be fetched from the hub \(no line\)"),
        ("OfflineModeIsEnabled", r"could not be fetched from the hub \(no line\)"),
    ],
)
def test_why_the_hub_does_not_answer_is_said_plainly(hub, kind, said):
    from huggingface_hub import errors

    # the library's own want a response of the hub
    bare = {"__init__": lambda _: None, "__str__": lambda _: "no line\nand more"}
    hub.error = type(kind, (getattr(errors, kind),), bare)()
    with pytest.raises(ValueError, match=f"{said}.*pass the folder"):
        load("owner/name")


def test_without_the_hubs_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="needs huggingface_hub: pip install"):
        load("owner/name")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_hub_that_cannot_be_reached_is_said_at_once(tmp_path, offline):
    """The one real call: nothing listens at this address."""
    code = "import kvlab; kvlab.load('owner/name')"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30,
        env={
            **os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": offline,
            "HF_HOME": str(tmp_path),
        },
    )  # fmt: skip
    assert out.returncode
    assert "could not be fetched from the hub" in out.stderr.splitlines()[-1]
