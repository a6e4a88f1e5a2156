"""The table of what the book covers is true."""

from docs import coverage
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
