"""Kernel: columns into lines of line protocol, compiled.

Importing this module imports numba, which takes a second: only `lines.py` does, and only when it serialises. The
compiled code is kept (`efd_pipelines.compiled`).

A float becomes the shortest decimal that reads back as the same float64, of several the nearest, by Schubfach (R.
Giulietti, The Schubfach way to render doubles, 2020): three products of the significand with a 128-bit power of ten
bound the decimals that round to the number; one of two or four candidates is in between. NaN and the infinities, which
InfluxDB does not have, leave the line, as does what is null.

Everything is read and written by address: numba counts references to arrays, which took ten times as long. A plan has a
row of numbers for each field. Floats are first gathered for some rows at a time, because the values of one row lie in
as many pages of memory as there are columns. The callers in `lines.py` make the room.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from efd_pipelines import addresses
from efd_pipelines.addresses import accesses, intrinsic, origin, pointer_to
from efd_pipelines.compiled import jit_of

KIND, VALUES, VALIDITY, OFFSET, STARTS, NAME, NAME_BYTES, MARK = range(8)
"""A plan's columns: VALUES, VALIDITY (a bitmap, 0 for none) and STARTS (of texts) are Arrow's buffers, OFFSET where the
array begins in them. NAME is the address of `,name=`, MARK a number for the name."""

PLAN_COLUMNS = 8
FLOAT4, FLOAT8, INTEGER4, INTEGER8, BOOLEAN, TEXT = range(6)
VALUE_BYTES = {FLOAT4: 25, FLOAT8: 25, INTEGER4: 12, INTEGER8: 21, BOOLEAN: 1, TEXT: 2}
"""The most that a value takes, a text beside its own bytes."""

STAMP_BYTES = 22
SPARE_BYTES = 16
"""What must be writable behind a line, and readable behind a name: names are copied 16 bytes at a time."""

TILE_ROWS = 16

_jit = jit_of(__file__, addresses.__file__)
_part = numba.njit(nogil=True, error_model="numpy")

_POWER_MIN, _POWER_MAX = -292, 324
_NAN = np.int64(0x7FF8000000000000)
_BLANK, _QUOTE, _COMMA, _MINUS, _POINT, _ZERO = (np.int64(ord(sign)) for sign in ' ",-.0')
_LINE_END, _FALSE, _TRUE, _INTEGER, _EXPONENT = (np.int64(ord(sign)) for sign in "\nftie")


def _powers_of_ten() -> NDArray[np.uint64]:
    """10^k for k from −292 to 324, each as high and low half of ⌈10^k · 2^(127−⌊log2 10^k⌋)⌉."""
    found = np.empty((_POWER_MAX - _POWER_MIN + 1, 2), np.uint64)
    for k in range(_POWER_MIN, _POWER_MAX + 1):
        shift = 127 - ((k * 1741647) >> 19)
        over, under = 10 ** max(k, 0) << max(shift, 0), 10 ** max(-k, 0) << max(-shift, 0)
        value = -(-over // under)
        found[k - _POWER_MIN] = value >> 64, value & (2**64 - 1)
    return found


POWERS = _powers_of_ten()
PAIRS = np.frombuffer("".join(f"{n:02d}" for n in range(100)).encode(), np.uint8)
"""The two digits of each number below 100."""


_load1, _store1 = accesses(8, signed=True)
_load2, _store2 = accesses(16, signed=True)
_load4, _store4 = accesses(32, signed=True)
_load8, _store8 = accesses(64)


@intrinsic
def _load_float4(context: Any, memory: Any, address: Any) -> Any:
    """The bits, as of a float64, of a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(pointer_to(builder, arguments[0], arguments[1], ir.FloatType()), align=1)
        return builder.bitcast(builder.fpext(value, ir.DoubleType()), ir.IntType(64))

    return types.int64(types.voidptr, types.int64), generate


@intrinsic
def _copy16(context: Any, memory: Any, source: Any, target: Any) -> Any:
    """Copies 16 bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(ir.IntType(64), 2)
        value = builder.load(pointer_to(builder, arguments[0], arguments[1], kind), align=1)
        builder.store(value, pointer_to(builder, arguments[0], arguments[2], kind), align=1)
        return context.get_dummy_value()

    return types.none(types.voidptr, types.int64, types.int64), generate


@intrinsic
def _high_of_product(context: Any, one: Any, other: Any) -> Any:
    """The upper 64 bits of the product of two unsigned 64-bit integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


