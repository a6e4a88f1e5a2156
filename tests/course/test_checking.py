"""check and hint: what a reader calls, what they say and refuse."""

import functools
import time

import pytest

import kvlab
from kvlab import check, hint
from kvlab.course.author import spec
from kvlab.course.grading import notebooks
from kvlab.measure import progress_bar
from tests.course.answering import ANSWERS, BY_NUMBER, SOLUTION, run_cell


def test_check_and_grade_really_draw_them(monkeypatch):
    from kvlab.course import checking
    from kvlab.course.grading.grade import Rules

    seeds = []

    def judged(exercise, answer, seed, **more):
        seeds.append(seed)
        return spec.Verdict(exercise, "failed", "")

    monkeypatch.setattr(checking, "judge", judged)
    monkeypatch.setattr(checking.record, "record", lambda verdict: None)
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
    with pytest.raises(ValueError, match=r"'99.9'.*6.1, 6.2"):
        check("99.9", print)
    with pytest.raises(ValueError, match=r"there are 6\.1, 6\.2, .*, 6\.7, 6\.8\. "):
        check("6.9", print)  # those of its chapter
    with pytest.raises(ValueError, match=r'no answer; write check\("6.1", KVCache\)'):
        check("6.1")
    with pytest.raises(ValueError, match=r'no exercise; write check\("1.1", project\)'):
        check(run_cell(BY_NUMBER["1.1"].cell, "project"))
    with pytest.raises(ValueError, match="without brackets"):
        check("6.3", "reuses")
    with pytest.raises(ValueError, match=r"'x'"):
        hint("x")
    with pytest.raises(ValueError, match=r'cannot tell "5\.1" from "5\.10"; write it in quotes'):
        hint(5.10)  # which is 5.1
    assert "1 of 3 for 6.1" in repr(hint(6.1, 1))


def test_an_error_of_torch_is_no_stub():
    def half(*args):
        raise NotImplementedError('"addmm" not implemented for Half')

    assert check("6.2", half).state == "failed"


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
    helper = "from kvlab import check\ndef run(f): return check('12.1', f)\n"
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
    assert check("12.1", used).passed
    used = run_cell(helper + answer.replace("USES", "run"), "compare")
    assert "kvlab.course.checking may not be used" in check("12.1", used).message


def test_exchanged_arguments_are_named():
    with pytest.raises(ValueError, match=r'exchanged: write check\("6.3", audit\)'):
        check(print, "6.3")


def test_check_keeps_to_one_thread_and_gives_the_others_back():
    import torch

    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        check("6.3", lambda *args: seen.append(torch.get_num_threads()))
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_check_says_that_it_is_alive_when_an_answer_takes_long(monkeypatch, capsys):
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    monkeypatch.setattr(progress_bar, "PATIENCE", 0.01)

    heard = []

    def slow(*given):
        until = time.monotonic() + 60
        while not heard and time.monotonic() < until:
            if "still trying your answer to 2.1" in capsys.readouterr().err:
                heard.append(given)

    check("2.1", slow)
    assert heard


def _by_importlib(*args):
    import importlib

    return importlib.import_module("kvlab.course.exercises").find("1.1").call(*args)


def _by_sys_modules(*args):
    import sys

    return sys.modules["kvlab.course.exercises"].find("1.1").call(*args)


def _by_name(*args):
    from kvlab.course.exercises import find

    return find("1.1").call(*args)


class _Called:
    def __call__(self, *args):
        return _by_name(*args)


@pytest.mark.parametrize(
    "answer",
    [_by_importlib, _by_sys_modules, _by_name, functools.partial(_by_name), _Called(),
     _Called().__call__, functools.partial(_Called())],
)  # fmt: skip
def test_the_books_own_answer_is_refused_through_every_door_a_learner_would_find(answer):
    assert "kvlab.course.exercises may not be used" in check("1.1", answer).message


def test_a_text_that_speaks_of_kvlab_is_no_import():
    def project(x, w_q, w_k, w_v):
        assert x is not None, "kvlab.project: no x"
        return x @ w_q.T, x @ w_k.T, x @ w_v.T, "kvlab.anything"

    assert "may not be used" not in check("1.1", project).message


def test_a_class_whose_class_hides_its_module_gets_a_verdict():
    class Hiding(type):
        def __getattribute__(cls, name):
            if name == "__module__":
                raise AttributeError(name)
            return super().__getattribute__(name)

    class KVCache(metaclass=Hiding):
        """Of no use."""

    assert check("6.1", KVCache).state == "failed"
