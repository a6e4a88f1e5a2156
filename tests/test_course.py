"""check, hint and grade: what they say, what they refuse, what they leave behind."""

import csv
import inspect
import json
import re

import pytest
import torch

import kvlab
from kvlab import check, hint
from kvlab.cli import ROOT, main
from kvlab.course import ch06_answers, compare, notebooks, spec
from kvlab.course.answer import AnswerRaised, LocalAnswer
from kvlab.course.exercises import ALL
from kvlab.course.grade import grade, grade_source
from kvlab.course.judging import draw, judge
from kvlab.course.lending import LentFunction
from tests.test_exercises import local, run_cell

SOLUTION = ROOT / "solutions" / "06_kv_cache.ipynb"
STUBS = ROOT / "exercises" / "06_kv_cache.ipynb"
OUT_OF = sum(e.points for e in ALL if e.chapter == "6")
BY_NUMBER = {e.number: e for e in ALL}
ANSWERS = {e.number: e.second for e in ALL}


def test_a_stub_that_is_partly_filled_is_not_answered_yet_and_says_how_far(nursery):
    source = ANSWERS["6.5"].replace(
        "        if length < 0", f"        {notebooks.STUB}\n        if length < 0"
    )
    for verdict in (
        local(BY_NUMBER["6.5"], source),
        grade_source(BY_NUMBER["6.5"], source, 1, nursery),
    ):
        assert verdict.state == "not answered" and "1 of 6 laws" in verdict.message


def test_an_error_of_torch_is_no_stub():
    def half(*args):
        raise NotImplementedError('"addmm" not implemented for Half')

    assert check("6.2", half).state == "failed"


def test_check_and_grade_really_draw_them(monkeypatch):
    from kvlab.course import checking
    from kvlab.course.grade import Rules

    seeds = []
    monkeypatch.setattr(checking, "judge", lambda e, a, seed: seeds.append(seed))
    monkeypatch.setattr(checking.progress, "record", lambda verdict: None)
    check("6.3", print, seed=5)
    check("6.3", print)
    assert seeds[0] == "check 5" and seeds[1].startswith("check ") and Rules().seed[:6] == "grade "


def test_check_draws_new_cases_each_time_and_can_be_repeated():
    source = notebooks.answers(notebooks.read(SOLUTION))["q6_3"]
    audit = run_cell(source, "audit")
    assert check("6.3", audit).passed
    wrong = BY_NUMBER["6.3"].wrong[0].answer
    assert repr(check("6.3", wrong, seed=1)) == repr(check("6.3", wrong, seed=1))
    assert len({check("6.3", wrong).message for _ in range(5)}) > 1


def test_hints_come_one_at_a_time_and_the_last_stays():
    from kvlab.course import checking

    checking._next_hint.clear()
    seen = [repr(hint("6.1")) for _ in range(4)]
    assert len(set(seen)) == 3 and seen[2] == seen[3]
    assert repr(hint("6.1", 2)) == seen[1]
    with pytest.raises(ValueError, match="hints 1 to 3"):
        hint("6.1", 4)


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match=r"'7.9'.*6.1, 6.2"):
        check("7.9", print)
    with pytest.raises(ValueError, match="without brackets"):
        check("6.3", "reuses")
    with pytest.raises(ValueError, match=r"'x'"):
        hint("x")


class EveryType(type):
    __hash__ = type.__hash__

    def __eq__(self, other):
        return True


class Liar(metaclass=EveryType):
    """Its type is equal to every type."""

    def __ge__(self, other):
        return True

    def __float__(self):
        return 1.0


class Everything:
    def __eq__(self, other):
        return True

    def __getattr__(self, name):
        return Everything()

    def __iter__(self):
        return iter([Everything()] * 3)


class FriendlyTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return torch.tensor(True)


AT_LEAST = spec.Law("x", lambda a, c: {"x": a(0)}, lambda c, _: {"x": compare.AtLeast(1)})


