"""8.3: blocks that chats take as they grow and give back when they end, and tables to find them.

Long because an allocator goes wrong in many ways, and each of them is named.
"""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

from kvlab.course.author import Exercise, NotData, brief
from kvlab.course.ch08._ghost import Deed, Ghost, World, beside, drawn, story

Q = Exercise(
    "8.3",
    "A block allocator",
    "Blocks",
    points=5,
    minutes=25,
    difficulty=3,
    statement="""
Write the allocator that gives chats their memory block by block (chapter 8, "Blocks, and a table that finds them"). `Blocks(n_blocks, size)` has `n_blocks` blocks of `size` slots, numbered from 0: block b has the slots b * size to
b * size + size - 1. Chats are named by texts, and a chat begins with its first `grow`.

- `grow(chat, n)` gives a chat room for `n` more tokens, one or more. A block is taken only when the slots that the chat has are full, so that a chat of T tokens holds T / size blocks, rounded up. Which free block is taken is up to you.
- If there are not enough free blocks, `grow` raises `ValueError` and **changes nothing**: the chat keeps what it had, no block is lost, and one that had not begun has still not begun.
- `slots(chat)` returns the slots of the chat's tokens, a list of one whole number for each token in the order of its text. A slot that a chat has been given stays its own until it ends. For a chat that has not begun, or has ended, the list is empty.
- `end(chat)` gives all of a chat's blocks back. A chat of the same name may begin again. For a chat that has not begun, or has ended, `end` does nothing.
- `n_free()` returns the number of free blocks.

About 20 lines. With blocks of 4 slots, `grow("A", 3)` takes one block, `grow("A", 1)` none, and `grow("A", 5)` two more. The judge is a ghost store: it remembers in each slot which token of which chat was written there, and whoever reads must find its own.
""",
    hints=(
        "What does a chat need to know of its past? A list of blocks and how many tokens it has. How many blocks are missing then, and when do you know that they can be had?",
        "Keep self.free, a list of blocks, self.table, a dict from a chat to its blocks, and self.n, a dict from a chat to its number of tokens. grow: missing = -(-(n_now + n) // size) - len(table). Compare it with len(self.free) before you change anything. Token i lies in slot table[i // size] * size + i % size.",
        "grow: table = self.table.get(chat, []); n_now = self.n.get(chat, 0); missing = -(-(n_now + n) // self.size) - len(table); if missing > len(self.free): raise ValueError; self.table[chat] = table + [self.free.pop() for _ in range(missing)]; self.n[chat] = n_now + n. "
        "end: self.free += self.table.pop(chat, []); self.n.pop(chat, None). slots: the formula for i in range(self.n.get(chat, 0)).",
    ),
    cases=drawn,
)


