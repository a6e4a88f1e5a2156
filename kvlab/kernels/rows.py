"""Packing rows, and decode attention on packed rows, compiled by numba: nothing is unpacked to
memory.

B rows (one new token each), H query heads, G key/value heads, R = H / G, T slots, D head width,
N values kept per packed row, P parts of the slots, Z four query heads side by side (lanes).

A kept number is multiplied into four query heads at once, which share its reading: the lanes of
one vector. So work follows N, not D. More than four heads per group take turns of four; fewer leave
lanes idle. Half precision comes in as integers of the same bits, as in `kernels.cpu`.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic, models, overload, register_model

from kvlab.kernels.cpu import _exp, _widen

_SUMS = {"reassoc", "contract", "nsz", "arcp"}
# Slots that one thread attends to before it looks for more work.
PART = 256
# Rows that are made ready (indices, float32 values) at once, in the first-level cache.
_BLOCK = 32
# Query heads that share a read.
LANES = 4

_FLOAT, _WIDE = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
# For each byte of a bitmap, the places of its ones, in the bytes of a word, from the low end.
_PLACES = np.array(
    [
        int.from_bytes(bytes(j for j in range(8) if byte >> j & 1).ljust(8, b"\0"), "little")
        for byte in range(256)
    ],
    dtype=np.uint64,
)


class _Four(types.Type):
    """Four float32 in one register."""

    def __init__(self) -> None:
        super().__init__("float32x4")


@register_model(_Four)
class _FourModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _VECTOR)


_four = _Four()


def _address(context, builder, kind, array, index, vector=None):
    """Where an array's element lies; numba's own indexing first asks whether it is negative."""
    data = context.make_array(kind)(context, builder, array).data
    place = builder.gep(data, [index])
    return place if vector is None else builder.bitcast(place, vector.as_pointer())


@intrinsic
def _zero(_typing):
    return _four(), lambda context, builder, signature, args: ir.Constant(_VECTOR, None)


@intrinsic
def _load(_typing, array, index):
    """Four floats from `index` on."""

    def load(context, builder, signature, args):
        place = _address(context, builder, signature.args[0], *args, _VECTOR)
        found = builder.load(place)
        found.align = 4
        return found

    return _four(array, types.intp), load


@intrinsic
def _store(_typing, array, index, four):
    def store(context, builder, signature, args):
        place = _address(context, builder, signature.args[0], args[0], args[1], _VECTOR)
        builder.store(args[2], place).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, _four), store


@intrinsic
def _put_word(_typing, array, index, word):
    """Eight bytes from `index` on."""

    def put(context, builder, signature, args):
        place = _address(context, builder, signature.args[0], args[0], args[1], _WIDE)
        builder.store(args[2], place).align = 1
        return context.get_dummy_value()

    return types.void(array, types.intp, types.uint64), put


@intrinsic
def _word(_typing, array, index):
    """The eight bytes from `index` on."""

    def read(context, builder, signature, args):
        place = _address(context, builder, signature.args[0], *args, _WIDE)
        found = builder.load(place)
        found.align = 1
        return found

    return types.uint64(array, types.intp), read


@intrinsic
def _ones(_typing, number):
    """How many bits are set."""
    return types.intp(types.uint64), lambda context, builder, signature, args: builder.ctpop(args[0])


@intrinsic
def _lanes_of(_typing, array, index):
    """LANES times the byte at `index`: where a number's four lanes begin."""

    def read(context, builder, signature, args):
        byte = builder.load(_address(context, builder, signature.args[0], *args))
        return builder.mul(builder.zext(byte, _WIDE), _WIDE(LANES))

    return types.intp(array, types.intp), read


@intrinsic
def _add_product(_typing, total, array, index, four):
    """total + the number at `index` x four."""

    def add(context, builder, signature, args):
        number = builder.load(_address(context, builder, signature.args[1], args[1], args[2]))
        one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.IntType(32)(0))
        every = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        spread = builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), every)
        flags = ("contract", "reassoc", "nsz")
        return builder.fadd(args[0], builder.fmul(spread, args[3], flags=flags), flags=flags)

    return _four(_four, array, types.intp, _four), add


@intrinsic
def _add(_typing, first, second):
    return _four(_four, _four), lambda context, builder, signature, args: builder.fadd(*args)


def _floats(values_N, scratch_N):
    """Values as float32: as they lie, or widened into `scratch_N`."""
    raise NotImplementedError("for compiled code only")


