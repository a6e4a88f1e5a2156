"""Exercise notebooks: read answers, make the learner's copy from the solution, tidy chapters.

A solution notebook carries nbgrader's cell metadata. Between `### BEGIN SOLUTION` and
`### END SOLUTION` stands what the learner writes; between `### BEGIN HIDDEN TESTS` and
`### END HIDDEN TESTS` what only the teacher sees.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from kvlab import files

STUB = 'raise NotImplementedError("not answered yet")'

_SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION\n?", re.M | re.S)
_HIDDEN = re.compile(
    r"^[ \t]*### BEGIN HIDDEN TESTS\n.*?^[ \t]*### END HIDDEN TESTS\n?", re.M | re.S
)

MAX_BYTES = 32 * 2**20

Notebook = dict[str, Any]


def read(path: str | Path) -> Notebook:
    """A notebook file as JSON.

    Raises: ValueError when it is missing, is not JSON, or is JSON but not a notebook.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is not a file; expected a notebook (.ipynb).")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(
                f"{path} has {path.stat().st_size / 2**20:.0f} MiB; a notebook of more than "
                f"{MAX_BYTES / 2**20:.0f} is not read. Clear its outputs and save it."
            )
        found = json.loads(path.read_bytes())  # UTF-8 or UTF-16, marked or not
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; expected a notebook (.ipynb).") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not a notebook: it is not JSON (line {error.lineno}). Download it again, "
            "or save it from Jupyter with File > Save."
        ) from None
    except RecursionError:
        raise ValueError(f"{path} is not a notebook: it is nested too deep.") from None
    except ValueError as error:
        if "integer string conversion" not in str(error):
            raise
        raise ValueError(
            f"{path} is not a notebook: a number in it has thousands of digits."
        ) from None
    cells = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(cells, list) or not all(isinstance(c, dict) for c in cells):
        raise ValueError(f"{path} is JSON, but not a notebook: it has no list of cells.")
    return found


