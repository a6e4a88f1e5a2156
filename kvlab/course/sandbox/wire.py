"""Messages between the judge and an answer's process: JSON for structure, safetensors for tensors.

Nothing here can carry code. A frame is two lengths, a JSON tree, and one safetensors block.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch

# A tree of numbers grows twentyfold when it is read, and laws make lists of what is in a block:
# both are far above what any exercise needs, and far below what could hurt the judge.
MAX_TREE_BYTES = 2**20
MAX_BLOCK_BYTES = 4 * 2**20


class Broken(Exception):
    """The other side sent something that is no message, or nothing at all."""


@dataclass(frozen=True)
class Ref:
    """Something that stays with the judge, in a message: its number, and what may be called."""

    number: int
    lends: tuple[str, ...] = ()


def pack(message: dict[str, Any]) -> bytes:
    """One message as bytes; tensors may stand anywhere in it.

    Raises: Broken for one that is too large to be received.
    """
    tensors: dict[str, torch.Tensor] = {}
    lowered = _lower(message, tensors)
    n_block = sum(t.numel() * t.element_size() for t in tensors.values())
    if n_block > MAX_BLOCK_BYTES:
        raise Broken(f"tensors of {n_block / 2**20:.0f} MiB are too many")
    tree, block = json.dumps(lowered).encode(), safetensors.torch.save(tensors)
    if len(tree) > MAX_TREE_BYTES:
        raise Broken(f"{len(tree) / 2**20:.0f} MiB of text and numbers are too many")
    return struct.pack("<II", len(tree), len(block)) + tree + block


def receive(read: Callable[[int], bytes]) -> dict[str, Any]:
    """Read one message; `read(n)` gives exactly n bytes or raises."""
    n_tree, n_block = struct.unpack("<II", read(8))
    if n_tree > MAX_TREE_BYTES or n_block > MAX_BLOCK_BYTES:
        raise Broken(f"a message of {(n_tree + n_block) / 2**20:.0f} MiB came")
    tree, block = read(n_tree), read(n_block)
    try:
        message = _raise_tree(json.loads(tree), safetensors.torch.load(block))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        raise Broken(f"a message could not be read: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise Broken("what came is no message")
    return message


def _lower(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu").contiguous().clone()
        return {"tensor": name}
    if isinstance(value, str) and len(value) > MAX_TREE_BYTES:
        raise Broken(f"a text of {len(value) / 2**20:.0f} million characters is too long")
    if isinstance(value, Ref):
        return {"ref": value.number, "lends": list(value.lends)}
    if isinstance(value, (list, tuple)):
        return [_lower(v, tensors) for v in value]
    if isinstance(value, dict):
        return {"dict": {k: _lower(v, tensors) for k, v in value.items()}}
    return value


def _raise_tree(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, list):
        return [_raise_tree(t, tensors) for t in tree]
    if isinstance(tree, dict):
        if "tensor" in tree:
            return tensors[tree["tensor"]]
        if "ref" in tree:
            return Ref(tree["ref"], tuple(tree["lends"]))
        return {k: _raise_tree(v, tensors) for k, v in tree["dict"].items()}
    return tree
