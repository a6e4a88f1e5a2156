"""What reading a packed row takes once it is in the processor's cache, part by part.

A part of `benchmarks.pruned`: where bytes are near, what is left is work. Beside each part stand
its multiply-adds, counted, and the time that they alone would take: a register of WIDE numbers
each where rows are spread, four numbers each where they are read by places.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from kvlab.kernels import packed_rows as rows
from kvlab.kernels import placing, simd
from kvlab.measure import interleaved

LANES, WIDE = simd.LANES, simd.WIDE
N_ROWS, REPEATS = 32, 200  # as many rows as the kernel makes ready at once
WAYS = ("keys, spread", "values, spread", "keys, places", "values, places")
FINDING = ("places of a bitmap", "places of indices")
_SUMS = {"reassoc", "contract", "nsz", "arcp"}


@njit(fastmath=_SUMS)
def _repeat(way, marks, places, numbers, n_kept, n_bytes, q, scores, mixed, n):
    scratch = np.empty(N_ROWS * n_kept + 8, placing.PLACE)
    place_U = np.empty(N_ROWS, np.int64)
    for _ in range(n):
        if way == 0:
            rows.products_spread(marks, numbers, N_ROWS, n_kept, q, scores, 0)
        elif way == 1:
            rows.mix_spread(marks, numbers, N_ROWS, n_kept, scores, 0, mixed, place_U)
        elif way == 2:
            rows.products(places, numbers, N_ROWS, n_kept, q, scores, 0)
        elif way == 3:
            rows.mix(places, numbers, N_ROWS, n_kept, scores, 0, mixed)
        else:
            rows.places_in(marks, n_kept, 0, N_ROWS, n_bytes, scratch)


@njit(fastmath=_SUMS)
def _bare(numbers, out, n):
    """Multiply-adds alone: three times four heads' registers, so that none waits for another."""
    x, y = simd.load(numbers, 0), simd.load(numbers, LANES * WIDE)
    a, b, c = x, y, simd.zeros()
    for _ in range(n):
        a, b, c = simd.fuse(x, a, y), simd.fuse(x, b, y), simd.fuse(x, c, y)
    simd.store(out, 0, simd.totals(a))
    simd.store(out, LANES, simd.totals(simd.fuse(b, c, x)))


def work(width: int, kept: tuple[int, ...], rounds: int) -> Iterator[dict[str, Any]]:
    """Nanoseconds for a row of `width` channels of which some are kept, for four query heads."""
    rng = np.random.default_rng(0)
    q, mixed = (rng.standard_normal(width * LANES).astype(np.float32) for _ in range(2))
    scores = rng.standard_normal(N_ROWS * LANES).astype(np.float32)
    for n_kept in kept:
        for name, stored in (("float32", np.float32), ("float16", np.float16)):
            chosen = np.sort(
                rng.permuted(np.tile(np.arange(width), (N_ROWS, 1)), axis=1)[:, :n_kept]
            )
            is_kept = np.zeros((N_ROWS, width), bool)
            np.put_along_axis(is_kept, chosen, True, axis=1)
            bitmap = np.packbits(is_kept, axis=1, bitorder="little").reshape(-1)
            index = chosen.astype(np.uint8).reshape(-1)
            places = (chosen * placing.STRIDE).astype(placing.PLACE).reshape(-1)
            numbers = rng.standard_normal(N_ROWS * n_kept + WIDE).astype(stored)
            numbers = numbers.view(np.int16) if stored is np.float16 else numbers
            runs = {}
            for i, way in enumerate((*WAYS, *FINDING)):
                if "spread" in way and not (placing.SPREADS and width % (2 * WIDE) == 0):
                    continue  # as in `kernels.packed.spread`
                by_index = way == FINDING[1]
                marks, n_bytes = (index, 0) if by_index else (bitmap, width // 8)
                runs[way] = partial(
                    _repeat, i, marks, places, numbers, n_kept, n_bytes, q, scores, mixed, REPEATS
                )
            yield from _measured(runs, width, n_kept, name, rounds)


def _measured(runs, width, n_kept, name, rounds) -> Iterator[dict[str, Any]]:
    out = np.empty(2 * LANES, np.float32)
    bare = np.full(2 * LANES * WIDE, 0.5, np.float32)
    alone = 3 * N_ROWS * REPEATS
    seconds = interleaved(
        {**runs, "multiply-adds": partial(_bare, bare, out, alone)}, rounds=rounds, warm_up=2
    )
    # of a register of WIDE numbers
    one = 1e9 * statistics.median(seconds.pop("multiply-adds")) / (3 * alone * LANES)
    for way, found in seconds.items():
        nanoseconds = 1e9 * statistics.median(found) / (N_ROWS * REPEATS)
        adds = 0 if way in FINDING else LANES * width // WIDE if "spread" in way else n_kept
        yield {
            "what": "work",
            "name": way,
            "dtype": name,
            "width": width,
            "kept": n_kept,
            "register": WIDE if "spread" in way else LANES,
            "nanoseconds": round(nanoseconds, 2),
            "multiply_adds": adds,
            "nanoseconds_alone": round(adds * one, 2) if "spread" in way else None,
        }
