"""`kvlab generate --tp 2 --pp 2`: the same answer from a model that several processes hold."""

from __future__ import annotations

import os
from argparse import Namespace

from kvlab import checks
from kvlab.checkpoint import load, read_config
from kvlab.model import Transformer
from kvlab.parallel import Mesh, joined, shard_, shares, start
from kvlab.parallel.starting import started_by_torchrun
from kvlab.shell import answer
from kvlab.tokenizer import Tokenizer


def run(args: Namespace) -> int:
    """Start the processes, or be one of those that torchrun started, and answer. Returns 0."""
    n = checks.whole("--tp", args.tp) * checks.whole("--pp", args.pp)
    if args.policy is not None:
        raise ValueError("A policy prunes a whole model; leave out --policy, or --tp and --pp.")
    if not started_by_torchrun():
        shares.check(read_config(args.model), args.tp, args.pp)
        prompt = answer.read(args.prompt)
        given = Namespace(**{k: v for k, v in vars(args).items() if k != "run"})
        start(one, given, prompt, tp=args.tp, pp=args.pp, device=args.device)
        return 0
    there = int(os.environ["WORLD_SIZE"])
    if there != n:
        raise ValueError(
            f"torchrun started {there} processes; --tp {args.tp} and --pp {args.pp} need {n}. "
            "Their product must be the number of processes."
        )
    if args.prompt == "-":
        raise ValueError("Several processes cannot read one standard input; give the text itself.")
    with joined(args.tp, args.pp, args.device) as mesh:
        one(mesh, args, answer.read(args.prompt))
    return 0


def one(mesh: Mesh, args: Namespace, prompt: str) -> None:
    """Answer as one of the processes; the first one speaks."""
    model, tokenizer = opened(args, mesh)
    answer.say(args, prompt, model, tokenizer, mesh)


def opened(args: Namespace, mesh: Mesh) -> tuple[Transformer, Tokenizer]:
    """This process's share of a model, of which no more than that is read from a mapped file."""
    dtype = checks.dtype("dtype", args.dtype)
    model, tokenizer = load(args.model, dtype="auto")
    return shard_(model, mesh).to(args.device, dtype or model.dtype), tokenizer
