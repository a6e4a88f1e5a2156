"""A few floats in one register: what numba lacks for reading packed rows, in LLVM's own words.

Four lanes hold four query heads' numbers side by side, sixteen hold sixteen channels of one row.
"""

from __future__ import annotations

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from kvlab.kernels.floats import widen

# Query heads that share a read.
LANES = 4
# Channels that are spread at once, and whether one instruction does it.
WIDE = 16
SPREADS = bool(get_host_cpu_features().get("avx512f"))

_FLOAT, _INT, _WORD = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class _Floats(types.Type):
    """Some float32 in one register, or in as many as the machine needs for them."""

    def __init__(self, n: int) -> None:
        super().__init__(f"float32x{n}")
        self.n = n


@register_model(_Floats)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, ir.VectorType(_FLOAT, kind.n))


_four, _sixteen = _Floats(LANES), _Floats(WIDE)


def _address(context, builder, kind, array, index, vector=None):
    """Where an array's element lies; numba's own indexing first asks whether it is negative."""
    data = context.make_array(kind)(context, builder, array).data
    place = builder.gep(data, [index])
    return place if vector is None else builder.bitcast(place, vector.as_pointer())


def _zeros_of(kind):
    @intrinsic
    def zeros(_typing):
        return kind(), lambda context, builder, signature, args: ir.Constant(
            ir.VectorType(_FLOAT, kind.n), None
        )

    return zeros


def _loads_of(kind):
    """The floats from a place on."""

    @intrinsic
    def load(_typing, array, index):
        def read(context, builder, signature, args):
            vector = ir.VectorType(_FLOAT, kind.n)
            found = builder.load(_address(context, builder, signature.args[0], *args, vector))
            found.align = 4
            return found

        return kind(array, types.intp), read

    return load


def _spreads_of(kind):
    """The number at a place, in each lane."""

    @intrinsic
    def everywhere(_typing, array, index):
        def splat(context, builder, signature, args):
            number = builder.load(_address(context, builder, signature.args[0], *args))
            undefined = ir.Constant(ir.VectorType(_FLOAT, kind.n), ir.Undefined)
            one = builder.insert_element(undefined, number, _INT(0))
            every = ir.Constant(ir.VectorType(_INT, kind.n), [0] * kind.n)
            return builder.shuffle_vector(one, undefined, every)

        return kind(array, types.intp), splat

    return everywhere


def _bits_of(n):
    """The next n bits from a byte on, as a number."""

    @intrinsic
    def bits(_typing, array, index):
        def read(context, builder, signature, args):
            place = _address(context, builder, signature.args[0], *args, ir.IntType(n))
            found = builder.load(place)
            found.align = 1
            return builder.zext(found, _WORD) if n < 64 else found

        return types.uint64(array, types.intp), read

    return bits


zeros4, zeros16 = _zeros_of(_four), _zeros_of(_sixteen)
load4, load16 = _loads_of(_four), _loads_of(_sixteen)
every4, every16 = _spreads_of(_four), _spreads_of(_sixteen)
bits16, bits64 = _bits_of(16), _bits_of(64)


@intrinsic
def store(_typing, array, index, value):
    """Put floats, or a word of eight bytes, from `index` on."""

    def store(context, builder, signature, args):
        place = _address(context, builder, signature.args[0], args[0], args[1], args[2].type)
        builder.store(args[2], place).align = signature.args[0].dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, types.intp, value), store


@intrinsic
def ones(_typing, number):
    """How many bits are set."""

    def ones(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.intp(types.uint64), ones


@intrinsic
def lanes_of(_typing, array, index):
    """LANES times the byte at `index`: where a number's four lanes begin."""

    def read(context, builder, signature, args):
        byte = builder.load(_address(context, builder, signature.args[0], *args))
        return builder.mul(builder.zext(byte, _WORD), _WORD(LANES))

    return types.intp(array, types.intp), read


@intrinsic
def add(_typing, first, second):
    return first(first, second), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def minus(_typing, first, second):
    return first(first, second), lambda context, builder, signature, args: builder.fsub(*args)


@intrinsic
def fuse(_typing, total, first, second):
    """total + first x second."""

    def fuse(context, builder, signature, args):
        flags = ("contract", "reassoc", "nsz")
        return builder.fadd(args[0], builder.fmul(args[1], args[2], flags=flags), flags=flags)

    return total(total, first, second), fuse


@intrinsic
def most(_typing, first, second):
    """The greater one in each lane."""

    def most(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return first(first, second), most


@intrinsic
def spread(_typing, array, index, bits):
    """The numbers from `index` on, one after the other where a bit is set, and 0 where not."""

    def spread(context, builder, signature, args):
        place = _address(context, builder, signature.args[0], args[0], args[1])
        row, mask = ir.VectorType(_FLOAT, WIDE), ir.VectorType(ir.IntType(1), WIDE)
        kind = ir.FunctionType(row, [place.type, mask, row])
        expand = builder.module.globals.get("llvm.masked.expandload.v16f32")
        if expand is None:
            expand = ir.Function(builder.module, kind, "llvm.masked.expandload.v16f32")
        bits = builder.bitcast(builder.trunc(args[2], ir.IntType(16)), mask)
        return builder.call(expand, [place, bits, ir.Constant(row, None)])

    return _sixteen(array, types.intp, types.uint64), spread


@intrinsic
def totals(_typing, a, b, c, d):
    """The sum of each of four registers' numbers."""

    def totals(context, builder, signature, args):
        def pairs(x, y, n):  # sums of neighbours, those of x first
            places = ir.VectorType(_INT, n)
            even = builder.shuffle_vector(x, y, ir.Constant(places, [2 * i for i in range(n)]))
            odd = builder.shuffle_vector(x, y, ir.Constant(places, [2 * i + 1 for i in range(n)]))
            return builder.fadd(even, odd)

        a, b, c, d = args
        both = pairs(pairs(a, b, WIDE), pairs(c, d, WIDE), WIDE)
        half = pairs(both, both, WIDE // 2)
        return pairs(half, half, LANES)

    return _four(_sixteen, _sixteen, _sixteen, _sixteen), totals


def as_floats(values_N, scratch_N):
    """Values as float32: as they lie, or widened into `scratch_N`."""
    raise NotImplementedError("for compiled code only")


@overload(as_floats)
def _compiled_as_floats(values_N, scratch_N):
    if values_N.dtype == types.float32:
        return lambda values_N, scratch_N: values_N

    def widened(values_N, scratch_N):
        for j in range(values_N.size):
            scratch_N[j] = widen(values_N[j])
        return scratch_N[: values_N.size]

    return widened
