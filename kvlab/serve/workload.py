"""Requests that come over time, and what became of them.

The clock is the engine's own: it counts the seconds that steps took and jumps over those in which
nobody was there. So a run takes as long as its work, and a busy machine makes everything slower
alike. Units: seconds, and requests per second.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kvlab import checks
from kvlab.serve.engine import Engine
from kvlab.serve.request import Request


class Arrival(NamedTuple):
    """A prompt, how many tokens are wanted, and when it comes."""

    at: float
    prompt: Sequence[int]
    max_new: int


class Done(NamedTuple):
    """A step: when it began, how long it took, and how many tokens of each request it computed."""

    start: float
    seconds: float
    n_tokens: dict[int, int]


@dataclass
class Story:
    """What became of one request: when it came, and when each of its tokens was written."""

    came: float
    tokens: list[float] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.tokens[0] - self.came

    @property
    def longest_gap(self) -> float:
        """Most seconds between two of its tokens; 0 for a single one."""
        return max((b - a for a, b in zip(self.tokens, self.tokens[1:], strict=False)), default=0.0)


@dataclass
class Log:
    """All steps, and each request's story in the order in which they came."""

    stories: list[Story]
    steps: list[Done] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From the first arrival to the last token."""
        return max(s.tokens[-1] for s in self.stories) - min(s.came for s in self.stories)

    def good(self, first: float, gap: float) -> list[bool]:
        """Of each request, whether its first token and all later ones came within the limits."""
        return [s.first <= first and s.longest_gap <= gap for s in self.stories]

    def goodput(self, first: float, gap: float) -> float:
        """Requests a second that were served within the limits.

        Source: Zhong et al. 2024 (DistServe).
        """
        return sum(self.good(first, gap)) / self.seconds


def poisson(
    rate: float,
    n: int,
    vocab_size: int,
    *,
    prompt: tuple[int, int] = (8, 64),
    answer: tuple[int, int] = (4, 48),
    seed: int = 0,
) -> list[Arrival]:
    """`n` requests that come independently of each other, `rate` a second on average.

    Lengths of prompts and answers are drawn evenly between their bounds, both included.
    Raises: ValueError for a rate that is not above 0.
    """
    rate = checks.number("rate", rate, lambda r: 0 < r < float("inf"), "a number above 0")
    rng, at, made = random.Random(seed), 0.0, []
    for _ in range(checks.whole("n", n)):
        tokens = [rng.randrange(vocab_size) for _ in range(rng.randint(*prompt))]
        made.append(Arrival(at, tokens, rng.randint(*answer)))
        at += rng.expovariate(rate)
    return made


def bursts(
    rate: float,
    n: int,
    vocab_size: int,
    *,
    together: int = 8,
    prompt: tuple[int, int] = (8, 64),
    answer: tuple[int, int] = (4, 48),
    seed: int = 0,
) -> list[Arrival]:
    """As `poisson`, with the same mean rate, but `together` of them come at one moment."""
    together = checks.whole("together", together)
    even = poisson(rate, n, vocab_size, prompt=prompt, answer=answer, seed=seed)
    return [a._replace(at=even[i - i % together].at) for i, a in enumerate(even)]


def serve(
    engine: Engine,
    arrivals: Sequence[Arrival],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> Log:
    """Let requests come at their times and serve all of them; answers end at their length alone.

    `clock` times the steps. Raises: ValueError for a request that the engine refuses.
    """
    coming = sorted(enumerate(arrivals), key=lambda pair: pair[1].at)
    log = Log([Story(a.at) for a in arrivals])
    number: dict[Request, int] = {}
    now, next_one = 0.0, 0
    while next_one < len(coming) or not engine.scheduler.idle:
        if engine.scheduler.idle:
            now = max(now, coming[next_one][1].at)
        while next_one < len(coming) and coming[next_one][1].at <= now:
            i, arrival = coming[next_one]
            number[engine.add(("work", i), arrival.prompt, arrival.max_new, ends=())] = i
            next_one += 1
        start = clock()
        written = engine.step()
        seconds = clock() - start
        computed = {number[r]: n for r, n in engine.latest.items()}
        log.steps.append(Done(now, seconds, computed))
        now += seconds
        for request, _ in written:
            log.stories[number[request]].tokens.append(now)
    return log
