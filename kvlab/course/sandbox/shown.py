"""What an answer can see: the folders that Python and torch need, and none that hold answers.

Standard library alone: an answer's process imports this.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
ROOT = PACKAGE.parent
# The answer's own folder in its world. Not /tmp: a project that lies there would show its name.
FOLDER = "/answer"
# Names folders of exercises of a teacher's own, as PATH names folders.
OWN = "KVLAB_EXERCISES"


def own_folders() -> list[str]:
    """The folders of exercises of one's own."""
    given = os.environ.get(OWN, "").split(os.pathsep)
    return list(dict.fromkeys(os.path.abspath(path) for path in given if path.strip()))


def torch_home() -> str:
    """The folder torch is installed in, without importing it."""
    from importlib.util import find_spec

    found = find_spec("torch")
    return str(Path(found.origin).resolve().parent.parent) if found and found.origin else ""


def visible() -> list[str]:
    """Folders that Python and torch need, outermost first."""
    wanted = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/nix"]
    wanted += [sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), torch_home()]
    found = sorted({p for p in wanted if p and p != "/" and os.path.exists(p)}, key=len)
    return [p for i, p in enumerate(found) if not any(p.startswith(q + "/") for q in found[:i])]


def hidden() -> list[str]:
    """Folders that hold answers and would show because they lie in a visible one."""
    rooms = ("solutions", "exercises", "chapters", "tests", "docs")
    source = (ROOT / "pyproject.toml").is_file()  # and not the folder that packages are put in
    course, shown = [PACKAGE, *(ROOT / n for n in rooms if source)], visible()
    course += [Path(p).resolve() for p in own_folders()]
    return [str(p) for p in course if p.is_dir() and any(str(p).startswith(q + "/") for q in shown)]


def environment(folder: str) -> dict[str, str]:
    """The few variables Python needs, and none of the caller's."""
    keep = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", OWN)
    env = {name: os.environ[name] for name in keep if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**env, **threads, "HOME": folder, "TMPDIR": folder}
