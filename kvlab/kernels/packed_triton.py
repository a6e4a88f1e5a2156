"""Decode attention on packed rows for a GPU: the twin of `kernels.packed`, in Triton.

B rows (one new token each), H query heads, G key/value heads, R = H / G, T slots, D head width,
N values kept per packed row, X bytes of a row's bitmap, P parts of the slots.

A program takes one part of the slots of one key/value head. It reads bitmap and values of a block
of rows once, lays them out in registers, and multiplies them with all R query heads, which share
the read; nothing is unpacked to memory. `_join` adds the parts up. Nothing waits for the device:
all sizes are numbers that the host knows.
Source: Dao et al. 2023, "Flash-Decoding" (parts of the keys, joined by their softmax sums).

Long because a program's sizes and addresses are told one by one, where it starts and where it runs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# slots that a program reads at once, and slots of a part in short and in long texts
BLOCK, PART, LONG_PART, LONG = 64, 256, 1024, 32768


def attend(
    q_BHD: Tensor,
    k: tuple[Tensor, Tensor],
    v: tuple[Tensor, Tensor],
    dense: tuple[Tensor, Tensor],
    places: tuple[int, int, int, int],
    pos_BGT: Tensor,
    q_pos_B: Tensor,
    whole: bool,
    scale: float,
) -> Tensor:
    """Attention of one new token per row over sinks, packed body and tail, in one softmax.

    `k` and `v` are (values, bitmaps) of the body, (B, G, U, N) and (B, G, U, X); `dense` holds the
    dense slots of keys and of values, (B, G, S, D); `places` says how many sinks there are, how
    many packed slots, where the tail begins among the dense slots and how long it is. With `whole`
    all slots may be seen; else those with 0 <= position <= the query's.
    Shapes: -> out_BHD, float32.
    """
    batch, n_heads, width = q_BHD.shape
    groups = pos_BGT.shape[1]
    sinks, packed, tail, rest = places
    part = LONG_PART if packed > LONG else PART
    n_packed, n_dense = triton.cdiv(packed, part), triton.cdiv(sinks + rest, part)
    n_parts, heads = n_packed + n_dense, n_heads // groups
    most_PR = q_BHD.new_empty((batch * groups, n_parts, heads), dtype=torch.float32)
    sum_PR = torch.empty_like(most_PR)
    mix_PRD = q_BHD.new_empty((*most_PR.shape, width), dtype=torch.float32)
    out_BHD = q_BHD.new_empty(q_BHD.shape, dtype=torch.float32)
    sizes = {
        "D": width,
        "DX": triton.next_power_of_2(width),
        "R": heads,
        "RX": max(16, triton.next_power_of_2(heads)),
        "BLOCK": BLOCK,
    }
    _part[(batch * groups, n_parts)](
        q_BHD, *k, *v, *dense, pos_BGT, q_pos_B, most_PR, sum_PR, mix_PRD,
        scale, groups, n_packed, n_parts, sinks, packed, tail, rest,
        k[0].shape[2], dense[0].shape[2], pos_BGT.shape[2],
        NK=k[0].shape[3], NV=v[0].shape[3], PART=part, WHOLE=whole, **sizes,
    )  # fmt: skip
    _join[(batch * n_heads,)](
        most_PR, sum_PR, mix_PRD, out_BHD, n_parts,
        R=heads, D=width, DX=sizes["DX"], PX=triton.next_power_of_2(n_parts),
    )  # fmt: skip
    return out_BHD


@triton.jit
def _unpacked(values, marks, t_T, live_T, N: tl.constexpr, D: tl.constexpr, DX: tl.constexpr):
    """A block of packed rows as a dense tile (T, D) in registers."""
    d_D = tl.arange(0, DX)
    inside = live_T[:, None] & (d_D < D)[None, :]
    byte = tl.load(marks + t_T[:, None] * (D // 8) + (d_D // 8)[None, :], mask=inside, other=0)
    bit = (byte.to(tl.int32) >> (d_D % 8)[None, :]) & 1
    before = tl.cumsum(bit, axis=1) - bit
    return tl.load(values + t_T[:, None] * N + before, mask=inside & (bit == 1), other=0.0)


@triton.jit
def _seen(pos, slot_T, live_T, q_pos, WHOLE: tl.constexpr):
    """Which slots the query may use."""
    if not WHOLE:
        pos_T = tl.load(pos + slot_T, mask=live_T, other=-1)
        live_T = live_T & (pos_T >= 0) & (pos_T <= q_pos)
    return live_T


@triton.jit
def _added(q_RD, k_TD, v_TD, seen_T, scale, most_R, sum_R, mix_RD):
    """One block of slots more: the running softmax of all query heads."""
    score_RT = tl.dot(q_RD, tl.trans(k_TD.to(tl.float32)), input_precision="ieee") * scale
    score_RT = tl.where(seen_T[None, :], score_RT, float("-inf"))
    new_R = tl.maximum(most_R, tl.max(score_RT, axis=1))
    base_R = tl.where(new_R == float("-inf"), 0.0, new_R)
    weight_RT = tl.exp(score_RT - base_R[:, None])
    shrink_R = tl.exp(most_R - base_R)
    sum_R = sum_R * shrink_R + tl.sum(weight_RT, axis=1)
    mix_RD = mix_RD * shrink_R[:, None]
    mix_RD += tl.dot(weight_RT, v_TD.to(tl.float32), input_precision="ieee")
    return new_R, sum_R, mix_RD


@triton.jit
def _part(
    q, k_values, k_marks, v_values, v_marks, k_dense, v_dense, pos, q_pos, most, sums, mix,
    scale, groups, n_packed, n_parts, sinks, packed, tail, rest, n_body, n_dense, n_slots,
    NK: tl.constexpr, NV: tl.constexpr, PART: tl.constexpr, WHOLE: tl.constexpr,
    D: tl.constexpr, DX: tl.constexpr, R: tl.constexpr, RX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One part of the slots, packed or dense, of one row's key/value head."""
    bg, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    r_R, d_D, i_T = tl.arange(0, RX), tl.arange(0, DX), tl.arange(0, BLOCK)
    here_RD = (r_R < R)[:, None] & (d_D < D)[None, :]
    q_RD = tl.load(q + (bg * R + r_R[:, None]) * D + d_D[None, :], mask=here_RD, other=0.0)
    q_RD = q_RD.to(tl.float32)
    at = tl.load(q_pos + bg // groups)
    pos += bg * n_slots
    most_R = tl.full((RX,), float("-inf"), tl.float32)
    sum_R = tl.zeros((RX,), tl.float32)
    mix_RD = tl.zeros((RX, DX), tl.float32)
    if part < n_packed:
        start, stop = part * PART, tl.minimum(part * PART + PART, packed)
        for first in range(start, stop, BLOCK):
            t_T = first + i_T
            live_T = t_T < stop
            row_T = bg * n_body + t_T
            k_TD = _unpacked(k_values, k_marks, row_T, live_T, NK, D, DX)
            v_TD = _unpacked(v_values, v_marks, row_T, live_T, NV, D, DX)
            seen_T = _seen(pos, sinks + t_T, live_T, at, WHOLE)
            most_R, sum_R, mix_RD = _added(q_RD, k_TD, v_TD, seen_T, scale, most_R, sum_R, mix_RD)
    else:
        start = (part - n_packed) * PART
        stop = tl.minimum(start + PART, sinks + rest)
        for first in range(start, stop, BLOCK):
            t_T = first + i_T
            live_T = t_T < stop
            row_T = bg * n_dense + tl.where(t_T < sinks, t_T, tail + t_T - sinks)
            slot_T = tl.where(t_T < sinks, t_T, packed + t_T)
            inside = live_T[:, None] & (d_D < D)[None, :]
            k_TD = tl.load(k_dense + row_T[:, None] * D + d_D[None, :], mask=inside, other=0.0)
            v_TD = tl.load(v_dense + row_T[:, None] * D + d_D[None, :], mask=inside, other=0.0)
            seen_T = _seen(pos, slot_T, live_T, at, WHOLE)
            most_R, sum_R, mix_RD = _added(q_RD, k_TD, v_TD, seen_T, scale, most_R, sum_R, mix_RD)
    place_R = (bg * n_parts + part) * R + r_R
    tl.store(most + place_R, most_R, mask=r_R < R)
    tl.store(sums + place_R, sum_R, mask=r_R < R)
    tl.store(mix + place_R[:, None] * D + d_D[None, :], mix_RD, mask=here_RD)


@triton.jit
def _join(
    most, sums, mix, out, n_parts,
    R: tl.constexpr, D: tl.constexpr, DX: tl.constexpr, PX: tl.constexpr,
):  # fmt: skip
    """All parts of one query head, weighed by their share of the softmax."""
    head = tl.program_id(0).to(tl.int64)
    p_P, d_D = tl.arange(0, PX), tl.arange(0, DX)
    place_P = ((head // R) * n_parts + p_P) * R + head % R
    there_P = p_P < n_parts
    most_P = tl.load(most + place_P, mask=there_P, other=float("-inf"))
    highest = tl.max(most_P, axis=0)
    share_P = tl.exp(most_P - tl.where(highest == float("-inf"), 0.0, highest))
    total = tl.sum(share_P * tl.load(sums + place_P, mask=there_P, other=0.0), axis=0)
    inside = there_P[:, None] & (d_D < D)[None, :]
    mix_PD = tl.load(mix + place_P[:, None] * D + d_D[None, :], mask=inside, other=0.0)
    row_D = tl.sum(mix_PD * share_P[:, None], axis=0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out + head * D + d_D, row_D, mask=d_D < D)