def write(path: str | Path, notebook: Notebook) -> None:
    """Write a notebook whole or not at all."""
    files.write(path, json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


def source(cell: dict[str, Any]) -> str:
    """A cell's text; the format allows one string or a list of lines."""
    text = cell.get("source", "")
    return "".join(map(str, text)) if isinstance(text, list) else str(text)


def grade_id(cell: dict[str, Any]) -> str:
    """nbgrader's name of a cell, "" where it has none."""
    meta = cell.get("metadata")
    grader = meta.get("nbgrader") if isinstance(meta, dict) else None
    return str(grader.get("grade_id", "")) if isinstance(grader, dict) else ""


def student(notebook: Notebook) -> str:
    """Whose notebook it says it is, "" where it does not."""
    meta = notebook.get("metadata")
    ours = meta.get("kvlab") if isinstance(meta, dict) else None
    return str(ours.get("student", ""))[:200] if isinstance(ours, dict) else ""


def answers(notebook: Notebook) -> dict[str, str]:
    """The source of each answer cell by its grade id.

    Of several with one id (a cell that was copied), the last that is more than the stub counts.
    """
    found: dict[str, str] = {}
    for cell in notebook["cells"]:
        meta = cell.get("metadata")
        meta = meta.get("nbgrader") if isinstance(meta, dict) else None
        if cell.get("cell_type") != "code" or not isinstance(meta, dict):
            continue
        name, text = grade_id(cell), source(cell)
        if meta.get("solution") and (name not in found or STUB not in text):
            found[name] = text
    return found


def collect(notebook: Notebook, names: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Answers by grade id, and what was odd about the notebook.

    `names` maps a grade id to what its cell must define: a cell that lost its metadata is still
    found by that.
    """
    found, notes = answers(notebook), []
    ids = Counter(grade_id(c) for c in notebook["cells"] if c.get("cell_type") == "code")
    twice = sorted(name for name in names if ids[name] > 1)
    if twice:
        notes.append(f"{', '.join(twice)} is there more than once: the last one that was filled in")
    lost, elsewhere = [], []
    cells = [source(c) for c in notebook["cells"] if c.get("cell_type") == "code"]
    for name, defines in names.items():
        if name not in found or STUB in found[name]:
            made = [t for t in cells if re.search(rf"^(?:def|class)\s+{defines}\b", t, re.M)]
            made = [t for t in made if name not in found or STUB not in t]
            if made:
                (elsewhere if name in found else lost).append(name)
                found[name] = made[-1]
    if lost:
        notes.append(f"{', '.join(lost)} lost its metadata and was found by the name it defines")
    if elsewhere:
        notes.append(
            f"the cell of {', '.join(elsewhere)} still holds the stub; another cell that defines "
            "what was asked for was graded"
        )
    kernel = _kernel(notebook)
    if kernel:
        notes.append(f"the notebook is for {kernel}; its answers were run as Python")
    return {name: text for name, text in found.items() if name in names}, notes


def _kernel(notebook: Notebook) -> str:
    """The language of the notebook's kernel if it is not Python."""
    meta = notebook.get("metadata")
    spec = meta.get("kernelspec") if isinstance(meta, dict) else None
    language = spec.get("language", "python") if isinstance(spec, dict) else "python"
    return "" if str(language).lower() == "python" else str(language)[:40]


def _well_formed(function: Callable[[Notebook], Notebook]) -> Callable[[Notebook], Notebook]:
    """A decorator: what a cell or an output lacks is a refusal."""

    @wraps(function)
    def called(notebook: Notebook) -> Notebook:
        try:
            return function(notebook)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "The notebook's cells or outputs are not as the format has them "
                f"({type(error).__name__}: {str(error)[:100]}). Open it in Jupyter and save it."
            ) from None

    return called


@_well_formed
def release(notebook: Notebook) -> Notebook:
    """The learner's copy: solutions become a stub, hidden tests and outputs go."""
    cells = []
    for cell in notebook["cells"]:
        new = {**cell, "source": _lines(_strip(source(cell)))}
        if cell["cell_type"] == "code":
            new |= {"outputs": [], "execution_count": None}
        cells.append(new)
    return {**notebook, "cells": cells}


def _strip(text: str) -> str:
    text = _SOLUTION.sub(lambda found: f"{found[1]}{STUB}\n", text)
    return _HIDDEN.sub("", text).rstrip("\n")


@_well_formed
def normalise(notebook: Notebook) -> Notebook:
    """The same notebook without what differs from run to run: times, kernels, widget state.

    Outputs stay, and cells that were run keep a count (1, 2, 3, ...), since strict nbval silently
    skips a cell that has none. What is tagged "hide-cell" (machinery, such as asserts) or
    "hide-input" (its output is for the reader) is folded away in JupyterLab, too.
    """
    cells, count = [], 0
    for i, cell in enumerate(notebook["cells"]):
        meta = {k: v for k, v in cell.get("metadata", {}).items() if k in ("nbgrader", "tags")}
        if not {"hide-cell", "hide-input"}.isdisjoint(meta.get("tags", ())):
            meta["jupyter"] = {"source_hidden": True}
        new = {
            "cell_type": cell["cell_type"],
            "id": f"cell-{i + 1:02d}",
            "metadata": meta,
            "source": _lines(source(cell)),
        }
        if cell["cell_type"] == "code":
            ran = cell.get("execution_count") is not None
            count += ran
            new["execution_count"] = count if ran else None
            new["outputs"] = [_tidy_output(o, count) for o in _merged(cell.get("outputs", []))]
        cells.append(new)
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _merged(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring pieces of one stream as one: where they break depends on timing."""
    merged: list[dict[str, Any]] = []
    for output in outputs:
        text = output.get("text")
        if (
            output["output_type"] == "stream"
            and merged
            and merged[-1].get("name") == output["name"]
        ):
            merged[-1] = {**merged[-1], "text": _text(merged[-1]["text"]) + _text(text)}
        else:
            merged.append(dict(output))
    return merged


def _tidy_output(output: dict[str, Any], count: int) -> dict[str, Any]:
    """One output without ids that a live kernel hands out."""
    output = dict(output)
    if output["output_type"] == "stream":
        output["text"] = _lines(_text(output["text"]))
    if output["output_type"] == "execute_result":
        output["execution_count"] = count
    if "data" in output:
        data = dict(output["data"])
        data.pop("application/vnd.jupyter.widget-view+json", None)
        output["data"] = data
        output["metadata"] = {}
    return output


def _text(text: str | list[str]) -> str:
    return "".join(text) if isinstance(text, list) else text


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)
