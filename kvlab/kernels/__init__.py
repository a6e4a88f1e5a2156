"""Compiled kernels, why one may be missing, and how tensors and threads reach those of numba."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# A model whose weights are fewer bytes runs on one thread: its steps are so short that two would
# mostly wait for each other (`python -m benchmarks.threads`).
ONE_THREAD_BYTES = 16 << 20


def missing(name: str) -> str | None:
    """Why the kernels of one module cannot run here, or None if they can.

    `name` is "cpu", "blocks", "packed" or "packing" (numba), or "packed_triton".
    """
    needs = "triton" if name == "packed_triton" else "numba"
    if importlib.util.find_spec(needs) is None:
        return f"{needs} is not installed (pip install {needs})"
    return None


def as_numpy(stored: Tensor) -> np.ndarray:
    """A tensor's memory as numpy; half precision as integers of the same bits."""
    import torch

    bits = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}.get(stored.dtype)
    stored = stored.detach()
    return (stored if bits is None else stored.view(bits)).contiguous().numpy()


@contextmanager
def numba_threads(n: int) -> Iterator[None]:
    """numba's threads for a while."""
    import numba
    import torch

    of_torch = torch.get_num_threads()
    # the first time, this starts numba's threads, and the OpenMP that torch shares gets their count
    before = numba.get_num_threads()
    if torch.get_num_threads() != of_torch:
        torch.set_num_threads(of_torch)
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)


_OLD = {"numbers": "as_numpy", "threads": "numba_threads"}


def __getattr__(name: str):
    if name in _OLD:
        new = _OLD[name]
        warnings.warn(
            f"kvlab.kernels.{name} is {new} now; the old name will go with the next release.",
            FutureWarning,
            stacklevel=2,
        )
        return globals()[new]
    raise AttributeError(f"module 'kvlab.kernels' has no attribute {name!r}")
