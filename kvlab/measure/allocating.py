"""How much new memory some operations of torch ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kvlab import checks


def new_bytes(call: Callable[[], Any]) -> int:
    """Bytes that the operations in a call put into memory of their own; views put none.

    What an operation needs inside and gives back before it ends is not seen.
    Raises: ValueError for what cannot be called.
    """
    checks.functions(call=call)
    with _Allocations() as seen:
        call()
    return seen.n_bytes


class _Allocations(TorchDispatchMode):
    """Adds up the results of operations that lie where none of their arguments lies."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        known = set(_storages((args, kwargs)))
        self.n_bytes += sum(n for at, n in _storages(made).items() if at not in known)
        return made


def _storages(tree: Any) -> dict[int, int]:
    """Address and bytes of the memory behind each dense tensor in there."""
    dense = [x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.layout == torch.strided]
    return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in dense}
