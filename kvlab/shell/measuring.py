"""`kvlab prune-report` and `kvlab serve-bench`: what pruning costs, and who waits."""

from __future__ import annotations

import json
from argparse import Namespace

from kvlab import checks, files
from kvlab.shell.demo import check_picture


def prune_report(args: Namespace) -> int:
    """Measure, write and print what is asked for. Returns 0."""
    from kvlab.pocket import asking
    from kvlab.quality import METHODS, report
    from kvlab.quality.tasks import TASKS

    if args.plot:
        check_picture(args.plot)
    names = _names(args.policies)
    found = report.run(
        tuple(METHODS) if names == ("all",) else names or report.POLICIES,
        model=args.model, budgets=_shares(args.budgets, "Budgets"), n_tokens=args.tokens,
        n_prompts=args.prompts, seeds=args.seeds, text=args.text or asking.own_text,
        questions=asking.MAKERS, tasks=tuple(TASKS), sink=args.sink, recent=args.recent,
        device=args.device, dtype=args.dtype, out=args.out, only_doable=not args.all_tasks,
        workers=args.workers, scheduler=args.scheduler, n_threads=args.threads,
    )  # fmt: skip
    text = json.dumps(found, indent=1)
    if args.out:
        files.write(args.out, text + "\n")
    if args.plot:
        from kvlab.view.pareto import plot

        plot(found, args.plot)
    print(text if args.json else report.as_text(found))
    return 0


def serve_bench(args: Namespace) -> int:
    """Serve the same requests under each policy, write and print what is asked for. Returns 0."""
    from kvlab.checkpoint import load
    from kvlab.measure import threads
    from kvlab.serve import compare

    if args.plot:
        check_picture(args.plot)
    for name in ("requests", "budget"):
        checks.whole(f"--{name}", getattr(args, name))
    names = _names(args.policies)
    model, _ = load(args.model, device=args.device, dtype=args.dtype)
    with threads(1):  # steps are short
        report, logs = compare.compare(
            model, policies=tuple(compare.POLICIES) if names == ("all",) else names,
            loads=_shares(args.loads, "Loads"), requests=args.requests, arrivals=args.arrivals,
            budget=args.budget, seed=args.seed,
        )  # fmt: skip
    if args.out:
        told = {f"{name} at {load}": compare.events(log) for (name, load), log in logs.items()}
        files.write(args.out, json.dumps({**report, "logs": told}) + "\n")
    if args.plot:
        from kvlab.view.serving import gantts

        last = max(load for _, load in logs)
        picture = gantts({name: log for (name, load), log in logs.items() if load == last})
        files.write(args.plot, picture._repr_png_())
    print(json.dumps(report, indent=1) if args.json else compare.table(report))
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _shares(text: str, what: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"{what} {text!r} were asked for; expected shares with commas, like 0.5,0.3."
        ) from None
