"""Documents that must stay true."""

import doctest
import json
import re
import runpy
import shutil
import sys

import pytest
import torch

from benchmarks.filling import filled
from benchmarks.negative import TABLES as NEGATIVE
from benchmarks.tables import TABLES
from docs import courses
from kvlab.course.exercises import ALL
from kvlab.shell.cli import ROOT

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("chromium-browser")),
    reason="needs chromium (apt-get install chromium)",
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_tables_of_measurements_are_the_recorded_results():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert filled(text, TABLES) == text and "| 512 |" in text
    for name in TABLES:
        recorded = (ROOT / "benchmarks" / "results" / f"{name}.json").exists()
        assert recorded == (f"<!-- {name} -->\n|" in text), name


def test_what_did_not_work_is_what_the_records_say():
    text = (ROOT / "docs" / "negative.md").read_text(encoding="utf-8")
    assert filled(text, NEGATIVE) == text, "python -m benchmarks.tables"
    assert set(re.findall(r"<!-- ([^/].*?) -->", text)) == set(NEGATIVE)


@pytest.mark.parametrize(
    "name",
    [
        "decode", "prefill", "batch", "gpu", "pruned", "pruned_gpu", "threads", "steps", "serve",
        "serve_peers", "zeros", "division",
        pytest.param("live_page", marks=[pytest.mark.browser, needs_chromium]),
    ],
)  # fmt: skip
def test_a_measurement_runs_on_a_toy(name, monkeypatch, capsys):
    """Here and not each in a process of its own, which would load and compile everything again."""
    if name == "live_page":
        pytest.importorskip("playwright", reason="needs playwright")
    monkeypatch.setattr(sys, "argv", [name, "--tiny", "--rounds", "1"])
    threads = torch.get_num_threads()
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    result = json.loads(capsys.readouterr().out)
    assert result["rows"] and result["machine"]["torch"]


def run_page(name):
    """Every block of Python on a page, one after the other; what they leave."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    names: dict = {"__name__": name}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S):
        exec(compile(block, name, "exec"), names)
    return names


def test_the_page_on_policies_runs():
    names = run_page("how-to-add-a-policy.md")
    assert {"loud_values", "snapkv", "kivi"} <= {r["method"] for r in names["first"]["rows"]}
    assert any(r["method"] == "both" for r in names["report"]["rows"])


def test_the_page_on_formats_runs():
    names = run_page("how-to-add-a-format.md")
    cache, packed = names["cache"], names["packed"]
    assert min(packed.n_packed_L) >= 64 and packed.live_bytes < 0.8 * cache.live_bytes
    assert any(r["method"] == "two of four" for r in names["report"]["rows"])


def test_every_example_of_a_call_of_torch_says_what_torch_says():
    found = doctest.testfile(str(ROOT / "docs" / "torch.md"), module_relative=False)
    assert found.attempted > 25 and found.failed == 0


def test_every_notebook_of_exercises_leads_to_the_calls_of_torch():
    for page in sorted((ROOT / "exercises").glob("*.ipynb")):
        first = json.loads(page.read_text(encoding="utf-8"))["cells"][0]["source"]
        assert "](../docs/torch.md)" in "".join(first), page.name


def test_the_drawings_on_their_page_are_those_that_the_code_makes():
    """Write them again with `drawing.save` where this fails."""
    drawings = run_page("drawings.md")["drawings"]
    folder = ROOT / "docs" / "images" / "drawings"
    assert {path.stem for path in folder.glob("*.svg")} == set(drawings)
    for name, drawing in drawings.items():
        assert (folder / f"{name}.svg").read_text(encoding="utf-8") == drawing.svg, name
    from kvlab.view import schematics

    text = (ROOT / "docs" / "drawings.md").read_text(encoding="utf-8")
    for name in set(schematics.__all__) - {"PLACES", "Drawing"}:
        assert f"| `{name}(" in text, name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_are_there(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", text):
        assert (page.parent / target).exists(), target


def test_every_room_of_the_package_stands_in_the_tree():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "kvlab").iterdir():
        if path.is_dir() and any(path.glob("*.py")):
            assert f"\n  {path.name}/ " in text, path.name
        elif path.suffix == ".py" and not path.stem.startswith("__"):
            assert f"\n  {path.name} " in text, path.name


def test_commands_named_in_the_readme_exist():
    from kvlab.shell.cli import _parser

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = _parser()._subparsers._group_actions[0].choices
    for command in re.findall(r"kvlab (\w+)", text):
        if command in ("lab", "test", "demo", "generate", "doctor", "grade", "hint", "export"):
            assert command in known
    assert {"lab", "test", "demo", "generate", "doctor", "grade"} <= set(
        re.findall(r"kvlab (\w+)", text)
    )


def test_the_readme_is_short_and_opens_with_the_page_in_which_the_model_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200, "tables of measurements stand in docs/benchmarks.md"
    picture, commands = text.index("](docs/images/live.png)"), text.index("```")
    assert picture < commands < text.index("\n## ")


def test_the_readme_lists_the_chapters_that_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^\| \[(\d+)\. (.+?)\]\((.+?)\) \| (.+?) \| (\d+), about (\d+) minutes \|$", text, re.M
    )
    there = []
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        opening = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        number, title, question = re.match(r"# (\d+)\. (.+)\n\n\*(.+)\*\n", opening).groups()
        own = [e for e in ALL if e.chapter == number]
        minutes = sum(e.minutes for e in own)
        file = f"chapters/{path.name}"
        there.append((number, title, file, question, str(len(own)), str(minutes)))
    assert listed == there, "README.md: the table of chapters needs the rows that are there"


def test_the_page_of_courses_is_what_the_exercises_say():
    written = (ROOT / "docs" / "courses.md").read_text(encoding="utf-8")
    assert written == courses.as_markdown(), "python -m docs.courses > docs/courses.md"
