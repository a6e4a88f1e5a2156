"""Chapter 13 says the same with SmolLM2 and without it: then it shows what was recorded."""

import contextlib
import io
import json
from pathlib import Path

import matplotlib
import pytest

from benchmarks import chapter13
from kvlab import hub

ROOT = Path(__file__).parents[2]
CELLS = [
    cell
    for cell in json.loads(chapter13.CHAPTER.read_text("utf-8"))["cells"]
    if cell["cell_type"] == "code"
]


def test_without_the_model_the_chapter_shows_what_was_recorded(tmp_path, monkeypatch):
    """The pocket model answers as ever; nothing of SmolLM2 is computed, and all of it is shown."""
    matplotlib.use("agg")
    monkeypatch.setitem(hub.NAMED, "smollm2", tmp_path)
    names, shown = {}, 0
    for cell in CELLS:
        said = io.StringIO()
        if chapter13.TIMED in cell["metadata"].get("tags", ()):
            continue
        with contextlib.redirect_stdout(said):
            exec("".join(cell["source"]), names)
        texts = ["".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream"]
        assert said.getvalue() == "".join(texts), "".join(cell["source"])[:60]
        shown += "on_smollm2(" in "".join(cell["source"])
    assert not names["installed"] and names["real"] is None
    assert (
        names["live"]
        == json.loads((ROOT / "benchmarks/results/chapter13.json").read_text("utf-8"))["found"]
    )
    assert shown > 8


def test_without_the_model_nothing_is_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(hub.NAMED, "smollm2", tmp_path)
    with pytest.raises(SystemExit, match="2"):
        chapter13.main([])
    assert "python3 -m kvlab fetch smollm2" in capsys.readouterr().err
