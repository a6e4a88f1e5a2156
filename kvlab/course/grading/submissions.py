"""Which files of a folder are submissions, and which may be and are passed over."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path


def find_submissions(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Notebooks by name, of files and of whole folders; a folder's are named by where they lie.

    Raises: ValueError for a folder without notebooks, or two notebooks of one name.
    """
    found: dict[str, Path] = {}
    for given in map(Path, paths):
        inside = _notebooks_in(given) if given.is_dir() else [given]
        if not inside:
            first = next((n for n in passed_over(given) if n.lower().endswith(_PACKED)), "")
            unpack = f" Unpack first what is packed there, as {first}." if first else ""
            raise ValueError(f"{given} has no notebook (*.ipynb) in it or below it.{unpack}")
        for path in inside:
            inner = path.relative_to(given) if given.is_dir() else Path(path.name)
            plain = name = re.sub(r"\.ipynb$", "", inner.as_posix(), flags=re.I)
            number = 2
            while name in found and found[name].parent == path.parent:  # a.ipynb beside a.IPYNB
                name, number = f"{plain} [{number}]", number + 1
            if name in found:
                raise ValueError(
                    f"Two notebooks are called {name}: {found[name]} and {path}. Give the folder "
                    "that both lie below, so that each gets a name of its own."
                )
            found[name] = path
    return found


def _notebooks_in(folder: Path) -> list[Path]:
    """All notebooks below a folder; a linked folder stands for itself, and gets a note."""
    found = []
    for home, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [name for name in folders if Path(home, name).is_symlink()]
        named = [n for n in files if n.lower().endswith(".ipynb") and not n.startswith(".")]
        odd = [n for n in folders if n.lower().endswith(".ipynb") and n not in linked]
        found += [Path(home, name) for name in (*linked, *named, *odd)]
    return sorted(found)


# What Jupyter, macOS and version control put beside notebooks, which nobody hands in.
_NOBODYS = (".ipynb_checkpoints", ".git", ".Trash", ".cache", ".virtual_documents")

_PACKED = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")


def passed_over(folder: Path) -> list[str]:
    """What may be a submission and is not graded: hidden, packed, or of another ending."""
    found = []
    for home, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(_NOBODYS)]
        here = Path(home).relative_to(folder)
        hidden = any(part.startswith(".") for part in here.parts)
        for name in files:
            likely = ".ipynb" in name.lower() or name.lower().endswith(_PACKED)
            ours = likely and not name.startswith(("._", ".~"))
            if ours and (hidden or name.startswith(".") or not name.lower().endswith(".ipynb")):
                found.append((here / name).as_posix())
    return sorted(found)
