"""A function of the reader's own inside a model: same tokens, and nothing left behind."""

import pytest
import torch
import torch.nn.functional as F

import kvlab
from kvlab import Evict, Probe, compiled_decode, generate, prefill
from kvlab.course.ch03 import q3_3_grouped, q3_5_rope
from kvlab.course.ch06 import q6_1_cache, q6_4_generate
from kvlab.course.plugging import OwnCache, own_attention, own_block, own_cache, own_rope
from kvlab.prune.scores import knorm
from tests.conftest import tiny_model
from tests.measure.test_taps import hooks

PROMPT = [5, 6, 7, 8, 9, 10, 11]
EVICT = Evict(knorm, 12, sink=0, recent=4)


def attention(q_BHSD, k_BGTD, v_BGTD):
    """Written out, for the last S of T tokens."""
    share = q_BHSD.shape[1] // k_BGTD.shape[1]
    k_BHTD, v_BHTD = (x.repeat_interleave(share, dim=1) for x in (k_BGTD, v_BGTD))
    n_new, n_slots = q_BHSD.shape[2], k_BGTD.shape[2]
    seen_ST = torch.arange(n_slots) <= torch.arange(n_slots - n_new, n_slots)[:, None]
    scores_BHST = q_BHSD @ k_BHTD.mT / q_BHSD.shape[-1] ** 0.5
    return scores_BHST.masked_fill(~seen_ST, float("-inf")).softmax(-1) @ v_BHTD


def rope(theta):
    def turn(x_BHSD, pos_S):
        half = x_BHSD.shape[-1] // 2
        turns_D = theta ** (-torch.arange(half, dtype=x_BHSD.dtype) / half)
        angle_SD = pos_S[:, None] * turns_D
        cos_SD, sin_SD = angle_SD.cos(), angle_SD.sin()
        a, b = x_BHSD[..., :half], x_BHSD[..., half:]
        return torch.cat((a * cos_SD - b * sin_SD, b * cos_SD + a * sin_SD), -1)

    return turn


def block(x_BSC, parts):
    x_BSC = x_BSC + parts.attention(parts.attention_norm(x_BSC))
    return x_BSC + parts.mlp(parts.mlp_norm(x_BSC))


def owns(model):
    turn = rope(model.config.rope_theta)
    return [(own_attention, attention), (own_rope, turn), (own_block, block)]


@pytest.mark.parametrize("layers", [None, [0], [2, 0, 2], []])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_right_changes_nothing_with_a_cache_and_without(which, layers):
    model = tiny_model()
    plug, function = owns(model)[which]
    tokens = torch.tensor([PROMPT, PROMPT[::-1]])
    plain, calls = model(tokens), []
    answer = generate(model, tokens, 5)

    def counted(*given):
        calls.append(given)
        return function(*given)

    with plug(model, counted, layers):
        torch.testing.assert_close(model(tokens), plain, rtol=1e-12, atol=1e-12)
        n_layers = 3 if layers is None else len(set(layers))
        assert len(calls) == n_layers * (2 if plug is own_rope else 1)
        cache = model.new_cache(2, 20)
        assert torch.equal(generate(model, tokens, 5, cache=cache), answer)
    assert torch.equal(model(tokens), plain) and hooks(model) == 0
    assert all("forward" not in vars(layer) for layer in model.model.layers)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_wrong_is_heard_in_its_layers_alone(which):
    model = tiny_model()
    plug, function = owns(model)[which]
    tokens, seen = torch.tensor([PROMPT]), {}

    def wrong(*given):
        return function(*given) * 0.5

    for layers in ((), (1,), (2,)):
        with plug(model, wrong, layers), Probe(model, keep=("keys", "values")) as probe:
            seen[layers] = model(tokens)
            keys = probe.keys
        moved = [not torch.equal(keys[i][0], tiny_keys(model, tokens)[i]) for i in range(3)]
        first = min(layers, default=3) + (plug is not own_rope)
        assert moved == [i >= first for i in range(3)]
    assert not torch.allclose(seen[()], seen[(1,)]) and not torch.allclose(seen[(1,)], seen[(2,)])


def tiny_keys(model, tokens):
    with Probe(model, keep="keys") as probe:
        model(tokens)
    return [kept[0] for kept in probe.keys]


