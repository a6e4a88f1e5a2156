"""The ghost store that judges allocators: each slot remembers of which text it holds the last token.

Whatever a chat reads must be its own text, slot by slot. A trace is a list of deeds, and one that
fails is made as short as it can be. What is told has the names of chats and no numbers of blocks,
so that one mistake reads alike whoever makes it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from kvlab.course.author import Answer, Case, Exercise, NotData, brief
from kvlab.course.author.compare import Wanted
from kvlab.course.author.laws import is_stub
from kvlab.course.sandbox.answer import AnswerRaised, Object

Deed = list  # what happens, to whom, and how: ["comes", "A", [1, 2, 3]]
MOST_PLAYS = 120


class Sound(Wanted):
    """Nothing is wrong: the text that came is empty."""

    def fault(self, name: str, came: Any) -> str | None:
        return f"{name}: {came}" if came else None


class Ghost(Exception):
    """Something is wrong, in words without numbers of blocks."""


class World:
    """An answer's allocator, the slots of its memory, and what each chat should find there."""

    def __init__(self, pool: Object, n_blocks: int, size: int) -> None:
        self.pool, self.n_blocks, self.size = pool, n_blocks, size
        self.memory: dict[int, object] = {}
        self.tables: dict[str, list[int]] = {}

    def ask(self, method: str, *args: Any) -> Any:
        """What a method gives back.

        Raises: Ghost where it raises ValueError, though nothing is to be refused.
        """
        try:
            return self.pool.call(method, *args)
        except AnswerRaised as error:
            if is_stub(error) or error.builtin != "ValueError":
                raise
            raise Ghost(
                f"{method} raises ValueError, and there is room; expected no error"
            ) from None

    def refused(self, method: str, *args: Any) -> None:
        """Hold that a method refuses.

        Raises: Ghost where it does not, or by another error than ValueError.
        """
        try:
            self.pool.call(method, *args)
        except AnswerRaised as error:
            if is_stub(error):
                raise
            if error.builtin != "ValueError":
                raise Ghost(
                    f"{method} raises {error.builtin}, and there are too few blocks; expected ValueError"
                ) from None
            return
        raise Ghost(f"{method} raises nothing, and there are too few blocks; expected ValueError")

    def blocks(self, found: Any, what: str) -> list[int]:
        """A list of blocks that came, checked to be one.

        Raises: NotData for anything else.
        """
        if not isinstance(found, list) or any(type(b) is not int for b in found):
            raise NotData(f"your code returned {brief(found)} for {what}; expected a list of int.")
        if not all(0 <= b < self.n_blocks for b in found):
            raise Ghost(
                f"{what} has a block that does not exist; expected 0 to {self.n_blocks - 1}"
            )
        return found

    def free_should_be(self, n: int) -> None:
        """Hold that `n_free` tells this. Raises: Ghost."""
        told = self.ask("n_free")
        if told != n:
            raise Ghost(f"n_free says {brief(told)}; expected {n} free blocks")

    def at(self, table: list[int], i: int) -> int:
        """The slot of token i."""
        return table[i // self.size] * self.size + i % self.size

    def reads(self, chat: str, i: int, slot: int, own: object, said: Callable[[Any], str]) -> None:
        """Hold that a chat finds its own text in a slot. Raises: Ghost."""
        found = self.memory.get(slot)
        if found != own:
            raise Ghost(
                f"{chat} reads {said(found) if found else 'what nobody wrote'}; expected {said(own)}"
            )


def played(world: Any, trace: list[Deed]) -> tuple[str, int]:
    """What goes wrong in a trace, and at which deed; "" if nothing does."""
    for i, (deed, *how) in enumerate(trace):
        try:
            getattr(world, deed)(*how)
        except Ghost as fault:
            return str(fault), i
    return "", len(trace)


def told(make: Callable[[], Any], trace: list[Deed], shown: Callable[[Deed], str]) -> str:
    """A trace's fault with the shortest trace that has one; "" if it has none."""
    fault, at = played(make(), trace)
    if not fault:
        return ""
    trace, plays, i = trace[: at + 1], 0, 0
    while i < len(trace) and plays < MOST_PLAYS:
        for shorter in _shorter(trace, i):
            plays += 1
            try:
                other, at = played(make(), shorter)
            except (AnswerRaised, NotData):
                continue
            if other:
                fault, trace, i = other, shorter[: at + 1], -1
                break
        i += 1
    played(make(), trace)  # once more, so that the calls that are kept end with this story
    return f"{'; '.join(shown(deed) for deed in trace)}: then {fault}."


def _shorter(trace: list[Deed], i: int) -> list[list[Deed]]:
    """Traces with a deed left out, with less in it, or made one with that after it."""
    before, after = trace[:i], trace[i + 1 :]
    made = [before + less + after for less in _smaller(trace[i])]
    if after and after[0][:-1] == trace[i][:-1] and type(trace[i][-1]) is int:
        made.append([*before, [*trace[i][:-1], trace[i][-1] + after[0][-1]], *after[1:]])
    return made


def _smaller(deed: Deed) -> list[list[Deed]]:
    """Without the deed; with its last argument smaller, a number or a text."""
    *first, last = deed
    if type(last) is int:
        return [[], *([[*first, n]] for n in sorted({1, last // 2, last - 1} - {0, last}))]
    if isinstance(last, list) and len(last) > 1:
        return [[], [[*first, last[:-1]]]]
    return [[]]


def story(
    exercise: Exercise, says: str, kind: type, shown: Callable[[Deed], str],
    trace: Callable[[Case], list[Deed]], blocks: Callable[[Case], tuple[int, int]] | None = None,
) -> None:  # fmt: skip
    """A law: a trace is played before the ghost. `blocks` says how many there are, and how large."""

    def pool(case: Case) -> tuple[int, int]:
        return blocks(case) if blocks else (case["n_blocks"], case["size"])

    @exercise.law(says, shows=lambda case: "{} blocks of {} slots".format(*pool(case)))
    def _(answer: Answer, case: Case) -> dict[str, Any]:
        n_blocks, size = pool(case)

        def make() -> Any:
            return kind(answer.make(n_blocks, size), n_blocks, size)

        return {"the ghost": Sound().of(told(make, trace(case), shown))}


class _Both:
    """Two worlds in which the same happens."""

    def __init__(self, *worlds: Any) -> None:
        self._worlds = worlds

    def __getattr__(self, deed: str) -> Callable[..., None]:
        def happens(*how: Any) -> None:
            for world in self._worlds:
                getattr(world, deed)(*how)

        return happens


def beside(
    exercise: Exercise, kind: type, shown: Callable[[Deed], str],
    trace: Callable[[Case], list[Deed]],
) -> None:  # fmt: skip
    """A law: two more are beside, one larger and one of other blocks, to which the same happens."""

    says = "several at a time know nothing of each other"

    @exercise.law(says, shows=lambda case: "three allocators")
    def _(answer: Answer, case: Case) -> dict[str, Any]:
        n_blocks, size = case["n_blocks"], case["size"]
        sizes = (n_blocks, size), (2 * n_blocks, size), (n_blocks, size + 1)

        def make() -> Any:
            pools = [answer.make(*has) for has in sizes]  # all of them before one is used
            return _Both(*[kind(pool, *has) for pool, has in zip(pools, sizes, strict=True)])

        return {"the ghost": Sound().of(told(make, trace(case), shown))}


def drawn(rng: random.Random) -> Case:
    """A pool that is hardly large enough, and a seed for what happens in it."""
    size = rng.choice([2, 3, 4])
    return {"n_blocks": rng.randint(4, 7), "size": size, "_seed": rng.randrange(2**31)}
