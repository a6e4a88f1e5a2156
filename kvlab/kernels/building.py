"""Where compiled kernels are kept, and a word while they are built.

numba compiles a kernel when numbers of a new kind first come to it, which takes from seconds to
minutes. The code is kept beside the source or in the user's cache, or in a temporary folder where
neither may be written to.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from functools import partial

import numba
from numba.core import event

WHAT = {
    "cpu": "the compiled step",
    "blocks": "attention to blocks",
    "packed": "attention to packed rows",
    "packing": "the packing of rows",
}
ROOM = __package__ + "."
njit = partial(numba.njit, cache=True)  # code that is kept


def keep() -> None:
    """See to it that compiled code can be kept: at the worst in a temporary folder of the user."""
    try:
        njit(keep)  # compiles nothing, but asks numba for a place
    except RuntimeError:
        # numba reads the variable again whenever it changes
        os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = temporary()


def temporary() -> str:
    """A folder for temporary files that is this user's and nobody else's: code is read from it."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = os.path.join(tempfile.gettempdir(), f"kvlab-kernels-{user}")
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        own = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
        if os.name != "nt" and not (own and found.st_uid == user):
            return tempfile.mkdtemp(prefix="kvlab-kernels-")
    return folder


class Announcer(event.Listener):
    """Says, once for each set of kernels, that it is compiled; not of code that was kept."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def on_start(self, event: event.Event) -> None:
        """Called by numba before it compiles a function."""
        module = event.data["dispatcher"].py_func.__module__
        name = module.removeprefix(ROOM)
        if not module.startswith(ROOM) or name not in WHAT or name in self.said:
            return
        self.said.add(name)
        # what pytest compares with stored output must print the same each time
        if "PYTEST_VERSION" not in os.environ:
            print(
                f"kvlab: compiling {WHAT[name]} for this machine, once; this may take a minute.",
                file=sys.stderr,
                flush=True,
            )

    def on_end(self, event: event.Event) -> None:
        """Called by numba after it compiled a function."""


keep()
announcer = Announcer()
event.register("numba:compile", announcer)
