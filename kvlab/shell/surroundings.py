"""What a command finds around it: streams that take any text, threads that wait in peace, and
exercises of one's own.

Everything here has to happen before torch is imported, so it uses the standard library alone.
"""

import contextlib
import os
import sys

# Where a step is short, its threads wait for each other more than they work. OpenMP's waiting is
# spinning, and on a busy machine it burns the time that the awaited thread needs. Passively they
# take their share; `python -m benchmarks.threads` measures both.
WAITING = "OMP_WAIT_POLICY"

OWN = "KVLAB_EXERCISES"  # folders of exercises of one's own, as PATH names folders
FAILING = ("strict", "surrogateescape")  # what Python gives streams; the second in the C locale


def settle():
    """Prepares this process and those that it starts. What the user has set stays."""
    os.environ.setdefault(WAITING, "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        take_any_text(stream)


def take_any_text(stream):
    """Lets a stream write what its encoding lacks as escapes, such as \\u674e, and not fail."""
    change = getattr(stream, "reconfigure", None)  # a notebook's streams take everything
    if change is not None and stream.errors in FAILING:
        change(errors="backslashreplace")


@contextlib.contextmanager
def own_exercises(folders):
    """A block in which these folders have exercises of one's own, here and in what is started."""
    before = os.environ.get(OWN)
    if folders:
        os.environ[OWN] = os.pathsep.join(map(os.path.abspath, folders))
    try:
        yield
    finally:
        if folders:
            os.environ.pop(OWN)
            os.environ.update({} if before is None else {OWN: before})
