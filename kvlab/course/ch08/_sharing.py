"""What the pools of 8.4 and 8.7 are judged by: texts that come, are computed, go on and leave.

The stories that both are told at the end, and the mistakes that only these tell, are here as well. A token of a text is a whole number. What a slot holds is the text up to its token.
"""

from __future__ import annotations

import random
from typing import Any

from kvlab.course.author import Case
from kvlab.course.ch08._ghost import Deed, Ghost, World

# d is a, and e is b, in their last 8 bits; af and fa have the same digits; Python's hash of g and h is 0
LETTERS = {1: "a", 2: "b", 3: "c", 257: "d", 258: "e", 11: "f", 0: "g", 2**61 - 1: "h"}


def spelt(text: list[int] | tuple[int, ...]) -> str:
    """A text of the traces as letters."""
    return repr("".join(LETTERS[t] for t in text))


def ids(text: str) -> list[int]:
    """The tokens of a text of letters."""
    known = {letter: token for token, letter in LETTERS.items()}
    return [known[c] for c in text]


class Sharing(World):
    """Chats whose texts begin alike, and a pool that lets them hold the same blocks."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.texts: dict[str, list[int]] = {}
        self.computed: dict[str, int] = {}
        self.known: dict[tuple[int, ...], int] = {}  # what must be found, at the least

    def comes(self, chat: str, text: list[int], n: int | None = None) -> None:
        """A chat comes and finds what is there; of the rest `n` tokens are computed, or all."""
        if chat in self.tables:
            return
        found = self.blocks(self.ask("match", list(text)), "match")
        self._worth(chat, text, found)
        self.ask("hold", found)
        missing = -(-len(text) // self.size) - len(found)
        held = self._held() | set(found)
        if missing > self.n_blocks - len(held):
            self.refused("take", missing)
            self.ask("release", found)
            self._look()
            return
        taken = self.blocks(self.ask("take", missing), "take")
        if len(taken) != missing or held & set(taken) or len(set(taken)) != missing:
            raise Ghost("take gives a block that somebody holds; expected one that is free")
        self.tables[chat], self.texts[chat] = found + taken, list(text)
        self.computed[chat] = len(found) * self.size
        self.goes_on(chat, n if n is not None else len(text))

    def goes_on(self, chat: str, n: int) -> None:
        """`n` tokens more of a chat are computed, and the pool is told."""
        if chat not in self.tables:
            return
        text, table = self.texts[chat], self.tables[chat]
        stop = min(len(text), self.computed[chat] + n)
        for i in range(self.computed[chat], stop):
            self.memory[self.at(table, i)] = tuple(text[: i + 1])
        self.computed[chat] = stop
        self._look()  # what was written may have been somebody else's
        self.ask("learn", list(table), text[:stop])
        for end in range(self.size, stop + 1, self.size):
            block = table[end // self.size - 1]
            if block not in self.known.values():
                self.known.setdefault(tuple(text[:end]), block)
        self._look()

    def leaves(self, chat: str) -> None:
        """A chat gives its blocks back."""
        if chat not in self.tables:
            return
        self.ask("release", self.tables.pop(chat))
        held = self._held()
        self.known = {text: block for text, block in self.known.items() if block in held}
        self._look()

    def _held(self) -> set[int]:
        return {block for table in self.tables.values() for block in table}

    def _worth(self, chat: str, text: list[int], found: list[int]) -> None:
        """Whether what was found is the text's own, not all of it, and not too little."""
        size, n = self.size, len(found) * self.size
        if n >= len(text):
            raise Ghost(
                f"match finds all {len(text)} tokens of {spelt(text)}; expected one less at the "
                "most, since something has to be computed"
            )
        for i in range(n):
            self.reads(chat, i, self.at(found, i), tuple(text[: i + 1]), spelt)
        if not set(found) <= self._held():
            raise Ghost(f"match gives {chat} a block that is free; expected one that is held")
        least = 0
        while (end := (least + 1) * size) < len(text) and tuple(text[:end]) in self.known:
            least += 1
        if len(found) < least:
            raise Ghost(
                f"match finds {n} tokens of {spelt(text)} for {chat}; expected {least * size}, "
                "which are computed and held"
            )

    def _look(self) -> None:
        for chat, table in self.tables.items():
            for i in range(self.computed[chat]):
                self.reads(chat, i, self.at(table, i), tuple(self.texts[chat][: i + 1]), spelt)
        self.free_should_be(self.n_blocks - len(self._held()))


