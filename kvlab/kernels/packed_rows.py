"""Packed rows met with four query heads at once: products of rows and queries, mixtures of rows.

Rows are read in one of two ways. By places: a kept number is multiplied into four query heads at
once, which share its reading, the lanes of one vector; work follows N. Spread: 16 channels of a
row are spread over a register by 16 bits of its bitmap, in one instruction (AVX-512), and meet four
heads' registers; work follows D, and on the machine of `benchmarks/results/pruned.json` it was less
than finding the places of a bitmap's ones.
D head width, N values kept per packed row, Z four query heads side by side (lanes), U rows or bytes
of a block.
"""

from __future__ import annotations

import numpy as np

from kvlab.kernels import simd
from kvlab.kernels.building import njit
from kvlab.kernels.simd import LANES, WIDE

_SUMS = {"reassoc", "contract", "nsz", "arcp"}
# For each byte of a bitmap, the places of its ones, in the bytes of a word, from the low end.
_PLACES = np.array(
    [
        int.from_bytes(bytes(j for j in range(8) if byte >> j & 1).ljust(8, b"\0"), "little")
        for byte in range(256)
    ],
    dtype=np.uint64,
)


@njit()
def places_in(marks, n_kept, row, n_rows, n_bytes, scratch):
    """The places of `n_rows` rows' numbers, from row number `row` on.

    `n_bytes` is the length of a bitmap, or 0 where the marks are places already. Slices, here and
    for values, so that numba sees that no place is negative and reads many at once.
    """
    if n_bytes == 0:
        return marks[row * n_kept : (row + n_rows) * n_kept]
    _places_of(marks[row * n_bytes : (row + n_rows) * n_bytes], n_bytes, scratch)
    return scratch[: n_rows * n_kept]


@njit()
def _places_of(bitmaps_U, n_bytes, indices):
    """Write the places of all ones of some bitmaps, one bitmap after the other."""
    at, words = 0, n_bytes // 8 * 8
    for first in range(0, bitmaps_U.size, n_bytes):
        base = np.uint64(0)
        for j in range(0, words, 8):
            word = simd.bits64(bitmaps_U, first + j)
            for _ in range(8):
                byte = word & np.uint64(0xFF)
                # what lies beyond a row's last place is written over by the next
                simd.store(indices, at, _PLACES[byte] + base)
                base += np.uint64(0x0808080808080808)
                at += simd.ones(byte)
                word >>= np.uint64(8)
        for j in range(words, n_bytes):
            byte = np.uint64(bitmaps_U[first + j])
            simd.store(indices, at, _PLACES[byte] + base)
            base += np.uint64(0x0808080808080808)
            at += simd.ones(byte)


@njit(fastmath=_SUMS)
def products(places, numbers, n_rows, n_kept, q_DZ, scores, at):
    """Each row's product with four queries, four after four in `scores` from `at` on."""
    fours = n_kept // 4 * 4
    for u in range(n_rows):
        a0, a1, a2, a3 = simd.zeros4(), simd.zeros4(), simd.zeros4(), simd.zeros4()
        start = u * n_kept
        for j in range(start, start + fours, 4):
            a0 = simd.fuse(a0, simd.every4(numbers, j), simd.load4(q_DZ, simd.lanes_of(places, j)))
            a1 = simd.fuse(
                a1, simd.every4(numbers, j + 1), simd.load4(q_DZ, simd.lanes_of(places, j + 1))
            )
            a2 = simd.fuse(
                a2, simd.every4(numbers, j + 2), simd.load4(q_DZ, simd.lanes_of(places, j + 2))
            )
            a3 = simd.fuse(
                a3, simd.every4(numbers, j + 3), simd.load4(q_DZ, simd.lanes_of(places, j + 3))
            )
        for j in range(start + fours, start + n_kept):
            a0 = simd.fuse(a0, simd.every4(numbers, j), simd.load4(q_DZ, simd.lanes_of(places, j)))
        simd.store(scores, at + u * LANES, simd.add(simd.add(a0, a1), simd.add(a2, a3)))


@njit(fastmath=_SUMS)
def mix(places, numbers, n_rows, n_kept, weights, at, mix_DZ):
    """Add each row to four mixtures, by the four weights that `weights` has for it."""
    for u in range(n_rows):
        weight = simd.load4(weights, at + u * LANES)
        for j in range(u * n_kept, u * n_kept + n_kept):
            lanes = simd.lanes_of(places, j)
            simd.store(
                mix_DZ, lanes, simd.fuse(simd.load4(mix_DZ, lanes), simd.every4(numbers, j), weight)
            )


