"""8.4: texts that begin alike hold the same blocks, which are counted.

Long because shared blocks go wrong in many ways, and each of them is named.
"""

from __future__ import annotations

from kvlab.course.author import Exercise
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

Q = Exercise(
    "8.4",
    "Share what begins alike",
    "SharingPool",
    points=7,
    minutes=45,
    difficulty=5,
    statement="""
Two chats whose texts begin with the same tokens have the same keys and values there, and can hold the same blocks (chapter 8, "Texts that begin alike"). Below stands a pool that gives out blocks; tables are kept by whoever uses it, and a text is a list of ids. Four methods are missing. A chat comes like this:
`found = pool.match(tokens)`, `pool.hold(found)`, `table = found + pool.take(...)` for the rest. Its tokens are computed, at once or in pieces, and after each piece `pool.learn(table, tokens[:n])` says that the first n are there. When it leaves, `pool.release(table)`.

- `hold(blocks)`: one more table lists each of these blocks.
- `release(table)`: the table does not list its blocks any longer. A block is free again when no table lists it, not before, and then nothing is known of it any more: it is never found again by what was in it.
- `learn(table, tokens)`: the full blocks of these tokens can be found from now on. The last block is not, while it is not full; its rest may belong to other texts. Where an equal beginning is known in another block, that block stays the one that is found, for as long as it is held.
- `match(tokens)` returns the blocks, in order, whose keys and values this text can use: blocks that were learned with **exactly** these tokens in them and exactly these tokens before them. It finds as many as there are in a row from the beginning, but never all of the text: at least one token is left over, since something has to be computed for the next token to come from.

Nothing may rest on chance: two beginnings that differ are never taken for each other, whatever their hashes say. About 20 lines. With blocks of 2 slots, after a chat with `[5, 6, 7, 8, 9]` was computed, a chat with `[5, 6, 7, 8]` finds one block, and one with `[7, 8, 9]` none. The judge is a ghost store: each slot remembers
of which text it holds the last token, and whoever reads must find its own. In its stories a letter is a token.
""",
    hints=(
        "What exactly must two texts have in common so that the third block of one is right for the other? And at which moment does a block stop being what its name says?",
        "Keep a dict from a name to a block and one from a block to its name. The name of a block can be the tuple of all tokens of the text up to the block's end: tuples are compared token by token. learn enters the full blocks, match walks over them until one is missing, and the block's name goes when its count comes to 0.",
        "__init__: self.known, self.name = {}, {}. match: found = []; for end in range(self.size, len(tokens), self.size): stop if tuple(tokens[:end]) is not in self.known, else append. learn: for i, end in enumerate(range(self.size, len(tokens) + 1, self.size)): name = tuple(tokens[:end]); if name not in "
        "self.known: self.known[name], self.name[table[i]] = table[i], name. release: for each block count down; at 0 append it to self.free and, if it is in self.name, del self.known[self.name.pop(block)].",
    ),
    cases=drawn,
)


@Q.solution
class SharingPool:
    """Blocks that several tables may list."""

    def __init__(self, n_blocks, size):
        self.size = size
        self.free = list(range(n_blocks))
        self.count = [0] * n_blocks  # how many tables list a block
        ### BEGIN SOLUTION
        self.known, self.name = {}, {}
        ### END SOLUTION

    def n_free(self):
        return len(self.free)

    def take(self, n):
        if n > len(self.free):
            raise ValueError(f"{n} blocks were asked for, {len(self.free)} are free")
        blocks = [self.free.pop() for _ in range(n)]
        for block in blocks:
            self.count[block] = 1
        return blocks

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


