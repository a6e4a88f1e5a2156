"""The command line. Importing this module needs the standard library only."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kvlab import __version__

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "System: You are helpful.\nUser: What is the capital of France?\nAssistant:"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 if all went well, 1 if something failed, 2 for wrong usage."""
    args, rest = parse(argv)
    if args.command is None:
        _parser().print_help()
        return 0
    try:
        return args.run(args, rest)
    except ValueError as error:
        print(f"kvlab {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


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
    parser = argparse.ArgumentParser(
        prog="kvlab", description="A book that runs: how a language model answers a prompt."
    )
    parser.add_argument("--version", action="version", version=f"kvlab {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    def command(name, run, text, passes_on=False):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run, passes_on=passes_on)
        return sub

    lab = command("lab", _lab, "open the book in JupyterLab")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.add_argument("--port", type=int, help="default: the first free one from 8888")

    command("test", _test, "run the whole suite, or pytest with the arguments given", True)

    demo = command("demo", _demo, "answer one prompt with and without a cache, and compare")
    demo.add_argument("prompt", nargs="?", help="default: a long prompt about passwords")
    demo.add_argument("-n", "--new-tokens", type=int, default=256)
    demo.add_argument("--json", action="store_true")
    demo.add_argument("--plot", metavar="FILE.png", help="draw both runs")
    _model_arguments(demo)

    generate = command("generate", _generate, "answer a prompt")
    generate.add_argument("prompt")
    generate.add_argument("-n", "--new-tokens", type=int, default=64, help="at most this many")
    generate.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token")
    generate.add_argument("--top-k", type=int)
    generate.add_argument("--top-p", type=float, default=1.0)
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--raw", action="store_true", help="no chat form around the prompt")
    generate.add_argument("--policy", metavar="NAME", help="thin the prompt: snapkv, h2o, ...")
    generate.add_argument("--budget", type=float, help="share of tokens it keeps; default: 0.5")
    generate.add_argument("--sparsity", type=float, help="of keys and values, in packed rows")
    generate.add_argument("--json", action="store_true")
    _model_arguments(generate)

    exam = command("eval", _eval, "measure the pocket model, and hold it against its bars")
    exam.add_argument("model", nargs="?", default="pocket", help='"pocket", or a folder')
    exam.add_argument(
        "--prompts", type=int, default=200, metavar="N",
        help="in each set; 200, the default, take about ten minutes on one core",
    )  # fmt: skip
    exam.add_argument("--json", action="store_true")
    exam.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    exam.add_argument("--log", type=Path, help="of the training; default: log.jsonl by the folder")

    prune = command("prune-report", _prune_report, "what each way to prune costs at equal bytes")
    prune.add_argument("--policies", default="", metavar="NAMES", help='"snapkv,kivi", or "all"')
    prune.add_argument("--budgets", default="0.5,0.3,0.2", help="shares of the dense bytes")
    prune.add_argument("--tokens", type=int, default=400, help="of each text")
    prune.add_argument("--prompts", type=int, default=16, help="of each seed, in each task")
    prune.add_argument("--seeds", type=int, default=3)
    prune.add_argument("--sink", type=int, default=4, help="first tokens that every method keeps")
    prune.add_argument("--recent", type=int, default=32, help="latest tokens that stay dense")
    prune.add_argument("--text", metavar="FILE", help="measure its continuation as well")
    prune.add_argument("--json", action="store_true")
    prune.add_argument("--out", metavar="FILE.json", help="also write JSON; a second start goes on")
    prune.add_argument("--plot", metavar="FILE.png", help="draw quality over bytes")
    _model_arguments(prune)

    export = command("export", _export, "write a model as Hugging Face files")
    export.add_argument("folder", help="a new or an empty folder")
    _model_arguments(export)
    export.set_defaults(dtype="auto")

    doctor = command("doctor", _doctor, "what is installed, what this machine has, what is missing")
    doctor.add_argument("--json", action="store_true")

    grade = command("grade", _grade, "grade exercise notebooks: one, or a class")
    grade.add_argument("files", nargs="*", metavar="FILE_OR_FOLDER")
    grade.add_argument("--one", metavar="FILE", help="one notebook, for a container or cluster job")
    out = "FILE"
    grade.add_argument(
        "--json", nargs="?", const="-", metavar=out, help="marks and messages; alone: print them"
    )
    grade.add_argument("--csv", nargs="?", const="-", metavar=out, help="marks; alone: print them")
    grade.add_argument("--gradescope", metavar=out, help="with one notebook: a results.json")
    grade.add_argument("--private-cases", metavar="FILE.py", help="the teacher's own cases too")
    grade.add_argument("--chapter", metavar="N", help="grade this chapter only")
    grade.add_argument("--workers", type=int, metavar="N", help="default: one per core")

    command("progress", _progress, "which exercises are done, from a file on this computer")

    hint = command("hint", _hint, "a hint for an exercise")
    hint.add_argument("exercise", help='like "6.1"')
    hint.add_argument("n", type=int, nargs="?", default=1, help="1, 2 or 3")

    release = command("release", _release, "make exercises/ from solutions/")
    release.add_argument("--check", action="store_true", help="only say whether they agree")

    tidy = command("normalise", _normalise, "remove from notebooks what differs from run to run")
    tidy.add_argument("files", nargs="+", metavar="FILE.ipynb")
    tidy.add_argument("--check", action="store_true", help="only say whether they are tidy")
    return parser


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="pocket", help='"pocket", a folder, or a hub id')
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")


def _lab(args, _rest) -> int:
    from kvlab.lab import run_lab

    return run_lab(port=args.port, no_browser=args.no_browser)


def _test(_args, rest) -> int:
    from kvlab.lab import run_tests

    return run_tests(rest)


def _demo(args, _rest) -> int:
    from kvlab import demo

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

    if not args.prompt.strip():
        raise ValueError("The prompt is empty; expected some text.")
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


def _thinning(args, model, n_prompt: int) -> dict:
    """Policy and cache that the options of `generate` ask for; nothing where they ask for none."""
    if args.policy is None and args.sparsity is None:
        if args.budget is not None:
            raise ValueError("A budget came without a policy; name one: --policy snapkv.")
        return {}
    from kvlab.packed import PackedKVCache, PerToken
    from kvlab.policies import evictions
    from kvlab.rows import n_kept

    named = evictions(0.5 if args.budget is None else args.budget)
    if args.policy is not None and args.policy not in named:
        raise ValueError(f"There is no policy {args.policy!r}; there are {', '.join(named)}.")
    config, room = model.config, max(1, n_prompt + args.new_tokens - 1)
    if args.sparsity is None:
        return {"prune": named[args.policy], "cache": model.new_cache(1, room)}
    rule = PerToken(n_kept(args.sparsity, config.head_dim))
    cache = PackedKVCache(
        config.n_layers, 1, config.n_kv_heads, room, config.head_dim, k_rule=rule, v_rule=rule,
        sinks=4, dtype=model.dtype, device=model.device,
    )  # fmt: skip
    return {"prune": named.get(args.policy), "cache": cache}


def _eval(args, _rest) -> int:
    from kvlab.pocket import exam

    result = exam.run(args.model, args.prompts, args.out, args.log)
    print(exam.as_json(result) if args.json else exam.as_text(result))
    return 0 if result["passed"] else 1


def _prune_report(args, _rest) -> int:
    from kvlab import files, prune_report
    from kvlab.demo import check_picture
    from kvlab.quality import METHODS

    if args.plot:
        check_picture(args.plot)
    names = tuple(name.strip() for name in args.policies.split(",") if name.strip())
    report = prune_report.run(
        tuple(METHODS) if names == ("all",) else names or prune_report.POLICIES,
        model=args.model, budgets=_shares(args.budgets), n_tokens=args.tokens,
        n_prompts=args.prompts, seeds=args.seeds, text=args.text, sink=args.sink,
        recent=args.recent, device=args.device, dtype=args.dtype, out=args.out,
    )  # fmt: skip
    text = json.dumps(report, indent=1)
    if args.out:
        files.write(args.out, text + "\n")
    if args.plot:
        prune_report.plot(report, args.plot)
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
    from kvlab import doctor

    findings = doctor.examine()
    print(json.dumps(findings, indent=1) if args.json else doctor.as_text(findings))
    return 0 if not findings["missing"] else 1


def _grade(args, _rest) -> int:
    from kvlab.course import marking

    return marking.run(args)


def _progress(_args, _rest) -> int:
    from kvlab.course import progress

    print(progress.as_text())
    print(f"noted in {progress.path()}")
    return 0


def _hint(args, _rest) -> int:
    from kvlab import hint

    print(hint(args.exercise, args.n))
    return 0


def _release(args, _rest) -> int:
    from kvlab.course import notebooks
    from kvlab.course.exercises import ALL

    stale = []
    for solution in sorted((ROOT / "solutions").glob("*.ipynb")):
        of_chapter = [e for e in ALL if solution.name.startswith(f"{int(e.chapter):02d}_")]
        marked = notebooks.mark(notebooks.read(solution), of_chapter)
        target = ROOT / "exercises" / solution.name
        for path, made in ((solution, marked), (target, notebooks.release(marked))):
            if not path.is_file() or notebooks.read(path) != made:
                stale.append(f"{path.parent.name}/{path.name}")
                if not args.check:
                    notebooks.write(path, made)
    print(f"{', '.join(stale) or 'nothing'} {'differs' if args.check else 'written'}")
    return 1 if stale and args.check else 0


def _normalise(args, _rest) -> int:
    from kvlab.course import notebooks

    untidy = []
    for path in args.files:
        came = notebooks.read(path)
        tidy = notebooks.normalise(came)
        if tidy != came:
            untidy.append(path)
            if not args.check:
                notebooks.write(path, tidy)
    print(f"{', '.join(untidy) or 'nothing'} {'is untidy' if args.check else 'changed'}")
    return 1 if untidy and args.check else 0
