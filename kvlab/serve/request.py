"""A request, a step, and what a policy is: what scheduler, policies and engine speak of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from kvlab import checks
from kvlab.serve.blocks import Prefix


@dataclass(eq=False)
class Request:
    """A prompt, how much may be written after it, and how far that is.

    `ends` are the tokens that end the answer; the one that does is part of it. `deadline` is for
    policies that ask for it, in whatever unit the caller counts. Only requests of equal `salt`
    share blocks.
    """

    id: Hashable
    prompt: Sequence[int]
    max_new: int
    ends: Collection[int] = ()
    deadline: float = float("inf")
    salt: Hashable = ""
    arrival: int = field(init=False, default=-1)  # its place in the order of arrival
    tokens: list[int] = field(init=False)  # prompt and answer
    computed: int = field(init=False, default=0)  # of them, so many have keys and values
    dropped: int = field(init=False, default=0)  # of these, so many have lost theirs to pruning
    table: list[int] = field(init=False, default_factory=list)
    known: Prefix = field(init=False, default=Prefix(0, None))
    cached: int = field(init=False, default=0)  # prompt tokens that were found when it came in
    preempted: int = field(init=False, default=0)  # how often its blocks were taken away
    finish: str | None = field(init=False, default=None)  # "stop", "length", "cancelled", "failed"
    error: str = field(init=False, default="")  # why it failed

    def __post_init__(self) -> None:
        checks.whole("max_new", self.max_new, 1)
        self.tokens = [checks.whole("A token of the prompt", t, 0) for t in self.prompt]
        if not self.tokens:
            raise ValueError(f"Request {self.id!r} came with an empty prompt; expected a token.")
        self.prompt = tuple(self.tokens)

    @property
    def pending(self) -> int:
        """Tokens that are there and not computed yet: at least one, until it ends."""
        return len(self.tokens) - self.computed

    @property
    def held(self) -> int:
        """Tokens whose keys and values the table's blocks hold, in the order of the text."""
        return self.computed - self.dropped

    @property
    def answer(self) -> list[int]:
        """What was written."""
        return self.tokens[len(self.prompt) :]


Wish = tuple[Request, int]
Policy = Callable[[Sequence[Request], Sequence[Request], int], Iterable[Wish]]


@dataclass
class Step:
    """What to compute: so many pending tokens of each request, in this order.

    `copies` are blocks to copy, (from, to), before anything is written. `written` are those of
    which no token stays pending: the logits of their last token give their next one.
    """

    n_tokens: dict[Request, int] = field(default_factory=dict)
    copies: list[tuple[int, int]] = field(default_factory=list)
    full: bool = False  # whether blocks ran out: then nobody comes in past those who wait

    @property
    def written(self) -> list[Request]:
        return [r for r, n in self.n_tokens.items() if n == r.pending]
