"""What a reader has done, noted on their own computer."""

import json
import re

import pytest

from kvlab import check
from kvlab.course import record
from kvlab.course.exercises import ALL
from kvlab.shell.cli import main
from tests.course.answering import ANSWERS, STUBS, answered, run_cell


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("KVLAB_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "progress.json"


def test_titles_and_states_stand_apart(own_data, capsys):
    main(["progress"])
    shown = capsys.readouterr().out
    for exercise in ALL:
        assert re.search(rf"{re.escape(exercise.title)} +not answered yet\n", shown)


def test_progress_is_noted_and_shown(own_data, capsys):
    assert main(["progress"]) == 0
    assert capsys.readouterr().out.count("not answered yet") == len(ALL)
    right = run_cell(ANSWERS["6.3"], "audit")
    check("6.3", lambda *a: "reuses")
    check("6.3", lambda *a: "reuses")
    main(["progress"])
    assert "failed, 2 tries" in capsys.readouterr().out
    check("6.3", right)
    check("6.3", lambda *a: "reuses")
    main(["progress"])
    text = capsys.readouterr().out
    assert (
        re.search(r"6\.3 .*passed on \d{4}-", text)
        and f"1 of {len(ALL)} done, 4 of {sum(e.points for e in ALL)} " in text
    )
    assert str(own_data) in text
    assert [p.name for p in own_data.parent.iterdir()] == ["progress.json"]


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"6.3": 4}', '{"6.3": {"tries": "x"}}'])
def test_progress_that_cannot_be_read_starts_anew(text, own_data):
    own_data.parent.mkdir()
    own_data.write_text(text)
    assert main(["progress"]) == 0
    check("6.3", run_cell(ANSWERS["6.3"], "audit"))
    assert json.loads(own_data.read_text())["6.3"]["state"] == "passed"


@pytest.mark.parametrize("text", ["", "no json", "[]"])
def test_a_file_that_is_no_record_is_called_so(text, own_data, capsys):
    own_data.parent.mkdir()
    own_data.write_text(text)
    main(["progress"])
    assert f"what {own_data} holds is no record" in capsys.readouterr().out


def test_chapters_read_stand_beside_exercises_and_neither_loses_the_other(own_data, capsys):
    right = run_cell(ANSWERS["6.3"], "audit")
    check("6.3", lambda *a: "reuses")
    record.note_read([7, 6, 6])
    check("6.3", right)
    assert record.chapters_read() == [6, 7] and record.read()["6.3"]["tries"] == 2
    main(["progress"])
    shown = capsys.readouterr().out
    assert "\nChapter 5\n" in shown and "\nChapter 6, read\n" in shown
    main(["progress", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["chapters_read"] == [6, 7] and told["done"] == 1
    record.note_read([])
    assert record.chapters_read() == [] and record.read()["6.3"]["state"] == "passed"


def test_progress_that_cannot_be_written_hinders_nobody(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KVLAB_DATA", str(tmp_path / "file" / "below"))
    assert check("6.3", run_cell(ANSWERS["6.3"], "audit")).passed


def test_grading_ones_own_copy_is_progress_and_grading_others_is_not(own_data, tmp_path, capsys):
    path = answered(tmp_path, {"q6_3": ANSWERS["6.3"]})
    main(["grade", str(path)])
    assert not own_data.exists()
    main(["grade", str(STUBS)])
    assert json.loads(own_data.read_text())["6.1"]["state"] == "not answered"
