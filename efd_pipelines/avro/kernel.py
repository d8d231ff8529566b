"""Kernel: Avro bodies → columns, compiled once for all schemas.

A schema is a plan, some numbers for each field, and the kernel interprets it, so that thousands of schemas share one
compiled function. Importing this module imports numba, which takes a second: only `compiled.py` does, and only when it
decodes. The compiled code is kept on disk (`efd_pipelines.compiled`); no compiler is needed.

How it works: everything is read and written by address, because numba counts references to arrays, which took ten
times as long as the decoding. Every count, length and number is checked against the body's end before it is used; what
is not exactly a message in Avro's usual spelling is refused, and its row is given to the next. Values go straight to
their columns. Of arrays of floats only the place is noted; after some rows they are turned in registers, so that whole
cache lines of every column are written at once. Floats are moved as bits.

What is written where: a column has room for a value of every body, a row of counts or places likewise. The callers in
`compiled.py` make that room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import types

from efd_pipelines import addresses
from efd_pipelines.addresses import load1, load4, load8, origin, prefetch, store1, store4, store8
from efd_pipelines.avro import turning, wire
from efd_pipelines.avro.turning import LINE_BYTES, turn4, turn8
from efd_pipelines.avro.wire import DOUBLE, FLOAT, NOWHERE, STRING, ZERO, number_at, part, size_of, value_at
from efd_pipelines.compiled import jit_of

# Rows that are turned together: a cache line of floats.
TILE_ROWS = 16
# How many bodies ahead memory is asked for, and how much of each: what is next is told only by what came before.
_AHEAD, _AHEAD_BYTES = 8, 16384

# A plan's columns, a row for each field. KIND is the type on the wire, TARGET the address of the field's first column,
# STEP the bytes from one column to the next, WIDTH how many there are, MOST how many items an array may have. Of texts,
# these take the places, and SIZES, half as far apart, their sizes. VALIDITY, COUNTS and PLACES are addresses of rows;
# the first may be 0.
KIND, IS_ARRAY, NULL, WIDTH, MOST, TARGET, STEP, SIZES, VALIDITY, COUNTS, PLACES = range(11)
PLAN_COLUMNS = 11
# NULL: the branch of the union that is null.
NOT_NULLABLE = -1

_jit = jit_of(__file__, addresses.__file__, turning.__file__, wire.__file__)

_FAR = np.int64(2**62)


@part
def _put(memory: Any, kind: Any, plan: Any, item: Any, row: Any, value: Any, end: Any) -> None:
    """Writes a value into its column."""
    column = load8(memory, plan + 8 * TARGET) + load8(memory, plan + 8 * STEP) * item
    _store(memory, size_of(kind), column + size_of(kind) * row, value)
    if kind >= STRING:
        sizes = load8(memory, plan + 8 * SIZES) + (load8(memory, plan + 8 * STEP) >> 1) * item
        store4(memory, sizes + 4 * row, end - value)


@part
def _store(memory: Any, size: Any, address: Any, value: Any) -> None:
    if size == 8:
        store8(memory, address, value)
    elif size == 4:
        store4(memory, address, value)
    else:
        store1(memory, address, value)


@part
def _put_nothing(memory: Any, kind: Any, plan: Any, item: Any, row: Any) -> None:
    """Writes 0 or an empty text to the columns from `item`."""
    while item < load8(memory, plan + 8 * WIDTH):
        _put(memory, kind, plan, item, row, ZERO, ZERO)
        item += 1


@part
def _array(memory: Any, kind: Any, plan: Any, at: Any, end: Any, row: Any) -> Any:
    """Passes over an array of one block, writing its items unless they are floats; where it ends, or nowhere."""
    count, at = number_at(memory, at, end)
    block_end = NOWHERE
    if count < 0:
        count = -count
        size, at = number_at(memory, at, end)
        if at < 0 or count < 0 or size < 0 or size > end - at:
            return NOWHERE
        block_end = at + size
    is_float = FLOAT <= kind <= DOUBLE
    least = size_of(kind) if is_float else 1
    # A count that claims more items than there are bytes costs nothing.
    if at < 0 or count > (end - at) // least or count > load8(memory, plan + 8 * MOST):
        return NOWHERE
    store4(memory, load8(memory, plan + 8 * COUNTS) + 4 * row, count)
    store8(memory, load8(memory, plan + 8 * PLACES) + 8 * row, at)
    if is_float:
        at += count * least
    else:
        at = _items(memory, kind, plan, count, at, end, row)
    if count == 0 or at < 0:
        return at
    if (block_end >= 0 and at != block_end) or at >= end or load1(memory, at) != 0:
        return NOWHERE
    return at + 1


@part
def _items(memory: Any, kind: Any, plan: Any, count: Any, at: Any, end: Any, row: Any) -> Any:
    width = load8(memory, plan + 8 * WIDTH)
    item = ZERO
    while item < count:
        value, at = value_at(memory, kind, at, end)
        if at < 0:
            return NOWHERE
        if item < width:
            _put(memory, kind, plan, item, row, value, at)
        item += 1
    _put_nothing(memory, kind, plan, item, row)
    return at


@part
def _message(memory: Any, plan: Any, plan_end: Any, at: Any, end: Any, row: Any) -> bool:
    """Makes a row of a body, all but its arrays of floats; whether it is exactly one message."""
    while plan < plan_end:
        kind = load8(memory, plan + 8 * KIND)
        is_array = load8(memory, plan + 8 * IS_ARRAY)
        null = load8(memory, plan + 8 * NULL)
        branch = NOWHERE if null >= 0 else ZERO
        if null != NOT_NULLABLE:
            branch, at = number_at(memory, at, end)
            if at < 0 or branch < 0 or branch > 1:
                return False
            validity = load8(memory, plan + 8 * VALIDITY)
            if validity != 0:
                store1(memory, validity + row, branch ^ null)
        if branch == null:
            if is_array == 1:
                store4(memory, load8(memory, plan + 8 * COUNTS) + 4 * row, NOWHERE)
            _put_nothing(memory, kind, plan, ZERO, row)
        elif is_array == 1:
            at = _array(memory, kind, plan, at, end, row)
        else:
            value, at = value_at(memory, kind, at, end)
            if at >= 0 and load8(memory, plan + 8 * WIDTH) > 0:
                _put(memory, kind, plan, ZERO, row, value, at)
        if at < 0:
            return False
        plan += 8 * PLAN_COLUMNS
    return bool(at == end)


@part
def _fetch(memory: Any, address: Any, size: Any) -> None:
    at = load8(memory, address)
    end = at + min(load8(memory, size), _AHEAD_BYTES)
    while at < end:
        prefetch(memory, at)
        at += LINE_BYTES


@part
def _tile(memory: Any, plan: Any, plan_end: Any, first: Any, end: Any) -> None:
    """Copies the arrays of floats of some rows to their columns."""
    while plan < plan_end:
        kind = load8(memory, plan + 8 * KIND)
        width = load8(memory, plan + 8 * WIDTH)
        if load8(memory, plan + 8 * IS_ARRAY) == 1 and width > 0 and FLOAT <= kind <= DOUBLE:
            least = width if end - first == TILE_ROWS else NOWHERE
            for row in range(first, end):
                least = min(least, _count(memory, plan, row))
            if least == width and width * size_of(kind) >= LINE_BYTES:
                _turn(memory, kind, plan, width, first)
            else:
                for row in range(first, end):
                    _copy(memory, kind, plan, row)
        plan += 8 * PLAN_COLUMNS


@part
def _count(memory: Any, plan: Any, row: Any) -> Any:
    return load4(memory, load8(memory, plan + 8 * COUNTS) + 4 * row) << 32 >> 32


@part
def _turn(memory: Any, kind: Any, plan: Any, width: Any, first: Any) -> None:
    """Copies arrays that are long enough, of a whole tile."""
    items = LINE_BYTES // size_of(kind)
    step = load8(memory, plan + 8 * STEP)
    sources = load8(memory, plan + 8 * PLACES) + 8 * first
    column = load8(memory, plan + 8 * TARGET) + size_of(kind) * first
    item = ZERO
    while item < width:
        # The last block overlaps the one before.
        item = min(item, width - items)
        target = column + step * item
        if kind == FLOAT:
            turn4(memory, sources, item, target, step)
        else:
            turn8(memory, sources, item, target, step)
            turn8(memory, sources + 8 * items, item, target + LINE_BYTES, step)
        item += items


@part
def _copy(memory: Any, kind: Any, plan: Any, row: Any) -> None:
    """Copies an array item by item; what it lacks is 0."""
    count = min(_count(memory, plan, row), load8(memory, plan + 8 * WIDTH))
    at = load8(memory, load8(memory, plan + 8 * PLACES) + 8 * row)
    item = ZERO
    while item < count:
        value, at = value_at(memory, kind, at, _FAR)
        _put(memory, kind, plan, item, row, value, at)
        item += 1
    _put_nothing(memory, kind, plan, item, row)


@_jit
def decode_rows(plan: Any, fields: Any, addresses: Any, sizes: Any, bodies: Any, good: Any) -> Any:
    """Makes rows of the bodies that are messages; how many there are.

    Args:
        plan: the address of `fields` rows of PLAN_COLUMNS numbers of 64 bits.
        addresses, sizes: addresses of the bodies' addresses and sizes.
        good: the address that takes the number of each row's body.
    """
    memory = origin()
    plan_end = plan + 8 * PLAN_COLUMNS * fields
    row = first = body = ZERO
    while body < bodies:
        if body + _AHEAD < bodies:
            _fetch(memory, addresses + 8 * (body + _AHEAD), sizes + 8 * (body + _AHEAD))
        at = load8(memory, addresses + 8 * body)
        if _message(memory, plan, plan_end, at, at + load8(memory, sizes + 8 * body), row):
            store8(memory, good + 8 * row, body)
            row += 1
        body += 1
        if row - first == TILE_ROWS or (body == bodies and row > first):
            _tile(memory, plan, plan_end, first, row)
            first = row
    return row


@_jit
def copy_items(kind: Any, counts: Any, places: Any, rows: Any, items: Any, sizes: Any) -> None:
    """Joins the items of lists that `decode_rows` has passed over and checked.

    Args:
        counts, places: addresses of one array field's.
        items: the address that takes the items, of texts their places, and `sizes` their sizes.
    """
    memory = origin()
    size = size_of(kind)
    for row in range(rows):
        at = load8(memory, places + 8 * row)
        for _ in range(load4(memory, counts + 4 * row) << 32 >> 32):
            value, at = value_at(memory, kind, at, _FAR)
            _store(memory, size, items, value)
            if kind >= STRING:
                store4(memory, sizes, at - value)
                sizes += 4
            items += size


@_jit
def copy_texts(places: Any, sizes: Any, texts: Any, offsets: Any, data: Any) -> None:
    """Joins texts: `offsets` takes where each begins in `data`, and the end. All are addresses."""
    memory = origin()
    total = ZERO
    for text in range(texts):
        store4(memory, offsets + 4 * text, total)
        source = load8(memory, places + 8 * text)
        for byte in range(load4(memory, sizes + 4 * text)):
            store1(memory, data + total, load1(memory, source + byte))
            total += 1
    store4(memory, offsets + 4 * texts, total)


def _signature(arguments: int, result: Any = types.int64) -> Any:
    return result(*[types.int64] * arguments)


ENTRIES: Mapping[Any, Any] = {
    decode_rows: _signature(6),
    copy_items: _signature(6, types.none),
    copy_texts: _signature(5, types.none),
}
