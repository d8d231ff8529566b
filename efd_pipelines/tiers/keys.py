"""Keys: compared and exchanged, counted and searched for, and made of values."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from efd_pipelines.tiers.vectors import (
    INDEX,
    LANES,
    SHORT,
    Values,
    after,
    any_of,
    called,
    cgutils,
    constant,
    integer_of,
    intrinsic,
    load,
    splat,
    variable,
)


@intrinsic
def row_between(context: Any, like: Any, keys: Any, row: Any, rows: Any, low: Any, high: Any) -> Any:
    """The first row of 16 keys, from `row` on, that has one above `low` and not above `high`; `rows` where none has."""
    kind = Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, keys, row, rows, low, high = arguments
        least, most = splat(builder, low, kind.keys), splat(builder, high, kind.keys)
        place = cgutils.alloca_once_value(builder, row)
        test, found = builder.append_basic_block("test"), builder.append_basic_block("found")
        following, look = builder.append_basic_block("next"), builder.append_basic_block("look")
        builder.branch(test)
        builder.position_at_end(test)
        builder.cbranch(builder.icmp_signed("<", builder.load(place), rows), look, found)
        builder.position_at_end(look)
        address = after(builder, keys, builder.load(place), constant(LANES * kind.bytes))
        some = load(builder, address, kind.keys, kind.bytes)
        inside = builder.and_(builder.icmp_signed(">", some, least), builder.icmp_signed("<=", some, most))
        builder.cbranch(any_of(builder, inside), found, following)
        builder.position_at_end(following)
        builder.store(builder.add(builder.load(place), constant(1)), place)
        builder.branch(test)
        builder.position_at_end(found)
        return builder.load(place)

    return types.int64(like, *([types.int64] * 3), integer_of(like), integer_of(like)), generate


@intrinsic
def count_at_most(context: Any, like: Any, keys: Any, rows: Any, key: Any) -> Any:
    """How many of rows of 16 keys, one after the other, are not above one."""
    kind = Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, keys, rows, key = arguments
        limit = splat(builder, key, kind.keys)
        count = variable(builder, kind.splat(0))
        step = constant(LANES * kind.bytes)
        with cgutils.for_range(builder, rows) as loop:
            row = load(builder, after(builder, keys, loop.index, step), kind.keys, kind.bytes)
            # All bits set is −1.
            found = builder.sext(builder.icmp_signed("<=", row, limit), kind.keys)
            builder.store(builder.sub(builder.load(count), found), count)
        name = f"llvm.vector.reduce.add.v{LANES}i{kind.bits}"
        total = called(builder, name, kind.integer, builder.load(count))
        return total if kind.bits == 64 else builder.sext(total, INDEX)

    return types.int64(like, types.int64, types.int64, integer_of(like)), generate


@intrinsic
def number_of(context: Any, like: Any, key: Any) -> Any:
    """The value of a key, as a double."""
    kind = Values(like, 1)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        keys = builder.insert_element(ir.Constant(kind.keys, ir.Undefined), arguments[1], ir.Constant(SHORT, 0))
        numbers = kind.doubles(builder, kind.flipped(builder, keys))
        return builder.extract_element(numbers, ir.Constant(SHORT, 0))

    return types.float64(like, integer_of(like)), generate


@intrinsic
def key_of(context: Any, like: Any, number: Any) -> Any:
    """The key of the value that is next to a double; of integers it must be within their range."""
    kind = Values(like, 1)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers = builder.insert_element(ir.Constant(kind.reals, ir.Undefined), arguments[1], ir.Constant(SHORT, 0))
        if not kind.is_float:
            bits = builder.fptosi(numbers, kind.keys)
        else:
            values = numbers if kind.bits == 64 else builder.fptrunc(numbers, kind.floats)
            bits = builder.bitcast(values, kind.keys)
        return builder.extract_element(kind.flipped(builder, bits), ir.Constant(SHORT, 0))

    return integer_of(like)(like, types.float64), generate