@_part
def _round_to_odd(high: Any, low: Any, factor: Any) -> Any:
    """The upper third of a 192-bit product, its last bit set where the rest is not nothing."""
    carried = _high_of_product(low, factor)
    middle = high * factor + carried
    top = _high_of_product(high, factor)
    if middle < carried:
        top += np.uint64(1)
    return top | np.uint64(middle > np.uint64(1))


@_part
def _shortest(memory: Any, bits: Any, powers: Any) -> Any:
    """Digits and exponent of ten of a positive, finite float64: digits · 10^exponent. Digits may end in zeros."""
    fraction = bits & np.uint64((1 << 52) - 1)
    biased = np.int64((bits >> np.uint64(52)) & np.uint64(0x7FF))
    if biased != 0:
        c = fraction | np.uint64(1 << 52)
        q = biased - 1075
        if -53 < q <= 0 and (c & ((np.uint64(1) << np.uint64(-q)) - np.uint64(1))) == np.uint64(0):
            return c >> np.uint64(-q), np.int64(0)
    else:
        c = fraction
        q = np.int64(-1074)
    is_closer_below = fraction == np.uint64(0) and biased > 1
    k = (q * 1262611 - (524031 if is_closer_below else 0)) >> 22
    h = np.uint64(q + ((-k * 1741647) >> 19) + 1)
    power = powers + (-k - _POWER_MIN) * 16
    high, low = np.uint64(_load8(memory, power)), np.uint64(_load8(memory, power + 8))
    times_4 = c << np.uint64(2)
    below = times_4 - np.uint64(1) if is_closer_below else times_4 - np.uint64(2)
    lower = _round_to_odd(high, low, below << h)
    value = _round_to_odd(high, low, times_4 << h)
    upper = _round_to_odd(high, low, (times_4 + np.uint64(2)) << h)
    if c & np.uint64(1):  # of an odd significand the bounds themselves round elsewhere
        lower += np.uint64(1)
        upper -= np.uint64(1)
    digits = value >> np.uint64(2)
    if digits >= np.uint64(10):
        tens = digits // np.uint64(10)
        is_below_in = lower <= np.uint64(40) * tens
        is_above_in = np.uint64(40) * tens + np.uint64(40) <= upper
        if is_below_in != is_above_in:
            return tens + np.uint64(is_above_in), k + 1
    is_below_in = lower <= (digits << np.uint64(2))
    is_above_in = (digits << np.uint64(2)) + np.uint64(4) <= upper
    if is_below_in != is_above_in:
        return digits + np.uint64(is_above_in), k
    middle = (digits << np.uint64(2)) + np.uint64(2)
    rounds_up = value > middle or (value == middle and (digits & np.uint64(1)) != np.uint64(0))
    return digits + np.uint64(rounds_up), k


@_part
def _length_of(number: Any) -> Any:
    """How many decimal digits an unsigned integer has."""
    length = np.int64(1)
    while number >= np.uint64(10000):
        number //= np.uint64(10000)
        length += 4
    if number >= np.uint64(1000):
        return length + 3
    if number >= np.uint64(100):
        return length + 2
    if number >= np.uint64(10):
        return length + 1
    return length


@_part
def _put_digits(memory: Any, place: Any, number: Any, length: Any, pairs: Any) -> None:
    """Writes the digits of an unsigned integer, of which there are `length`."""
    at = place + length
    while number >= np.uint64(100):
        rest = number // np.uint64(100)
        at -= 2
        _store2(memory, at, _load2(memory, pairs + 2 * np.int64(number - rest * np.uint64(100))))
        number = rest
    if at - place == 2:
        _store2(memory, place, _load2(memory, pairs + 2 * np.int64(number)))
    else:
        _store1(memory, place, _ZERO + np.int64(number))


