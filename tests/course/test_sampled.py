"""Bad luck in the drawing of cases: what showed it is tried again, and so is the command."""

import pytest
import torch

from tests.course import sampled
from tests.course.answering import BY_NUMBER, small

# An exercise, the beginning of what a mistake is told, and a seed on which it once got away.
UNLUCKY = [("12.4", "unpack starts with torch.zeros", "sampled 2")]


@pytest.mark.parametrize(("number", "says", "seed"), UNLUCKY)
def test_a_mistake_that_once_got_away(number, says, seed):
    exercise = BY_NUMBER[number]
    (wrong,) = (w for w in exercise.wrong if w.says.startswith(says))
    assert sampled.missed(exercise, wrong.answer, wrong.says, seed) == ""


def _odd_or_even():
    """The mean of rows, where one that adds up gets away with rows of one number."""

    def cases(rng):
        return {"x_ST": torch.full((2, rng.randint(1, 2)), rng.random()).double()}

    exercise = small(cases=cases, n_cases=2, cell="def sum_rows(x):\n    return x.mean(1)\n")
    exercise.right(lambda x: x.mean(1))
    exercise.agrees("mean", "x_ST", gives="mean_S")
    exercise.mistakes(None, {"the rows are added up.": lambda x: x.sum(1)})
    return exercise


def test_the_command_tells_bad_luck(monkeypatch, capsys):
    exercise = _odd_or_even()
    exercise.second = "def sum_rows(x):\n    return x.sum(1) / 2\n"
    monkeypatch.setattr(sampled, "find", lambda number: exercise)
    assert sampled.main(["0.1", "--right", "20", "--wrong", "20"]) == 1
    said = capsys.readouterr().out
    assert "0.1: 40 right, 20 wrong answers tried" in said and "first answer" not in said
    assert "second answer: " in said and "of 20, first on sampled " in said
    assert "the_rows_are_added_up: " in said and ": passed" in said


def test_without_bad_luck_it_ends_with_0(monkeypatch, capsys):
    exercise = BY_NUMBER["2.1"]
    monkeypatch.setattr(sampled, "find", lambda number: exercise)
    assert sampled.main(["2.1", "--right", "2", "--wrong", "2", "--from", "7"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
