"""The command line. Importing this module needs the standard library only."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from kvlab.shell.bootstrap import ROOT
from kvlab.shell.options import parser_of
from kvlab.shell.surroundings import own_exercises


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 if all went well, 1 if something failed, 2 for wrong usage."""
    args, rest = parse(argv)
    if args.command is None:
        _parser().print_help()
        return 0
    try:
        with own_exercises(getattr(args, "exercises", None)):
            return args.run(args, rest)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (ValueError, OSError) as error:
        print(f"kvlab {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nkvlab {args.command}: stopped{_how_to_go_on(args)}.", file=sys.stderr)
        return 130


def _how_to_go_on(args: argparse.Namespace) -> str:
    """What to do with what a stopped command left, where it leaves something."""
    reports = {"grade": ("csv", "json"), "prune-report": ("out",)}.get(args.command, ())
    kept = any(getattr(args, name) not in (None, "-") for name in reports)
    if args.command == "grade":
        kept = kept and any(os.path.isdir(given) for given in args.files)
    return "; the same command goes on from what was done" if kept else ""


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The command and what it passes on; a wrong line ends the program here, before any set-up."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and not (args.command and args.passes_on):
        parser.error(f"unknown: {' '.join(rest)}")
    if args.command == "grade" and bool(args.files) == bool(args.one):
        parser.error("grade takes notebooks and folders, or one notebook after --one")
    return args, rest


def _parser() -> argparse.ArgumentParser:
    return parser_of(
        {
            "lab": _lab,
            "test": _test,
            "fetch": _fetch,
            "demo": _demo,
            "generate": _generate,
            "serve": _serve,
            "torture": _torture,
            "eval": _eval,
            "prune-report": _prune_report,
            "serve-bench": _serve_bench,
            "export": _export,
            "site": _site,
            "doctor": _doctor,
            "grade": _grade,
            "marks": _marks,
            "similar": _similar,
            "jobs": _jobs,
            "progress": _progress,
            "hint": _hint,
            "cases": _cases,
            "release": _release,
            "normalise": _normalise,
        }
    )


def _lab(args, _rest) -> int:
    from kvlab.shell.lab import run_lab

    return run_lab(port=args.port, no_browser=args.no_browser)


def _test(_args, rest) -> int:
    from kvlab.shell.lab import run_tests

    return run_tests(rest)


def _fetch(args, _rest) -> int:
    from kvlab.shell import fetch

    folder = fetch.fetch(args.name, wheel=args.wheel)
    print(f"{args.name}: {fetch.size(folder) / 1e6:.0f} MB in {folder}")
    return 0


def _site(args, _rest) -> int:
    from kvlab.shell import site

    out = site.build(args.out, book=not args.live)
    if out is None:
        return 1
    first = out / "live" / "index.html" if args.live else out / "index.html"
    print(f"written: open {first} in a browser")
    return 0


def _demo(args, _rest) -> int:
    from kvlab.shell import demo

    if args.plot:
        demo.check_picture(args.plot)
    report = demo.run(
        args.prompt, args.new_tokens, model=args.model, device=args.device, dtype=args.dtype,
        system=args.system, raw=args.raw,
    )  # fmt: skip
    if args.plot:
        demo.plot(report, args.plot)
    print(json.dumps(report, indent=1) if args.json else demo.as_text(report))
    return 0


def _generate(args, _rest) -> int:
    if (args.tp, args.pp) != (1, 1):
        from kvlab.shell import spread

        return spread.run(args)
    from kvlab.shell import answer

    return answer.run(args)


def _serve(args, _rest) -> int:
    from kvlab.shell import serving

    return serving.serve(args)


def _torture(args, _rest) -> int:
    from kvlab.shell import serving

    return serving.torture(args)


def _eval(args, _rest) -> int:
    from kvlab.pocket import exam

    result = exam.run(args.model, args.prompts, args.out, args.log)
    print(exam.as_json(result) if args.json else exam.as_text(result))
    return 0 if result["passed"] else 1


def _prune_report(args, _rest) -> int:
    from kvlab import files
    from kvlab.pocket import asking
    from kvlab.quality import METHODS
    from kvlab.quality import report as prune_report
    from kvlab.quality.tasks import TASKS
    from kvlab.shell.demo import check_picture

    if args.plot:
        check_picture(args.plot)
    names = tuple(name.strip() for name in args.policies.split(",") if name.strip())
    report = prune_report.run(
        tuple(METHODS) if names == ("all",) else names or prune_report.POLICIES,
        model=args.model, budgets=_shares(args.budgets), n_tokens=args.tokens,
        n_prompts=args.prompts, seeds=args.seeds, text=args.text or asking.own_text,
        questions=asking.MAKERS, tasks=tuple(TASKS), sink=args.sink, recent=args.recent,
        device=args.device, dtype=args.dtype, out=args.out, only_doable=not args.all_tasks,
        workers=args.workers, scheduler=args.scheduler, n_threads=args.threads,
    )  # fmt: skip
    text = json.dumps(report, indent=1)
    if args.out:
        files.write(args.out, text + "\n")
    if args.plot:
        from kvlab.view.pareto import plot

        plot(report, args.plot)
    print(text if args.json else prune_report.as_text(report))
    return 0


def _serve_bench(args, _rest) -> int:
    from kvlab import files, load
    from kvlab.measure import threads
    from kvlab.serve import compare
    from kvlab.shell.demo import check_picture

    if args.plot:
        check_picture(args.plot)
    names = tuple(name.strip() for name in args.policies.split(",") if name.strip())
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


def _shares(text: str, what: str = "Budgets") -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"{what} {text!r} were asked for; expected shares with commas, like 0.5,0.3."
        ) from None


def _export(args, _rest) -> int:
    from kvlab import export, load

    model, tokenizer = load(args.model, device=args.device, dtype=args.dtype)
    print(f"written: {export(model, tokenizer, args.folder)}")
    return 0


def _doctor(args, _rest) -> int:
    from kvlab.shell import doctor

    findings = doctor.examine()
    print(json.dumps(findings, indent=1) if args.json else doctor.as_text(findings))
    return 0 if not findings["missing"] else 1


def _grade(args, _rest) -> int:
    from kvlab.course.grading import command

    return command.run(args)


def _marks(args, _rest) -> int:
    from kvlab.course.grading import after

    return after.run_marks(args)


def _similar(args, _rest) -> int:
    from kvlab.course.grading import after

    return after.run_similar(args)


def _jobs(args, _rest) -> int:
    from kvlab.course.grading import jobs

    return jobs.run(args)


def _progress(_args, _rest) -> int:
    from kvlab.course import record

    print(record.as_text())
    print(record.where())
    return 0


def _hint(args, _rest) -> int:
    from kvlab import hint

    print(hint(args.exercise, args.n))
    return 0


def _cases(args, _rest) -> int:
    from kvlab.course.grading import private

    return private.run_cases(args)


def _release(args, _rest) -> int:
    from kvlab.course.grading import handout

    return handout.run(args, ROOT)


def _normalise(args, _rest) -> int:
    from kvlab.course.grading import after

    return after.run_normalise(args)