@overload(_floats)
def _compiled_floats(values_N, scratch_N):
    if values_N.dtype == types.float32:
        return lambda values_N, scratch_N: values_N

    def widened(values_N, scratch_N):
        for j in range(values_N.size):
            scratch_N[j] = _widen(values_N[j])
        return scratch_N[: values_N.size]

    return widened


@njit(cache=True)
def _places(marks, n_kept, row, n_rows, n_bytes, scratch):
    """The places of `n_rows` rows' numbers, from row number `row` on.

    `n_bytes` is the length of a bitmap, or 0 where the marks are places already. Slices, here and
    for values, so that numba sees that no place is negative and reads many at once.
    """
    if n_bytes == 0:
        return marks[row * n_kept : (row + n_rows) * n_kept]
    _places_of(marks[row * n_bytes : (row + n_rows) * n_bytes], n_bytes, scratch)
    return scratch[: n_rows * n_kept]


@njit(cache=True)
def _places_of(bitmaps_U, n_bytes, indices):
    """Write the places of all ones of some bitmaps, one bitmap after the other."""
    at, words = 0, n_bytes // 8 * 8
    for first in range(0, bitmaps_U.size, n_bytes):
        base = np.uint64(0)
        for j in range(0, words, 8):
            word = _word(bitmaps_U, first + j)
            for _ in range(8):
                byte = word & np.uint64(0xFF)
                # what lies beyond a row's last place is written over by the next
                _put_word(indices, at, _PLACES[byte] + base)
                base += np.uint64(0x0808080808080808)
                at += _ones(byte)
                word >>= np.uint64(8)
        for j in range(words, n_bytes):
            byte = np.uint64(bitmaps_U[first + j])
            _put_word(indices, at, _PLACES[byte] + base)
            base += np.uint64(0x0808080808080808)
            at += _ones(byte)


@njit(fastmath=_SUMS, cache=True)
def _products(indices, numbers, n_rows, n_kept, q_DZ, sums):
    """Each row's product with four queries, four after four in `sums`."""
    fours = n_kept // 4 * 4
    for u in range(n_rows):
        a0, a1, a2, a3 = _zero(), _zero(), _zero(), _zero()
        start = u * n_kept
        for j in range(start, start + fours, 4):
            a0 = _add_product(a0, numbers, j, _load(q_DZ, _lanes_of(indices, j)))
            a1 = _add_product(a1, numbers, j + 1, _load(q_DZ, _lanes_of(indices, j + 1)))
            a2 = _add_product(a2, numbers, j + 2, _load(q_DZ, _lanes_of(indices, j + 2)))
            a3 = _add_product(a3, numbers, j + 3, _load(q_DZ, _lanes_of(indices, j + 3)))
        for j in range(start + fours, start + n_kept):
            a0 = _add_product(a0, numbers, j, _load(q_DZ, _lanes_of(indices, j)))
        _store(sums, u * LANES, _add(_add(a0, a1), _add(a2, a3)))


@njit(fastmath=_SUMS, cache=True)
def _mix(indices, numbers, n_rows, n_kept, weights, mix_DZ):
    """Add each row to four mixtures, by the four weights that `weights` has for it."""
    for u in range(n_rows):
        weight = _load(weights, u * LANES)
        for j in range(u * n_kept, u * n_kept + n_kept):
            at = _lanes_of(indices, j)
            _store(mix_DZ, at, _add_product(_load(mix_DZ, at), numbers, j, weight))


@njit(fastmath=_SUMS, cache=True)
def _softmax(scores_T):
    """Weights in place of scores; gives back the greatest score and the weights' sum."""
    most = np.float32(-np.inf)
    for t in range(scores_T.size):
        most = max(most, scores_T[t])
    total = np.float32(0)
    if most == -np.inf:
        scores_T[:] = 0
        return most, total
    for t in range(scores_T.size):
        weight = _exp(scores_T[t] - most)
        scores_T[t] = weight if scores_T[t] > -np.inf else np.float32(0)
        total += scores_T[t]
    return most, total


@njit(cache=True)
def _hide(scores_RT, pos_T, q_pos, whole):
    """Slots that may not be seen score minus infinity."""
    if not whole:
        for t in range(pos_T.size):
            if pos_T[t] < 0 or pos_T[t] > q_pos:
                scores_RT[:, t] = -np.inf


