"""Building the pages: what anybody can read in a browser, without installing anything."""

from __future__ import annotations

import shutil
from pathlib import Path

from kvlab import files
from kvlab.shell.bootstrap import ROOT
from kvlab.shell.lab import has_folders


def build(out: str | Path, root: Path = ROOT) -> Path | None:
    """Write the site into a folder; the live page is `live/index.html` in it.

    Returns the folder, or None, having said why, where the project's own folder is not here.
    Raises: OSError for a folder that cannot be written.
    """
    if not has_folders(root, "site"):
        return None
    from kvlab.shell import live_page
    from kvlab.shell.demo import FACTS, QUESTION

    examples = (
        ("Four passwords", FACTS, QUESTION),
        ("The capital of France", "System: You are helpful.", "What is the capital of France?"),
        ("A king and a queen, to go on with", "A man can be a king. A woman can be a", ""),
    )
    out = Path(out)
    shutil.copytree(root / "site" / "live", out / "live", dirs_exist_ok=True)
    files.write(out / "live" / "first.js", live_page.first(examples))
    files.write(out / "live" / "weights.js", live_page.weights())
    return out