def test_positions_go_on_from_the_cache():
    model, at = tiny_model(), []
    turn = rope(model.config.rope_theta)

    def noted(x_BHSD, pos_S):
        at.append(pos_S.tolist())
        return turn(x_BHSD, pos_S)

    with own_rope(model, noted, [2]):
        generate(model, PROMPT, 3)
    assert at == [list(range(7))] * 2 + [[7]] * 2 + [[8]] * 2


def test_a_probe_hears_what_was_turned_whoever_came_first():
    model, tokens = tiny_model(), torch.tensor([PROMPT])
    with Probe(model, keep="keys") as before, own_rope(model, lambda x, pos_S: x * 0):
        model(tokens)
    with own_rope(model, lambda x, pos_S: x * 0), Probe(model, keep="keys") as after:
        model(tokens)
    assert not any(kept[0].any() for kept in before.keys + after.keys)


def test_one_inside_the_other():
    model = tiny_model()
    plain = model(torch.tensor([PROMPT]))
    with own_block(model, block), own_attention(model, attention):
        with own_rope(model, rope(model.config.rope_theta)), own_block(model, lambda x, parts: x):
            assert not torch.allclose(model(torch.tensor([PROMPT])), plain)
        torch.testing.assert_close(model(torch.tensor([PROMPT])), plain)
    assert torch.equal(model(torch.tensor([PROMPT])), plain)


def test_it_ends_after_an_error():
    model = tiny_model()

    def fails(*_):
        raise KeyError("mine")

    for plug in (own_attention, own_rope, own_block):
        with pytest.raises(KeyError), plug(model, fails):
            model(torch.tensor([PROMPT]))
    assert hooks(model) == 0 and "forward" not in vars(model.model.layers[0])


def test_what_cannot_work_is_refused():
    model = tiny_model()
    for plug, function in owns(model):
        for given in ((None, function), (model, 3), (model, function, 3), (model, function, [3]),
                      (model, function, [-1]), (model, function, ["0"])):  # fmt: skip
            with pytest.raises(ValueError, match="expected|has layers 0 to 2"):
                plug(*given)
        assert hooks(model) == 0
    compiled = tiny_model()
    compiled.compile(backend="eager")
    with pytest.raises(ValueError, match="compile"):
        own_attention(compiled, attention)


@pytest.mark.parametrize("plug", [own_attention, own_rope, own_block])
def test_a_result_of_another_form_is_refused_when_it_comes(plug):
    model = tiny_model()
    for wrong in (lambda x, *_: x[:, :1], lambda x, *_: x.float(), lambda *_: None):
        with plug(model, wrong), pytest.raises(ValueError, match="Your own .* gave .*; expected"):
            model(torch.tensor([PROMPT, PROMPT]))


def test_what_positions_would_be_needed_for_is_refused():
    model = tiny_model()
    for plug, function in owns(model)[:2]:
        with plug(model, function), pytest.raises(ValueError, match="several of one length"):
            generate(model, [PROMPT, PROMPT[:3]], 2)
    with own_attention(model, attention):
        cache = model.new_cache(1, 30)
        prefill(model, torch.tensor([PROMPT * 3]), cache, prune=EVICT)
        with pytest.raises(ValueError, match="no prune"):
            model(torch.tensor([PROMPT]), cache=cache)


def test_a_single_query_sees_all_that_an_eviction_left():
    model, cache = tiny_model(), tiny_model().new_cache(1, 30)
    plain = generate(model, PROMPT * 3, 5, cache=cache, prune=EVICT)
    with own_attention(model, attention):
        assert torch.equal(generate(model, PROMPT * 3, 5, prune=EVICT), plain)


def test_a_compiled_step_does_not_pass_by():
    model = tiny_model(dtype=torch.float32, head_dim=16)
    cache = model.new_cache(1, 20)
    for plug, function in owns(model):
        cache.reset()
        step = compiled_decode(model, cache)
        with plug(model, function), pytest.raises(ValueError, match="plain decode"):
            generate(model, PROMPT, 3, cache=cache, decode=step)


def test_torch_runs_the_pocket_model():
    model, tokenizer = kvlab.load("pocket")
    prompt = tokenizer.chat("What is the capital of France?")
    with own_attention(
        model,
        lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True
        ),
    ):
        answer = generate(model, prompt, 20)[0]
    assert tokenizer.decode(answer).strip() == "The capital of France is Paris."


