"""What an exercise is written with, and the page that teaches it."""

import importlib
import importlib.util
import re
import sys

import pytest
import torch

from kvlab.course.author import cells, compare, one_number, paired, spec
from kvlab.course.author.lending import LentFunction
from kvlab.course.grading import notebooks
from kvlab.course.grading.grade import grade_source
from kvlab.course.judge import judge
from kvlab.course.sandbox.answer import LocalAnswer
from kvlab.shell.cli import ROOT
from tests.course.answering import local, run_cell, small


def summing(right, *arguments, gives="sum_T", **changes):
    """A small exercise with one law: the answer agrees with this one."""
    exercise = small(**changes)
    exercise.right(right)
    exercise.agrees("adds the rows", *arguments or ("x_ST",), gives=gives)
    return exercise


def test_a_law_of_agreement_is_one_line():
    exercise = summing(lambda x: x.sum(0))
    assert judge(exercise, LocalAnswer(lambda x: x.sum(0)), 1).passed
    failed = judge(exercise, LocalAnswer(lambda x: x.sum(0) + torch.eye(3)[1].double()), 1)
    assert "sum_T: 1 of 3 numbers are wrong, first at slot 1" in failed.message


def test_a_law_says_itself_what_its_values_must_be_or_the_right_answer_does():
    exercise = small()
    exercise.right(lambda x: x.sum(0))

    @exercise.law("bounds, a value of the right answer's, and one that nobody compares")
    def _(answer, case):
        sum_T = answer(case["x_ST"])
        return {
            "least": compare.AtLeast(4.0).of(float(sum_T.min())),
            "sum_T": sum_T,
            "twice": compare.Near(2 * sum_T, rtol=0.1).of(answer(2 * case["x_ST"])),
            "_id": id(sum_T),
        }

    assert judge(exercise, LocalAnswer(lambda x: x.sum(0)), 1).passed
    for answer, message in [
        (lambda x: x.sum(0) + 1, "sum_T: 3 of 3 numbers are wrong"),
        (lambda x: x[0], "expected at least 4, got 2"),
        (lambda x: x.sum(0).clamp(max=8), "twice: "),
    ]:
        assert message in repr(judge(exercise, LocalAnswer(answer), 1)), message


@pytest.fixture(scope="module")
def how_to(tmp_path_factory):
    """The exercises of docs/how-to-add-an-exercise.md by number, each from a file of its own."""
    page = (ROOT / "docs" / "how-to-add-an-exercise.md").read_text(encoding="utf-8")
    found, folder = {}, tmp_path_factory.mktemp("chapter")
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page, re.S)):
        path = folder / f"how_to_{i}.py"
        path.write_text(block, encoding="utf-8")
        made = importlib.util.spec_from_file_location(path.stem, path)
        module = sys.modules[path.stem] = importlib.util.module_from_spec(made)
        made.loader.exec_module(module)
        found[module.Q.number] = module.Q
    yield found
    for i in range(len(found)):
        del sys.modules[f"how_to_{i}"]


@pytest.mark.parametrize("number", ["99.1", "99.2", "99.3", "99.4", "99.5", "99.6"])
def test_the_exercises_in_the_how_to_are_whole_ones(number, how_to):
    exercise = how_to[number]
    for seed in range(10):
        for right in (exercise.second, exercise.cell):
            assert local(exercise, right, seed).passed
        for wrong in exercise.wrong:
            verdict = judge(exercise, LocalAnswer(wrong.answer), seed)
            assert verdict.state == "failed" and wrong.says in (verdict.mistake or ""), verdict
    assert len(exercise.wrong) >= 4


