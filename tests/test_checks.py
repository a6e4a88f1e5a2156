import numpy as np
import pytest
import torch

from kvlab import checks


@pytest.mark.parametrize("value", [True, None, "3", 2.0, 0, -1, 2**63, torch.tensor(3), [3]])
def test_what_is_no_whole_number_of_at_least_one_is_refused(value):
    with pytest.raises(ValueError, match=r"^n is .*; expected a whole number of at least 1\.$"):
        checks.whole("n", value)


def test_whole_numbers_come_out_as_pythons_own():
    for value in (3, np.int64(3), np.uint8(3)):
        assert checks.whole("n", value) == 3 and type(checks.whole("n", value)) is int
    assert checks.whole("n", -5, None) == -5


@pytest.mark.parametrize("value", [True, "0.5", None, float("nan"), 2, torch.tensor(0.5)])
def test_what_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match="share is .*; expected 0 to 1"):
        checks.number("share", value, lambda x: 0 <= x <= 1, "0 to 1")
    assert checks.number("share", np.float32(0.5), lambda x: 0 <= x <= 1, "0 to 1") == 0.5


@pytest.mark.parametrize(
    "value",
    [
        None,
        [[1]],
        torch.zeros(2),
        torch.zeros(1, 2),
        torch.zeros(3, 2, dtype=torch.int64),
        torch.zeros(1, 2, dtype=torch.int64).to_sparse(),
        torch.zeros(1, 2, dtype=torch.int64, device="meta"),
    ],
)
def test_what_is_no_such_tensor_is_refused(value):
    checks.tensor("x", torch.zeros(1, 2, dtype=torch.int64), "(B, S)", checks.IDS, n=1)
    with pytest.raises(ValueError, match=r"^x is .*; expected a tensor \(B, S\) of 1 rows of"):
        checks.tensor("x", value, "(B, S)", checks.IDS, n=1)


def test_ids_are_one_or_several():
    for value in (5, [5], (5,), {5}, np.int64(5), np.array(5), np.array([5]), torch.tensor([5])):
        assert checks.ids("eos", value) == [5]
    assert checks.ids("eos", ()) == []
    for value in ([1.5], "5", b"5", {5: 1}, None, True, [-1], [2**70], [[5]]):
        with pytest.raises(ValueError, match="eos"):
            checks.ids("eos", value)


def test_a_long_value_is_shown_by_its_type():
    assert checks.shown("x" * 500) == "a str"
    assert checks.shown(object()) == "a object"
    assert checks.shown(torch.zeros(2, 3)) == "a tensor of shape (2, 3) and type torch.float32"
