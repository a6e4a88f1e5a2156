"""Keys and values in fewer bytes: packed rows, rules that make them, a cache that holds them."""

from kvlab.pack.body import Body
from kvlab.pack.cache import PackedKVCache
from kvlab.pack.format import Format
from kvlab.pack.layer import PackedLayer
from kvlab.pack.rules import (
    Channels,
    CodesPerChannel,
    CodesPerToken,
    Dense,
    PerChannel,
    PerToken,
    Rule,
)

__all__ = [
    "Body", "Channels", "CodesPerChannel", "CodesPerToken", "Dense", "Format", "PackedKVCache",
    "PackedLayer", "PerChannel", "PerToken", "Rule",
]  # fmt: skip
