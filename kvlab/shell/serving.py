"""`kvlab serve` and `kvlab torture`: a model for many clients, and a server put to the test."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from kvlab import checks
from kvlab.measure.hardware import memory_bytes
from kvlab.model import Transformer

NEEDS = 'It needs more than the engine: pip install ".[serve]" in the project\'s folder'


def serve(args: Namespace) -> int:
    """Serve until told to stop. Returns 0."""
    try:
        from kvlab.serve import running
        from kvlab.serve.worker import Worker
    except ModuleNotFoundError as error:
        raise ValueError(f"{NEEDS} ({error.name} is missing).") from None
    from kvlab.checkpoint import load
    from kvlab.serve.engine import Engine
    from kvlab.serve.policies import POLICIES

    key = args.api_key or os.environ.get("KVLAB_API_KEY") or None
    _check(args, POLICIES)
    with running.listening(args.host, args.port, key=key, is_open=args.open) as listener:
        model, tokenizer = load(args.model, device=args.device, dtype=args.dtype)
        n_blocks = args.blocks or running.n_blocks_for(model, args.block_size)
        _check_blocks(model, n_blocks, args.block_size)
        engine = Engine(
            model, n_blocks=n_blocks, size=args.block_size, policy=POLICIES[args.policy],
            budget=args.budget, max_running=args.max_running,
        )  # fmt: skip
        steps = _compiled(engine)
        name = args.name or Path(args.model).name.removesuffix(".gguf")
        hosts = running.LOCAL if running.is_local(args.host) and key is None else None
        worker = Worker(engine)
        server = running.Server(
            worker, tokenizer, name, key=key, hosts=hosts, patience=args.patience
        )
        print(_said(name, running.address_of(listener), engine, steps), file=sys.stderr, flush=True)
        try:
            server.run(sockets=[listener])
        finally:
            worker.close()
    return 0


def _said(name: str, where: str, engine, steps: str) -> str:
    """What a server says of itself when it is ready."""
    mb, n_slots = engine.store.allocated_bytes / 1e6, engine.pool.n_blocks * engine.pool.size
    short = n_slots < engine.model.config.max_positions
    most = f", of {n_slots:,} tokens at most" if short else ""
    return f"{name} at {where}/v1; {mb:,.0f} MB for keys and values{most}; {steps}. Ctrl-C ends it."


def _compiled(engine) -> str:
    """Let an engine's steps be compiled where they can, now and not while somebody waits.

    Returns how they run, and why.
    """
    from kvlab.serve.compiled import CompiledSteps

    try:
        engine.compiled = CompiledSteps(engine.model, engine.store)
    except ValueError as error:
        return f"plain steps ({str(error).rstrip('.')})"
    engine.add("first", [0], 2, ends=())
    engine.run()
    return "compiled steps"


def _check(args: Namespace, policies: Iterable[str]) -> None:
    """Refuse before a port is taken and a model opened."""
    if args.policy not in policies:
        raise ValueError(f"There is no policy {args.policy!r}; there are {', '.join(policies)}.")
    for name in ("blocks", "block_size", "budget", "max_running"):
        if getattr(args, name) is not None:
            checks.whole("--" + name.replace("_", "-"), getattr(args, name))
    checks.number("--patience", args.patience, lambda s: 0 <= s < math.inf, "seconds, 0 or more")


def _check_blocks(model: Transformer, n: int, size: int) -> None:
    """Refuse blocks that no text fits, that are longer than any text, or that no memory holds."""
    most, each = model.config.max_positions, model.config.kv_bytes_per_token(model.dtype.itemsize)
    if size > most:
        raise ValueError(
            f"--block-size is {size}; the model reads at most {most} positions, so that the rest "
            f"of a block would stay empty. Give --block-size {most} or less; 16 is the default."
        )
    if n * size < 2:
        raise ValueError(
            f"--blocks {n} and --block-size {size} hold one token; the shortest prompt and its "
            "answer take two. Give --blocks 2 or more, or leave --blocks out."
        )
    n_bytes, there = (n + 1) * size * each, memory_bytes(model.device)
    if there is not None and n_bytes > there:
        raise ValueError(
            f"{n} blocks of {size} tokens take {n_bytes / 1e9:,.1f} GB for keys and values, and "
            f"there are {there / 1e9:,.1f} GB of memory. Give --blocks "
            f"{max(there // (size * each) - 1, 1)} or less."
        )


def torture(args: Namespace) -> int:
    """Put a server to the test. Returns 1 if it failed a case, else 0."""
    try:
        from kvlab.serve.torture import running
        from kvlab.serve.torture.target import Target
    except ModuleNotFoundError as error:
        raise ValueError(f"{NEEDS} ({error.name} is missing).") from None

    if not args.url.startswith(("http://", "https://")):
        raise ValueError(f"The address is {args.url!r:.80}; expected http://HOST:PORT.")
    key = args.key or os.environ.get("KVLAB_API_KEY") or None
    outcomes = []
    for outcome in running.run(Target(args.url, args.model, key, args.seconds), args.case or ()):
        outcomes.append(outcome)
        if not args.json:
            print(running.as_line(outcome), flush=True)
    if args.json:
        print(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], indent=1))
    return int(any(outcome.verdict == "failed" for outcome in outcomes))
