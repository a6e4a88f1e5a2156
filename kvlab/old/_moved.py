"""Modules that have moved: their old names work for this release, with one warning each."""

import sys
import warnings
from importlib import import_module


def moved(old, *new):
    """Give the module `old` the names of the new ones, and warn whoever imports it.

    One new module takes the old one's place as it is.
    """
    places = " and ".join(new)
    frame = sys._getframe(2)  # the importing line, below Python's machinery of imports
    while frame.f_globals.get("__name__", "").split(".")[0] in _MACHINERY and frame.f_back:
        frame = frame.f_back
    warnings.warn_explicit(
        old + " has moved to " + places + "; the old name will go with the next release.",
        FutureWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
    )
    modules = [import_module(name) for name in new]
    if len(modules) == 1:
        sys.modules[old] = modules[0]
        return
    for module in reversed(modules):
        names = {name: value for name, value in vars(module).items() if not name.startswith("__")}
        vars(sys.modules[old]).update(names)


_MACHINERY = {"kvlab", "importlib", "_frozen_importlib"}
