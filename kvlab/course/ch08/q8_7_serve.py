"""8.7: the reader's allocator hands out the blocks of an engine that answers several chats.

Long because it holds a whole pool twice, and what puts it into the engine.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from kvlab.course.author import AtMost, Exercise, NotData, brief, pocket_model, raised_by
from kvlab.course.ch08._ghost import beside, drawn, story
from kvlab.course.ch08._sharing import (
    SUBTLE,
    SUBTLE_MISTAKES,
    Sharing,
    at_random,
    come,
    ids,
    shown,
)
from kvlab.course.sandbox.answer import AnswerRaised, Object, Stopped
from kvlab.generation import generate
from kvlab.sampling import Sampler
from kvlab.serve.blocks import Counts, Prefix
from kvlab.serve.engine import Engine

Q = Exercise(
    "8.7",
    "Your allocator serves the pocket model",
    "MyPool",
    points=6,
    minutes=25,
    difficulty=4,
    statement="""
Put the pieces together (chapter 8, "Your own allocator runs the engine"): write the pool from which kvlab's engine takes every block while the pocket model answers several chats at once. `MyPool(n_blocks, size)` has

- `n_free()`, `take(n)`: n free blocks as a list, or `ValueError` and nothing changes;
- `hold(blocks)`, `release(table)`, `learn(table, tokens)` and `match(tokens)`, all as in 8.4: counted, found by exactly the tokens in a block and before it, never all of a text, and not known any more when no table lists them;
- `holders(block)`: how many tables list a block, 0 if it is free;
- `own(block)`: a table that lists this block wants to write into it. Return the block that it may write into in its place: the same one, if no other table lists it, or else a new one, and then the old block is listed once less. The engine copies what is in it. If one is needed and none is free, raise `ValueError`, and nothing changes.

About 40 lines, most of which you have. First the ghost store of 8.4 looks at it. Then your pool is put into the engine, and the answers must be those of `kvlab.generate`, which serves each chat alone; a text that several chats begin with must be taken in once; and when all have ended, all blocks must be free. It is done again with memory for one chat and a half, so that chats wait and lose their blocks, and with a chat that is forked on the way.
""",
    hints=(
        "You have all of it: take from 8.3, counts and names from 8.4, and own is the middle of 8.5's append. What must happen to a block's count in each of the methods?",
        "Begin with your class of 8.4 and rename it. holders returns the count. own: at a count of 1 return the block; else take one, count the old one down, and return the new one. Taking comes first, since it may refuse.",
        "def holders(self, block): return self.count[block]. def own(self, block): if self.count[block] == 1: return block; (new,) = self.take(1); self.count[block] -= 1; return new. All else is 8.4's, word for word: with tuple(tokens[:end]) as the name of a block, and take raising ValueError before it takes anything.",
    ),
    cases=drawn,
    n_cases=5,
)


@Q.solution
class MyPool:
    """Blocks for an engine: counted, shared and found by their texts."""

    def __init__(self, n_blocks, size):
        ### BEGIN SOLUTION
        self.size = size
        self.free = list(range(n_blocks))
        self.count = [0] * n_blocks
        self.known, self.name = {}, {}
        ### END SOLUTION

    def n_free(self):
        """Return the number of free blocks."""
        ### BEGIN SOLUTION
        return len(self.free)
        ### END SOLUTION

    def take(self, n):
        """Return n free blocks as a list."""
        ### BEGIN SOLUTION
        if n > len(self.free):
            raise ValueError(f"{n} blocks were asked for, {len(self.free)} are free")
        blocks = [self.free.pop() for _ in range(n)]
        self.hold(blocks)
        return blocks
        ### END SOLUTION

    def hold(self, blocks):
        """Let one more table list these blocks."""
        ### BEGIN SOLUTION
        for block in blocks:
            self.count[block] += 1
        ### END SOLUTION

    def release(self, table):
        """Take a table's blocks back."""
        ### BEGIN SOLUTION
        for block in table:
            self.count[block] -= 1
            if self.count[block] == 0:
                self.free.append(block)
                if block in self.name:
                    del self.known[self.name.pop(block)]
        ### END SOLUTION

    def learn(self, table, tokens):
        """Let the full blocks of computed tokens be found."""
        ### BEGIN SOLUTION
        for i, end in enumerate(range(self.size, len(tokens) + 1, self.size)):
            block, name = table[i], tuple(tokens[:end])
            if name not in self.known:
                self.known[name], self.name[block] = block, name
        ### END SOLUTION

    def match(self, tokens):
        """Return the known blocks that a text begins with, never all of it."""
        ### BEGIN SOLUTION
        found = []
        for end in range(self.size, len(tokens), self.size):
            block = self.known.get(tuple(tokens[:end]))
            if block is None:
                break
            found.append(block)
        return found
        ### END SOLUTION

    def holders(self, block):
        """Return how many tables list a block."""
        ### BEGIN SOLUTION
        return self.count[block]
        ### END SOLUTION

    def own(self, block):
        """Return the block to write into, in place of this one."""
        ### BEGIN SOLUTION
        if self.count[block] == 1:
            return block
        (new,) = self.take(1)
        self.count[block] -= 1
        return new
        ### END SOLUTION


