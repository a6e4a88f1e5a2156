"""How an answer is judged: which case is shown, which mistake is named, what is no answer."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
import torch

from kvlab import check
from kvlab.course.author import compare, spec
from kvlab.course.exercises import ALL
from kvlab.course.grading import notebooks
from kvlab.course.grading.grade import grade_source
from kvlab.course.judge import draw, judge
from kvlab.course.sandbox.answer import AnswerRaised, LocalAnswer, NotData, as_data
from tests.course.answering import ANSWERS, BY_NUMBER, SOLUTION, local, run_cell, small


def test_a_stub_that_is_partly_filled_is_not_answered_yet_and_says_how_far(nursery):
    source = ANSWERS["6.5"].replace(
        "        if length < 0", f"        {notebooks.STUB}\n        if length < 0"
    )
    for verdict in (
        local(BY_NUMBER["6.5"], source),
        grade_source(BY_NUMBER["6.5"], source, 1, nursery),
    ):
        assert (
            verdict.state == "not answered"
            and f"1 of {len(BY_NUMBER['6.5'].laws)} laws" in verdict.message
        )


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


def test_a_fraction_is_a_number_and_one_of_the_learners_own_is_not():
    class Own(Fraction):
        pass

    assert as_data([Fraction(1, 4), Decimal("0.5")]) == [0.25, 0.5]
    for odd, says in ((Fraction(10**400), "a Fraction beyond all floats"), (Own(1), "type Own")):
        with pytest.raises(NotData, match=says):
            as_data(odd)


def test_changing_an_input_is_named():
    source = notebooks.answers(notebooks.read(SOLUTION))["q6_2"]
    right = run_cell(source, "attend_with_past")

    def careless(x, *rest):
        out = right(x, *rest)
        x += 1
        return out

    verdict = check("6.2", careless)
    assert (
        not verdict.passed
        and "changed its argument number 1 (x); work on x.clone()" in verdict.message
    )


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
    again = next(w for w in exercise.wrong if "reads the whole text again" in w.says)
    assert local(exercise, source, clock=True).state in ("passed", "too noisy")
    for seconds, state in [
        ((3, 3, 3), "passed"),
        ((1, 1, 1), "failed"),
        ((3, 1, 3, 1), "too noisy"),
    ]:
        faked = Comparison(tuple(map(float, seconds)), (1.0,) * len(seconds))
        clock = spec.Clock("x", lambda a, c, f=faked: f, exercise.clock.at_least)
        changed = replace(exercise, clock=clock)
        assert local(changed, source, clock=True).state == state
        slow = judge(changed, LocalAnswer(again.answer), 1)
        assert "positions by call" in slow.message


def test_the_call_that_a_law_shows_is_named_and_the_inputs_can_be_had(nursery):
    law = spec.Law("f", lambda a, c: {"x": a(c["n"] + 1)}, lambda c, _: {"x": 0},
                   shows=lambda c: f"f({c['n'] + 1})")  # fmt: skip
    source = "def f(n):\n    return n\n"
    one = small(name="f", laws=(law,), cases=lambda rng: {"n": rng.randint(1, 9), "_seed": 3})
    here = local(one, source)
    n = here.case["n"]
    assert here.case == {"n": n} and f'"f" does not hold on f({n + 1}).' in here.message
    assert "inputs that failed: `verdict.case`" in repr(here)
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


def test_of_mistakes_that_look_alike_the_one_that_fits_all_cases_is_named():
    """The first two do the same on one case of two; the third breaks a law, on the other case."""
    cases = iter([{"n": 1}, {"n": 2}] * 9)
    earlier = spec.Law("1", lambda a, c: {"x": a(9 + c["n"])}, lambda c, _: {"x": 0})
    law = spec.Law("2", lambda a, c: {"x": a(c["n"])}, lambda c, _: {"x": 0})
    wrong = [
        spec.Wrong(lambda n: 7 * (n < 9), "always"),
        spec.Wrong(lambda n: 7 * (n == 1), "once"),
        spec.Wrong(lambda n: 7 * (n < 9 or n == 11), "breaks the other law"),
    ]
    one = small(
        name="f", laws=(earlier, law), cases=lambda rng: next(cases), n_cases=2, wrong=wrong
    )
    named = [judge(one, LocalAnswer(w.answer), 1).mistake for w in wrong[:2]]
    assert named == ["always", "once"]
    neither = spec.Wrong(lambda n: 7 if n == 1 else 8 * (n == 2), "")
    said = judge(one, LocalAnswer(neither.answer), 1).mistake
    assert said == "always Or: once", "better than no name"


def test_a_result_of_another_form_is_the_answers_fault_and_not_the_laws():
    law = spec.Law("two", lambda a, c: dict(zip("xy", a(), strict=True)), lambda c, _: {"x": 1})
    verdict = judge(small(laws=(law,)), LocalAnswer(lambda: 7), 1)
    assert verdict.state == "failed" and "of another form (TypeError" in verdict.message


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


def test_a_fault_of_the_judge_is_a_verdict_of_its_own(nursery):
    def expect(case, outcome):
        raise ZeroDivisionError("nobody thought of this")

    odd = small(laws=(spec.Law("x", lambda a, c: {"x": a(c["x_ST"])}, expect),))
    source = "def sum_rows(x):\n    return 1\n"
    for verdict in (local(odd, source), grade_source(odd, source, 1, nursery)):
        assert verdict.state == "not judged" and "nobody thought of this" in verdict.message


def test_a_law_that_meets_another_dtype_says_whose():
    from kvlab.course.author import laws

    def law(k_ND):
        return k_ND @ torch.ones(2, 2).double()

    law.__code__ = law.__code__.replace(co_filename="/x/course/ch01/q.py")
    one = small(laws=(spec.Law("x", lambda a, c: {"x": law(a(1))}, lambda c, _: {"x": 1}),))
    said = judge(one, LocalAnswer(lambda x: torch.ones(2, 2)), 1).message
    assert "k_ND is torch.float32; expected torch.float64: what is made anew" in said, said
    assert laws.narrow(RuntimeError("something else")) == ""


def test_what_torch_asks_for_in_its_own_terms_is_said_in_plain_ones():
    """As torch says it today: a text that it words anew would go unexplained."""
    exercise, double = small(), torch.ones(2, 2).double()
    exercise.right(lambda x: x.sum(1))
    exercise.agrees("sum", "x_ST", gives="sum_S")
    for wrong, says in (
        (lambda x: x.argsort(-1, stable=True), "argsort(dim=-1, stable=True)."),
        (lambda x: x.argsort(1, descending=True, stable=True), "argsort(dim=-1, stable=True)."),
        (lambda x: x.float() @ x.T, "Tensors of two types meet"),
        (
            lambda x: torch.zeros(2, 2).scatter(0, torch.zeros(1, 1).long(), double),
            "two types meet",
        ),
        (lambda x: torch.zeros(2).index_put((torch.tensor([0]),), double[0, 0]), "two types meet"),
        (lambda x: x.nothing(), "has no attribute 'nothing' (line"),
    ):
        said = judge(exercise, LocalAnswer(wrong), 1).message
        assert says in said and ("dtype=x.dtype" in said) == ("types" in says), said


OWN_ERROR = """
class CacheFull(ValueError):
    pass


