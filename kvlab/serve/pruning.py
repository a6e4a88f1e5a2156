"""Pruning where memory is in blocks: whole blocks are given back, since nothing less frees any.

L layers, G key/value heads, K blocks, Z slots of a block, D head width.

A block holds all heads and all layers of its tokens. A token that one head could do without keeps
its memory as long as another head, or another token of the block, is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor

from kvlab import checks
from kvlab.serve.blocks import BlockPool
from kvlab.serve.request import Request
from kvlab.serve.store import BlockStore

# which places of a request's table are to be given back, if any
Prune = Callable[[BlockStore, BlockPool, Request], Collection[int]]


class FewBlocks:
    """A request that is being answered holds at most `most` blocks, and gives the least valuable
    back: those of small values and large keys.

    The first `sinks` blocks and the latest one stay. So does a block that others hold: to let go of
    it would free nothing. While a prompt is read nothing is given back.
    Source: Chitty-Venkata et al. 2025, "PagedEviction", section on decoding. Differs: they prune a
    prompt token by token before it is cut into blocks.
    """

    def __init__(self, most: int, *, sinks: int = 1) -> None:
        self.sinks = checks.whole("sinks", sinks, 0)
        self.most = checks.whole("most blocks of a request", most, self.sinks + 1)

    def __call__(self, store: BlockStore, pool: BlockPool, request: Request) -> list[int]:
        """Places of the table. Nothing is changed."""
        over = len(request.table) - self.most
        if over < 1 or request.pending != 1:
            return []
        places = range(self.sinks, (request.held - 1) // store.size)
        own = [i for i in places if pool.holders(request.table[i]) == 1]
        if not own:
            return []
        worth = value_K(store, [request.table[i] for i in own]).tolist()
        return [i for _, i in sorted(zip(worth, own, strict=True))[:over]]


def value_K(store: BlockStore, blocks: list[int]) -> Tensor:
    """How much blocks are worth: the length of values over that of keys, a mean over all tokens,
    heads and layers. Shapes: (K,)."""
    lengths = []
    for store_LGND in (store.k_LGND, store.v_LGND):
        x_LGKZD = store_LGND.unflatten(2, (-1, store.size))[:, :, blocks]
        lengths.append(x_LGKZD.float().norm(dim=-1))
    k_LGKZ, v_LGKZ = lengths
    return (v_LGKZ / k_LGKZ.clamp(min=1e-12)).mean((0, 1, 3))


def give_back(pool: BlockPool, request: Request, places: Collection[int]) -> None:
    """Give the blocks at some places of a request's table back, between two steps.

    What they hold is exact, and stays known to others if it was; what the request computes from
    here on follows from less than its text, so that it is never made known. Positions go on. If its
    blocks are taken away altogether, the request is computed anew from its whole text.
    Raises: ValueError for a block that is not full; nothing is then given back.
    """
    if not places:
        return
    full = request.held // pool.size
    if not all(0 <= place < full for place in places):
        raise ValueError(
            f"Blocks {sorted(places)} of request {request.id!r} were to be given back; only the "
            f"first {full} are full."
        )
    pool.release([request.table[place] for place in sorted(places)])
    request.table = [b for i, b in enumerate(request.table) if i not in set(places)]
    request.dropped += len(places) * pool.size
