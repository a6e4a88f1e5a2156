"""The tables of what the book covers, of courses and of cheats are true."""

import re

from docs import courses, coverage
from kvlab.course.exercises import ALL
from kvlab.shell.cli import ROOT


def test_every_place_and_exercise_of_the_table_is_there():
    assert coverage.missing(ROOT / "chapters") == []


def test_the_page_is_the_tables():
    written = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    assert written == coverage.as_markdown(), "python -m docs.coverage > docs/coverage.md"


def test_a_lost_heading_and_a_lost_exercise_are_named(monkeypatch):
    idea = coverage.Idea("an idea", "A", (6, "No such heading"), ("6.99",))
    monkeypatch.setattr(coverage, "IDEAS", (idea,))
    assert coverage.missing(ROOT / "chapters") == [
        "an idea: chapter 6 has no heading 'No such heading'",
        "an idea: there is no exercise 6.99",
    ]


def test_every_exercise_of_a_course_is_there():
    chapters = {str(n) for weeks in courses.COURSES.values() for week in weeks for n in week[0]}
    known = {e.number for e in ALL} | chapters
    for weeks in courses.COURSES.values():
        for week in weeks:
            assert set(week.exercises) <= known
            assert {int(number.split(".")[0]) for number in week.exercises} <= set(week.chapters)
    assert {e.chapter for e in ALL} <= chapters


def test_the_judge_says_of_cheats_what_the_guide_quotes():
    guide = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \| (tests/\S+) \|$", guide.split("<!-- cheats -->")[1], re.M
    )
    assert len(rows) > 12
    source = "".join(p.read_text("utf-8") for p in (ROOT / "kvlab" / "course").rglob("*.py"))
    tried = (ROOT / "docs" / "grading.md").read_text(encoding="utf-8")
    said = [wrong.says for e in ALL for wrong in e.wrong]
    for _, says, file in rows:
        assert (ROOT / file).exists(), file
        for quoted in re.findall(r'"(.+)"', says):
            places = (source, tried, *said)
            known = re.sub(r"^(softmax|kvlab\.course\.ch06) ", "", quoted)
            assert any(known in place for place in places), quoted


def test_the_marks_of_some_exercises_are_added_up(tmp_path, monkeypatch, capsys):
    guide = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import csv\n.+?)```", guide, re.S)
    (tmp_path / "marks.csv").write_text(
        '\ufeff"id","name","6.1","6.2","6.3","6.4","6.5"\n"1","Jürgen",3,2.5,0,,9\n', "utf-8"
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "teaching.md", "exec"), {})
    assert capsys.readouterr().out == "Jürgen 5.5\n"
