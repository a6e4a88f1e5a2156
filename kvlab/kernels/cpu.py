"""One decoding step on a CPU, compiled by numba: every weight is read once, at the memory's speed.

B rows (one new token each), H query heads, G key/value heads, T slots, D head width, C model
width, I inputs and O outputs of a linear layer, P parts that a row's slots are cut into.

Numbers are worked with in float32 (float64 for float64 weights) whatever they are stored as. Half
precision comes in as integers of the same bits, since numpy has no bfloat16: uint16 is bfloat16,
int16 is float16, int8 is a whole number with one scale per output.

Long because `attend` is compiled as one loop nest: parts of it as functions of their own may round
otherwise.
"""

from __future__ import annotations

import platform

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from kvlab.kernels.building import njit
from kvlab.kernels.floats import exp, has, narrow, prefetch, widen

# Sums may be reordered, so that they fill vector registers. Infinities and NaN keep their meaning.
_SUMS = {"reassoc", "contract", "nsz", "arcp"}
# Bytes of a weight row that are worked on at once, and how far ahead memory is asked for.
_PIECE, _AHEAD = 1024, 2048
# The largest whole number that a row beside int8 weights is rounded to.
_MOST = 16383
# Outputs that one thread makes before it looks for more work.
_SHARE = 64
# Slots that one thread attends to before it looks for more work.
PART = 256


def reads_float16() -> bool:
    """Whether this processor converts float16 by itself; without that, compiling would fail."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return has("f16c")


@njit(fastmath=_SUMS)
def norm(x_BC, weight_C, eps, y_BC):
    """`ops.rms_norm`: each row over its root mean square, times a scale."""
    for b in range(x_BC.shape[0]):
        x_C, y_C = x_BC[b], y_BC[b]
        total = x_C.dtype.type(0)
        for c in range(x_C.size):
            total += x_C[c] * x_C[c]
        scale = x_C.dtype.type(1 / np.sqrt(total / x_C.size + eps))
        for c in range(x_C.size):
            y_C[c] = x_C[c] * scale * weight_C[c]


@njit(fastmath=_SUMS)
def turn(x_BHD, cos_BD, sin_BD):
    """`ops.apply_rope`, in place."""
    half = x_BHD.shape[2] // 2
    for b in range(x_BHD.shape[0]):
        cos_D, sin_D = cos_BD[b], sin_BD[b]
        for h in range(x_BHD.shape[1]):
            first, second = x_BHD[b, h, :half], x_BHD[b, h, half:]
            for d in range(half):
                x, y = first[d], second[d]
                first[d] = x * cos_D[d] + y * sin_D[d]
                second[d] = y * cos_D[half + d] + x * sin_D[half + d]


@njit()
def store(k_BGD, v_BGD, pos_B, slot, k_BGTD, v_BGTD, pos_BGT):
    """Put one new token per row into a slot of a layer."""
    for b in range(k_BGD.shape[0]):
        for g in range(k_BGD.shape[1]):
            pos_BGT[b, g, slot] = pos_B[b]
            for d in range(k_BGD.shape[2]):
                k_BGTD[b, g, slot, d] = narrow(k_BGD[b, g, d], k_BGTD[b, g, slot, d])
                v_BGTD[b, g, slot, d] = narrow(v_BGD[b, g, d], v_BGTD[b, g, slot, d])


@njit(fastmath=_SUMS)
def swiglu(gate_BF, up_BF):
    """`ops.swiglu`; the result takes the gate's place."""
    for b in range(gate_BF.shape[0]):
        gate_F, up_F, one = gate_BF[b], up_BF[b], gate_BF.dtype.type(1)
        for f in range(gate_F.size):
            gate_F[f] = gate_F[f] / (one + exp(-gate_F[f])) * up_F[f]


@njit(fastmath=_SUMS)
def _one_row(w_OI, flat, scale_O, bias_O, x_I, y_O, outputs, add):
    """Outputs `outputs[0]` to `outputs[1]` for one row."""
    width = w_OI.shape[1]
    piece, line, ahead = _PIECE // w_OI.itemsize, 64 // w_OI.itemsize, _AHEAD // w_OI.itemsize
    for o in range(outputs[0], outputs[1]):
        whole = x_I.dtype.type(0)
        for low in range(0, width, piece):
            w, x = w_OI[o, low : low + piece], x_I[low : low + piece]
            start = o * width + low + ahead
            for near in range(start, start + w.size, line):
                prefetch(flat, near)
            total = x_I.dtype.type(0)
            for i in range(w.size):
                total += widen(w[i]) * x[i]
            whole += total
        if scale_O.size:
            whole *= scale_O[o]
        if bias_O.size:
            whole += bias_O[o]
        y_O[o] = y_O[o] + whole if add else whole


