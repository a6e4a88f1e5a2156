"""A zip of submissions as Moodle or Canvas gives it, read without trusting it.

Entries' names become names of submissions and never paths: each notebook goes into a folder of its
own, made here, whose number is its place in the archive.
"""

from __future__ import annotations

import contextlib
import re
import stat
import zipfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from kvlab import files
from kvlab.course.grading.names import own_file
from kvlab.course.grading.notebooks import MAX_BYTES

MOST_ENTRIES = 20_000
MOST_BYTES = 4 * 2**30
_SKIPPED = ("__MACOSX",)


@dataclass
class Unpacked:
    """Notebooks by name, when each was put in, and why some entries were not read."""

    files: dict[str, Path] = field(default_factory=dict)
    times: dict[str, str] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def is_archive(path: str | Path) -> bool:
    """Whether a file is to be read as a zip: by its ending, or by what it begins with."""
    path = Path(path)
    return path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path))


def unpack(path: str | Path, into: Path) -> Unpacked:
    """The notebooks of a zip, written below the folder `into`.

    An entry that is a link, leads outside or cannot be read is refused with a reason; what is no
    notebook is left out.
    Raises: ValueError for what is no zip, is encrypted, has no notebook, or too many or too large
    entries.
    """
    found, room = Unpacked(), MOST_BYTES
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_ENTRIES:
                raise ValueError(
                    f"{path} has {len(entries)} entries; at most {MOST_ENTRIES} are read."
                )
            for n, entry in enumerate(entries):
                name = _name(entry)
                parts = name.split("/")
                if entry.is_dir() or parts[0] in _SKIPPED or parts[-1].startswith("."):
                    continue
                if ".ipynb_checkpoints" in parts:
                    continue
                if not name.lower().endswith(".ipynb"):
                    found.left_out.append(name)
                    continue
                room -= _take(archive, entry, name, into / str(n), found)
                if room < 0:
                    raise ValueError(
                        f"{path} unpacks to more than {MOST_BYTES // 2**30} GiB; is it a bomb?"
                    )
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a zip: {error}.") from None
    if not found.files and not found.refused:
        packed = " What is packed inside (zip in zip) has to be unpacked first."
        inner = any(n.lower().endswith(".zip") for n in found.left_out)
        raise ValueError(f"{path} has no notebook (*.ipynb) in it.{packed if inner else ''}")
    return found


def _name(entry: zipfile.ZipInfo) -> str:
    """An entry's name; of old tools that wrote UTF-8 without saying so as well."""
    name = entry.filename.replace("\\", "/")
    if not entry.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name


def _take(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, folder: Path, found: Unpacked
) -> int:
    """Write one notebook; how many bytes it had."""
    submission = name[: -len(".ipynb")]
    number = 2
    while submission in found.files or submission in found.refused:
        submission, number = f"{name[: -len('.ipynb')]} [{number}]", number + 1
    why = _odd(entry, name)
    if why:
        found.refused[submission] = why
        return 0
    try:
        with archive.open(entry) as packed:
            content = packed.read(MAX_BYTES + 1)  # one more: then it says that it is too large
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        found.refused[submission] = f"{name} cannot be unpacked: {error}"
        return 0
    except Exception as error:  # a broken stream of one of zlib, bz2 and lzma
        found.refused[submission] = f"{name} cannot be unpacked: {type(error).__name__}: {error}"
        return 0
    folder.mkdir(parents=True)
    plain = re.sub(r"[^\w .()-]", "_", own_file(submission))[-60:].strip(" .") or "notebook"
    target = folder / f"{plain}.ipynb"
    files.write(target, content)
    found.files[submission], found.entries[submission] = target, name
    when = entry.date_time
    if when[0] > 1980:  # the first date of the format stands for none
        with contextlib.suppress(ValueError):
            found.times[submission] = datetime(*when).isoformat()
    return len(content)


def _odd(entry: zipfile.ZipInfo, name: str) -> str:
    """Why an entry is not read, or ""."""
    if entry.flag_bits & 1:
        return f"{name} is encrypted"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return f"{name} is a link, and links are not followed"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        return f"{name} leads outside the archive"
    return ""
