"""Where a reader stands in the book, from the file in which it is noted."""

import json
from html.parser import HTMLParser

import pytest

from kvlab.course.exercises import ALL
from kvlab.course.standing import READING, standing
from kvlab.shell.cli import ROOT

MINUTES = sum(e.minutes for e in ALL)
# What JupyterLab leaves of HTML in a notebook that is not trusted, and other readers of notebooks.
KEPT = {"p": set(), "ul": set(), "li": set(), "details": set(), "summary": set(), "a": {"href"}}


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("KVLAB_DATA", str(tmp_path))
    return tmp_path / "progress.json"


def passed(*numbers):
    return {n: {"state": "passed", "tries": 1, "passed": "2026-11-01"} for n in numbers}


class Page(HTMLParser):
    """Reads HTML strictly: known tags, each closed; keeps its words and where its links lead."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.words = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert set(dict(attrs)) <= KEPT[tag]
        self.open.append(tag)
        self.links += [value for _, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def shown(**given):
    """The page of a standing; it says line by line what the text says, and its links exist."""
    stands = standing(**given)
    page = Page(stands._repr_html_())
    assert [line for line in repr(stands).splitlines() if line not in page.words] == []
    assert all((ROOT / link).is_file() for link in page.links)
    return repr(stands), page


def test_before_anything_was_done_the_first_chapter_is_next(file):
    text, page = shown()
    assert text.startswith("Nothing is noted yet. The book has 13 chapters, about 13 hours")
    assert f"{len(ALL)} exercises, about {MINUTES / 60:.0f} hours more" in text
    assert text.endswith("Next: chapter 1.") and page.links[0] == (
        "chapters/01_queries_keys_values.ipynb"
    )
    assert page.words.count("not answered yet") == len(ALL)
    assert not file.exists()


def test_what_was_done_is_told_by_chapters_exercises_and_hours(file):
    failed = {"2.6": {"state": "failed", "tries": 2, "passed": ""}}
    first = [e for e in ALL if e.chapter == "1"]
    file.write_text(json.dumps(passed(*(e.number for e in first), "2.1") | failed))
    text, page = shown(read=[1])
    spent = (READING + sum(e.minutes for e in first) + 25) / 60
    total = (READING * 13 + MINUTES) / 60
    assert f"read 1 of 13 chapters and done 8 of {len(ALL)} exercises" in text
    assert f"That is about {spent:.0f} of {total:.0f} hours." in text
    assert 'Next: chapter 3, or exercise 2.2, "Causal attention by positions", about' in text
    assert "\nChapter 1: read, 7 of 7 exercises done\n" in text
    assert text.endswith(
        "\nChapter 2: 1 of 8 exercises done, open: 2.2, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8"
    )
    assert "2.6 The query at position 4: failed, 2 tries" in page.words
    assert "2.1 A rectangular mask: passed on 2026-11-01" in page.words
    assert page.links[:2] == ["chapters/03_heads.ipynb", "exercises/02_causal_attention.ipynb"]


def test_a_reader_who_reads_and_one_who_only_solves(file):
    assert "You have read 1 of 13 chapters and done 0 of" in repr(standing(read=[7]))
    assert "about 60 minutes of" in repr(standing()) and "\nChapter 7: read, 0 of 8" in shown()[0]
    assert "Nothing is noted yet" in repr(standing(read=[]))
    file.write_text(json.dumps({"7.1": {"state": "failed", "tries": 1, "passed": ""}}))
    text = repr(standing())
    assert f"You have done 0 of {len(ALL)} exercises.\nNext: chapter 1, or exercise 7.1" in text


def test_who_has_done_all_has_nothing_left(file):
    file.write_text(json.dumps(passed(*(e.number for e in ALL))))
    text, _ = shown(read=range(1, 14))
    total = (READING * 13 + MINUTES) / 60
    assert "You have read 13 of 13 chapters" in text and "Next" not in text and "open" not in text
    assert f"about {total:.0f} of {total:.0f} hours" in text


def test_a_reader_counts_as_having_read_what_they_said_last(file):
    standing(read=[3, 1, 1])
    assert json.loads(file.read_text()) == {"chapters read": [1, 3]}
    assert "read 2 of 13" in repr(standing()) and "read 1 of 13" in repr(standing(read=(2,)))


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"1.1": ', "[" * 100_000])
def test_a_record_that_is_none_is_named_and_left_alone(text, file):
    file.write_text(text)
    said, page = shown(read=[])
    assert f"About your record: what {file} holds is no record" in said
    assert "Nothing is noted yet" not in said and said.endswith("Next: chapter 1.")
    assert page.words.count("not answered yet") == len(ALL) and file.read_text() == text


@pytest.mark.parametrize(
    "found", [{"1.1": 3}, {"chapters read": 7}, {"chapters read": ["1", None, 2]}]
)
def test_rows_that_make_no_sense_are_passed_over(found, file):
    file.write_text(json.dumps(found))
    assert f"done 0 of {len(ALL)}" in repr(standing()) or "Nothing is noted yet" in repr(standing())


def test_neither_a_record_nor_its_place_brings_markup(file, tmp_path, monkeypatch):
    file.write_text(json.dumps({"1.1": {"state": "<b>", "passed": "<script>", "tries": 1}}))
    assert "passed on <script>" in shown()[1].words
    monkeypatch.setenv("KVLAB_DATA", str(tmp_path / "<b>"))
    (tmp_path / "<b>").write_text("")
    assert "<b>" in shown()[1].words


def test_what_cannot_be_noted_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KVLAB_DATA", str(tmp_path / "file" / "below"))
    assert "About your record: nothing can be noted" in shown(read=[1])[0]
    monkeypatch.setenv("KVLAB_DATA", str(tmp_path))
    (tmp_path / "progress.json").write_text("{}")
    monkeypatch.setattr("kvlab.files.write", lambda *a: (_ for _ in ()).throw(OSError("full")))
    text, _ = shown(read=[1])
    assert "which chapters you have read could not be noted in" in text and "You have" not in text


@pytest.mark.parametrize("read", [1, [0], [14], ["1"], "12", [True], [1.0], [None], [[1]]])
def test_what_is_no_list_of_chapters_is_refused(read, file):
    with pytest.raises(ValueError, match=r"expected the numbers of chapters .* such as \[1, 2\]"):
        standing(read=read)
    assert not file.exists()


def test_exercises_of_ones_own_are_told_too(file, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "how-to-add-an-exercise.md").read_text(encoding="utf-8")
    source = page.split("```python\n")[1].split("```")[0]
    for number in ("20.1", "6.99"):
        name = f"q{number.replace('.', '_')}_sum.py"
        (tmp_path / name).write_text(source.replace("99.1", number), encoding="utf-8")
    monkeypatch.setenv("KVLAB_EXERCISES", str(tmp_path))
    text, page = shown(read=[n for n in range(1, 14) if n != 6])
    assert f"0 of {len(ALL) + 2} exercises" in text and "Next: chapter 6, or exercise 1.1" in text
    assert "20.1" in page.words and "6.99" in page.words
    assert page.links[0] == "chapters/06_kv_cache.ipynb"
    assert "exercises/06_kv_cache.ipynb" not in page.links
    assert "Next: exercise 1.1" in repr(standing(read=range(1, 14)))
