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

from collections.abc import Callable, Mapping
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import extending, types

from efd_pipelines.compiled import cache_directory

# Rows that are turned together: a cache line of floats.
TILE_ROWS = 16
LINE_BYTES = 64
# How many bodies ahead memory is asked for, and how much of each: what is next is told only by what came before.
_AHEAD, _AHEAD_BYTES = 8, 16384

# A plan's columns, a row for each field. TARGET is the address of the field's first column, STEP the bytes from one
# column to the next, WIDTH how many there are, MOST how many items an array may have. Of texts, these take the places,
# and SIZES, half as far apart, their sizes. VALIDITY, COUNTS and PLACES are addresses of rows; the first may be 0.
KIND, IS_ARRAY, NULL, WIDTH, MOST, TARGET, STEP, SIZES, VALIDITY, COUNTS, PLACES = range(11)
PLAN_COLUMNS = 11
# KIND: the wire type.
BOOLEAN, INT, LONG, FLOAT, DOUBLE, STRING, BYTES = range(7)
# NULL: the branch of the union that is null.
NOT_NULLABLE = -1

_DIRECTORY = cache_directory()
if _DIRECTORY is not None and not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(_DIRECTORY)  # type: ignore[attr-defined]
_intrinsic: Callable[[Callable[..., Any]], Any] = extending.intrinsic
_jit = numba.njit(nogil=True, cache=_DIRECTORY is not None, error_model="numpy")
_part = numba.njit(nogil=True, error_model="numpy")

# Typed, because numba compiles a function once more for a number that it knows.
_ZERO, _NOWHERE = np.int64(0), np.int64(-1)
_FAR = np.int64(2**62)
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_HIGH_BITS = -0x7F7F7F7F7F7F7F80


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


def _pointer(builder: Any, memory: Any, address: Any, kind: Any) -> Any:
    return builder.bitcast(builder.gep(memory, [address]), ir.PointerType(kind))


