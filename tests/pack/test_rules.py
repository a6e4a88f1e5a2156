"""Rules by themselves: mask, parts and bytes are one and the same choice."""

import pytest
import torch

from kvlab.pack import (
    Body,
    Channels,
    CodesPerChannel,
    CodesPerToken,
    Dense,
    PerChannel,
    PerToken,
)

D = 16
PRUNING = [
    PerToken(5),
    PerToken(3, marks="index"),
    PerToken(sparsity=0.6),
    PerChannel(3, group=8),
    PerChannel(group=16, sparsity=0.5),
    Channels(5, group=8),
    Channels(group=8, sparsity=0.75),
    Channels(4, group=None),
]
CODES = [PerToken(9, bits=4), CodesPerToken(4, group=8), CodesPerChannel(2, group=8)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_size(rule, x_BGTD):
    """The score that packing goes by."""
    if not isinstance(rule, Channels):
        return x_BGTD.abs()
    return x_BGTD.square() if rule.group else x_BGTD.square().sum(2)


@pytest.mark.parametrize("rule", PRUNING, ids=str)
def test_what_is_stored_is_what_the_mask_keeps(rule):
    x = draw(2, 3, 48, D)
    keep = rule.mask(by_size(rule, x))
    keep = keep if keep.dim() == 4 else keep[:, :, None].expand_as(x)
    assert torch.equal(rule.decode(rule.encode(x), D), x.where(keep, 0))


@pytest.mark.parametrize("rule", [*PRUNING, *CODES, Dense()], ids=str)
def test_bytes_are_those_of_the_parts_and_time_is_their_third_axis(rule):
    x = draw(2, 3, 48, D).half()
    parts = rule.encode(x)
    stored = sum(part.numel() * part.element_size() for part in parts)
    assert stored == 2 * 3 * Body(rule, 0, 0, rule.unit).n_bytes(48, D, torch.float16)
    once = getattr(rule, "group", 1) is None
    for part in parts:
        assert part.shape[:3] == (2, 3, 1 if once else 48 // rule.unit)
    if not once:  # groups do not depend on each other
        half = rule.encode(x[:, :, 16:32])
        for part, some in zip(parts, half, strict=True):
            at = 16 // rule.unit
            assert torch.equal(part[:, :, at : at + some.shape[2]], some)


@pytest.mark.parametrize("rule", [*CODES[1:], Dense()], ids=str)
def test_codes_drop_nothing(rule):
    assert rule.mask(draw(1, 2, 16, D)).all()


def test_of_equals_the_first_stay_and_counts_are_exact():
    score = torch.zeros(1, 1, 16, D)
    assert PerToken(5).mask(score)[0, 0, 3].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]
    channel = PerChannel(3, group=8).mask(score)[0, 0, :, 2].nonzero()[:, 0].tolist()
    assert channel == [0, 1, 2, 8, 9, 10]
    assert Channels(2, group=8).mask(score)[0, 0, 9].nonzero()[:, 0].tolist() == [0, 1]
    assert Channels(2, group=None).mask(score[:, :, 0])[0, 0].nonzero()[:, 0].tolist() == [0, 1]


def test_a_sparsity_is_the_count_that_follows_from_the_row():
    assert PerToken(sparsity=0.7).count(64) == 19 == PerToken(19).count(64)
    assert PerChannel(group=8, sparsity=0.75).count(8) == 2
    assert PerToken(sparsity=0.999).count(64) == 1
    x = draw(1, 2, 32, 64)
    for one, other in ((PerToken(sparsity=0.7), PerToken(19)),
                       (Channels(sparsity=0.7), Channels(19))):  # fmt: skip
        assert all(map(torch.equal, one.encode(x), other.encode(x)))
        assert one.unit_bytes(64, torch.half) == other.unit_bytes(64, torch.half)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PerToken(), r"either how many .* as in PerToken\(19\), or a share"),
        (lambda: PerToken(4, sparsity=0.5), "either how many"),
        (lambda: PerChannel(group=8), "as in PerChannel"),
        (lambda: Channels(3, sparsity=0.1), "as in Channels"),
        (lambda: PerToken(sparsity=1.0), r"expected a number in \[0, 1\)"),
        (lambda: PerToken(17).mask(draw(1, 1, 2, D)), "from 1 to 16"),
        (lambda: Channels(4, group=None).mask(draw(1, 1, 2, D)), "expected 3 axes"),
        (lambda: Channels(4).mask(draw(1, 1, D)), "expected 4 axes"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_body_counts_groups_by_the_tokens_that_are_left():
    pos = torch.tensor([[[0, 2, 3, 5, 6, 9, 10, 11], [0, 1, 2, 3, 4, 5, 10, -1]]])

    def tokens(sink, recent, unit, by_slot=False):
        body = Body(PerChannel(1, unit), sink, recent, unit, by_slot)
        there = body.tokens_BGT(pos, (12,))
        return [p[t].tolist() for p, t in zip(pos[0], there[0], strict=True)]

    assert tokens(1, 2, 1) == [[2, 3, 5, 6, 9], [1, 2, 3, 4, 5]]
    assert tokens(1, 2, 2) == [[2, 3, 5, 6], [1, 2, 3, 4]]
    assert tokens(2, 1, 1, by_slot=True) == [[3, 5, 6, 9, 10], [2, 3, 4, 5]]
    assert tokens(2, 1, 4, by_slot=True) == [[3, 5, 6, 9], [2, 3, 4, 5]]
    assert tokens(0, 0, 16) == [[], []]


def test_a_group_is_made_of_a_heads_own_tokens():
    """Two heads that lack different tokens, and what each keeps of its own groups."""
    pos = torch.tensor([[[0, 1, 3, 4, 6, 7], [0, 2, 3, 5, 6, -1]]])
    x = torch.tensor([[[1.0, 9, 2, 8, 3, 7], [5, 6, 7, 1, 2, 99]]])[..., None].expand(1, 2, 6, 8)
    body = Body(PerChannel(1, group=2), 1, 0, 2)
    there = body.tokens_BGT(pos, (8,))
    keep = body.mask(x, there)
    assert keep[..., 3].tolist() == [
        [[True, True, False, True, False, True], [True, False, True, False, True, True]]
    ]
    held = Body(CodesPerChannel(8, group=2), 1, 0, 2).hold(x, there)  # two numbers, both their ends
    assert torch.allclose(held, x) and torch.equal(held[~there], x[~there])


def test_a_mask_of_another_shape_is_refused():
    class Odd:
        unit = 1

        def mask(self, score):
            return score[..., :1] > 0

    body = Body(Odd(), 0, 0, 1)
    score = draw(1, 2, 4, D)
    with pytest.raises(ValueError, match="expected one boolean for each number"):
        body.mask(score, torch.ones(1, 2, 4, dtype=torch.bool))
