"""A world of its own for one process, built with plain system calls.

A file tree with Python and little else, no network, no other processes. It needs no rights where
users may make namespaces. Standard library alone: an answer's process imports this.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from pathlib import Path

from kvlab.course.sandbox.limits import Limits, address_space, set_limits
from kvlab.course.sandbox.shown import FOLDER, hidden, visible

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
    os.mkdir(base + "/dev/shm")  # where multiprocessing has its locks: in the answer's own folder
    _mount(base + FOLDER, base + "/dev/shm", None, _BIND)
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
    set_limits(limits, level, address_space() if mapped is None else mapped)
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


def untouchable() -> None:
    """On Linux, let no process of the same user attach to this one, or to those it forks."""
    if sys.platform == "linux":
        _libc().prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def die_with_parent() -> None:
    """On Linux, let this process be killed when the one that made it ends."""
    if sys.platform == "linux":
        _libc().prctl(_SET_PDEATHSIG, 9, 0, 0, 0)