@_part
def _put_integer(memory: Any, place: Any, value: Any, pairs: Any) -> Any:
    """Writes a signed integer; where it ends."""
    number = np.uint64(value)
    if value < 0:
        _store1(memory, place, _MINUS)
        place += 1
        number = ~number + np.uint64(1)
    length = _length_of(number)
    _put_digits(memory, place, number, length, pairs)
    return place + length


@_part
def _put_float(memory: Any, place: Any, value: Any, powers: Any, pairs: Any) -> Any:
    """Writes the finite float64 of these bits; where it ends."""
    if value < 0:
        _store1(memory, place, _MINUS)
        place += 1
    bits = np.uint64(value) & np.uint64(0x7FFFFFFFFFFFFFFF)
    if bits == np.uint64(0):
        _store1(memory, place, _ZERO)
        return place + 1
    digits, exponent = _shortest(memory, bits, powers)
    if exponent != 0:
        if digits % np.uint64(100000000) == np.uint64(0):
            digits //= np.uint64(100000000)
            exponent += 8
        while digits % np.uint64(10) == np.uint64(0):
            digits //= np.uint64(10)
            exponent += 1
    length = _length_of(digits)
    point = length + exponent
    if 0 < point < length:
        _put_digits(memory, place + 1, digits, length, pairs)
        for n in range(point):
            _store1(memory, place + n, _load1(memory, place + n + 1))
        _store1(memory, place + point, _POINT)
        return place + length + 1
    if -5 < point <= 0:
        _store1(memory, place, _ZERO)
        _store1(memory, place + 1, _POINT)
        for n in range(-point):
            _store1(memory, place + 2 + n, _ZERO)
        _put_digits(memory, place + 2 - point, digits, length, pairs)
        return place + 2 - point + length
    if length <= point < 17:
        _put_digits(memory, place, digits, length, pairs)
        for n in range(exponent):
            _store1(memory, place + length + n, _ZERO)
        return place + point
    return _put_scientific(memory, place, digits, length, point - 1, pairs)


@_part
def _put_scientific(memory: Any, place: Any, digits: Any, length: Any, exponent: Any, pairs: Any) -> Any:
    """Writes d.ddde±x."""
    _put_digits(memory, place + 1, digits, length, pairs)
    _store1(memory, place, _load1(memory, place + 1))
    place += 1
    if length > 1:
        _store1(memory, place, _POINT)
        place += length
    _store1(memory, place, _EXPONENT)
    return _put_integer(memory, place + 1, exponent, pairs)


@_part
def _copy(memory: Any, source: Any, size: Any, place: Any) -> Any:
    """Copies a text behind which there is room; where it ends."""
    for n in range(0, size, 16):
        _copy16(memory, source + n, place + n)
    return place + size


@_part
def _is_valid(memory: Any, bitmap: Any, n: Any) -> Any:
    return bitmap == 0 or (_load1(memory, bitmap + (n >> 3)) >> (n & 7)) & 1 == 1


@_part
def _gather(memory: Any, plan: Any, fields: Any, first: Any, end: Any, gathered: Any) -> None:
    """The floats of some rows, each row's together; what is null is NaN."""
    for n in range(fields):
        one = plan + n * PLAN_COLUMNS * 8
        kind = _load8(memory, one + KIND * 8)
        if kind > FLOAT8:
            continue
        values, bitmap = _load8(memory, one + VALUES * 8), _load8(memory, one + VALIDITY * 8)
        offset = _load8(memory, one + OFFSET * 8)
        for row in range(first, end):
            bits = _NAN
            if _is_valid(memory, bitmap, offset + row):
                if kind == FLOAT4:
                    bits = _load_float4(memory, values + 4 * (offset + row))
                else:
                    bits = _load8(memory, values + 8 * (offset + row))
            _store8(memory, gathered + 8 * ((row - first) * fields + n), bits)


