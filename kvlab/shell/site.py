"""Building the pages: what anybody can read in a browser, without installing anything."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from kvlab import files
from kvlab.shell.bootstrap import ROOT
from kvlab.shell.lab import has_folders

# What becomes a page, or is shown on one, by where it lies in the project.
PAGES = (
    "chapters/*.ipynb", "exercises/*.ipynb", "docs/**/*", "README.md", "CHANGELOG.md",
    "CONTRIBUTING.md",
    "kvlab/pocket/weights/README.md", "benchmarks/results/*",
)  # fmt: skip
# Whose names have a page: the package, and its parts that are used by themselves.
DESCRIBED = (
    "kvlab", "kvlab.prune", "kvlab.prune.scores", "kvlab.pack", "kvlab.quality", "kvlab.measure",
    "kvlab.serve", "kvlab.parallel", "kvlab.hf",
)  # fmt: skip
# A name in a page of docs/examples: when one reaches for it, how, and what that prints.
EXAMPLE = re.compile(
    r"^## `(\w+)`\n\n(.+?)\n\n```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.M | re.S
)
NEEDED = ("sphinx", "myst_nb", "furo", "sphinx_copybutton")


class Example(NamedTuple):
    """A name's example: when one reaches for it, the code, and what it prints."""

    when: str
    code: str
    printed: str


def examples(folder: Path) -> dict[str, Example]:
    """The examples in a folder's pages, each by its full name: `kvlab.load` is in `kvlab.md`."""
    return {
        f"{page.stem}.{name}": Example(when, code, printed)
        for page in sorted(folder.glob("*.md"))
        for name, when, code, printed in EXAMPLE.findall(page.read_text(encoding="utf-8"))
    }


def build(out: str | Path, root: Path = ROOT, *, book: bool = True) -> Path | None:
    """Write the site into a folder: `index.html` is the book, `live/index.html` the live page.

    Without `book` the live page alone is made. Returns the folder, or None, having said why, where
    the project's own folder is not here.
    Raises: ValueError where Sphinx is not installed, or a page is not right; OSError for a folder
    that cannot be written.
    """
    if not has_folders(root, "site"):
        return None
    if not str(out):
        raise ValueError("The folder's name is empty; expected a new folder, or an older site's.")
    out = Path(out)
    if book:
        _book(root, out)
    _live(root, out / "live")
    return out


def _live(root: Path, out: Path) -> None:
    from kvlab.shell import live_page
    from kvlab.shell.demo import FACTS, QUESTION

    examples = (
        ("Four passwords", FACTS, QUESTION),
        ("The capital of France", "System: You are helpful.", "What is the capital of France?"),
        ("A king and a queen, to go on with", "A man can be a king. A woman can be a", ""),
    )
    shutil.copytree(root / "site" / "live", out, dirs_exist_ok=True)
    files.write(out / "first.js", live_page.first(examples))
    files.write(out / "weights.js", live_page.weights())


def _book(root: Path, out: Path) -> None:
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise ValueError(
            f"The book's pages need {', '.join(lacking)}, not installed here: pip install "
            '".[site]" in the project\'s folder, or make the live page alone with --live.'
        )
    with tempfile.TemporaryDirectory(prefix="kvlab-site-") as made:
        source = Path(made)
        shutil.copytree(root / "site" / "book", source, dirs_exist_ok=True)
        for pattern in PAGES:
            for file in filter(Path.is_file, root.glob(pattern)):
                place = source / file.relative_to(root)
                place.parent.mkdir(parents=True, exist_ok=True)
                files.write(place, file.read_bytes())
        (source / "api").mkdir()
        for name in DESCRIBED:
            files.write(source / "api" / f"{name}.md", _names_of(name))
        command = [sys.executable, "-P", "-m", "sphinx", "-q", "-W", "--keep-going"]
        ran = subprocess.run(
            [*command, source, out], capture_output=True, text=True, check=False, cwd=root
        )
    if ran.returncode:
        said = ran.stderr.replace(f"{source}/", "").strip()
        raise ValueError(f"Sphinx found pages that are not right:\n{said[:4000]}")


def public(name: str) -> dict[str, object]:
    """A module's public names with what they are: its `__all__`, or what it defines itself."""
    module = importlib.import_module(name)
    if hasattr(module, "__all__"):
        return {own: getattr(module, own) for own in module.__all__}
    return {
        own: of
        for own, of in vars(module).items()
        if not own.startswith("_") and getattr(of, "__module__", "") == name
    }


def _names_of(name: str) -> str:
    """The page of a module's public names, with their docstrings."""
    more = ""
    if hasattr(importlib.import_module(name), "__all__"):
        others = [public(other) for other in DESCRIBED if other.startswith(f"{name}.")]
        elsewhere = [
            own for own, of in public(name).items() if any(o.get(own) is of for o in others)
        ]
        more = "   :imported-members:\n"
        more += f"   :exclude-members: {', '.join(elsewhere)}\n" if elsewhere else ""
    return f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n{more}```\n"
