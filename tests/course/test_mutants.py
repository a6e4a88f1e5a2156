"""Mutants of the right answers lose, and those that pass have a reason; a sample of the sweep."""

import random

import pytest

from tests.course import mutants
from tests.course.answering import BY_NUMBER, small
from tests.course.survivors import SURVIVORS

SAMPLE = 3  # of each exercise; `python -m tests.course.mutants` tries all
COSTLY = {"1.6"}  # four processor seconds a try: one here, all in the sweep
SWEPT = mutants.with_mutants()


def test_every_exercise_was_swept():
    assert SURVIVORS.keys() == {e.number for e in SWEPT}


def _some(number, names, n):
    n = 1 if number in COSTLY else n
    return random.Random(number).sample(names, min(n, len(names)))


@pytest.mark.parametrize("exercise", SWEPT, ids=lambda e: e.number)
def test_a_sample_of_the_mutants_loses(exercise):
    known = SURVIVORS[exercise.number]
    # whether the type of a result is looked at is for the tests of compare.py to say
    told = (m for m in mutants.mutants(exercise.cell) if "_narrow(" not in m.source)
    every = [m for m in told if m.name not in known]
    drawn = _some(exercise.number, every, SAMPLE)
    passed = [m.name for m in drawn if mutants.tried(exercise, m, 0) == mutants.PASSED]
    assert passed == [], "a case that tells it from the right answer, or a reason in survivors.py"


@pytest.mark.parametrize("number", SURVIVORS)
def test_each_excused_mutant_is_there_and_still_passes(number):
    made = {m.name: m for m in mutants.mutants(BY_NUMBER[number].cell)}
    assert SURVIVORS[number].keys() <= made.keys(), "the solution has changed: sweep again"
    assert all(reason.strip() for reason in SURVIVORS[number].values())
    told = [
        name
        for name in _some(number, list(SURVIVORS[number]), len(made))
        if mutants.tried(BY_NUMBER[number], made[name], 0) != mutants.PASSED
    ]
    assert told == [], "the judge tells it now: take it off the list"


CELL = """def f(x, n):
    \"\"\"A head.\"\"\"
    m = n + 1
    ### BEGIN SOLUTION
    for i in range(n):
        x = x[:, :i] - x.sum(dim=1)
    return x if n < 3 else torch.zeros(n, dtype=torch.float64)
    ### END SOLUTION
"""
NAMES = """
for i in range(n): ... -> pass
return x if n < 3 else torch.zeros(n, dtype=torch.float64) -> pass
range(n) -> range(n + 1)
range(n) -> range(n - 1)
x = x[:, :i] - x.sum(dim=1) -> pass
x if n < 3 else torch.zeros(n, dtype=torch.float64) -> x
x[:, :i] - x.sum(dim=1) -> x[:, :i] + x.sum(dim=1)
x[:, :i] - x.sum(dim=1) -> x.sum(dim=1) - x[:, :i]
n < 3 -> n <= 3
n < 3 -> n > 3
torch.float64 -> torch.float32
x.sum(dim=1) -> x
: -> 1:
:i -> :i + 1
:i -> 1:i
1 -> 2
3 -> 4
"""


def test_the_changes_are_those_of_the_marked_lines():
    names = [m.name for m in mutants.mutants(CELL)]
    assert set(NAMES.strip().splitlines()) <= {name.split("  in  ")[0] for name in names}
    assert len(set(names)) == len(names)
    assert "3 -> 4  in  return x if n < 3 else torch.zeros(n, dtype=torch.float64)" in names
    assert not any("n + 1 ->" in name or "A head" in name for name in names)
    for mutant in mutants.mutants(CELL):
        compile(mutant.source, "mutant", "exec")


def test_what_becomes_of_a_mutant():
    exercise = small()
    exercise.right(lambda x: x.sum(1))
    exercise.agrees("sum", "x_ST", gives="sum_S")

    def becomes(line):
        source = f"{mutants.NARROW}\ndef sum_rows(x):\n    {line}\n"
        return mutants.tried(exercise, mutants.Mutant("m", source), 0)

    assert becomes("return x.sum(1)") == mutants.IDLE
    assert becomes("_narrow(x); return x.sum(1)") == mutants.PASSED
    assert becomes("return x.sum(0)") == becomes("return 1 +") == mutants.LOST


def test_a_mutant_that_never_ends_loses(monkeypatch):
    monkeypatch.setattr(mutants, "CPU_SECONDS", 0.2)
    exercise = small()
    exercise.right(lambda x: x.sum(1))
    exercise.agrees("sum", "x_ST", gives="sum_S")
    source = "def sum_rows(x):\n    while True:\n        pass\n"
    assert mutants.tried(exercise, mutants.Mutant("m", source), 0) == mutants.LOST