def _own_caches():
    return [q6_1_cache.KVCache, q6_1_cache.TensorPerLayer]


@pytest.mark.parametrize("make", _own_caches())
def test_the_cache_of_exercise_6_1_answers_in_generate_and_in_the_loop_of_6_4(make):
    model = tiny_model()
    tokens = torch.tensor([PROMPT, PROMPT[::-1]])
    expected, made = generate(model, tokens, 6), []

    def counted(*sizes):
        made.append(make(*sizes))
        return made[-1]

    with own_cache(model, counted):
        assert torch.equal(generate(model, tokens, 6), expected)
        assert torch.equal(q6_4_generate.cached_generate(model, tokens, 6), expected)
    assert len(made) == 2 and "new_cache" not in vars(model)
    assert isinstance(model.new_cache(1, 4), kvlab.KVCache)
    with torch.no_grad():
        assert made[0].read(2)[0].shape == (2, 2, len(PROMPT) + 5, 8)


def test_one_row_is_computed_for_each_token_that_is_decoded():
    model = tiny_model()
    with own_cache(model, q6_1_cache.KVCache), Probe(model) as seen:
        generate(model, [PROMPT], 6)
    assert seen.rows_projected == len(PROMPT) + 5


def test_a_cache_inside_another_ends_with_its_own_block():
    model = tiny_model()
    with own_cache(model, q6_1_cache.KVCache):
        with own_cache(model, q6_1_cache.TensorPerLayer):
            assert isinstance(model.new_cache(1, 4).own, q6_1_cache.TensorPerLayer)
        assert isinstance(model.new_cache(1, 4).own, q6_1_cache.KVCache)
    assert not isinstance(model.new_cache(1, 4), OwnCache)


class ReadsTheLastLayer(q6_1_cache.KVCache):
    def read(self, layer):
        return super().read(len(self.used) - 1)


class OnlyKeys(q6_1_cache.KVCache):
    def read(self, layer):
        return super().read(layer)[0]


class Forgetful(q6_1_cache.KVCache):
    def read(self, layer):
        return tuple(x[:, :, 1:] for x in super().read(layer))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (ReadsTheLastLayer, r"read\(0\) of your own cache gave .* with T = 7"),
        (
            OnlyKeys,
            r"read\(0\) of your own cache gave None for the values; expected k_BGTD, v_BGTD",
        ),
        (Forgetful, "as many tokens as were appended"),
        (lambda *sizes: object(), "an object with append and read"),
        (3, "make is 3; expected a class"),
        (lambda *sizes: q6_1_cache.KVCache(*sizes[:3], 4, sizes[4]), "7 tokens do not fit into 4"),
    ],
)
def test_a_cache_that_is_wrong_is_told_what_it_gave(make, says):
    model = tiny_model()
    with pytest.raises(ValueError, match=says), own_cache(model, make):
        generate(model, [PROMPT], 6)
    assert "new_cache" not in vars(model)


def test_positions_that_do_not_follow_on_are_refused():
    model = tiny_model()
    with own_cache(model, q6_1_cache.KVCache):
        cache = model.new_cache(1, 12)
        prefill(model, torch.tensor([PROMPT]), cache)
        with pytest.raises(ValueError, match="holds 7 tokens, and tokens came for the positions"):
            model(torch.tensor([[3]]), torch.tensor([[0]]), cache)
        with pytest.raises(ValueError, match="expected 0 to 6 in each row. No positions"):
            generate(model, [PROMPT, PROMPT[:3]], 4)
        with pytest.raises(ValueError, match="dtype was asked of new_cache"):
            model.new_cache(1, 4, dtype=torch.float16)


def test_the_solutions_of_chapter_3_run_the_pocket_model():
    model, tokenizer = kvlab.load("pocket")
    prompt = tokenizer.chat("What is the capital of France?")
    answer = generate(model, prompt, 20)
    attend, turn = q3_3_grouped.shared_attention, q3_5_rope.turn
    with own_attention(model, attend), own_rope(model, lambda x, pos: turn(x, pos, 10000.0)):
        assert torch.equal(generate(model, prompt, 20), answer)
