"""Sorting: rows of values brought in order lane by lane, as far as the middle needs it.

Which rows: `networks.py`. Floats are compared as they are, which processors do twice as fast as integers; −0.0 and +0.0
are equal then, so where a zero came out, its sign is found by counting (`sign_zeros`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from efd_pipelines.tiers.networks import sorting
from efd_pipelines.tiers.vectors import (
    LANES,
    Values,
    after,
    any_of,
    cgutils,
    constant,
    fenced,
    intrinsic,
    load,
    splat,
    store,
    variable,
)


def _comparator(lanes: int) -> Callable[..., Any]:
    def exchange(context: Any, like: Any, low: Any, high: Any) -> Any:
        kind = Values(like, lanes)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, low, high = arguments
            one = load(builder, low, kind.numbers, kind.bytes)
            other = load(builder, high, kind.numbers, kind.bytes)
            smaller, larger = kind.extremes(builder, one, other)
            if kind.is_float:
                # Else a choice that is stored where it was loaded becomes a store of some lanes, not a minimum.
                smaller = fenced(builder, smaller)
            store(builder, smaller, low, kind.bytes)
            store(builder, larger, high, kind.bytes)
            return context.get_dummy_value()

        return types.void(like, types.int64, types.int64), generate

    return exchange


# Puts the smaller value of each lane to the first address, the larger to the second.
exchange_64 = intrinsic(_comparator(4 * LANES))
exchange_16 = intrinsic(_comparator(LANES))


def _block(rows: int) -> Callable[..., Any]:
    def sort(context: Any, like: Any, first: Any, stride: Any) -> Any:
        """So many rows at a time as there are registers for, all lanes of a cache line."""
        lanes = 512 // int(like.dtype.bitwidth)
        kind = Values(like, lanes)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _, first, stride = arguments
            for part in range(LANES // lanes):
                begin = builder.add(first, constant(part * lanes * kind.bytes))
                places = [after(builder, begin, constant(n), stride) for n in range(rows)]
                values = [load(builder, place, kind.numbers, kind.bytes) for place in places]
                for low, high in sorting(rows):
                    values[low], values[high] = kind.extremes(builder, values[low], values[high])
                for value, place in zip(values, places, strict=True):
                    store(builder, value, place, kind.bytes)
            return context.get_dummy_value()

        return types.void(like, types.int64, types.int64), generate

    return sort


# Sort rows of 16 values, lane by lane: the address of the first, and bytes from row to row.
sort_16 = intrinsic(_block(16))
sort_8 = intrinsic(_block(8))


@intrinsic
def take_middle(
    context: Any,
    like: Any,
    rows: Any,
    stride: Any,
    count: Any,
    half: Any,
    below: Any,
    found: Any,
    middle: Any,
) -> Any:
    """The two middle ones of `count` rows, of which the first `half` and the others are sorted, to rows at `middle`.

    They are those of places `below` − 1 and `below`. Returns whether they, or the extremes that have been `found`, are
    zeros anywhere.
    """
    kind = Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, rows, stride, count, half, below, found, middle = arguments
        zero = constant(0)
        others = builder.sub(count, half)
        others = builder.select(builder.icmp_signed(">", others, zero), others, zero)
        begin = builder.sub(below, others)
        begin = builder.select(builder.icmp_signed(">", begin, zero), begin, zero)
        smallest, largest = kind.ends()
        lower, upper = variable(builder, smallest), variable(builder, largest)

        def row(place: Any) -> Any:
            return load(builder, after(builder, rows, place, stride), kind.numbers, kind.bytes)

        with builder.if_then(builder.icmp_signed(">", begin, zero)):
            builder.store(row(builder.sub(begin, constant(1))), lower)
        all_rows = builder.select(builder.icmp_signed("<", half, count), half, count)
        with builder.if_then(builder.icmp_signed("<", below, all_rows)):
            builder.store(row(below), upper)
        last = builder.sub(builder.add(half, below), constant(1))
        with cgutils.for_range(builder, builder.sub(below, begin)) as loop:
            place = builder.add(begin, loop.index)
            smaller, larger = kind.extremes(builder, row(place), row(builder.sub(last, place)))
            builder.store(kind.extremes(builder, builder.load(lower), smaller)[1], lower)
            builder.store(kind.extremes(builder, larger, builder.load(upper))[0], upper)
        step = 4 * LANES * kind.bytes
        store(builder, builder.load(lower), middle, kind.bytes)
        store(builder, builder.load(upper), builder.add(middle, constant(step)), kind.bytes)
        if not kind.is_float:
            return ir.Constant(ir.IntType(1), 0)
        none = ir.Constant(kind.floats, [0.0] * LANES)
        extremes = [load(builder, builder.add(found, constant(n * step)), kind.numbers, kind.bytes) for n in (0, 1)]
        is_zero = [
            builder.fcmp_ordered("==", one, none) for one in (*extremes, builder.load(lower), builder.load(upper))
        ]
        some = builder.or_(builder.or_(is_zero[0], is_zero[1]), builder.or_(is_zero[2], is_zero[3]))
        return any_of(builder, some)

    return types.boolean(like, *([types.int64] * 7)), generate


@intrinsic
def sign_zeros(context: Any, like: Any, rows: Any, stride: Any, count: Any, below: Any, found: Any, middle: Any) -> Any:
    """Gives zeros among the extremes and the middle ones of rows, in whichever order, the sign of their place."""
    kind = Values(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, rows, stride, count, below, found, middle = arguments
        if not kind.is_float:
            return context.get_dummy_value()
        none = ir.Constant(kind.floats, [0.0] * LANES)
        sign = kind.splat(1 << (kind.bits - 1))
        nothing = kind.splat(0)
        positive, negative = variable(builder, nothing), variable(builder, nothing)
        smaller = variable(builder, nothing)
        with cgutils.for_range(builder, count) as loop:
            value = load(builder, after(builder, rows, loop.index, stride), kind.floats, kind.bytes)
            bits = builder.bitcast(value, kind.keys)
            for total, counted in (
                (positive, builder.icmp_signed("==", bits, nothing)),
                (negative, builder.icmp_signed("==", bits, sign)),
                (smaller, builder.fcmp_ordered("<", value, none)),
            ):
                builder.store(builder.sub(builder.load(total), builder.sext(counted, kind.keys)), total)
        reach = builder.add(builder.load(smaller), builder.load(negative))
        place = splat(builder, builder.trunc(below, kind.integer) if kind.bits < 64 else below, kind.keys)
        step = constant(4 * LANES * kind.bytes)
        for address, is_negative in (
            (found, builder.icmp_signed(">", builder.load(negative), nothing)),
            (builder.add(found, step), builder.icmp_signed("==", builder.load(positive), nothing)),
            (middle, builder.icmp_signed("<=", place, reach)),
            (builder.add(middle, step), builder.icmp_signed("<", place, reach)),
        ):
            value = load(builder, address, kind.floats, kind.bytes)
            zero = builder.select(is_negative, sign, nothing)
            signed = builder.select(builder.fcmp_ordered("==", value, none), builder.bitcast(zero, kind.floats), value)
            store(builder, signed, address, kind.bytes)
        return context.get_dummy_value()

    return types.void(like, *([types.int64] * 6)), generate
