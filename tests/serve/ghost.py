"""A cache without numbers: each slot remembers of which text it holds the last token.

What a request reads must be its own text, slot by slot. A scheduler and a pool that hand out a
block too early, too late or twice are found by that, whatever else they got right.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from kvlab.serve.blocks import BlockPool
from kvlab.serve.pruning import give_back
from kvlab.serve.request import Policy, Request
from kvlab.serve.scheduler import Scheduler


class Ghost(AssertionError):
    """A slot holds another text than its reader's."""


def next_of(tokens: list[int], n_words: int) -> int:
    """What a model would write: a function of the text alone, and of all of it."""
    return (7 * len(tokens) + sum(t * (i % 5 + 1) for i, t in enumerate(tokens))) % n_words


class World:
    """A scheduler, the slots of its blocks, and the checks of every step."""

    def __init__(
        self, n_blocks: int, size: int, policy: Policy, *, n_words: int = 3,
        scheduler: Callable[..., Scheduler] = Scheduler, pool: Callable[..., BlockPool] = BlockPool,
        **limits: int,
    ) -> None:  # fmt: skip
        self.pool = pool(n_blocks, size)
        self.scheduler = scheduler(self.pool, policy, **limits)
        self.size, self.n_words = size, n_words
        self.slots: list[list[object]] = [[None] * size for _ in range(n_blocks)]
        self.ended: list[Request] = []
        self.steps = 0
        self.own: dict[Request, list[object]] = {}  # of a pruned one, what its slots should hold

    def text(self, request: Request, n: int) -> tuple:
        return (request.salt, *request.tokens[:n])

    def held(self, request: Request, n_new: int) -> list[object]:
        """What a request's slots must hold once so many tokens more are computed: all of its own
        text, or what pruning left of it, and then what follows from that alone."""
        own = self.own.get(request) if request.dropped else None
        own = own or [self.text(request, i + 1) for i in range(request.computed)]
        said = ["after pruning", request.id] if request.dropped else []
        at = range(request.computed, request.computed + n_new)
        return [*own, *((*said, *self.text(request, i + 1)) for i in at)]

    def prune(self, request: Request, places: list[int]) -> None:
        """Give blocks back, and remember what the others hold."""
        own, size = self.held(request, 0), self.size
        give_back(self.pool, request, places)
        self.own[request] = [x for i, x in enumerate(own) if i // size not in places]
        self.books()

    def step(self, between: Callable[[], None] = lambda: None) -> dict[Request, int]:
        """Plan, compute and commit one step, and look at all that must hold. `between` happens
        while it is computed."""
        plan = self.scheduler.plan()
        given = dict(plan.n_tokens)
        assert given or self.scheduler.idle, "nothing goes on, and there is work"
        assert sum(given.values()) <= self.scheduler.budget, "more than the budget"
        assert all(n >= 1 for n in given.values()), "a request without a token"
        self.books()
        for source, target in plan.copies:
            self.slots[target] = list(self.slots[source])
        for request, n in given.items():
            own = self.held(request, n)
            for at in range(request.held, request.held + n):
                block = request.table[at // self.size]
                assert self.pool.holders(block) == 1, "a block is written that others read"
                self.slots[block][at % self.size] = own[at]
        for request, n in given.items():
            own = self.held(request, n)
            for at in range(request.held + n):
                found = self.slots[request.table[at // self.size]][at % self.size]
                if found != own[at]:
                    raise Ghost(f"{request.id} reads {found} at {at} of {request.tokens}")
            if request.dropped:
                self.own[request] = own
        words = {r: next_of(r.tokens, self.n_words) for r in plan.written}
        between()
        for request in self.scheduler.commit(words):
            self.finished(request)
        self.books()
        self.steps += 1
        return given

    def finished(self, request: Request) -> None:
        """Whether an answer that ended is what the model alone would have written."""
        self.ended.append(request)
        assert not request.table, "a request ended and holds blocks"
        assert 0 <= request.cached < len(request.prompt), "more found than asked"
        text, answer = list(request.prompt), request.answer
        for token in answer:
            assert token == next_of(text, self.n_words), "another answer than alone"
            text.append(token)
        if request.finish == "stop":
            assert answer[-1] in request.ends
        elif request.finish == "length":
            assert len(answer) == request.max_new
        assert not set(answer[:-1]) & set(request.ends), "it went on after its end"

    def books(self) -> None:
        """Used, evictable and free blocks add up, and holders are those that tables say."""
        counts = self.pool.counts
        assert min(counts) >= 0 and sum(counts) == self.pool.n_blocks, (
            f"the books are wrong: {counts}"
        )
        tables = [b for r in self.scheduler.running for b in r.table]
        assert all(not r.table for r in self.scheduler.waiting), "one who waits holds blocks"
        assert counts.used == len(set(tables)), "a block is used that no table lists"
        for block in range(self.pool.n_blocks):
            assert self.pool.holders(block) == tables.count(block), f"holders of block {block}"

    def drain(self, most: int = 10_000) -> None:
        """Go on until nothing is left; then no block is used."""
        for _ in range(most):
            if self.scheduler.idle:
                assert self.pool.counts.used == 0, "blocks are lost"
                return
            self.step()
        raise AssertionError("it does not end")


def trace(seed: int, policy: Policy, *, prunes: bool = False, **parts) -> World:
    """Some requests over a pool that is hardly large enough, at random; all invariants looked at.

    Few words and small blocks, so that texts begin alike again and again. With `prunes` some full
    blocks are given back at random, others' and one's own, and requests are not split: whose text a
    twin of a pruned one holds, the slots cannot tell.
    """
    rng = random.Random(seed)
    size, n_blocks = rng.randint(1, 4), rng.randint(4, 14)
    world = World(
        n_blocks, size, policy, n_words=rng.choice((1, 2, 3)), budget=rng.randint(1, 24),
        max_running=rng.randint(1, 6), **parts,
    )  # fmt: skip
    texts = [[rng.randrange(world.n_words) for _ in range(40)] for _ in range(3)]
    everybody: list[Request] = []

    def ask() -> None:
        most = n_blocks * size
        n_prompt = rng.randint(1, max(1, most - 2))
        prompt = (rng.choice(texts) * 2)[:n_prompt]
        if rng.random() < 0.3:
            prompt[-1] = rng.randrange(world.n_words)
        max_new = rng.randint(1, max(1, min(12, most - n_prompt + 1)))
        ends = {0} if rng.random() < 0.2 else ()
        request = Request(
            len(everybody), prompt, max_new, ends, deadline=rng.random(), salt=rng.choice("aab")
        )
        world.scheduler.add(request)
        everybody.append(request)

    def cancel() -> None:
        if everybody:
            world.scheduler.cancel(rng.choice(everybody))

    def split() -> None:
        running = world.scheduler.running
        if running and len(everybody) < 60:
            one = rng.choice(running)
            everybody.append(world.scheduler.fork(one, len(everybody)))

    def prune() -> None:
        for request in world.scheduler.running:
            full = range(request.held // size)
            if places := [place for place in full if rng.random() < 0.3]:
                world.prune(request, places)

    sometimes = (prune, 0.3) if prunes else (split, 0.08)
    for _ in range(rng.randint(5, 40)):
        for deed, chance in ((ask, 0.5), (cancel, 0.06), sometimes):
            if rng.random() < chance:
                deed()
        world.step(between=cancel if rng.random() < 0.06 else lambda: None)
    world.drain()
    ended = {r.id for r in world.ended} | {r.id for r in everybody if r.finish == "cancelled"}
    assert ended == {r.id for r in everybody}, "somebody was never served"
    return world


def steady(policy: Policy, *, every: int = 2, patience: int = 400, **parts) -> World:
    """A large request among small ones that never stop to come: none may wait for ever.

    Answers outgrow the pool, so that blocks are taken away again and again.
    """
    world = World(16, 2, policy, budget=12, max_running=8, **parts)
    came: dict[Request, int] = {}
    for at in range(patience):
        if at % every == 0:
            large = at == 20
            prompt = [at % 3, *([at % 2, 1] * (12 if large else 1))]
            request = Request(at, prompt, 6 if large else 7)
            world.scheduler.add(request)
            came[request] = at
        world.step()
        latest = max((r.id for r in world.scheduler.running), default=-1)
        assert all(r.id > latest for r in world.scheduler.waiting), "one who came later is served"
        for request, since in came.items():
            assert request.finish or at - since < patience // 2, f"{request.id} came at {since}"
        if len(world.scheduler.waiting) > 12:  # more come than can be served: the latest leaves
            world.scheduler.cancel(max(world.scheduler.waiting, key=lambda r: r.id))
    return world
