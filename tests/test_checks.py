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
    checks.tensor("x", torch.zeros(1, 2, dtype=torch.int64), (1, "S"), checks.IDS)
    with pytest.raises(ValueError, match=r"^x is .*; expected a tensor \(1, S\) of whole"):
        checks.tensor("x", value, (1, "S"), checks.IDS)


def test_ids_are_one_or_several():
    for value in (5, [5], (5,), {5}, np.int64(5), np.array(5), np.array([5]), torch.tensor([5])):
        assert checks.ids("eos", value) == [5]
    assert checks.ids("eos", ()) == []
    for value in ([1.5], "5", b"5", {5: 1}, None, True, [-1], [2**70], [[5]]):
        with pytest.raises(ValueError, match="eos"):
            checks.ids("eos", value)


def test_of_a_long_value_the_beginning_is_shown():
    assert checks.shown("x" * 500) == f"'{'x' * 79} …"
    deep = []
    for _ in range(10**5):
        deep = [deep]
    assert (checks.shown(deep), checks.shown(10**5000)) == ("a list", "a int")
    assert checks.shown(np.ones((3, 3))) == "a ndarray"
    assert checks.shown(object()) == "a object"
    assert checks.shown(torch.zeros(2, 3)) == "a tensor of shape (2, 3) and type torch.float32"


def test_axes_types_and_device_are_each_held():
    x = torch.zeros(2, 3)
    for axes in ("BS", (2, 3), ("B", 3)):
        checks.tensor("x", x, axes, (torch.float32,), x.device)
    for axes in ("S", "BST", (2, 4), ("B", 4), (2,)):
        with pytest.raises(ValueError, match=r"^x is .* \(2, 3\) .*; expected a tensor \("):
            checks.tensor("x", x, axes)
    with pytest.raises(ValueError, match=r"a tensor \(B, S\) of torch.float16. Convert it.$"):
        checks.tensor("x", x, "BS", (torch.float16,), cure=" Convert it.")
    with pytest.raises(ValueError, match=r"a tensor \(B, S\) on meta.$"):
        checks.tensor("x", x, "BS", (), torch.device("meta"))


def test_arguments_are_looked_at_by_place_and_by_name():
    @checks.takes(n=checks.whole, text=str)
    def function(other, n, text=None):
        return other, n, text

    assert function(None, 3) == function(n=3, other=None) == (None, 3, None)
    for args, given in [
        ((None, 0), {}),
        ((None,), {"n": 0}),
        ((None, 3, 4), {}),
        ((), {"text": 4}),
    ]:
        with pytest.raises(ValueError, match="n is 0; expected|text is 4; expected a str"):
            function(*args, **given)


def test_a_device_is_one_that_this_machine_has():
    assert checks.device("device", "cpu") == torch.device("cpu")
    for value in ("cuda:99", "tpu", "mps:1", "meta", 3.5, None):
        with pytest.raises(ValueError, match=f"device is '?{value}'?"):
            checks.device("device", value)
