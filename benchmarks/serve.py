"""Many requests at once: what batching, blocks, shared beginnings and pieces of prompts bring.

Each gain stands beside a twin, where there is nothing to gain and nothing may be lost. All ways are
run in turn in one process; a ratio is the median of the rounds' ratios.

python -m benchmarks.serve --model pocket --out benchmarks/results/serve-pocket.json
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.common import TINY, arguments, over, random_model, record
from kvlab import Transformer, generate, load
from kvlab.fast.compiled import compiled_decode
from kvlab.measure import interleaved
from kvlab.serve.blocks import BlockPool, Prefix
from kvlab.serve.engine import Engine
from kvlab.serve.policies import chunked, prefill_first
from kvlab.serve.pruning import FewBlocks, value_K
from kvlab.serve.request import Policy, Request

Answers = list[list[int]]


@dataclass(frozen=True)
class Sizes:
    """How much is asked: tokens of a prompt, of an answer, of a shared beginning, and how often."""

    users: int = 16
    prompt: int = 24
    answer: int = 64
    beginning: int = 1900
    sharing: int = 8
    turns: int = 6


SMALL = Sizes(4, 6, 6, 40, 3, 3)
LARGE = Sizes(16, 24, 32, 1900, 4, 4)  # for a model of which each token costs seconds


@dataclass(frozen=True)
class Case:
    """Two ways to the same answers, and how many times as fast the second ought to be."""

    name: str
    bar: float
    base: Callable[[], Answers]
    ours: Callable[[], Answers]


class Forgetful(BlockPool):
    """A pool in which no beginning is ever known: what sharing costs is seen beside it."""

    def match(self, tokens, salt=""):
        return [], Prefix(0, None)

    def learn(self, table, tokens, since):
        return since


class Bench:
    """A model and texts of random tokens, the same in every run; both ways compiled, or neither."""

    def __init__(self, model: Transformer, sizes: Sizes, *, compiled: bool = False) -> None:
        self.model, self.sizes, self.rng = model, sizes, random.Random(0)
        self.compiled = compiled
        self.most = model.config.max_positions

    def tokens(self, n: int) -> list[int]:
        return [self.rng.randrange(self.model.config.vocab_size) for _ in range(n)]

    def engine(self, **how) -> Engine:
        return Engine(self.model, n_blocks=600, size=16, **{"compiled": self.compiled, **how})

    def generate(self, prompts: list[list[int]], n: int) -> Answers:
        """What the engine is beside: prompts in one batch, `n` tokens each."""
        if not self.compiled:
            return generate(self.model, prompts, n, eos=()).tolist()
        cache = self.model.new_cache(len(prompts), max(map(len, prompts)) + n)
        step = compiled_decode(self.model, cache)
        return generate(self.model, prompts, n, eos=(), cache=cache, decode=step).tolist()

    def served(self, asked: Sequence[tuple[list[int], int]], **how) -> Answers:
        """Everybody at once."""
        engine = self.engine(**how)
        requests = [engine.add(i, p, n, ends=()) for i, (p, n) in enumerate(asked)]
        engine.run()
        return [r.answer for r in requests]

    def alone(self, asked: Sequence[tuple[list[int], int]]) -> Answers:
        """One after the other."""
        return [self.generate([p], n)[0] for p, n in asked]

    def padded(self, asked: Sequence[tuple[list[int], int]], rows: int) -> Answers:
        """Batches as they come, padded to the longest prompt, until the longest answer is there."""
        found: Answers = []
        for start in range(0, len(asked), rows):
            batch = asked[start : start + rows]
            most = max(n for _, n in batch)
            rows_said = self.generate([p for p, _ in batch], most)
            found += [row[:n] for row, (_, n) in zip(rows_said, batch, strict=True)]
        return found

    def batching(self) -> list[Case]:
        size = self.sizes
        many = [(self.tokens(size.prompt), size.answer) for _ in range(size.users)]
        return [
            Case(f"{size.users} users at once, beside one after the other", 5.0,
                 lambda: self.alone(many), lambda: self.served(many)),
            Case("twin: one user", 0.98,
                 lambda: self.alone(many[:1]), lambda: self.served(many[:1])),
        ]  # fmt: skip

    def blocks(self) -> list[Case]:
        size, rows = self.sizes, self.sizes.users
        draw = self.rng
        prompts = [self.tokens(draw.randint(1, 4 * size.prompt)) for _ in range(4 * rows)]
        # most answers are short and some are long, as they are in chats
        mixed = [(p, 1 + int(6 * draw.paretovariate(1.1)) % (2 * size.answer)) for p in prompts]
        equal = [(self.tokens(size.prompt), size.answer) for _ in range(rows)]
        return [
            Case(f"{len(mixed)} users of mixed lengths, beside padded batches of {rows}", 2.0,
                 lambda: self.padded(mixed, rows), lambda: self.served(mixed, max_running=rows)),
            Case("twin: equal lengths", 0.98,
                 lambda: self.padded(equal, rows), lambda: self.served(equal, max_running=rows)),
        ]  # fmt: skip

    def sharing(self) -> list[Case]:
        size = self.sizes
        beginning = self.tokens(min(size.beginning, self.most - 40))
        alike = [([*beginning, *self.tokens(8)], 8) for _ in range(size.sharing)]
        unlike = [(self.tokens(len(beginning) // 4), 8) for _ in range(size.sharing)]
        told = f"{size.sharing} users whose prompts share {len(beginning):,} tokens"
        return [
            Case(told, 2.0,
                 lambda: self.in_turn(alike, pool=Forgetful), lambda: self.in_turn(alike)),
            Case("twin: prompts that share nothing", 0.98,
                 lambda: self.in_turn(unlike, pool=Forgetful), lambda: self.in_turn(unlike)),
            Case(f"a chat of {size.turns} turns", 1.5,
                 lambda: self.chat(pool=Forgetful), self.chat),
        ]  # fmt: skip

    def in_turn(self, asked: Sequence[tuple[list[int], int]], **how) -> Answers:
        """Each comes when the one before has its first token: then there is something known."""
        engine, requests = self.engine(**how), []
        for i, (prompt, n) in enumerate(asked):
            requests.append(engine.add(i, prompt, n, ends=()))
            while not requests[-1].answer:
                engine.step()
        engine.run()
        return [r.answer for r in requests]

    def chat(self, **how) -> Answers:
        """One conversation, in which each turn holds all of the turns before."""
        engine, said, answers = self.engine(**how), [1, 2, 3], []
        asks = random.Random(1)
        for turn in range(self.sizes.turns):
            most = self.most // (self.sizes.turns + 1)
            said += [asks.randrange(self.model.config.vocab_size) for _ in range(most - 20)]
            request = engine.add(turn, said, 16, ends=())
            engine.run()
            answers.append(request.answer)
            said = [*request.tokens]
        return answers


def first_tokens(bench: Bench, rounds: int) -> dict[str, object]:
    """Seconds to the first token of a prompt whose beginning is known, and of one that is not."""
    engine = bench.engine()
    beginning = bench.tokens(min(bench.sizes.beginning, bench.most - 40))
    engine.add("first", [*beginning, 1], 1, ends=())
    engine.run()
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for i in range(rounds):
        for name, salt in (("cold", f"nobody {i}"), ("warm", "")):
            request = engine.add((name, i), [*beginning, *bench.tokens(8)], 1, ends=(), salt=salt)
            start = time.perf_counter()
            engine.run()
            seconds[name].append(time.perf_counter() - start)
            assert (request.cached > 0) == (name == "warm")
    return {
        "name": f"time to the first token, {len(beginning):,} tokens known", "bar": 5.0,
        **over(seconds["cold"], seconds["warm"]),
    }  # fmt: skip


def gaps(bench: Bench, policy: Policy, budget: int) -> dict[str, object]:
    """The longest wait of four users between two tokens while a long prompt comes in, in units of
    their usual step."""
    engine = bench.engine(policy=policy, budget=budget)
    users = [engine.add(i, bench.tokens(8), 400, ends=()) for i in range(4)]
    long = min(bench.sizes.beginning, bench.most - 40)
    waits: list[float] = []
    came: Request | None = None
    since = time.perf_counter()
    while len(waits) < 44 or not came.finish:
        if len(waits) == 40:
            came = came or engine.add("long", bench.tokens(long), 1, ends=())
        before = len(users[0].tokens)
        engine.step()
        if len(users[0].tokens) > before:
            waits.append(time.perf_counter() - since)
            since = time.perf_counter()
    usual = statistics.median(waits[5:40])
    return {
        "name": f"longest gap as {long:,} tokens come, {policy.__name__}, steps of {budget:,}",
        "steps": "compiled" if bench.compiled else "plain",
        "gap_in_steps": round(max(waits[40:]) / usual, 1),
        "step_seconds": round(usual, 5),
    }  # fmt: skip


def freed(bench: Bench, share: float = 0.5, size: int = 16) -> dict[str, object]:
    """Of a prompt's blocks, how many become empty when a share of all tokens goes: where each head
    of each layer drops its own, where all drop the same ones, and where whole blocks go.

    Tokens are valued as blocks are, by the length of their values over that of their keys.
    """
    n_blocks = min(bench.sizes.beginning, bench.most - 40) // size
    engine = bench.engine()
    request = engine.add("one", bench.tokens(n_blocks * size), 2, ends=())
    while not request.answer:
        engine.step()
    table, store = request.table[:n_blocks], engine.store
    lengths = [
        x_LGND.unflatten(2, (-1, size))[:, :, table].norm(dim=-1).flatten(2)
        for x_LGND in (store.k_LGND, store.v_LGND)
    ]
    worth_LGT = lengths[1] / lengths[0].clamp(min=1e-12)
    n_gone = int(share * n_blocks) * size

    def empty(worth: torch.Tensor) -> int:
        gone = worth.argsort(-1).argsort(-1) < n_gone
        return int(gone.unflatten(-1, (-1, size)).all(-1).flatten(0, -2).all(0).sum())

    return {
        "name": f"blocks of {n_blocks} that are free when {share:.0%} of all tokens are dropped",
        "each_head_its_own": empty(worth_LGT),
        "all_heads_the_same": empty(worth_LGT.mean((0, 1))[None]),
        "whole_blocks": empty(value_K(store, table).repeat_interleave(size)[None]),
    }


def pruned(bench: Bench, most: int = 16) -> list[dict[str, object]]:
    """What a budget of blocks for each user does: blocks in use at most, and time."""
    size = bench.sizes
    asked = [(bench.tokens(12 * size.prompt), size.answer) for _ in range(4)]
    rows = []
    for name, prune in (
        ("all blocks kept", None),
        (f"at most {most} blocks each", FewBlocks(most)),
    ):
        engine = bench.engine(prune=prune)
        requests = [engine.add(i, p, n, ends=()) for i, (p, n) in enumerate(asked)]
        used, seconds = [], []
        while not engine.scheduler.idle:
            since = time.perf_counter()
            engine.step()
            if all(r.answer for r in requests) and not any(r.finish for r in requests):
                seconds.append(time.perf_counter() - since)
                used.append(engine.pool.counts.used)
        rows.append({
            "name": f"4 users with prompts of {len(asked[0][0])} tokens, {name}",
            "most_blocks_in_use": max(used, default=0),
            "step_seconds": round(statistics.median(seconds), 5) if seconds else None,
        })  # fmt: skip
    return rows


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--model", default="pocket", help="pocket, smollm2, a folder or a file")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = random_model(TINY) if args.tiny else load(args.model)[0]
    sizes = SMALL if args.tiny else LARGE if model.config.n_params > 2e7 else Sizes()
    bench, both, rows = Bench(model, sizes), Bench(model, sizes, compiled=True), []
    cases = [("plain", c) for c in (*bench.batching(), *bench.blocks(), *bench.sharing())]
    cases += [("compiled", c) for c in (*both.batching(), *both.blocks())]
    for steps, case in cases:
        answers: tuple[list[Answers], list[Answers]] = ([], [])
        ways = {"base": (answers[0], case.base), "ours": (answers[1], case.ours)}
        runs = {
            way: (lambda said=said, run=run: said.append(run()))
            for way, (said, run) in ways.items()
        }
        seconds = interleaved(runs, rounds=args.rounds)
        same = sum(a == b for a, b in zip(answers[0][0], answers[1][0], strict=True))
        n_tokens = sum(map(len, answers[1][0]))
        rows.append({
            "name": case.name, "steps": steps, "bar": case.bar,
            **over(seconds["base"], seconds["ours"]),
            "tokens_per_second": round(n_tokens / statistics.median(seconds["ours"]), 1),
            "same_answers": f"{same} of {len(answers[0][0])}",
        })  # fmt: skip
    rows.append(first_tokens(bench, args.rounds))
    rows += [gaps(bench, chunked, budget) for budget in (16, 24, 32, 64)]
    rows.append(gaps(bench, prefill_first, 4096))
    rows += [gaps(both, chunked, 16), gaps(both, prefill_first, 4096)]
    rows += [freed(bench), *pruned(bench)]
    record(
        "benchmarks.serve", args.out, rows, parameters=model.config.n_params, threads=args.threads
    )


if __name__ == "__main__":
    main()
