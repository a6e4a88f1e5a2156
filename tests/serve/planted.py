"""Faults of schedulers and pools that other engines shipped, each put into ours.

The numbers are those of the project's list of thirty; where a fault was found stands beside it.
Those of endpoints, tokenizers and several processes are planted in the tests of these.
"""

from __future__ import annotations

from kvlab.serve.blocks import BlockPool, Prefix
from kvlab.serve.request import Request
from kvlab.serve.scheduler import Scheduler


class KeepsItsOldName(BlockPool):
    """1. A block that is reused is still found by what was in it before (nano-vllm #163)."""

    def _forget(self, block):
        self._blocks[block].key = None


class LosesItsPlaceInTheChain(BlockPool):
    """2. What follows a block that was idle is known as if it began the text (nano-vllm,
    f64d821)."""

    def match(self, tokens, salt=""):
        found, known = super().match(tokens, salt)
        return found, Prefix(known.n_blocks, ("salt", salt) if found else known.before)


class KnownBeforeItIsComputed(Scheduler):
    """3. Blocks are found by others in the step that computes them (nano-vllm #208)."""

    def _grant(self, step, request, wish):
        super()._grant(step, request, wish)
        if request in step.n_tokens:
            text = request.tokens[: request.computed + step.n_tokens[request]]
            self.pool.learn(request.table, text, Prefix(0, ("salt", request.salt)))


class ComesBackWithItsOldCount(Scheduler):
    """4. A request whose blocks were taken goes on counting from where it was (nano-vllm PR
    #211)."""

    def _preempt(self, step, request):
        computed = request.computed
        super()._preempt(step, request)
        request.before = computed

    def _admit(self, request, n):
        ok = super()._admit(request, n)
        if ok and request.preempted:
            end = len(request.table) * self.pool.size
            request.computed = min(getattr(request, "before", 0), end, len(request.tokens) - 1)
        return ok


class FindsAllOfIt(BlockPool):
    """5. A prompt that is known to its last token leaves nothing to compute (nano-vllm #144)."""

    def match(self, tokens, salt=""):
        return super().match([*tokens, -1], salt)


class DecidesByTheAnswer(Scheduler):
    """7. Whoever has written something is taken for one who writes (nano-vllm #144)."""

    def _grant(self, step, request, wish):
        super()._grant(step, request, 1 if request.answer else wish)
        if request in step.n_tokens and request.answer and request.pending > 1:
            request.computed = len(request.tokens) - 1


class GivesBackWhatOthersHold(BlockPool):
    """8. A block of two owners is free as soon as one lets go (CS349D, milestone 4)."""

    def release(self, blocks):
        for block in reversed(blocks):
            if self._blocks[block].holders > 1:
                self._free.append(block)
        super().release(blocks)


class ComparesNoTokens(BlockPool):
    """12. A hash is believed (vLLM #8229; openvino.genai #3722). Here it is a short one."""

    def match(self, tokens, salt=""):
        return super().match(_short(tokens, self.size), salt)

    def learn(self, table, tokens, since):
        return super().learn(table, _short(tokens, self.size), since)


class CutsTokens(BlockPool):
    """13. Tokens are cut to some bits before they are compared (vllm-mlx PR #444)."""

    def match(self, tokens, salt=""):
        return super().match([t & 1 for t in tokens], salt)

    def learn(self, table, tokens, since):
        return super().learn(table, [t & 1 for t in tokens], since)


class MixesTenants(BlockPool):
    """14. What keeps two tenants apart is not in the key (vLLM #44701)."""

    def match(self, tokens, salt=""):
        return super().match(tokens, "")


class CountsTwice(Scheduler):
    """15. More tokens are found than were asked: those found again are added (sglang #25972)."""

    def _admit(self, request, n):
        before = request.cached
        ok = super()._admit(request, n)
        if ok:
            request.cached = before + request.computed
        return ok


class TakesFromOneAndGivesUp(Scheduler):
    """16. One loses its blocks, which are shared, so nothing is free and nobody goes on
    (vLLM #49674)."""

    def _preempt(self, step, request):
        if request.table and all(self.pool.holders(b) > 1 for b in request.table):
            raise ValueError("nobody is left to take blocks from")
        super()._preempt(step, request)


