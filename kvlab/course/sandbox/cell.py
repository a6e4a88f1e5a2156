"""The world that an answer's cell runs in: what a notebook has besides, and what is refused."""

from __future__ import annotations

import builtins
import linecache
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

import torch

from kvlab.course.sandbox.forbid import refusal
from kvlab.course.sandbox.magics import python_of

_NAME = "<answer>"
# What a reader's notebook offers to every cell; here nothing comes of it.
OFFERED = ("check", "hint", "display", "get_ipython")
# What shows something in a notebook: a grader's machine may not have it, and nobody looks there.
_FOR_THE_EYE = ("IPython", "ipywidgets")
_CHECKS = ("check", "hint")
_THEIR_HOMES = ("kvlab.course", "kvlab.course.checking")


class Quiet:
    """Can be called and asked for anything, and does nothing: `check` in an answer's cell."""

    def __call__(self, *args: Any, **named: Any) -> Quiet:
        return self

    def __getattr__(self, name: str) -> Quiet:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __repr__(self) -> str:
        return ""


class Cell:
    """An answer's cell. It runs as `__main__`, as in a notebook."""

    def __init__(self, allows: list[str], forbids: list[str]) -> None:
        refuse, quiet = Refuse(allows, forbids), Quiet()
        sys.meta_path.insert(0, refuse)
        main = sys.modules["__main__"] = ModuleType("__main__")
        own = {**vars(builtins), **dict.fromkeys(OFFERED, quiet), "__import__": refuse.import_}
        self.names = vars(main)
        self.names.update(__builtins__=own, torch=torch)
        for name in _CHECKS:
            setattr(sys.modules["kvlab"], name, quiet)

    def run(self, source: str) -> None:
        """Run the cell; its names stay. Errors are those of its own code."""
        plain = python_of(source)
        linecache.cache[_NAME] = (len(plain), None, plain.splitlines(True), _NAME)
        exec(compile(plain, _NAME, "exec", dont_inherit=True), self.names)


class Refuse(MetaPathFinder):
    """Imports that would answer the question for the learner are refused by name.

    As a finder it meets what is not loaded yet, whoever asks. As the cell's own `__import__` it
    also meets what this process has loaded for itself.
    """

    def __init__(self, allows: list[str], forbids: list[str]) -> None:
        self._allows, self._forbids = allows, forbids

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if why := refusal(name, self._allows, self._forbids):
            raise ImportError(why)

    def import_(self, name: str, *args: Any, **named: Any) -> Any:
        if name.partition(".")[0] in _FOR_THE_EYE:
            return Quiet()
        wanted = args[2] if len(args) > 2 else named.get("fromlist")
        if name in _THEIR_HOMES and wanted and set(wanted) <= set(_CHECKS):
            return Quiet()
        self.find_spec(name)
        return builtins.__import__(name, *args, **named)