@Q.solution
class Blocks:
    """Blocks of slots, given to chats as they grow."""

    def __init__(self, n_blocks, size):
        ### BEGIN SOLUTION
        self.size = size
        self.free = list(range(n_blocks))
        self.table, self.n = {}, {}
        ### END SOLUTION

    def grow(self, chat, n):
        """Give a chat room for n more tokens, or raise ValueError and change nothing."""
        ### BEGIN SOLUTION
        table, n_now = self.table.get(chat, []), self.n.get(chat, 0)
        missing = -(-(n_now + n) // self.size) - len(table)
        if missing > len(self.free):
            raise ValueError(f"{missing} blocks are missing, {len(self.free)} are free")
        self.table[chat] = table + [self.free.pop() for _ in range(missing)]
        self.n[chat] = n_now + n
        ### END SOLUTION

    def slots(self, chat):
        """Return the slot of each of a chat's tokens."""
        ### BEGIN SOLUTION
        table, size = self.table.get(chat, []), self.size
        return [table[i // size] * size + i % size for i in range(self.n.get(chat, 0))]
        ### END SOLUTION

    def end(self, chat):
        """Give a chat's blocks back."""
        ### BEGIN SOLUTION
        self.free += self.table.pop(chat, [])
        self.n.pop(chat, None)
        ### END SOLUTION

    def n_free(self):
        """Return the number of free blocks."""
        ### BEGIN SOLUTION
        return len(self.free)
        ### END SOLUTION


@Q.also_right
class SlotBySlot:
    def __init__(self, n_blocks, size):
        self.each, self.owner, self.lists = size, [None] * n_blocks, {}

    def grow(self, chat, n):
        mine = self.lists.get(chat, [])
        idle = [b for b, owner in enumerate(self.owner) if owner is None]
        rest = -len(mine) % self.each
        new = [mine[-1] + 1 + i for i in range(min(rest, n))] if mine else []
        while len(new) < n:
            if not idle:
                raise ValueError("full")
            start = idle.pop(0) * self.each
            new += range(start, start + self.each)
        mine = mine + new[:n]
        for slot in mine:
            self.owner[slot // self.each] = chat
        self.lists[chat] = mine

    def slots(self, chat):
        return tuple(self.lists.get(chat, ()))

    def end(self, chat):
        self.owner = [None if owner == chat else owner for owner in self.owner]
        self.lists[chat] = []

    def n_free(self):
        return self.owner.count(None)


# --- the judge ---


class _World(World):
    """Chats that grow and end; what each slot holds is a chat and the place of a token in it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lengths: dict[str, int] = {}
        self.began: dict[str, int] = {}  # how often a chat has begun
        self.had: dict[str, list[int]] = {}

    def grows(self, chat: str, n: int) -> None:
        length = self.lengths.get(chat, 0) + n
        if self._held({**self.lengths, chat: length}) > self.n_blocks:
            self.refused("grow", chat, n)
        else:
            self.ask("grow", chat, n)
            if chat not in self.lengths:
                self.began[chat] = self.began.get(chat, 0) + 1
            old, self.lengths[chat] = self.lengths.get(chat, 0), length
            for i, slot in enumerate(self._slots(chat)):
                if i >= old:
                    self.memory[slot] = (chat, self.began[chat], i)
        self._look(chat)

    def ends(self, chat: str) -> None:
        self.ask("end", chat)
        self.lengths.pop(chat, None)
        self.had.pop(chat, None)
        self._look(chat)

    def _held(self, lengths: dict[str, int]) -> int:
        return sum(-(-n // self.size) for n in lengths.values())

    def _slots(self, chat: str) -> list[int]:
        found = self.ask("slots", chat)
        if not isinstance(found, list) or any(type(s) is not int for s in found):
            raise NotData(f"your code returned {brief(found)} for slots; expected a list of int.")
        n, old = self.lengths.get(chat, 0), self.had.get(chat, [])
        if len(found) != n:
            raise Ghost(f"slots gives {len(found)} of {chat}; expected {n}, one for each token")
        if not all(0 <= s < self.n_blocks * self.size for s in found):
            raise Ghost(
                f"slots gives {chat} one that does not exist; expected less than {self.n_blocks * self.size}"
            )
        if found[: len(old)] != old:
            raise Ghost(f"tokens of {chat} lie in other slots; expected those that it had")
        self.had[chat] = found
        return found

    def _look(self, chat: str) -> None:
        for name in [*self.lengths, *([] if chat in self.lengths else [chat])]:
            for i, slot in enumerate(self._slots(name)):
                own = (name, self.began[name], i)
                self.reads(name, i, slot, own, lambda own: f"token {own[2]} of {own[0]}")
        self.free_should_be(self.n_blocks - self._held(self.lengths))


def shown(deed: Deed) -> str:
    return f"{deed[1]} ends" if deed[0] == "ends" else f"{deed[1]} grows by {deed[2]}"


def _law(says, trace, blocks=None):
    story(Q, says, _World, shown, trace, blocks)


_law("a chat that grows", lambda case: [["grows", "A", 1]] * (3 * case["size"] + 1))
_law("two chats that grow in turn", lambda case: [
    ["grows", "AB"[i % 2], 1] for i in range(3 * case["size"])
])  # fmt: skip
_law("many tokens at once, and blocks that are full to the last slot", lambda case: [
    ["grows", "A", case["size"]], ["grows", "B", 2 * case["size"]], ["grows", "A", 1],
    ["ends", "A"], ["grows", "A", case["size"] + 1],
])  # fmt: skip
_law("all blocks can be taken, and one more is refused", lambda case: [
    ["grows", "A", case["n_blocks"] * case["size"] - 1], ["grows", "A", 1], ["grows", "A", 1],
    ["grows", "B", 1], ["ends", "B"], ["ends", "A"], ["grows", "B", case["size"]],
])  # fmt: skip
_law("what is refused changes nothing", lambda case: [
    ["grows", "A", 1], ["grows", "B", (case["n_blocks"] - 3) * case["size"]],
    ["grows", "A", 3 * case["size"]], ["grows", "C", 2 * case["size"] + 1], ["grows", "A", 1],
    ["grows", "C", 1], ["ends", "C"], ["grows", "A", case["size"]],
])  # fmt: skip
_law("who ends gives back, and may begin again", lambda case: [
    ["grows", "A", case["size"] + 1], ["ends", "A"], ["ends", "A"], ["ends", "D"],
    ["grows", "B", 1], ["grows", "A", 1], ["grows", "C", case["size"]], ["ends", "B"],
    ["grows", "A", (case["n_blocks"] - 2) * case["size"]], ["grows", "A", case["size"]],
])  # fmt: skip
_law("one block, and slots of one token", lambda case: [
    ["grows", "A", 2], ["grows", "A", 1], ["grows", "B", 1], ["ends", "A"], ["grows", "B", 1],
], lambda case: (1, 1))  # fmt: skip


def _random(case):
    rng = random.Random(case["_seed"])
    return [
        ["ends", rng.choice("ABC")] if rng.random() < 0.25
        else ["grows", rng.choice("ABC"), rng.randint(1, 2 * case["size"])]
        for _ in range(30)
    ]  # fmt: skip


_law("thirty deeds at random", _random)
beside(Q, _World, shown, _random)


# --- what goes wrong: each changes one thing of this ---


class _Blocks(Blocks):
    def missing(self, n_now, n, n_table):
        return -(-(n_now + n) // self.size) - n_table

    def fits(self, missing):
        return missing <= len(self.free)

    def grow(self, chat, n):
        table, n_now = self.table.get(chat, []), self.n.get(chat, 0)
        missing = self.missing(n_now, n, len(table))
        if not self.fits(missing):
            raise ValueError("too few blocks")
        self.table[chat] = table + [self.free.pop() for _ in range(missing)]
        self.n[chat] = n_now + n


def _takes_until_none_is_left(self, chat, n):
    table = self.table.setdefault(chat, [])
    while len(table) * self.size < self.n.get(chat, 0) + n:
        if not self.free:
            raise ValueError("too few blocks")
        table.append(self.free.pop())
    self.n[chat] = self.n.get(chat, 0) + n


def _counts_first(self, chat, n):
    self.n[chat] = self.n.get(chat, 0) + n
    table = self.table.get(chat, [])
    missing = -(-self.n[chat] // self.size) - len(table)
    if missing > len(self.free):
        raise ValueError("too few blocks")
    self.table[chat] = table + [self.free.pop() for _ in range(missing)]


def _ends_without_tokens(self, chat):
    self.free += self.table.pop(chat, [])


def _frees_twice(self, chat):
    self.free += self.table.get(chat, [])
    self.n.pop(chat, None)


def _frees_one(self, chat):
    self.free += self.table.pop(chat, [])[:1]
    self.n.pop(chat, None)


def _in_a_row(self, chat):
    table = self.table.get(chat, [0])
    return [table[0] * self.size + i for i in range(self.n.get(chat, 0))]


def _by_length(self, chat):
    table, n = self.table.get(chat, []), self.n.get(chat, 0)
    return [table[i // self.size] * len(table) + i % self.size for i in range(n)]


def _table(self, chat):
    return [b * self.size + i for b in self.table.get(chat, []) for i in range(self.size)]


Q.mistakes(
    _Blocks,
    {
        "a new block is taken for each call, though the last one has free slots.": {
            "missing": lambda self, n_now, n, n_table: -(-n // self.size)
        },
        "a full last block counts as if it had room: the number of blocks is rounded down.": {
            "missing": lambda self, n_now, n, n_table: max(1, (n_now + n) // self.size) - n_table
        },
        "a block is taken before it is needed: a chat whose blocks are full to the last slot needs no "
        "other yet.": {
            "missing": lambda self, n_now, n, n_table: (n_now + n) // self.size + 1 - n_table
        },
        "blocks are taken one by one until none is left, and those are lost for everybody when the call is "
        "refused. Count first, then take.": {"grow": _takes_until_none_is_left},
        "the tokens are counted before it is known that they fit.": {"grow": _counts_first},
        "the last free block is never given out.": {
            "fits": lambda self, missing: missing < len(self.free) or not missing
        },
        "nobody asks whether there are enough blocks, so that Python's own error comes. Compare "
        "first, and raise ValueError.": {"fits": lambda self, missing: True},
        "who has ended keeps its number of tokens, and begins the next time in the middle.": {
            "end": _ends_without_tokens
        },
        "who has ended keeps its table, so that its blocks are freed and still its own: two chats "
        "get the same ones.": {"end": _frees_twice},
        "only the first block of a chat is given back.": {"end": _frees_one},
        "end fails for a chat that has not begun. There is nothing to give back, and nothing to do.": {
            "end": lambda self, chat: (
                self.free.extend(self.table.pop(chat)),
                self.n.pop(chat),
                None,
            )[2]
        },
        "blocks are never given back.": {
            "end": lambda self, chat: (self.table.pop(chat, None), self.n.pop(chat, None))
        },
        "the blocks of a chat are taken to lie in a row. They lie anywhere: look each up in the "
        "table.": {"slots": _in_a_row},
        "a block begins at its number times the size, whatever the table's length.": {
            "slots": _by_length
        },
        "all slots of the chat's blocks are returned, also those that hold no token yet.": {
            "slots": _table
        },
        "the blocks are returned, not the slots.": {
            "slots": lambda self, chat: [
                self.table[chat][i // self.size] for i in range(self.n.get(chat, 0))
            ]
        },
        "free slots are counted, not free blocks.": {
            "n_free": lambda self: len(self.free) * self.size
        },
        "all chats share one table: what belongs to one chat is found under its name.": {
            "slots": lambda self, chat: [
                list(chain(*self.table.values()))[i // self.size] * self.size + i % self.size
                for i in range(self.n.get(chat, 0))
            ]
        },
    },
)
