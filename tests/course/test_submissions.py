"""What a folder holds: links, hidden files, odd endings are graded or told, never passed over."""

import os

import pytest

from kvlab.course.grading.collect import collected
from kvlab.course.grading.grade import Rules, grade_all
from kvlab.course.grading.submissions import find_submissions, passed_over
from kvlab.shell import cli

GRADED = ["ann/06.ipynb", "bob/06.IPYNB", "cy/a b (2).ipynb", "cy/06-Copy1.ipynb", "d/x\ny.ipynb"]
TOLD = [".eve/06.ipynb", "fay/.06.ipynb", "gus/06.ipynb.txt", "hal/06.ipynb (1)", "i/.j/k.IpyNb",
        "kim/answers.ZIP", "lea/06.tar.gz"]  # fmt: skip
NOBODYS = ["ann/.ipynb_checkpoints/06.ipynb", "._06.ipynb", "bob/.~06.ipynb", ".git/06.ipynb",
           "notes.txt", "jo/answer.py"]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name in (*GRADED, *TOLD, *NOBODYS):
        path = tmp_path / "class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("?")
    return tmp_path / "class"


def test_each_is_graded_or_told_or_nobodys(folder, capsys):
    with collected([folder]) as found:
        assert sorted(p.relative_to(folder).as_posix() for p in found.submissions.values()) == (
            sorted(GRADED)
        )
    said = capsys.readouterr().err
    assert passed_over(folder) == sorted(TOLD)
    assert (
        f"{folder}: 7 files are hidden, packed, or without the ending .ipynb, and not graded"
        in said
    )
    assert all(name in said for name in sorted(TOLD)[:5]) and said.rstrip().endswith("...")


def test_a_folder_of_packed_ones_says_what_to_do(tmp_path):
    (tmp_path / "ann.zip").write_text("?")
    with pytest.raises(ValueError, match="Unpack first what is packed there, as ann.zip"):
        find_submissions([tmp_path])


def test_linked_ones_get_a_note(folder, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "06.ipynb").write_text("?")
    for name in ("zoe", "ann/06", "ann/07.ipynb"):
        (folder / name).symlink_to(other, target_is_directory=True)
    (folder / "ann" / "08.ipynb").symlink_to(other / "06.ipynb")
    (folder / "ann" / "folder.ipynb").mkdir()
    os.symlink("nowhere", folder / "ann" / "09.ipynb")
    found = find_submissions([folder])
    graded = {g.name: g.note for g in grade_all(found, Rules(chapter="6"), workers=1)}
    for name in ("zoe", "ann/06", "ann/07", "ann/08", "ann/09"):
        assert "is a link to another f" in graded[name], name
    assert "is not JSON" in graded["ann/06 [2]"] and "is not a file" in graded["ann/folder"]
    assert not any("elsewhere" in str(path) for path in found.values())


def test_names_that_differ_in_their_ending_alone_are_two(tmp_path):
    for name in ("a.ipynb", "a.IPYNB"):
        (tmp_path / name).write_text("?")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes them for one")
    assert sorted(find_submissions([tmp_path])) == ["a", "a [2]"]


def test_a_link_that_leads_to_itself_gets_a_note_and_stops_nobody(tmp_path, capsys):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "06.ipynb").symlink_to("06.ipynb")
    (tmp_path / "bob.ipynb").write_text("{}")
    assert cli.main(["grade", str(tmp_path), "--csv", str(tmp_path / "marks.csv")]) == 0
    marks = (tmp_path / "marks.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(marks) == 3 and "links are not followed" in marks[1] and "bob" in marks[2]
