"""Blocks and scheduler: laws on random traces, and that each planted fault is found."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlab.serve.blocks import BlockPool, Counts, Prefix
from kvlab.serve.policies import POLICIES, chunked, decode_first, prefill_first
from kvlab.serve.request import Request
from kvlab.serve.scheduler import Scheduler
from tests.serve import planted
from tests.serve.ghost import World, steady, trace

IN_TURN = [name for name in POLICIES if name != "by_deadline"]  # served in the order of arrival
UNFAIR = {planted.TheLatestIsLast, planted.Overtakes}


@given(st.integers(0, 2**32), st.sampled_from(sorted(POLICIES)))
@settings(max_examples=400, deadline=None)
def test_every_slot_read_is_the_readers_own_and_all_books_are_right(seed, name):
    trace(seed, POLICIES[name])


@pytest.mark.parametrize("name", IN_TURN)
@pytest.mark.parametrize("every", [1, 2])
def test_nobody_waits_for_ever_while_others_come(name, every):
    world = steady(POLICIES[name], every=every)
    assert len(world.ended) > 100 and any(r.preempted for r in world.ended)


def found(**parts) -> bool:
    for seed in range(150):
        for policy in POLICIES.values():
            try:
                trace(seed, policy, **parts)
            except (AssertionError, ValueError, IndexError):
                return True
    return False


@pytest.mark.parametrize("pool", planted.POOLS)
def test_a_planted_fault_of_a_pool_is_found(pool):
    assert found(pool=pool), pool.__doc__


@pytest.mark.parametrize("scheduler", planted.SCHEDULERS)
def test_a_planted_fault_of_a_scheduler_is_found(scheduler):
    if scheduler in UNFAIR:
        with pytest.raises(AssertionError):
            for name in IN_TURN:
                steady(POLICIES[name], every=1, scheduler=scheduler)
    else:
        assert found(scheduler=scheduler), scheduler.__doc__


def test_a_prompt_comes_in_when_there_is_space_for_all_of_it():
    lost = [
        sum(r.preempted for r in steady(prefill_first, every=1, scheduler=kind).ended)
        for kind in (Scheduler, planted.Overbooks)
    ]
    assert 1.5 * lost[0] < lost[1]


def drained(pool, policy=chunked, **requests):
    """Serve requests one after the other, each to its end."""
    world = World(pool.n_blocks, pool.size, policy, pool=lambda *_: pool)
    for id, (prompt, max_new) in requests.items():
        world.scheduler.add(Request(id, prompt, max_new))
        world.drain()
    return world


def test_the_beginning_of_a_text_is_forgotten_last():
    ends = []
    for kind in (BlockPool, planted.ForgetsTheBeginningFirst):
        pool = kind(4, 2)
        drained(pool, a=([1, 2, 3, 4, 5, 6, 7], 1), b=([8] * 5, 1))
        ends.append(len(pool.match([1, 2, 3, 4, 5, 6, 7])[0]))
    assert ends == [1, 0]


def test_used_evictable_and_free_blocks_are_told_apart():
    pool = BlockPool(6, 2)
    assert pool.counts == Counts(0, 0, 6)
    table = pool.take(3)
    known = pool.learn(table, [5, 6, 7, 8, 9], Prefix(0, ("salt", "")))
    assert pool.counts == Counts(3, 0, 3) and known.n_blocks == 2
    pool.release(table)
    assert pool.counts == Counts(0, 2, 4) and pool.available == 6
    assert pool.match([5, 6, 7, 8]) == ([table[0]], Prefix(1, 1))  # a token is left to compute
    assert pool.match([5, 6, 7, 8, 9])[0] == table[:2]
    assert pool.match([5, 6, 7, 8, 9], salt="another")[0] == []
    pool.take(5)
    assert pool.counts == Counts(5, 1, 0) and pool.match([5, 6, 7, 8, 9])[0] == [table[0]]


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "3", None])
def test_a_pool_of_no_size_is_refused(wrong):
    with pytest.raises(ValueError, match="n_blocks is"):
        BlockPool(wrong, 4)
    with pytest.raises(ValueError, match="size of a block is"):
        BlockPool(4, wrong)


def test_blocks_that_are_not_there_are_not_taken_and_none_is_given_back_twice():
    pool = BlockPool(3, 1)
    table = pool.take(2)
    with pytest.raises(ValueError, match="2 blocks were asked for; 1 of 3 are not in use"):
        pool.take(2)
    assert pool.counts == Counts(2, 0, 1)
    pool.release(table)
    with pytest.raises(ValueError, match="no table holds it"):
        pool.release(table)


def scheduler(**limits):
    return Scheduler(BlockPool(8, 4), chunked, **limits)


def test_a_request_that_can_never_fit_is_refused_when_it_comes():
    served = scheduler()
    served.add(Request("fits", [1] * 30, 3))  # the last token is written and never read
    with pytest.raises(
        ValueError,
        match="may grow to 33 tokens in the cache; 8 blocks of 4 hold 32. Give it 9 blocks",
    ):
        served.add(Request("large", [1] * 30, 4))
    with pytest.raises(ValueError, match="'fits' is being served"):
        served.add(Request("fits", [1], 1))
    assert [r.id for r in served.waiting] == ["fits"]


@pytest.mark.parametrize(
    ("prompt", "max_new", "said"),
    [
        ([], 1, "empty prompt"),
        ([1, -2], 1, "token of the prompt is -2"),
        ([1.5], 1, "token of the prompt is 1.5"),
        ([1], 0, "max_new is 0"),
        ([1], None, "max_new is None"),
    ],
)
def test_a_request_of_nothing_is_refused(prompt, max_new, said):
    with pytest.raises(ValueError, match=said):
        Request("a", prompt, max_new)


def test_plan_and_commit_come_in_turn_and_with_their_tokens():
    served = scheduler()
    one = Request("one", [1, 2, 3], 2)
    served.add(one)
    with pytest.raises(ValueError, match="had not been planned"):
        served.commit({})
    served.plan()
    with pytest.raises(ValueError, match="was not committed"):
        served.plan()
    for tokens in ({}, {one: 4, Request("two", [1], 1): 5}):
        with pytest.raises(ValueError, match=r"expected them for \['one'\]"):
            served.commit(tokens)
    assert served.commit({one: 4}) == [] and one.answer == [4]
    with pytest.raises(ValueError, match="no blocks to share"):
        served.fork(Request("three", [1], 1), "four")


def test_a_step_is_at_most_its_budget_and_a_prompt_is_read_in_pieces():
    served = scheduler(budget=5)
    one = Request("one", list(range(12)), 2)
    served.add(one)
    given = []
    while not served.idle:
        step = served.plan()
        given.append(step.n_tokens[one])
        served.commit(dict.fromkeys(step.written, 9))
    assert given == [5, 5, 2, 1] and one.answer == [9, 9] and one.finish == "length"


def gaps(policy):
    """Tokens computed between two of a user who is being answered, while a long prompt comes."""
    served = Scheduler(BlockPool(600, 4), policy, budget=2048 if policy is prefill_first else 64)
    user = Request("user", [1, 2, 3], 40)
    served.add(user)
    sizes, since = [], 0
    for at in range(200):
        if at == 3:
            served.add(Request("long", list(range(2000)), 1))
        if user.finish:
            return sizes
        step = served.plan()
        since += sum(step.n_tokens.values())
        if user in step.written:
            sizes.append(since)
            since = 0
        served.commit(dict.fromkeys(step.written, 9))
    raise AssertionError


def test_a_long_prompt_makes_everybody_wait_or_comes_in_pieces():
    assert max(gaps(prefill_first)) == 2001  # all of it between two tokens of the user
    assert max(gaps(chunked)) == 64  # no more than a step


def test_a_batch_at_a_time_waits_for_the_longest_answer():
    served = Scheduler(BlockPool(60, 4), decode_first, max_running=2)
    first, short, late = Request("a", [1], 9), Request("b", [2], 2), Request("c", [3], 1)
    for request in (first, short, late):
        served.add(request)
    while first.finish is None:
        assert late not in served.running
        served.commit(dict.fromkeys(served.plan().written, 7))
    served.commit(dict.fromkeys(served.plan().written, 7))
    assert late.finish == "length" and served.idle


def test_two_answers_to_one_prompt_share_its_blocks_and_copy_the_one_that_both_write():
    served = scheduler()
    one = Request("one", [1, 2, 3, 4, 5, 6], 3)
    served.add(one)
    served.commit(dict.fromkeys(served.plan().written, 7))
    two = served.fork(one, "two")
    assert two.table == one.table and served.pool.counts.used == 2
    step = served.plan()
    [(source, target)] = step.copies
    assert {source, target} == {one.table[1], two.table[1]} and one.table[0] == two.table[0]
    served.commit({one: 8, two: 9})
    assert (one.answer, two.answer) == ([7, 8], [7, 9])


def test_cancelled_in_a_step_a_request_ends_with_it_and_writes_nothing_more():
    served = scheduler()
    one = Request("one", [1, 2, 3], 5)
    served.add(one)
    served.commit(dict.fromkeys(served.plan().written, 7))
    served.plan()
    served.cancel(one)
    assert one.table  # the step still writes there
    assert served.commit({one: 8}) == [one] and one.answer == [7] and one.finish == "cancelled"
    assert served.idle and served.pool.counts.used == 0
    served.cancel(one)  # twice is no error
    waiting = Request("two", [1], 1)
    served.add(waiting)
    served.cancel(waiting)
    assert served.idle and waiting.finish == "cancelled"
