"""One model that answers many requests: each step computes some tokens of some of them.

B requests that get their next token, S new tokens of all requests, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from kvlab import checks
from kvlab.kernels import ONE_THREAD_BYTES, numba_threads
from kvlab.model import Transformer
from kvlab.sampling import Pick, greedy
from kvlab.serve.blocks import BlockPool
from kvlab.serve.compiled import CompiledSteps
from kvlab.serve.paged import StepCache
from kvlab.serve.policies import chunked
from kvlab.serve.pruning import Prune, give_back
from kvlab.serve.request import Policy, Request, Step
from kvlab.serve.scheduler import Scheduler
from kvlab.serve.store import BlockStore, Part


class Engine:
    """A model, blocks for its cache, and a scheduler.

    `n_blocks` blocks of `size` tokens are taken at once and shared by all. In a step at most
    `budget` tokens of at most `max_running` requests are computed, in an order that `policy` says.
    `pool` makes what gives out the blocks, from their number and size.
    `prune` says after each step which blocks a request gives back, as `pruning.FewBlocks` does.
    With `compiled`, steps of nothing but single tokens run compiled, on a CPU: the same up to
    rounding, and sooner.

    Raises: ValueError for another model, and where `compiled` cannot be.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        n_blocks: int,
        size: int = 16,
        policy: Policy = chunked,
        budget: int = 512,
        max_running: int = 64,
        pool: Callable[[int, int], BlockPool] = BlockPool,
        prune: Prune | None = None,
        compiled: bool = False,
    ) -> None:
        checks.model("model", model)
        config = model.config
        self.model, self.pool = model, pool(n_blocks, size)
        self.scheduler = Scheduler(self.pool, policy, budget=budget, max_running=max_running)
        self.store = BlockStore(
            config.n_layers, config.n_kv_heads, n_blocks, size, config.head_dim,
            dtype=model.dtype, device=model.device,
        )  # fmt: skip
        self.prune = prune
        self.compiled = CompiledSteps(model, self.store) if compiled else None
        self.latest: dict[Request, int] = {}  # how many tokens of each were in the latest step
        self._pick: dict[Request, Pick] = {}
        small = sum(w.nbytes for w in model.parameters()) < ONE_THREAD_BYTES
        self._threads = 1 if small else None  # of the kernel that reads blocks; None: as torch
        self._copies: list[tuple[int, int]] = []  # of blocks, that a step which failed left undone

    def add(
        self,
        id: Hashable,
        prompt: Sequence[int],
        max_new: int,
        *,
        pick: Pick = greedy,
        ends: Collection[int] | None = None,
        deadline: float = float("inf"),
        salt: Hashable = "",
    ) -> Request:
        """Let a request wait for its turn. `pick` is its own: a `Sampler` draws by its own seed,
        whoever else is served. `ends` are the model's unless given.

        Raises: ValueError for tokens that are none of the model's, for more than it reads, and for
        all that `Request` and `Scheduler.add` refuse.
        """
        known, most = self.model.config.vocab_size, self.model.config.max_positions
        ends = self.model.config.eos_ids if ends is None else ends
        request = Request(id, prompt, max_new, ends, deadline, salt)
        if len(request.prompt) + max_new - 1 > most:
            raise ValueError(
                f"Request {id!r} has {len(request.prompt)} tokens and asks for {max_new}; the "
                f"model reads at most {most} positions."
            )
        if max(request.prompt) >= known:
            raise ValueError(
                f"Request {id!r} has the token {max(request.prompt)}; the model's are 0 to "
                f"{known - 1}."
            )
        self.scheduler.add(request)
        self._pick[request] = pick
        return request

    def fork(self, request: Request, id: Hashable, *, pick: Pick = greedy) -> Request:
        """A second answer to a request's prompt, from what is written of the first one on.

        Raises: ValueError for a request that is not being served, or an id that is.
        """
        twin = self.scheduler.fork(request, id)
        self._pick[twin] = pick
        return twin

    def cancel(self, request: Request) -> None:
        """End a request, whatever it is doing."""
        self.scheduler.cancel(request)
        self._forget([request])

    @torch.inference_mode()
    def step(self) -> list[tuple[Request, int]]:
        """Compute one step and return the tokens that were written, each with its request.

        What fails on the way leaves every request as it was before the step.
        """
        plan = self.scheduler.plan()
        self.latest = plan.n_tokens
        try:
            self._copies += plan.copies
            self.store.copy(self._copies)
            self._copies.clear()
            self.store.clear(self._begun(plan))
            written = plan.written
            logits_BV = self._logits(plan) if plan.n_tokens else None
            tokens = self._next(written, logits_BV) if written else {}
        except BaseException:
            self._forget(self.scheduler.abandon())
            raise
        self._forget(self.scheduler.commit(tokens))
        if self.prune is not None:
            for request in self.latest:
                give_back(self.pool, request, self.prune(self.store, self.pool, request))
        return [(r, t) for r, t in tokens.items() if t is not None and r.finish != "cancelled"]

    def run(self) -> None:
        """Serve until nobody is left."""
        while not self.scheduler.idle:
            self.step()

    def _logits(self, plan: Step) -> Tensor:
        """The logits after the last token of each request in `plan.written`. Shapes: (B, V)."""
        tokens, parts, last, at = [], [], [], 0
        written = set(plan.written)
        for request, n in plan.n_tokens.items():
            tokens += request.tokens[request.computed : request.computed + n]
            parts.append(Part(request.table, request.held, n, request.dropped))
            at += n
            if request in written:
                last.append(at - 1)
        if self.compiled is not None and at == len(parts):
            logits_BV = self.compiled(tokens, parts)
            return logits_BV if len(last) == at else logits_BV[last]
        cache = StepCache(self.store, parts)
        tokens_1S = torch.tensor([tokens], device=self.model.device)
        threads = self._threads or torch.get_num_threads()
        with numba_threads(threads) if self.store.unread is None else nullcontext():
            x_SC = self.model.hidden(tokens_1S, cache.pos_1S, cache)[0]
        return self.model.head(x_SC if len(last) == at else x_SC[last])

    def _begun(self, plan: Step) -> list[int]:
        """Blocks of which the first token is computed in this step."""
        size, found = self.pool.size, []
        for request, n in plan.n_tokens.items():
            first, stop = -(-request.held // size), -(-(request.held + n) // size)
            found += request.table[first:stop]
        return found

    def _next(self, written: Sequence[Request], logits_BV: Tensor) -> dict[Request, int | None]:
        """Each one's next token by its own choice, None where that failed: of others, nothing."""
        most_B, best_B = logits_BV.max(-1)  # NaN where there is one
        sound, best = (~most_B.isnan()).tolist(), best_B.tolist()
        chosen: dict[Request, int | None] = {}
        for i, request in enumerate(written):
            pick = self._pick[request]
            chosen[request] = (
                best[i]
                if pick is greedy and sound[i]
                else self._picked(request, logits_BV[i : i + 1])
            )
        return chosen

    def _picked(self, request: Request, logits_1V: Tensor) -> int | None:
        try:
            return int(self._pick[request](logits_1V))
        except Exception as error:
            request.error = f"{type(error).__name__}: {error}"
            return None

    def _forget(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.finish is not None and not request.table:
                self._pick.pop(request, None)
