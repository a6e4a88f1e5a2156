"""Files as a command should leave them; with the standard library alone, as set-up needs them too.

An ordinary file is written whole or not at all, and keeps its owner and mode. Of a symbolic link
the file is written that it leads to. What is no ordinary file (a device, a pipe, a descriptor such
as /dev/stdout) is written to and never replaced.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from pathlib import Path

# A descriptor's path, once the links in its folder's are followed: /dev/stdout is /proc/123/fd/1.
_DESCRIPTOR = re.compile(r"(?:/proc/(self|\d+)(?:/task/\d+)?|/dev)/fd/(\d+)")
# Why a file may not be replaced though it may be written: a folder that is not ours, an owner that
# cannot be given, a file that is mounted by itself.
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EINVAL)


def write(path, content):
    """Writes text (as UTF-8) or bytes.

    Raises: OSError that names `path`.
    """
    with writing(path) as part:
        part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def writing(path):
    """Gives a file of the same ending to write to; what it holds at the block's end goes to `path`.

    An error in the block leaves `path` as it was. Where an ordinary file may be written but not
    replaced, it is overwritten in place at the end.
    Raises: OSError that names `path`.
    """
    path, part = os.fspath(path), None
    try:
        place = _followed(path)
        part, beside = _begin(place, path)
        mode = stat.S_IMODE(part.stat().st_mode)
        part.chmod(0o600)  # what it will replace may be private
        yield part
        if not (beside and _replace(place, part, mode)):
            _pour(part, place)
    except OSError as error:
        if error.errno is None or error.filename not in (None, part, str(part)):
            raise
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink()


def folder_of(path):
    """The folder in which a path lies or would lie; a link that leads to itself is no error."""
    return Path(os.path.realpath(path)).parent


def is_ordinary(path):
    """Whether a path leads to an ordinary file, or to none yet: others may be put beside it."""
    return _is_ordinary(_followed(os.fspath(path)))


def as_before(path, before):
    """Gives a file or folder the owner and mode that a status (of `os.stat`) names."""
    now = os.stat(path)
    try:
        if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
            os.chown(path, before.st_uid, before.st_gid)
    finally:  # a mode can be given where an owner cannot
        os.chmod(path, stat.S_IMODE(before.st_mode))


def _followed(path):
    """What a path leads to: a path that is no link, or the number of a descriptor of this process.

    Another process's descriptor stays a link.
    """
    here = path
    for _ in range(40):
        folder, name = os.path.split(os.path.abspath(here))
        here = os.path.join(os.path.realpath(folder), name)
        found = _DESCRIPTOR.fullmatch(here)
        if found:
            own = found[1] in (None, "self", str(os.getpid()))
            return int(found[2]) if own else here
        if not os.path.islink(here):
            return here
        here = os.path.join(os.path.dirname(here), os.readlink(here))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _is_ordinary(place):
    if isinstance(place, int) or _DESCRIPTOR.fullmatch(place):
        return False
    return not os.path.lexists(place) or stat.S_ISREG(os.stat(place).st_mode)


def _begin(place, path):
    """A new file to write to, and whether it lies beside `place`, so that it can take its place."""
    if not isinstance(place, int) and os.path.exists(place):
        number = errno.EISDIR if os.path.isdir(place) else errno.EACCES
        if number == errno.EISDIR or not os.access(place, os.W_OK):
            raise OSError(number, os.strerror(number))
    if not _is_ordinary(place):
        return _new(tempfile.gettempdir(), path), False
    try:
        return _new(os.path.dirname(place), path), True
    except OSError as error:
        error.filename = None
        if error.errno not in _REFUSALS or not os.path.exists(place):
            raise
    return _new(tempfile.gettempdir(), path), False


def _new(folder, like):
    """An empty file with the mode that new files have here, hidden and not there before."""
    stem, ending = os.path.splitext(os.path.basename(like))
    part = Path(folder, "." + stem[:40] + "-" + secrets.token_hex(4) + ending[:20])
    part.touch(exist_ok=False)
    return part


def _replace(place, part, mode):
    """Moves the part to its place; False where an ordinary file is that may not be replaced."""
    before = os.stat(place) if os.path.exists(place) else None
    try:
        if before is None:
            part.chmod(mode)
        else:
            as_before(part, before)
        os.replace(part, place)
    except OSError as error:
        if before is None or error.errno not in _REFUSALS:
            raise
        with contextlib.suppress(OSError):
            part.chmod(0o600)  # it will be read
        return False
    return True


def _pour(part, place):
    """Writes into what is there; through a descriptor of ours, where it stands."""
    if isinstance(place, int):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        number = os.dup(place)
    else:
        number = os.open(place, os.O_WRONLY | os.O_TRUNC | getattr(os, "O_BINARY", 0))
    with open(number, "wb") as out, open(part, "rb") as whole:
        shutil.copyfileobj(whole, out)
