"""What every rule has beside its own way to hold numbers."""

from __future__ import annotations

from kvlab.pack.cache import PackedKVCache


class Format:
    """A rule that derives from it can be given to `model.new_cache(batch, capacity, k=, v=)`."""

    def cache_of(self, *sizes: int, **how: object) -> PackedKVCache:
        """An empty cache that holds keys and values by rules; arguments are `PackedKVCache`'s."""
        return PackedKVCache(*sizes, **how)

    def row_marks(self, width: int) -> str | None:
        """How attention's kernels find the kept numbers of each token's row: "bitmap" or "index".

        None says that they cannot read what this rule holds, so that it is unpacked.
        """
        return None