def _accesses(bits: int) -> tuple[Any, Any]:
    """What loads and stores, unaligned, a number of so many bits; in between it has 64."""
    kind = ir.IntType(bits)

    @_intrinsic
    def load(context: Any, memory: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_pointer(builder, arguments[0], arguments[1], kind), align=1)
            return builder.zext(value, ir.IntType(64)) if bits < 64 else value

        return types.int64(types.voidptr, types.int64), generate

    @_intrinsic
    def store(context: Any, memory: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.trunc(arguments[2], kind) if bits < 64 else arguments[2]
            builder.store(value, _pointer(builder, arguments[0], arguments[1], kind), align=1)
            return context.get_dummy_value()

        return types.none(types.voidptr, types.int64, types.int64), generate

    return load, store


@_intrinsic
def _prefetch(context: Any, memory: Any, address: Any) -> Any:
    """Has the processor fetch what lies at an address, if it can."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        builder.call(prefetch, [builder.gep(arguments[0], [arguments[1]]), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.none(types.voidptr, types.int64), generate


_load1, _store1 = _accesses(8)
_load4, _store4 = _accesses(32)
_load8, _store8 = _accesses(64)


def _turning(size: int) -> Any:
    """What copies as many items, of so many bytes, of as many rows as fill a cache line to the items' columns."""
    lanes = LINE_BYTES // size
    line = ir.VectorType(ir.IntType(8 * size), lanes)

    @_intrinsic
    def turn(context: Any, memory: Any, sources: Any, item: Any, target: Any, step: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            memory, sources, item, target, step = arguments
            number = sources.type
            lines = []
            for lane in range(lanes):
                place = builder.add(sources, number(8 * lane))
                source = builder.load(_pointer(builder, memory, place, number), align=1)
                place = builder.add(source, builder.mul(item, number(size)))
                lines.append(builder.load(_pointer(builder, memory, place, line), align=1))
            _exchange(builder, lines)
            for lane in range(lanes):
                place = builder.add(target, builder.mul(step, number(lane)))
                stored = builder.store(lines[lane], _pointer(builder, memory, place, line), align=LINE_BYTES)
                # Past the caches, which columns do not fit: the line need not be read before it is written.
                stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            return context.get_dummy_value()

        return types.none(types.voidptr, types.int64, types.int64, types.int64, types.int64), generate

    return turn


def _exchange(builder: Any, lines: list[Any]) -> None:
    """Turns a square of numbers in registers: its halves are exchanged, then their halves, and so on."""
    lanes = len(lines)
    index = ir.VectorType(ir.IntType(32), lanes)
    distance = lanes // 2
    while distance:
        low = [n if n & distance == 0 else n - distance + lanes for n in range(lanes)]
        high = [n + distance if n & distance == 0 else n + lanes for n in range(lanes)]
        for one in [n for n in range(lanes) if n & distance == 0]:
            pair = lines[one], lines[one + distance]
            lines[one] = builder.shuffle_vector(*pair, ir.Constant(index, low))
            lines[one + distance] = builder.shuffle_vector(*pair, ir.Constant(index, high))
        distance //= 2


_turn4 = _turning(4)
_turn8 = _turning(8)


@_part
def _number(memory: Any, at: Any, end: Any) -> Any:
    """A number and where it ends; nowhere if there is none."""
    encoded = shift = _ZERO
    while True:
        if at >= end:
            return _ZERO, _NOWHERE
        byte = _load1(memory, at)
        at += 1
        # The tenth byte has room for one bit.
        if shift == 63 and byte > 1:
            return _ZERO, _NOWHERE
        encoded |= (byte & 0x7F) << shift
        if byte < 0x80:
            return ((encoded >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(encoded & 1), at
        shift += 7


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
def _value(memory: Any, kind: Any, at: Any, end: Any) -> Any:
    """A value and where it ends; nowhere if there is none. Of floats it is their bits, of texts their place."""
    if kind == DOUBLE:
        return (_load8(memory, at), at + 8) if end - at >= 8 else (_ZERO, _NOWHERE)
    if kind == FLOAT:
        return (_load4(memory, at), at + 4) if end - at >= 4 else (_ZERO, _NOWHERE)
    if kind == BOOLEAN:
        return (_load1(memory, at), at + 1) if at < end and _load1(memory, at) <= 1 else (_ZERO, _NOWHERE)
    number, at = _number(memory, at, end)
    if kind == LONG:
        return number, at
    if kind == INT:
        return (number, at) if _INT_MIN <= number <= _INT_MAX else (_ZERO, _NOWHERE)
    if at < 0 or number < 0 or number > end - at:
        return _ZERO, _NOWHERE
    if kind == STRING and not _is_utf8(memory, at, at + number):
        return _ZERO, _NOWHERE
    return at, at + number


@_part
def _size(kind: Any) -> Any:
    """Bytes of a value in its column, of a text those of its place."""
    if kind == BOOLEAN:
        return 1
    return 4 if kind == INT or kind == FLOAT else 8  # noqa: SIM109  # numba makes a loop of a tuple


@_part
def _put(memory: Any, kind: Any, plan: Any, item: Any, row: Any, value: Any, end: Any) -> None:
    """Writes a value into its column."""
    column = _load8(memory, plan + 8 * TARGET) + _load8(memory, plan + 8 * STEP) * item
    _store(memory, _size(kind), column + _size(kind) * row, value)
    if kind >= STRING:
        sizes = _load8(memory, plan + 8 * SIZES) + (_load8(memory, plan + 8 * STEP) >> 1) * item
        _store4(memory, sizes + 4 * row, end - value)


@_part
def _store(memory: Any, size: Any, address: Any, value: Any) -> None:
    if size == 8:
        _store8(memory, address, value)
    elif size == 4:
        _store4(memory, address, value)
    else:
        _store1(memory, address, value)


@_part
def _put_nothing(memory: Any, kind: Any, plan: Any, item: Any, row: Any) -> None:
    """Writes 0 or an empty text to the columns from `item`."""
    while item < _load8(memory, plan + 8 * WIDTH):
        _put(memory, kind, plan, item, row, _ZERO, _ZERO)
        item += 1


@_part
def _array(memory: Any, kind: Any, plan: Any, at: Any, end: Any, row: Any) -> Any:
    """Passes over an array of one block, writing its items unless they are floats; where it ends, or nowhere."""
    count, at = _number(memory, at, end)
    block_end = _NOWHERE
    if count < 0:
        count = -count
        size, at = _number(memory, at, end)
        if at < 0 or count < 0 or size < 0 or size > end - at:
            return _NOWHERE
        block_end = at + size
    is_float = FLOAT <= kind <= DOUBLE
    least = _size(kind) if is_float else 1
    # A count that claims more items than there are bytes costs nothing.
    if at < 0 or count > (end - at) // least or count > _load8(memory, plan + 8 * MOST):
        return _NOWHERE
    _store4(memory, _load8(memory, plan + 8 * COUNTS) + 4 * row, count)
    _store8(memory, _load8(memory, plan + 8 * PLACES) + 8 * row, at)
    if is_float:
        at += count * least
    else:
        at = _items(memory, kind, plan, count, at, end, row)
    if count == 0 or at < 0:
        return at
    if (block_end >= 0 and at != block_end) or at >= end or _load1(memory, at) != 0:
        return _NOWHERE
    return at + 1


@_part
def _items(memory: Any, kind: Any, plan: Any, count: Any, at: Any, end: Any, row: Any) -> Any:
    width = _load8(memory, plan + 8 * WIDTH)
    item = _ZERO
    while item < count:
        value, at = _value(memory, kind, at, end)
        if at < 0:
            return _NOWHERE
        if item < width:
            _put(memory, kind, plan, item, row, value, at)
        item += 1
    _put_nothing(memory, kind, plan, item, row)
    return at


@_part
def _message(memory: Any, plan: Any, plan_end: Any, at: Any, end: Any, row: Any) -> bool:
    """Makes a row of a body, all but its arrays of floats; whether it is exactly one message."""
    while plan < plan_end:
        kind = _load8(memory, plan + 8 * KIND)
        is_array = _load8(memory, plan + 8 * IS_ARRAY)
        null = _load8(memory, plan + 8 * NULL)
        branch = _NOWHERE if null >= 0 else _ZERO
        if null != NOT_NULLABLE:
            branch, at = _number(memory, at, end)
            if at < 0 or branch < 0 or branch > 1:
                return False
            validity = _load8(memory, plan + 8 * VALIDITY)
            if validity != 0:
                _store1(memory, validity + row, branch ^ null)
        if branch == null:
            if is_array == 1:
                _store4(memory, _load8(memory, plan + 8 * COUNTS) + 4 * row, _NOWHERE)
            _put_nothing(memory, kind, plan, _ZERO, row)
        elif is_array == 1:
            at = _array(memory, kind, plan, at, end, row)
        else:
            value, at = _value(memory, kind, at, end)
            if at >= 0 and _load8(memory, plan + 8 * WIDTH) > 0:
                _put(memory, kind, plan, _ZERO, row, value, at)
        if at < 0:
            return False
        plan += 8 * PLAN_COLUMNS
    return bool(at == end)


@_part
def _fetch(memory: Any, address: Any, size: Any) -> None:
    at = _load8(memory, address)
    end = at + min(_load8(memory, size), _AHEAD_BYTES)
    while at < end:
        _prefetch(memory, at)
        at += LINE_BYTES


@_part
def _tile(memory: Any, plan: Any, plan_end: Any, first: Any, end: Any) -> None:
    """Copies the arrays of floats of some rows to their columns."""
    while plan < plan_end:
        kind = _load8(memory, plan + 8 * KIND)
        width = _load8(memory, plan + 8 * WIDTH)
        if _load8(memory, plan + 8 * IS_ARRAY) == 1 and width > 0 and FLOAT <= kind <= DOUBLE:
            least = width if end - first == TILE_ROWS else _NOWHERE
            for row in range(first, end):
                least = min(least, _count(memory, plan, row))
            if least == width and width * _size(kind) >= LINE_BYTES:
                _turn(memory, kind, plan, width, first)
            else:
                for row in range(first, end):
                    _copy(memory, kind, plan, row)
        plan += 8 * PLAN_COLUMNS


@_part
def _count(memory: Any, plan: Any, row: Any) -> Any:
    return _load4(memory, _load8(memory, plan + 8 * COUNTS) + 4 * row) << 32 >> 32


@_part
def _turn(memory: Any, kind: Any, plan: Any, width: Any, first: Any) -> None:
    """Copies arrays that are long enough, of a whole tile."""
    items = LINE_BYTES // _size(kind)
    step = _load8(memory, plan + 8 * STEP)
    sources = _load8(memory, plan + 8 * PLACES) + 8 * first
    column = _load8(memory, plan + 8 * TARGET) + _size(kind) * first
    item = _ZERO
    while item < width:
        # The last block overlaps the one before.
        item = min(item, width - items)
        target = column + step * item
        if kind == FLOAT:
            _turn4(memory, sources, item, target, step)
        else:
            _turn8(memory, sources, item, target, step)
            _turn8(memory, sources + 8 * items, item, target + LINE_BYTES, step)
        item += items


@_part
def _copy(memory: Any, kind: Any, plan: Any, row: Any) -> None:
    """Copies an array item by item; what it lacks is 0."""
    count = min(_count(memory, plan, row), _load8(memory, plan + 8 * WIDTH))
    at = _load8(memory, _load8(memory, plan + 8 * PLACES) + 8 * row)
    item = _ZERO
    while item < count:
        value, at = _value(memory, kind, at, _FAR)
        _put(memory, kind, plan, item, row, value, at)
        item += 1
    _put_nothing(memory, kind, plan, item, row)


@_jit
def locate_bytes(items: Any, count: Any, kind: Any, start: Any, addresses: Any, sizes: Any) -> Any:
    """Finds where the bytes of `bytes` objects lie, all but the first `start`; how many were found before another kind.

    Args:
        items: the address of the objects' addresses.
        kind: the address of the type.
        addresses, sizes: the addresses that take what is found.
    """
    memory = _memory()
    for item in range(count):
        if item + _AHEAD < count:
            _prefetch(memory, _load8(memory, items + 8 * (item + _AHEAD)))
        head = _load8(memory, items + 8 * item)
        if _load8(memory, head + 8) != kind:
            return item
        _store8(memory, addresses + 8 * item, head + 32 + start)
        _store8(memory, sizes + 8 * item, _load8(memory, head + 16) - start)
    return count


@_jit
def decode_rows(plan: Any, fields: Any, addresses: Any, sizes: Any, bodies: Any, good: Any) -> Any:
    """Makes rows of the bodies that are messages; how many there are.

    Args:
        plan: the address of `fields` rows of PLAN_COLUMNS numbers of 64 bits.
        addresses, sizes: addresses of the bodies' addresses and sizes.
        good: the address that takes the number of each row's body.
    """
    memory = _memory()
    plan_end = plan + 8 * PLAN_COLUMNS * fields
    row = first = body = _ZERO
    while body < bodies:
        if body + _AHEAD < bodies:
            _fetch(memory, addresses + 8 * (body + _AHEAD), sizes + 8 * (body + _AHEAD))
        at = _load8(memory, addresses + 8 * body)
        if _message(memory, plan, plan_end, at, at + _load8(memory, sizes + 8 * body), row):
            _store8(memory, good + 8 * row, body)
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
    memory = _memory()
    size = _size(kind)
    for row in range(rows):
        at = _load8(memory, places + 8 * row)
        for _ in range(_load4(memory, counts + 4 * row) << 32 >> 32):
            value, at = _value(memory, kind, at, _FAR)
            _store(memory, size, items, value)
            if kind >= STRING:
                _store4(memory, sizes, at - value)
                sizes += 4
            items += size


@_jit
def copy_texts(places: Any, sizes: Any, texts: Any, offsets: Any, data: Any) -> None:
    """Joins texts: `offsets` takes where each begins in `data`, and the end. All are addresses."""
    memory = _memory()
    total = _ZERO
    for text in range(texts):
        _store4(memory, offsets + 4 * text, total)
        source = _load8(memory, places + 8 * text)
        for byte in range(_load4(memory, sizes + 4 * text)):
            _store1(memory, data + total, _load1(memory, source + byte))
            total += 1
    _store4(memory, offsets + 4 * texts, total)


def _signature(arguments: int, result: Any = types.int64) -> Any:
    return result(*[types.int64] * arguments)


ENTRIES: Mapping[Any, Any] = {
    decode_rows: _signature(6),
    locate_bytes: _signature(6),
    copy_items: _signature(6, types.none),
    copy_texts: _signature(5, types.none),
}
