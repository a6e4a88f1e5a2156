"""12.5: a cache of sinks and the latest tokens that evicts a block at a time."""

from __future__ import annotations

from kvlab.course.author import AtMost, Exercise, Lent

Q = Exercise(
    "12.5",
    "Evict in blocks",
    "BlockCache",
    points=4,
    minutes=20,
    difficulty=2,
    statement="""
A cache keeps the first `sinks` tokens and the latest ones, `budget` in all, and evicts `every` tokens at a time. `slots` is its memory, with
`budget + every` slots, and two methods:

- `slots.put(slot, token)` writes a new token;
- `slots.move(start, stop, to)` copies the tokens of slots `start` to `stop - 1`, so that the first of them lies in slot `to`. Every token moved is counted.

`append(token)` writes the token behind those that are there. When that fills the last slot, the oldest `every` tokens behind the sinks go, and what
lies behind them moves up. It returns how many slots are used then. Move no token that need not move.

Example: budget 4, one sink, every 2. After tokens a, b, c, d, e the slots hold `a b c d e`, and after f they hold `a d e f`; three tokens were moved. Roughly 10 lines.
""",
    hints=(
        "When is it time to evict? At that moment, which slots are free to go, and which must move "
        "to close the gap?",
        "Evict when budget + every slots are used. The oldest after the sinks go: slots sinks to "
        "sinks + every. What lies behind them moves to slot sinks, in one move.",
        "append: slots.put(self.length, token); self.length += 1; if self.length == budget + "
        "every: slots.move(sinks + every, budget + every, sinks); self.length = budget. Return "
        "self.length.",
    ),
)


class Slots(Lent):
    """A cache's memory: `put(slot, token)` writes, `move(start, stop, to)` copies tokens.

    Every token moved is counted; a slot that is not there is refused.
    """

    lends = ("put", "move")

    def __init__(self, capacity: int) -> None:
        self._held: list[int | None] = [None] * capacity
        self.moved = self.written = 0

    def put(self, slot: int, token: int) -> None:
        self._check(slot, slot + 1)
        self._held[slot] = token
        self.written += 1

    def move(self, start: int, stop: int, to: int) -> None:
        self._check(start, stop)
        self._check(to, to + stop - start)
        self._held[to : to + stop - start] = self._held[start:stop]
        self.moved += stop - start

    def first(self, length: int) -> list[int | None]:
        """What the first slots hold."""
        return self._held[: max(0, length)] if type(length) is int else []

    def _check(self, start: int, stop: int) -> None:
        if not all(type(x) is int for x in (start, stop)) or not 0 <= start <= stop:
            raise ValueError(f"slots {start} to {stop} came; expected whole numbers in order")
        if stop > len(self._held):
            raise ValueError(f"slot {stop - 1} came; there are slots 0 to {len(self._held) - 1}")


@Q.case
def case(rng):
    sinks = rng.randint(1, 3)
    budget, every = sinks + rng.randint(3, 6), rng.randint(2, 5)
    return {
        "budget": budget,
        "sinks": sinks,
        "every": every,
        "n_tokens": budget + every * rng.randint(2, 3) + rng.randint(1, every - 1),
        "_first": 100 * rng.randint(1, 9),
    }


@Q.solution
class BlockCache:
    """Sinks and the latest tokens, evicted in blocks."""

    def __init__(self, slots, budget, sinks, every):
        ### BEGIN SOLUTION
        self.slots, self.budget, self.sinks, self.every = slots, budget, sinks, every
        self.length = 0
        ### END SOLUTION

    def append(self, token):
        """Add one token, evict a block if it is time, and return how many slots are used."""
        ### BEGIN SOLUTION
        self.slots.put(self.length, token)
        self.length += 1
        if self.length == self.budget + self.every:
            self.slots.move(self.sinks + self.every, self.length, self.sinks)
            self.length = self.budget
        return self.length
        ### END SOLUTION


@Q.right
class WrittenOut:
    """A list of what is held, written into the slots anew after every token; it counts nothing."""

    def __init__(self, slots, budget, sinks, every):
        self.slots, self.full, self.block = slots, budget + every, slice(sinks, sinks + every)
        self.held = []

    def append(self, token):
        self.held.append(token)
        if len(self.held) == self.full:
            del self.held[self.block]
        for slot, kept in enumerate(self.held):
            self.slots.put(slot, kept)
        return len(self.held)


@Q.also_right
class RecentOnes:
    def __init__(self, slots, budget, sinks, every):
        self.slots, self.recent, self.sinks, self.every = slots, budget - sinks, sinks, every
        self.used = 0

    def append(self, token):
        self.slots.put(self.used, token)
        self.used = self.used + 1
        over = self.used - self.sinks - self.recent
        if over >= self.every:
            self.slots.move(self.used - self.recent, self.used, self.sinks)
            self.used -= over
        return self.used


# --- laws ---


def _appended(answer, case):
    """The slots, the token and what its append returned, for one token after the other."""
    slots = Slots(case["budget"] + case["every"])
    cache = answer.make(slots, case["budget"], case["sinks"], case["every"])
    for token in range(case["_first"], case["_first"] + case["n_tokens"]):
        yield slots, token, cache.call("append", token)


