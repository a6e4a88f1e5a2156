import numpy as np
import pytest
import torch

from kvlab import (
    generate,
    generate_uncached,
    stream,
)
from tests.conftest import tiny_model

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9, 8, 7], [4, 5, 6, 7, 8]]


@pytest.fixture
def model(device):
    return tiny_model(device=device)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ([], "empty"),
        ([[1, 2], []], "empty"),
        (torch.zeros(0, dtype=torch.int64), "empty"),
        (torch.zeros(1, 0, dtype=torch.int64), "empty"),
        (torch.randn(3), "whole numbers"),
        (torch.zeros(1, 1, 1, dtype=torch.int64), "whole numbers"),
    ],
)
def test_a_prompt_that_is_none_is_refused(prompt, named):
    with pytest.raises(ValueError, match=named):
        generate(tiny_model(), prompt, 3)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ([1.5, 2.0], r"1\.5 came as a prompt"),
        ([[1, 2.9]], r"is 2\.9"),
        ([[True, False]], "is True"),
        ([1, [2]], "1 came as a prompt"),
        ("hello", "'hello' came as a prompt"),
        (["hello"], "'hello' came as a prompt"),
        (None, "None came as a prompt"),
        ([1, 61], "token 61; the model knows 0 to 60"),
        ([[3], [-1, 2]], "token -1"),
        (torch.tensor([61]), "token 61"),
    ],
)
def test_a_prompt_of_something_else_is_refused_by_name(prompt, named):
    for make in (generate, stream, generate_uncached):
        with pytest.raises(ValueError, match=named):
            make(tiny_model(), prompt, 3)


def test_whole_numbers_may_come_as_arrays_too(model):
    want = generate(model, PROMPTS, 3)
    for kind in (np.array, torch.tensor, tuple):
        assert torch.equal(generate(model, [kind(p) for p in PROMPTS], 3), want)
        assert torch.equal(generate(model, kind(PROMPTS[0]), 3), want[:1])
