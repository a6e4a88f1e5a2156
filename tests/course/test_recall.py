"""What a failed check keeps: the very call that failed, with what was lent, to be made by hand."""

import ast
import inspect
import re

import pytest
import torch

from kvlab import check
from kvlab.course import retold
from kvlab.course.author import Lent, raised_by, spec
from kvlab.course.exercises import ALL, find
from kvlab.course.judge import judge
from kvlab.course.sandbox.answer import LocalAnswer
from tests.course.answering import run_cell
from tests.course.test_judge import small


def failed(number, says, seed=1):
    """The verdict on a known wrong answer, and the answer."""
    (wrong,) = (w.answer for w in find(number).wrong if says in w.says)
    return judge(find(number), LocalAnswer(wrong), seed, clock=False, recalls=True), wrong


def test_a_suspect_is_kept_and_leaks_as_the_message_says():
    verdict, wrong = failed("2.3", "output j may move when token j changes")
    assert verdict.case.keys() == {"attention", "n_texts", "n_tokens", "width"}
    first = wrong(**verdict.case)
    kind = verdict.message.split('the suspect "')[1].split('"')[0]
    assert first == [0, 0] and "got 'output 0 moves with token 0'" in verdict.message, kind
    n_texts, n_tokens, width = (verdict.case[n] for n in ("n_texts", "n_tokens", "width"))
    x_BSC = torch.randn(n_texts, n_tokens, width, dtype=torch.float64)
    assert verdict.case["attention"](x_BSC).shape == x_BSC.shape
    assert "`first_leak(**verdict.case)`" in repr(verdict)


def test_a_device_is_kept_as_it_was_before_the_call():
    own = [w for w in find("5.4").wrong if "another clock" not in w.says]
    for wrong in own[:2]:
        verdict = judge(find("5.4"), LocalAnswer(wrong.answer), 1, recalls=True)
        assert {"device", "slow", "fast", "n"} == verdict.case.keys()
        once, again = (
            wrong.answer(**judge(find("5.4"), LocalAnswer(wrong.answer), 1, recalls=True).case)
            for _ in "12"
        )
        assert once == again


def laws(*runs):
    return [
        spec.Law(f"law {i}", run, lambda c, o: dict.fromkeys(o, 0)) for i, run in enumerate(runs)
    ]


def the(run, answer):
    one = small(name="f", laws=laws(run), cases=lambda rng: {"n": 3})
    one.solution(lambda n: 0)
    return judge(one, LocalAnswer(answer), 1, recalls=True)


def test_of_many_calls_the_one_that_failed_is_kept():
    def run(answer, case):
        return {f"of {n}": answer(n) for n in range(5)}

    assert the(run, lambda n: 1 if n == 2 else 0).case == {"n": 2}
    assert the(run, lambda m: 1 if m == 4 else 0).case == {"m": 4}, "by the answer's own names"
    both = the(run, lambda n: 1 if n > 2 else 0)
    assert both.case == {"n": 3} and both.again


def test_a_law_that_looked_for_the_call_itself_says_which_it_is():
    """Of more calls than are looked through; 9.2's plans are such."""

    def run(answer, case):
        bad = [n for n in range(300) if answer(n)]
        return {"_call": bad[:1], "wrong": len(bad)}

    assert the(run, lambda n: n in (260, 270)).case == {"n": 260}
    verdict, wrong = failed("9.2", "is told from what is pending alone")
    assert verdict.case.keys() >= {"requests", "budget", "rule"}
    assert f"got {wrong(**verdict.case)}" in verdict.message


