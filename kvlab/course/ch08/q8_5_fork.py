"""8.5: two continuations of one chat, and a copy for who writes first.

Long because the ghost's world of forks is here as well, and each wrong way is named.
"""

from __future__ import annotations

import random
from typing import Any

from kvlab.course.author import Exercise, NotData, brief
from kvlab.course.ch08._ghost import Deed, Ghost, World, drawn, story

Q = Exercise(
    "8.5",
    "Fork, and copy on write",
    "ForkingPool",
    points=5,
    minutes=25,
    difficulty=4,
    statement="""
A chat is to be continued in two ways (chapter 8, "Two answers to one prompt"). Below stands a pool that counts how many tables list each block; tables are kept by whoever uses it, and `release(table)` gives one back. Two methods are missing.

- `fork(table)` returns the table of a second chat with the same tokens so far. It lists the same blocks; since nobody changes a table, it may be `table` itself or a new list. Nothing is copied and no block is taken.
- `append(table, n)` makes room for one more token of a chat that has `n` tokens, none or more. It returns two things: the chat's table from now on, which may be `table` itself or a new list, and a copy to be made before the token is written, `(from, to)`, or `None`.
    - If the last block is full, or there is none yet, the token gets a new block.
    - If the last block has room and no other table lists it, nothing changes.
    - If the last block has room and **other tables list it too**, they must not see what will be written: the chat gets a new block in its place, to which the old one is copied, and the old one is listed once less.
    - If a block is needed and none is free, `append` raises `ValueError` and nothing changes.

No block is copied that need not be, and a block that no table lists is free. About 15 lines. Do not change the table that you are given. With blocks of 4 slots, after `fork` of a table with 6 tokens, the first `append` to one of the two copies its second block; after that, appending to the other copies nothing. The judge is a ghost store: each slot remembers which
chat's token was written there, and whoever reads must find its own.
""",
    hints=(
        "Which blocks of a table are ever written again? Only one, and not always. Who may write into it without anybody noticing?",
        "n % self.size == 0 means that the last block is full, or that there is none: take one and put it at the end. Else look at self.count of table[-1]: at 1 there is nothing to do; above it, take one, count the old one down, and put the new one in its place.",
        "fork: for block in table: self.count[block] += 1; return list(table). append: if n % self.size == 0: return table + self.take(1), None; old = table[-1]; if self.count[old] == 1: return table, None; (new,) = self.take(1); self.count[old] -= 1; return table[:-1] + [new], (old, new).",
    ),
    cases=drawn,
)


@Q.solution
class ForkingPool:
    """Blocks that several tables may list, until one of them is written to."""

    def __init__(self, n_blocks, size):
        self.size = size
        self.free = list(range(n_blocks))
        self.count = [0] * n_blocks  # how many tables list a block

    def n_free(self):
        return len(self.free)

    def take(self, n):
        if n > len(self.free):
            raise ValueError(f"{n} blocks were asked for, {len(self.free)} are free")
        blocks = [self.free.pop() for _ in range(n)]
        for block in blocks:
            self.count[block] = 1
        return blocks

    def release(self, table):
        for block in table:
            self.count[block] -= 1
            if self.count[block] == 0:
                self.free.append(block)

    def fork(self, table):
        """Return a second table of the same blocks."""
        ### BEGIN SOLUTION
        for block in table:
            self.count[block] += 1
        return list(table)
        ### END SOLUTION

    def append(self, table, n):
        """Make room for one more token after n: the table, and what to copy before."""
        ### BEGIN SOLUTION
        if n % self.size == 0:
            return table + self.take(1), None
        old = table[-1]
        if self.count[old] == 1:
            return table, None
        (new,) = self.take(1)
        self.count[old] -= 1
        return [*table[:-1], new], (old, new)
        ### END SOLUTION


@Q.also_right
class UsersOfEachBlock:
    """A dict with the number of tables for each block; those of none are free."""

    def __init__(self, n_blocks, size):
        self.width = size
        self.users = dict.fromkeys(range(n_blocks), 0)

    def n_free(self):
        return list(self.users.values()).count(0)

    def release(self, table):
        for block in set(table):
            self.users[block] = self.users[block] - 1

    def fork(self, table):
        self.users |= {block: self.users[block] + 1 for block in table}
        return table

    def append(self, table, n):
        place, room = divmod(n, self.width)
        fresh = next((b for b, users in self.users.items() if not users), None)
        shared = room > 0 and self.users[table[place]] > 1
        if (shared or room == 0) and fresh is None:
            raise ValueError("full")
        new, copy = list(table), None
        if shared:
            copy = [new[place], fresh]
            self.users[new.pop()] -= 1
        if shared or room == 0:
            new.append(fresh)
            self.users[fresh] = 1
        return tuple(new), copy


