"""What came against what was expected, in words and in a picture."""

import torch

from kvlab import check
from kvlab.course.author import compare
from kvlab.course.grading import notebooks
from tests.course.answering import SOLUTION, run_cell


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
    assert fault("x", 96.0, 96) == "x: expected the whole number 96, got 96.0."
    assert fault("x", True, 1) == "x: expected the whole number 1, got True."
    assert fault("x_T", torch.tensor([float("nan")]), torch.tensor([float("nan")])) is None
    assert fault("x", float("nan"), float("nan")) is None and fault("x", 0.0, float("nan"))
    assert "torch.int64, got torch.int32" in fault("x", torch.ones(2).int(), torch.ones(2).long())


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