def test_a_call_that_raises_or_gives_no_data_is_kept():
    def run(answer, case):
        return {"sum": answer(1) + answer(2) + answer(3)}

    assert the(run, lambda n: 1 // (n - 2)).case == {"n": 2}
    assert the(run, lambda n: object() if n == 2 else 0).case == {"n": 2}
    assert the(run, lambda n: "x" if n == 2 else 0).case == {"n": 2}


def test_what_is_kept_is_what_came_before_the_answer_spoilt_it():
    def spoil(x_S):
        x_S += 1
        return x_S

    verdict = the(lambda answer, case: {"x": answer(torch.zeros(2))}, spoil)
    assert verdict.case["x_S"].tolist() == [0, 0] and "changed its argument" in verdict.message


@pytest.mark.parametrize("answer", [lambda *n: 1, lambda n, /: 1], ids=["star", "no name"])
def test_without_names_the_case_is_kept_as_it_is(answer):
    verdict = the(lambda a, c: {"x": a(7)}, answer)
    assert verdict.case == {"n": 3} and not verdict.again
    assert "The inputs that failed: `verdict.case`." in repr(verdict)


FUNCTIONS = [e for e in ALL if e.n_cases > 1 and not isinstance(e.wrong[0].answer, type)]


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=lambda e: e.number)
def test_every_question_for_a_function_keeps_a_call_that_can_be_made(exercise):
    """A known mistake's, under the names of the solution's arguments if it has none itself."""
    for wrong in exercise.wrong:
        verdict = judge(
            exercise, LocalAnswer(named_as(exercise, wrong.answer)), 1, clock=False, recalls=True
        )
        assert verdict.again, verdict
        if "raised" not in verdict.message:
            wrong.answer(*verdict.case.values())
            return
    raise AssertionError(f"every known mistake of {exercise.number} raises")


def named_as(exercise, answer):
    (solved,) = (
        n for n in ast.parse(exercise.cell).body if getattr(n, "name", "") == exercise.name
    )
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    asked = inspect.Signature([inspect.Parameter(a.arg, kind) for a in solved.args.args])

    def named(*args, **by_name):
        return answer(*asked.bind(*args, **by_name).args)

    named.__signature__ = asked
    return named


# A ghost tells how calls went together: which one was wrong is not to be seen in what it gave.
GHOSTS = ("8.3", "8.4", "8.5", "8.7")
CLASSES = [
    e
    for e in ALL
    if e.n_cases > 1 and isinstance(e.wrong[0].answer, type) and e.number not in GHOSTS
]


@pytest.mark.parametrize("which", [0, -1], ids=["first mistake", "last mistake"])
@pytest.mark.parametrize("exercise", CLASSES, ids=lambda e: e.number)
def test_every_question_for_a_class_keeps_calls_that_go_wrong_again(exercise, which):
    wrong = exercise.wrong[which].answer
    verdict = judge(exercise, LocalAnswer(wrong), 1, clock=False, recalls=True)
    assert f"`verdict.case.on({exercise.name})`" in repr(verdict) and verdict.case.steps
    assert f" = {exercise.name}(" in repr(verdict.case)
    theirs, right = (
        after(verdict.case, kind) for kind in (wrong, run_cell(exercise.cell, exercise.name))
    )
    assert theirs != right
    assert theirs == after(verdict.case, wrong), "each time anew"


def test_the_calls_of_a_ghosts_story_end_with_the_story():
    exercise = next(e for e in ALL if e.number == "8.3")
    wrong = exercise.wrong[0].answer
    verdict = judge(exercise, LocalAnswer(wrong), 1, clock=False, recalls=True)
    deeds = re.findall(r"(\w) grows by (\d)", verdict.message)
    last = repr(verdict.case).rpartition(" = Blocks(")[2]
    assert deeds and re.findall(r"grow\('(\w)', (\d)\)", last) == deeds


def after(case, kind):
    """What the last call gives, and what is lent then, as texts."""
    try:
        given = case.on(kind)
    except Exception as error:
        given = type(error)
    return repr([as_lists(given), *[vars(one) for one in case.lent]])


def as_lists(value):
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), value.tolist()]
    return [as_lists(v) for v in value] if isinstance(value, (tuple, list)) else value


class Counter:
    """The right answer of a small exercise: counts, and keeps what it was given."""

    def __init__(self, start):
        self.n, self.rows_S = start, torch.zeros(2)

    def add(self, n):
        self.n += n
        return self.n

    def view(self):
        return self.rows_S

    def fork(self):
        return type(self)(self.n)


def the_class(run, changes, right=Counter):
    one = small(name="Counter", laws=laws(run), cases=lambda rng: {"n": 3, "_seed": 1})
    one.laws = [spec.Law("it counts", run, spec.ByRightAnswer(one, run, 0, 0))]
    one.solution(right)
    kind = type("Mine", (right,), changes)
    return judge(one, LocalAnswer(kind), 1, recalls=True), kind


