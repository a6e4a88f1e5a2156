"""What a value of the learner's is, asked so that no class of theirs can lie about it."""

from __future__ import annotations

from typing import Any

_MRO = type.__dict__["__mro__"]  # a metaclass may have another


def is_one_of(value: Any, *types: type) -> bool:
    """Is it of one of these very types? A metaclass may answer `==`, but not `is`."""
    return any(type(value) is kind for kind in types)


def derived(value: Any, *types: type) -> bool:
    """Is it of one of these types or of one made from them? By `type`, which cannot be lied to."""
    return any(base is kind for base in _MRO.__get__(type(value)) for kind in types)
