"""The same requests under each policy: what is served in time, at which load.

Limits are told in decode steps of this model on this machine, so that they mean the same on a slow
one: a token every 5 steps is strict, every 25 relaxed. Loads are told as shares of what the engine
does when everybody is there at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from kvlab import checks
from kvlab.measure import machine
from kvlab.model import Transformer
from kvlab.serve.engine import Engine
from kvlab.serve.policies import POLICIES
from kvlab.serve.workload import Arrival, Log, bursts, poisson, serve

STRICT, RELAXED = 5, 25  # decode steps between two tokens; Agrawal et al. 2024, table 3
FIRST = 10  # the first token may take so many times as long as one gap
WHOLE = ("prefill_first", "decode_first")
AT_ONCE = 1e6  # requests a second: everybody is there before the first step ends
PROMPT, ANSWER = (8, 64), (4, 48)  # tokens, at least and at most, of the short ones
ARRIVALS = {"poisson": poisson, "bursts": bursts}


def compare(
    model: Transformer,
    *,
    policies: Sequence[str] = tuple(POLICIES),
    loads: Sequence[float] = (0.5, 0.8, 1.1),
    requests: int = 48,
    arrivals: str = "poisson",
    n_blocks: int = 256,
    size: int = 16,
    budget: int = 64,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, Any], dict[tuple[str, float], Log]]:
    """Serve the same requests by each policy at each load; a report, and the logs behind it.

    Policies that read prompts whole get a budget that holds the longest. One prompt in eight is
    long, a quarter of what the model reads if the blocks hold it. `clock` times the steps.
    Raises: ValueError for a policy, a way to arrive, a load or a size that cannot be.
    """
    _check(policies, loads, arrivals, requests)

    def run(policy: str, rate: float, n: int = requests) -> Log:
        most = model.config.max_positions if policy in WHOLE else budget
        how = {"policy": POLICIES[policy], "budget": most, "max_running": 16}
        engine = Engine(model, n_blocks=n_blocks, size=size, **how)
        return serve(engine, _work(engine, arrivals, rate, requests, seed)[:n], clock=clock)

    run("chunked", AT_ONCE, 8)  # whatever is slow only once
    at_once = run("chunked", AT_ONCE)
    capacity = requests / at_once.seconds
    step = statistics.median(s.seconds for s in at_once.steps if set(s.n_tokens.values()) == {1})
    logs = {(name, load): run(name, load * capacity) for name in policies for load in loads}
    report = {
        "machine": machine(), "parameters": model.config.n_params, "requests": requests,
        "arrivals": arrivals, "budget": budget, "blocks": n_blocks, "block_size": size,
        "decode_step_seconds": round(step, 6), "requests_per_second_at_once": round(capacity, 3),
        "limits_in_steps": {"strict": STRICT, "relaxed": RELAXED, "first_token": FIRST},
        "rows": [{"policy": p, "load": x, **_told(log, step)} for (p, x), log in logs.items()],
    }  # fmt: skip
    return report, logs


def _check(policies: Sequence[str], loads: Sequence[float], arrivals: str, requests: int) -> None:
    checks.whole("requests", requests)
    if not policies or not loads:
        raise ValueError(
            "Expected at least one policy and one load, as in --policies chunked --loads 0.8."
        )
    for name in policies:
        checks.kind("policy", name, str, "a name")
        if name not in POLICIES:
            raise ValueError(f"There is no policy {name!r}; there are {', '.join(POLICIES)}.")
    for load in loads:
        checks.number("A load", load, lambda n: 1e-6 <= n <= 1e6, "a number from 1e-6 to 1e6")
    if arrivals not in ARRIVALS:
        raise ValueError(f"Arrivals {arrivals!r} were asked for; there are {', '.join(ARRIVALS)}.")


def _work(engine: Engine, arrivals: str, rate: float, requests: int, seed: int) -> list[Arrival]:
    """Short prompts, and a long one in every eight, as long as its answer leaves slots for.

    Raises: ValueError where model or blocks are too small for the longest of the short ones.
    """
    config, n_blocks, size = engine.model.config, engine.pool.n_blocks, engine.pool.size
    needed = PROMPT[1] + ANSWER[1] - 1  # the last one written is never read
    if config.max_positions < needed:
        raise ValueError(
            f"The requests take up to {needed} positions, and the model reads at most "
            f"{config.max_positions}; take one that reads more."
        )
    if n_blocks * size < needed:
        raise ValueError(
            f"The requests take up to {needed} tokens of the cache, and {n_blocks} blocks of "
            f"{size} hold {n_blocks * size}; give at least {-(-needed // size)} blocks."
        )
    how = {"prompt": PROMPT, "answer": ANSWER, "seed": seed}
    some = ARRIVALS[arrivals](rate, requests, config.vocab_size, **how)
    for i in range(7, requests, 8):
        n = min(config.max_positions // 4, n_blocks * size - some[i].max_new)
        some[i] = some[i]._replace(prompt=(some[i].prompt * n)[:n])
    return some


def _told(log: Log, step: float) -> dict[str, float]:
    """A run in numbers; waits in decode steps."""
    first = sorted(s.first / step for s in log.stories)
    gaps = [s.longest_gap / step for s in log.stories]
    good = {
        f"served_{name}": round(sum(log.good(FIRST * n * step, n * step)) / len(log.stories), 3)
        for name, n in (("strict", STRICT), ("relaxed", RELAXED))
    }
    return {
        "first_token_median": round(statistics.median(first), 1),
        "first_token_worst": round(first[-1], 1),
        "longest_gap": round(max(gaps), 1),
        **good,
        "goodput_strict": round(log.goodput(FIRST * STRICT * step, STRICT * step), 3),
        "goodput_relaxed": round(log.goodput(FIRST * RELAXED * step, RELAXED * step), 3),
        "requests_per_second": round(len(log.stories) / log.seconds, 3),
    }


def table(report: dict[str, Any]) -> str:
    """A report as lines of text."""
    limits = report["limits_in_steps"]
    lines = [
        f"A decode step takes {1000 * report['decode_step_seconds']:.2f} ms; with everybody there "
        f"at once {report['requests_per_second_at_once']:.2f} requests are served in a second.",
        f"In time: strict, a token every {limits['strict']} steps; relaxed, every "
        f"{limits['relaxed']}; the first within {limits['first_token']} times that.",
        "",
        f"{'policy':15}{'load':>6}{'first token':>13}{'worst':>8}{'longest gap':>13}"
        f"{'strict':>9}{'relaxed':>9}",
    ]
    for row in report["rows"]:
        lines.append(
            f"{row['policy']:15}{row['load']:>6.2f}{row['first_token_median']:>13.1f}"
            f"{row['first_token_worst']:>8.1f}{row['longest_gap']:>13.1f}"
            f"{row['served_strict']:>9.0%}{row['served_relaxed']:>9.0%}"
        )
    lines += ["", "Waits are in decode steps; the last two columns are shares of all requests."]
    return "\n".join(lines)


def events(log: Log) -> dict[str, Any]:
    """A log as plain numbers, to be kept as JSON."""
    return {
        "stories": [asdict(story) for story in log.stories],
        "steps": [[s.start, s.seconds, s.n_tokens] for s in log.steps],
    }