def test_an_object_that_equals_everything_is_no_answer():
    assert not check("6.3", lambda *a: Everything()).passed
    assert not check("6.1", lambda *a: Everything()).passed
    lie = judge(small(laws=(AT_LEAST,)), LocalAnswer(lambda x: Liar()), 1)
    assert lie.state == "failed" and "of type Liar" in lie.message
    lie = check("6.2", lambda *a: [torch.zeros(1).as_subclass(FriendlyTensor)] * 3)
    assert not lie.passed and "FriendlyTensor" in lie.message


def test_changing_an_input_is_named():
    source = notebooks.answers(notebooks.read(SOLUTION))["q6_2"]
    right = run_cell(source, "attend_with_past")

    def careless(x, *rest):
        out = right(x, *rest)
        x += 1
        return out

    verdict = check("6.2", careless)
    assert not verdict.passed and "changed its argument number 1" in verdict.message


def test_a_failure_names_the_smallest_case_and_the_first_wrong_index():
    source = notebooks.answers(notebooks.read(SOLUTION))["q6_2"]
    right = run_cell(source, "attend_with_past")

    def off(*args):
        out, k, v = right(*args)
        out[1, 0, 1, 2] += 1
        return out, k, v

    message = check("6.2", off).message
    assert "out_BHSD: 1 of" in message
    assert "first at batch 1, head 0, position 1, channel 2" in message
    assert "x_BSC (" in message


DRAWN = [e for e in ALL if e.chapter == "6" and e.n_cases > 1]  # quizzes have one case


@pytest.mark.parametrize("exercise", DRAWN, ids=lambda e: e.number)
def test_of_all_failing_cases_the_smallest_is_shown(exercise):
    cases = draw(exercise, exercise.cases, 4)
    smallest, largest = min(cases, key=exercise.size), max(cases, key=exercise.size)
    assert exercise.size(smallest) < exercise.size(largest)
    message = judge(exercise, LocalAnswer(lambda *args: None), 4).message
    assert compare.describe(smallest) in message


def test_speed_is_judged_only_after_the_laws_and_by_the_clock(monkeypatch):
    from kvlab.measure import Comparison

    source = notebooks.answers(notebooks.read(SOLUTION))["q6_4"]
    exercise = BY_NUMBER["6.4"]
    assert local(exercise, source, clock=True).state in ("passed", "too noisy")
    for seconds, state in [
        ((3, 3, 3), "passed"),
        ((1, 1, 1), "failed"),
        ((3, 1, 3, 1), "too noisy"),
    ]:
        faked = Comparison(tuple(map(float, seconds)), (1.0,) * len(seconds))
        clock = spec.Clock("x", lambda a, c, f=faked: f, exercise.clock.at_least)
        changed = spec.Exercise(**{**vars(exercise), "clock": clock})
        assert local(changed, source, clock=True).state == state
        slow = judge(changed, LocalAnswer(ch06_answers.generate_without_cache), 1)
        assert "positions by call" in slow.message


# --- in another process -----------------------------------------------------------------------


def test_solutions_get_full_marks_and_stubs_none(nursery):
    full = grade(SOLUTION, nursery=nursery)
    assert full.points == full.out_of == OUT_OF, [repr(v) for v in full.verdicts]
    none = grade(STUBS, nursery=nursery)
    assert none.points == 0 and {v.state for v in none.verdicts} == {"not answered"}


def as_source(name, body, before=""):
    return f"import torch\n{before}\ndef {name}(*args):\n    {body}\n"


def wrong_source(exercise, wrong):
    """A wrong answer of chapter 6 as a learner's cell."""
    source = inspect.getsource(ch06_answers)
    if "kvlab.ops" not in exercise.allows:
        source = source.replace("from kvlab.ops import apply_rope, rope_angles", "")
    return f"{source}\n\n{exercise.name} = {wrong.answer.__name__}\n"


