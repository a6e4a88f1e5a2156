"""One client's request: its choices, and what is written of them, brought to the event loop."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from functools import partial

from kvlab.model import Transformer
from kvlab.sampling import Sampler
from kvlab.serve.asked import MOST_CHOICES, Asked, Refused
from kvlab.serve.stream import Pieces
from kvlab.serve.worker import Choice, Worker, Written
from kvlab.tokenizer import Tokenizer


class Job:
    """`n` choices of each prompt, numbered through. To be cancelled by whoever lets go of it.

    What a client does not read waits here, at most its own answer: the engine waits for nobody.
    """

    def __init__(
        self,
        worker: Worker,
        tokenizer: Tokenizer,
        prompts: Sequence[Sequence[int]],
        asked: Asked,
        max_new: Sequence[int],
    ) -> None:
        self._worker, self.n_each = worker, asked.n or 1
        self._told: asyncio.Queue[tuple[int, Written]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.choices: list[Choice] = []
        first_seed = secrets.randbits(31) if asked.seed is None else asked.seed
        for prompt, most in zip(prompts, max_new, strict=True):
            group = []
            for n in range(self.n_each):
                pick = Sampler(
                    1.0 if asked.temperature is None else asked.temperature,
                    asked.top_k, asked.top_p or 1.0, _seed(first_seed + n),
                )  # fmt: skip
                tell = partial(self._tell, len(self.choices) + n)
                pieces = Pieces(tokenizer, asked.stops)
                group.append(Choice(prompt, most, pick, pieces, tell, asked.n_top))
            group[0].followers = group[1:]
            self.choices += group
        self._first: tuple[int, Written] | None = None

    async def start(self) -> None:
        """Submit, and wait for the first word.

        Raises: Refused where that is that there will be none.
        """
        self._worker.submit(self.choices[:: self.n_each])
        self._first = await self._told.get()
        _raise_for(self._first[1])

    async def written(self) -> AsyncIterator[tuple[int, Written]]:
        """What is written, with the number of its choice, until all have ended.

        Raises: Refused where one fails.
        """
        n_left, now = len(self.choices), self._first
        while True:
            if now is not None:
                _raise_for(now[1])
                yield now
                n_left -= now[1].finish is not None
            if not n_left:
                return
            now = await self._told.get()

    def cancel(self) -> None:
        """End what is left of it. Nothing happens where all has ended."""
        self._worker.cancel(self.choices)

    def _tell(self, index: int, written: Written) -> None:
        """Called by the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._told.put_nowait, (index, written))
        except RuntimeError:  # the loop is closed: nobody listens any more
            self.cancel()


def _seed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def _raise_for(written: Written) -> None:
    if written.finish == "refused":
        raise Refused(written.why)
    if written.finish == "error":
        raise Refused(written.why, status=500)


class Limits:
    """How much of a prompt and of an answer there can be."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, n_slots: int) -> None:
        self.most = min(model.config.max_positions, n_slots)
        vocabulary = tokenizer.inner.get_vocab()
        self._longest = max(map(len, vocabulary))

    def check_text(self, text: str) -> None:
        """Refuse at once what is far too long: to count its tokens would take long as well."""
        if len(text) > (self.most + 1) * self._longest:
            raise Refused(
                f"The prompt has {len(text):,} characters; the context is {self.most} tokens, of "
                f"{self._longest} characters at most.", code="context_length_exceeded",
            )  # fmt: skip

    def max_new(self, prompt: Sequence[int], wanted: int | None) -> int:
        """Tokens to be written: as many as are wanted, or as there is space for.

        Raises: Refused where prompt and answer do not fit the context.
        """
        left = self.most - len(prompt) + 1  # the last one written is never read
        if left < 1 or (wanted or 1) > left:
            asks = f" and asks for {wanted} more" if wanted else ""
            raise Refused(
                f"The prompt has {len(prompt)} tokens{asks}; the context is {self.most} tokens, "
                "prompt and answer together. Shorten the prompt"
                + (" or ask for fewer." if wanted else "."),
                code="context_length_exceeded",
            )
        return left if wanted is None else wanted


def check_number(n_prompts: int, n_each: int) -> None:
    """Raises: Refused for more choices than one request may have, or for no prompt."""
    if not 1 <= n_prompts * n_each <= MOST_CHOICES:
        raise Refused(
            f"{n_prompts} prompts with {n_each} answers each were asked for; expected 1 to "
            f"{MOST_CHOICES} answers in one request.", param="n",
        )  # fmt: skip