@intrinsic
def _add_product(_typing, total, weight, number):
    """total + weight x number in 32 bits, where numba itself would take 64."""

    def add(_context, builder, _signature, args):
        wide = ir.IntType(32)
        product = builder.mul(builder.sext(args[1], wide), builder.sext(args[2], wide))
        return builder.add(args[0], product)

    return types.int32(types.int32, types.int8, types.int16), add


@njit(fastmath=_SUMS)
def _one_int8_row(w_OI, flat, scale_O, bias_O, x_I, step, y_O, outputs, add):
    """`_one_row` in whole numbers: x = x_I x step.

    The sum of a piece fits 32 bits: 1024 x 127 x _MOST does.
    """
    width = w_OI.shape[1]
    for o in range(outputs[0], outputs[1]):
        whole = np.float32(0)
        for low in range(0, width, _PIECE):
            w, x = w_OI[o, low : low + _PIECE], x_I[low : low + _PIECE]
            start = o * width + low + _AHEAD
            for near in range(start, start + w.size, 64):
                prefetch(flat, near)
            total = np.int32(0)
            for i in range(w.size):
                total = _add_product(total, w[i], x[i])
            whole += np.float32(total)
        whole *= scale_O[o] * step
        if bias_O.size:
            whole += bias_O[o]
        y_O[o] = y_O[o] + whole if add else whole


