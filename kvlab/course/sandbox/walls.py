"""Where an answer runs: what it may use, what it can see, and how far this system goes along.

Linux gives a process a world of its own: a file tree with Python and little else, no network, no
other processes. `enter` builds that world with plain system calls and needs no rights where users
may make namespaces. Bubblewrap builds the same where only it may. Elsewhere there are limits.

Standard library alone: an answer's process imports this.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
ROOT = PACKAGE.parent
# The answer's own folder in its world. Not /tmp: a project that lies there would show its name.
FOLDER = "/answer"


@dataclass(frozen=True)
class Limits:
    """What one answer may use.

    Processor time is the limit that a loop meets; wall time, which a busy machine stretches, is
    for an answer that sleeps. Memory is counted on top of what torch takes.
    """

    call_seconds: float = 180.0
    answer_seconds: float = 600.0
    cpu_seconds: int = 30
    memory_bytes: int = 2**30
    file_bytes: int = 2**20
    folder_bytes: int = 2**24
    processes: int = 16


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


# --- what the world shows ---------------------------------------------------------------------


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
    return [str(p) for p in course if p.is_dir() and any(str(p).startswith(q + "/") for q in shown)]


def environment(folder: str) -> dict[str, str]:
    """The few variables Python needs, and none of the caller's."""
    keep = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH")
    env = {name: os.environ[name] for name in keep if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**env, **threads, "HOME": folder, "TMPDIR": folder}


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
    line = [sys.executable, "-I", "-c", code, *arguments]
    return _bubblewrap([module, *modules]) + line if bubblewrapped else line


def _bubblewrap(modules: Sequence[str]) -> list[str]:
    line = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    line += ["--as-pid-1"]  # signals from inside do not reach it
    size = str(Limits().folder_bytes)
    line += ["--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", FOLDER]
    for path in visible():
        if os.path.islink(path):
            line += ["--symlink", os.readlink(path), path]
        else:
            line += ["--ro-bind", path, path]
    for path in hidden():
        line += ["--tmpfs", path]
    names = {"kvlab", "kvlab.course", "kvlab.course.sandbox", *modules}
    for path in sorted({str(_file_of(name)) for name in names}):
        line += ["--ro-bind", path, path]
    for path in ("/", "/dev", *hidden()):  # nothing but its own folder can be written
        line += ["--remount-ro", path]
    own = ["--setenv", "HOME", FOLDER, "--setenv", "TMPDIR", FOLDER]
    return [*line, "--chdir", FOLDER, *own]


def _file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


# --- namespaces by system call ----------------------------------------------------------------

_NEW_NS, _NEW_UTS, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV = 1, 2, 4
_BIND, _REC, _PRIVATE = 4096, 16384, 1 << 18
_DETACH = 2
_MOUNT_SETATTR = 442  # the same number on every architecture
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SET_PDEATHSIG, _SET_DUMPABLE, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 4, 24, 38


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _ask(name: str, *arguments: object) -> None:
    """Call the C library; a refusal becomes OSError."""
    plain = [a.encode() if isinstance(a, str) else a for a in arguments]
    if getattr(_libc(), name)(*plain) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = data.encode() if data is not None else None
    _ask("mount", source, target, kind, ctypes.c_ulong(flags), encoded)


