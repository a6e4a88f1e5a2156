"""Packed rows met with four query heads at once: products of rows and queries, mixtures of rows.

Rows are read in one of two ways. By places: a kept number is multiplied into four query heads at
once, which share its reading, the lanes of one vector; work follows N. Spread: some channels of a
row are put where their bits of its bitmap stand, 16 by one instruction of AVX-512 or 8 by AVX2 and
a table, and meet four heads' registers; work follows D, and a bitmap's places are not looked for.
D head width, N values kept per packed row, Z four query heads side by side (lanes), U rows or bytes
of a block, X channels worked on at once.
"""

from __future__ import annotations

import numpy as np

from kvlab.kernels import placing, simd
from kvlab.kernels.building import njit
from kvlab.kernels.placing import PLACE, PLACES, STRIDE
from kvlab.kernels.simd import LANES, WIDE

_SUMS = {"reassoc", "contract", "nsz", "arcp"}
_BITS = 8 * STRIDE  # what eight channels take


@njit()
def places_in(marks, n_kept, row, n_rows, n_bytes, scratch):
    """The places of `n_rows` rows' numbers, from row number `row` on, in `scratch`.

    `n_bytes` is the length of a bitmap, or 0 where the marks are channels' numbers.
    """
    if n_bytes == 0:
        # a slice, so that numba sees that no index is negative and reads many at once
        channels = marks[row * n_kept : (row + n_rows) * n_kept]
        for i in range(channels.size):
            scratch[i] = PLACE(channels[i]) * PLACE(STRIDE)
    else:
        _places_of(marks[row * n_bytes : (row + n_rows) * n_bytes], n_bytes, scratch)
    return scratch[: n_rows * n_kept]


@njit()
def _places_of(bitmaps_U, n_bytes, scratch):
    """Write the places of all ones of some bitmaps, one bitmap after the other."""
    at, words = 0, n_bytes // 8 * 8
    for first in range(0, bitmaps_U.size, n_bytes):
        for j in range(0, words, 8):
            word = simd.bits64(bitmaps_U, first + j)
            for i in range(8):
                byte = word & np.uint64(0xFF)
                placing.put_places(scratch, at, PLACES, byte, (j + i) * _BITS)
                at += simd.ones(byte)
                word >>= np.uint64(8)
        for j in range(words, n_bytes):
            byte = np.uint64(bitmaps_U[first + j])
            placing.put_places(scratch, at, PLACES, byte, j * _BITS)
            at += simd.ones(byte)


@njit()
def with_room(values, low, n, scratch):
    """`n` numbers from `low` on, behind which WIDE more may be read.

    Where `values` ends before that, they are copied to `scratch`.
    """
    if low + n + WIDE <= values.size:
        return values[low : low + n]
    scratch[:n] = values[low : low + n]
    return scratch[:n]


@njit(fastmath=_SUMS)
def products(places, numbers, n_rows, n_kept, q_DZ, scores, at):
    """Each row's product with four queries, four after four in `scores` from `at` on."""
    fours = n_kept // 4 * 4
    for u in range(n_rows):
        a0, a1, a2, a3 = simd.zeros4(), simd.zeros4(), simd.zeros4(), simd.zeros4()
        start = u * n_kept
        for j in range(start, start + fours, 4):
            four = simd.widened4(numbers, j)
            a0 = simd.fuse(a0, simd.lane0(four), _four(q_DZ, places, j))
            a1 = simd.fuse(a1, simd.lane1(four), _four(q_DZ, places, j + 1))
            a2 = simd.fuse(a2, simd.lane2(four), _four(q_DZ, places, j + 2))
            a3 = simd.fuse(a3, simd.lane3(four), _four(q_DZ, places, j + 3))
        for j in range(start + fours, start + n_kept):
            a0 = simd.fuse(a0, simd.every4(numbers, j), _four(q_DZ, places, j))
        simd.store(scores, at + u * LANES, simd.add(simd.add(a0, a1), simd.add(a2, a3)))


@njit(inline="always")
def _four(q_DZ, places, j):
    return placing.four_at(q_DZ, placing.place_of(places, j))


