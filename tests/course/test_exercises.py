"""Every exercise of the book, by the same rules; `-k 6.2` tries one of them. Those in a folder of
one's own are tried too where KVLAB_EXERCISES names it, once `kvlab release` has made notebooks.

The right answer passes and so does a second one in another style, here and in another process; the
stub is not answered yet; each wrong answer loses and is named; the notebooks agree with the
specifications.
"""

import os
import re
from dataclasses import replace

import pytest

from kvlab.course.author import cells
from kvlab.course.exercises import chapters, exercises
from kvlab.course.grading import handout, notebooks
from kvlab.course.grading.grade import grade_source
from kvlab.course.judge import draw, judge
from kvlab.course.sandbox.answer import LocalAnswer
from kvlab.shell.cli import ROOT
from tests.course.answering import local

CHAPTERS, ALL = chapters(), exercises()


def answer(exercise, folder="solutions"):
    """The source of an exercise's answer cell in its notebook."""
    (chapter,) = (c for c in CHAPTERS if c.number == exercise.chapter)
    path = (chapter.folder or ROOT) / folder / f"{chapter.notebook}.ipynb"
    return notebooks.answers(notebooks.read(path))[exercise.grade_id]


@pytest.fixture(params=ALL, ids=lambda e: e.number)
def exercise(request):
    return request.param


def test_both_right_answers_pass(exercise):
    for source in (answer(exercise), exercise.second):
        for seed in range(3):
            verdict = local(exercise, source, seed)
            assert verdict.passed, verdict


def test_both_right_answers_pass_in_another_process(exercise, nursery):
    for source in (answer(exercise), exercise.second):
        verdict = grade_source(exercise, source, "grade 5", nursery)
        assert verdict.state in ("passed", "too noisy"), verdict


def test_the_stub_is_not_answered_yet(exercise, nursery):
    stub = answer(exercise, "exercises")
    assert notebooks.STUB in stub
    for verdict in (local(exercise, stub), grade_source(exercise, stub, 1, nursery)):
        assert verdict.state == "not answered" and "not answered yet" in repr(verdict)


@pytest.mark.parametrize(
    ("exercise", "wrong"),
    [
        pytest.param(e, w, id=f"{e.number}-{i}-{w.answer.__name__}")
        for e in ALL
        for i, w in enumerate(e.wrong, 1)
    ],
)
def test_each_wrong_answer_loses_and_is_named(exercise, wrong):
    for seed in range(3):
        verdict = judge(exercise, LocalAnswer(wrong.answer), seed)
        assert verdict.state == "failed", verdict
        assert wrong.says in (verdict.mistake or ""), verdict
        assert re.search(r"expected|raised|is not right", verdict.message), verdict.message


GIVE_NUMBERS = ["1.7", "4.7", "5.4", "7.1", "7.2", "7.4", "7.5", "7.6", "9.6", "11.1"]


@pytest.mark.parametrize("number", GIVE_NUMBERS)
def test_a_number_may_be_a_tensor_that_is_nothing_but_one(number):
    """`loss.mean()` and `float(loss.mean())` are one answer; a law that rounds knows the second."""
    right = next(e for e in ALL if e.number == number)
    lines = answer(right).replace(f"def {right.name}(", "def in_numbers(", 1)
    lines += f"""

def as_tensors(x):
    if isinstance(x, (list, tuple)):
        return [as_tensors(one) for one in x]
    return torch.tensor(x, dtype=torch.float64) if isinstance(x, float) else x

def {right.name}(*given):
    return as_tensors(in_numbers(*given))
"""
    verdict = local(replace(right, n_cases=1), lines)
    assert verdict.passed, verdict


@pytest.mark.parametrize("number", ["4.4", "5.1", "6.2", "10.2"])
def test_lists_of_numbers_do_where_a_law_takes_a_result_apart(number):
    right = next(e for e in ALL if e.number == number)
    lines = answer(right).replace(f"def {right.name}(", "def in_tensors(", 1)
    lines += f"""

def as_lists(x):
    return x.tolist() if isinstance(x, torch.Tensor) else x

def {right.name}(*given):
    found = in_tensors(*given)
    return [as_lists(x) for x in found] if isinstance(found, tuple) else as_lists(found)
"""
    verdict = local(right, lines)
    assert verdict.passed, verdict


def test_it_has_what_the_book_promises(exercise):
    assert len(exercise.wrong) >= 4 and len(exercise.hints) == 3
    assert len({w.says for w in exercise.wrong}) == len(exercise.wrong)
    assert exercise.minutes and exercise.points and exercise.difficulty in range(1, 6)
    assert exercise.n_cases >= 5 or exercise.cases(None) == {}, "a quiz, or five cases"
    assert re.fullmatch(r"\d+\.\d+", exercise.number) and exercise.name.isidentifier()


def test_cases_differ_in_size_and_between_check_and_grade(exercise):
    if exercise.n_cases == 1:
        pytest.skip("a quiz has one case")
    check, grade = (draw(exercise, exercise.cases, f"{who} 1") for who in ("check", "grade"))
    assert str(check) != str(grade)
    assert len({exercise.size(case) for case in check}) > 1


def test_numbers_and_cells_are_one_of_a_kind():
    assert len({e.number for e in ALL}) == len({e.grade_id for e in ALL}) == len(ALL)
    for chapter in CHAPTERS:
        assert len({e.name for e in chapter.exercises}) == len(chapter.exercises)
        assert {e.chapter for e in chapter.exercises} == {chapter.number}


@pytest.mark.timeout(7200)
def test_a_right_answer_passes_however_often_it_is_graded(exercise, nursery):
    """The clock too. KVLAB_GRADINGS=100 for the whole of it; see docs/grading.md."""
    for i in range(int(os.environ.get("KVLAB_GRADINGS", "1"))):
        verdict = grade_source(exercise, answer(exercise), f"grade {i}", nursery)
        assert verdict.passed, verdict


# --- the notebooks --------------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.notebook)
def test_both_notebooks_are_made_from_the_exercises_files(chapter):
    made = handout.made_of(chapter)
    for folder, wanted in made.items():
        there = notebooks.read((chapter.folder or ROOT) / folder / f"{chapter.notebook}.ipynb")
        assert there == wanted, "run: kvlab release"
        assert notebooks.normalise(there) == there
    assert not re.search("BEGIN SOLUTION|HIDDEN TESTS", str(made["exercises"]))


def test_the_cells_are_what_nbgrader_and_the_reader_expect(exercise):
    (chapter,) = (c for c in CHAPTERS if c.number == exercise.chapter)
    solved = cells.solutions(chapter.notebook, chapter.introduction, chapter.exercises)["cells"]
    marked = {notebooks.grade_id(c): c for c in solved}
    made = marked[exercise.grade_id]["metadata"]["nbgrader"]
    check = marked[exercise.grade_id + "_check"]["metadata"]["nbgrader"]
    assert made["solution"] and not made["grade"] and not made["locked"]
    assert check["grade"] and check["locked"] and not check["solution"]
    assert check["points"] == exercise.points and check["schema_version"] == 3
    source = notebooks.source(marked[exercise.grade_id + "_check"])
    assert source.startswith(f'verdict = check("{exercise.number}", {exercise.name})\nverdict\n')
    assert source.count("check(") == 1, "each check runs once"
