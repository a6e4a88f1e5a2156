import math

import numpy as np
import pytest
import torch

from kvlab import (
    Sampler,
    generate,
    greedy,
)
from tests.conftest import tiny_model

LOGITS = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0]])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"top_k": 0}, "top_k is 0"),
    ],
)
def test_sampling_options_out_of_range_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        Sampler(**options)


def chi_square(sampler, want, draws=4000):
    """Pearson's statistic of many draws from one distribution."""
    tokens = sampler(LOGITS.expand(draws, -1))
    counts = torch.bincount(tokens, minlength=5).double()
    assert counts[want == 0].sum() == 0
    expected = (want * draws)[want > 0].double()
    return (((counts[want > 0] - expected) ** 2) / expected).sum().item()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_at_each_temperature(temperature):
    want = (LOGITS[0] / temperature).softmax(-1)
    # 4 degrees of freedom: beyond 23.5 once in 10,000 seeds; the seed is fixed
    assert chi_square(Sampler(temperature, seed=3), want) < 23.5
    assert chi_square(Sampler(temperature * 1.3, seed=3), want) > 23.5


def test_top_k_keeps_the_k_likeliest():
    want = torch.cat((LOGITS[0, :2].softmax(-1), torch.zeros(3)))
    torch.testing.assert_close(Sampler(top_k=2).probabilities(LOGITS)[0], want)
    assert chi_square(Sampler(top_k=2, seed=1), want) < 15.2
    assert Sampler(top_k=99).probabilities(LOGITS)[0].count_nonzero() == 5


def test_top_p_keeps_the_token_that_crosses_p():
    probs = LOGITS[0].softmax(-1)
    first, second = probs[0].item(), (probs[0] + probs[1]).item()
    for p, kept in [(first / 2, 1), (first + 1e-4, 2), (second + 1e-4, 3), (1.0, 5)]:
        assert Sampler(top_p=p).probabilities(LOGITS)[0].count_nonzero() == kept


def test_the_same_seed_draws_the_same_and_another_does_not():
    model = tiny_model()

    def drawn(seed):
        return generate(model, [1, 2, 3, 4, 5, 6, 7], 20, pick=Sampler(seed=seed)).tolist()

    assert drawn(1) == drawn(1) != drawn(2)
    assert generate(model, [1, 2, 3, 4, 5, 6, 7], 20, pick=Sampler(0.0)).tolist() == (
        generate(model, [1, 2, 3, 4, 5, 6, 7], 20).tolist()
    )


def test_very_low_temperatures_are_nearly_greedy_and_endless_ones_refused():
    for temperature in (1e-3, 1e-30, 1e-40):
        assert Sampler(temperature).probabilities(LOGITS * 50)[0].tolist() == [1, 0, 0, 0, 0]
    for options in ({"temperature": math.inf}, {"top_k": 1.5}):
        with pytest.raises(ValueError, match=r"inf|1\.5"):
            Sampler(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_drawing_never_waits_for_the_gpu():
    logits, sampler = LOGITS.cuda(), Sampler(0.7, top_k=3, top_p=0.9)
    sampler(logits)
    torch.cuda.set_sync_debug_mode("error")
    try:
        sampler(logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("smallest", [1e-320, 5e-324, 1e-45])
def test_the_smallest_numbers_leave_the_likeliest(smallest):
    for how in ({"temperature": smallest}, {"top_p": smallest}):
        assert Sampler(**how).probabilities(LOGITS)[0].tolist() == [1, 0, 0, 0, 0]
        assert Sampler(**how)(LOGITS).tolist() == [0]


def test_top_k_of_one_is_greedy():
    logits_BV = torch.randn(50, 9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(Sampler(top_k=1)(logits_BV), greedy(logits_BV))
    assert Sampler(top_k=1).probabilities(LOGITS)[0].tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("how", [{}, {"top_k": 2}, {"top_p": 0.7}, {"temperature": 0}])
def test_rows_sum_to_one(how):
    logits_BV = torch.randn(20, 9, generator=torch.Generator().manual_seed(1))
    sums_B = Sampler(**how).probabilities(logits_BV).sum(-1)
    torch.testing.assert_close(sums_B, torch.ones(20))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "pick", [greedy, Sampler(), Sampler(0), Sampler(top_k=2), Sampler(top_p=0.5)]
)
def test_logits_that_are_no_numbers_are_refused(pick, number):
    logits_BV = LOGITS.repeat(2, 1)
    logits_BV[1, 2] = number
    if number == -math.inf:  # one id that cannot come is no fault; all of them are
        assert pick(logits_BV).shape == (2,)
        logits_BV[:] = number
    with pytest.raises(ValueError, match="logits are not numbers"):
        pick(logits_BV)


def test_numpys_numbers_are_numbers():
    numpys = Sampler(np.float32(1), np.int64(3), np.float64(0.9), np.int64(3))
    assert torch.equal(numpys(LOGITS), Sampler(1.0, 3, 0.9, 3)(LOGITS))
