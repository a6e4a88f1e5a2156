"""Generation without a cache: where it lives, and its old place."""

import warnings

import pytest
import torch

import kvlab
from kvlab import generation
from kvlab.measure import uncached
from tests.conftest import tiny_model


def test_a_step_reads_the_whole_text_and_takes_the_likeliest():
    model, tokens_BS = tiny_model(), torch.tensor([[1, 2, 3]])
    for token_B in uncached.stream_uncached(model, tokens_BS, 3):
        assert token_B.tolist() == model(tokens_BS)[:, -1].argmax(-1).tolist()
        tokens_BS = torch.cat((tokens_BS, token_B[:, None]), 1)
    assert uncached.generate_uncached(model, tokens_BS[:, :3], 3).tolist() == [
        tokens_BS[0, 3:].tolist()
    ]


def test_prompts_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="this baseline takes equal ones"):
        uncached.generate_uncached(tiny_model(), [[1, 2], [3]], 2)


@pytest.mark.parametrize("name", ["generate_uncached", "stream_uncached"])
def test_its_old_place_hands_it_on_with_one_warning(name):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert getattr(generation, name) is getattr(uncached, name)
    (warning,) = seen
    assert warning.category is FutureWarning and warning.filename == __file__
    assert f"kvlab.generation.{name} is now kvlab.measure.uncached.{name}" in str(warning.message)
    assert kvlab.generate_uncached is uncached.generate_uncached
    with pytest.raises(AttributeError, match="'kvlab.generation' has no attribute 'frobnicate'"):
        generation.frobnicate  # noqa: B018