# --- the judge ---


class _World(World):
    """Chats that write token by token and are forked; a text is the names of who wrote it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.texts: dict[str, str] = {}
        self.written = 0

    def writes(self, chat: str, n: int) -> None:
        for _ in range(n):
            table, text = self.tables.get(chat, []), self.texts.get(chat, "")
            last = table[-1] if len(text) % self.size else None
            shared = last is not None and sum(last in t for t in self.tables.values()) > 1
            full = len(self._held()) == self.n_blocks
            if full and (shared or last is None):
                self.refused("append", list(table), len(text))
                self._look()
                return
            self._take_in(chat, table, text, last, shared)
            self._look()

    def _take_in(
        self, chat: str, table: list[int], text: str, last: int | None, shared: bool
    ) -> None:
        """Let one token be appended, make the copy, and write it."""
        came = self.ask("append", list(table), len(text))
        if not isinstance(came, list) or len(came) != 2:
            raise NotData(f"your code returned {brief(came)}; expected a table and a copy or None.")
        new, copy = self.blocks(came[0], "the table"), came[1]
        if len(new) != len(text) // self.size + 1:
            raise Ghost(
                f"the table of {chat} has {len(new)} blocks for {len(text) + 1} tokens; expected "
                f"{len(text) // self.size + 1}"
            )
        others = {b for name, t in self.tables.items() if name != chat for b in t}
        if copy is not None:
            source, target = self._copied(copy)
            if not shared:
                raise Ghost(f"a block of {chat} is copied that no other table lists; expected None")
            if target in self._held():
                raise Ghost("a block is copied to one that is in use; expected a free one")
            for i in range(self.size):
                self.memory[target * self.size + i] = self.memory.get(source * self.size + i)
        if new[-1] in others:
            raise Ghost(f"{chat} writes into a block that another table lists; expected its own")
        self.written += 1
        self.tables[chat], self.texts[chat] = new, text + chat
        self.memory[self.at(new, len(text))] = text + chat

    def _copied(self, copy: Any) -> list[int]:
        if not isinstance(copy, list) or len(copy) != 2:
            raise NotData(
                f"your code returned {brief(copy)} as a copy; expected (from, to) or None."
            )
        return self.blocks(copy, "the copy")

    def forks(self, chat: str, twin: str) -> None:
        if chat not in self.tables or twin in self.tables:
            return
        table = self.blocks(self.ask("fork", list(self.tables[chat])), "the table")
        if table != self.tables[chat]:
            raise Ghost(f"the fork of {chat} lists other blocks; expected the same ones")
        self.tables[twin], self.texts[twin] = table, self.texts[chat]
        self._look()

    def leaves(self, chat: str) -> None:
        if chat in self.tables:
            self.ask("release", self.tables.pop(chat))
            del self.texts[chat]
            self._look()

    def _held(self) -> set[int]:
        return {block for table in self.tables.values() for block in table}

    def _look(self) -> None:
        for chat, table in self.tables.items():
            for i in range(len(self.texts[chat])):
                self.reads(chat, i, self.at(table, i), self.texts[chat][: i + 1], _said)
        self.free_should_be(self.n_blocks - len(self._held()))


def _said(text: str) -> str:
    return f"token {len(text) - 1} of {text!r}"


def shown(deed: Deed) -> str:
    """A deed in words."""
    what, chat, *how = deed
    if what == "forks":
        return f"{chat} is forked to {how[0]}"
    if what == "leaves":
        return f"{chat} leaves"
    return f"{chat} writes {how[0]}"


def _law(says, trace, blocks=None):
    story(Q, says, _World, shown, trace, blocks)


_law("one chat that writes", lambda case: [["writes", "A", 2 * case["size"] + 1]])
_law("a fork and its first write", lambda case: [
    ["writes", "A", case["size"] + 1], ["forks", "A", "B"], ["writes", "B", 1], ["writes", "A", 1],
])  # fmt: skip
_law("a fork whose last block is full", lambda case: [
    ["writes", "A", case["size"]], ["forks", "A", "B"], ["writes", "B", 1], ["writes", "A", 1],
])  # fmt: skip
_law("a fork of no token", lambda case: [
    ["writes", "A", 1], ["leaves", "A"], ["writes", "B", 1], ["forks", "B", "C"], ["leaves", "B"],
    ["writes", "C", 1],
])  # fmt: skip
_law("three of one beginning", lambda case: [
    ["writes", "A", 1], ["forks", "A", "B"], ["forks", "B", "C"], ["writes", "C", 1],
    ["writes", "A", 1], ["writes", "B", 1], ["leaves", "A"], ["leaves", "B"], ["writes", "C", 2],
])  # fmt: skip
_law("who is left alone copies nothing", lambda case: [
    ["writes", "A", case["size"] + 1], ["forks", "A", "B"], ["leaves", "A"], ["writes", "B", 1],
])  # fmt: skip
_law("no block is left for the copy", lambda case: [
    ["writes", "A", 2 * case["size"] - 1], ["forks", "A", "B"], ["writes", "B", 1],
    ["writes", "A", 1], ["writes", "A", 1], ["leaves", "A"], ["writes", "B", 1],
    ["writes", "B", 1],
], lambda case: (2, case["size"]))  # fmt: skip
_law("no block is left for the next token", lambda case: [
    ["writes", "A", case["size"]], ["forks", "A", "B"], ["writes", "A", 1], ["writes", "B", 1],
    ["leaves", "A"], ["writes", "B", 1],
], lambda case: (2, case["size"]))  # fmt: skip


def _random(case):
    rng = random.Random(case["_seed"])
    deeds = [
        lambda: ["writes", rng.choice("ABC"), rng.randint(1, case["size"])],
        lambda: ["forks", *rng.sample("ABCD", 2)],
        lambda: ["leaves", rng.choice("ABCD")],
    ]
    return [rng.choices(deeds, (5, 3, 2))[0]() for _ in range(30)]


_law("thirty deeds at random", _random)
_law("thirty deeds at random, in blocks of one token", _random, lambda case: (8, 1))


# --- what goes wrong: each changes one thing of this ---


class _Pool(ForkingPool):
    def full(self, table, n):
        return n % self.size == 0

    def alone(self, block):
        return self.count[block] == 1

    def new(self):
        return self.take(1)[0]

    def let_go(self, block):
        self.count[block] -= 1

    def replaced(self, table, old, new):
        return [*table[:-1], new], (old, new)

    def append(self, table, n):
        if self.full(table, n):
            return [*table, self.new()], None
        old = table[-1]
        if self.alone(old):
            return table, None
        new = self.new()
        self.let_go(old)
        return self.replaced(table, old, new)


def _copies_all(self, table):
    twin = self.take(len(table))
    return twin


def _let_go_first(self, table, n):
    if n % self.size == 0:
        return [*table, self.new()], None
    old = table[-1]
    if self.count[old] == 1:
        return table, None
    self.count[old] -= 1
    new = self.new()
    return [*table[:-1], new], (old, new)


def _leaks(self):
    self.take(1)
    return self.take(1)[0]


def _gives_back(self, block):
    self.count[block] -= 1
    self.free.append(block)


Q.mistakes(
    _Pool,
    {
        "nothing is copied: both write into the block that they share.": {
            "alone": lambda self, block: True
        },
        "the chat gets a block of its own, and what was in the old one is not copied.": {
            "replaced": lambda self, table, old, new: ([*table[:-1], new], None)
        },
        "the copy goes the wrong way: (from, to).": {
            "replaced": lambda self, table, old, new: ([*table[:-1], new], (new, old))
        },
        "the table keeps the old block, though the new one was filled.": {
            "replaced": lambda self, table, old, new: (table, (old, new))
        },
        "the new block is put after the old one, not in its place.": {
            "replaced": lambda self, table, old, new: ([*table, new], (old, new))
        },
        "the last block is copied even when nobody else lists it.": {
            "alone": lambda self, block: False
        },
        "a block is shared from three tables on. Two are enough.": {
            "alone": lambda self, block: self.count[block] <= 2
        },
        "the old block is not counted down, so it is never free again, and the last of those who share "
        "it makes a copy of what is only its own.": {"let_go": lambda self, block: None},
        "the old block is given back, though another table still lists it.": {
            "let_go": _gives_back
        },
        "the old block is counted down before it is known that a new one can be had.": {
            "append": _let_go_first
        },
        "a full last block is copied as well. Nobody writes into it any more: the next token begins a "
        "block.": {
            "full": lambda self, table, n: n == 0 or (n % self.size == 0 and self.alone(table[-1]))
        },
        "the first block is never taken: a chat without tokens has no block.": {
            "full": lambda self, table, n: n % self.size == 0 and n > 0
        },
        "a block is added one token too early, while the last one has a slot left.": {
            "full": lambda self, table, n: (n + 1) % self.size == 0 or n % self.size == 0
        },
        "fork counts nothing, so that both take themselves for the only one.": {
            "fork": lambda self, table: list(table)
        },
        "fork counts only the last block. The others are freed by who leaves first.": {
            "fork": lambda self, table: [
                self.count.__setitem__(table[-1], self.count[table[-1]] + 1),
                list(table),
            ][1]
        },
        "fork takes new blocks for everything. Nothing needs to be copied until somebody writes.": {
            "fork": _copies_all
        },
        "two blocks are taken where one is used.": {"new": _leaks},
    },
)
