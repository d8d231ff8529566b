"""Squares: columns into rows and rows into columns, 16 by 16 values or 8 by 8, in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from efd_pipelines.tiers.vectors import (
    INDEX,
    LANES,
    SHORT,
    Values,
    after,
    constant,
    intrinsic,
    load,
    prefetch,
    store,
    store_past,
)

# How far ahead of what is transposed memory is asked for: 64 columns are more streams than a processor foresees, and
# waiting for them took as long as everything else together.
_AHEAD_BYTES = 384


def _transposed(builder: Any, rows: Sequence[Any]) -> list[Any]:
    """A square of values, its rows and columns changed places, in log2 steps of shuffles."""
    size = len(rows)
    current = list(rows)
    step = 1
    while step < size:
        low = [n if not n & step else n - step + size for n in range(size)]
        high = [n + step if not n & step else n + size for n in range(size)]
        masks = [ir.Constant(ir.VectorType(SHORT, size), mask) for mask in (low, high)]
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
    kind, size = Values(like, _block(like)), _block(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, table, offset, target, stride = arguments
        for begin in range(0, LANES, size):
            rows = []
            for lane in range(begin, begin + size):
                column = load(builder, builder.add(table, constant(8 * lane)), INDEX, 8)
                address = builder.add(column, offset)
                prefetch(builder, builder.add(address, constant(_AHEAD_BYTES)))
                rows.append(load(builder, address, kind.keys, kind.bytes))
            for sample, row in enumerate(_transposed(builder, rows)):
                place = after(builder, target, constant(sample), stride)
                store(builder, row, builder.add(place, constant(begin * kind.bytes)), kind.bytes)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def transpose_rows(context: Any, like: Any, source: Any, source_stride: Any, target: Any, target_stride: Any) -> Any:
    """A square of 16 rows of 16 values (8 of 8 of 64 bits) from one place to another, with bytes from row to row."""
    kind, size = Values(like, _block(like)), _block(like)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, source_stride, target, target_stride = arguments
        places = [after(builder, source, constant(n), source_stride) for n in range(size)]
        rows = [load(builder, place, kind.keys, kind.bytes) for place in places]
        for n, row in enumerate(_transposed(builder, rows)):
            store_past(builder, row, after(builder, target, constant(n), target_stride))
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64, types.int64, types.int64), generate