@Q.law("the right tokens in the right slots, few of them moved")
def _(answer, case):
    """Slot by slot, so that a message says which."""
    seen = {}
    for i, (slots, _token, length) in enumerate(_appended(answer, case), 1):
        seen[f"append number {i} returned"] = length
        for slot, token in enumerate(slots.first(length)):
            seen[f"after append number {i}, slot {slot} holds token"] = token
    n_evictions = (case["n_tokens"] - case["budget"]) // case["every"]
    needed = n_evictions * (case["budget"] - case["sinks"])
    seen["tokens written"] = AtMost(case["n_tokens"]).of(slots.written)
    seen["tokens moved"] = AtMost(needed).of(slots.moved)
    return seen


@Q.law("without sinks; a block of one")
def _(answer, case):
    """And a budget that holds nothing but sinks."""
    seen, first = {}, case["_first"]
    for budget, sinks, every in ((case["budget"], 0, 2), (case["budget"], 1, 1), (2, 2, 2)):
        slots, what = Slots(budget + every), f"budget {budget}, sinks {sinks}, every {every}"
        cache = answer.make(slots, budget, sinks, every)
        for token in range(first, first + budget + 2 * every):
            length = cache.call("append", token)
        seen[f"{what}: the last append returned"] = length
        for slot, token in enumerate(slots.first(length)):
            seen[f"{what}: slot {slot} holds token"] = token
    return seen


@Q.law("two caches know nothing of each other")
def _(answer, case):
    seen, made = {}, []
    for _which in range(2):
        slots = Slots(case["budget"] + case["every"])
        sizes = (case["budget"], case["sinks"], case["every"])
        made.append((slots, answer.make(slots, *sizes)))
    for token in range(case["n_tokens"]):
        for i, (_, cache) in enumerate(made[: 1 + token % 2]):
            seen[f"append of token {token} to cache {i} returned"] = cache.call("append", token)
    for i, (slots, _) in enumerate(made):
        seen[f"cache {i} holds"] = slots.first(case["sinks"] + 1)
    return seen


@Q.law("never beyond budget and block; sinks and newest stay")
def _(answer, case):
    """What must hold whichever tokens were chosen."""
    most, kept = 0, True
    for slots, token, length in _appended(answer, case):
        held = slots.first(length)
        most = max(most, len(held))
        early = range(case["_first"], min(token + 1, case["_first"] + case["sinks"]))
        kept = kept and held[-1:] == [token] and all(sink in held for sink in early)
    return {
        "most slots used after a token": AtMost(case["budget"] + case["every"] - 1).of(most),
        "sinks and newest are always there": kept,
    }


# --- what goes wrong: each changes a step of this ---


class _Steps(BlockCache):
    def append(self, token):
        self.slots.put(self.length, token)
        self.length += 1
        if self.full():
            self.evict()
        return self.length

    def full(self):
        return self.length == self.budget + self.every

    def evict(self):
        for start, stop, to in self.moves():
            self.slots.move(start, stop, to)
        self.length = self.left()

    def moves(self):
        return [(self.sinks + self.every, self.length, self.sinks)]

    def left(self):
        return self.budget


def _evicts_before(self, token):
    if self.full():
        self.evict()
    self.slots.put(self.length, token)
    self.length += 1
    return self.length


def _old_length(self, token):
    before = self.length + 1
    _Steps.append(self, token)
    return before


Q.mistakes(
    _Steps,
    {
        "a token is evicted at every step once the budget is reached, so all that is kept moves at "
        "every step.": {
            "full": lambda self: self.length > self.budget,
            "moves": lambda self: [(self.sinks + 1, self.length, self.sinks)],
        },
        "what belongs to one object is kept on the class, so two of them share it. Set it on self in "
        "__init__.": {"__setattr__": lambda self, name, value: setattr(type(self), name, value)},
        "the newest tokens go. The oldest ones after the sinks should.": {"moves": lambda self: []},
        "the sinks go with the oldest tokens. The first ones stay.": {
            "moves": lambda self: [(self.every, self.length, 0)]
        },
        "the block is evicted token by token: all that is kept moves once for each of them, and "
        "once is enough.": {
            "moves": lambda self: [
                (self.sinks + 1, self.length - i, self.sinks) for i in range(self.every)
            ]
        },
        "everything is written again, the sinks too, which stay where they are.": {
            "moves": lambda self: [(0, self.sinks, 0), *_Steps.moves(self)]
        },
        "a full cache waits for the next token before it evicts. The append that fills the last "
        "slot should evict.": {"append": _evicts_before},
        "eviction comes one token too early: the last slot is never used.": {
            "full": lambda self: self.length == self.budget + self.every - 1,
            "left": lambda self: self.length - self.every,
        },
        "the newest token stays behind: the stop of a move is the slot after the last one.": {
            "moves": lambda self: [(self.sinks + self.every, self.length - 1, self.sinks)]
        },
        "one token goes and not `every`, so the cache is full again at once.": {
            "moves": lambda self: [(self.sinks + 1, self.length, self.sinks)],
            "left": lambda self: self.length - 1,
        },
        "what is returned is the count before eviction. Return how many slots are used after it.": {
            "append": _old_length
        },
        "eviction starts one token too late, when there is no slot left.": {
            "full": lambda self: self.length > self.budget + self.every
        },
        "a whole budget's tokens go at once, and the cache is left with fewer tokens than it may "
        "keep.": {
            "moves": lambda self: [(self.budget, self.length, self.sinks)],
            "left": lambda self: self.length - (self.budget - self.sinks),
        },
    },
)
