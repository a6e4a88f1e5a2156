"""What is installed here, what this machine has, and what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

# what needs it -> packages
NEEDS = {
    "engine": ("torch", "numpy", "safetensors", "tokenizers", "jinja2", "numba"),
    "book": ("jupyterlab", "ipywidgets", "anywidget", "matplotlib", "nbformat", "rich"),
    "tests": ("pytest", "pytest-timeout", "nbval", "nbclient", "hypothesis", "transformers",
              "playwright", "ruff"),
}  # fmt: skip
WAYS = {"passive": "passively", "active": "actively"}  # in which OpenMP's threads wait


def examine() -> dict[str, Any]:
    """Versions, devices and threads; `missing` lists what a reader of the book would need."""
    versions = {name: _version(name) for names in NEEDS.values() for name in names}
    # The tests' tools come with `kvlab test`; a reader misses nothing without them.
    missing = [
        f"{name} (for the {group})"
        for group in ("engine", "book")
        for name in NEEDS[group]
        if versions[name] is None
    ]
    if not (Path(__file__).parent.parent / "pocket" / "weights" / "model.safetensors").is_file():
        missing.append("the pocket model's weights (kvlab/pocket/weights)")
    return {
        "python": platform.python_version(),
        "environment": sys.prefix,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "versions": versions,
        "torch": _torch(),
        "chromium (browser tests only)": shutil.which("chromium")
        or shutil.which("chromium-browser"),
        "grading isolation": _isolation(),
        "missing": missing,
    }


def as_text(findings: dict[str, Any]) -> str:
    """The findings for people."""
    torch = findings["torch"]
    lines = [
        f"python      {findings['python']} on {findings['system']}, {findings['cores']} cores",
        f"environment {findings['environment']}",
    ]
    if torch:
        waiting = WAYS.get(torch["waiting"].lower(), torch["waiting"])
        lines.append(
            f"torch       {torch['version']} ({torch['build']}), {torch['threads']} threads, "
            f"waiting {waiting}"
        )
        lines += [f"device      {device}" for device in torch["devices"]]
    lines += [
        f"{group:<12}" + ", ".join(f"{n} {findings['versions'][n] or '-'}" for n in names)
        for group, names in NEEDS.items()
    ]
    browser = findings["chromium (browser tests only)"]
    lines.append(f"chromium    {browser or 'not found: the browser tests will skip'}")
    lines.append(f"grading     {findings['grading isolation']}")
    missing = findings["missing"]
    lines.append("missing     " + (", ".join(missing) if missing else "nothing"))
    if missing:
        lines.append("            `python3 -m kvlab lab`, from the project's folder, installs it.")
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any] | None:
    try:
        import torch
    except ImportError:
        return None
    from kvlab.measure import machine

    devices = ["cpu"]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i} {found.name}, {found.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        devices.append("mps, Apple's GPU")
    return {
        "version": torch.__version__,
        "build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only",
        "threads": torch.get_num_threads(),
        "waiting": machine()["waiting"],
        "devices": devices,
    }


def _isolation() -> str:
    from kvlab.course.sandbox import walls

    level = walls.best()
    return f"{level.name}. {level.says}"
