"""Vectors: what the kernel does with several lanes at once, written in LLVM's own vector types.

numba compiles loops and leaves it to LLVM to find vectors in them, which fails as soon as they move data across
lanes; here they are written down, and LLVM turns them into whatever the processor has (AVX-512, AVX2, NEON), lane for
lane with the same outcome. All operations take addresses; `like` is an array of the type of the values, of which
nothing else is used. A key is a value's bits as an integer that sorts as the value does, −0.0 below +0.0 and NaN at
both ends. What they are used for: `kernel.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils as _cgutils
from numba.core import types

LANES = 16
"""Lanes of one vector. A tile has four of them or one."""

intrinsic: Callable[[Callable[..., Any]], Any] = extending.intrinsic

cgutils: Any = _cgutils
# How far ahead of what is transposed memory is asked for: 64 columns are more streams than a processor foresees, and
# waiting for them took as long as everything else together.
_AHEAD_BYTES = 384
_INDEX = ir.IntType(64)
_SHORT = ir.IntType(32)
_DOUBLE = ir.DoubleType()


class _Values:
    """LLVM's types and constants for vectors of one type of values."""

    def __init__(self, like: Any, lanes: int = LANES) -> None:
        self.is_float = isinstance(like.dtype, types.Float)
        self.bits = int(like.dtype.bitwidth)
        self.bytes = self.bits // 8
        self.lanes = lanes
        self.integer = ir.IntType(self.bits)
        self.keys = ir.VectorType(self.integer, lanes)
        self.reals = ir.VectorType(_DOUBLE, lanes)
        self.floats = ir.VectorType(ir.FloatType() if self.bits == 32 else _DOUBLE, lanes)

    def splat(self, value: int) -> ir.Constant:
        return ir.Constant(self.keys, [value] * self.lanes)

    @property
    def largest(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def infinity(self) -> int:
        """The key of +∞; that of −∞ is its complement."""
        return 0x7F800000 if self.bits == 32 else 0x7FF0000000000000

    def flipped(self, builder: Any, bits: Any) -> Any:
        """Keys of bits, and bits of keys."""
        if not self.is_float:
            return bits
        sign = builder.ashr(bits, self.splat(self.bits - 1))
        return builder.xor(bits, builder.and_(sign, self.splat(self.largest)))

    def doubles(self, builder: Any, bits: Any) -> Any:
        if not self.is_float:
            return builder.sitofp(bits, self.reals)
        values = builder.bitcast(bits, self.floats)
        return values if self.bits == 64 else builder.fpext(values, self.reals)

    def deviations(self, builder: Any, bits: Any, origin: Any) -> Any:
        """Distances from `origin`, exact where the type allows; those of integers beyond 2⁶³ wrap around."""
        if not self.is_float and self.bits == 64:
            return builder.sitofp(builder.sub(bits, origin), self.reals)
        return builder.fsub(self.doubles(builder, bits), self.doubles(builder, origin))

    def is_present(self, builder: Any, keys: Any) -> Any:
        """Which keys are no NaN."""
        below = builder.icmp_signed("<=", keys, self.splat(self.infinity))
        return builder.and_(below, builder.icmp_signed(">=", keys, self.splat(~self.infinity)))


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    return builder.load(_pointer(builder, address, kind), align=align)


def _store(builder: Any, value: Any, address: Any, align: int) -> None:
    builder.store(value, _pointer(builder, address, value.type), align=align)


def _store_past(builder: Any, value: Any, address: Any) -> None:
    """Stores a whole cache line, which nobody reads soon, without fetching it first."""
    line = builder.store(value, _pointer(builder, address, value.type), align=64)
    line.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_SHORT, 1)]))


def _after(builder: Any, address: Any, count: Any, step_bytes: Any) -> Any:
    return builder.add(address, builder.mul(count, step_bytes))


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_INDEX, value)


def _minimum(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), one, other)


def _maximum(builder: Any, one: Any, other: Any) -> Any:
    return builder.select(builder.icmp_signed("<", one, other), other, one)


def _comparator(lanes: int) -> Callable[..., Any]:
    def exchange(context: Any, like: Any, low: Any, high: Any) -> Any:
        kind = _Values(like, lanes)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, low, high = arguments
            one = _load(builder, low, kind.keys, kind.bytes)
            other = _load(builder, high, kind.keys, kind.bytes)
            _store(builder, _minimum(builder, one, other), low, kind.bytes)
            _store(builder, _maximum(builder, one, other), high, kind.bytes)
            return context.get_dummy_value()

        return types.void(like, types.int64, types.int64), generate

    return exchange


