from functools import partial

import pytest
import torch

from kvlab import Elements, Evict, Sparsify, Then, check_policy, needs, policies
from kvlab.measure.random_model import random_model
from kvlab.pack import PerToken
from kvlab.prune import per_head
from kvlab.quality import Stored
from kvlab.quality.laws import LawBroken

MODEL = random_model()
KNOWN = {
    **policies.evictions(0.5, recent=8),
    **policies.sparsities(0.5, recent=8, group=8),
    "in tokens, while decoding": Evict(policies.h2o, 60, sink=2, recent=6, every=2),
    "one after the other": Then(
        Evict(policies.tova, 0.6, recent=8), Sparsify(k=Elements(policies.k_magnitude, 0.5))
    ),
    "a rule that was given": Sparsify(v=Elements(policies.v_magnitude, PerToken(3)), recent=8),
    "stored": Stored(PerToken(4), None, Evict(policies.knorm, 0.5)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_every_policy_obeys_the_laws(name):
    check_policy(KNOWN[name], model=MODEL)


def length(e):
    return e.k_BGTD.norm(dim=-1)


def of_all_slots(e):
    return (e.k_BGTD - e.k_BGTD.mean(2, keepdim=True)).norm(dim=-1)


def by_slot(e):
    return length(e) * (torch.arange(e.pos_BGT.shape[-1]) % 2)


def infinite_by_slot(e):
    score = length(e)
    score[..., 5:9] = float("inf")
    return score


def nan(e):
    return (length(e) - 100).sqrt()


def nan_for_padding(e):
    return length(e).where(e.valid_BGT, float("nan"))


def nan_elements(e):
    return e.k_BGTD.log()


def by_chance(e):
    return torch.rand(e.pos_BGT.shape)


def in_place(e):
    e.k_BGTD.mul_(2)
    return length(e)


def too_few_axes(e):
    return length(e).mean(1)


@needs(queries=8)
def all_heads_apart(e):
    return e.over_queries(e.weights_BGRWT())


BAD = {
    of_all_slots: "'padding changes nothing'",
    by_slot: "'padding changes nothing'",
    infinite_by_slot: "'padding changes nothing'.* tokens 5, .* stay in the first case only",
    nan: "'a score is a number': with a text by itself, nan is NaN in 206 of 206",
    nan_for_padding: "'a score is a number': with texts of 3 lengths.* for padding, and only there",
    by_chance: "'the same evidence gives the same score'",
    in_place: "'a score changes nothing': in_place wrote into k_BGTD",
    too_few_axes: r"'one score for each token': .* shape \(1, 103\); expected \(1, 2, 103\)",
    all_heads_apart: r"shape \(1, 2, 2, 103\).*over_group joins query heads",
    lambda e: 3: "'one score for each token'.* returned int",
}


@pytest.mark.parametrize("score", BAD, ids=lambda s: s.__name__)
def test_a_bad_score_is_told_which_law_it_breaks(score):
    with pytest.raises(LawBroken, match=BAD[score]):
        check_policy(score, model=MODEL)


def test_scores_of_elements_are_looked_at_too():
    for side in ("k", "v"):
        with pytest.raises(LawBroken, match="nan_elements is NaN in"):
            check_policy(Sparsify(**{side: Elements(nan_elements, 0.5)}), model=MODEL)
    with pytest.raises(LawBroken, match="'padding changes nothing'.*other elements of the keys"):
        score = lambda e: e.k_BGTD - e.k_BGTD.mean(2, keepdim=True)  # noqa: E731
        check_policy(Sparsify(k=Elements(score, 0.5)), model=MODEL)


def test_infinity_evicts_nobody_who_is_protected():
    check_policy(lambda e: length(e).where(e.age_BGT > 50, -float("inf")), model=MODEL)


def unprotected(score, first, valid, n):
    """A selection that trusts in infinity, with scores that are infinite too."""
    return per_head(score.masked_fill(first, float("inf")), first & False, valid, n)


def generous(score, first, valid, n):
    return per_head(score, first, valid, n + 1)


class Everything:
    unit = 1

    def mask(self, score):
        return torch.ones_like(score, dtype=torch.bool)


def everything(sparsity):
    return Everything()


def twice_in_piles(n, room, layer, n_layers):
    return 2 * n


WRONG = {
    "unprotected": (
        Evict(lambda e: length(e) * float("inf"), 0.5, select=unprotected),
        "'the protected stay': .* are gone, of 4 sinks and 32 recent",
    ),
    "generous": (Evict(length, 0.5, select=generous), "'the budget is kept'.*Look at generous"),
    "layers": (
        Evict(length, 0.5, recent=8, layers=twice_in_piles),
        "'the budget is kept'.*twice_in_piles",
    ),
    "everything": (
        Sparsify(k=Elements(policies.k_magnitude, 0.5, everything)),
        "'the sparsity is kept': 50% of the keys .* 100% stay",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_selection_is_told_which_law_it_breaks(name):
    policy, message = WRONG[name]
    with pytest.raises(LawBroken, match=message):
        check_policy(policy, model=MODEL)


def test_a_mass_that_depends_on_pieces_is_found():
    def blocks(e):
        return torch.ones_like(e.weights_BGRWT()) / e.q_BHWD.shape[2] * e.pos_BGT[:, :, None, None]

    score = needs(mass=blocks)(lambda e: e.mass_BGT * (e.pos_BGT % 7))
    with pytest.raises(LawBroken, match="'pieces change nothing'"):
        check_policy(Evict(score, 0.5, recent=8), model=MODEL)


def test_parts_are_checked_one_by_one_and_together():
    fine = Evict(length, 0.6, recent=8)
    with pytest.raises(LawBroken, match="by_chance"):
        check_policy(Then(fine, Evict(by_chance, 0.5)), model=MODEL)
    with pytest.raises(LawBroken, match="by_chance"):
        check_policy(Stored(policy=Evict(by_chance, 0.5)), model=MODEL)


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ValueError, match="which is too long to check"):
        check_policy(Evict(length, 8000), model=MODEL)
    with pytest.raises(ValueError, match="@needs"):
        check_policy(lambda e: e.weights_BGRWT().sum((2, 3)), model=MODEL)
    with pytest.raises(ValueError, match="3 came as a policy"):
        check_policy(3)


def test_the_readers_seed_is_left_alone(device):
    torch.manual_seed(5)
    want = torch.rand(1)
    torch.manual_seed(5)
    check_policy(partial(policies.random, seed=4), model=random_model(1).to(device))
    assert torch.equal(torch.rand(1), want)
