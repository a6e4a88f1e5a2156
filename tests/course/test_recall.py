"""What a failed check keeps: the very call that failed, with what was lent, to be made by hand."""

import ast
import inspect

import pytest
import torch

from kvlab import check
from kvlab.course.author import spec
from kvlab.course.exercises import ALL, find
from kvlab.course.judge import judge
from kvlab.course.sandbox.answer import LocalAnswer
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


def test_check_says_how_to_make_the_call_again():
    def all_allowed(n_new, n_slots):
        return torch.ones(n_new, n_slots, dtype=torch.bool)

    verdict = check("2.1", all_allowed)
    assert "Again by hand: `causal_mask(**verdict.case)`." in repr(verdict)
    assert all_allowed(**verdict.case).all()


def test_the_sentence_describes_the_call_that_failed():
    verdict, _ = failed("4.2", "row j is given the numbers of another row")
    width = verdict.case["x_SC"].shape[1]
    assert f'"one row alone" does not hold on x_SC (1, {width}).' in verdict.message


def test_a_quiz_has_no_call_to_make_again():
    verdict = check("4.6", lambda: [True] * 8)
    assert verdict.state == "failed" and not verdict.case
    assert "by hand" not in repr(verdict) and "inputs" not in repr(verdict)