@pytest.mark.parametrize("some", [("6.1", "6.3", "6.5"), ("6.2", "6.4")])
def test_a_wrong_answer_loses_its_own_question_and_no_other(some, tmp_path, nursery):
    sources = {e.grade_id: e.second for e in BY_NUMBER.values() if e.chapter == "6"}
    for number in some:
        exercise = BY_NUMBER[number]
        sources[exercise.grade_id] = wrong_source(exercise, exercise.wrong[0])
    graded = grade(answered(tmp_path, sources), nursery=nursery)
    for verdict in graded.verdicts:
        assert verdict.passed is (verdict.exercise.number not in some), verdict
        if not verdict.passed:
            assert verdict.exercise.wrong[0].says in (verdict.mistake or ""), verdict


def test_check_refuses_the_imports_that_grading_will_refuse():
    def helper(*args):
        return notebooks.read(*args)

    class Inside:
        def append(self, *args):
            return [spec.named for _ in "x"]

    def late(*args):
        import kvlab.generation

        return kvlab.generation

    class Child(kvlab.KVCache):
        pass

    for answer, named in [
        (Child, "cache"),
        (helper, "notebooks"),
        (Inside, "spec"),
        (late, "generation"),
    ]:
        message = check("6.1", answer).message
        assert message.startswith("kvlab.") and f"{named} may not be used" in message
    assert check("6.2", run_cell(ANSWERS["6.2"], "attend_with_past")).passed


def test_an_attribute_with_the_name_of_a_global_is_not_that_global():
    """A reader's notebook has helpers that call check; the answer must really use one to fail."""
    helper = "from kvlab import check\ndef run(f): return check('11.1', f)\n"
    answer = """
def compare(race, pairs, at_least):
    import math
    def seconds(name): return USES(name)
    seconds("slow"), seconds("fast")
    pair = [{n: seconds(n) for n in ("slow", "fast")[:: 1 - 2 * (i % 2)]} for i in range(pairs)]
    share = math.fsum(p["slow"] / p["fast"] >= at_least for p in pair) / pairs
    return "faster" if share >= 0.8 else "not faster" if share <= 0.2 else "too noisy"
"""
    used = run_cell(helper + answer.replace("USES", "race.run"), "compare")
    assert check("11.1", used).passed
    used = run_cell(helper + answer.replace("USES", "run"), "compare")
    assert "kvlab.course.checking may not be used" in check("11.1", used).message


DEEP = {
    "Python's": "json.loads('{')",
    "torch's": "torch.nn.functional.softmax('x', 0)",
    "an installed package's": "numpy.linalg.inv(numpy.zeros(3))",
    "ours": "kvlab.generate(None, [], 1)",
}


@pytest.mark.parametrize("whose", DEEP)
@pytest.mark.parametrize("folder", ["kvlab", "torch of mine", "on importlib", "x"])
def test_the_line_that_failed_is_the_learners_wherever_their_file_lies(whose, folder, tmp_path):
    """`git clone` makes a folder called kvlab, and a learner may write a file in it."""
    file = tmp_path / folder / "mine.py"
    file.parent.mkdir()
    source = f"import json, numpy, torch, kvlab\n\n\ndef f(x):\n    return {DEEP[whose]}\n"
    file.write_text(source)
    names = {}
    exec(compile(source, str(file), "exec"), names)
    with pytest.raises(AnswerRaised) as caught:
        LocalAnswer(names["f"])(1)
    assert caught.value.where == f"line 5: return {DEEP[whose]}"


def test_an_empty_answer_cell_is_named(nursery):
    verdict = grade_source(BY_NUMBER["6.3"], "x = 1", 3, nursery)
    assert "does not define audit" in verdict.message


# --- what an author writes -----------------------------------------------------------------------


