"""What is lent to an answer cannot hurt the judge, whatever the answer does with it."""

import copy
import inspect
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kvlab.course.author.lending import (
    LentDevice,
    LentFunction,
    LentModel,
    per_thread,
    tiny_model,
)
from kvlab.course.ch02 import _suspects
from kvlab.course.exercises import ALL
from kvlab.course.judge import judge
from kvlab.course.sandbox.answer import LocalAnswer
from kvlab.course.sandbox.loan import MAX_AXIS, MAX_NUMBERS, Loan
from kvlab.shell.cli import ROOT
from tests.course.answering import run_cell


@pytest.mark.parametrize(
    "given",
    [
        torch.zeros(0, 60_000, 4),
        torch.zeros(60_000, 0, 4),
        torch.zeros(MAX_AXIS + 1),
        torch.zeros(200, 200),
        "x" * (MAX_NUMBERS + 1),
        [0] * (MAX_NUMBERS + 1),
        [[torch.zeros(MAX_NUMBERS // 2)] * 3],
        {"a": ["x" * MAX_NUMBERS]},
        2 ** (64 * MAX_NUMBERS + 64),
    ],
    ids=lambda v: str(getattr(v, "shape", type(v).__name__)),
)
def test_nothing_large_reaches_what_is_lent(given):
    loan, got = Loan(), []
    number = loan.add(LentFunction(lambda *args, **named: got.append(args))).number
    for args, named in (([given], {}), ([], {"x": given})):
        with pytest.raises(ValueError, match="beyond any need"):
            loan.use(number, "__call__", args, named)
    loan.use(number, "__call__", [torch.zeros(0, 7, 4), "x", 3, [1.5]], {})
    assert len(got) == 1


def test_a_number_under_which_nothing_is_lent_is_named():
    loan = Loan()
    loan.add(LentFunction(abs))
    for odd in (99, -1, True, "0", None, [0]):
        with pytest.raises(ValueError, match="nothing is lent under the number"):
            loan.use(odd, "__call__", [1], {})


def test_a_model_and_a_head_bound_what_they_make():
    head = _suspects.lent(lambda x: x)
    for shape in ((0, 65, 4), (65, 0, 4), (1, 2, 65), (4, 64, 64)):
        with pytest.raises(ValueError, match="at most"):
            head(torch.zeros(shape))
    model = LentModel(tiny_model(1))
    for batch, capacity in ((1, 2000), (0, 5), (5, 0), (1000, 1000)):
        with pytest.raises(ValueError, match="beyond any need|of at least 1"):
            model.new_cache(batch, capacity)
    assert model.new_cache(2, 8), "what was refused does not count"
    for shape in ((5, 0), (0, 5), (1, 513)):
        nothing = torch.zeros(shape, dtype=torch.long)
        with pytest.raises(ValueError, match="beyond any need"):
            model(nothing, nothing)
    model.rows = 2**16
    with pytest.raises(ValueError, match="in all"):
        model(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))


class Works(LentDevice):
    def run(self, takes):
        self._hand_over(takes, 1.0)


def test_a_device_that_queues_is_busy_until_somebody_waits():
    queued, prompt = Works(queues=True), Works()
    for device in (queued, prompt):
        device.run(10.0)
        device.run(20.0)
    assert (queued.now(), prompt.now()) == (2.0, 30.0)
    queued.synchronize()
    assert queued.now() == 30.0, "the second run waits for the first, not for its handing over"
    queued.synchronize()
    assert (queued.now(), queued.looks) == (30.0, 3)


def test_what_is_kept_per_thread_is_made_once_in_each():
    @per_thread
    def made(n):
        return [n]

    with ThreadPoolExecutor(1) as other:
        theirs = other.submit(made, 1).result()
        assert other.submit(made, 1).result() is theirs
    assert made(1) is made(1) and made(1) == theirs == [1]
    assert made(1) is not theirs and made(1) is not made(2)


@pytest.fixture(scope="module")
def hooked():
    """By exercise and thread: what was hooked into while its solution was judged, in two threads.

    All of the chapters that keep something from case to case; results that are kept are forgotten
    before each judgement, and models are not.
    """
    seen = {}
    chapters = {e.chapter for e in ALL if results_kept(e.chapter)}
    wanted = [e for e in ALL if e.n_cases > 1 and e.chapter in chapters]
    with pytest.MonkeyPatch.context() as patch:
        for way in ("register_forward_hook", "register_forward_pre_hook"):
            real = getattr(torch.nn.Module, way)

            def register(module, *args, real=real, **named):
                seen.setdefault((exercise.number, threading.get_ident()), set()).add(module)
                return real(module, *args, **named)

            patch.setattr(torch.nn.Module, way, register)
        for exercise in wanted:
            once = copy.copy(exercise)
            once.n_cases = 1
            answer = LocalAnswer(run_cell(exercise.cell, exercise.name))
            for _ in "12":
                for kept in results_kept(exercise.chapter):
                    kept.cache_clear()
                with ThreadPoolExecutor(1) as pool:
                    assert pool.submit(judge, once, answer, 1, clock=False).result().passed
    return seen


def results_kept(chapter):
    """What a chapter keeps by what it was asked: not what is made once, as a model is."""
    home = f"kvlab.course.ch{chapter:>02}."
    made = [v for name, m in sys.modules.items() if name.startswith(home) for v in vars(m).values()]
    return [v for v in made if hasattr(v, "cache_clear") and inspect.signature(v).parameters]


def test_no_model_is_hooked_into_by_two_threads(hooked):
    """Else an answer's judge hears the forwards of others that are graded beside it."""
    by_thread = {}
    for (_, thread), modules in hooked.items():
        by_thread.setdefault(thread, set()).update(modules)
    assert {number for number, _ in hooked} >= {"1.7", "2.8", "3.7", "4.7", "5.2"}
    every = [module for modules in by_thread.values() for module in modules]
    assert len(every) == len(set(every))


ATTACKS = {
    "2.3": "def first_leak(attention, *a): return attention(torch.zeros(0, 60000, a[-1]).double())",
    "2.4": "def is_prefix_stable(f, *a): return f(torch.zeros(0, 60000, 4))",
    "6.1": "class KVCache:\n    def __init__(self, *a): 0\n    def __getattr__(self, n):\n"
    "        return lambda *a, **k: [torch.zeros(2**26, dtype=torch.uint8)] * 2",
    "12.5": "class BlockCache:\n    def __init__(self, slots, *a): self.slots, self.n = slots, 0\n"
    "    def append(self, token):\n        self.slots.put(self.n % 9, torch.zeros(2**23))\n"
    "        self.n += 1\n        return self.n",
}
GRADED = """
import resource, sys
from kvlab.course.exercises import find
from kvlab.course.grading.grade import grade_source
from kvlab.course.sandbox.nursery import Nursery
from tests.course.test_lending import ATTACKS
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with Nursery() as nursery:
    for number in ATTACKS:  # what an honest answer takes
        grade_source(find(number), find(number).second, 1, nursery)
    before = peak()
    for number, source in ATTACKS.items():
        verdict = grade_source(find(number), "import torch\\n" + source, 1, nursery)
        assert verdict.state == "failed", verdict
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in kilobytes on Linux alone")
def test_the_judges_memory_does_not_grow_under_attack():
    done = subprocess.run(
        [sys.executable, "-c", GRADED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 128, f"{done.stdout} MiB more than for right answers"