# Puts the smaller key of each lane to the first address, the larger to the second.
exchange_64 = intrinsic(_comparator(4 * LANES))
exchange_16 = intrinsic(_comparator(LANES))


def _transposed(builder: Any, rows: Sequence[Any]) -> list[Any]:
    """A square of values, its rows and columns changed places, in log2 steps of shuffles."""
    size = len(rows)
    current = list(rows)
    step = 1
    while step < size:
        low = [n if not n & step else n - step + size for n in range(size)]
        high = [n + step if not n & step else n + size for n in range(size)]
        masks = [ir.Constant(ir.VectorType(_SHORT, size), mask) for mask in (low, high)]
        following = list(current)
        for n in range(size):
            if not n & step:
                following[n] = builder.shuffle_vector(current[n], current[n + step], masks[0])
                following[n + step] = builder.shuffle_vector(current[n], current[n + step], masks[1])
        current = following
        step *= 2
    return current


def _block(like: Any) -> int:
    """Rows and columns of the square that is transposed at once: as many as there are registers for."""
    return 16 if like.dtype.bitwidth == 32 else 8


@intrinsic
def transpose_columns(context: Any, like: Any, table: Any, offset: Any, target: Any, stride: Any) -> Any:
    """Values of 16 columns, whose addresses are in `table`, from byte `offset` on: one row for each of 16 samples.

    Of 64-bit values 8 samples. `stride`: bytes from row to row of the target.
    """
    kind, size = _Values(like, _block(like)), _block(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, table, offset, target, stride = arguments
        for begin in range(0, LANES, size):
            rows = []
            for lane in range(begin, begin + size):
                column = _load(builder, builder.add(table, _constant(8 * lane)), _INDEX, 8)
                address = builder.add(column, offset)
                _prefetch(builder, builder.add(address, _constant(_AHEAD_BYTES)))
                rows.append(_load(builder, address, kind.keys, kind.bytes))
            for sample, row in enumerate(_transposed(builder, rows)):
                place = _after(builder, target, _constant(sample), stride)
                _store(builder, row, builder.add(place, _constant(begin * kind.bytes)), kind.bytes)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def transpose_rows(context: Any, like: Any, source: Any, source_stride: Any, target: Any, target_stride: Any) -> Any:
    """A square of 16 rows of 16 values (8 of 8 of 64 bits) from one place to another, with bytes from row to row."""
    kind, size = _Values(like, _block(like)), _block(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, source_stride, target, target_stride = arguments
        places = [_after(builder, source, _constant(n), source_stride) for n in range(size)]
        rows = [_load(builder, place, kind.keys, kind.bytes) for place in places]
        for n, row in enumerate(_transposed(builder, rows)):
            _store_past(builder, row, _after(builder, target, _constant(n), target_stride))
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def sweep(
    context: Any, like: Any, source: Any, source_stride: Any, target: Any, stride: Any, rows: Any, found: Any, sums: Any
) -> Any:
    """Turns rows of 16 values into keys; finds their extremes and sums, lane by lane.

    `found` gets three rows: the smallest key, the largest, the first value, whence deviations are measured; `sums`
    the sum of deviations and of their squares. At least one row. Returns whether there was a NaN.
    """
    kind = _Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, source_stride, target, stride, rows, found, sums = arguments
        origin = _load(builder, source, kind.keys, kind.bytes)
        low = _variable(builder, kind.splat(kind.largest))
        high = _variable(builder, kind.splat(~kind.largest))
        magnitude = _variable(builder, kind.splat(0))
        total = _variable(builder, ir.Constant(kind.reals, [0.0] * LANES))
        squares = _variable(builder, ir.Constant(kind.reals, [0.0] * LANES))
        with cgutils.for_range(builder, rows) as loop:
            bits = _load(builder, _after(builder, source, loop.index, source_stride), kind.keys, kind.bytes)
            deviation = kind.deviations(builder, bits, origin)
            builder.store(builder.fadd(builder.load(total), deviation), total)
            builder.store(builder.fadd(builder.load(squares), builder.fmul(deviation, deviation)), squares)
            keys = kind.flipped(builder, bits)
            builder.store(_minimum(builder, keys, builder.load(low)), low)
            builder.store(_maximum(builder, keys, builder.load(high)), high)
            if kind.is_float:
                absolute = builder.and_(bits, kind.splat(kind.largest))
                builder.store(_maximum(builder, absolute, builder.load(magnitude)), magnitude)
            _store(builder, keys, _after(builder, target, loop.index, stride), kind.bytes)
        _put(builder, found, kind, [builder.load(low), builder.load(high), origin])
        _put(builder, sums, kind, [builder.load(total), builder.load(squares)])
        if not kind.is_float:
            return ir.Constant(ir.IntType(1), 0)
        return _any(builder, builder.icmp_signed(">", builder.load(magnitude), kind.splat(kind.infinity)))

    arguments = (like, *([types.int64] * 7))
    return types.boolean(*arguments), generate


@intrinsic
def sweep_present(
    context: Any, like: Any, keys: Any, stride: Any, rows: Any, found: Any, sums: Any, alternates: Any
) -> Any:
    """The same of rows of keys among which there are NaNs, which are left out and replaced.

    `found` as by `sweep`, and a fourth row with the number that is left. Replaced by the largest key; if `alternates`,
    every other one of a lane by the smallest, which leaves the middle where it was.
    """
    kind = _Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, keys, stride, rows, found, sums, alternates = arguments
        largest, smallest = kind.splat(kind.largest), kind.splat(~kind.largest)
        low, high = _variable(builder, largest), _variable(builder, smallest)
        count, turn = _variable(builder, kind.splat(0)), _variable(builder, kind.splat(0))
        turns = builder.sext(builder.icmp_signed("!=", alternates, _constant(0)), kind.integer)
        turning = _splat(builder, turns, kind.keys)
        with cgutils.for_range(builder, rows) as loop:
            place = _after(builder, keys, loop.index, stride)
            key = _load(builder, place, kind.keys, kind.bytes)
            present = kind.is_present(builder, key)
            builder.store(_minimum(builder, builder.select(present, key, largest), builder.load(low)), low)
            builder.store(_maximum(builder, builder.select(present, key, smallest), builder.load(high)), high)
            builder.store(builder.add(builder.load(count), builder.zext(present, kind.keys)), count)
            # All bits or none: the largest key with them flipped is the smallest.
            replacement = builder.xor(largest, builder.load(turn))
            _store(builder, builder.select(present, key, replacement), place, kind.bytes)
            other = builder.xor(builder.load(turn), turning)
            builder.store(builder.select(present, builder.load(turn), other), turn)
        origin = kind.flipped(builder, builder.load(low))
        none = ir.Constant(kind.reals, [0.0] * LANES)
        total, squares = _variable(builder, none), _variable(builder, none)
        with cgutils.for_range(builder, rows) as loop:
            key = _load(builder, _after(builder, keys, loop.index, stride), kind.keys, kind.bytes)
            deviation = kind.deviations(builder, kind.flipped(builder, key), origin)
            deviation = builder.select(kind.is_present(builder, key), deviation, none)
            builder.store(builder.fadd(builder.load(total), deviation), total)
            builder.store(builder.fadd(builder.load(squares), builder.fmul(deviation, deviation)), squares)
        _put(builder, found, kind, [builder.load(low), builder.load(high), origin, builder.load(count)])
        _put(builder, sums, kind, [builder.load(total), builder.load(squares)])
        return context.get_dummy_value()

    return types.void(like, *([types.int64] * 6)), generate


@intrinsic
def finish(
    context: Any,
    like: Any,
    real: Any,
    found: Any,
    sums: Any,
    lower: Any,
    upper: Any,
    rows: Any,
    has_missing: Any,
    extremes: Any,
    reals: Any,
    stride: Any,
    real_stride: Any,
) -> Any:
    """Figures of a window of `rows` rows: minimum, maximum; mean, median and stdev, in the type of `real`.

    `lower` and `upper` are the rows that the middle was brought to. The figures of each kind lie one stride apart.
    Returns whether some mean or stdev is not finite, or may have wrapped around.
    """
    kind = _Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, found, sums, lower, upper, rows, has_missing, extremes, reals, stride, real_stride = arguments
        row, real_row = 4 * LANES * kind.bytes, 4 * LANES * 8

        def keys(base: Any, n: int = 0) -> Any:
            return _load(builder, builder.add(base, _constant(n * row)), kind.keys, kind.bytes)

        def sum_of(n: int) -> Any:
            return _load(builder, builder.add(sums, _constant(n * real_row)), kind.reals, 8)

        all_rows = _splat(builder, builder.trunc(rows, kind.integer) if kind.bits < 64 else rows, kind.keys)
        count = all_rows
        if kind.is_float:
            count = builder.select(builder.icmp_signed("!=", has_missing, _constant(0)), keys(found, 3), all_rows)
        one, half = ir.Constant(kind.reals, [1.0] * LANES), ir.Constant(kind.reals, [0.5] * LANES)
        number = builder.sitofp(count, kind.reals)
        samples = builder.select(builder.fcmp_ordered("<", number, one), one, number)
        total = sum_of(0)
        deviation = builder.fdiv(total, samples)
        mean = builder.fadd(kind.doubles(builder, keys(found, 2)), deviation)
        square = builder.fsub(sum_of(1), builder.fmul(deviation, total))
        none = ir.Constant(kind.reals, [0.0] * LANES)
        square = builder.select(builder.fcmp_ordered("<", square, none), none, square)
        below = builder.fsub(samples, one)
        below = builder.select(builder.fcmp_ordered("<", below, one), one, below)
        stdev = _called(builder, f"llvm.sqrt.v{LANES}f64", kind.reals, builder.fdiv(square, below))
        low = kind.doubles(builder, kind.flipped(builder, keys(lower)))
        high = kind.doubles(builder, kind.flipped(builder, keys(upper)))
        odd = builder.trunc(count, ir.VectorType(ir.IntType(1), LANES))
        all_odd = builder.trunc(all_rows, ir.VectorType(ir.IntType(1), LANES))
        # With an even number of rows a single middle one is in the lower, with an odd number in the upper.
        single = builder.select(all_odd, high, low)
        median = builder.select(odd, single, builder.fmul(builder.fadd(low, high), half))
        for n, bits in enumerate((kind.flipped(builder, keys(found)), kind.flipped(builder, keys(found, 1)))):
            _store(builder, bits, _after(builder, extremes, _constant(n), stride), kind.bytes)
        for n, figure in enumerate((mean, median, stdev)):
            place = _after(builder, reals, _constant(n), real_stride)
            if real.dtype.bitwidth == 32:
                _store(builder, builder.fptrunc(figure, ir.VectorType(ir.FloatType(), LANES)), place, 4)
            else:
                _store(builder, figure, place, 8)
        # Infinity less itself is NaN, as NaN is.
        spread = builder.fadd(builder.fsub(mean, mean), builder.fsub(stdev, stdev))
        doubtful = builder.fcmp_unordered("!=", spread, none)
        if not kind.is_float:
            width = builder.sub(keys(found, 1), keys(found))
            doubtful = builder.or_(doubtful, builder.icmp_signed("<", width, kind.splat(0)))
        return _any(builder, doubtful)

    return types.boolean(like, real, *([types.int64] * 10)), generate


@intrinsic
def copy_row(context: Any, like: Any, source: Any, target: Any) -> Any:
    """Sixteen values from one place to another."""
    kind = _Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, target = arguments
        _store(builder, _load(builder, source, kind.keys, kind.bytes), target, kind.bytes)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64), generate


@intrinsic
def row_between(context: Any, like: Any, keys: Any, row: Any, rows: Any, low: Any, high: Any) -> Any:
    """The first row of 16 keys, from `row` on, that has one above `low` and not above `high`; `rows` where none has."""
    kind = _Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, keys, row, rows, low, high = arguments
        least, most = _splat(builder, low, kind.keys), _splat(builder, high, kind.keys)
        place = cgutils.alloca_once_value(builder, row)
        test, found = builder.append_basic_block("test"), builder.append_basic_block("found")
        following, look = builder.append_basic_block("next"), builder.append_basic_block("look")
        builder.branch(test)
        builder.position_at_end(test)
        builder.cbranch(builder.icmp_signed("<", builder.load(place), rows), look, found)
        builder.position_at_end(look)
        address = _after(builder, keys, builder.load(place), _constant(LANES * kind.bytes))
        some = _load(builder, address, kind.keys, kind.bytes)
        inside = builder.and_(builder.icmp_signed(">", some, least), builder.icmp_signed("<=", some, most))
        builder.cbranch(_any(builder, inside), found, following)
        builder.position_at_end(following)
        builder.store(builder.add(builder.load(place), _constant(1)), place)
        builder.branch(test)
        builder.position_at_end(found)
        return builder.load(place)

    return types.int64(like, *([types.int64] * 3), _integer(like), _integer(like)), generate


@intrinsic
def count_at_most(context: Any, like: Any, keys: Any, rows: Any, key: Any) -> Any:
    """How many of rows of 16 keys, one after the other, are not above one."""
    kind = _Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, keys, rows, key = arguments
        limit = _splat(builder, key, kind.keys)
        count = _variable(builder, kind.splat(0))
        step = _constant(LANES * kind.bytes)
        with cgutils.for_range(builder, rows) as loop:
            row = _load(builder, _after(builder, keys, loop.index, step), kind.keys, kind.bytes)
            # All bits set is −1.
            found = builder.sext(builder.icmp_signed("<=", row, limit), kind.keys)
            builder.store(builder.sub(builder.load(count), found), count)
        name = f"llvm.vector.reduce.add.v{LANES}i{kind.bits}"
        total = _called(builder, name, kind.integer, builder.load(count))
        return total if kind.bits == 64 else builder.sext(total, _INDEX)

    return types.int64(like, types.int64, types.int64, _integer(like)), generate


@intrinsic
def item(context: Any, like: Any, address: Any, place: Any) -> Any:
    """A number of the type of `like`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, size = context.get_value_type(like.dtype), like.dtype.bitwidth // 8
        return _load(builder, _after(builder, arguments[1], arguments[2], _constant(size)), kind, size)

    return like.dtype(like, types.int64, types.int64), generate


@intrinsic
def put_item(context: Any, like: Any, address: Any, place: Any, number: Any) -> Any:
    """Stores a number of the type of `like`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        size = like.dtype.bitwidth // 8
        _store(builder, arguments[3], _after(builder, arguments[1], arguments[2], _constant(size)), size)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64, like.dtype), generate