@njit(fastmath=_SUMS, cache=True)
def _packed_part(k, v, row, n_rows, q_ZDZ, scale, seen, scores_RT, most_R, sum_R, mix_RD):
    """Attention of R heads to one part of the body."""
    (k_values, k_marks, k_kept, k_bytes), (v_values, v_marks, v_kept, v_bytes) = k, v
    n_heads, width = mix_RD.shape
    room = _BLOCK * max(k_kept, v_kept)
    some_places, some_numbers = np.empty(room + 8, np.uint8), np.empty(room, np.float32)
    sums = np.empty(_BLOCK * LANES, np.float32)
    mix_ZDZ = np.zeros((q_ZDZ.shape[0], width * LANES), np.float32)
    for low in range(0, n_rows, _BLOCK):
        n = min(_BLOCK, n_rows - low)
        first = row + low
        indices = _places(k_marks, k_kept, first, n, k_bytes, some_places)
        numbers = _floats(k_values[first * k_kept : (first + n) * k_kept], some_numbers)
        for z in range(q_ZDZ.shape[0]):
            _products(indices, numbers, n, k_kept, q_ZDZ[z], sums)
            for lane in range(min(LANES, n_heads - z * LANES)):
                scores_T = scores_RT[z * LANES + lane, low : low + n]
                for u in range(n):
                    scores_T[u] = sums[u * LANES + lane] * scale
    _hide(scores_RT, *seen)
    for r in range(n_heads):
        most_R[r], sum_R[r] = _softmax(scores_RT[r])
    sums[:] = 0
    for low in range(0, n_rows, _BLOCK):
        n = min(_BLOCK, n_rows - low)
        first = row + low
        indices = _places(v_marks, v_kept, first, n, v_bytes, some_places)
        numbers = _floats(v_values[first * v_kept : (first + n) * v_kept], some_numbers)
        for z in range(q_ZDZ.shape[0]):
            for lane in range(min(LANES, n_heads - z * LANES)):
                weight_T = scores_RT[z * LANES + lane, low : low + n]
                for u in range(n):
                    sums[u * LANES + lane] = weight_T[u]
            _mix(indices, numbers, n, v_kept, sums, mix_ZDZ[z])
    for r in range(n_heads):
        for d in range(width):
            mix_RD[r, d] = mix_ZDZ[r // LANES, d * LANES + r % LANES]


@njit(fastmath=_SUMS, cache=True)
def _dense_part(k_TD, v_TD, n_first, at, q_RD, scale, seen, scores_RT, most_R, sum_R, mix_RD):
    """Attention of R heads to the dense slots: the first `n_first`, then those from `at` on."""
    n_heads, n_slots = scores_RT.shape
    for r in range(n_heads):
        q_D = q_RD[r]
        for t in range(n_slots):
            k_D, total = k_TD[t if t < n_first else at + t - n_first], np.float32(0)
            for d in range(q_D.size):
                total += q_D[d] * _widen(k_D[d])
            scores_RT[r, t] = total * scale
    _hide(scores_RT, *seen)
    for r in range(n_heads):
        most_R[r], sum_R[r] = _softmax(scores_RT[r])
        mix_D = mix_RD[r]
        mix_D[:] = 0
        for t in range(n_slots):
            weight, v_D = scores_RT[r, t], v_TD[t if t < n_first else at + t - n_first]
            for d in range(mix_D.size):
                mix_D[d] += weight * _widen(v_D[d])


@njit(fastmath=_SUMS, cache=True)
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


@njit(cache=True)
def _side_by_side(q_RD):
    """Four heads' queries for each channel, zeros where there is no head."""
    n_heads, width = q_RD.shape
    q_ZDZ = np.zeros(((n_heads + LANES - 1) // LANES, width * LANES), np.float32)
    for r in range(n_heads):
        for d in range(width):
            q_ZDZ[r // LANES, d * LANES + r % LANES] = q_RD[r, d]
    return q_ZDZ


@njit(cache=True)
def _part(g, part, q_HD, k, v, dense, places, pos_GT, q_pos, whole, scale, row, joined):
    """What the heads of one group get from one part: part 0 is the dense slots."""
    n_sinks, n_packed, tail, n_tail = places
    most_HP, sum_HP, mix_HPD = joined
    sharing, width = q_HD.shape[0] // pos_GT.shape[0], q_HD.shape[1]
    first = g * sharing
    q_RD = q_HD[first : first + sharing]
    most_R, sum_R = np.empty(sharing, np.float32), np.empty(sharing, np.float32)
    mix_RD = np.empty((sharing, width), np.float32)
    if part == 0:
        pos_T = np.empty(n_sinks + n_tail, np.int64)
        pos_T[:n_sinks] = pos_GT[g, :n_sinks]
        pos_T[n_sinks:] = pos_GT[g, n_sinks + n_packed : n_sinks + n_packed + n_tail]
        scores_RT = np.empty((sharing, pos_T.size), np.float32)
        seen = pos_T, q_pos, whole
        k_TD, v_TD = dense[0][g], dense[1][g]
        _dense_part(k_TD, v_TD, n_sinks, tail, q_RD, scale, seen, scores_RT, most_R, sum_R, mix_RD)
    else:
        low = (part - 1) * PART
        n_rows = min(PART, n_packed - low)
        scores_RT = np.empty((sharing, n_rows), np.float32)
        seen = pos_GT[g, n_sinks + low : n_sinks + low + n_rows], q_pos, whole
        q_ZDZ = _side_by_side(q_RD)
        _packed_part(k, v, row + low, n_rows, q_ZDZ, scale, seen, scores_RT, most_R, sum_R, mix_RD)
    for r in range(sharing):
        most_HP[first + r, part], sum_HP[first + r, part] = most_R[r], sum_R[r]
        mix_HPD[first + r, part] = mix_RD[r]


@njit(cache=True)
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


@njit(cache=True)
def _pack_row(x_M, key_M, n_kept, value_M, place_M, mark_X, bitmap):
    """Put one row's greatest first in `value_M`, of equals the first, and mark which they are."""
    least = _least_kept(key_M, n_kept)
    room = n_kept
    for j in range(key_M.size):
        room -= key_M[j] > least
    at = 0
    for j in range(key_M.size):
        equal = (key_M[j] == least) & (room > 0)
        room -= equal
        # what is dropped is written over by the next
        value_M[at], place_M[at] = x_M[j], j
        at += equal | (key_M[j] > least)
    if not bitmap:
        mark_X[:] = place_M[:n_kept]
        return
    mark_X[:] = 0
    for i in range(n_kept):
        mark_X[place_M[i] >> 3] |= np.uint8(1 << (place_M[i] & 7))


@njit(parallel=True, cache=True, nogil=True)
def pack(x_RM, key_RM, values_RN, marks_RX, bitmap):
    """Keep the N numbers of each row whose keys are greatest, of equal keys the first.

    Keys are whole numbers of 32 bits that are not negative: floats without a sign, by their bits.
    """
    n_rows, width = x_RM.shape
    for part in prange((n_rows + PART - 1) // PART):
        # one place more, where what comes after a row's last lands
        value_M = np.empty(width + 1, x_RM.dtype)
        place_M = np.empty(width + 1, np.int64)
        for row in range(part * PART, min(n_rows, part * PART + PART)):
            _pack_row(
                x_RM[row], key_RM[row], values_RN.shape[1], value_M, place_M, marks_RX[row], bitmap
            )
            values_RN[row] = value_M[: values_RN.shape[1]]


@njit(parallel=True, cache=True, nogil=True)
def attend(q_BHD, k, v, dense, places, pos_BGT, q_pos_B, whole, scale, out_BHD):
    """Attention of one new token per row over sinks, packed rows, window and itself.

    `k` and `v` are (values_BGTN, marks_BGTX, is bitmap); `dense` is (k_BGTD, v_BGTD), which holds
    the sinks first; `places` is (sinks, packed slots, where the tail begins among the dense slots,
    its slots). `pos_BGT` are all slots' positions, in the tokens' order. A slot counts when
    0 <= its position <= the query's; all do in a `whole` layer.
    Source: Dao et al. 2023, "Flash-Decoding for long-context inference": the dense slots and each
    256 packed ones are softmaxed on their own and joined by their maxima and sums.
    """
    n_batch, n_heads, width = q_BHD.shape
    n_groups, room = pos_BGT.shape[1], k[0].shape[2]
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
            q_pos_B[b], whole, scale, (b * n_groups + g) * room,
            (most_BHP[b], sum_BHP[b], mix_BHPD[b]),
        )  # fmt: skip
    for b in range(n_batch):
        _join(most_BHP[b], sum_BHP[b], mix_BHPD[b], out_BHD[b])
