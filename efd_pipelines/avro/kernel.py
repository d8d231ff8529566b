"""Kernel: Avro bodies → columns, compiled once for all schemas.

A schema is a plan, some numbers for each field, and the kernel interprets it, so that thousands of schemas share one
compiled function. Importing this module imports numba, which takes a second: only `compiled.py` does, and only when it
decodes. The compiled code is kept on disk (`efd_pipelines.compiled`); no compiler is needed.

How it works: everything is read and written by address, because numba counts references to arrays, which took ten
times as long as the decoding. Every count, length and number is checked against the body's end before it is used; what
is not exactly a message in Avro's usual spelling is refused, and its row is given to the next. Scalars go straight
to their columns. Of arrays of floats only the place is noted; after some rows they are copied element by element, so
that whole cache lines of every column are written at once. Floats are moved as bits.

What is written where: a column has room for a value of every body, a row of counts, places or texts likewise. The
callers in `compiled.py` make that room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import extending, types

from efd_pipelines.compiled import cache_directory

# Rows that are transposed together: a cache line of floats.
TILE_ROWS = 16

# A plan's columns, a row for each field. TARGET is the address of the field's first column, STEP the bytes from one
# column to the next, WIDTH how many there are; the others are addresses of rows, or 0.
KIND, IS_ARRAY, NULL, WIDTH, TARGET, STEP, VALIDITY, COUNTS, PLACES, TEXT_PLACES, TEXT_SIZES, SCRATCH = range(12)
PLAN_COLUMNS = 12
# KIND: the wire type.
BOOLEAN, INT, LONG, FLOAT, DOUBLE, STRING, BYTES = range(7)
# NULL: the branch of the union that is null.
NOT_NULLABLE = -1

_DIRECTORY = cache_directory()
if _DIRECTORY is not None and not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(_DIRECTORY)  # type: ignore[attr-defined]
_jit = numba.njit(nogil=True, cache=_DIRECTORY is not None, error_model="numpy")
_intrinsic: Callable[[Callable[..., Any]], Any] = extending.intrinsic
_part = numba.njit(nogil=True, error_model="numpy")

_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_HIGH_BITS = -0x7F7F7F7F7F7F7F80


def _accesses(bits: int) -> tuple[Any, Any]:
    """What loads and stores, unaligned, a number of so many bits; in between it has 64."""
    pointer = ir.PointerType(ir.IntType(bits))

    @_intrinsic
    def load(context: Any, memory: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(builder.bitcast(builder.gep(arguments[0], [arguments[1]]), pointer))
            value.align = 1
            return builder.zext(value, ir.IntType(64)) if bits < 64 else value

        return types.int64(types.voidptr, types.int64), generate

    @_intrinsic
    def store(context: Any, memory: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.trunc(arguments[2], ir.IntType(bits)) if bits < 64 else arguments[2]
            builder.store(value, builder.bitcast(builder.gep(arguments[0], [arguments[1]]), pointer)).align = 1
            return context.get_dummy_value()

        return types.none(types.voidptr, types.int64, types.int64), generate

    return load, store


@_intrinsic
def _memory(context: Any) -> Any:
    """A pointer to address 0, from which all others are reckoned.

    LLVM must not see that it is: before a function is compiled into its caller, numba has had it translated, which
    leaves pointers behind that begin at null, and what is written through these a second pass may take out.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, pointer = ir.IntType(64), ir.PointerType(ir.IntType(8))
        hidden = builder.asm(ir.FunctionType(number, [number]), "", "=r,0", [ir.Constant(number, 0)], False)
        return builder.inttoptr(hidden, pointer)

    return types.voidptr(), generate


_load1, _store1 = _accesses(8)
_load4, _store4 = _accesses(32)
_load8, _store8 = _accesses(64)


