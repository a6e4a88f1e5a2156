"""Who computes how many tokens in the next step. No tensor, no clock, no model.

A request is a text of which some tokens are computed, so that their keys and values lie in blocks,
and some are pending. A step is nothing but a number of pending tokens for each of some requests.
Reading a prompt and writing an answer are not different kinds of work: while a prompt is read many
tokens are pending, after that always one, the latest that was written.

A policy says in which order requests are served and how many tokens each should get. The scheduler
grants what budget and blocks allow, and when blocks run out the latest arrived gives its own back.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from kvlab import checks
from kvlab.serve.blocks import BlockPool, Prefix
from kvlab.serve.request import Policy, Request, Step


class Scheduler:
    """Requests that wait and requests that hold blocks, and the pool from which these come.

    A step of at most `budget` tokens for at most `max_running` requests is planned by `plan` and
    noted by `commit`, in turn. Any request may be cancelled at any moment between.
    """

    def __init__(
        self, pool: BlockPool, policy: Policy, *, budget: int = 512, max_running: int = 64
    ) -> None:
        self.pool, self.policy = pool, policy
        self.budget = checks.whole("budget", budget)
        self.max_running = checks.whole("max_running", max_running)
        self.waiting: list[Request] = []  # both in the order of arrival
        self.running: list[Request] = []
        self._arrived = 0
        self._step: Step | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self.waiting and not self.running

    def add(self, request: Request) -> None:
        """Let a request wait for its turn.

        Raises: ValueError for one that could never be served, or whose id is here.
        """
        most = len(request.prompt) + request.max_new - 1  # the last one written is never read
        needed = self.pool.needed(most)
        if needed > self.pool.n_blocks:
            raise ValueError(
                f"Request {request.id!r} may grow to {most} tokens in the cache; "
                f"{self.pool.n_blocks} blocks of {self.pool.size} hold "
                f"{self.pool.n_blocks * self.pool.size}. Give it {needed} blocks, or ask for less."
            )
        if any(r.id == request.id for r in (*self.waiting, *self.running)):
            raise ValueError(f"A request with the id {request.id!r} is being served.")
        request.arrival, self._arrived = self._arrived, self._arrived + 1
        self.waiting.append(request)

    def fork(self, request: Request, id: Hashable) -> Request:
        """A second request that goes on from where a running one is, and shares all its blocks.

        Raises: ValueError while it is in a step, or has no blocks.
        """
        if request not in self.running or self._step is not None:
            raise ValueError(f"Request {request.id!r} has no blocks to share between two steps.")
        twin = Request(id, request.prompt, request.max_new, request.ends, request.deadline,
                       request.salt)  # fmt: skip
        self.add(twin)
        self.waiting.remove(twin)
        twin.tokens, twin.computed = list(request.tokens), request.computed
        twin.table, twin.known, twin.dropped = list(request.table), request.known, request.dropped
        self.pool.hold(twin.table)
        self.running.append(twin)
        return twin

    def plan(self) -> Step:
        """Choose what to compute next; an empty step only if nothing is left to do.

        Raises: ValueError when the step before was not committed.
        """
        if self._step is not None:
            raise ValueError("A step was planned while the one before was not committed.")
        self._step = step = Step()
        for request, wish in self.policy(tuple(self.running), tuple(self.waiting), self.budget):
            self._grant(step, request, wish)
        if not step.n_tokens:  # whatever the policy says, something goes on
            for request in (*self.running, *self.waiting):
                self._grant(step, request, request.pending)
        return step

    def commit(self, next_tokens: Mapping[Request, int | None]) -> list[Request]:
        """Note that the planned step was computed, with the next token of each in `written`; None
        where there is none to be had, and the request has failed.

        Returns those that ended. Raises: ValueError for tokens of other requests than those, or
        without a plan; nothing is then noted.
        """
        step = self._step
        if step is None:
            raise ValueError("A step was committed that had not been planned.")
        if set(next_tokens) != set(step.written):
            names = [r.id for r in step.written]
            raise ValueError(
                f"Next tokens came for {[r.id for r in next_tokens]}; expected them for {names}, "
                "whose last token is computed in this step."
            )
        for request, n in step.n_tokens.items():
            request.computed += n
            if request in next_tokens:
                self._write(request, next_tokens[request])
            if not request.dropped:  # else what follows says more than its text does
                done = request.tokens[: request.computed]
                request.known = self.pool.learn(request.table, done, request.known)
        return self.abandon()

    def abandon(self) -> list[Request]:
        """Forget the planned step, which was not computed: its tokens stay pending.

        Its copies must still be made, before anything is written. Returns those that were cancelled
        meanwhile.
        """
        self._step = None
        ended = [r for r in self.running if r.finish is not None]
        for request in ended:
            self.running.remove(request)
            self._give_back(request)
        return ended

    def cancel(self, request: Request) -> None:
        """End a request now; in the middle of a step, when that is committed."""
        if request in self.waiting:
            self.waiting.remove(request)
            request.finish = "cancelled"
        elif request in self.running:
            request.finish = "cancelled"
            if self._step is None or request not in self._step.n_tokens:
                self.running.remove(request)
                self._give_back(request)

    def _write(self, request: Request, token: int | None) -> None:
        if request.finish is not None:  # cancelled in the middle of the step
            return
        if token is None:
            request.finish = "failed"
            return
        request.tokens.append(int(token))
        if token in request.ends:
            request.finish = "stop"
        elif len(request.answer) == request.max_new:
            request.finish = "length"

    def _grant(self, step: Step, request: Request, wish: int) -> None:
        """Put a request into a step with as many of the wished tokens as can be."""
        left = self.budget - sum(step.n_tokens.values())
        if left < 1 or wish < 1 or request in step.n_tokens:
            return
        if request in self.waiting:
            step.full = step.full or not self._admit(request, min(wish, left))
            if request.table:
                step.n_tokens[request] = min(wish, left, request.pending)
        elif request in self.running:
            n = min(wish, left, request.pending)
            if self._make_space(step, request, n):
                step.n_tokens[request] = n

    def _admit(self, request: Request, n: int) -> bool:
        """Give a waiting request blocks for its next `n` tokens.

        It must find space for its whole text, beside what those that run need for theirs and for
        one token more: else it would only be the first to lose its blocks again.
        """
        if len(self.running) == self.max_running:
            return False
        pool = self.pool
        found, known = pool.match(request.tokens, request.salt)
        pool.hold(found)
        promised = sum(pool.needed(r.held + r.pending + 1) - len(r.table) for r in self.running)
        if pool.needed(len(request.tokens)) - len(found) + promised > pool.available:
            pool.release(found)
            return False
        request.computed = len(found) * pool.size
        end = min(request.computed + n, len(request.tokens))
        request.table, request.known = found + pool.take(pool.needed(end) - len(found)), known
        if not request.preempted:
            request.cached = request.computed
        self.waiting.remove(request)
        self.running.append(request)
        self.running.sort(key=lambda r: r.arrival)
        return True

    def _make_space(self, step: Step, request: Request, n: int) -> bool:
        """Let a running request's table have blocks of its own for its next `n` tokens.

        Where there are too few, those that came later lose theirs, the latest first; False if that
        is the request itself.
        """
        pool, start = self.pool, request.held
        shared = start % pool.size and pool.holders(request.table[start // pool.size]) > 1
        while pool.needed(start + n) - len(request.table) + bool(shared) > pool.available:
            victim = self.running[-1]
            self._preempt(step, victim)
            if victim is request:
                return False
            shared = start % pool.size and pool.holders(request.table[start // pool.size]) > 1
        if shared and (copy := pool.own(request.table, start // pool.size)):
            step.copies.append(copy)
        request.table += pool.take(pool.needed(start + n) - len(request.table))
        return True

    def _preempt(self, step: Step, request: Request) -> None:
        """Take a request's blocks away and let it wait again. What it has written stays."""
        step.n_tokens.pop(request, None)
        step.full = True
        self.running.remove(request)
        self._give_back(request)
        request.preempted += 1
        self.waiting.append(request)
        self.waiting.sort(key=lambda r: r.arrival)

    def _give_back(self, request: Request) -> None:
        self.pool.release(request.table)
        request.table, request.computed, request.dropped = [], 0, 0
        request.known = Prefix(0, None)