def _read_only(path: str, recursive: bool) -> None:
    """No writing and no set-uid programs below a mount, whatever flags it is locked to."""
    attributes = (ctypes.c_uint64 * 4)(_RDONLY | _NOSUID, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    _ask("syscall", _MOUNT_SETATTR, _AT_FDCWD, path, flags, ctypes.byref(attributes), 32)


def enter(base: str, limits: Limits) -> None:
    """Give this process a world of its own; the next fork is the first process in it.

    Call it in a process that has one thread. `base` is an empty folder to build on.
    Raises: OSError where the system does not allow it; the process is then half changed and must
    not go on.
    """
    uid, gid = os.geteuid(), os.getegid()
    spaces = _NEW_NS | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS
    _ask("unshare", spaces if uid == 0 else spaces | _NEW_USER)
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", base, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for place in ("/proc", FOLDER, "/dev"):
        os.mkdir(base + place)
    space = f"size={limits.folder_bytes},nr_inodes=1024,mode=1777"
    _mount("tmpfs", base + FOLDER, "tmpfs", _NOSUID | _NODEV, space)
    for path in visible():
        _show(path, base + path)
    for path in hidden():
        _mount("tmpfs", base + path, "tmpfs", _RDONLY | _NOSUID, "size=4k,mode=755")
    for name in ("null", "zero", "full", "random", "urandom"):
        Path(base, "dev", name).touch()
        _mount(f"/dev/{name}", f"{base}/dev/{name}", None, _BIND)
    _read_only(base, recursive=False)
    os.chdir(base)
    _ask("pivot_root", ".", ".")
    _ask("umount2", ".", _DETACH)
    os.chdir(FOLDER)


def _show(path: str, target: str) -> None:
    """The same file, folder or link in the new world, for reading only."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    os.mkdir(target) if os.path.isdir(path) else Path(target).touch()
    _mount(path, target, None, _BIND | _REC)
    _read_only(target, recursive=True)


def settle(limits: Limits, level: str, user: int = 0, mapped: int | None = None) -> None:
    """Take away every right and set the limits; in a new world this is its first process.

    Where root runs this, the process becomes a user that nobody is, numbered by `user`. `mapped`
    are the bytes of address space that are taken already; a new world may not show them.
    """
    if os.name != "posix":
        return
    if level == "namespaces":
        with contextlib.suppress(OSError):  # a container may not allow it: then there is none
            _mount("proc", "/proc", "proc", _NOSUID | _NODEV)
        os.environ.update(HOME=FOLDER, TMPDIR=FOLDER)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    _set_limits(limits, level, address_space() if mapped is None else mapped)
    if level == "namespaces":
        _drop_rights(user)
    if sys.platform == "linux":
        _ask("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)


def _drop_rights(user: int) -> None:
    for capability in range(64):
        _libc().prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    if os.geteuid() == 0:
        os.setgroups([])
        own = 10**9 + user  # alone with this number, so that only its own processes count
        os.setresgid(own, own, own)
        os.setresuid(own, own, own)
        _libc().prctl(_SET_DUMPABLE, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _ask("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def _set_limits(limits: Limits, level: str, mapped: int) -> None:
    import resource

    def bound(name: str, value: int, more: int = 0) -> None:
        hard = resource.getrlimit(getattr(resource, name))[1]
        most = value + more if hard == resource.RLIM_INFINITY else min(value + more, hard)
        resource.setrlimit(getattr(resource, name), (min(value, most), most))

    spent = int(time.process_time())  # where there is no fork, torch was loaded in this process
    bound("RLIMIT_CPU", spent + limits.cpu_seconds, more=1)  # a signal first; not to process 1
    bound("RLIMIT_FSIZE", limits.file_bytes)
    bound("RLIMIT_CORE", 0)
    bound("RLIMIT_NOFILE", 128)
    if level in ("namespaces", "bubblewrap"):
        bound("RLIMIT_NPROC", limits.processes)
    elif sys.platform == "linux":
        bound("RLIMIT_NPROC", limits.processes + _my_threads())
    if sys.platform == "linux":
        bound("RLIMIT_AS", mapped + limits.memory_bytes)


def address_space() -> int:
    """Bytes of address space that this process has already; what torch maps, without /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 5 * 2**30


def _my_threads() -> int:
    """How many threads this user runs now; without a sandbox they count against the limit."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == os.getuid():
                found += len(os.listdir(process / "task"))
    return found


def untouchable() -> None:
    """On Linux, let no process of the same user attach to this one, or to those it forks."""
    if sys.platform == "linux":
        _libc().prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def die_with_parent() -> None:
    """On Linux, let this process be killed when the one that made it ends."""
    if sys.platform == "linux":
        _libc().prctl(_SET_PDEATHSIG, 9, 0, 0, 0)


if __name__ == "__main__":
    _look_around(sys.argv[1])
