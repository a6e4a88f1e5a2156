"""Many requests on one model: each gets what it would have got alone."""

import random

import pytest
import torch

import kvlab
from kvlab.fast.int8 import int8_weights_
from kvlab.sampling import Sampler
from kvlab.serve.engine import Engine
from kvlab.serve.policies import POLICIES, chunked
from tests.conftest import tiny_model

FAMILIES = [
    {}, {"n_kv_heads": 1}, {"n_heads": 3, "n_kv_heads": 3, "head_dim": 8},
    {"family": "qwen2", "qkv_bias": True}, {"family": "qwen3", "qk_norm": True},
]  # fmt: skip


def prompts(model, n, rng, longest=30):
    """Texts that begin alike now and then."""
    texts = [[rng.randrange(model.config.vocab_size) for _ in range(longest)] for _ in range(3)]
    made = []
    for _ in range(n):
        tokens = rng.choice(texts)[: rng.randint(1, longest)]
        if rng.random() < 0.5:
            tokens = [*tokens[:-1], rng.randrange(model.config.vocab_size)]
        made.append(tokens)
    return made


def alone(model, prompt, n, **how):
    return kvlab.generate(model, list(prompt), n, **how)[0].tolist()


def served(engine, most=5000):
    """All that is written until nobody is left, by request."""
    said = {}
    for _ in range(most):
        if engine.scheduler.idle:
            return said
        for request, token in engine.step():
            said.setdefault(request.id, []).append(token)
    raise AssertionError("it does not end")


@pytest.mark.parametrize("policy", list(POLICIES.values()), ids=list(POLICIES))
def test_everybody_gets_the_answer_that_they_would_get_alone(policy, device):
    model, rng = tiny_model(seed=1, device=device), random.Random(4)
    for size, n_blocks, budget in ((1, 70, 7), (3, 24, 64), (16, 6, 16)):
        engine = Engine(
            model, n_blocks=n_blocks, size=size, policy=policy, budget=budget, max_running=5
        )
        asked = {}
        for id, prompt in enumerate(prompts(model, 12, rng)):
            n = rng.randint(1, 14)
            asked[engine.add(id, prompt, n, deadline=rng.random())] = alone(model, prompt, n)
            engine.step()  # they come one after the other, into what goes on
        engine.run()
        assert {r.id: r.answer for r in asked} == {r.id: a for r, a in asked.items()}
        assert engine.pool.counts.used == 0


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("changes", FAMILIES, ids=[str(c) for c in FAMILIES])
def test_answers_are_those_of_generate_in_every_family_while_blocks_are_taken_away(
    changes, compiled
):
    model, rng = tiny_model(seed=2, **changes), random.Random(9)
    engine = Engine(model, n_blocks=12, size=4, budget=11, compiled=compiled)
    asked, requests = {}, []
    for id, prompt in enumerate(prompts(model, 10, rng)):
        n = rng.randint(4, 18)
        asked[id] = alone(model, prompt, n)
        requests.append(engine.add(id, prompt, n))
    assert served(engine) == asked
    assert any(r.preempted for r in requests) and any(r.cached for r in requests)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_logits_of_a_step_are_those_of_a_whole_forward(monkeypatch, compiled):
    model, rng = tiny_model(seed=3), random.Random(1)
    engine = Engine(model, n_blocks=40, size=4, budget=13, compiled=compiled)
    compared = 0
    plain = Engine._logits

    def watched(self, plan):
        nonlocal compared
        logits_BV = plain(self, plan)
        for row_V, request in zip(logits_BV, plan.written, strict=True):
            whole_V = model(torch.tensor([request.tokens]))[0, -1]
            torch.testing.assert_close(row_V, whole_V, atol=1e-9, rtol=0)
            compared += 1
        return logits_BV

    monkeypatch.setattr(Engine, "_logits", watched)
    for id, prompt in enumerate(prompts(model, 8, rng)):
        engine.add(id, prompt, 6)
    engine.run()
    assert compared == 48


