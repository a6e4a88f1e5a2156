"""Blocks: the memory of a cache cut into pieces that requests take, share and give back. No tensor.

A block holds the keys and values of `size` tokens that follow each other in one text. A request's
table lists its blocks in the order of its text. Requests whose texts begin alike may hold the same
blocks: what a block says is fixed by its own tokens and all tokens before them.

At any time a block is one of three things. It is *used* while a table holds it. It is *evictable*
when no table does but its content is known, so that a text that begins alike can have it back. Else
it is *free*. A user who sees few free blocks therefore sees no leak: the three always add up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kvlab import checks

# What a block is known by: what stands before it, and its own tokens. Compared, not only hashed,
# and what stands before it is another block's number in the order of learning, which is never
# given twice. So two blocks of one key hold one text, without any chance.
Key = tuple[Hashable, tuple[int, ...]]


class Counts(NamedTuple):
    """How many blocks are what. The sum is the size of the pool."""

    used: int
    evictable: int
    free: int


class Prefix(NamedTuple):
    """How many blocks at the beginning of a text are known, and what the next one follows."""

    n_blocks: int
    before: Hashable


@dataclass
class _Block:
    holders: int = 0  # tables that list it
    key: Key | None = None  # what is known to be in it
    serial: int = 0  # which block that was learned this is; what follows it is known by that


class BlockPool:
    """All blocks of a cache, each of `size` tokens."""

    def __init__(self, n_blocks: int, size: int) -> None:
        self.n_blocks = checks.whole("n_blocks", n_blocks)
        self.size = checks.whole("size of a block", size)
        self._blocks = [_Block() for _ in range(n_blocks)]
        self._free = list(range(n_blocks))[::-1]
        self._evictable: OrderedDict[int, None] = OrderedDict()  # what was idle longest comes first
        self._known: dict[Key, int] = {}
        self._learned = 0

    @property
    def counts(self) -> Counts:
        """Used, evictable and free blocks."""
        return Counts(self.n_blocks - self.available, len(self._evictable), len(self._free))

    @property
    def available(self) -> int:
        """Blocks that can be taken: free ones, and evictable ones, whose content is then lost."""
        return len(self._free) + len(self._evictable)

    def needed(self, n_tokens: int) -> int:
        """Blocks for so many tokens."""
        return -(-n_tokens // self.size)

    def holders(self, block: int) -> int:
        """How many tables list a block."""
        return self._blocks[block].holders

    def take(self, n: int) -> list[int]:
        """Give out blocks to be written, free ones first, then what was idle for longest.

        Raises: ValueError when there are not so many; none is then taken.
        """
        if n > self.available:
            raise ValueError(
                f"{n} blocks were asked for; {self.available} of {self.n_blocks} are not in use."
            )
        taken = []
        for _ in range(n):
            if self._free:
                block = self._free.pop()
            else:
                block, _ = self._evictable.popitem(last=False)
                self._forget(block)
            self._blocks[block].holders = 1
            taken.append(block)
        return taken

    def hold(self, blocks: Iterable[int]) -> None:
        """Let one more table list these blocks, as they are."""
        for block in blocks:
            self._evictable.pop(block, None)
            self._blocks[block].holders += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Take a table's blocks back.

        The end of a text becomes evictable before its beginning, which other texts may share.
        Raises: ValueError for a block that no table holds; what came before it is given back.
        """
        for block in reversed(blocks):
            held = self._blocks[block]
            if held.holders < 1:
                raise ValueError(f"Block {block} was given back, but no table holds it.")
            held.holders -= 1
            if held.holders == 0 and held.key is not None:
                self._evictable[block] = None
            elif held.holders == 0:
                self._free.append(block)

    def match(self, tokens: Sequence[int], salt: Hashable = "") -> tuple[list[int], Prefix]:
        """The known blocks that a text begins with, and never all of the text.

        One token is always left to be computed, since something has to give the next logits.
        Texts of different `salt` share nothing, whatever they say: tenants, or adapters.
        """
        found, before = [], _root(salt)
        for start in range(0, len(tokens) - self.size, self.size):
            block = self._known.get((before, tuple(tokens[start : start + self.size])))
            if block is None:
                break
            found.append(block)
            before = self._blocks[block].serial
        return found, Prefix(len(found), before)

    def learn(self, table: Sequence[int], tokens: Sequence[int], since: Prefix) -> Prefix:
        """Note what a table's full blocks hold; their keys and values must have been computed.

        `since` says how far that was done, and what is returned says it anew. Where an equal text
        is known in another block, that one stays known and ours is a copy that nobody finds: tables
        never change, for a step under way may be reading them.
        """
        n_known, before = since
        while (n_known + 1) * self.size <= len(tokens):
            own = tuple(tokens[n_known * self.size : (n_known + 1) * self.size])
            block = self._blocks[self._known.setdefault((before, own), table[n_known])]
            if block.key is None:
                self._learned += 1
                block.key, block.serial = (before, own), self._learned
            n_known, before = n_known + 1, block.serial
        return Prefix(n_known, before)

    def own(self, table: list[int], index: int) -> tuple[int, int] | None:
        """Let a table's block be written: where others hold it too, a new one takes its place.

        Returns (from, to), of which the content must be copied before anything is written, or None.
        Raises: ValueError when a block is needed and there is none.
        """
        block = table[index]
        if self._blocks[block].holders == 1:
            return None
        (table[index],) = self.take(1)
        self.release([block])
        return block, table[index]

    def _forget(self, block: int) -> None:
        held = self._blocks[block]
        if held.key is not None:
            del self._known[held.key]
        held.key, held.serial = None, 0


def _root(salt: Hashable) -> Hashable:
    """What stands before a text's first block. No number, so that it is no block's."""
    return ("salt", salt)
