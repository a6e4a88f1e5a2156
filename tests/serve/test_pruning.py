"""Whole blocks are given back: what is freed, what others find, and that answers are right."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlab.cache import KVCache
from kvlab.generation import decode, prefill
from kvlab.serve.blocks import BlockPool, Counts, Prefix
from kvlab.serve.engine import Engine
from kvlab.serve.policies import POLICIES, chunked
from kvlab.serve.pruning import FewBlocks, give_back
from kvlab.serve.request import Request
from kvlab.serve.scheduler import Scheduler
from tests.conftest import tiny_model
from tests.serve.ghost import Ghost, trace


@given(st.integers(0, 2**32), st.sampled_from(sorted(POLICIES)))
@settings(max_examples=150, deadline=None)
def test_pruned_requests_read_what_is_left_of_their_text_and_nobody_reads_theirs(seed, name):
    trace(seed, POLICIES[name], prunes=True)


class Publishes(Scheduler):
    """What a pruned request computes is made known as if it followed from its whole text."""

    def commit(self, next_tokens):
        dropped = {r: r.dropped for r in self.running}
        for request in dropped:
            request.dropped = 0
        try:
            return super().commit(next_tokens)
        finally:
            for request, n in dropped.items():
                request.dropped = n if request.table else 0


class CountsWhatIsGone(Scheduler):
    """Space is made as if a pruned request held all of its text."""

    def _make_space(self, step, request, n):
        dropped, request.dropped = request.dropped, 0
        try:
            return super()._make_space(step, request, n)
        finally:
            request.dropped = dropped if request.table else 0


@pytest.mark.parametrize("scheduler", [Publishes, CountsWhatIsGone])
def test_a_planted_fault_is_found(scheduler):
    with pytest.raises((Ghost, AssertionError, IndexError, ValueError)):
        for seed in range(300):
            trace(seed, chunked, prunes=True, scheduler=scheduler)


class Noted(FewBlocks):
    """Remembers when it gave back what."""

    def __call__(self, store, pool, request):
        places = super().__call__(store, pool, request)
        self.deeds = [*getattr(self, "deeds", []), (request.computed, places)]
        return places


def test_an_answer_is_that_of_a_cache_from_which_the_same_tokens_went():
    model, size, prompt, n_new = tiny_model(seed=3), 4, list(range(1, 31)), 24
    policy = Noted(5, sinks=1)
    engine = Engine(model, n_blocks=20, size=size, budget=7, prune=policy)
    request = engine.add("a", prompt, n_new, ends=())
    most = 0
    while not engine.scheduler.idle:
        engine.step()
        most = max(most, engine.pool.counts.used) if request.answer else most
    deeds = {computed: places for computed, places in policy.deeds if places}
    assert len(deeds) > 4 and most <= 5 and request.dropped == 0 == engine.pool.counts.used

    cache = model.new_cache(1, len(prompt) + n_new)
    said = [int(prefill(model, torch.tensor([prompt]), cache).argmax())]
    for computed in range(len(prompt), len(prompt) + n_new - 1):
        if computed in deeds:
            evict(cache, deeds[computed], size)
        said.append(int(decode(model, torch.tensor(said[-1:]), cache).argmax()))
    assert request.answer == said


def evict(cache: KVCache, places, size):
    for layer in range(cache.n_layers):
        slot_T = torch.arange(cache.used_L[layer])
        stays_T = ~torch.isin(slot_T // size, torch.tensor(places))
        cache.keep(layer, stays_T.expand(1, cache.n_kv_heads, -1))


def test_sinks_the_latest_block_and_shared_ones_stay():
    model = tiny_model(seed=4)
    engine = Engine(model, n_blocks=40, size=4, prune=FewBlocks(3, sinks=2))
    one = engine.add("one", list(range(20)), 30, ends=())
    engine.step()
    assert len(one.table) == 3
    two = engine.fork(one, "two")
    before = list(one.table)
    engine.step()
    assert one.table[:2] == two.table[:2] == before[:2] and one.dropped == two.dropped == 8
    engine.run()
    assert engine.pool.counts.used == 0 and one.answer == two.answer


def test_what_was_known_before_is_found_and_what_came_after_is_not():
    model = tiny_model(seed=5)
    engine = Engine(model, n_blocks=40, size=4, prune=FewBlocks(3))
    prompt = list(range(20))
    one = engine.add("one", prompt, 12, ends=())
    engine.run()
    engine.prune = None
    again = engine.add("again", [*prompt, *one.answer], 1, ends=())
    engine.run()
    assert again.cached == 20  # the prompt, of which blocks were given back as they were
    cold = Engine(model, n_blocks=40, size=4).add
    assert again.answer == answer(model, [*prompt, *one.answer], cold)


def answer(model, prompt, add):
    engine = add.__self__
    request = add("cold", prompt, 1, ends=())
    engine.run()
    return request.answer


def test_a_block_that_is_not_full_is_not_given_back():
    pool = BlockPool(8, 4)
    request = Request("a", list(range(10)), 1)
    request.table, request.computed = pool.take(3), 10
    for places in ([2], [-1], [0, 5]):
        with pytest.raises(ValueError, match="only the first 2 are full"):
            give_back(pool, request, places)
    give_back(pool, request, [])
    assert request.dropped == 0 and pool.counts == Counts(3, 0, 5)
    pool.learn(request.table, request.tokens, Prefix(0, ("salt", "")))
    give_back(pool, request, [0])
    assert (request.dropped, request.held) == (4, 6) and pool.counts == Counts(2, 1, 5)


@pytest.mark.parametrize(("most", "sinks"), [(0, 0), (1, 1), (2.5, 1), (4, -1), (None, 1)])
def test_a_budget_of_no_blocks_is_refused(most, sinks):
    with pytest.raises(ValueError, match="sinks|most blocks"):
        FewBlocks(most, sinks=sinks)