def test_calls_end_at_the_one_that_failed():
    def run(answer, case):
        counter = answer.make(case["n"])
        return {f"after {n}": counter.call("add", n) for n in range(6)}

    verdict, mine = the_class(run, {"add": lambda self, n: n if n > 2 else Counter.add(self, n)})
    assert repr(verdict.case) == "x0 = Counter(3)\nx0.add(0)\nx0.add(1)\nx0.add(2)\nx0.add(3)"
    assert (verdict.case.on(mine), verdict.case.on(Counter)) == (3, 9)
    assert verdict.case == {"n": 3} and verdict.case.steps[-1].args == (3,)
    with pytest.raises(ValueError, match="given a Mine; expected Counter itself"):
        verdict.case.on(mine(3))


def test_calls_of_objects_that_objects_make_and_of_what_is_held():
    def run(answer, case):
        one = answer.make(case["n"])
        held, twin = one.hold("view"), one.make("fork")
        return {"twin": twin.call("add", 1), "one": one.call("add", 1), "rows_S": held.now()}

    verdict, mine = the_class(run, {"add": lambda self, n: self.rows_S.add_(1) is None or 4})
    assert repr(verdict.case) == (
        "x0 = Counter(3)\nx1 = x0.view()\nx2 = x0.fork()\nx2.add(1)\nx0.add(1)\nx1"
    )
    assert verdict.case.on(mine).tolist() == [1, 1] and verdict.case.on(Counter).tolist() == [0, 0]


def test_calls_end_at_an_error_which_comes_again():
    def run(answer, case):
        counter = answer.make(case["n"])
        refused = spec_raised(counter)
        return {"refused": refused, "sum": counter.call("add", 1) + counter.call("add", 2)}

    def spec_raised(counter):
        return raised_by(counter.call, "add", "a")

    def add(self, n):
        return Counter.add(self, n) if n != 1 else self.missing

    verdict, mine = the_class(run, {"add": add})
    assert repr(verdict.case) == "x0 = Counter(3)\nx0.add('a')\nx0.add(1)"
    with pytest.raises(AttributeError, match="missing"):
        verdict.case.on(mine)
    assert verdict.case.on(Counter) == 4, "the error before it is passed over, as by the law"


def test_what_is_lent_is_one_thing_in_all_calls_and_as_it_was():
    def run(answer, case):
        book = Book()
        answer.make(book).call("add", book)
        return {"pages": book.pages}

    wrong = {"add": lambda self, book: book.turn() + book.turn()}
    one, mine = the_class(run, wrong, Reader)
    assert repr(one.case) == "x0 = Counter(book)\nx0.add(book)" and one.case.on(mine) == 5
    assert one.case.on(mine) == 5 and [book.pages for book in one.case.lent] == [3]
    assert "`verdict.case.lent` what was lent" in repr(one)


class Reader:
    """Turns a page at the beginning, and another in each call."""

    def __init__(self, book):
        book.turn()

    def add(self, book):
        return book.turn()


class Book(Lent):
    lends = ("turn",)

    def __init__(self):
        self.pages = 0

    def turn(self):
        self.pages += 1
        return self.pages


def test_a_law_that_calls_for_ever_keeps_the_case_alone():
    def run(answer, case):
        counter = answer.make(case["n"])
        return {"sum": [counter.call("add", 1) for _ in range(retold.MOST + 1)][-1]}

    verdict, _ = the_class(run, {"add": lambda self, n: 0})
    assert verdict.case == {"n": 3} and not verdict.again


def test_check_says_how_to_make_the_call_again():
    def all_allowed(n_new, n_slots):
        return torch.ones(n_new, n_slots, dtype=torch.bool)

    verdict = check("2.1", all_allowed)
    assert "Again by hand: `causal_mask(**verdict.case)`." in repr(verdict)
    assert all_allowed(**verdict.case).all()


def test_the_sentence_describes_the_call_that_failed():
    verdict, _ = failed("4.2", "row j is given the numbers of another row")
    width = verdict.case["x_SC"].shape[1]
    assert f'"one row alone" does not hold on x_SC (1, {width}), the part ' in verdict.message


def test_a_quiz_has_no_call_to_make_again():
    verdict = check("4.6", lambda: [True] * 8)
    assert verdict.state == "failed" and not verdict.case
    assert "by hand" not in repr(verdict) and "inputs" not in repr(verdict)