@_part
def _number(memory: Any, at: Any, end: Any) -> Any:
    """A number and where it ends; -1 where there is none."""
    if at >= end:
        return 0, -1
    byte = _load1(memory, at)
    at += 1
    encoded = byte & 0x7F
    shift = 7
    while byte >= 0x80:
        if at >= end or shift > 63:
            return 0, -1
        byte = _load1(memory, at)
        at += 1
        if shift == 63 and byte > 1:
            return 0, -1
        encoded |= (byte & 0x7F) << shift
        shift += 7
    return ((encoded >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(encoded & 1), at


@_part
def _is_utf8(memory: Any, at: Any, end: Any) -> bool:
    while at < end:
        while end - at >= 8 and _load8(memory, at) & _HIGH_BITS == 0:
            at += 8
        if at >= end:
            break
        lead = _load1(memory, at)
        if lead < 0x80:
            at += 1
            continue
        if lead < 0xC2 or lead > 0xF4:
            return False
        more = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
        if at + more >= end:
            return False
        # Overlong forms, halves of surrogate pairs, and what lies beyond Unicode show in the second byte.
        low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
        high = 0x9F if lead == 0xED else 0x8F if lead == 0xF4 else 0xBF
        second = _load1(memory, at + 1)
        if second < low or second > high:
            return False
        for following in range(at + 2, at + more + 1):
            if _load1(memory, following) & 0xC0 != 0x80:
                return False
        at += more + 1
    return True


@_part
def _text(memory: Any, kind: Any, at: Any, end: Any) -> Any:
    """Where a string's or bytes' bytes begin and end; -1 where there is none."""
    size, at = _number(memory, at, end)
    if at < 0 or size < 0 or size > end - at:
        return 0, -1
    if kind == STRING and not _is_utf8(memory, at, at + size):
        return 0, -1
    return at, at + size


@_part
def _whole(memory: Any, kind: Any, at: Any, end: Any) -> Any:
    """A number that is an int or a long, and where it ends; -1 where there is none."""
    number, at = _number(memory, at, end)
    if kind == INT and (number < _INT_MIN or number > _INT_MAX):
        return 0, -1
    return number, at


@_part
def _fixed(kind: Any) -> int:
    """Bytes of an item that always takes as many; 0 of others."""
    return 8 if kind == DOUBLE else 4 if kind == FLOAT else 1 if kind == BOOLEAN else 0


@_part
def _scalar(memory: Any, kind: Any, plan: Any, at: Any, end: Any, row: Any) -> Any:
    """Reads a value into its column; where it ends, or -1."""
    is_wanted = _load8(memory, plan + 8 * WIDTH) > 0
    target = _load8(memory, plan + 8 * TARGET)
    if kind == DOUBLE:
        if end - at < 8:
            return -1
        if is_wanted:
            _store8(memory, target + 8 * row, _load8(memory, at))
        return at + 8
    if kind == FLOAT:
        if end - at < 4:
            return -1
        if is_wanted:
            _store4(memory, target + 4 * row, _load4(memory, at))
        return at + 4
    if kind == BOOLEAN:
        if at >= end or _load1(memory, at) > 1:
            return -1
        if is_wanted:
            _store1(memory, target + row, _load1(memory, at))
        return at + 1
    if kind >= STRING:
        begin, at = _text(memory, kind, at, end)
        if at >= 0 and is_wanted:
            _put_text(memory, plan, row, begin, at)
        return at
    number, at = _whole(memory, kind, at, end)
    if at >= 0 and is_wanted:
        if kind == INT:
            _store4(memory, target + 4 * row, number)
        else:
            _store8(memory, target + 8 * row, number)
    return at


@_part
def _put_text(memory: Any, plan: Any, row: Any, begin: Any, end: Any) -> None:
    _store8(memory, _load8(memory, plan + 8 * TEXT_PLACES) + 8 * row, begin)
    _store4(memory, _load8(memory, plan + 8 * TEXT_SIZES) + 4 * row, end - begin)


@_part
def _null(memory: Any, kind: Any, plan: Any, row: Any) -> None:
    """Writes nothing, where there is null: under it stands 0."""
    if _load8(memory, plan + 8 * IS_ARRAY) == 1:
        _store4(memory, _load8(memory, plan + 8 * COUNTS) + 4 * row, -1)
        if kind >= STRING:
            _put_no_texts(memory, plan, row, 0)
    elif _load8(memory, plan + 8 * WIDTH) > 0:
        target = _load8(memory, plan + 8 * TARGET)
        if kind >= STRING:
            _put_text(memory, plan, row, 0, 0)
        elif kind == BOOLEAN:
            _store1(memory, target + row, 0)
        elif kind in (INT, FLOAT):
            _store4(memory, target + 4 * row, 0)
        else:
            _store8(memory, target + 8 * row, 0)


@_part
def _put_no_texts(memory: Any, plan: Any, row: Any, first: Any) -> None:
    """Empties the texts of a row from the item `first`."""
    step = _load8(memory, plan + 8 * STEP)
    sizes = _load8(memory, plan + 8 * TEXT_SIZES) + 4 * row
    for item in range(first, _load8(memory, plan + 8 * WIDTH)):
        _store4(memory, sizes + 4 * step * item, 0)


@_part
def _array(memory: Any, kind: Any, plan: Any, at: Any, end: Any, row: Any, lane: Any) -> Any:
    """Passes over an array of one block, of which varying items are kept; where it ends, or -1."""
    count, at = _number(memory, at, end)
    if at < 0:
        return -1
    block_end = -1
    if count < 0:
        count = -count
        size, at = _number(memory, at, end)
        if at < 0 or count < 0 or size < 0 or size > end - at:
            return -1
        block_end = at + size
    size = _fixed(kind)
    # Each item takes a byte at least, so a count that claims more than there is costs nothing.
    if count > (end - at) // max(size, 1):
        return -1
    _store4(memory, _load8(memory, plan + 8 * COUNTS) + 4 * row, count)
    _store8(memory, _load8(memory, plan + 8 * PLACES) + 8 * row, at)
    if kind in (FLOAT, DOUBLE):
        at += count * size
    elif kind == BOOLEAN:
        at = _booleans(memory, count, at)
    elif kind >= STRING:
        at = _texts(memory, kind, plan, count, at, end, row)
    else:
        at = _wholes(memory, kind, plan, count, at, end, lane)
    if count == 0 or at < 0:
        return at
    if (block_end >= 0 and at != block_end) or at >= end or _load1(memory, at) != 0:
        return -1
    return at + 1


@_part
def _booleans(memory: Any, count: Any, at: Any) -> Any:
    for item in range(count):
        if _load1(memory, at + item) > 1:
            return -1
    return at + count


@_part
def _texts(memory: Any, kind: Any, plan: Any, count: Any, at: Any, end: Any, row: Any) -> Any:
    width = _load8(memory, plan + 8 * WIDTH)
    step = _load8(memory, plan + 8 * STEP)
    places = _load8(memory, plan + 8 * TEXT_PLACES) + 8 * row
    sizes = _load8(memory, plan + 8 * TEXT_SIZES) + 4 * row
    for item in range(count):
        begin, at = _text(memory, kind, at, end)
        if at < 0:
            return -1
        if item < width:
            _store8(memory, places + 8 * step * item, begin)
            _store4(memory, sizes + 4 * step * item, at - begin)
    _put_no_texts(memory, plan, row, count)
    return at


@_part
def _wholes(memory: Any, kind: Any, plan: Any, count: Any, at: Any, end: Any, lane: Any) -> Any:
    width = _load8(memory, plan + 8 * WIDTH)
    size = 4 if kind == INT else 8
    scratch = _load8(memory, plan + 8 * SCRATCH) + lane * width * size
    for item in range(count):
        number, at = _whole(memory, kind, at, end)
        if at < 0:
            return -1
        if item < width:
            if kind == INT:
                _store4(memory, scratch + 4 * item, number)
            else:
                _store8(memory, scratch + 8 * item, number)
    return at


@_part
def _message(memory: Any, plan: Any, plan_end: Any, at: Any, end: Any, row: Any, lane: Any) -> bool:
    """Makes a row of a body, all but its arrays of numbers; whether it is exactly one message."""
    while plan < plan_end:
        kind = _load8(memory, plan + 8 * KIND)
        null = _load8(memory, plan + 8 * NULL)
        is_null = False
        if null != NOT_NULLABLE:
            branch, at = _number(memory, at, end)
            if at < 0 or branch < 0 or branch > 1:
                return False
            is_null = branch == null
            validity = _load8(memory, plan + 8 * VALIDITY)
            if validity != 0:
                _store1(memory, validity + row, 0 if is_null else 1)
        if is_null:
            _null(memory, kind, plan, row)
        elif _load8(memory, plan + 8 * IS_ARRAY) == 1:
            at = _array(memory, kind, plan, at, end, row, lane)
        else:
            at = _scalar(memory, kind, plan, at, end, row)
        if at < 0:
            return False
        plan += 8 * PLAN_COLUMNS
    return bool(at == end)


def _transposition(size: int, load: Any, store: Any) -> Any:
    """What copies the items, of so many bytes, of some rows' arrays to their columns."""

    @_part
    def transpose(memory: Any, width: Any, step: Any, target: Any, lanes: Any, sources: Any, counts: Any) -> None:
        least = width
        for lane in range(lanes):
            least = min(least, _load4(memory, counts + 4 * lane) << 32 >> 32)
        if lanes == TILE_ROWS and least == width:
            for item in range(width):
                for lane in range(TILE_ROWS):
                    store(memory, target + lane * size, load(memory, _load8(memory, sources + 8 * lane) + item * size))
                target += step
            return
        for item in range(width):
            for lane in range(lanes):
                is_there = item < _load4(memory, counts + 4 * lane) << 32 >> 32
                store(
                    memory,
                    target + lane * size,
                    load(memory, _load8(memory, sources + 8 * lane) + item * size) if is_there else 0,
                )
            target += step

    return transpose


_transpose1 = _transposition(1, _load1, _store1)
_transpose4 = _transposition(4, _load4, _store4)
_transpose8 = _transposition(8, _load8, _store8)


@_part
def _tile(memory: Any, plan: Any, plan_end: Any, first: Any, end: Any, sources: Any) -> None:
    """Copies the arrays of some rows to their columns."""
    while plan < plan_end:
        kind = _load8(memory, plan + 8 * KIND)
        width = _load8(memory, plan + 8 * WIDTH)
        if _load8(memory, plan + 8 * IS_ARRAY) == 1 and width > 0 and kind < STRING:
            size = 1 if kind == BOOLEAN else 4 if kind in (INT, FLOAT) else 8
            places = _load8(memory, plan + 8 * PLACES) + 8 * first
            if kind in (INT, LONG):
                scratch = _load8(memory, plan + 8 * SCRATCH)
                places = sources
                for lane in range(end - first):
                    _store8(memory, sources + 8 * lane, scratch + lane * width * size)
            step = _load8(memory, plan + 8 * STEP)
            target = _load8(memory, plan + 8 * TARGET) + first * size
            counts = _load8(memory, plan + 8 * COUNTS) + 4 * first
            if size == 4:
                _transpose4(memory, width, step, target, end - first, places, counts)
            elif size == 8:
                _transpose8(memory, width, step, target, end - first, places, counts)
            else:
                _transpose1(memory, width, step, target, end - first, places, counts)
        plan += 8 * PLAN_COLUMNS


@_jit
def decode_rows(plan: Any, fields: Any, addresses: Any, sizes: Any, bodies: Any, good: Any) -> int:
    """Makes rows of the bodies that are messages; how many there are.

    Args:
        plan: the address of `fields` rows of PLAN_COLUMNS numbers of 64 bits.
        addresses, sizes: addresses of the bodies' addresses and sizes.
        good: the address that takes the number of each row's body.
    """
    memory = _memory()
    plan_end = plan + 8 * PLAN_COLUMNS * fields
    sources = np.empty(TILE_ROWS, np.int64)
    sources_at = np.int64(sources.ctypes.data)
    row = first = 0
    for body in range(bodies):
        at = _load8(memory, addresses + 8 * body)
        if not _message(memory, plan, plan_end, at, at + _load8(memory, sizes + 8 * body), row, row - first):
            continue
        _store8(memory, good + 8 * row, body)
        row += 1
        if row - first == TILE_ROWS:
            _tile(memory, plan, plan_end, first, row, sources_at)
            first = row
    if first < row:
        _tile(memory, plan, plan_end, first, row, sources_at)
    return row + 0 * sources.size


@_jit
def copy_texts(places: Any, sizes: Any, texts: Any, offsets: Any, data: Any) -> None:
    """Joins texts: `offsets` takes where each begins in `data`, and the end. All are addresses."""
    memory = _memory()
    total = 0
    for text in range(texts):
        _store4(memory, offsets + 4 * text, total)
        source = _load8(memory, places + 8 * text)
        size = _load4(memory, sizes + 4 * text)
        for byte in range(size):
            _store1(memory, data + total + byte, _load1(memory, source + byte))
        total += size
    _store4(memory, offsets + 4 * texts, total)


@_jit
def copy_items(kind: Any, counts: Any, places: Any, rows: Any, items: Any, text_sizes: Any) -> None:
    """Joins the items of lists that `decode_rows` has passed over.

    Args:
        counts, places: addresses of one array field's.
        items: the address that takes the items, of texts their places; `text_sizes` takes their sizes.
    """
    memory = _memory()
    size = _fixed(kind)
    item = 0
    for row in range(rows):
        at = _load8(memory, places + 8 * row)
        count = max(0, _load4(memory, counts + 4 * row) << 32 >> 32)
        if size > 0:
            for byte in range(count * size):
                _store1(memory, items + item * size + byte, _load1(memory, at + byte))
            item += count
            continue
        for _ in range(count):
            # That it ends has been checked.
            number, at = _number(memory, at, at + 10)
            if kind >= STRING:
                _store8(memory, items + 8 * item, at)
                _store4(memory, text_sizes + 4 * item, number)
                at += number
            elif kind == INT:
                _store4(memory, items + 4 * item, number)
            else:
                _store8(memory, items + 8 * item, number)
            item += 1