class TakesFromNobody(Scheduler):
    """17. Out of blocks with nobody to take them from: the same step is tried for ever (CS349D)."""

    def _make_space(self, step, request, n):
        needed = self.pool.needed(request.computed + n) - len(request.table)
        return needed < self.pool.available and super()._make_space(step, request, n)


class TheLatestIsLast(Scheduler):
    """18. Who lost its blocks goes to the end of the line, again and again (CS349D,
    milestone 3)."""

    def _preempt(self, step, request):
        super()._preempt(step, request)
        request.arrival, self._arrived = self._arrived, self._arrived + 1
        self.waiting.sort(key=lambda r: r.arrival)


class WritesWhileItReads(Scheduler):
    """19. A chunk of a prompt is followed by a token, though the prompt goes on (mini-sglang)."""

    def plan(self):
        step = super().plan()
        for request, n in step.n_tokens.items():
            if n < request.pending:
                request.tokens.append(0)
        return step


class LosesBlocksOfWhoLeaves(Scheduler):
    """21. Cancelled in the middle of a step, a request keeps its blocks for ever (vLLM #46283)."""

    def cancel(self, request: Request) -> None:
        if self._step is not None and request in self._step.n_tokens and request in self.running:
            self.running.remove(request)
            request.finish = "cancelled"
        else:
            super().cancel(request)


class GivesBackUnderItsStep(Scheduler):
    """21, the other way. Its blocks go to others while its step still writes to them."""

    def cancel(self, request: Request) -> None:
        step, self._step = self._step, None
        super().cancel(request)
        self._step = step
        if step is not None:
            step.n_tokens.pop(request, None)


class WritesWhereOthersRead(BlockPool):
    """A forked request writes into the block that it shares, and nothing is copied."""

    def own(self, table, index):
        return None


class CopiesNothing(Scheduler):
    """A forked request gets a block of its own, and what was in the shared one is not copied."""

    def plan(self):
        step = super().plan()
        step.copies.clear()
        return step


class ForgetsTheBeginningFirst(BlockPool):
    """The beginning of a text is evicted before its end, which nobody can find after that."""

    def release(self, blocks):
        super().release(list(reversed(blocks)))


class Overbooks(Scheduler):
    """A request comes in with blocks for its first piece, and loses them as it reads on."""

    def _admit(self, request, n):
        whole, request.tokens = request.tokens, request.tokens[: max(n, 1)]
        running, self.running = self.running, []
        try:
            ok = super()._admit(request, len(request.tokens))
        finally:
            request.tokens = whole
        self.running = sorted([*running, *self.running], key=lambda r: r.arrival)
        return ok

    def _grant(self, step, request, wish):
        came = request in self.waiting
        super()._grant(step, request, wish)
        if came and request in step.n_tokens:
            space = len(request.table) * self.pool.size - request.computed
            step.n_tokens[request] = min(step.n_tokens[request], space)


class Overtakes(Scheduler):
    """A small request comes in where a large one was turned away, and the next one too."""

    def _grant(self, step, request, wish):
        step.full = False
        super()._grant(step, request, wish)


def _short(tokens, size):
    """Each block by a sum of its tokens, twice as coarse as it should be."""
    whole = len(tokens) // size * size
    blocks = [tokens[i : i + size] for i in range(0, whole, size)]
    short = [[sum(block) // 2] * size for block in blocks]
    return [t for block in short for t in block] + list(tokens[whole:])


POOLS = [
    KeepsItsOldName, LosesItsPlaceInTheChain, FindsAllOfIt, GivesBackWhatOthersHold,
    ComparesNoTokens, CutsTokens, MixesTenants, WritesWhereOthersRead,
]  # fmt: skip
SCHEDULERS = [
    KnownBeforeItIsComputed, ComesBackWithItsOldCount, DecidesByTheAnswer, CountsTwice,
    TakesFromOneAndGivesUp, TakesFromNobody, TheLatestIsLast, WritesWhileItReads,
    LosesBlocksOfWhoLeaves, GivesBackUnderItsStep, CopiesNothing, Overtakes,
]  # fmt: skip