@njit(fastmath=_SUMS)
def mix(places, numbers, n_rows, n_kept, weights, at, mix_DZ):
    """Add each row to four mixtures, by the four weights that `weights` has for it."""
    fours = n_kept // 4 * 4
    for u in range(n_rows):
        weight = simd.load4(weights, at + u * LANES)
        start = u * n_kept
        for j in range(start, start + fours, 4):
            # no two of a row's places are the same
            four = simd.widened4(numbers, j)
            p0, p1 = placing.place_of(places, j), placing.place_of(places, j + 1)
            p2, p3 = placing.place_of(places, j + 2), placing.place_of(places, j + 3)
            m0, m1 = placing.four_at(mix_DZ, p0), placing.four_at(mix_DZ, p1)
            m2, m3 = placing.four_at(mix_DZ, p2), placing.four_at(mix_DZ, p3)
            placing.put_four(mix_DZ, p0, simd.fuse(m0, simd.lane0(four), weight))
            placing.put_four(mix_DZ, p1, simd.fuse(m1, simd.lane1(four), weight))
            placing.put_four(mix_DZ, p2, simd.fuse(m2, simd.lane2(four), weight))
            placing.put_four(mix_DZ, p3, simd.fuse(m3, simd.lane3(four), weight))
        for j in range(start + fours, start + n_kept):
            place = placing.place_of(places, j)
            old = placing.four_at(mix_DZ, place)
            placing.put_four(mix_DZ, place, simd.fuse(old, simd.every4(numbers, j), weight))


@njit(fastmath=_SUMS)
def products_spread(bitmaps, numbers, n_rows, n_kept, q_XZD, scores, at):
    """What `products` does, from bitmaps. The queries lie WIDE channels after WIDE channels.

    Two rows share the reading of the queries; an odd last row is its own partner.
    """
    width = q_XZD.size // LANES
    n_bytes = width // 8
    for u in range(0, n_rows, 2):
        a, b = simd.zeros(), simd.zeros()
        other = min(u + 1, n_rows - 1)
        a_at, b_at = u * n_kept, other * n_kept
        for d in range(0, width, WIDE):
            a_bits = simd.bits(bitmaps, u * n_bytes + d // 8)
            b_bits = simd.bits(bitmaps, other * n_bytes + d // 8)
            a_row = placing.spread(numbers, a_at, a_bits)
            b_row = placing.spread(numbers, b_at, b_bits)
            a_at += simd.ones(a_bits)
            b_at += simd.ones(b_bits)
            q = simd.load(q_XZD, d * LANES)
            a = simd.fuse(a, simd.for_all(a_row), q)
            b = simd.fuse(b, simd.for_all(b_row), q)
        simd.store(scores, at + u * LANES, simd.totals(a))
        simd.store(scores, at + other * LANES, simd.totals(b))


@njit(fastmath=_SUMS)
def mix_spread(bitmaps, numbers, n_rows, n_kept, weights, at, mix_XZD, place_U):
    """What `mix` does, from bitmaps. The mixtures lie WIDE channels after WIDE channels.

    Two blocks of channels share the reading of the weights.
    """
    width = mix_XZD.size // LANES
    for u in range(n_rows):
        place_U[u] = u * n_kept
    for d in range(0, width, 2 * WIDE):
        a_at, b_at = d * LANES, (d + WIDE) * LANES
        a, b = simd.load(mix_XZD, a_at), simd.load(mix_XZD, b_at)
        for u in range(n_rows):
            mark, place = (u * width + d) // 8, place_U[u]
            bits = simd.bits(bitmaps, mark)
            a_row = placing.spread(numbers, place, bits)
            place += simd.ones(bits)
            bits = simd.bits(bitmaps, mark + WIDE // 8)
            b_row = placing.spread(numbers, place, bits)
            place_U[u] = place + simd.ones(bits)
            weight = simd.weights(weights, at + u * LANES)
            a = simd.fuse(a, simd.for_all(a_row), weight)
            b = simd.fuse(b, simd.for_all(b_row), weight)
        simd.store(mix_XZD, a_at, a)
        simd.store(mix_XZD, b_at, b)
