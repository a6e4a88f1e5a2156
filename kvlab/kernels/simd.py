"""A few floats in one register: what numba lacks for reading packed rows, in LLVM's own words.

Four lanes hold four query heads' numbers side by side, `WIDE` lanes hold so many channels of one
row, and four times as many hold those channels for four heads, one head's after the other's.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from kvlab.kernels.floats import has, widened

# Query heads that share a read.
LANES = 4
# Channels that are worked on at once: what one register of AVX-512, or of AVX2, holds.
WIDE = 16 if has("avx512f") else 8

FLOAT, INT, WORD = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class Floats(types.Type):
    """Some float32 in one register, or in as many as the machine needs for them."""

    def __init__(self, n: int) -> None:
        super().__init__(f"float32x{n}")
        self.n = n


@register_model(Floats)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, ir.VectorType(FLOAT, kind.n))


FOUR, ROW, ROWS = Floats(LANES), Floats(WIDE), Floats(LANES * WIDE)


def address(context, builder, kind, array, index, vector=None):
    """Where an array's element lies; numba's own indexing first asks whether it is negative."""
    data = context.make_array(kind)(context, builder, array).data
    place = builder.gep(data, [index])
    return place if vector is None else builder.bitcast(place, vector.as_pointer())


def loaded(context, builder, kind, array, index, n):
    """`n` numbers from an element on, as they are stored."""
    vector = ir.VectorType(context.get_data_type(kind.dtype), n)
    found = builder.load(address(context, builder, kind, array, index, vector))
    found.align = kind.dtype.bitwidth // 8
    return found


def shuffled(builder, first, places, second=None):
    """The lanes of one or two registers at some places, in that order."""
    other = ir.Constant(first.type, ir.Undefined) if second is None else second
    where = ir.Constant(ir.VectorType(INT, len(places)), list(places))
    return builder.shuffle_vector(first, other, where)


def everywhere(builder, number, n):
    """One number in each of n lanes."""
    one = ir.Constant(ir.VectorType(number.type, n), ir.Undefined)
    return shuffled(builder, builder.insert_element(one, number, INT(0)), [0] * n)


def of_llvm(builder, name, result, *arguments):
    """A function that LLVM knows: often one instruction of the processor."""
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def _zeros_of(kind):
    @intrinsic
    def zeros(_typing):
        return kind(), lambda context, builder, signature, args: ir.Constant(
            ir.VectorType(FLOAT, kind.n), None
        )

    return zeros


def _loads_of(kind):
    """The floats from a place on."""

    @intrinsic
    def load(_typing, array, index):
        def read(context, builder, signature, args):
            return loaded(context, builder, signature.args[0], *args, kind.n)

        return kind(array, types.intp), read

    return load


def _bits_of(n):
    """The next n bits from a byte on, as a number."""

    @intrinsic
    def bits(_typing, array, index):
        def read(context, builder, signature, args):
            place = address(context, builder, signature.args[0], *args, ir.IntType(n))
            found = builder.load(place)
            found.align = 1
            return builder.zext(found, WORD) if n < 64 else found

        return types.uint64(array, types.intp), read

    return bits


def _lane_of(i):
    """One of four numbers, in each lane."""

    @intrinsic
    def lane(_typing, four):
        def spread(_context, builder, _signature, args):
            return shuffled(builder, args[0], [i] * LANES)

        return FOUR(FOUR), spread

    return lane


zeros4, zeros = _zeros_of(FOUR), _zeros_of(ROWS)
load4, load = _loads_of(FOUR), _loads_of(ROWS)
bits, bits64 = _bits_of(WIDE), _bits_of(64)
lane0, lane1, lane2, lane3 = map(_lane_of, range(LANES))


@intrinsic
def widened4(_typing, array, index):
    """Four stored numbers from `index` on, as float32, in a register.

    The fence keeps them there: LLVM would else read each once more from memory to fill its lanes,
    and reading is what there is most of.
    """

    def read(context, builder, signature, args):
        kind = signature.args[0]
        four = widened(builder, kind.dtype, loaded(context, builder, kind, *args, LANES))
        fence = of_llvm(builder, "llvm.arithmetic.fence.v4f32", four.type, four.type)
        return builder.call(fence, [four])

    return FOUR(array, types.intp), read


@intrinsic
def every4(_typing, array, index):
    """The stored number at a place as float32, in each lane."""

    def splat(context, builder, signature, args):
        kind = signature.args[0]
        number = builder.load(address(context, builder, kind, *args))
        return everywhere(builder, widened(builder, kind.dtype, number), LANES)

    return FOUR(array, types.intp), splat


@intrinsic
def store(_typing, array, index, value):
    """Put floats from `index` on."""

    def store(context, builder, signature, args):
        place = address(context, builder, signature.args[0], args[0], args[1], args[2].type)
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
def repeated(_typing, four):
    """Four heads' numbers, as often as they fill what channels of four heads take."""

    def repeat(_context, builder, _signature, args):
        return shuffled(builder, args[0], [*range(LANES)] * WIDE)

    return ROWS(FOUR), repeat


@intrinsic
def for_all(_typing, row):
    """A row's channels for each of four heads."""

    def repeat(_context, builder, _signature, args):
        return shuffled(builder, args[0], [*range(WIDE)] * LANES)

    return ROWS(ROW), repeat


@intrinsic
def weights(_typing, array, index):
    """Four heads' weights from `index` on, each for all channels."""

    def repeat(context, builder, signature, args):
        four = loaded(context, builder, signature.args[0], *args, LANES)
        return shuffled(builder, four, [head for head in range(LANES) for _ in range(WIDE)])

    return ROWS(array, types.intp), repeat


@intrinsic
def totals(_typing, rows):
    """Each head's sum over its channels."""

    def totals(_context, builder, _signature, args):
        found, n = args[0], LANES * WIDE
        while n > LANES:
            n //= 2
            even, odd = (shuffled(builder, found, range(i, 2 * n, 2)) for i in (0, 1))
            found = builder.fadd(even, odd)
        return found

    return FOUR(ROWS), totals
