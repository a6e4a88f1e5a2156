"""Chapter 13 says the same with SmolLM2 and without it: then it shows what was recorded."""

import contextlib
import io
import json
from pathlib import Path

import matplotlib
import pytest
import torch

from benchmarks import chapter13
from kvlab import hub

ROOT = Path(__file__).parents[2]
PAGE = json.loads((ROOT / "chapters" / chapter13.CHAPTER).read_text("utf-8"))
TIMED = "nbval-ignore-output"


@pytest.fixture
def unfetched(tmp_path, monkeypatch):
    """A machine without the model, and without a screen."""
    matplotlib.use("agg")
    monkeypatch.setitem(hub.NAMED, "smollm2", tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_without_the_model_the_chapter_shows_what_was_recorded(unfetched):
    """The pocket model answers as ever; of SmolLM2 nothing is computed and all is shown."""
    names, asked = {}, 0
    for cell in (c for c in PAGE["cells"] if c["cell_type"] == "code"):
        source, said = "".join(cell["source"]), io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(source, names)
        texts = ["".join(o["text"]) for o in cell["outputs"] if o["output_type"] == "stream"]
        if TIMED not in cell["metadata"].get("tags", ()):
            assert said.getvalue() == "".join(texts), source[:60]
        asked += "= on_smollm2(" in source or "in on_smollm2(" in source
    assert not names["installed"] and names["real"] is None
    found = json.loads((ROOT / "benchmarks/results/chapter13.json").read_text("utf-8"))["found"]
    assert names["live"] == found
    assert len(found) == asked > 8


def test_without_the_model_nothing_is_recorded(unfetched, capsys):
    with pytest.raises(SystemExit, match="2"):
        chapter13.main([])
    assert "python3 -m kvlab fetch smollm2" in capsys.readouterr().err