@_part
def _put_other(memory: Any, one: Any, kind: Any, row: Any, place: Any, pairs: Any) -> Any:
    """Writes a value that is no float; where it ends."""
    values = _load8(memory, one + VALUES * 8)
    if INTEGER4 <= kind <= INTEGER8:
        value = _load4(memory, values + 4 * row) if kind == INTEGER4 else _load8(memory, values + 8 * row)
        place = _put_integer(memory, place, value, pairs)
        _store1(memory, place, _INTEGER)
        return place + 1
    if kind == BOOLEAN:
        _store1(memory, place, _TRUE if _is_valid(memory, values, row) else _FALSE)
        return place + 1
    starts = _load8(memory, one + STARTS * 8)
    start, end = _load4(memory, starts + 4 * row), _load4(memory, starts + 4 * row + 4)
    _store1(memory, place, _QUOTE)
    for n in range(start, end):
        _store1(memory, place + 1 + n - start, _load1(memory, values + n))
    _store1(memory, place + 1 + end - start, _QUOTE)
    return place + 2 + end - start


@_jit
def put_lines(
    plan: Any,
    fields: Any,
    first: Any,
    end: Any,
    prefixes: Any,
    prefix_of: Any,
    stamps: Any,
    powers: Any,
    pairs: Any,
    gathered: Any,
    out: Any,
    room: Any,
    starts: Any,
    rows: Any,
    marks: Any,
) -> Any:
    """Lines of rows from `first` on, up to `end` or until the next might not fit; a row without a value gives none.

    All but `fields`, `first`, `end` and `room`, which is in bytes, are addresses. `prefixes` has address and size of
    each `measurement,tag=value`, and what its row may take at most; `prefix_of` the prefix of each row. `gathered` has
    room for the fields of 16 rows, `starts` for one more than there are rows. Marks are summed over the fields that a
    line has: equal for equal sets of fields.

    Returns:
        the row to go on with; lines, fields and bytes.
    """
    memory = origin()
    place = out
    lines = np.int64(0)
    count = np.int64(0)
    tile_end = first
    tile = first
    row = first
    while row < end:
        prefix = prefixes + 24 * _load8(memory, prefix_of + 8 * row)
        if place - out + _load8(memory, prefix + 16) > room:
            break
        if row >= tile_end:
            tile, tile_end = row, min(end, row + TILE_ROWS)
            _gather(memory, plan, fields, tile, tile_end, gathered)
        begin = place
        place = _copy(memory, _load8(memory, prefix), _load8(memory, prefix + 8), place)
        head_end = place
        mark = np.int64(0)
        present = np.int64(0)
        floats = gathered + 8 * (row - tile) * fields
        for n in range(fields):
            one = plan + n * PLAN_COLUMNS * 8
            kind = _load8(memory, one + KIND * 8)
            if kind <= FLOAT8:
                value = _load8(memory, floats + 8 * n)
                if (value >> 52) & 0x7FF == 0x7FF:
                    continue
                place = _copy(memory, _load8(memory, one + NAME * 8), _load8(memory, one + NAME_BYTES * 8), place)
                place = _put_float(memory, place, value, powers, pairs)
            else:
                where = _load8(memory, one + OFFSET * 8) + row
                if not _is_valid(memory, _load8(memory, one + VALIDITY * 8), where):
                    continue
                place = _copy(memory, _load8(memory, one + NAME * 8), _load8(memory, one + NAME_BYTES * 8), place)
                place = _put_other(memory, one, kind, where, place, pairs)
            mark += _load8(memory, one + MARK * 8)
            present += 1
        if present == 0:
            place = begin
            row += 1
            continue
        _store1(memory, head_end, _BLANK)
        _store1(memory, place, _BLANK)
        place = _put_integer(memory, place + 1, _load8(memory, stamps + 8 * row), pairs)
        _store1(memory, place, _LINE_END)
        place += 1
        _store8(memory, starts + 8 * lines, begin - out)
        _store8(memory, rows + 8 * lines, row)
        _store8(memory, marks + 8 * lines, mark)
        lines += 1
        count += present
        row += 1
    _store8(memory, starts + 8 * lines, place - out)
    return row, lines, count, place - out


@_jit
def put_floats(values: Any, count: Any, powers: Any, pairs: Any, out: Any, ends: Any) -> None:
    """The texts of finite floats, one after the other, and where each ends: for tests and benchmarks."""
    memory = origin()
    place = out
    for n in range(count):
        place = _put_float(memory, place, _load8(memory, values + 8 * n), powers, pairs)
        _store8(memory, ends + 8 * n, place - out)
