"""What came against what was expected, in words and in a picture."""

import base64
import re
from dataclasses import FrozenInstanceError

import pytest
import torch

from kvlab import check
from kvlab.course.author import compare
from kvlab.course.author.picture import picture
from kvlab.course.grading import notebooks
from tests.course.answering import SOLUTION, run_cell


def test_bars_and_tolerances():
    fault = compare.difference
    assert fault("x", 0.9, compare.AtLeast(0.9)) is None is fault("x", 3, compare.AtMost(3))
    assert "at least 0.9, got 0.89" in fault("x", 0.89, compare.AtLeast(0.9))
    assert "at most 3, got 4" in fault("x", 4, compare.AtMost(3))
    for odd in (float("nan"), "1", None, True, torch.tensor([5.0])):
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


def test_lists_that_begin_alike_are_told_apart_by_their_lengths_and_the_first_difference():
    long = list(range(100, 160))
    said = compare.difference("ids", long[:-2], long)
    assert said == "ids: expected 60 entries, got 58."
    said = compare.difference("ids", [*long[:50], 7, 7, *long[53:]], long)
    assert said == "ids: expected 60 entries, got 59; at 50 expected 150, got 7."
    assert "expected [100, 101" in compare.difference("ids", [7, *long], long)
    assert "expected 60" in compare.difference("ids", [[*long[:-1]]], [long])


def test_a_number_from_float32_is_asked_about_as_a_tensor_is():
    third = 1.2345678912
    said = compare.difference("nats", third + 1e-7, third)
    assert said.endswith("All agree to about six digits: is one step in float32?")
    assert "float32" not in compare.difference("nats", 1.3, third)
    assert "float32" not in compare.difference("n", 2, third)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_whole_numbers_differ_whichever_is_larger(dtype):
    none, one = torch.zeros(3, dtype=dtype), torch.tensor([0, 1, 0]).to(dtype)
    assert compare.difference("x_T", one, one.clone()) is None
    for came, wanted in ((none, one), (one, none)):
        assert "1 of 3" in compare.difference("x_T", came, wanted)


@pytest.mark.parametrize("kind", [compare.Near, compare.AtLeast, compare.AtMost])
def test_what_is_wanted_stays_what_it_was(kind):
    wanted = kind(1.0)
    for name in vars(wanted):
        with pytest.raises(FrozenInstanceError):
            setattr(wanted, name, 2.0)
    assert wanted == kind(1.0) and hash(wanted) == hash(kind(1.0))


def test_numbers_that_differ_never_look_alike():
    fault, third = compare.difference, 0.211561
    pairs = [(third, third + 4e-7), (2, 2.0), (27, 27.5), (1.0, 1.0 + 1e-6)]
    for wanted, came in [*pairs, ([1, 2], [1, 2.0]), (1, True), (1.0, "1.0")]:
        said = fault("x", came, wanted)
        a, b = said.split("expected ")[1].rstrip(".").split(", got ")
        assert a != b, said
    assert fault("x", 27.0000001, compare.AtMost(27)).endswith("at most 27, got 27.0000001.")
    x_T = torch.tensor([third], dtype=torch.float64)
    assert "expected 0.211561, got 0.2115614." in fault("x_T", x_T + 4e-7, x_T)
    asked = "is one step in float32?"
    assert fault("x_T", x_T + 4e-7, x_T).endswith(asked) and asked not in fault("x_T", x_T + 1, x_T)


def test_float64_is_asked_for_by_name_where_the_tolerance_is_its_own():
    x_T = torch.ones(3).double()
    for narrow in (torch.float32, torch.float16, torch.float8_e4m3fn):
        said = compare.difference("x_T", x_T.to(narrow), x_T)
        assert f"x_T is {narrow}; expected torch.float64" in said and "dtype=x.dtype" in said
    assert compare.difference("x_T", x_T.float(), compare.Near(x_T, rtol=1e-3)) is None
    assert compare.difference("x_T", x_T, x_T) is None


ODD = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e5m2, torch.bool, torch.int8]


@pytest.mark.parametrize("dtype", ODD, ids=str)
@pytest.mark.parametrize("expected", [torch.ones(2, 3).bool(), torch.ones(2, 3).double()])
def test_a_result_of_any_type_gets_a_sentence_and_no_traceback(dtype, expected):
    came = torch.zeros(2, 3).to(dtype)
    assert compare.difference("x_ST", came, expected)
    assert isinstance(picture("x_ST", came, expected), str)


def test_huge_numbers_and_tensors_among_numbers_get_a_sentence():
    for came in (10**400, 10**5000, [10**5000], torch.ones(3), torch.tensor([1, 2]), "x" * 10**6):
        for expected in (1.0, 1, [1.0], [1], {"a": 1.0}, True, None, compare.AtMost(3)):
            assert len(compare.difference("x", came, expected)) < 300


def test_a_list_of_tensors_is_told_how_to_become_one():
    rows = list(torch.zeros(3, 2))
    assert "a list of 3 tensors (torch.stack" in compare.difference("x_SC", rows, torch.zeros(3, 2))
    assert "torch.stack" not in compare.difference("x_SC", [rows[0], 1.0], torch.zeros(3, 2))


def test_what_stands_for_the_same_numbers_is_right():
    fault = compare.difference
    assert fault("x", torch.tensor(3), 3) is None is fault("x", torch.tensor(0.5).double(), 0.5)
    assert fault("x_ST", [[True, False]], torch.tensor([[True, False]])) is None
    assert fault("x_T", [1, 2.5], torch.tensor([1, 2.5]).double()) is None
    assert fault("x", torch.tensor([1, 2]), [1, 2]) is None
    assert fault("x_T", [[1.0], [1.0, 2.0]], torch.ones(2, 1).double())
    assert fault("x_T", [1, 0], torch.tensor([True, False])), "0 and 1 are no booleans"
    assert "tensor(" not in fault("x", [torch.ones(3), torch.ones(2, 2)], [torch.ones(3)])


def test_of_two_like_axes_the_row_and_the_column_are_named_and_truths_are_entries():
    seen_SS = torch.tensor([[True, False], [True, True]])
    text = compare.difference("moved_SS", seen_SS.T, seen_SS)
    assert "2 of 4 entries are wrong, first at row 0, column 1: expected False" in text
    text = compare.difference("x_BSS", torch.ones(1, 2, 2), torch.zeros(1, 2, 2))
    assert "4 of 4 numbers are wrong, first at batch 0, row 0, column 0" in text
    assert "batch 0, position 0" in compare.difference("x_BS", torch.ones(1, 2), torch.zeros(1, 2))


def test_a_picture_shows_where_it_is_wrong_and_only_then():
    source = notebooks.answers(notebooks.read(SOLUTION))["q6_2"]
    right = run_cell(source, "attend_with_past")

    def off(*args):
        out, k, v = right(*args)
        out[1, 0, 1] += 1
        return out, k, v

    # as an image: JupyterLab drops other drawings from a notebook that is not trusted
    page = check("6.2", off)._repr_html_()
    data = re.search(r'<img alt="[^"]+" src="data:image/svg\+xml;base64,([^"]+)">', page)[1]
    shown = base64.b64decode(data).decode()
    assert "<svg" not in page
    assert shown.count("<rect") >= 8 and shown.count('fill-opacity="1.00"') == 1
    assert "across: position; down: batch and head; the redder" in shown and "out_BHSD" in shown
    assert check("6.2", right)._repr_html_() is None
    assert check("6.3", lambda *a: "<b>")._repr_html_() is None
