"""Names of a module that are others now: the old ones work for this release, with a warning."""

import warnings
from importlib import import_module


def former(module, **new):
    """A `__getattr__` for the module: each old name is looked up under its new one.

    A new name with a dot is that of another module: "kvlab.view.pareto.plot".
    """

    def __getattr__(name):
        if name not in new:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        where, _, now = new[name].rpartition(".")
        warnings.warn(
            f"{module}.{name} is now {where or module}.{now}; the old name will go with the next "
            "release.",
            FutureWarning,
            stacklevel=2,
        )
        return getattr(import_module(where or module), now)

    return __getattr__
