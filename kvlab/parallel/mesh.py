"""The processes that hold one model, and what they say to each other.

`tp` processes share each layer, and `pp` such rows stand one after the other: process r is number
r % tp of row r // tp, which is called its stage. All that is exchanged goes through this class,
which counts it; below it is torch.distributed and nothing else: gloo on CPUs, NCCL on GPUs.

B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from kvlab import checks
from kvlab.sampling import Pick


class Unanswered(ConnectionError):
    """Another process of the mesh does not answer, as when it ended."""


class Messages(NamedTuple):
    """How many were exchanged, and bytes of the tensors that this process gave to them."""

    n: int = 0
    bytes: int = 0


class Mesh:
    """This process among the `tp` x `pp` that hold one model.

    `exchanged` counts by kind: "sum" (added up over the processes of a stage), "gather" (put
    together over them), "send" (to the next stage; the sender counts) and "tell" (a token, to
    all). Where more processes were started, each `tp` x `pp` of them are a mesh of their own.
    Raises: ValueError when the processes that there are do not fill such meshes.
    """

    def __init__(self, tp: int = 1, pp: int = 1) -> None:
        self.tp, self.pp = checks.whole("tp", tp), checks.whole("pp", pp)
        self.size = tp * pp
        there, here = (dist.get_world_size(), dist.get_rank()) if _started() else (1, 0)
        if there % self.size:
            raise ValueError(
                f"tp = {tp} and pp = {pp} need {self.size} processes, and {there} were started. "
                "Start them with kvlab.parallel.start, or with torchrun --nproc-per-node."
            )
        self.rank = here % self.size
        self.stage, self.tp_rank = divmod(self.rank, tp)
        self.exchanged: dict[str, Messages] = {}
        self._first = here - self.rank
        self._sent: list[tuple[dist.Work, Tensor]] = []
        # every process has to take part in the making of every group
        for first in range(0, there if _started() else 0, self.size):
            every = dist.new_group(range(first, first + self.size))
            rows = [dist.new_group(range(r, r + tp)) for r in range(first, first + self.size, tp)]
            if first == self._first:
                self._all, self._row = every, rows[self.stage]

    def __repr__(self) -> str:
        return f"Mesh(tp={self.tp}, pp={self.pp}: process {self.rank} of {self.size})"

    @property
    def is_first(self) -> bool:
        """Whether this process is of the stage that tokens come into."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether this process is of the stage that logits come from."""
        return self.stage == self.pp - 1

    @property
    def picks(self) -> bool:
        """Whether it is this process that chooses tokens: the first one that has logits."""
        return self.rank == self.size - self.tp

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the processes of this stage, in place."""
        if self.tp > 1:
            x = x.contiguous()
            with self._exchanging("sum", x):
                dist.all_reduce(x, group=self._row)
        return x

    def gather(self, x: Tensor) -> list[Tensor]:
        """What each process of this stage has, in their order; all must be of one shape."""
        if self.tp == 1:
            return [x]
        x = x.contiguous()
        every = [torch.empty_like(x) for _ in range(self.tp)]
        with self._exchanging("gather", x):
            dist.all_gather(every, x, group=self._row)
        return every

    def send(self, x: Tensor) -> None:
        """Hand a tensor to the next stage; this process goes on meanwhile."""
        x = x.contiguous()
        with self._exchanging("send", x):
            still = [(work, kept) for work, kept in self._sent if not work.is_completed()]
            target = self._first + self.rank + self.tp
            self._sent = [*still, (dist.isend(x, target), x)]

    def receive(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """What the stage before sent, which must be of this shape and of the type of `like`."""
        x = torch.empty(shape, dtype=like.dtype, device=like.device)
        with self._exchanging(None, x):
            dist.recv(x, self._first + self.rank - self.tp)
        return x

    def tell(self, pick: Pick, logits_BV: Tensor) -> tuple[Tensor, dist.Work | None]:
        """Tokens that one process picks and tells all; they have arrived when `wait` returns.

        Nobody else calls `pick`, so that different seeds and different last bits cannot let
        processes write different texts. Shapes: token_B.
        """
        if self.picks:
            token_B = pick(logits_BV)
        else:
            token_B = torch.empty(len(logits_BV), dtype=torch.int64, device=logits_BV.device)
        if self.size == 1:
            return token_B, None
        token_B = token_B.contiguous()
        with self._exchanging("tell", token_B):
            source = self._first + self.size - self.tp
            return token_B, dist.broadcast(token_B, source, group=self._all, async_op=True)

    def wait(self, work: dist.Work | None) -> None:
        """Wait until what was told has arrived."""
        if work is not None:
            with self._exchanging(None, None):
                work.wait()

    def same(self, pick: Pick) -> Pick:
        """A `pick` for `generate` and `stream`, by which all processes choose the same tokens."""

        def picked(logits_BV: Tensor) -> Tensor:
            token_B, work = self.tell(pick, logits_BV)
            self.wait(work)
            return token_B

        return picked

    @contextmanager
    def _exchanging(self, kind: str | None, x: Tensor | None) -> Iterator[None]:
        """Count what is exchanged in a block, and say in a sentence that nobody answers."""
        if kind is not None:
            n, so_far = self.exchanged.get(kind, Messages())
            self.exchanged[kind] = Messages(n + 1, so_far + x.nbytes)
        try:
            yield
        except RuntimeError as error:
            said = " ".join(str(error).split())[:200]
            raise Unanswered(
                f"Process {self.rank} of {self.size} could not reach another one, which probably "
                f"has ended ({said})."
            ) from None


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()
