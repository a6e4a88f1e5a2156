"""Starting the two programs that kvlab builds on: JupyterLab for the book, pytest for the suite."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kvlab.shell.bootstrap import ROOT, become, is_project, say

WELCOME = "welcome.ipynb"  # made when the book is opened
FIRST = "01_queries_keys_values.ipynb"
SETTINGS = Path(__file__).resolve().parent / "lab_settings"
CELL_SECONDS = 300
WORKERS = 4  # each loads torch for itself


def lab_command(
    port: int | None = None, no_browser: bool = False, extra: Sequence[str] = (), root: Path = ROOT
) -> list[str]:
    """The command that opens JupyterLab where it begins, with all of the book in reach.

    It begins at the welcome where there is one, or else at the first chapter. The user's own
    settings stay as they are: those of the book are in a settings folder for this start alone.
    """
    page = next((p for p in (WELCOME, f"chapters/{FIRST}") if (root / p).exists()), "chapters")
    command = [
        sys.executable,
        "-P",  # what lies in the working folder is not looked at for modules
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={root}",
        f"--LabApp.default_url=/lab/tree/{page}",
        f"--LabApp.app_settings_dir={SETTINGS}",
        "--LabApp.extension_manager=readonly",
        "--log-level=WARN",
    ]
    if port is not None:
        command.append(f"--port={port}")
    if no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--ServerApp.allow_root=True")
    return [*command, *extra]


def run_lab(
    port: int | None = None, no_browser: bool = False, extra: Sequence[str] = (), root: Path = ROOT
) -> int:
    """Opens JupyterLab at the welcome; returns when it ends (on Windows), or becomes it."""
    if not has_folders(root, "chapters"):
        return 1
    say("opening JupyterLab; Ctrl-C twice here ends it.")
    from kvlab.shell import welcome

    try:
        welcome.write(root / WELCOME)
    except (OSError, ValueError) as error:
        say(f"the page that says where you stand could not be made: {error}")
    return become(lab_command(port, no_browser, extra, root), environment())


def run_tests(args: Sequence[str] = (), root: Path = ROOT) -> int:
    """Runs the whole suite, or with arguments one pytest with those; 0 if all passed."""
    if not has_folders(root, "tests"):
        return 1
    runs, failed = {"tests": list(args)} if args else suite(root), []
    if not args:
        bring_model()
    # what tests and notebooks do there is not the reader's progress
    with tempfile.TemporaryDirectory(prefix="kvlab-", ignore_cleanup_errors=True) as data:
        env = {**environment(), "KVLAB_DATA": data}
        for name, arguments in runs.items():
            command = [sys.executable, "-m", "pytest", *arguments]
            try:
                code = subprocess.run(command, cwd=root, env=env, check=False).returncode
            except KeyboardInterrupt:
                return 130
            if code:
                failed.append(f"{name} (pytest's exit code {code})")
            if code == 2:  # interrupted
                break
    if failed:
        say(f"the suite failed in {', '.join(failed)}.")
        return 1
    say(f"all passed: {', '.join(runs)}.")
    return 0


def bring_model() -> None:
    """Fetch the real model that some tests need, unless it is there; without it they skip."""
    from kvlab.shell.fetch import fetch

    try:
        fetch("smollm2")
    except ValueError as error:
        say(f"tests on the real model will skip. {error}")


def suite(root: Path) -> dict[str, list[str]]:
    """The arguments of each pytest run of the whole suite, by the name of what it runs.

    Chapters must print again what is stored in them, and solutions must run. Both time things, so
    they run one after the other; tests share the processors, those of a file in one process.
    """
    shared = ["-n", "logical", f"--maxprocesses={WORKERS}", "--dist=loadfile"]
    runs = {"tests": [*shared, "tests"]}
    notebooks = ["--nbval-current-env", f"--nbval-cell-timeout={CELL_SECONDS}"]
    if any((root / "chapters").glob("*.ipynb")):
        strict = ["--nbval", "--nbval-sanitize-with=chapters/sanitize.cfg"]
        runs["chapters"] = [*strict, *notebooks, "chapters"]
    if any((root / "solutions").glob("*.ipynb")):
        runs["solutions"] = ["--nbval-lax", *notebooks, "solutions"]
    return runs


def has_folders(root: Path, name: str) -> bool:
    """Whether this is the project's folder and not only the package; says so if not."""
    if is_project(root) and (root / name).is_dir():
        return True
    say(f"the folder {name} is not here: it comes with the project's repository, not the package.")
    return False


def environment() -> dict[str, str]:
    """The environment for a program that starts kernels: this Python's kernels, commands first."""
    binaries = str(Path(sys.executable).parent)
    path = os.pathsep.join([binaries, os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "JUPYTER_PREFER_ENV_PATH": "1"}
