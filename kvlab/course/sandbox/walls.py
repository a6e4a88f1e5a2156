"""How far answers are kept apart from this machine, and the command that runs one.

Linux gives a process a world of its own (`namespaces`). Bubblewrap builds the same where only it
may. Elsewhere there are limits. Standard library alone: an answer's process imports this.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kvlab.course.sandbox.limits import Limits
from kvlab.course.sandbox.namespaces import enter, settle
from kvlab.course.sandbox.shown import (
    FOLDER,
    PACKAGE,
    ROOT,
    environment,
    hidden,
    torch_home,
    visible,
)


@dataclass(frozen=True)
class Level:
    """How far answers are kept apart from this machine."""

    name: str
    says: str


_WORLD = (
    "no network, no other processes, a file tree without the course, a folder of its own, and "
    "limits on time, memory, processes and files"
)
LEVELS = {
    "bubblewrap": Level("bubblewrap", f"Each submission ran in a bubblewrap sandbox: {_WORLD}."),
    "namespaces": Level("namespaces", f"Each answer ran in namespaces of its own: {_WORLD}."),
    "limits": Level(
        "limits",
        "Each answer ran in a process of its own with limits on time, memory and file size. It "
        "shares this computer's files and network: this is for honest mistakes, not for attacks.",
    ),
    "clock": Level(
        "clock",
        "Each answer ran in a process of its own with a limit on time. It shares this computer's "
        "files, memory and network: this is for honest mistakes, not for attacks.",
    ),
}


@functools.cache
def best() -> Level:
    """The furthest level that works here, tried and not guessed.

    Bubblewrap comes first, but not for root: only `enter` can then give answers a user of their
    own, without which a limit on processes means nothing.
    """
    if sys.platform == "linux":
        if os.geteuid() != 0 and _works("bubblewrap"):
            return LEVELS["bubblewrap"]
        if _works("namespaces"):
            return LEVELS["namespaces"]
    return LEVELS["limits" if os.name == "posix" else "clock"]


def _works(level: str) -> bool:
    """Build the world once and look around in it."""
    if level == "bubblewrap" and shutil.which("bwrap") is None:
        return False
    with tempfile.TemporaryDirectory(prefix="kvlab-probe-") as folder:
        line = python("kvlab.course.sandbox.walls", level, bubblewrapped=level == "bubblewrap")
        try:
            done = subprocess.run(
                line, cwd=folder, env=environment(folder), capture_output=True, timeout=300
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0 and done.stdout.endswith(b"sealed\n")


def _look_around(level: str) -> None:
    """What `_works` runs: says "sealed" when the world is what it should be."""
    if level == "namespaces":
        enter(os.getcwd(), Limits())
        child = os.fork()
        if child:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        settle(Limits(), level)
    import socket
    import wave  # noqa: F401  (any module that was not loaded before)

    hidden = not any(path.exists() for path in (ROOT / "solutions", PACKAGE / "cache.py"))
    alone = sum(name.isdigit() for name in os.listdir("/proc")) <= 4
    outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        outside.connect(("192.0.2.1", 9))
        silent = False
    except OSError:
        silent = True
    home = torch_home()
    with open(f"{FOLDER}/x", "w") as file:
        file.write("x")
    if hidden and alone and silent and (not home or Path(home, "torch").is_dir()):
        print("sealed")


def python(
    module: str, *arguments: str, bubblewrapped: bool = False, modules: Sequence[str] = ()
) -> list[str]:
    """The command that runs a module of this very package in a bare Python.

    Bubblewrap hides the package, so the `modules` it is to show are named.
    """
    home = [str(ROOT), torch_home()]
    code = (
        f"import sys; sys.path[:0] = [{home[0]!r}]; sys.path += [{home[1]!r}]; "
        f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=False)"
    )
    line = [sys.executable, "-I", "-X", "utf8", "-c", code, *arguments]
    return _bubblewrap([module, *modules]) + line if bubblewrapped else line


def _bubblewrap(modules: Sequence[str]) -> list[str]:
    line = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    line += ["--as-pid-1"]  # signals from inside do not reach it
    size = str(Limits().folder_bytes)
    line += ["--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", FOLDER]
    line += ["--size", str(Limits().file_bytes), "--tmpfs", "/dev/shm"]  # multiprocessing's locks
    for path in visible():
        if os.path.islink(path):
            line += ["--symlink", os.readlink(path), path]
        else:
            line += ["--ro-bind", path, path]
    for path in hidden():
        line += ["--tmpfs", path]
    own = ("limits", "namespaces", "shown")
    names = {"kvlab", "kvlab.course", "kvlab.course.sandbox", *modules}
    names |= {f"kvlab.course.sandbox.{name}" for name in own}
    for path in sorted({str(_file_of(name)) for name in names}):
        line += ["--ro-bind", path, path]
    for path in ("/", "/dev", *hidden()):  # nothing but its own folder can be written
        line += ["--remount-ro", path]
    own = ["--setenv", "HOME", FOLDER, "--setenv", "TMPDIR", FOLDER]
    return [*line, "--chdir", FOLDER, *own]


def _file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


if __name__ == "__main__":
    _look_around(sys.argv[1])