def sum_rows(x):
    raise CacheFull("full")
"""


def test_an_error_of_ones_own_counts_as_what_it_is_made_from(nursery):
    from kvlab.course.author import raised_by

    law = spec.Law("e", lambda a, c: {"e": raised_by(a, 1)}, lambda c, _: {"e": "ValueError"})
    for expected in ("ValueError", "KeyError"):
        one = small(laws=(replace(law, expect=lambda c, _, e=expected: {"e": e}),))
        for verdict in (local(one, OWN_ERROR), grade_source(one, OWN_ERROR, 1, nursery)):
            assert verdict.passed is (expected == "ValueError"), verdict


LIKE = {
    "a defaultdict": "d = collections.defaultdict(float); d['a'] = 1.5; return d",
    "an OrderedDict": "return collections.OrderedDict(a=1.5)",
    "a dict of one's own": "class D(dict): items = list\n    return D(a=1.5)",
    "a numpy text as a key": "return {np.str_('a'): np.float64(1.5)}",
    "a namedtuple": "return collections.namedtuple('P', 'a b')(1, 2)",
    "a deque": "return collections.deque([1, 2])",
    "a range": "return range(1, 3)",
    "keys of a dict": "return {1: 0, 2: 0}.keys()",
    "torch's Size": "return torch.ones(1, 2).shape",
    "a numpy view that runs backwards": "return np.array([2, 1])[::-1]",
    "numpy's other byte order": "return np.array([1, 2], dtype='>i8')",
    "numpy's objects": "return np.array([1, 2], dtype=object)",
    "a column of a numpy matrix": "return np.array([[1, 9], [2, 9]])[:, 0]",
}
WANTED = {"torch's Size": [1, 2], **{key: {"a": 1.5} for key in list(LIKE)[:4]}}


@pytest.mark.parametrize("what", LIKE)
def test_what_is_like_a_list_or_a_dict_is_one(what, nursery):
    source = f"import collections, torch, numpy as np\ndef sum_rows(x):\n    {LIKE[what]}\n"
    wanted = WANTED.get(what, [1, 2])
    law = spec.Law("x", lambda a, c: {"x": a(1)}, lambda c, _: {"x": wanted})
    for verdict in (local(small(laws=(law,)), source),
                    grade_source(small(laws=(law,)), source, 1, nursery)):  # fmt: skip
        assert verdict.passed, verdict


@pytest.mark.parametrize(
    "odd", ["(i for i in 'ab')", "{1, 2}", "{1: 2}", "np.array([1j])", "object()"]
)
def test_what_is_neither_is_named(odd):
    source = f"import numpy as np\ndef sum_rows(x):\n    return {odd}\n"
    law = spec.Law("x", lambda a, c: {"x": a(1)}, lambda c, _: {"x": 1})
    assert "; expected " in local(small(laws=(law,)), source).message


@pytest.mark.parametrize("name", ["raised", "not data"])
def test_a_laws_value_may_have_any_name(name):
    """Also one of those by which the judge might note that there was no value."""
    law = spec.Law("doubles", lambda a, c: {name: a(c["x"])}, lambda c, _: {name: 2 * c["x"]})
    exercise = replace(BY_NUMBER["2.1"], laws=(law,), cases=lambda rng: {"x": 3}, wrong=())
    exercise = replace(exercise, size=lambda case: 1, clock=None)
    right = judge(exercise, LocalAnswer(lambda x: 2 * x), 1)
    wrong = judge(exercise, LocalAnswer(lambda x: x), 1)
    assert (
        right.passed and wrong.state == "failed" and f"{name}: expected 6, got 3" in wrong.message
    )
