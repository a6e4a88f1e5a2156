"""Compiled kernels, and why one may be missing."""

from __future__ import annotations

import importlib.util


def missing(name: str) -> str | None:
    """Why the kernels of one module cannot run here, or None if they can.

    `name` is "cpu" (numba).
    """
    needs = {"cpu": "numba"}[name]
    if importlib.util.find_spec(needs) is None:
        return f"{needs} is not installed (pip install {needs})"
    return None
