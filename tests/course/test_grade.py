"""Notebooks judged in another process: marks, states, files that are none."""

import csv
import json

import pytest

import kvlab
from kvlab.course.grading import notebooks
from kvlab.course.grading.grade import grade, grade_source
from kvlab.shell.cli import ROOT, main
from tests.course.answering import (
    ANSWERS,
    BY_NUMBER,
    OUT_OF,
    SOLUTION,
    STUBS,
    answered,
)


def test_solutions_get_full_marks_and_stubs_none(nursery):
    full = grade(SOLUTION, nursery=nursery)
    assert full.points == full.out_of == OUT_OF, [repr(v) for v in full.verdicts]
    none = grade(STUBS, nursery=nursery)
    assert none.points == 0 and {v.state for v in none.verdicts} == {"not answered"}


def as_source(name, body, before=""):
    return f"import torch\n{before}\ndef {name}(*args):\n    {body}\n"


# A change of the solution, and the mistake that it makes.
SPOILED = {
    "6.1": (
        "return self.k[layer, :, :, :used], self.v[layer, :, :, :used]",
        "return self.k[layer, :, :, :used].clone(), self.v[layer, :, :, :used].clone()",
    ),
    "6.2": (" / width**0.5", ""),
    "6.3": ("range(n_prompt)", "range(1)"),
    "6.4": ("n_prompt + i)", "i)"),
    "6.5": ("twin.v.copy_(self.v)", "twin.v = self.v"),
}


NAMED = {
    "6.1": "read returns copies",
    "6.2": "not divided",
    "6.3": "only slot 0",
    "6.4": "start again at 0",
    "6.5": "shares the values",
}


@pytest.mark.parametrize("some", [("6.1", "6.3", "6.5"), ("6.2", "6.4")])
def test_a_wrong_answer_loses_its_own_question_and_no_other(some, tmp_path, nursery):
    sources = {e.grade_id: e.second for e in BY_NUMBER.values() if e.chapter == "6"}
    for number in some:
        exercise = BY_NUMBER[number]
        assert SPOILED[number][0] in exercise.cell
        sources[exercise.grade_id] = exercise.cell.replace(*SPOILED[number])
    graded = grade(answered(tmp_path, sources), nursery=nursery)
    for verdict in graded.verdicts:
        assert verdict.passed is (verdict.exercise.number not in some), verdict
        if not verdict.passed:
            assert NAMED[verdict.exercise.number] in (verdict.mistake or ""), verdict


def test_an_empty_answer_cell_is_named(nursery):
    verdict = grade_source(BY_NUMBER["6.3"], "x = 1", 3, nursery)
    assert "does not define audit" in verdict.message


def test_a_mixed_submission_gets_its_marks_question_by_question(tmp_path, capsys):
    path = answered(
        tmp_path,
        {
            "q6_1": ANSWERS["6.1"],
            "q6_2": "import os\nos._exit(1)",
            "q6_3": as_source("audit", "return 'reuses'"),
        },
    )
    out = tmp_path / "marks.json", tmp_path / "marks.csv"
    assert main(["grade", str(path), "--json", str(out[0]), "--csv", str(out[1])]) == 1
    text = capsys.readouterr().out
    assert f"3 of {OUT_OF}" in text and "everyone is acquitted" in text
    marks = json.loads(out[0].read_text())["notebooks"][0]
    assert [q["points"] for q in marks["questions"]] == [3, *[0] * 7]
    assert [q["state"] for q in marks["questions"]] == [
        "passed", "failed", "failed", *["not answered"] * 5,
    ]  # fmt: skip
    rows = list(csv.reader(out[1].open()))
    assert rows[1][1:11] == ["3", str(OUT_OF), "3", *"0000000"]


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", '{"cells": 3}', '{"cells": [1]}'])
def test_a_file_that_is_no_notebook_is_named(text, tmp_path, capsys):
    path = tmp_path / "x.ipynb"
    path.write_text(text)
    assert main(["grade", str(path)]) == 1
    assert "x.ipynb" in capsys.readouterr().err


def test_a_number_of_thousands_of_digits_in_a_notebook_is_named(tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_text('{"cells": [], "x": ' + "9" * 10_000 + "}")
    with pytest.raises(ValueError, match=r"x\.ipynb is not a notebook: a number in it"):
        notebooks.read(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_notebook_is_read_in_every_encoding_of_json(encoding, tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_bytes(STUBS.read_text(encoding="utf-8").encode(encoding))
    assert notebooks.read(path) == notebooks.read(STUBS)


def test_a_missing_file_and_a_notebook_without_answers_are_named(tmp_path, capsys):
    assert main(["grade", str(tmp_path / "none.ipynb")]) == 1
    assert "is not there" in capsys.readouterr().err
    assert main(["grade", str(ROOT / "chapters" / "06_kv_cache.ipynb")]) == 1
    assert "no answer cell" in capsys.readouterr().err


def test_a_notebook_that_lacks_a_cell_loses_that_question_only(tmp_path, nursery):
    notebook = notebooks.read(STUBS)
    notebook["cells"] = [c for c in notebook["cells"] if notebooks.grade_id(c) != "q6_2"]
    path = tmp_path / "x.ipynb"
    notebooks.write(path, notebook)
    graded = grade(path, nursery=nursery)
    assert [v.state for v in graded.verdicts] == ["not answered", "no cell", *["not answered"] * 6]
    assert "6.2" in graded.note


def test_release_notices_a_change():
    changed = notebooks.read(SOLUTION)
    changed["cells"][0]["source"] = ["another title"]
    assert notebooks.release(changed) != notebooks.read(STUBS)


def test_the_version_is_one(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert kvlab.__version__ in capsys.readouterr().out