@Q.also_right
class EachBlockWithItsText:
    """Each block has an entry: its users, and the tokens up to its end."""

    def __init__(self, n_blocks, size):
        self.width = size
        self.users = dict.fromkeys(range(n_blocks), 0)
        self.text = {}

    def n_free(self):
        return sum(not n for n in self.users.values())

    def take(self, n):
        idle = [block for block, n_users in self.users.items() if not n_users]
        if len(idle) < n:
            raise ValueError("full")
        self.hold(idle[:n])
        return idle[:n]

    def hold(self, blocks):
        for block in blocks:
            self.users[block] = self.users[block] + 1

    def release(self, table):
        for block in reversed(table):
            self.users[block] = self.users[block] - 1
            if not self.users[block]:
                self.text.pop(block, None)

    def find(self, text):
        return next((block for block, known in self.text.items() if known == text), None)

    def learn(self, table, tokens):
        for i in range(len(tokens) // self.width):
            text = list(tokens[: (i + 1) * self.width])
            if self.find(text) is None and table[i] not in self.text:
                self.text[table[i]] = text

    def match(self, tokens):
        found, end = [], self.width
        while end < len(tokens) and self.find(list(tokens[:end])) is not None:
            found.append(self.find(list(tokens[:end])))
            end += self.width
        return found

    def holders(self, block):
        return self.users[block]

    def own(self, block):
        if self.users[block] < 2:
            return block
        mine = self.take(1)[0]
        self.users[block] = self.users[block] - 1
        return mine


# --- laws: the ghost, then the engine ---

for says, trace in (
    ("texts that begin alike", lambda case: come("aabbc", "aabbab", "bba")),
    ("what is refused loses nothing", lambda case: [
        *come("aabbc", "aacccccc"), ["leaves", "A"], ["leaves", "B"], ["comes", "C", ids("a" * 10)],
    ]),
    ("what is free is not found", lambda case: [
        *come("aabbc"), ["leaves", "A"], ["comes", "B", ids("ccbba")], ["comes", "C", ids("aabbc")],
    ]),
    ("a block is free when the last one lets go", lambda case: [
        *come("aabb", "aabc"), ["leaves", "A"], ["comes", "C", ids("ccccc")],
    ]),
):  # fmt: skip
    story(Q, says, Sharing, shown, trace, lambda case: (5, 2))
story(
    Q, "one token less than all is found, and no less", Sharing, shown,
    lambda case: come("aabb", "aabb", "aab", "aabbc"), lambda case: (9, 2),
)  # fmt: skip
story(
    Q, "blocks of one token", Sharing, shown, lambda case: come("abc", "abd", "b"),
    lambda case: (9, 1),
)  # fmt: skip
story(Q, "many deeds at random", Sharing, shown, at_random, lambda case: (7, 2))
beside(Q, Sharing, shown, at_random)
for says, trace, blocks in SUBTLE:
    story(
        Q, says, Sharing, shown, lambda case, trace=trace: trace,
        lambda case, blocks=blocks: blocks,
    )  # fmt: skip


def _a_block(came):
    if type(came) is not int:
        raise NotData(f"your code returned {brief(came)} for own; expected a block (int).")
    return came


@Q.law("who may write into a block")
def _(answer, case):
    """One block for three tables, in a pool of three."""
    pool = answer.make(3, case["size"])
    old, other = pool.call("take", 2)
    seen = {"holders of one that is free": pool.call("holders", 3 - old - other)}
    pool.call("hold", [old])
    pool.call("hold", [old])
    seen["holders of one that three list"] = pool.call("holders", old)
    new = _a_block(pool.call("own", old))
    seen |= {
        "own gives another block than that of three": new not in (old, other),
        "holders of the old and of the new one": [pool.call("holders", b) for b in (old, new)],
        "free blocks": pool.call("n_free"),
        "raised by own when none is free": raised_by(pool.call, "own", old),
        "holders after that": [pool.call("holders", b) for b in (old, new)],
        "own gives back one that nobody else lists": pool.call("own", new) == new,
    }
    pool.call("release", [old])
    return {**seen, "own gives back one that is left to one": pool.call("own", old) == old}


class Plugged:
    """An answer by the names that the engine has for the same things."""

    def __init__(self, pool: Object, n_blocks: int, size: int) -> None:
        self.pool, self.n_blocks, self.size = pool, n_blocks, size

    @property
    def available(self) -> int:
        n = self.pool.call("n_free")
        if type(n) is not int:
            raise NotData(f"your code returned {brief(n)} for n_free; expected an int.")
        return n

    @property
    def counts(self) -> Counts:
        free = self.available
        return Counts(self.n_blocks - free, 0, free)

    def needed(self, n_tokens: int) -> int:
        return -(-n_tokens // self.size)

    def holders(self, block: int) -> int:
        return self.pool.call("holders", block)

    def take(self, n: int) -> list[int]:
        return self._blocks(self.pool.call("take", n), n)

    def hold(self, blocks: list[int]) -> None:
        self.pool.call("hold", list(blocks))

    def release(self, blocks: list[int]) -> None:
        self.pool.call("release", list(blocks))

    def match(self, tokens: Any, salt: object = "") -> tuple[list[int], Prefix]:
        found = self._blocks(self.pool.call("match", list(tokens)))
        return found, Prefix(len(found), None)

    def learn(self, table: list[int], tokens: Any, since: Prefix) -> Prefix:
        self.pool.call("learn", list(table), list(tokens))
        return since

    def own(self, table: list[int], index: int) -> tuple[int, int] | None:
        (new,) = self._blocks([self.pool.call("own", table[index])])
        old, table[index] = table[index], new
        return None if old == new else (old, new)

    def _blocks(self, found: Any, n: int | None = None) -> list[int]:
        fits = isinstance(found, list) and all(
            type(b) is int and 0 <= b < self.n_blocks for b in found
        )
        if not fits or n not in (None, len(found)):
            raise NotData(f"your code returned {brief(found)}; expected a list of blocks.")
        return found


SIZE, N_NEW = 8, 6


@lru_cache(16)
def prompts(seed: int) -> tuple[tuple[int, ...], ...]:
    """Three questions about one text of the pocket model's world."""
    tokenizer, rng = pocket_model()[1], random.Random(seed)
    things = rng.sample(["tiger", "lemon", "lamp", "whale"], 2)
    told = "Facts: " + " ".join(
        f"The password of {n} is {t}." for n, t in zip(("Anna", "Tom"), things, strict=True)
    )
    asked = ["What is the password of Anna?", "What is the capital of France?",
             "What is the password of Tom?"]  # fmt: skip
    return tuple(tuple(tokenizer.encode(f"{told}\nUser: {q}\nAssistant:")) for q in asked)


@lru_cache(64)
def alone(prompt: tuple[int, ...], n_new: int) -> tuple[int, ...]:
    """What `generate` says."""
    return tuple(generate(pocket_model()[0], list(prompt), n_new)[0].tolist())


def served(answer: Any, seed: int, n_blocks: int, forks: bool = False) -> dict[str, Any]:
    """Let the engine answer: each answer, what was taken in, and what is free at the end."""

    def pool(n: int, size: int) -> Plugged:
        return Plugged(answer.make(n, size), n, size)

    engine = Engine(pocket_model()[0], n_blocks=n_blocks, size=SIZE, pool=pool)
    asked = prompts(seed)
    requests, taken, twin = [engine.add(0, asked[0], N_NEW)], 0, None
    try:
        for step in range(120):
            if engine.scheduler.idle:
                break
            engine.step()
            taken += sum(engine.latest.values())
            if step == 0:
                requests += [engine.add(i, p, N_NEW) for i, p in enumerate(asked) if i]
            if forks and twin is None and len(requests[1].answer) == 2:
                pick = Sampler(temperature=2.0, seed=seed % 1000)
                twin = engine.fork(requests[1], "twin", pick=pick)
        else:
            raise ValueError("it does not come to an end")
        free = engine.pool.available
    except (AnswerRaised, NotData, Stopped):
        raise
    except Exception as error:  # the engine met a pool that does not keep what it says
        raise NotData(f"the engine stopped with your pool: {error}; expected answers.") from None
    found = {f"answer to question {r.id}": list(r.answer) for r in requests}
    return {**found, "free blocks at the end": free, "taken": taken}


def _law(says, n_blocks, forks=False):
    """Answers as alone, and nothing lost; with much memory the text is taken in once as well."""

    @Q.law(says, expect=lambda case, outcome: _expected(case, n_blocks, forks))
    def _(answer, case):
        found = served(answer, case["_seed"], n_blocks, forks)
        taken = found.pop("taken")
        return found if n_blocks < 30 else {**found, "tokens that were taken in": taken}


def _expected(case, n_blocks, forks):
    asked = prompts(case["_seed"])
    found = {f"answer to question {i}": list(alone(p, N_NEW)) for i, p in enumerate(asked)}
    found["free blocks at the end"] = n_blocks
    if n_blocks < 30:
        return found
    said = sum(len(answer) - 1 for answer in found.values() if isinstance(answer, list))
    same = next(i for i in range(99) if len({p[i] for p in asked}) > 1) // SIZE * SIZE
    once = sum(map(len, asked)) - 2 * same
    return {**found, "tokens that were taken in": AtMost(once + said + (N_NEW if forks else 0))}


_law("three chats with one text, one of them forked", 40, True)
_law("memory for one chat and a half", 7)


# --- what goes wrong: each changes one thing of this ---


class _Pool(MyPool):
    def named(self, tokens, start, end):
        return tuple(tokens[:end])

    def learn(self, table, tokens):
        for i, end in enumerate(range(self.size, len(tokens) + 1, self.size)):
            block, name = table[i], self.named(tokens, end - self.size, end)
            if name not in self.known and block not in self.name:
                self.known[name], self.name[block] = block, name

    def match(self, tokens):
        found = []
        for end in range(self.size, len(tokens), self.size):
            name = self.named(tokens, end - self.size, end)
            if name not in self.known:
                break
            found.append(self.known[name])
        return found


def _frees_at_once(self, table):
    for block in table:
        self.count[block] -= 1
        if block in self.name:
            self.known.pop(self.name.pop(block), None)
        if block not in self.free:
            self.free.append(block)


def _keeps_names(self, table):
    for block in table:
        self.count[block] -= 1
        if self.count[block] == 0:
            self.free.append(block)


def _counts_first(self, block):
    if self.count[block] == 1:
        return block
    self.count[block] -= 1
    (new,) = self.take(1)
    return new


def _always_new(self, block):
    (new,) = self.take(1)
    self.release([block])
    return new


def _never_counted_down(self, block):
    return block if self.count[block] == 1 else self.take(1)[0]


def _takes_what_there_is(self, n):
    blocks = []
    while len(blocks) < n:
        if not self.free:
            raise ValueError("too few blocks")
        blocks.append(self.free.pop())
    self.hold(blocks)
    return blocks


Q.mistakes(
    _Pool,
    SUBTLE_MISTAKES
    | {
        "own gives back a block that others list, and they read what is written there.": {
            "own": lambda self, block: block
        },
        "own counts the old block down before it is known that a new one can be had.": {
            "own": _counts_first
        },
        "own takes a new block even for a table that is alone.": {"own": _always_new},
        "own does not count the old block down, so it is never free again.": {
            "own": _never_counted_down
        },
        "own returns the old block as well. The one to write into is asked for.": {
            "own": lambda self, block: (block, MyPool.own(self, block))
        },
        "own counts, and returns nothing.": {
            "own": lambda self, block: (MyPool.own(self, block), None)[1]
        },
        "own takes three tables for the first that share.": {
            "own": lambda self, block: block if self.count[block] <= 3 else MyPool.own(self, block)
        },
        "a block is known by its own tokens alone. After another beginning the same tokens have other "
        "keys.": {"named": lambda self, tokens, start, end: tuple(tokens[start:end])},
        "a block is free as soon as one of those who list it lets go.": {"release": _frees_at_once},
        "a block that is free keeps its name, and is found by it.": {"release": _keeps_names},
        "holders tells whether a block is listed. How many tables list it was asked.": {
            "holders": lambda self, block: min(1, self.count[block])
        },
        "take gives out what there is before it refuses, and that is lost.": {
            "take": _takes_what_there_is
        },
        "nothing is ever found: each chat takes in the common text anew.": {
            "match": lambda self, tokens: []
        },
    },
)
