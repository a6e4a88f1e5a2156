"""The engine in a thread of its own: others queue choices and are told what is written.

A choice is one answer to one prompt. Nobody but this thread touches the engine; what others see of
it is `state`, which is replaced whole after each step and before anybody is told of it.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

from torch import Tensor

from kvlab.sampling import Pick
from kvlab.serve.blocks import Counts
from kvlab.serve.engine import Engine
from kvlab.serve.request import Request
from kvlab.serve.stream import Pieces


@dataclass(frozen=True)
class Scored:
    """A token that was written, its log-probability, and those of the likeliest."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]]
    offset: int  # where its text begins in the answer, in characters


@dataclass(frozen=True)
class Written:
    """What a choice is told: text, and how it ended if it did."""

    text: str = ""
    scored: Sequence[Scored] = ()
    finish: str | None = None  # "stop", "length"; "refused", "error" with `why`
    why: str = ""


@dataclass(eq=False)
class Choice:
    """One answer that is asked for. `tell` is called in the engine's thread and must not wait.

    `followers` answer the same prompt, and come once its first token is there: what was computed of
    the prompt is then known, and computed once.
    """

    prompt: Sequence[int]
    max_new: int
    pick: Pick
    pieces: Pieces
    tell: Callable[[Written], None]
    n_top: int | None = None  # how many likeliest tokens are noted with each; None: nothing is
    followers: list[Choice] = field(default_factory=list)
    request: Request | None = None
    ended: bool = False
    n_shown: int = 0
    noted: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)

    def __call__(self, logits_1V: Tensor) -> Tensor:
        """Pick the next token, and note how likely it was."""
        token_1 = self.pick(logits_1V)
        if self.n_top is not None:
            logprobs_V = logits_1V[0].float().log_softmax(-1)
            logprobs_V = logprobs_V.clamp(min=-9999.0)  # JSON has no infinity
            values, ids = logprobs_V.topk(self.n_top)
            top = list(zip(ids.tolist(), values.tolist(), strict=True))
            self.noted.append((float(logprobs_V[token_1[0]]), top))
        return token_1


@dataclass(frozen=True)
class State:
    """The engine as others see it: what is there now, and what was counted since it started."""

    blocks: Counts
    waiting: int = 0
    running: int = 0
    steps: int = 0
    failed_steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    preempted: int = 0
    ended: Counter = field(default_factory=Counter)  # by how


class Worker:
    """An engine that serves whatever is submitted, in one thread, until it is closed."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.state = State(engine.pool.counts)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._choices: dict[Request, Choice] = {}
        self._ids, self._ended, self._closed = count(), Counter(), False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, choices: Sequence[Choice]) -> None:
        """Ask for answers; each choice is told all there is to know, from the engine's thread."""
        for choice in choices:
            self._inbox.put(partial(self._add, choice))

    def cancel(self, choices: Sequence[Choice]) -> None:
        """End answers that nobody wants any more; they are told nothing."""
        for choice in choices:
            self._inbox.put(partial(self._drop, choice))

    def close(self) -> None:
        """End all that is under way, and the thread."""
        self._inbox.put(self._close)
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            told: list[tuple[Choice, Written]] = []
            if self.engine.scheduler.idle or not self._inbox.empty():
                self._inbox.get()()
            else:
                told = self._step()
            self._publish()
            for choice, written in told:
                choice.tell(written)

    def _step(self) -> list[tuple[Choice, Written]]:
        """One step, and who is to be told what of it."""
        steps = self.state.steps + 1
        self.state = replace(self.state, steps=steps)
        try:
            written = self.engine.step()
        except Exception as error:
            return self._failed(error)
        self.state = replace(self.state, new_tokens=self.state.new_tokens + len(written))
        told = [(self._choices[r], self._written(self._choices[r], t)) for r, t in written]
        return told + self._lost([r for r in self.engine.latest if r.finish == "failed"])

    def _failed(self, error: Exception) -> list[tuple[Choice, Written]]:
        """End the requests of a step that failed; the others go on."""
        print(f"kvlab serve: a step failed: {type(error).__name__}: {error}", file=sys.stderr)
        self.state = replace(self.state, failed_steps=self.state.failed_steps + 1)
        return self._lost(list(self.engine.latest))

    def _lost(self, requests: Sequence[Request]) -> list[tuple[Choice, Written]]:
        told = []
        for request in (r for r in requests if r in self._choices):
            choice = self._choices[request]
            if request.error:
                print(f"kvlab serve: a request failed: {request.error}", file=sys.stderr)
            self._end(choice, "error")
            why = "The engine failed in the step that computed this answer."
            told.append((choice, Written(finish="error", why=why)))
        return told

    def _written(self, choice: Choice, token: int) -> Written:
        request, pieces = choice.request, choice.pieces
        if choice.n_top is not None:
            logprob, top = choice.noted.pop()
            choice.scored.append(Scored(token, logprob, top, choice.n_shown))
        text = pieces.push(token) if request.finish != "stop" else ""
        finish = "stop" if pieces.stopped is not None else request.finish
        if finish:
            text += pieces.end()
            finish = "stop" if pieces.stopped is not None else finish
            self._end(choice, finish)
        choice.n_shown += len(text)
        self._let_follow(choice)
        scored: Sequence[Scored] = ()
        if text or finish:
            scored, choice.scored = choice.scored, []
        return Written(text, scored, finish)

    def _let_follow(self, choice: Choice) -> None:
        followers, choice.followers = choice.followers, []
        self.submit(followers)

    def _add(self, choice: Choice) -> None:
        if choice.ended:
            return
        try:
            choice.request = self.engine.add(
                next(self._ids), choice.prompt, choice.max_new, pick=choice
            )
        except ValueError as error:
            choice.ended = True
            self._ended["refused"] += 1
            self._publish()
            choice.tell(Written(finish="refused", why=str(error)))
            return
        self._choices[choice.request] = choice

    def _drop(self, choice: Choice) -> None:
        if not choice.ended:
            self._end(choice, "cancelled")

    def _end(self, choice: Choice, how: str) -> None:
        """Forget a choice; whatever its request is doing, that ends here too."""
        choice.ended = True
        self._ended[how] += 1
        request = choice.request
        if request is not None:
            self.engine.cancel(request)
            del self._choices[request]
            state = self.state
            self.state = replace(
                state,
                prompt_tokens=state.prompt_tokens + len(request.prompt),
                cached_tokens=state.cached_tokens + request.cached,
                preempted=state.preempted + request.preempted,
            )

    def _close(self) -> None:
        self._closed = True
        for choice in list(self._choices.values()):
            self._end(choice, "cancelled")

    def _publish(self) -> None:
        scheduler = self.engine.scheduler
        self.state = replace(
            self.state, blocks=self.engine.pool.counts, waiting=len(scheduler.waiting),
            running=len(scheduler.running), ended=Counter(self._ended),
        )  # fmt: skip