@njit(fastmath=_SUMS)
def products_spread(bitmaps, numbers, n_rows, n_kept, q_ZD, scores, at):
    """What `products` does, from bitmaps. The queries lie one after the other.

    Two rows share the reading of the queries; an odd last row is its own partner.
    """
    width = q_ZD.size // LANES
    n_bytes = width // 8
    for u in range(0, n_rows, 2):
        a0, a1, a2, a3 = simd.zeros16(), simd.zeros16(), simd.zeros16(), simd.zeros16()
        b0, b1, b2, b3 = simd.zeros16(), simd.zeros16(), simd.zeros16(), simd.zeros16()
        other = min(u + 1, n_rows - 1)
        a_at, b_at = u * n_kept, other * n_kept
        for d in range(0, width, WIDE):
            a_bits = simd.bits16(bitmaps, u * n_bytes + d // 8)
            b_bits = simd.bits16(bitmaps, other * n_bytes + d // 8)
            a_row, b_row = simd.spread(numbers, a_at, a_bits), simd.spread(numbers, b_at, b_bits)
            a_at += simd.ones(a_bits)
            b_at += simd.ones(b_bits)
            q0, q1 = simd.load16(q_ZD, d), simd.load16(q_ZD, width + d)
            q2, q3 = simd.load16(q_ZD, 2 * width + d), simd.load16(q_ZD, 3 * width + d)
            a0, b0 = simd.fuse(a0, a_row, q0), simd.fuse(b0, b_row, q0)
            a1, b1 = simd.fuse(a1, a_row, q1), simd.fuse(b1, b_row, q1)
            a2, b2 = simd.fuse(a2, a_row, q2), simd.fuse(b2, b_row, q2)
            a3, b3 = simd.fuse(a3, a_row, q3), simd.fuse(b3, b_row, q3)
        simd.store(scores, at + u * LANES, simd.totals(a0, a1, a2, a3))
        simd.store(scores, at + other * LANES, simd.totals(b0, b1, b2, b3))


@njit(fastmath=_SUMS)
def mix_spread(bitmaps, numbers, n_rows, n_kept, weights, at, mix_ZD, place_U):
    """What `mix` does, from bitmaps. The mixtures lie one after the other.

    Two blocks of channels share the reading of the weights.
    """
    width = mix_ZD.size // LANES
    second, third, fourth = width, 2 * width, 3 * width
    for u in range(n_rows):
        place_U[u] = u * n_kept
    for d in range(0, width, 2 * WIDE):
        e = d + WIDE
        a0, b0 = simd.load16(mix_ZD, d), simd.load16(mix_ZD, e)
        a1, b1 = simd.load16(mix_ZD, second + d), simd.load16(mix_ZD, second + e)
        a2, b2 = simd.load16(mix_ZD, third + d), simd.load16(mix_ZD, third + e)
        a3, b3 = simd.load16(mix_ZD, fourth + d), simd.load16(mix_ZD, fourth + e)
        for u in range(n_rows):
            mark, place, weight = (u * width + d) // 8, place_U[u], at + u * LANES
            bits = simd.bits16(bitmaps, mark)
            a_row = simd.spread(numbers, place, bits)
            place += simd.ones(bits)
            bits = simd.bits16(bitmaps, mark + 2)
            b_row = simd.spread(numbers, place, bits)
            place_U[u] = place + simd.ones(bits)
            w0, w1 = simd.every16(weights, weight), simd.every16(weights, weight + 1)
            w2, w3 = simd.every16(weights, weight + 2), simd.every16(weights, weight + 3)
            a0, b0 = simd.fuse(a0, a_row, w0), simd.fuse(b0, b_row, w0)
            a1, b1 = simd.fuse(a1, a_row, w1), simd.fuse(b1, b_row, w1)
            a2, b2 = simd.fuse(a2, a_row, w2), simd.fuse(b2, b_row, w2)
            a3, b3 = simd.fuse(a3, a_row, w3), simd.fuse(b3, b_row, w3)
        simd.store(mix_ZD, d, a0)
        simd.store(mix_ZD, e, b0)
        simd.store(mix_ZD, second + d, a1)
        simd.store(mix_ZD, second + e, b1)
        simd.store(mix_ZD, third + d, a2)
        simd.store(mix_ZD, third + e, b2)
        simd.store(mix_ZD, fourth + d, a3)
        simd.store(mix_ZD, fourth + e, b3)
