"""What strict nbval does not see by itself, and what a chapter promises."""

import re

import pytest

from kvlab.course.exercises import ALL
from kvlab.course.grading import notebooks
from kvlab.shell.cli import ROOT

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
TIMED = re.compile(r"clock\(|compare\(|timed_both_ways\(|perf_counter")


def cells(path, kind):
    return [c for c in notebooks.read(path)["cells"] if c["cell_type"] == kind]


@pytest.fixture(params=CHAPTERS, ids=lambda p: p.stem)
def chapter(request):
    return request.param


def test_every_code_cell_was_run_from_top_to_bottom(chapter):
    """nbval silently skips a cell without a count."""
    counts = [c["execution_count"] for c in cells(chapter, "code")]
    assert counts == list(range(1, len(counts) + 1))


def test_a_chapter_keeps_to_one_thread_before_it_computes(chapter):
    """Its kernel need not be one that kvlab started, and threads that spin slow a busy machine."""
    code = ["".join(cell["source"]) for cell in cells(chapter, "code")]
    first = next(source for source in code if "import torch" in source)
    lines = [line.partition("#")[0].strip() for line in first.splitlines()]
    rest = [line for line in lines if line and not line.startswith(("import ", "from "))]
    assert rest[0] == "torch.set_num_threads(1)"


def test_no_output_is_an_error_or_has_a_path_of_one_machine(chapter):
    for cell in cells(chapter, "code"):
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr"
    assert not re.search(r"/(?:home|root|Users|work)/", chapter.read_text())


def test_notebooks_are_tidy(chapter):
    for path in (chapter, ROOT / "exercises" / chapter.name, ROOT / "solutions" / chapter.name):
        found = notebooks.read(path)
        assert notebooks.normalise(found) == found, f"kvlab normalise {path.name}"


def test_a_cell_that_takes_times_is_known_by_its_calls():
    sources = [notebooks.source(c) for path in CHAPTERS for c in cells(path, "code")]
    assert any(TIMED.search(source) for source in sources)


def test_what_is_not_compared_is_asserted(chapter):
    """Times are not compared; a cell whose output is not compared says what must hold, or draws.

    What must hold may stand in the folded cell after it.
    """
    every = cells(chapter, "code")
    for cell, after in zip(every, [*every[1:], {"metadata": {}, "source": ""}], strict=True):
        text = notebooks.source(cell)
        if "hide-cell" in after["metadata"].get("tags", []):
            text += notebooks.source(after)
        if "nbval-ignore-output" in cell["metadata"].get("tags", []):
            assert "assert " in text or text.startswith("figure = ") or "\nfigure = " in text
        else:
            assert not TIMED.search(text)


def test_a_guess_comes_before_the_first_measurement(chapter):
    sources = [notebooks.source(c) for c in cells(chapter, "code")]
    guesses = re.findall(r"^(my_guess_\w+) = None", sources[0], re.M)
    assert guesses
    for guess in guesses:
        assert any(guess in source for source in sources[1:]), f"{guess} is never looked at"


def test_the_chapter_lists_its_exercises(chapter):
    text = "\n".join(notebooks.source(c) for c in cells(chapter, "markdown"))
    number = str(int(chapter.stem.split("_")[0]))
    for exercise in ALL:
        if exercise.number.split(".")[0] == number:
            row = f"| {exercise.number} | {exercise.title} | {exercise.minutes} |"
            assert row in text, f"{chapter.name}: its table of exercises needs the row {row}"
    for part in ("## What to remember", "## Exercises", "Predicted beside measured"):
        assert part in text


WIDE = ("PackedKVCache(", "the whole cache  ")  # the package's own words


def test_what_is_printed_fits_a_narrow_page(chapter):
    """79 characters do at 800 pixels; JupyterLab breaks longer lines anywhere."""
    printed = [
        line
        for cell in cells(chapter, "code")
        for out in cell["outputs"]
        if out["output_type"] == "stream"
        for line in "".join(out["text"]).splitlines()
    ]
    assert printed and [x for x in printed if len(x) > 79 and not x.startswith(WIDE)] == []


def test_asserts_stand_out_of_sight(chapter):
    for cell in cells(chapter, "code"):
        if not {"hide-cell", "hide-input"} & set(cell["metadata"].get("tags", ())):
            assert not re.search(r"^assert ", "".join(cell["source"]), re.M), cell["id"]


def test_links_lead_somewhere(chapter):
    text = "\n".join(notebooks.source(c) for c in cells(chapter, "markdown"))
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", text):
        assert (chapter.parent / target).exists(), target


def test_normalising_joins_broken_streams_and_drops_widget_ids():
    pieces = [
        {"output_type": "stream", "name": "stdout", "text": "a"},
        {"output_type": "stream", "name": "stdout", "text": ["b\n", "c"]},
        {
            "output_type": "display_data",
            "metadata": {},
            "data": {"text/plain": "x", "application/vnd.jupyter.widget-view+json": {"id": 1}},
        },
    ]
    cell = {"cell_type": "code", "source": "", "execution_count": 3, "outputs": pieces}
    tidy = notebooks.normalise({"cells": [cell]})["cells"][0]["outputs"]
    assert tidy[0]["text"] == ["ab\n", "c"] and len(tidy) == 2
    assert tidy[1]["data"] == {"text/plain": "x"}


def test_what_is_tagged_as_hidden_is_folded_away_and_nothing_else():
    def meta(**given):
        cell = {"cell_type": "code", "source": "assert True", "metadata": given, "outputs": []}
        return notebooks.normalise({"cells": [cell]})["cells"][0]["metadata"]

    folded = {"source_hidden": True}
    assert meta(tags=["hide-cell"]) == {"tags": ["hide-cell"], "jupyter": folded}
    assert meta(tags=["hide-input", "other"])["jupyter"] == folded
    assert meta(tags=["nbval-ignore-output"], jupyter=folded) == {"tags": ["nbval-ignore-output"]}
