"""Attention of single tokens to keys and values in blocks, compiled by numba, read where they lie.

B rows (one new token each), H query heads, G key/value heads, R = H / G, K blocks of a table, N
slots of all blocks, T slots of a row, D head width.

A row's table says in which block each stretch of its slots is, so nothing is gathered: that is how
engines on GPUs read as well. Half precision comes in as integers of the same bits, as in
`kernels.floats`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from kvlab.kernels.building import njit
from kvlab.kernels.floats import exp, narrow, prefetch, widen

_SUMS = {"reassoc", "contract", "nsz", "arcp"}


@njit()
def _ask(flat, start, stop):
    """Ask memory for all numbers between two places."""
    for near in range(start, stop, 64 // flat.itemsize):
        prefetch(flat, near)


@njit(fastmath=_SUMS)
def _products(q_RD, k_ND, table_K, size, scores_RT):
    """Products of a group's queries with its keys. All heads take their turn at a block before the
    next one is read, for which memory is asked meanwhile."""
    used, width, flat = scores_RT.shape[1], q_RD.shape[1], k_ND.reshape(k_ND.size)
    for low in range(0, used, size):
        first, n = table_K[low // size] * size, min(size, used - low)
        if low + size < used:
            ahead = table_K[low // size + 1] * size * width
            _ask(flat, ahead, ahead + size * width)
        for r in range(q_RD.shape[0]):
            q_D, scores = q_RD[r], scores_RT[r, low : low + n]
            for t in range(n):
                k_D, total = k_ND[first + t], q_D.dtype.type(0)
                for d in range(width):
                    total += q_D[d] * widen(k_D[d])
                scores[t] = total


@njit(fastmath=_SUMS)
def _softmax(scores):
    """Weights in place of scores."""
    most, total = scores.max(), scores.dtype.type(0)
    for t in range(scores.size):
        scores[t] = exp(scores[t] - most)
    for t in range(scores.size):
        total += scores[t]
    for t in range(scores.size):
        scores[t] /= total


@njit(fastmath=_SUMS)
def _mix(weights_RT, v_ND, table_K, size, mix_RD):
    """Values mixed by a group's weights."""
    used, width, flat = weights_RT.shape[1], mix_RD.shape[1], v_ND.reshape(v_ND.size)
    for low in range(0, used, size):
        first, n = table_K[low // size] * size, min(size, used - low)
        if low + size < used:
            ahead = table_K[low // size + 1] * size * width
            _ask(flat, ahead, ahead + size * width)
        for r in range(mix_RD.shape[0]):
            mix_D, weights = mix_RD[r], weights_RT[r, low : low + n]
            for t in range(n):
                weight, v_D = weights[t], v_ND[first + t]
                for d in range(width):
                    mix_D[d] += weight * widen(v_D[d])


@njit(parallel=True, fastmath=_SUMS)
def attend(new, k_GND, v_GND, table_BK, used_B, size, like, out_BHD):
    """Write one new token per row to its slot, and let it attend to all slots up to that.

    `new` is (q_BHD, k_BGD, v_BGD). Row b has `used_B[b]` slots, the new token's the last, in blocks
    of `size`. `like` is of the type that is worked in: float32, or float64 for float64.
    """
    q_BHD, k_BGD, v_BGD = new
    n_rows, n_heads, width = q_BHD.shape
    n_groups, kind = k_GND.shape[0], like.dtype.type
    sharing, scale = n_heads // n_groups, kind(1 / np.sqrt(width))
    for item in prange(n_rows * n_groups):
        b, g = item // n_groups, item % n_groups
        used, table_K = used_B[b], table_BK[b]
        slot = table_K[(used - 1) // size] * size + (used - 1) % size
        q_RD = np.empty((sharing, width), like.dtype)
        scores_RT = np.empty((sharing, used), like.dtype)
        mix_RD = np.zeros((sharing, width), like.dtype)
        for d in range(width):
            k_GND[g, slot, d] = narrow(widen(k_BGD[b, g, d]), k_GND[g, slot, d])
            v_GND[g, slot, d] = narrow(widen(v_BGD[b, g, d]), v_GND[g, slot, d])
            for r in range(sharing):
                q_RD[r, d] = widen(q_BHD[b, g * sharing + r, d]) * scale
        _products(q_RD, k_GND[g], table_K, size, scores_RT)
        for r in range(sharing):
            _softmax(scores_RT[r])
        _mix(scores_RT, v_GND[g], table_K, size, mix_RD)
        for r in range(sharing):
            for d in range(width):
                out_D = out_BHD[b, g * sharing + r]
                out_D[d] = narrow(mix_RD[r, d], out_D[d])
