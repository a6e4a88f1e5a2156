import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
import traitlets

from kvlab.pack import Body, PerChannel, PerToken
from kvlab.view import Pruning

T, D, R, W = 14, 8, 3, 5


def drawn(seed=0, **state):
    rng = torch.Generator().manual_seed(seed)
    k_TD, v_TD = (torch.randn(T, D, generator=rng, dtype=torch.float64) for _ in range(2))
    q_RWD = torch.randn(R, W, D, generator=rng, dtype=torch.float64)
    panel = Pruning(k_TD, v_TD, q_RWD, [f" t{i}" for i in range(T)], group=4, **state)
    return panel, k_TD, v_TD, q_RWD


def squares(panel, name):
    root = ElementTree.fromstring(panel.svg)
    paths = root.iter("{http://www.w3.org/2000/svg}path")
    return sum(p.get("d").count("M") for p in paths if p.get("class") == name)


def by_hand(k_TD, v_TD, q_RWD, there_T=None):
    """The last query's output, head by head."""
    logits_RT = q_RWD[:, -1] @ k_TD.T / D**0.5
    if there_T is not None:
        logits_RT = logits_RT.masked_fill(~there_T, float("-inf"))
    return logits_RT.softmax(-1) @ v_TD


def test_without_pruning_nothing_is_lost():
    panel, *_ = drawn(sparsity=0.0)
    for direction in ("per token", "per channel", "whole channels", "whole tokens"):
        panel.direction = direction
        assert panel.error < 1e-12 and "100.0% of K and 100.0% of V stay" in panel.status
    panel.direction, panel.sparsity, panel.window = "per token", 0.5, T - 1
    assert panel.keep[0][1:].all() and not panel.keep[0].all()


@pytest.mark.parametrize("direction", ["per token", "per channel", "whole channels"])
@pytest.mark.parametrize("score", ["magnitude", "output-aware", "random"])
def test_the_error_is_that_of_what_is_left(direction, score):
    panel, k_TD, v_TD, q_RWD = drawn(direction=direction, score=score, sparsity=0.5, window=2)
    keep_k, keep_v = panel.keep
    assert keep_k[-2:].all() and keep_v[-2:].all()
    dense_RD, out_RD = by_hand(k_TD, v_TD, q_RWD), by_hand(k_TD * keep_k, v_TD * keep_v, q_RWD)
    assert panel.error == pytest.approx(float((out_RD - dense_RD).norm() / dense_RD.norm()))
    assert panel.error > 0.01
    n_pruned = int((~keep_k).sum() + (~keep_v).sum())
    assert squares(panel, "pruned") == n_pruned and squares(panel, "kept") == 2 * T * D - n_pruned


def test_counts_are_exact_in_each_direction():
    panel, k_TD, _, _ = drawn(sparsity=0.5, window=2)
    assert panel.keep[0][:-2].sum(1).tolist() == [D // 2] * (T - 2)
    panel.direction = "per channel"
    assert panel.keep[0][:12].unflatten(0, (3, 4)).sum(1).unique().item() == 2
    panel.direction = "whole channels"
    assert panel.keep[0][:-2].all(0).sum() == D // 2
    for direction, rule in ("per token", PerToken(D // 2)), ("per channel", PerChannel(2, group=4)):
        panel.direction = direction
        body = Body(rule, 0, 2, rule.unit)
        tokens_BGT = body.tokens_BGT(torch.arange(T)[None, None], (T,))
        assert torch.equal(panel.keep[0], body.mask(k_TD.abs()[None, None], tokens_BGT)[0, 0])


def test_a_token_goes_with_its_key_and_its_value_and_gets_no_weight():
    panel, k_TD, v_TD, q_RWD = drawn(direction="whole tokens", sparsity=0.5, window=2, half="keys")
    keep_k, keep_v = panel.keep
    stays_T = keep_k.all(1)
    assert torch.equal(keep_k, keep_v) and stays_T.sum() == 2 + (T - 2) // 2
    dense_RD, out_RD = by_hand(k_TD, v_TD, q_RWD), by_hand(k_TD, v_TD, q_RWD, stays_T)
    assert panel.error == pytest.approx(float((out_RD - dense_RD).norm() / dense_RD.norm()))
    assert "of keys" not in panel.status


def test_the_two_identities_show():
    panel, *_ = drawn(sparsity=0.5, window=2)

    def same(half, direction):
        panel.half, panel.direction, masks = half, direction, []
        for panel.score in ("magnitude", "output-aware"):
            masks.append(panel.keep[half == "values"])
        return torch.equal(*masks)

    assert same("values", "per token") and same("keys", "per channel")
    assert not same("keys", "per token") and not same("values", "per channel")


def test_halves_are_pruned_alone():
    panel, *_ = drawn(sparsity=0.5, half="values")
    assert panel.keep[0].all() and not panel.keep[1].all()
    panel.half = "keys"
    assert panel.keep[1].all() and not panel.keep[0].all()


def test_moving_a_control_draws_again_and_says_what_is_left():
    panel, *_ = drawn(sparsity=0.5, window=2)
    before = panel.svg
    panel.score = "random"
    assert panel.svg != before and "random" in panel.status
    first = panel.svg
    panel.draw = 3
    assert panel.svg != first
    assert re.search(r"error of attention's output \d+\.\d%", panel.status)
    assert {c["name"] for c in panel.controls} == {
        "half", "direction", "score", "sparsity", "window", "draw",
    }  # fmt: skip


def test_what_does_not_fit_is_refused():
    x_TD = torch.randn(T, D)
    for k_TD, v_TD, q_RWD, n in (
        (x_TD, x_TD[:-1], torch.randn(R, W, D), T),
        (x_TD, x_TD, torch.randn(R, W, D + 1), T),
        (x_TD, x_TD, torch.randn(R, T + 1, D), T),
        (x_TD, x_TD, torch.randn(R, W, D), T - 1),
    ):
        with pytest.raises(ValueError, match="expected"):
            Pruning(k_TD, v_TD, q_RWD, ["x"] * n)
    panel, *_ = drawn(window=3)
    with pytest.raises(traitlets.TraitError, match="window is 14"):
        panel.window = T
    assert panel.window == 3
