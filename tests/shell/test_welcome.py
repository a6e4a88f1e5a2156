"""The notebook at which the book opens."""

import json
import re
import shutil

import pytest

from docs import courses
from kvlab.course.grading import notebooks
from kvlab.course.standing import standing
from kvlab.shell import lab, welcome
from kvlab.shell.cli import ROOT


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("KVLAB_DATA", str(tmp_path / "data"))


@pytest.fixture
def root(tmp_path):
    """A project of two chapters."""
    (tmp_path / "chapters").mkdir()
    for name in ("01_queries_keys_values.ipynb", "02_causal_attention.ipynb"):
        shutil.copy(ROOT / "chapters" / name, tmp_path / "chapters")
    (tmp_path / "pyproject.toml").write_text('name = "kvlab"\n')
    return tmp_path


def cell_of(made):
    (cell,) = (c for c in made["cells"] if c["cell_type"] == "code")
    return cell


def shown(cell):
    """What a cell shows, by kind."""
    return {kind: "".join(text) for kind, text in cell["outputs"][0]["data"].items()}


def words(made):
    return "\n".join(map(notebooks.source, made["cells"]))


def test_it_maps_the_chapters_as_the_readme_does():
    text = words(welcome.notebook(ROOT))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (\[\d+\. .+\]\(.+\)) \| (.+) \| (\d+), about (\d+) minutes \|$", readme, re.M
    )
    assert len(rows) == 13
    for chapter, question, n, minutes in rows:
        assert (
            f"\n| {chapter}<br>{question} | [{n},&nbsp;{minutes}&nbsp;minutes](exercises/" in text
        )
    assert [text.index(part) for part in welcome.PARTS.values()] == sorted(
        text.index(part) for part in welcome.PARTS.values()
    )


def test_its_links_lead_somewhere_and_what_it_says_is_so():
    text = words(welcome.notebook(ROOT))
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 26 and [link for link in links if not (ROOT / link).is_file()] == []
    weeks = courses.COURSES["Four weeks: what a cache is, what it costs, and what may go"]
    left = set(range(1, 14)) - {n for week in weeks for n in week.chapters}
    assert left == {3, 4, 9, 12} and "leaves out 3, 4, 9 and 12" in text
    assert "Thirteen chapters" in text and len(welcome.openings(ROOT / "chapters")) == 13


def test_its_cell_shows_again_what_is_stored_and_is_tidy():
    for read in ([], [1, 2]):
        standing(read=read)
        made = welcome.notebook(ROOT)
        assert f"standing(read={read})" in notebooks.source(cell_of(made))
        assert notebooks.normalise(made)["cells"][1]["outputs"] == cell_of(made)["outputs"]
        names = {}
        *first, last = notebooks.source(cell_of(made)).splitlines()
        exec("\n".join(first), names)
        for _ in range(2):
            again = eval(last, names)
            told = {"text/html": again._repr_html_(), "text/plain": repr(again)}
            assert shown(cell_of(made)) == told


def test_it_is_made_anew_where_something_was_done_and_only_there(root):
    path = root / lab.WELCOME
    welcome.write(path)
    before = path.stat()
    welcome.write(path)
    assert path.stat().st_ino == before.st_ino
    standing(read=[2])
    welcome.write(path)
    assert "read 1 of 13" in shown(cell_of(notebooks.read(path)))["text/plain"]


def test_cells_that_the_reader_adds_stay(root):
    path = root / lab.WELCOME
    welcome.write(path)
    found = notebooks.read(path)
    note = {"cell_type": "markdown", "id": "3f2a", "metadata": {}, "source": ["mine"]}
    found["cells"].insert(1, note)
    found["cells"][0]["source"] = "an older welcome"
    notebooks.write(path, found)
    for _ in range(2):
        welcome.write(root / lab.WELCOME)
        made = notebooks.read(path)
        assert made["cells"][-1] == note and len(made["cells"]) == 5
        assert "an older welcome" not in words(made)


def test_the_book_opens_at_it(root, monkeypatch):
    seen = []
    monkeypatch.setattr(lab, "become", lambda command, env: seen.append(command) or 0)
    assert lab.run_lab(root=root) == 0
    assert f"--LabApp.default_url=/lab/tree/{lab.WELCOME}" in seen[0]
    assert (root / lab.WELCOME).is_file()


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": 3}'])
def test_what_is_no_notebook_in_its_place_is_left_alone_and_the_book_opens(
    root, text, monkeypatch, capsys
):
    (root / lab.WELCOME).write_text(text)
    monkeypatch.setattr(lab, "become", lambda command, env: 0)
    assert lab.run_lab(root=root) == 0
    assert (root / lab.WELCOME).read_text() == text
    assert "could not be made: " in capsys.readouterr().err


def test_where_it_cannot_be_written_the_book_opens_at_its_first_chapter(root, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(lab, "become", lambda command, env: seen.append(command) or 0)
    monkeypatch.setattr(notebooks, "write", lambda *a: (_ for _ in ()).throw(OSError("read-only")))
    assert lab.run_lab(root=root) == 0
    assert f"--LabApp.default_url=/lab/tree/chapters/{lab.FIRST}" in seen[0]
    assert "could not be made: read-only" in capsys.readouterr().err


def test_a_chapter_that_does_not_begin_as_one_is_named(root):
    lost = {"cells": [{"cell_type": "markdown", "metadata": {}, "source": "# Lost"}]}
    (root / "chapters" / "03_lost.ipynb").write_text(json.dumps(lost))
    with pytest.raises(ValueError, match=r"03_lost\.ipynb does not begin with a chapter's number"):
        welcome.write(root / lab.WELCOME)