@intrinsic
def number_of(context: Any, like: Any, key: Any) -> Any:
    """The value of a key, as a double."""
    kind = _Values(like, 1)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        keys = builder.insert_element(ir.Constant(kind.keys, ir.Undefined), arguments[1], ir.Constant(_SHORT, 0))
        numbers = kind.doubles(builder, kind.flipped(builder, keys))
        return builder.extract_element(numbers, ir.Constant(_SHORT, 0))

    return types.float64(like, _integer(like)), generate


@intrinsic
def key_of(context: Any, like: Any, number: Any) -> Any:
    """The key of the value that is next to a double; of integers it must be within their range."""
    kind = _Values(like, 1)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers = builder.insert_element(ir.Constant(kind.reals, ir.Undefined), arguments[1], ir.Constant(_SHORT, 0))
        if not kind.is_float:
            bits = builder.fptosi(numbers, kind.keys)
        else:
            values = numbers if kind.bits == 64 else builder.fptrunc(numbers, kind.floats)
            bits = builder.bitcast(values, kind.keys)
        return builder.extract_element(kind.flipped(builder, bits), ir.Constant(_SHORT, 0))

    return _integer(like)(like, types.float64), generate


def _integer(like: Any) -> Any:
    """The type of the keys."""
    return types.int32 if like.dtype.bitwidth == 32 else types.int64