def test_a_quiz_says_why_and_not_what(nursery, how_to):
    def said(number, value):
        quiz = how_to[number]
        source = f"def {quiz.name}():\n    return {value!r}\n"
        here, there = local(quiz, source), grade_source(quiz, source, 1, nursery)
        assert repr(here) == repr(there)
        return here

    assert said("99.3", "c").message == "your choice: 'c' is not right."
    assert "used once" in said("99.3", " C ").mistake
    assert said("99.3", "B").passed and "Keys and values" in said("99.3", "B").message
    assert "expected one of ['a', 'b', 'c', 'd', 'e']" in said("99.3", "f").message
    assert said("99.4", 74.0).passed
    assert said("99.4", 68).mistake == "the text grows by one token in each step."
    for value, text in [(75, "75 is not right"), ("74", "expected one number"), (True, "one num")]:
        assert text in said("99.4", value).message and said("99.4", value).mistake is None
    assert said("99.5", [False, True, True, False]).passed
    two = said("99.5", [False, True, False, True])
    assert two.message == "claim 3: False is not right." and two.mistake == "one row: its own."
    assert "a list of 4" in said("99.5", [True]).message
    assert said("99.5", (False, True, True, 0)).message.endswith("each True or False.")
    by_number = said("99.5", {1: False, 2: True}).message  # no data, and not what a quiz wants
    assert by_number.endswith("a dict with int keys; expected a list of 4, each True or False.")


def test_a_number_may_be_near():
    about = {"hints": ("a", "b", "c"), "points": 1, "minutes": 1, "difficulty": 1, "asks": "Pi?"}
    pi = one_number("0.2", "Pi", "pi", right=3.14159, within=0.005, wrong={3: "rounded."}, **about)
    assert judge(pi, LocalAnswer(lambda: 3.14), 1).passed
    assert judge(pi, LocalAnswer(lambda: 3.0), 1).mistake == "rounded."
    assert "one number" in judge(pi, LocalAnswer(lambda: float("nan")), 1).message


def test_several_results_are_told_apart():
    def both(x_ST):
        return x_ST.sum(0), x_ST.sum(1)

    two = summing(both, gives=("a_T", "b_S"))
    assert judge(two, LocalAnswer(both), 1).passed
    failed = judge(two, LocalAnswer(lambda x: (x.sum(0), x.sum(1) + 1)), 1)
    assert "b_S: " in failed.message and "first at position 0" in failed.message
    failed = judge(two, LocalAnswer(lambda x: x), 1)
    assert "expected 2 results: a_T, b_S" in failed.message


LENDING = """
def use(thing, x):
    same = [thing(x, scale=2), thing(scale=3, x=x)]
    try:
        thing.calls
    except AttributeError as error:
        return [*same, str(error)]
"""


def test_what_is_lent_is_used_alike_here_and_in_another_process(nursery):
    def run(answer, case):
        thing = LentFunction(lambda x, scale: x * scale)
        return {"seen": answer(thing, case["x_T"]), "calls": thing.calls}

    def expect(case, _):
        return {"seen": [case["x_T"] * 2, case["x_T"] * 3, "this object has __call__; not calls"],
                "calls": 2}  # fmt: skip

    lending = small(
        name="use", laws=(spec.Law("lent", run, expect),),
        cases=lambda rng: {"x_T": torch.arange(rng.randint(2, 4)).double()},
    )  # fmt: skip
    assert local(lending, LENDING).passed, local(lending, LENDING)
    assert grade_source(lending, LENDING, 1, nursery).passed


def test_inputs_of_any_kind_must_not_be_changed(nursery):
    sort = "def sort(x):\n    x.sort()\n    return x\n"
    cases = {"cases": lambda rng: {"x": rng.sample(range(9), 5)}}
    sorting = summing(sorted, "x", gives="result", name="sort", **cases)
    for verdict in (local(sorting, sort), grade_source(sorting, sort, 1, nursery)):
        assert "changed its argument number 1" in verdict.message
    assert local(sorting, "def sort(x):\n    return sorted(x)\n").passed


