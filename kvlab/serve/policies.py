"""In which order requests are served. Each is a function of those that run, those that wait, and
the budget of a step, to (request, tokens) in the order of its wishes; what it does not name waits.

`running` and `waiting` come in the order of arrival. While a prompt is read a request has more than
one token pending, after that exactly one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvlab.serve.request import Policy, Request, Wish

Requests = Sequence[Request]


def prefill_first(running: Requests, waiting: Requests, budget: int) -> Iterator[Wish]:
    """New prompts at once and whole; who is being answered waits while one is read.

    The least time to the first token, and the longest gaps between tokens.
    """
    reading = [r for r in (*running, *waiting) if r.pending > 1 or not r.table]
    yield from ((r, r.pending) for r in reading or running)


def decode_first(running: Requests, waiting: Requests, budget: int) -> Iterator[Wish]:
    """Nobody comes in before all who are being answered are done: a batch at a time.

    No gap is longer than a step, and a new prompt waits for the longest answer.
    """
    yield from ((r, r.pending) for r in running or waiting)


def chunked(running: Requests, waiting: Requests, budget: int) -> Iterator[Wish]:
    """Everybody who is being answered gets a token; prompts are read with what the budget leaves.

    Source: Agrawal et al. 2024 (Sarathi-Serve).
    """
    writing = [r for r in running if r.pending == 1]
    yield from ((r, 1) for r in writing)
    reading = [r for r in (*running, *waiting) if r not in writing]
    yield from ((r, budget) for r in reading)


def fair(running: Requests, waiting: Requests, budget: int) -> Iterator[Wish]:
    """By arrival, and nobody more than an equal share of the budget, so that a long prompt cannot
    take the step from those who came with it."""
    everybody = (*running, *waiting)
    share = max(1, budget // max(1, len(everybody)))
    yield from ((r, share) for r in sorted(everybody, key=lambda r: r.arrival))


def by_deadline(running: Requests, waiting: Requests, budget: int) -> Iterator[Wish]:
    """Whoever must be done first, reading or writing."""
    everybody = sorted((*running, *waiting), key=lambda r: (r.deadline, r.arrival))
    yield from ((r, budget) for r in everybody)


POLICIES: dict[str, Policy] = {
    policy.__name__: policy for policy in (prefill_first, decode_first, chunked, fair, by_deadline)
}
