"""What laws are written with."""

import pytest
import torch

from kvlab.course.author import laws
from kvlab.course.sandbox.answer import NotData


def test_several_results_are_a_list_of_just_so_many():
    assert laws.named([1, 2], "a", "b") == {"a": 1, "b": 2}
    for came in ([1], [1, 2, 3], (1, 2), "ab", 5, None):
        with pytest.raises(NotData, match="expected 2 results: a, b"):
            laws.named(came, "a", "b")


def test_errors_other_than_of_an_answer_are_not_taken_for_its_own():
    assert laws.raised_by(lambda: 1) == "nothing"
    with pytest.raises(ZeroDivisionError):
        laws.raised_by(lambda: 1 / 0)


def test_a_type_is_blamed_only_for_an_error_that_is_about_types():
    for error in (ValueError("dtype"), RuntimeError("shape")):
        assert laws.narrow(error) == ""
    try:
        torch.ones(2, 2) @ torch.ones(2, 2).double()
    except RuntimeError as error:
        assert laws.narrow(error) == ""  # no file of the course was on the way