def shown(deed: Deed) -> str:
    """A deed in words."""
    what, chat, *how = deed
    if what == "leaves":
        return f"{chat} leaves"
    if what == "goes_on":
        return f"{how[0]} more of {chat} computed"
    part = f", {how[1]} new computed" if len(how) > 1 else ""
    return f"{chat} comes with {spelt(how[0])}{part}"


def at_random(case: Case, n: int = 24) -> list[Deed]:
    """Texts over few letters, so that they begin alike all the time."""
    rng = random.Random(case["_seed"])
    trace: list[Deed] = []
    for _ in range(n):
        chat, dice = rng.choice("ABCD"), rng.random()
        if dice < 0.3:
            trace.append(["leaves", chat])
        elif dice < 0.45:
            trace.append(["goes_on", chat, rng.randint(1, 3)])
        else:
            text = [rng.choice((1, 1, 2, 257)) for _ in range(rng.randint(1, 3 * case["size"] + 1))]
            trace.append(["comes", chat, text, *([rng.randint(1, 3)] if dice > 0.8 else [])])
    return trace


def come(*texts: str) -> list[Deed]:
    """A, B, C and so on come with these texts."""
    return [["comes", "ABCDEF"[i], ids(text)] for i, text in enumerate(texts)]


# --- what both exercises ask besides: says, the trace, and the blocks and slots of the pool ---

SUBTLE = (
    (
        "of two that computed the same, the second leaves first",
        [
            ["comes", "A", ids("aabbc"), 1], ["comes", "B", ids("aabbc"), 1], ["goes_on", "A", 9],
            ["goes_on", "B", 9], ["leaves", "B"], ["comes", "C", ids("aabba")],
        ],
        (9, 2),
    ),
    (
        "the first block of a text is gone, and a later one is still held",
        [
            ["comes", "A", ids("aabb"), 1], ["comes", "B", ids("aabbcc"), 1], ["goes_on", "A", 9],
            ["goes_on", "B", 9], ["leaves", "A"], ["comes", "C", ids("aabbcca")],
        ],
        (12, 2),
    ),
    ("all that stands before a block counts", come("abc", "cba", "cbca"), (12, 1)),
    ("the order before a block counts", come("abcca", "badda", "bacca"), (12, 2)),
    ("tokens are not their digits: a is 1, and f is 11", come("afa", "faa"), (9, 2)),
    ("tokens are not their hashes: g is 0, and h is 2**61 - 1", come("gaa", "haa"), (9, 2)),
)  # fmt: skip


def _names(pool: Any, n: int) -> range:
    return range(pool.size, n + 1, pool.size)


def _skips_gaps(self: Any, tokens: list[int]) -> list[int]:
    names = [self.named(tokens, end - self.size, end) for end in _names(self, len(tokens) - 1)]
    return [self.known[name] for name in names if name in self.known]


def _last_wins(self: Any, table: list[int], tokens: list[int]) -> None:
    for block, end in zip(table, _names(self, len(tokens)), strict=False):
        self.name[block] = self.named(tokens, end - self.size, end)
        self.known[self.name[block]] = block


def _forgets_its_own(self: Any, table: list[int]) -> None:
    for block in table:
        self.count[block] -= 1
        if self.count[block] == 0:
            self.free.append(block)
            name = self.name.pop(block, None)
            if self.known.get(name) == block:
                del self.known[name]


# Of a pool with `named(tokens, start, end)`, the name of the block of tokens[start:end].
SUBTLE_MISTAKES = {
    "a text that is known in another block is entered anew with the second one, and is not found any "
    "more when that one leaves, though the first is still held.": {
        "learn": _last_wins, "release": _forgets_its_own,
    },
    "blocks after a gap are found, too. What is found must be in a row from the beginning.": {
        "match": _skips_gaps
    },
    "a block is known by its own tokens and those of the block before it. All that stands before must "
    "be the same.": {
        "named": lambda self, tokens, start, end: tuple(tokens[max(0, 2 * start - end) : end])
    },
    "the ids are written one after the other without a mark between them: [1, 11] and [11, 1] are "
    "taken for each other.": {
        "named": lambda self, tokens, start, end: "".join(map(str, tokens[:end]))
    },
    "Python's hash of the tokens is believed. It is a number of 64 bits, and the same for the ids 0 and "
    "2**61 - 1. Compare the tokens.": {
        "named": lambda self, tokens, start, end: hash(tuple(tokens[:end]))
    },
}  # fmt: skip
