"""What an exercise refuses: modules that would answer for the learner, functions of torch."""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# What computes the same, by a part of its name in small letters without underscores: functions,
# methods, operations and the classes of torch.nn.
_ATTENTION = (
    "scaleddotproduct", "flashattention", "efficientattention", "flexattention",
    "multiheadattention", "transformerencoder", "transformerdecoder",
)  # fmt: skip
_FAMILIES = {
    "softmax": (
        "softmax", "softmin", "logsumexp", "logcumsumexp", "logaddexp", "crossentropy", *_ATTENTION,
    ),
    "scaled_dot_product_attention": _ATTENTION,
}  # fmt: skip
_TORCH = os.path.dirname(torch.__file__) + os.sep
LIMIT = "tensors over "  # and a number: how many numbers an operation may put into new memory
IN_PYTHON = 6  # times as many may lie in Python's own memory at once: numpy's arrays, lists


def refusal(module: str, allows: Sequence[str], forbids: Sequence[str]) -> str | None:
    """Why an answer may not use a module, or None: all of kvlab but `allows`, and all `forbids`."""
    ours = module.startswith("kvlab.") and module not in allows
    if ours or module in forbids or module.split(".")[0] in forbids:
        return f"{module} may not be used in this exercise: write it yourself"
    return None


class _Ban:
    """Names that may not be called, and their families; how large a tensor may become."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        limits = [int(name.removeprefix(LIMIT)) for name in names if name.startswith(LIMIT)]
        self.most = min(limits, default=None)
        self._parts = [part for name in names for part in _FAMILIES.get(name, ())]

    def refuse(self, name: str) -> None:
        """Raise for what is called by a name."""
        plain = name.lower().replace("_", "")
        if name.strip("_") in self._names or any(part in plain for part in self._parts):
            raise RuntimeError(f"{name} may not be used in this exercise: write it yourself")

    def refuse_large(self, made: Any) -> None:
        """Raise for a tensor that takes more memory than is needed; a view takes none."""
        for x in made if isinstance(made, (tuple, list)) else (made,):
            if self.most is None or not isinstance(x, torch.Tensor):
                continue
            n_numbers = x.numel()
            if x.layout == torch.strided:
                n_numbers = x.untyped_storage().nbytes() // x.itemsize
            if n_numbers > self.most:
                raise RuntimeError(
                    f"a tensor of {n_numbers:,} numbers was made, and {self.most:,} are enough "
                    "here: something is copied that could be used where it lies"
                )

    def refuse_callers(self) -> None:
        """Raise where a function of torch's, in Python and by such a name, is at work."""
        frame = sys._getframe(2) if self._parts else None
        while frame is not None:
            if frame.f_code.co_filename.startswith(_TORCH):
                self.refuse(frame.f_code.co_qualname.replace(".<locals>", ""))
            frame = frame.f_back


class _Functions(TorchFunctionMode):
    """Meets torch's functions as they are called, under whatever name they were fetched."""

    def __init__(self, ban: _Ban) -> None:
        super().__init__()
        self._ban = ban

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self._ban.refuse(getattr(func, "__name__", "").split(".")[0])
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    """Meets what they come down to: `vstack` is a `cat`, and so is one in compiled code."""

    def __init__(self, ban: _Ban) -> None:
        super().__init__()
        self._ban = ban

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._ban.refuse(func._schema.name.split("::")[-1])
        self._ban.refuse_callers()
        made = func(*args, **(kwargs or {}))
        self._ban.refuse_large(made)
        return made


@contextlib.contextmanager
def without(names: Sequence[str]) -> Iterator[None]:
    """A block in which these of torch's functions raise, in threads that it starts as well."""
    if not names:
        yield
        return
    ban = _Ban(names)
    with _Functions(ban), _Operations(ban), _threads.bound_to(names), _pythons_memory(ban.most):
        yield


@contextlib.contextmanager
def _pythons_memory(most: int | None) -> Iterator[None]:
    """A block that refuses copies which numpy makes, whose operations torch does not see.

    What is left at its end, such as a module that was loaded, is not counted.
    """
    if most is None or tracemalloc.is_tracing():  # a thread of the answer's: the first one counts
        yield
        return
    tracemalloc.start()
    try:
        yield
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    n_numbers = (peak - now) // 8
    if n_numbers > IN_PYTHON * most:
        raise RuntimeError(
            f"arrays of numpy or lists of {n_numbers:,} numbers lay in memory, and arrays of "
            f"{most:,} are enough here: something is copied that could be used where it lies"
        )


class _Threads:
    """Modes hold in one thread: those that a thread under a ban starts are put under it too."""

    def __init__(self) -> None:
        self._here, self._lock, self._n_blocks = threading.local(), threading.Lock(), 0
        self._start, self._start_new = threading.Thread.start, _thread.start_new_thread

    @contextlib.contextmanager
    def bound_to(self, names: Sequence[str]) -> Iterator[None]:
        """A block whose new threads have this ban; Python's own way to start one comes back."""
        before, self._here.names = self._names, names
        self._put(1)
        try:
            yield
        finally:
            self._put(-1)
            self._here.names = before

    @property
    def _names(self) -> Sequence[str]:
        return getattr(self._here, "names", ())

    def _put(self, change: int) -> None:
        with self._lock:
            self._n_blocks += change
            if self._n_blocks:
                threading.Thread.start = lambda thread: self._start_thread(thread)
                _thread.start_new_thread = self._start_function
            else:
                threading.Thread.start = self._start
                _thread.start_new_thread = self._start_new

    def _start_thread(self, thread: threading.Thread) -> None:
        if self._names:
            thread._bootstrap = _under(self._names, thread._bootstrap)
        self._start(thread)

    def _start_function(self, function: Callable[..., Any], *more: Any) -> int:
        bound = _under(self._names, function) if self._names else function
        return self._start_new(bound, *more)


_threads = _Threads()


def _under(names: Sequence[str], function: Callable[..., Any]) -> Callable[..., Any]:
    def bound(*args: Any, **named: Any) -> Any:
        with without(names):
            return function(*args, **named)

    return bound
