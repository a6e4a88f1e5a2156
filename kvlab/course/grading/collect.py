"""What was handed in, by name: of files, folders and zips, and what of it cannot be read."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kvlab.course.grading import archive
from kvlab.course.grading.marks import Row
from kvlab.course.grading.names import order
from kvlab.course.grading.submissions import find_submissions, passed_over
from kvlab.course.grading.tables import printable


@dataclass
class Collected:
    """Notebooks by name; of those from a zip also where in it and when; and what was refused."""

    submissions: dict[str, Path] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)
    times: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return sorted([*self.submissions, *self.refused], key=order)

    def placed(self, row: Row) -> Row:
        """A result that tells where a notebook was handed in, not where it was unpacked."""
        name = row["name"]
        if name in self.entries:
            note = row["note"].replace(str(self.submissions[name]), self.entries[name])
            row = row | {"file": self.entries[name], "note": note}
        return row | {"submitted": self.times.get(name)}


def is_class(given: str | Path) -> bool:
    """Whether it stands for many submissions: a folder or a zip."""
    return Path(given).is_dir() or archive.is_archive(given)


@contextlib.contextmanager
def collected(given: Sequence[str | Path]) -> Iterator[Collected]:
    """What these files, folders and zips hold; what was unpacked is gone after the block.

    Raises: ValueError for a folder or zip without a notebook, one that cannot be read, or two
    notebooks of one name.
    """
    found = Collected()
    zips = [path for path in map(Path, given) if archive.is_archive(path)]
    plain = [path for path in map(Path, given) if path not in zips]
    with tempfile.TemporaryDirectory(prefix="kvlab-zip-", ignore_cleanup_errors=True) as folder:
        if plain:
            found.submissions.update(find_submissions(plain))
        for path in plain:
            _tell(path, passed_over(path), "hidden, packed, or without the ending .ipynb, and")
        for n, path in enumerate(zips):
            into = Path(folder, str(n))
            into.mkdir()
            unpacked = archive.unpack(path, into)
            twice = (unpacked.files.keys() | unpacked.refused) & {
                *found.submissions, *found.refused
            }  # fmt: skip
            if twice:
                raise ValueError(
                    f"{path} has a notebook called {min(twice)}, as another that was given has; "
                    "grade them in two runs and put the marks together with kvlab marks."
                )
            found.submissions.update(unpacked.files)
            found.entries.update({k: f"{path}/{v}" for k, v in unpacked.entries.items()})
            found.times.update(unpacked.times)
            found.refused.update(unpacked.refused)
            _tell(path, unpacked.left_out)
        yield found


def _tell(path: Path, left_out: list[str], why: str = "no notebook (*.ipynb) and") -> None:
    if left_out:
        some = ", ".join(map(printable, left_out[:5])) + (", ..." if len(left_out) > 5 else "")
        what = "1 file is" if len(left_out) == 1 else f"{len(left_out)} files are"
        print(f"{path}: {what} {why} not graded: {some}", file=sys.stderr)