@njit(parallel=True, fastmath=_SUMS)
def project_int8(w_OI, scale_O, bias_O, x_BI, y_BO, add):
    """`project` of one row by int8 weights, a sixth faster: the row is rounded to 15 bits first.

    That moves a result by about a hundredth of what rounding the weights to 8 bits does.
    """
    x_I, n_out = x_BI[0], w_OI.shape[0]
    most = np.float32(0)
    for i in range(x_I.size):
        most = max(most, abs(x_I[i]))
    step = most / np.float32(_MOST) if most > 0 else np.float32(1)
    rounded_I = np.empty(x_I.size, np.int16)
    for i in range(x_I.size):
        rounded_I[i] = np.int16(np.rint(x_I[i] / step))
    flat = w_OI.reshape(w_OI.size)
    for share in prange((n_out + _SHARE - 1) // _SHARE):
        outputs = share * _SHARE, min(n_out, share * _SHARE + _SHARE)
        _one_int8_row(w_OI, flat, scale_O, bias_O, rounded_I, step, y_BO[0], outputs, add)


@njit(fastmath=_SUMS)
def _four_rows(w_OI, flat, scale_O, bias_O, x_BI, y_BO, outputs, add):
    """Outputs two at a time for rows four at a time, so that each number read is used often."""
    width = w_OI.shape[1]
    piece, line, ahead = _PIECE // w_OI.itemsize, 64 // w_OI.itemsize, _AHEAD // w_OI.itemsize
    zero = x_BI.dtype.type(0)
    for o in range(outputs[0], outputs[1], 2):
        for b in range(0, x_BI.shape[0], 4):
            a0 = a1 = a2 = a3 = c0 = c1 = c2 = c3 = zero
            for low in range(0, width, piece):
                u, v = w_OI[o, low : low + piece], w_OI[o + 1, low : low + piece]
                if b == 0:
                    start = o * width + low + ahead
                    for near in range(start, start + u.size, line):
                        prefetch(flat, near)
                        prefetch(flat, near + width)
                x0, x1 = x_BI[b, low : low + piece], x_BI[b + 1, low : low + piece]
                x2, x3 = x_BI[b + 2, low : low + piece], x_BI[b + 3, low : low + piece]
                u0 = u1 = u2 = u3 = v0 = v1 = v2 = v3 = zero
                for i in range(u.size):
                    p, q = widen(u[i]), widen(v[i])
                    u0 += p * x0[i]
                    u1 += p * x1[i]
                    u2 += p * x2[i]
                    u3 += p * x3[i]
                    v0 += q * x0[i]
                    v1 += q * x1[i]
                    v2 += q * x2[i]
                    v3 += q * x3[i]
                a0, a1, a2, a3 = a0 + u0, a1 + u1, a2 + u2, a3 + u3
                c0, c1, c2, c3 = c0 + v0, c1 + v1, c2 + v2, c3 + v3
            for i, two in enumerate(((a0, c0), (a1, c1), (a2, c2), (a3, c3))):
                for j in range(2):
                    whole = two[j]
                    if scale_O.size:
                        whole *= scale_O[o + j]
                    if bias_O.size:
                        whole += bias_O[o + j]
                    y_BO[b + i, o + j] = y_BO[b + i, o + j] + whole if add else whole


@njit(parallel=True, fastmath=_SUMS)
def project(w_OI, scale_O, bias_O, x_BI, y_BO, add):
    """A linear layer: y = x W' scale + bias, or y + that with `add`.

    One row, or a multiple of four. `scale_O` and `bias_O` are empty where there are none.
    Threads share the outputs, so that each reads its own weights.
    """
    n_rows, n_out = x_BI.shape[0], w_OI.shape[0]
    flat = w_OI.reshape(w_OI.size)
    for share in prange((n_out + _SHARE - 1) // _SHARE):
        first, last = share * _SHARE, min(n_out, share * _SHARE + _SHARE)
        if n_rows == 1:
            _one_row(w_OI, flat, scale_O, bias_O, x_BI[0], y_BO[0], (first, last), add)
        else:
            even = last - (last - first) % 2
            _four_rows(w_OI, flat, scale_O, bias_O, x_BI, y_BO, (first, even), add)
            for b in range(n_rows):
                _one_row(w_OI, flat, scale_O, bias_O, x_BI[b], y_BO[b], (even, last), add)


@njit(parallel=True, fastmath=_SUMS)
def attend(q_BHD, k_BGTD, v_BGTD, pos_BGT, q_pos_B, used, whole, scale, scratch, out_BHD):
    """Attention of one new token per row over the first `used` slots.

    A slot counts when 0 <= its position <= the query's; all do in a `whole` layer. Products are
    multiplied by `scale`. `scratch` is
    (scores_BHT, most_BHP, sum_BHP, mix_BHPD), overwritten.
    Source: Dao et al. 2023, "Flash-Decoding for long-context inference": slots are cut into parts,
    each is softmaxed on its own, and the parts are joined by their maxima and sums.
    """
    scores_BHT, most_BHP, sum_BHP, mix_BHPD = scratch
    n_rows, n_heads, width = q_BHD.shape
    n_groups = k_BGTD.shape[1]
    sharing = n_heads // n_groups
    n_parts = (used + PART - 1) // PART
    zero = q_BHD.dtype.type(0)
    for item in prange(n_rows * n_groups * n_parts):
        b, rest = item // (n_groups * n_parts), item % (n_groups * n_parts)
        g, part = rest // n_parts, rest % n_parts
        low, high = part * PART, min(used, part * PART + PART)
        for h in range(g * sharing, (g + 1) * sharing):
            q_D, scores, mix_D = q_BHD[b, h], scores_BHT[b, h, low:high], mix_BHPD[b, h, part]
            most = q_BHD.dtype.type(-np.inf)
            for t in range(high - low):
                pos = pos_BGT[b, g, low + t]
                scores[t] = -np.inf
                if whole or (pos >= 0 and pos <= q_pos_B[b]):
                    k_D, total = k_BGTD[b, g, low + t], zero
                    for d in range(width):
                        total += q_D[d] * widen(k_D[d])
                    scores[t] = total * q_D.dtype.type(scale)
                    most = max(most, scores[t])
            total = zero
            for t in range(high - low):
                weight = exp(scores[t] - most) if scores[t] > -np.inf else zero
                scores[t] = weight
                total += weight
            mix_D[:] = 0
            for t in range(high - low):
                weight, v_D = scores[t], v_BGTD[b, g, low + t]
                if weight > 0:
                    for d in range(width):
                        mix_D[d] += weight * widen(v_D[d])
            most_BHP[b, h, part] = most
            sum_BHP[b, h, part] = total
    for b in range(n_rows):
        for h in range(n_heads):
            most = most_BHP[b, h, :n_parts].max()
            total = zero
            out_BHD[b, h] = 0
            for part in range(n_parts):
                if sum_BHP[b, h, part] > 0:
                    share = np.exp(most_BHP[b, h, part] - most)
                    total += share * sum_BHP[b, h, part]
                    mix_D = mix_BHPD[b, h, part]
                    for d in range(width):
                        out_BHD[b, h, d] += share * mix_D[d]
            for d in range(width):
                out_BHD[b, h, d] /= total
