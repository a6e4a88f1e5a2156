"""Where a packed row's numbers belong: a bitmap's ones as places, or the numbers put at theirs.

Both in LLVM's own words, for numba. A place is told in bytes: how far a channel's numbers of four
heads lie from those of channel 0.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kvlab.kernels.floats import has, widened
from kvlab.kernels.simd import (
    FLOAT,
    FOUR,
    INT,
    LANES,
    ROW,
    WIDE,
    WORD,
    address,
    everywhere,
    loaded,
    of_llvm,
)

# Whether a row's numbers are quickly put at their places: by an instruction, or by a table.
AT_ONCE = has("avx512f")
BY_TABLE = has("avx2") and not AT_ONCE
SPREADS = AT_ONCE or BY_TABLE
# Bytes of four heads' numbers, and a type that holds the places of 256 channels.
STRIDE, PLACE = 4 * LANES, np.uint16
_BYTE = 8  # bits

# For each byte of a bitmap the places of its ones, from the low end, then zeros.
PLACES = np.array(
    [
        [j * STRIDE for j in range(_BYTE) if byte >> j & 1] + [0] * (_BYTE - byte.bit_count())
        for byte in range(1 << _BYTE)
    ],
    dtype=PLACE,
).reshape(-1)
# For each byte, and each of its bits: how many ones stand before it, or a negative number where it
# is none. Eight bytes are a word.
_RANKS = [
    int.from_bytes(
        bytes((byte & (1 << j) - 1).bit_count() if byte >> j & 1 else 0x80 for j in range(_BYTE)),
        "little",
    )
    for byte in range(1 << _BYTE)
]


@intrinsic
def put_places(_typing, out, index, table, byte, first):
    """Write the places of a byte's ones, of which `first` is the lowest, from `index` on.

    Eight are written, however many ones there are: what is too much, the next byte writes over.
    """

    def put(context, builder, signature, args):
        out, index, table, byte, first = args
        entry = builder.mul(byte, WORD(_BYTE))
        found = loaded(context, builder, signature.args[2], table, entry, _BYTE)
        base = everywhere(builder, builder.trunc(first, ir.IntType(16)), _BYTE)
        place = address(context, builder, signature.args[0], out, index, found.type)
        builder.store(builder.add(found, base), place).align = 2
        return context.get_dummy_value()

    return types.void(out, types.intp, table, types.uint64, types.intp), put


@intrinsic
def place_of(_typing, places, index):
    def read(context, builder, signature, args):
        return builder.zext(builder.load(address(context, builder, signature.args[0], *args)), WORD)

    return types.intp(places, types.intp), read


def _there(context, builder, kind, array, place):
    """The address of four floats that begin so many bytes behind an array's beginning."""
    data = context.make_array(kind)(context, builder, array).data
    there = builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [place])
    return builder.bitcast(there, ir.VectorType(FLOAT, LANES).as_pointer())


@intrinsic
def four_at(_typing, array, place):
    """Four heads' numbers at a place."""

    def read(context, builder, signature, args):
        found = builder.load(_there(context, builder, signature.args[0], *args))
        found.align = 4
        return found

    return FOUR(array, types.intp), read


@intrinsic
def put_four(_typing, array, place, value):
    """Four heads' numbers put at a place."""

    def write(context, builder, signature, args):
        array, place, value = args
        there = _there(context, builder, signature.args[0], array, place)
        builder.store(value, there).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, FOUR), write


@intrinsic
def spread(_typing, array, index, bits):
    """The numbers from `index` on, one after the other where a bit is set, and 0 where not.

    WIDE numbers are read, however many bits are set.
    """

    def spread(context, builder, signature, args):
        array, index, bits = args
        kind = signature.args[0]
        if not (AT_ONCE or BY_TABLE):
            place = address(context, builder, kind, array, index)
            return widened(builder, kind.dtype, _one_by_one(builder, place, bits))
        row = widened(builder, kind.dtype, loaded(context, builder, kind, array, index, WIDE))
        return (_by_instruction if AT_ONCE else _by_table)(builder, row, bits)

    return ROW(array, types.intp, types.uint64), spread


def _mask(builder, bits):
    return builder.bitcast(
        builder.trunc(bits, ir.IntType(WIDE)), ir.VectorType(ir.IntType(1), WIDE)
    )


def _one_by_one(builder, place, bits):
    """For processors that have neither, such as ARM's: it has to compile, and is not chosen."""
    one, mask = place.type.pointee, _mask(builder, bits)
    row = ir.VectorType(one, WIDE)
    name = f"llvm.masked.expandload.v{WIDE}{'f32' if one == FLOAT else one}"
    expand = of_llvm(builder, name, row, place.type, mask.type, row)
    return builder.call(expand, [place, mask, ir.Constant(row, None)])


def _by_instruction(builder, row, bits):
    mask, name = _mask(builder, bits), "llvm.x86.avx512.mask.expand.v16f32"
    expand = of_llvm(builder, name, row.type, row.type, row.type, mask.type)
    return builder.call(expand, [row, ir.Constant(row.type, None), mask])


def _by_table(builder, row, bits):
    table = builder.module.globals.get("kvlab.ranks")
    if table is None:
        words = ir.ArrayType(WORD, len(_RANKS))
        table = ir.GlobalVariable(builder.module, words, "kvlab.ranks")
        table.initializer, table.linkage = ir.Constant(words, _RANKS), "internal"
        table.global_constant = True
    word = builder.load(builder.gep(table, [WORD(0), bits]))
    places = ir.VectorType(INT, WIDE)
    rank = builder.sext(builder.bitcast(word, ir.VectorType(ir.IntType(8), WIDE)), places)
    permute = of_llvm(builder, "llvm.x86.avx2.permps", row.type, row.type, places)
    is_one = builder.icmp_signed(">=", rank, ir.Constant(places, [0] * WIDE))
    found = builder.call(permute, [row, rank])
    return builder.select(is_one, found, ir.Constant(row.type, None))