def test_its_cells_have_their_metadata_and_the_learners_copy_a_stub(how_to):
    exercise = how_to["99.1"]
    solved = cells.solutions("99_sums", "# Sums", [exercise])
    answer, check_cell = solved["cells"][3:5]
    assert notebooks.source(answer) == exercise.cell and exercise.cell.startswith("def sum_slots")
    marks = [c["metadata"]["nbgrader"] for c in (answer, check_cell)]
    assert marks[0]["grade_id"] == "q99_1" and marks[0]["solution"] and not marks[0]["grade"]
    assert marks[1]["grade_id"] == "q99_1_check" and marks[1]["points"] == 2
    assert notebooks.source(solved["cells"][2]).startswith("## 99.1 Sum over slots\n\n*2 points, a")
    learners = notebooks.release(solved)
    stub = notebooks.answers(learners)["q99_1"]
    assert local(exercise, stub).state == "not answered"
    assert notebooks.source(learners["cells"][4]) == 'verdict = check("99.1", sum_slots)\nverdict'


HELPED = """
import json
from kvlab.course.author import Exercise

Q = Exercise("9.9", "t", "f", points=1, minutes=1, difficulty=1, hints=("a", "b", "c"))

def helper():
    return json.dumps(1)

@Q.also_right
def alone():
    return json.dumps(alone.__name__)

def helped():
    return helper()
"""


def test_a_cell_brings_its_imports_and_refuses_what_it_would_not_have(tmp_path, monkeypatch):
    (tmp_path / "helped.py").write_text(HELPED)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("helped")
    try:
        assert module.Q.second == "import json\n\n\ndef f():\n    return json.dumps(f.__name__)"
        with pytest.raises(ValueError, match="uses helper of its module"):
            module.Q.solution(module.helped)
    finally:
        del sys.modules["helped"]


def test_a_mistake_without_a_sentence_is_refused():
    with pytest.raises(ValueError, match="no docstring"):
        small().mistake(lambda x: x)


def test_what_an_exercise_forbids_is_refused_in_check_and_in_grading(nursery):
    forbidding = summing(lambda x: x.sum(0), forbids=("sum", "json"))
    source = "import torch\ndef sum_rows(x):\n    return torch.sum(x, 0)\n"
    here = judge(forbidding, LocalAnswer(run_cell(source, "sum_rows"), ("sum",)), 1)
    there = grade_source(forbidding, source, 1, nursery)
    for verdict in (here, there):
        assert verdict.state == "failed" and "sum may not be used" in verdict.message
    loop = "def sum_rows(x):\n    y = x[0] * 0\n    for r in x:\n        y = y + r\n    return y\n"
    assert grade_source(forbidding, loop, 1, nursery).passed
    assert "json may not" in grade_source(forbidding, "import json\n" + loop, 1, nursery).message


def test_a_law_that_gives_a_function_is_told_to_lend_it(nursery):
    law = spec.Law("f", lambda a, c: {"x": a(abs)}, lambda c, _: {"x": 1})
    source = "def sum_rows(f):\n    return f(-1)\n"
    for verdict in (local(small(laws=(law,)), source),
                    grade_source(small(laws=(law,)), source, 1, nursery)):  # fmt: skip
        assert "something of type builtin_function_or_method; give data, or lend" in verdict.message


def test_processor_time_is_paired_and_does_not_count_waiting():
    import time

    def work(n):
        for i in range(n):
            i * i

    found = paired(lambda: work(400_000), lambda: (work(40_000), time.sleep(0.05)))
    assert found.ratio > 3 and len(found.ratios) == 3


class Torn(spec.ByRightAnswer):
    """What is remembered changes between two looks at it, as another thread may change it."""

    _last = property(lambda self: next(self.looks), lambda self, value: None)


def test_a_class_is_judged_by_several_threads_and_each_gets_its_own_cases_right_answer():
    exercise = summing(lambda x: x.sum(0))
    mine, theirs = ({"x_ST": torch.full((2, 3), float(i)).double()} for i in (1, 5))
    run = exercise.laws[0].run
    torn = Torn(exercise, run)
    torn.looks = iter([(mine, exercise.of_right(run, mine))] + [(theirs, {"sum_T": None})] * 3)
    (wanted,) = torn(mine, {"sum_T": None}).values()
    assert wanted.value.tolist() == [2.0, 2.0, 2.0]
