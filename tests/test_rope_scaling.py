"""Stretched rotary positions, wherever a model with them is used; the rules are held against
`transformers` in test_config (each pair's turn) and test_families (logits)."""

import pytest
import torch

import kvlab
from kvlab import generate, ops, prune
from kvlab.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling
from tests.conftest import tiny_config, tiny_model

SCALINGS = {
    "linear": LinearScaling(4.0),
    "llama3": Llama3Scaling(8.0, 1.0, 4.0, 64),
    "yarn": YarnScaling(8.0, 64, attention_factor=1.2),
}


@pytest.mark.parametrize(("name", "share"), [("linear", 1.0), ("llama3", 0.5), ("yarn", 0.5)])
def test_slow_pairs_turn_slower_by_the_factor_and_fast_ones_by_the_rule(name, share):
    scaling = SCALINGS[name]
    plain = ops.rope_turns(64, 1e4, dtype=torch.float64)
    slower = plain / ops.rope_turns(64, 1e4, scaling, dtype=torch.float64)
    assert (slower >= 1).all() and slower[-1].item() == pytest.approx(scaling.factor)
    assert (slower.diff() >= -1e-12).all()
    assert (slower > 1.001).double().mean() >= share
    assert (slower[0] == 1) == (name != "linear")


def test_yarns_factor_of_attention_is_in_cosines_and_sines():
    pos_BS = torch.tensor([[0, 7, 300]])
    cos, sin = ops.rope_angles(pos_BS, 16, 1e4, torch.float64, SCALINGS["yarn"])
    torch.testing.assert_close(cos**2 + sin**2, torch.full_like(cos, 1.2**2))


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("rows", [1, 2])
def test_the_compiled_step_goes_on_as_the_plain_one(name, rows):
    model = tiny_model(3, torch.float32, rope_scaling=SCALINGS[name])
    prompts = [list(range(1, 12)), list(range(3, 9))][:rows]
    cache = model.new_cache(rows, 60)
    step = kvlab.compiled_decode(model, cache)
    fast = generate(model, prompts, 40, eos=(), cache=cache, decode=step)
    assert torch.equal(fast, generate(model, prompts, 40, eos=()))
    plain = generate(tiny_model(3, torch.float32), prompts, 40, eos=())
    assert not torch.equal(fast, plain)


@pytest.mark.parametrize("name", SCALINGS)
def test_a_score_that_turns_queries_back_turns_them_by_the_same_rule(name):
    model = tiny_model(4, rope_scaling=SCALINGS[name])
    wanted = []

    @prune.needs(rope=True)
    def spy(e):
        wanted.append(e.turns)
        return e.pos_BGT.double()

    generate(model, list(range(20)), 2, prune=prune.Evict(spy, budget=0.5, sink=0, recent=0))
    assert torch.equal(wanted[0], ops.rope_turns(8, 1e4, SCALINGS[name]))


@pytest.mark.parametrize("name", ["linear", "yarn"])
def test_inside_transformers_an_eviction_leaves_what_ours_leaves(tmp_path, name):
    pytest.importorskip("transformers", "5", reason="needs transformers 5")
    from kvlab import hf
    from kvlab.prune.scores import expected_attention
    from tests.test_families import peer, saved

    theirs = peer(name).double()
    ours, _ = kvlab.load(saved(theirs, tmp_path), dtype="float64")
    assert type(ours.config.rope_scaling).__name__.lower().startswith(name)
    prompt, policy = torch.arange(90) % 101, prune.Evict(expected_attention, 40)
    want = generate(ours, prompt.tolist(), 24, prune=policy, eos=())
    got = theirs.generate(
        prompt[None], past_key_values=hf.cache(theirs, policy), max_new_tokens=24,
        do_sample=False, pad_token_id=0, attention_mask=torch.ones(1, 90),
    )  # fmt: skip
    assert torch.equal(got[:, 90:], want)


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        ((8.0, 1.0, 4.0, 64), "expected a rule of kvlab.rope_scaling"),
        (LinearScaling("2"), "The linear rope has factor = ('2',); expected finite numbers"),
        (LinearScaling(0), "linear rope"),
        (Llama3Scaling(8.0, 4.0, 1.0, 64), "more than low_freq_factor"),
        (YarnScaling(8.0, 64, truncate=1), "truncate true or false"),
        (YarnScaling(8.0, 64, beta_fast=0.5), "beta_fast no less than beta_slow"),
        (YarnScaling(8.0, None), "original_max_position_embeddings"),
    ],
)
def test_a_rule_that_cannot_be_computed_is_refused(scaling, said):
    with pytest.raises(ValueError) as caught:
        tiny_config(rope_scaling=scaling)
    assert said in str(caught.value)


def test_yarn_needs_a_theta_above_1():
    with pytest.raises(ValueError, match="rope_theta above 1"):
        tiny_config(rope_theta=1.0, rope_scaling=YarnScaling(8.0, 64))