def test_beginnings_and_pieces_of_one_length_are_read_together(monkeypatch):
    """Also where another request stands between them in the step, and each at its own place."""
    from kvlab.serve import paged

    model, rng, seen = tiny_model(seed=3), random.Random(1), []

    class Watched(paged.Pieces):
        def __init__(self, store, parts):
            seen.append([(p.held, p.n_new) for p in parts])
            super().__init__(store, parts)

    monkeypatch.setattr(paged, "Pieces", Watched)

    def sixes_and_fives(running, waiting, budget):
        some = (*running, *waiting)
        return [(r, 5 if r.id == 1 and not r.computed else 6) for r in some]

    engine = Engine(model, n_blocks=40, size=4, budget=64, policy=sixes_and_fives)
    asked = {}
    for id in range(4):
        prompt = [rng.randrange(model.config.vocab_size) for _ in range(15)]
        asked[id] = alone(model, prompt, 5)
        engine.add(id, prompt, 5)
    assert served(engine) == asked
    assert seen[:6] == [
        [(0, 6)] * 3, [(0, 5)], [(6, 6)] * 3, [(5, 6)], [(12, 3)] * 3, [(11, 4)]
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_compiled_steps_give_the_logits_of_plain_ones(kind):
    """Logits of the same tokens, whatever the numbers are stored as; both kinds of steps mixed."""
    model, _ = kvlab.load("pocket", dtype="float32" if kind == "int8" else kind)
    if kind == "int8":
        int8_weights_(model)
    rng = random.Random(5)
    asked = [[rng.randrange(2048) for _ in range(rng.choice([1, 7, 40]))] for _ in range(18)]
    logits = []
    for compiled in (False, True):
        engine, rows = Engine(model, n_blocks=200, budget=64, compiled=compiled), {}

        def kept(row_1V, rows=rows, engine=engine):
            rows.setdefault(len(rows), row_1V[0].clone())
            return torch.tensor([7])  # whatever is likeliest

        for id, prompt in enumerate(asked):
            engine.add(id, prompt, 5, pick=kept, ends=())
        engine.run()
        logits.append(torch.stack(list(rows.values())).float())
    assert logits[0].shape[0] == 18 * 5
    near = 1e-4 if kind == "float32" else 0.1
    torch.testing.assert_close(*logits, atol=near, rtol=0)


def test_compiled_steps_are_refused_where_they_cannot_be(monkeypatch):
    from kvlab import kernels

    model = tiny_model()
    engine = Engine(model, n_blocks=4, compiled=True)
    request = engine.add("one", [3], 4)
    engine.step()
    with kvlab.Probe(model), pytest.raises(ValueError, match="A probe watches this model"):
        engine.step()
    engine.run()
    assert request.answer == alone(model, [3], 4)
    monkeypatch.setattr(kernels, "missing", lambda name: "numba is not installed")
    with pytest.raises(ValueError, match="numba is not installed"):
        Engine(model, n_blocks=4, compiled=True)


def test_blocks_read_where_they_lie_and_gathered_give_the_same(monkeypatch):
    """The kernel's logits against those of torch, and what both left in the blocks, to the bit."""
    model, rng, logits, stores = tiny_model(seed=3), random.Random(1), [[], []], []
    plain, asked = Engine._logits, prompts(tiny_model(), 6, rng)
    for way, seen in zip((None, "it was asked for"), logits, strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(
                Engine, "_logits", lambda s, p, seen=seen: seen.append(plain(s, p)) or seen[-1]
            )
            engine = Engine(model, n_blocks=40, size=4, budget=13)
            assert engine.store.unread is None
            engine.store.unread = way
            for id, prompt in enumerate(asked):
                engine.add(id, prompt, 6)
            engine.run()
        full = torch.tensor(sorted(engine.pool._known.values()))
        stores.append(engine.store.k_LGND[0].unflatten(1, (-1, 4))[:, full])
    for one, other in zip(*logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    # the first layer's keys follow from the tokens alone
    assert stores[0].shape[1] > 10 and torch.equal(*stores)


def test_a_known_beginning_is_found_and_changes_nothing():
    model = tiny_model(seed=4)
    engine = Engine(model, n_blocks=40, size=4)
    prompt = list(range(20))
    cold = engine.add("cold", prompt, 5)
    engine.run()
    warm, longer = (
        engine.add("warm", prompt, 5),
        engine.add("longer", [*prompt, *cold.answer, 1], 5),
    )
    other = engine.add("other", prompt, 5, salt="another tenant")
    engine.run()
    assert (cold.cached, warm.cached, longer.cached, other.cached) == (0, 16, 24, 0)
    assert cold.answer == warm.answer == other.answer == alone(model, prompt, 5)
    assert longer.answer == alone(model, longer.prompt, 5)


def test_a_draw_is_ones_own_whoever_else_is_served():
    model = tiny_model(seed=5)
    engine = Engine(model, n_blocks=40, size=4, budget=9)
    made = [
        engine.add(seed, [1, 2, 3, seed], 9, pick=Sampler(temperature=1.3, seed=seed))
        for seed in range(6)
    ]
    engine.run()
    for seed, request in enumerate(made):
        drawn = alone(model, request.prompt, 9, pick=Sampler(temperature=1.3, seed=seed))
        assert request.answer == drawn


def test_two_answers_to_one_prompt_go_their_own_ways():
    model = tiny_model(seed=6)
    engine = Engine(model, n_blocks=40, size=4)
    one = engine.add("one", [1, 2, 3, 4, 5, 6], 8)
    engine.step()
    two = engine.fork(one, "two", pick=Sampler(temperature=2, seed=3))
    engine.run()
    assert one.answer == alone(model, one.prompt, 8)
    assert two.answer[0] == one.answer[0] and two.answer != one.answer
    again = alone(model, [*two.prompt, two.answer[0]], 7, pick=Sampler(temperature=2, seed=3))
    assert two.answer[1:] == again


def test_a_step_that_fails_leaves_everybody_as_they_were(monkeypatch):
    model = tiny_model(seed=7)
    engine = Engine(model, n_blocks=40, size=4, budget=6)
    requests = [engine.add(id, [id, 2, 3, 4, 5], 6) for id in range(4)]
    engine.step()
    before = [(r.tokens[:], r.computed) for r in requests]
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "hidden", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    assert [(r.tokens, r.computed) for r in requests] == before
    engine.cancel(requests[1])
    engine.run()
    for request in (requests[0], *requests[2:]):
        assert request.answer == alone(model, request.prompt, 6)
    assert requests[1].finish == "cancelled" and engine.pool.counts.used == 0


def test_a_copy_that_a_failed_step_left_undone_is_made_before_the_next(monkeypatch):
    model = tiny_model(seed=6)
    engine = Engine(model, n_blocks=40, size=4)
    one = engine.add("one", [1, 2, 3, 4, 5, 6], 8)
    engine.step()
    two = engine.fork(one, "two")
    with monkeypatch.context() as patch:
        patch.setattr(engine.store, "copy", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    engine.run()
    assert one.answer == two.answer == alone(model, one.prompt, 8)


def test_one_that_fails_fails_alone():
    """Infinite numbers in one request's blocks reach nobody else, now or later."""
    model = tiny_model(seed=8)

    def refuses(logits_BV):
        raise OSError("no choice")

    with torch.no_grad():
        model.model.embed_tokens.weight[7] = float("nan")
    engine = Engine(model, n_blocks=6, size=4)
    good = [engine.add(i, [1, 2, 3, i, 5], 6) for i in range(2)]
    ill = engine.add("ill", [1, 2, 3, 7, 5], 6)
    odd = engine.add("odd", [1, 2], 6, pick=refuses)
    engine.run()
    assert ill.finish == odd.finish == "failed" and "NaN" in ill.error and "no choice" in odd.error
    later = [engine.add(i, [9, 9, i], 20) for i in range(3)]
    engine.run()  # in the blocks that were theirs
    for request in (*good, *later):
        assert request.answer == alone(model, request.prompt, request.max_new)
    assert engine.pool.counts.used == 0


def test_the_pocket_model_answers_sixteen_users(device):
    model, tokenizer = kvlab.load("pocket", device=device)
    engine = Engine(model, n_blocks=96, size=8, policy=chunked, budget=64)
    capitals = {"France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Japan": "Tokyo"}
    asked = {}
    for id in range(16):
        country = list(capitals)[id % 4]
        text = f"System: You are helpful.\nUser: What is the capital of {country}?\nAssistant:"
        asked[engine.add(id, tokenizer.encode(text), 20)] = f"The capital of {country} is "
    engine.run()
    for request, said in asked.items():
        answer = tokenizer.decode(request.answer).strip()
        assert answer.startswith(said) and request.finish == "stop"
        assert capitals[said.split()[3]] in answer


@pytest.mark.parametrize(
    ("prompt", "max_new", "said"),
    [
        ([1, 5000], 1, "has the token 5000; the model's are 0 to"),
        ([1] * 200, 100, "has 200 tokens and asks for 100; the model reads at most 256"),
        ([1] * 60, 10, "may grow to 69 tokens in the cache; 8 blocks of 4 hold 32"),
        ([], 1, "empty prompt"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_done(prompt, max_new, said):
    engine = Engine(tiny_model(), n_blocks=8, size=4)
    with pytest.raises(ValueError, match=said):
        engine.add("a", prompt, max_new)
    assert engine.scheduler.idle


def test_a_model_is_asked_for():
    with pytest.raises(ValueError, match="model"):
        Engine("pocket", n_blocks=8)
