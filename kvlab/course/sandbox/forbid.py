"""What an exercise refuses: modules that would answer for the learner, functions of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


def refusal(module: str, allows: Sequence[str], forbids: Sequence[str]) -> str | None:
    """Why an answer may not use a module, or None: all of kvlab but `allows`, and all `forbids`."""
    ours = module.startswith("kvlab.") and module not in allows
    if ours or module in forbids or module.split(".")[0] in forbids:
        return f"{module} may not be used in this exercise: write it yourself"
    return None


def _refuse(name: str, names: Sequence[str]) -> None:
    if name in names:
        raise RuntimeError(f"{name} may not be used in this exercise: write it yourself")


class _Functions(TorchFunctionMode):
    """Meets torch's functions as they are called, under whatever name they were fetched."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names

    def __torch_function__(self, func, types, args=(), kwargs=None):
        _refuse(getattr(func, "__name__", "").split(".")[0], self._names)
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Meets what they come down to: `vstack` is a `cat`, and so is one in compiled code."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        _refuse(func._schema.name.split("::")[-1].strip("_"), self._names)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def without(names: Sequence[str]) -> Iterator[None]:
    """A block in which these of torch's functions raise."""
    with contextlib.ExitStack() as modes:
        if names:
            modes.enter_context(_Functions(names))
            modes.enter_context(_Operations(names))
        yield
