"""Packing rows, compiled by numba: the largest numbers of each, and marks where they stood.

R rows, M numbers in a row, N kept of each, X bytes that mark a row's kept ones.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from kvlab.kernels.building import njit

# Rows that one thread packs before it looks for more work.
_SHARE = 512


@njit()
def _least_kept(key_M, n_kept):
    """The `n_kept`-th greatest of some whole numbers that are not negative, bit by bit."""
    least = np.int32(0)
    for bit in range(30, -1, -1):
        tried, count = np.int32(least | (1 << bit)), np.int32(0)
        for j in range(key_M.size):
            count = np.int32(count + (key_M[j] >= tried))  # numba would widen it
        if count >= n_kept:
            least = tried
            if count == n_kept:
                break
    return least


@njit()
def _pack_row(x_M, key_M, n_kept, value_M, place_M, mark_X, bitmap):
    """Put one row's greatest first in `value_M`, of equals the first, and mark which they are."""
    least = _least_kept(key_M, n_kept)
    free = n_kept
    for j in range(key_M.size):
        free -= key_M[j] > least
    at = 0
    for j in range(key_M.size):
        equal = (key_M[j] == least) & (free > 0)
        free -= equal
        # what is dropped is written over by the next
        value_M[at], place_M[at] = x_M[j], j
        at += equal | (key_M[j] > least)
    if not bitmap:
        mark_X[:] = place_M[:n_kept]
        return
    mark_X[:] = 0
    for i in range(n_kept):
        mark_X[place_M[i] >> 3] |= np.uint8(1 << (place_M[i] & 7))


@njit(parallel=True, nogil=True)
def pack(x_RM, key_RM, values_RN, marks_RX, bitmap):
    """Keep the N numbers of each row whose keys are greatest, of equal keys the first.

    Keys are whole numbers of 32 bits that are not negative: floats without a sign, by their bits.
    """
    n_rows, width = x_RM.shape
    for part in prange((n_rows + _SHARE - 1) // _SHARE):
        # one place more, where what comes after a row's last lands
        value_M = np.empty(width + 1, x_RM.dtype)
        place_M = np.empty(width + 1, np.int64)
        for row in range(part * _SHARE, min(n_rows, part * _SHARE + _SHARE)):
            _pack_row(
                x_RM[row], key_RM[row], values_RN.shape[1], value_M, place_M, marks_RX[row], bitmap
            )
            values_RN[row] = value_M[: values_RN.shape[1]]