def _variable(builder: Any, value: Any) -> Any:
    return cgutils.alloca_once_value(builder, value)


def _called(builder: Any, name: str, returned: Any, argument: Any) -> Any:
    """One of LLVM's own functions."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(returned, [argument.type]), name)
    return builder.call(function, [argument])


def _prefetch(builder: Any, address: Any) -> None:
    """Asks for the cache line of an address, which need not exist."""
    place = _pointer(builder, address, ir.IntType(8))
    kind = ir.FunctionType(ir.VoidType(), [place.type, _SHORT, _SHORT, _SHORT])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [place, *(ir.Constant(_SHORT, hint) for hint in (0, 2, 1))])


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    nowhere = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(nowhere, value, ir.Constant(_SHORT, 0))
    zeros = ir.Constant(ir.VectorType(_SHORT, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, nowhere, zeros)


def _any(builder: Any, mask: Any) -> Any:
    """Whether any lane is set."""
    bits = builder.bitcast(mask, ir.IntType(LANES))
    return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))


def _put(builder: Any, address: Any, kind: _Values, vectors: Sequence[Any]) -> None:
    """Vectors one after the other, 64 lanes apart."""
    for n, vector in enumerate(vectors):
        size = 8 if vector.type.element == _DOUBLE else kind.bytes
        _store(builder, vector, builder.add(address, _constant(n * 4 * LANES * size)), size)
