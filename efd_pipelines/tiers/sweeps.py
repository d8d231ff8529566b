"""Sweeps: minimum, maximum, sums and number of rows of values, lane by lane, and figures from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from efd_pipelines.tiers.vectors import (
    DOUBLE,
    LANES,
    SHORT,
    Values,
    after,
    any_of,
    called,
    cgutils,
    constant,
    intrinsic,
    load,
    maximum,
    minimum,
    splat,
    store,
    variable,
)


@intrinsic
def sweep(
    context: Any, like: Any, source: Any, source_stride: Any, target: Any, stride: Any, rows: Any, found: Any, sums: Any
) -> Any:
    """Turns rows of 16 values into keys; finds their extremes and sums, lane by lane.

    `found` gets three rows: the smallest key, the largest, the first value, whence deviations are measured; `sums`
    the sum of deviations and of their squares. At least one row. Returns whether there was a NaN.
    """
    kind = Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, source_stride, target, stride, rows, found, sums = arguments
        origin = load(builder, source, kind.keys, kind.bytes)
        low = variable(builder, kind.splat(kind.largest))
        high = variable(builder, kind.splat(~kind.largest))
        magnitude = variable(builder, kind.splat(0))
        total = variable(builder, ir.Constant(kind.reals, [0.0] * LANES))
        squares = variable(builder, ir.Constant(kind.reals, [0.0] * LANES))
        with cgutils.for_range(builder, rows) as loop:
            bits = load(builder, after(builder, source, loop.index, source_stride), kind.keys, kind.bytes)
            deviation = kind.deviations(builder, bits, origin)
            builder.store(builder.fadd(builder.load(total), deviation), total)
            builder.store(builder.fadd(builder.load(squares), builder.fmul(deviation, deviation)), squares)
            keys = kind.flipped(builder, bits)
            builder.store(minimum(builder, keys, builder.load(low)), low)
            builder.store(maximum(builder, keys, builder.load(high)), high)
            if kind.is_float:
                absolute = builder.and_(bits, kind.splat(kind.largest))
                builder.store(maximum(builder, absolute, builder.load(magnitude)), magnitude)
            store(builder, keys, after(builder, target, loop.index, stride), kind.bytes)
        _put(builder, found, kind, [builder.load(low), builder.load(high), origin])
        _put(builder, sums, kind, [builder.load(total), builder.load(squares)])
        if not kind.is_float:
            return ir.Constant(ir.IntType(1), 0)
        return any_of(builder, builder.icmp_signed(">", builder.load(magnitude), kind.splat(kind.infinity)))

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
    kind = Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, keys, stride, rows, found, sums, alternates = arguments
        largest, smallest = kind.splat(kind.largest), kind.splat(~kind.largest)
        low, high = variable(builder, largest), variable(builder, smallest)
        count, turn = variable(builder, kind.splat(0)), variable(builder, kind.splat(0))
        turns = builder.sext(builder.icmp_signed("!=", alternates, constant(0)), kind.integer)
        turning = splat(builder, turns, kind.keys)
        with cgutils.for_range(builder, rows) as loop:
            place = after(builder, keys, loop.index, stride)
            key = load(builder, place, kind.keys, kind.bytes)
            present = kind.is_present(builder, key)
            builder.store(minimum(builder, builder.select(present, key, largest), builder.load(low)), low)
            builder.store(maximum(builder, builder.select(present, key, smallest), builder.load(high)), high)
            builder.store(builder.add(builder.load(count), builder.zext(present, kind.keys)), count)
            # All bits or none: the largest key with them flipped is the smallest.
            replacement = builder.xor(largest, builder.load(turn))
            store(builder, builder.select(present, key, replacement), place, kind.bytes)
            other = builder.xor(builder.load(turn), turning)
            builder.store(builder.select(present, builder.load(turn), other), turn)
        origin = kind.flipped(builder, builder.load(low))
        none = ir.Constant(kind.reals, [0.0] * LANES)
        total, squares = variable(builder, none), variable(builder, none)
        with cgutils.for_range(builder, rows) as loop:
            key = load(builder, after(builder, keys, loop.index, stride), kind.keys, kind.bytes)
            deviation = kind.deviations(builder, kind.flipped(builder, key), origin)
            deviation = builder.select(kind.is_present(builder, key), deviation, none)
            builder.store(builder.fadd(builder.load(total), deviation), total)
            builder.store(builder.fadd(builder.load(squares), builder.fmul(deviation, deviation)), squares)
        _put(builder, found, kind, [builder.load(low), builder.load(high), origin, builder.load(count)])
        _put(builder, sums, kind, [builder.load(total), builder.load(squares)])
        return context.get_dummy_value()

    return types.void(like, *([types.int64] * 6)), generate


@intrinsic
def sweep_rows(context: Any, like: Any, source: Any, stride: Any, rows: Any, found: Any, sums: Any) -> Any:
    """Extremes and sums of rows of 16 values, lane by lane.

    `found` gets four rows: the smallest value, the largest, the first, whence deviations are measured, and how many
    there are; `sums` the sum of deviations and of their squares. At least one row. Returns whether there may be a NaN:
    then nothing of it counts. Which zero is the smallest or the largest is left open.
    """
    kind = Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, stride, rows, found, sums = arguments
        origin = load(builder, source, kind.keys, kind.bytes)
        smallest, largest = kind.ends()
        low, high = variable(builder, largest), variable(builder, smallest)
        none = ir.Constant(kind.reals, [0.0] * LANES)
        total, squares = variable(builder, none), variable(builder, none)
        with cgutils.for_range(builder, rows) as loop:
            value = load(builder, after(builder, source, loop.index, stride), kind.numbers, kind.bytes)
            deviation = kind.deviations(builder, builder.bitcast(value, kind.keys), origin)
            _add(builder, deviation, total, squares)
            builder.store(kind.extremes(builder, value, builder.load(low))[0], low)
            builder.store(kind.extremes(builder, builder.load(high), value)[1], high)
        count = splat(builder, builder.trunc(rows, kind.integer) if kind.bits < 64 else rows, kind.keys)
        _put(builder, found, kind, [builder.load(low), builder.load(high), origin, count])
        _put(builder, sums, kind, [builder.load(total), builder.load(squares)])
        if not kind.is_float:
            return ir.Constant(ir.IntType(1), 0)
        # NaN is left of any sum with NaN.
        return any_of(builder, builder.fcmp_unordered("uno", builder.load(total), none))

    return types.boolean(like, *([types.int64] * 5)), generate


@intrinsic
def sweep_some(context: Any, like: Any, source: Any, stride: Any, rows: Any, found: Any, sums: Any) -> Any:
    """The same where there may be NaNs, which are left out, and replaced by +∞ and −∞ in turn.

    That leaves the middle of each lane in the middle. Returns whether there was one.
    """
    kind = Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, stride, rows, found, sums = arguments
        if not kind.is_float:
            return ir.Constant(ir.IntType(1), 0)

        def row(place: Any) -> tuple[Any, Any]:
            address = after(builder, source, place, stride)
            return address, load(builder, address, kind.floats, kind.bytes)

        start = variable(builder, ir.Constant(kind.floats, [float("nan")] * LANES))
        with cgutils.for_range(builder, rows) as loop:
            here = builder.load(start)
            begun = builder.fcmp_ordered("ord", here, here)
            here = builder.select(begun, here, row(loop.index)[1])
            builder.store(here, start)
            missing = any_of(builder, builder.fcmp_unordered("uno", here, here))
            with builder.if_then(builder.not_(missing)):
                loop.do_break()
        origin = builder.bitcast(builder.load(start), kind.keys)
        smallest, largest = kind.ends()
        low, high = variable(builder, largest), variable(builder, smallest)
        none = ir.Constant(kind.reals, [0.0] * LANES)
        total, squares = variable(builder, none), variable(builder, none)
        count, turn = variable(builder, kind.splat(0)), variable(builder, kind.splat(0))
        sign = kind.splat(1 << (kind.bits - 1))
        with cgutils.for_range(builder, rows) as loop:
            address, value = row(loop.index)
            present = builder.fcmp_ordered("ord", value, value)
            deviation = kind.deviations(builder, builder.bitcast(value, kind.keys), origin)
            _add(builder, builder.select(present, deviation, none), total, squares)
            builder.store(kind.extremes(builder, value, builder.load(low))[0], low)
            builder.store(kind.extremes(builder, builder.load(high), value)[1], high)
            builder.store(builder.sub(builder.load(count), builder.sext(present, kind.keys)), count)
            replacement = builder.xor(builder.bitcast(largest, kind.keys), builder.load(turn))
            replacement = builder.bitcast(replacement, kind.floats)
            store(builder, builder.select(present, value, replacement), address, kind.bytes)
            other = builder.xor(builder.load(turn), sign)
            builder.store(builder.select(present, builder.load(turn), other), turn)
        _put(builder, found, kind, [builder.load(low), builder.load(high), origin, builder.load(count)])
        _put(builder, sums, kind, [builder.load(total), builder.load(squares)])
        all_rows = splat(builder, builder.trunc(rows, kind.integer) if kind.bits < 64 else rows, kind.keys)
        return any_of(builder, builder.icmp_signed("<", builder.load(count), all_rows))

    return types.boolean(like, *([types.int64] * 5)), generate


def _add(builder: Any, deviation: Any, total: Any, squares: Any) -> None:
    builder.store(builder.fadd(builder.load(total), deviation), total)
    builder.store(builder.fadd(builder.load(squares), builder.fmul(deviation, deviation)), squares)


@intrinsic
def finish(
    context: Any,
    like: Any,
    real: Any,
    found: Any,
    sums: Any,
    middle: Any,
    rows: Any,
    extremes: Any,
    reals: Any,
    stride: Any,
    real_stride: Any,
) -> Any:
    """Figures of a window of `rows` rows: minimum, maximum; mean, median and stdev, in the type of `real`.

    `found` and `sums` are what a sweep gave, `middle` the two middle rows. The figures of each kind lie one stride
    apart. Returns whether some mean or stdev is not finite, or may have wrapped around.
    """
    kind = Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, found, sums, middle, rows, extremes, reals, stride, real_stride = arguments
        row, real_row = 4 * LANES * kind.bytes, 4 * LANES * 8

        def keys(base: Any, n: int = 0) -> Any:
            return load(builder, builder.add(base, constant(n * row)), kind.keys, kind.bytes)

        def sum_of(n: int) -> Any:
            return load(builder, builder.add(sums, constant(n * real_row)), kind.reals, 8)

        all_rows = splat(builder, builder.trunc(rows, kind.integer) if kind.bits < 64 else rows, kind.keys)
        count = keys(found, 3) if kind.is_float else all_rows
        one, half = ir.Constant(kind.reals, [1.0] * LANES), ir.Constant(kind.reals, [0.5] * LANES)
        number = builder.sitofp(count, kind.reals)
        samples = builder.select(builder.fcmp_ordered("<", number, one), one, number)
        below = builder.fsub(samples, one)
        below = builder.select(builder.fcmp_ordered("<", below, one), one, below)

        def quotient(dividend: Any, divisor: Any) -> Any:
            """Of single precision at the end, a product does as well, if the divisor is the same in all lanes."""
            if real.dtype.bitwidth > 32:
                return builder.fdiv(dividend, divisor)
            first = builder.extract_element(divisor, ir.Constant(SHORT, 0))
            inverse = splat(builder, builder.fdiv(ir.Constant(DOUBLE, 1.0), first), kind.reals)
            found = variable(builder, builder.fmul(dividend, inverse))
            differing = any_of(builder, builder.fcmp_ordered("!=", divisor, splat(builder, first, kind.reals)))
            with builder.if_then(differing, likely=False):
                builder.store(builder.fdiv(dividend, divisor), found)
            return builder.load(found)

        total = sum_of(0)
        deviation = quotient(total, samples)
        mean = builder.fadd(kind.doubles(builder, keys(found, 2)), deviation)
        square = builder.fsub(sum_of(1), builder.fmul(deviation, total))
        none = ir.Constant(kind.reals, [0.0] * LANES)
        square = builder.select(builder.fcmp_ordered("<", square, none), none, square)
        stdev = called(builder, f"llvm.sqrt.v{LANES}f64", kind.reals, quotient(square, below))
        low = kind.doubles(builder, keys(middle))
        high = kind.doubles(builder, keys(middle, 1))
        odd = builder.trunc(count, ir.VectorType(ir.IntType(1), LANES))
        all_odd = builder.trunc(all_rows, ir.VectorType(ir.IntType(1), LANES))
        # With an even number of rows a single middle one is the lower, with an odd number the upper.
        single = builder.select(all_odd, high, low)
        median = builder.select(odd, single, builder.fmul(builder.fadd(low, high), half))
        for n, bits in enumerate((keys(found), keys(found, 1))):
            store(builder, bits, after(builder, extremes, constant(n), stride), kind.bytes)
        for n, figure in enumerate((mean, median, stdev)):
            place = after(builder, reals, constant(n), real_stride)
            if real.dtype.bitwidth == 32:
                store(builder, builder.fptrunc(figure, ir.VectorType(ir.FloatType(), LANES)), place, 4)
            else:
                store(builder, figure, place, 8)
        # Infinity less itself is NaN, as NaN is.
        spread = builder.fadd(builder.fsub(mean, mean), builder.fsub(stdev, stdev))
        doubtful = builder.fcmp_unordered("!=", spread, none)
        if not kind.is_float:
            width = builder.sub(keys(found, 1), keys(found))
            doubtful = builder.or_(doubtful, builder.icmp_signed("<", width, kind.splat(0)))
        return any_of(builder, doubtful)

    return types.boolean(like, real, *([types.int64] * 8)), generate


def _put(builder: Any, address: Any, kind: Values, vectors: Sequence[Any]) -> None:
    """Vectors one after the other, 64 lanes apart."""
    for n, vector in enumerate(vectors):
        size = 8 if vector.type.element == DOUBLE else kind.bytes
        store(builder, vector, builder.add(address, constant(n * 4 * LANES * size)), size)
