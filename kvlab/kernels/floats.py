"""Numbers as they are stored and as they are calculated with, and a quick exponential, for numba.

Half precision comes in as integers of the same bits: uint16 is bfloat16, int16 is float16. int8 is
a whole number.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic, overload


@cache
def has(feature: str) -> bool:
    """Whether the processor that numba compiles for has a feature, by LLVM's name for it."""
    asked = config.CPU_FEATURES  # NUMBA_CPU_FEATURES
    if asked is not None:
        return f"+{feature}" in asked.split(",")
    return bool(binding.get_host_cpu_features().get(feature))


def widened(builder, stored, number):
    """LLVM's words for a stored number, or a vector of them, as one that is calculated with."""
    n = getattr(number.type, "count", None)

    def of(kind):
        return kind if n is None else ir.VectorType(kind, n)

    if stored == types.uint16:  # bfloat16
        wide = builder.zext(number, of(ir.IntType(32)))
        by = ir.Constant(wide.type, 16 if n is None else [16] * n)
        return builder.bitcast(builder.shl(wide, by), of(ir.FloatType()))
    if stored == types.int16:  # float16
        return builder.fpext(builder.bitcast(number, of(ir.HalfType())), of(ir.FloatType()))
    if stored == types.int8:
        return builder.sitofp(number, of(ir.FloatType()))
    return number


@intrinsic
def widen(_typing, number):
    """A stored number as one that can be calculated with."""
    if number in (types.float64, types.float32):
        wide = number
    elif number in (types.uint16, types.int16, types.int8):
        wide = types.float32
    else:
        return None

    def widen(_context, builder, _signature, args):
        return widened(builder, number, args[0])

    return wide(number), widen


@intrinsic
def narrow(_typing, number, stored):
    """A number as it is stored beside `stored`: rounded to the nearest, to even from halfway."""

    def as_it_is(_context, _builder, _signature, args):
        return args[0]

    def to_bfloat16(_context, builder, _signature, args):
        bits = builder.bitcast(args[0], ir.IntType(32))
        odd = builder.and_(builder.lshr(bits, bits.type(16)), bits.type(1))
        rounded = builder.add(bits, builder.add(odd, bits.type(0x7FFF)))
        return builder.trunc(builder.lshr(rounded, bits.type(16)), ir.IntType(16))

    def to_float16(_context, builder, _signature, args):
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    ways = {
        (types.float64, types.float64): as_it_is,
        (types.float32, types.float32): as_it_is,
        (types.float32, types.uint16): to_bfloat16,
        (types.float32, types.int16): to_float16,
    }
    way = ways.get((number, stored))
    return None if way is None else (stored(number, stored), way)


@intrinsic
def prefetch(_typing, array, index):
    """Ask memory for one element's cache line. It may lie outside the array: nothing is read."""

    def ask(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, word, word, word]),
            "llvm.prefetch.p0i8",
        )
        address = builder.bitcast(builder.gep(data, [args[1]]), byte)
        builder.call(function, [address, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), ask


@intrinsic
def _float_of_bits(_typing, bits):
    def cast(_context, builder, _signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), cast


def exp(x):
    return np.exp(x)


@overload(exp, inline="always")
def _exp_of(x):
    """In float32 a polynomial, which the compiler can turn into vector code; else the library's."""
    if x != types.float32:
        return lambda x: np.exp(x)

    def exp(x):
        # x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its series, then n goes into the exponent
        x = min(max(x, np.float32(-87.0)), np.float32(88.0))
        n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
        r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        p = p * r * r + r + np.float32(1.0)
        return p * _float_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))

    return exp
