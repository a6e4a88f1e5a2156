"""Decode attention on packed rows, compiled by numba: nothing is unpacked to memory.

B rows (one new token each), H query heads, G key/value heads, R = H / G, T slots, D head width,
N values kept per packed row, P parts of the slots, Z four query heads side by side (lanes).

Rows are read by places or spread, as `packed_rows` says, for four query heads at once. More than
four heads per group take turns of four; fewer leave lanes idle. Half precision comes in as integers
of the same bits, as in `kernels.floats`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from kvlab.kernels import placing, simd
from kvlab.kernels.building import njit
from kvlab.kernels.floats import exp, widen
from kvlab.kernels.packed_rows import (
    mix,
    mix_spread,
    places_in,
    products,
    products_spread,
    with_room,
)
from kvlab.kernels.placing import PLACE
from kvlab.kernels.simd import LANES, WIDE

_SUMS = {"reassoc", "contract", "nsz", "arcp"}
# Slots that one thread attends to before it looks for more work.
PART = 512
# Rows whose places are made ready at once, in the first-level cache.
_BLOCK = 32


@njit(fastmath=_SUMS)
def _softmax(scores, most_Z, sum_Z):
    """Weights in place of four heads' scores, side by side; their greatest score and their sum.

    Many slots at once, and one after the other what is left at the end.
    """
    if scores.size == 0:
        most_Z[:], sum_Z[:] = -np.inf, 0
        return
    step, found = LANES * WIDE, np.empty(LANES * WIDE, np.float32)
    many = scores.size // step * step
    most = simd.load4(scores, 0)
    if many:
        at_once = simd.load(scores, 0)
        for t in range(step, many, step):
            at_once = simd.most(at_once, simd.load(scores, t))
        simd.store(found, 0, at_once)
        for t in range(0, step, LANES):
            most = simd.most(most, simd.load4(found, t))
    for t in range(many, scores.size, LANES):
        most = simd.most(most, simd.load4(scores, t))
    simd.store(most_Z, 0, most)
    most_at_once = simd.repeated(most)
    for t in range(0, many, step):
        simd.store(scores, t, simd.minus(simd.load(scores, t), most_at_once))
    for t in range(many, scores.size, LANES):
        simd.store(scores, t, simd.minus(simd.load4(scores, t), most))
    for i in range(scores.size):
        # where nothing may be seen, it is minus infinity, or no number
        scores[i] = exp(scores[i]) if scores[i] > -np.inf else np.float32(0)
    total, total_at_once = simd.zeros4(), simd.zeros()
    for t in range(0, many, step):
        total_at_once = simd.add(total_at_once, simd.load(scores, t))
    simd.store(found, 0, total_at_once)
    for t in range(0, step, LANES):
        total = simd.add(total, simd.load4(found, t))
    for t in range(many, scores.size, LANES):
        total = simd.add(total, simd.load4(scores, t))
    simd.store(sum_Z, 0, total)


@njit()
def _hide(scores_ZT, pos_T, q_pos, whole):
    """Slots that may not be seen score minus infinity."""
    if not whole:
        for t in range(pos_T.size):
            if pos_T[t] < 0 or pos_T[t] > q_pos:
                scores_ZT[:, t * LANES : t * LANES + LANES] = -np.inf


@njit(fastmath=_SUMS)
def _packed_part(k, v, row, n_rows, q_ZDZ, spread, seen, most_Z, sum_Z, mix_ZDZ):
    """Attention of all Z x 4 heads of a group to one part of the body.

    Queries and mixtures are laid out as rows are read; see `_laid_out`.
    """
    (k_values, k_marks, k_kept, k_bytes), (v_values, v_marks, v_kept, v_bytes) = k, v
    n_fours = q_ZDZ.shape[0]
    scores_ZT = np.empty((n_fours, n_rows * LANES), np.float32)
    some_places = np.empty(_BLOCK * max(k_kept, v_kept) + 8, PLACE)
    k_room = np.empty(_BLOCK * k_kept + WIDE, k_values.dtype)
    v_room = np.empty(_BLOCK * v_kept + WIDE, v_values.dtype)
    place_U = np.empty(_BLOCK, np.int64)
    for low in range(0, n_rows, _BLOCK):
        n, first, at = min(_BLOCK, n_rows - low), row + low, low * LANES
        numbers = with_room(k_values, first * k_kept, n * k_kept, k_room)
        if spread[0]:
            marks = k_marks[first * k_bytes : (first + n) * k_bytes]
            for z in range(n_fours):
                products_spread(marks, numbers, n, k_kept, q_ZDZ[z], scores_ZT[z], at)
        else:
            places = places_in(k_marks, k_kept, first, n, k_bytes, some_places)
            for z in range(n_fours):
                products(places, numbers, n, k_kept, q_ZDZ[z], scores_ZT[z], at)
    _hide(scores_ZT, *seen)
    for z in range(n_fours):
        _softmax(scores_ZT[z], most_Z[z], sum_Z[z])
    mix_ZDZ[:] = 0
    for low in range(0, n_rows, _BLOCK):
        n, first, at = min(_BLOCK, n_rows - low), row + low, low * LANES
        numbers = with_room(v_values, first * v_kept, n * v_kept, v_room)
        if spread[1]:
            marks = v_marks[first * v_bytes : (first + n) * v_bytes]
            for z in range(n_fours):
                mix_spread(marks, numbers, n, v_kept, scores_ZT[z], at, mix_ZDZ[z], place_U)
        else:
            places = places_in(v_marks, v_kept, first, n, v_bytes, some_places)
            for z in range(n_fours):
                mix(places, numbers, n, v_kept, scores_ZT[z], at, mix_ZDZ[z])


@njit(fastmath=_SUMS)
def _dense_part(k_TD, v_TD, n_first, at, q_RD, seen, most_Z, sum_Z, mix_RD):
    """Attention of R heads to the dense slots: the first `n_first`, then those from `at` on."""
    n_heads, n_slots = q_RD.shape[0], seen[0].size
    scores_ZT = np.zeros((most_Z.shape[0], n_slots * LANES), np.float32)
    for r in range(n_heads):
        q_D, scores_T = q_RD[r], scores_ZT[r // LANES]
        for t in range(n_slots):
            k_D, total = k_TD[t if t < n_first else at + t - n_first], np.float32(0)
            for d in range(q_D.size):
                total += q_D[d] * widen(k_D[d])
            scores_T[t * LANES + r % LANES] = total
    _hide(scores_ZT, *seen)
    for z in range(scores_ZT.shape[0]):
        _softmax(scores_ZT[z], most_Z[z], sum_Z[z])
    for r in range(n_heads):
        mix_D, weights_T = mix_RD[r], scores_ZT[r // LANES]
        mix_D[:] = 0
        for t in range(n_slots):
            weight = weights_T[t * LANES + r % LANES]
            v_D = v_TD[t if t < n_first else at + t - n_first]
            for d in range(mix_D.size):
                mix_D[d] += weight * widen(v_D[d])


@njit(fastmath=_SUMS)
def _join(most_HP, sum_HP, mix_HPD, out_HD):
    """Parts that were softmaxed each on its own as one softmax; of nothing at all, zeros."""
    for h in range(out_HD.shape[0]):
        most, total, out_D = most_HP[h].max(), np.float32(0), out_HD[h]
        out_D[:] = 0
        for part in range(most_HP.shape[1]):
            if sum_HP[h, part] > 0:
                share = np.float32(np.exp(most_HP[h, part] - most))
                total += share * sum_HP[h, part]
                mix_D = mix_HPD[h, part]
                for d in range(out_D.size):
                    out_D[d] += share * mix_D[d]
        if total > 0:
            for d in range(out_D.size):
                out_D[d] /= total


@njit()
def _place(d, lane, spread):
    """Where channel `d` of one of four heads lies: beside the others', or with WIDE of its own."""
    return (d // WIDE * LANES + lane) * WIDE + d % WIDE if spread else d * LANES + lane


@njit()
def _laid_out(q_RD, spread):
    """The queries in fours, as `_place` says. Zeros stand where there is no head."""
    n_heads, width = q_RD.shape
    q_ZDZ = np.zeros(((n_heads + LANES - 1) // LANES, width * LANES), np.float32)
    for r in range(n_heads):
        for d in range(width):
            q_ZDZ[r // LANES, _place(d, r % LANES, spread)] = q_RD[r, d]
    return q_ZDZ


@njit()
def _part(g, part, q_HD, k, v, dense, places, pos_GT, q_pos, whole, spread, row, joined):
    """What the heads of one group get from one part: part 0 is the dense slots."""
    n_sinks, n_packed, tail, n_tail = places
    most_HP, sum_HP, mix_HPD = joined
    sharing, width = q_HD.shape[0] // pos_GT.shape[0], q_HD.shape[1]
    first, n_fours = g * sharing, (sharing + LANES - 1) // LANES
    q_RD = q_HD[first : first + sharing]
    most_Z, sum_Z = np.empty((n_fours, LANES), np.float32), np.empty((n_fours, LANES), np.float32)
    if part == 0:
        pos_T = np.empty(n_sinks + n_tail, np.int64)
        pos_T[:n_sinks] = pos_GT[g, :n_sinks]
        pos_T[n_sinks:] = pos_GT[g, n_sinks + n_packed : n_sinks + n_packed + n_tail]
        mix_RD = np.empty((sharing, width), np.float32)
        seen = pos_T, q_pos, whole
        _dense_part(dense[0][g], dense[1][g], n_sinks, tail, q_RD, seen, most_Z, sum_Z, mix_RD)
        for r in range(sharing):
            mix_HPD[first + r, part] = mix_RD[r]
    else:
        low = (part - 1) * PART
        n_rows = min(PART, n_packed - low)
        seen = pos_GT[g, n_sinks + low : n_sinks + low + n_rows], q_pos, whole
        mix_ZDZ = np.empty((n_fours, width * LANES), np.float32)
        q_ZDZ = _laid_out(q_RD, spread[0])
        _packed_part(k, v, row + low, n_rows, q_ZDZ, spread, seen, most_Z, sum_Z, mix_ZDZ)
        for r in range(sharing):
            z, lane = r // LANES, r % LANES
            for d in range(width):
                mix_HPD[first + r, part, d] = mix_ZDZ[z, _place(d, lane, spread[1])]
    for r in range(sharing):
        most_HP[first + r, part] = most_Z[r // LANES, r % LANES]
        sum_HP[first + r, part] = sum_Z[r // LANES, r % LANES]


def spread(k: tuple, v: tuple, width: int) -> tuple[bool, bool]:
    """Whether to spread keys' and values' rows: by bitmaps, where the processor does it quickly."""
    fits = placing.SPREADS and width % (2 * WIDE) == 0
    return fits and k[2], fits and v[2]


@njit(parallel=True, nogil=True)
def attend(q_BHD, k, v, dense, places, pos_BGT, q_pos_B, whole, spread, out_BHD):
    """Attention of one new token per row over sinks, packed rows, window and itself.

    The queries come scaled. `k` and `v` are (values_BGTN, marks_BGTX, is bitmap), and `spread` says
    for each whether to read it so; `dense` is (k_BGTD, v_BGTD), which holds
    the sinks first; `places` is (sinks, packed slots, where the tail begins among the dense slots,
    its slots). `pos_BGT` are all slots' positions, in the tokens' order. A slot counts when
    0 <= its position <= the query's; all do in a `whole` layer.
    Source: Dao et al. 2023, "Flash-Decoding for long-context inference": the dense slots and each
    512 packed ones are softmaxed on their own and joined by their maxima and sums.
    """
    n_batch, n_heads, width = q_BHD.shape
    n_groups, capacity = pos_BGT.shape[1], k[0].shape[2]
    n_parts = 1 + (places[1] + PART - 1) // PART
    flat_k = k[0].reshape(k[0].size), k[1].reshape(k[1].size), k[0].shape[3], k[2] * k[1].shape[3]
    flat_v = v[0].reshape(v[0].size), v[1].reshape(v[1].size), v[0].shape[3], v[2] * v[1].shape[3]
    most_BHP = np.empty((n_batch, n_heads, n_parts), np.float32)
    sum_BHP = np.empty((n_batch, n_heads, n_parts), np.float32)
    mix_BHPD = np.empty((n_batch, n_heads, n_parts, width), np.float32)
    for item in prange(n_batch * n_groups * n_parts):
        b, rest = item // (n_groups * n_parts), item % (n_groups * n_parts)
        g, part = rest // n_parts, rest % n_parts
        _part(
            g, part, q_BHD[b], flat_k, flat_v, (dense[0][b], dense[1][b]), places, pos_BGT[b],
            q_pos_B[b], whole, spread, (b * n_groups + g) * capacity,
            (most_BHP[b], sum_BHP[b], mix_BHPD[b]),
        )  # fmt: skip
    for b in range(n_batch):
        _join(most_BHP[b], sum_BHP[b], mix_BHPD[b], out_BHD[b])