def small(**changes):
    """An exercise as docs/how-to-add-an-exercise.md begins it."""

    def reference(x_ST):
        return x_ST.sum(0)

    parts = {
        "number": "0.1", "title": "Sum", "name": "sum_rows", "points": 1, "minutes": 1,
        "difficulty": 1, "hints": ("a", "b", "c"), "wrong": (), "second": "",
        "cases": lambda rng: {"x_ST": torch.full((rng.randint(2, 4), 3), 2.0).double()},
        "laws": (spec.agrees("adds the rows", reference, "x_ST", gives="sum_T"),),
    }  # fmt: skip
    return spec.Exercise(**{**parts, **changes})


def test_a_law_of_agreement_is_one_line():
    assert judge(small(), LocalAnswer(lambda x: x.sum(0)), 1).passed
    failed = judge(small(), LocalAnswer(lambda x: x.sum(0) + torch.eye(3)[1].double()), 1)
    assert "sum_T: 1 of 3 numbers are wrong, first at slot 1" in failed.message


def how_to():
    """The names that docs/how-to-add-an-exercise.md defines, and its answer and check cell."""
    page = (ROOT / "docs" / "how-to-add-an-exercise.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, names)
    cells = page[page.index("## 4. The cells") :]
    return names, re.findall(r"```\n(.*?)```", cells, re.S)


@pytest.mark.parametrize("name", ["MIX", "PEAK", "SIXTH", "ROWS", "TENTH"])
def test_the_exercises_in_the_how_to_are_whole_ones(name):
    exercise = how_to()[0][name]
    for seed in range(10):
        assert local(exercise, exercise.second, seed).passed
        for wrong in exercise.wrong:
            verdict = judge(exercise, LocalAnswer(wrong.answer), seed)
            assert verdict.state == "failed" and wrong.says in (verdict.mistake or ""), verdict
    assert len(exercise.wrong) >= 4


def test_a_quiz_says_why_and_not_what(nursery):
    names, _ = how_to()

    def said(name, value):
        source = f"def {names[name].name}():\n    return {value!r}\n"
        here, there = local(names[name], source), grade_source(names[name], source, 1, nursery)
        assert repr(here) == repr(there)
        return here

    assert said("SIXTH", "c").message == "your choice: 'c' is not right."
    assert "used once" in said("SIXTH", " C ").mistake
    assert said("SIXTH", "B").passed and "Keys and values" in said("SIXTH", "B").message
    assert "expected one of ['a', 'b', 'c', 'd', 'e']" in said("SIXTH", "f").message
    assert said("ROWS", 74.0).passed
    assert said("ROWS", 68).mistake == "the text grows by one token in each step."
    for value, text in [(75, "75 is not right"), ("74", "expected one number"), (True, "one num")]:
        assert text in said("ROWS", value).message and said("ROWS", value).mistake is None
    assert said("TENTH", [False, True, True, False]).passed
    two = said("TENTH", [False, True, False, True])
    assert two.message == "claim 3: False is not right." and two.mistake == "one row: its own."
    assert "a list of 4" in said("TENTH", [True]).message
    assert said("TENTH", (False, True, True, 0)).message.endswith("each True or False.")


def test_a_number_may_be_near():
    about = {"number": "0.2", "title": "Pi", "name": "pi", "hints": ("a", "b", "c"), "points": 1,
             "minutes": 1, "difficulty": 1}  # fmt: skip
    pi = spec.one_number(right=3.14159, within=0.005, wrong={3: "rounded."}, **about)
    assert judge(pi, LocalAnswer(lambda: 3.14), 1).passed
    assert judge(pi, LocalAnswer(lambda: 3.0), 1).mistake == "rounded."
    assert "one number" in judge(pi, LocalAnswer(lambda: float("nan")), 1).message


def test_bars_and_tolerances():
    fault = compare.difference
    assert fault("x", 0.9, compare.AtLeast(0.9)) is None is fault("x", 3, compare.AtMost(3))
    assert "at least 0.9, got 0.89" in fault("x", 0.89, compare.AtLeast(0.9))
    assert "at most 3, got 4" in fault("x", 4, compare.AtMost(3))
    for odd in (float("nan"), "1", None, True, torch.tensor(5.0)):
        assert fault("x", odd, compare.AtLeast(0)) and fault("x", odd, compare.AtMost(10))
    wanted = compare.Near(torch.ones(3), rtol=0.01)
    assert fault("x_T", torch.full((3,), 1.005), wanted) is None
    assert "first at slot 0" in fault("x_T", torch.full((3,), 1.02), wanted)
    tree = {"a": [1, 2.0], "b": True}
    assert fault("x", {"b": True, "a": [1, 2.0]}, tree) is None
    assert fault("x", {"b": True, "a": [1, 3]}, tree) == "x['a'][1]: expected 2, got 3."
    assert "expected {" in fault("x", {"a": [1, 2.0]}, tree)
    assert fault("x_T", torch.tensor([float("nan")]), torch.tensor([float("nan")])) is None
    assert fault("x", float("nan"), float("nan")) is None and fault("x", 0.0, float("nan"))
    assert "torch.int64, got torch.int32" in fault("x", torch.ones(2).int(), torch.ones(2).long())


def test_several_results_are_told_apart():
    def both(x_ST):
        return x_ST.sum(0), x_ST.sum(1)

    law = spec.agrees("two sums", both, "x_ST", gives=("a_T", "b_S"))
    assert judge(small(laws=(law,)), LocalAnswer(both), 1).passed
    failed = judge(small(laws=(law,)), LocalAnswer(lambda x: (x.sum(0), x.sum(1) + 1)), 1)
    assert "b_S: " in failed.message and "first at position 0" in failed.message
    failed = judge(small(laws=(law,)), LocalAnswer(lambda x: x), 1)
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
    law = spec.agrees("sorted", sorted, "x")
    sorting = small(name="sort", laws=(law,), cases=lambda rng: {"x": rng.sample(range(9), 5)})
    for verdict in (local(sorting, sort), grade_source(sorting, sort, 1, nursery)):
        assert "changed its argument number 1" in verdict.message
    assert local(sorting, "def sort(x):\n    return sorted(x)\n").passed


def test_its_cells_get_their_metadata_and_the_learners_copy():
    names, sources = how_to()
    exercise = names["MIX"]
    cells = [{"cell_type": "code", "metadata": {}, "source": s} for s in sources]
    marked = notebooks.mark({"cells": cells}, [exercise])
    answer, check_cell = (c["metadata"]["nbgrader"] for c in marked["cells"])
    assert answer["grade_id"] == "q99_1" and answer["solution"] and not answer["grade"]
    assert check_cell["grade_id"] == "q99_1_check" and check_cell["points"] == 2
    assert notebooks.mark(marked, [exercise]) == marked
    learners = notebooks.release(marked)
    stub = notebooks.answers(learners)["q99_1"]
    assert local(exercise, stub).state == "not answered"
    assert notebooks.source(learners["cells"][1]) == 'check("99.1", sum_slots)'


def test_what_an_exercise_forbids_is_refused_in_check_and_in_grading(nursery):
    forbidding = small(forbids=("sum", "json"))
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


def test_the_call_that_a_law_shows_is_named_and_the_inputs_can_be_had(nursery):
    law = spec.Law("f", lambda a, c: {"x": a(c["n"] + 1)}, lambda c, _: {"x": 0},
                   shows=lambda c: f"f({c['n'] + 1})")  # fmt: skip
    source = "def f(n):\n    return n\n"
    one = small(name="f", laws=(law,), cases=lambda rng: {"n": rng.randint(1, 9), "_seed": 3})
    here = local(one, source)
    n = here.case["n"]
    assert here.case == {"n": n} and f'"f" does not hold on f({n + 1}).' in here.message
    assert "`.case` of this verdict" in repr(here)
    private = judge(one, LocalAnswer(lambda n: n), 1, private=lambda rng: {"n": 0})
    assert private.case is None and "a private case" in private.message
    there = grade_source(one, source, 1, nursery)
    assert there.case is None and ".case" not in repr(there)


def test_a_known_mistake_that_breaks_an_earlier_law_is_not_the_one_that_was_made():
    laws = [spec.Law(f"{i}", lambda a, c, i=i: {"x": a(i)}, lambda c, _: {"x": 0}) for i in (1, 2)]
    wrong = [spec.Wrong(lambda i: 7, "always"), spec.Wrong(lambda i: 7 * (i == 2), "sometimes")]
    one = small(name="f", laws=laws, cases=lambda rng: {"n": 1}, wrong=wrong)
    named = [judge(one, LocalAnswer(w.answer), 1).mistake for w in wrong]
    assert named == ["always", "sometimes"]
    alone = small(name="f", laws=laws, cases=lambda rng: {"n": 1}, wrong=wrong[:1])
    assert judge(alone, LocalAnswer(wrong[1].answer), 1).mistake == "always", "better than no name"


def test_a_result_of_another_form_is_the_answers_fault_and_not_the_laws():
    law = spec.Law("two", lambda a, c: dict(zip("xy", a(), strict=True)), lambda c, _: {"x": 1})
    verdict = judge(small(laws=(law,)), LocalAnswer(lambda: 7), 1)
    assert verdict.state == "failed" and "of another form (TypeError" in verdict.message


def test_processor_time_is_paired_and_does_not_count_waiting():
    import time

    def work(n):
        for i in range(n):
            i * i

    found = spec.paired(lambda: work(400_000), lambda: (work(40_000), time.sleep(0.05)))
    assert found.ratio > 3 and len(found.ratios) == 3


# --- pictures and progress ------------------------------------------------------------------------


def test_a_picture_shows_where_it_is_wrong_and_only_then():
    source = notebooks.answers(notebooks.read(SOLUTION))["q6_2"]
    right = run_cell(source, "attend_with_past")

    def off(*args):
        out, k, v = right(*args)
        out[1, 0, 1] += 1
        return out, k, v

    shown = check("6.2", off)._repr_html_()
    assert shown.count("<rect") >= 8 and shown.count('fill-opacity="1.00"') == 1
    assert "across: position; down: batch and head; the redder" in shown and "out_BHSD" in shown
    assert check("6.2", right)._repr_html_() is None
    assert check("6.3", lambda *a: "<b>")._repr_html_() is None


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


# --- notebooks --------------------------------------------------------------------------------


def answered(tmp_path, changes):
    """A submission: the learner's notebook with some cells filled in."""
    notebook = notebooks.read(STUBS)
    for cell in notebook["cells"]:
        if notebooks.grade_id(cell) in changes:
            cell["source"] = changes[notebooks.grade_id(cell)]
    path = tmp_path / "submission.ipynb"
    notebooks.write(path, notebook)
    return path


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
    assert [q["points"] for q in marks["questions"]] == [3, 0, 0, 0, 0, 0, 0]
    assert [q["state"] for q in marks["questions"]] == [
        "passed", "failed", "failed", *["not answered"] * 4,
    ]  # fmt: skip
    rows = list(csv.reader(out[1].open()))
    assert rows[1][1:10] == ["3", str(OUT_OF), "3", *"000000"]


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}", '{"cells": 3}', '{"cells": [1]}'])
def test_a_file_that_is_no_notebook_is_named(text, tmp_path, capsys):
    path = tmp_path / "x.ipynb"
    path.write_text(text)
    assert main(["grade", str(path)]) == 1
    assert "x.ipynb" in capsys.readouterr().err


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
    assert [v.state for v in graded.verdicts] == ["not answered", "no cell", *["not answered"] * 5]
    assert "6.2" in graded.note


def test_release_notices_a_change():
    changed = notebooks.read(SOLUTION)
    changed["cells"][0]["source"] = ["another title"]
    assert notebooks.release(changed) != notebooks.read(STUBS)


def test_the_version_is_one(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert kvlab.__version__ in capsys.readouterr().out
