"""CSV files that a teacher's spreadsheet wrote, and those that it will read."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # the wide ones of East Asian keyboards too
_MOST_BYTES = 32 * 2**20


def printable(text: str) -> str:
    """A stranger's text (a file's name, say) without what would steer a terminal.

    Of a name that the system's encoding could not read, the bytes are read as UTF-8.
    """
    with contextlib.suppress(UnicodeError):
        text = text.encode("utf-8", "surrogateescape").decode("utf-8")
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def cell(text: str) -> str:
    """Text that a spreadsheet will not take for a formula."""
    text = printable(text)
    return "'" + text if text[:1] in _FORMULA else text


def number(value: float) -> int | float:
    """A mark with at most two digits behind the point, and none where they are zero."""
    value = round(value, 2)
    return int(value) if value == int(value) else value


def table(header: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """CSV with commas, in which texts stand in quotes and are no formulas."""
    text = io.StringIO()
    # quotes, so that a spreadsheet with another separator does not cut a name in two
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    for row in (header, *rows):
        writer.writerow([cell(c) if isinstance(c, str) else c for c in row])
    return text.getvalue()


def marked(text: str) -> str:
    """A table as a file holds it: with a byte order mark where a letter is not ASCII.

    Without it Excel takes UTF-8 for the letters of its own country.
    """
    return text if text.isascii() else "\ufeff" + text


def read(path: str | Path) -> tuple[list[str], list[dict[str, str]]]:
    """The header of a CSV file, and its rows by header; separated by commas, semicolons or tabs.

    Raises: ValueError for a file that is not there, is no text, has no header, or a row that is
    longer than it.
    """
    text = _text(Path(path))
    head = text.lstrip("\r\n").splitlines()[0] if text.strip() else ""
    if not head:
        raise ValueError(f"{path} is empty; expected a table (CSV) with a header.")
    comma = max(",;\t", key=head.count)
    try:
        lines = list(csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=comma))
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a table (CSV): {error}.") from None
    header, rows = [name.strip() for name in lines[0]], []
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise ValueError(f"{path} has two columns called {min(twice)!r}.")
    for n, line in enumerate(lines[1:], 2):
        if len(line) > len(header) and any(c.strip() for c in line[len(header) :]):
            raise ValueError(
                f"{path}, row {n}: {len(line)} cells came under {len(header)} columns. Is a "
                "name with a comma in it without quotes?"
            )
        if any(c.strip() for c in line):
            filled = [c.strip() for c in line] + [""] * (len(header) - len(line))
            rows.append(dict(zip(header, filled, strict=False)))
    return header, rows


def _text(path: Path) -> str:
    if not path.exists():
        raise ValueError(f"{path} is not there; expected a table (CSV).")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected a table (CSV).")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} has more than {_MOST_BYTES // 2**20} MiB; is it a table (CSV)?")
    try:
        raw = path.read_bytes()
        wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        return raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{path} is not UTF-8 (byte {error.start}); save it as "CSV UTF-8" from the '
            "spreadsheet."
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