@Q.also_right
class TreeOfBlocks:
    """A tree: below each block those that may follow it, by their tokens."""

    def __init__(self, n_blocks, size):
        self.width = size
        self.users = dict.fromkeys(range(n_blocks), 0)
        self.root, self.nodes = {}, {}

    def n_free(self):
        return sum(n == 0 for n in self.users.values())

    def take(self, n):
        idle = [block for block, users in self.users.items() if users == 0][:n]
        if len(idle) < n:
            raise ValueError("full")
        self.hold(idle)
        return idle

    def hold(self, blocks):
        for block in blocks:
            self.users[block] = self.users[block] + 1

    def release(self, table):
        for block in reversed(table):
            self.users[block] = self.users[block] - 1
            if self.users[block] == 0 and block in self.nodes:
                siblings, own, _ = self.nodes.pop(block)
                siblings.pop(own)

    def learn(self, table, tokens):
        here = self.root
        for i in range(len(tokens) // self.width):
            own = tuple(tokens[i * self.width : (i + 1) * self.width])
            if own not in here:
                if table[i] in self.nodes:
                    return
                here[own] = table[i]
                self.nodes[table[i]] = (here, own, {})
            here = self.nodes[here[own]][2]

    def match(self, tokens):
        here, path, rest = self.root, [], list(tokens)
        while len(rest) > self.width and tuple(rest[: self.width]) in here:
            path.append(here[tuple(rest[: self.width])])
            here, rest = self.nodes[path[-1]][2], rest[self.width :]
        return path


# --- laws: stories that are played before the ghost ---


def _law(says, trace, blocks=None):
    story(Q, says, Sharing, shown, trace, blocks)


TWO = lambda case: (case["n_blocks"] + 2, 2)  # noqa: E731
FIVE = lambda case: (5, 2)  # noqa: E731

_law("chats that have nothing in common", lambda case: [
    *come("aabb", "bbaa"), ["leaves", "A"], ["comes", "C", ids("cc")],
], TWO)  # fmt: skip
_law("a text that begins like another holds its blocks", lambda case: come("aabbc", "aabbab"), TWO)
_law("equal tokens after another beginning are not the same", lambda case: come(
    "aabbc", "ccabb", "bbc", "aaabc"
), lambda case: (14, 2))  # fmt: skip
_law("a block that is not full is not found, and is found when it is", lambda case: [
    *come("aab", "aabb"), ["leaves", "A"], ["leaves", "B"], ["comes", "A", ids("aabba"), 3],
    ["comes", "C", ids("aabba")],
], TWO)  # fmt: skip
_law("never all of a text is found", lambda case: come("aabb", "aabb", "aa", "a"), TWO)
_law("a block is not found before it is computed", lambda case: [
    ["comes", "A", ids("aabbcc"), 1], ["comes", "B", ids("aabbcc"), 2], ["goes_on", "A", 3],
    ["comes", "C", ids("aabbc")], ["goes_on", "A", 9], ["goes_on", "B", 9],
], lambda case: (9, 2))  # fmt: skip
_law("a block is free when the last one lets go", lambda case: [
    *come("aabb", "aabc"), ["leaves", "A"], ["comes", "C", ids("ccccc")], ["leaves", "B"],
    ["comes", "D", ids("bbbb")],
], FIVE)  # fmt: skip
_law("what is free is not found by what was in it", lambda case: [
    ["comes", "A", ids("aabbc")], ["leaves", "A"], ["comes", "B", ids("ccbbaacca")],
    ["leaves", "B"], ["comes", "C", ids("aabbc")], ["leaves", "C"], ["comes", "D", ids("ccbba")],
], FIVE)  # fmt: skip
_law("what is refused loses nothing", lambda case: [
    *come("aabbc", "aacccccc"), ["comes", "C", ids("aabbaaaa")], ["leaves", "A"],
    ["comes", "C", ids("aabb")], ["leaves", "B"], ["leaves", "C"], ["comes", "D", ids("bbbbbbbbbb")],
], FIVE)  # fmt: skip
_law("tokens are compared whole", lambda case: come("aab", "dda", "ada", "abb", "bab"),
     lambda case: (12, 2))  # fmt: skip
_law("the same text computed twice at a time", lambda case: [
    ["comes", "A", ids("aabbc"), 1], ["comes", "B", ids("aabbc"), 1], ["goes_on", "A", 9],
    ["goes_on", "B", 9], ["comes", "C", ids("aabba")], ["leaves", "A"], ["leaves", "C"],
    ["comes", "D", ids("cccc")], ["comes", "E", ids("aabba")], ["leaves", "B"],
    ["comes", "F", ids("aabba")],
], lambda case: (9, 2))  # fmt: skip
_law("blocks of one token", lambda case: come("abc", "abd", "b", "abc"), lambda case: (9, 1))
_law("many deeds at random", at_random)
_law("many deeds at random, in small blocks", at_random, lambda case: (7, 2))
for says, trace, blocks in SUBTLE:
    _law(says, lambda case, trace=trace: trace, lambda case, blocks=blocks: blocks)
beside(Q, Sharing, shown, at_random)


# --- what goes wrong: each changes one thing of this ---


class _Pool(SharingPool):
    shortest = 1  # tokens that are left over

    def named(self, tokens, start, end):
        return tuple(tokens[:end])

    def names(self, tokens, stop):
        return [
            self.named(tokens, end - self.size, end)
            for end in range(self.size, stop + 1, self.size)
        ]

    def learn(self, table, tokens):
        for block, name in zip(table, self.names(tokens, len(tokens)), strict=False):
            if name not in self.known and block not in self.name:
                self.known[name], self.name[block] = block, name

    def match(self, tokens):
        found = []
        for name in self.names(tokens, len(tokens) - self.shortest):
            if name not in self.known:
                break
            found.append(self.known[name])
        return found

    def let_go(self, block):
        self.free.append(block)
        if block in self.name:
            self.known.pop(self.name.pop(block), None)

    def release(self, table):
        for block in table:
            self.count[block] -= 1
            if self.count[block] == 0:
                self.let_go(block)


def _short_hash(self, tokens, start, end):
    name = 0
    for token in tokens[:end]:
        name = (31 * name + token) % 7
    return end, name


def _frees_at_once(self, table):
    for block in table:
        self.count[block] -= 1
        if self.count[block] == 0 and block in self.name:
            self.known.pop(self.name.pop(block), None)
        if block not in self.free:
            self.free.append(block)


def _learns_all(self, table, tokens):
    text = [*tokens, *[None] * (-len(tokens) % self.size)]
    for i, block in enumerate(table[: len(text) // self.size]):
        self.known.setdefault(tuple(tokens[: (i + 1) * self.size]), block)
        self.name.setdefault(block, tuple(tokens[: (i + 1) * self.size]))


def _matches_partly(self, tokens):
    found = _Pool.match(self, tokens)
    end = (len(found) + 1) * self.size
    for name, block in self.known.items():
        if len(name) == end and end <= len(tokens) and name[: end - 1] == tuple(tokens[: end - 1]):
            return [*found, block] if len(tokens) > end else found
    return found


def _last_wins(self, table, tokens):
    for block, name in zip(table, self.names(tokens, len(tokens)), strict=False):
        self.known[name], self.name[block] = block, name


def _only_the_first(self, tokens):
    return _Pool.match(self, tokens)[:1]


def _found_blocks_are_the_whole(self, table):
    for block in table:
        self.count[block] -= 1
        if self.count[block] <= 1:
            self.let_go(block)


Q.mistakes(
    _Pool,
    SUBTLE_MISTAKES
    | {
        "a block is known by its own tokens alone. After another beginning the same tokens have other "
        "keys: all that stands before must be the same.": {
            "named": lambda self, tokens, start, end: tuple(tokens[start:end])
        },
        "a block is known by its own tokens and its place. What stands before it must be the same as well.": {
            "named": lambda self, tokens, start, end: (start, *tokens[start:end])
        },
        "a hash is believed: two texts of one hash are taken for each other (vLLM #8229). Compare the "
        "tokens.": {"named": _short_hash},
        "tokens are cut to 8 bits before they are compared, and there are more than 256 of them (vllm-mlx, "
        "pull request 444).": {
            "named": lambda self, tokens, start, end: tuple(t & 255 for t in tokens[:end])
        },
        "the order of the tokens is lost: texts of the same words are taken for each other.": {
            "named": lambda self, tokens, start, end: tuple(sorted(tokens[:end]))
        },
        "a text that is known to its last token is found whole, and nothing is left to compute (nano-vllm "
        "#144).": {"shortest": 0},
        "two tokens are left over where one is enough.": {"shortest": 2},
        "a block is free as soon as one of those who list it lets go, and two chats write into it "
        "(CS349D, milestone 4).": {"release": _frees_at_once},
        "a block that is free keeps its name, and is found by it when somebody else has filled it (nano-vllm "
        "#163).": {"let_go": lambda self, block: self.free.append(block)},
        "the name of a block is forgotten, but not the block of that name, so it is found by it when "
        "somebody else has filled it.": {
            "let_go": lambda self, block: (self.free.append(block), self.name.pop(block, None))
        },
        "the block that is not full is learned as well, and is found by who goes on otherwise.": {
            "learn": _learns_all
        },
        "a block is found that differs in its last token.": {"match": _matches_partly},
        "one block is found at most. Go on until one is missing.": {"match": _only_the_first},
        "hold counts nothing, so that a shared block is free too early.": {
            "hold": lambda self, blocks: None
        },
        "a block whose count comes to 1 is freed. One table still lists it.": {
            "release": _found_blocks_are_the_whole
        },
        "nothing is ever freed: counts come down, and the block stays.": {
            "let_go": lambda self, block: None
        },
        "nothing is learned.": {"learn": lambda self, table, tokens: None},
        "a text that is known already in another block is entered anew, and the name goes with whichever of "
        "the two leaves first.": {"learn": _last_wins},
    },
)
