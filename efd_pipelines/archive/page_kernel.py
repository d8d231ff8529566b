"""Page kernel: columns of floats → pages of a Parquet file and what its footer says of them, compiled.

One call makes all pages of one width: of each column the streams of bytes (Parquet's BYTE_STREAM_SPLIT), of which those
that look like noise are stored and zstd compresses the others, in one frame, behind the page's head. Of a measured
float the lower bytes are noise: zstd looks through them for as long as through the others, and counts them among the
letters of one alphabet, which makes the code of the others worse.
Importing this module imports numba, which takes a second: only `pages.py` does, and only when it makes pages. The
compiled code is kept on disk (`efd_pipelines.compiled`). Memory for it all, and what surrounds the pages: `pages.py`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import extending, types

from efd_pipelines import addresses
from efd_pipelines.addresses import calling, copy, load8, origin, store4
from efd_pipelines.compiled import jit_of

# Rows that are looked at to tell noise; of them pairs of equal bytes, by chance 511, and equal neighbours, by chance 2.
_LOOKED_AT = 512
_MOST_EQUAL = 600
_MOST_NEIGHBOURS = 12
# The Arrow C data interface: where in an array's struct lies what.
_NULL_COUNT, _OFFSET, _BUFFERS, _CHILDREN = 8, 16, 40, 48
# A frame of zstd (RFC 8878 §3.1.1) that is its own window, whose size stands in four bytes; no check sum.
_FRAME = np.int64(0xFD2FB528)
_DESCRIPTOR = np.uint8(0b10100000)
_FRAME_HEAD_BYTES = 9
_BLOCK_HEAD_BYTES = 3
_MAX_BLOCK_BYTES = 128 * 1024
_LONGEST_NUMBER = 10
NUMBERS_BYTES = 4 * (1 + _LONGEST_NUMBER) + 2
"""What the numbers of a column take at most in a footer."""

# The types of parquet.thrift's fields, as they stand before the numbers in a ColumnMetaData.
_NEXT_I64, _NEXT_BUT_ONE_I64 = np.uint8(0x16), np.uint8(0x26)

_jit = jit_of(__file__, addresses.__file__)
_part = numba.njit(nogil=True, error_model="numpy")
_compress = calling(64, 64, 64, 64, 64, 32)


def _numbers(kind: Any) -> Any:
    signature: Any = types.CPointer(kind)(types.int64)  # type: ignore[no-untyped-call]

    @extending.intrinsic
    def pointer(context: Any, address: Any) -> Any:
        """A pointer to the numbers at an address."""

        def generate(context: Any, builder: Any, called: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], ir.PointerType(context.get_data_type(kind)))

        return signature, generate

    return pointer


_carray: Any = numba.carray  # type: ignore[attr-defined]
_floats = _numbers(types.uint32)
_doubles = _numbers(types.uint64)


@_jit
def find_columns(array: Any, places: Any, widths: Any, addresses: Any, nulls: Any) -> None:
    """Where columns of numbers lie, and how many of each are null; less than 0 where that has not been counted.

    Args:
        array: the address of a record batch's ArrowArray.
    """
    at = origin()
    children = load8(at, array + _CHILDREN)
    for n in range(places.size):
        column = load8(at, children + 8 * places[n])
        buffers = load8(at, column + _BUFFERS)
        nulls[n] = 0 if load8(at, buffers) == 0 else load8(at, column + _NULL_COUNT)
        addresses[n] = load8(at, buffers + 8) + widths[n] * load8(at, column + _OFFSET)


@_part
def _split_floats(address: Any, rows: Any, page: Any, begin: Any) -> None:
    """Writes the first byte of every number, then every second one, and so on."""
    numbers = _carray(_floats(address), rows)
    for byte in range(4):
        stream = page[begin + byte * rows : begin + (byte + 1) * rows]
        shift = np.uint32(8 * byte)
        for row in range(rows):
            stream[row] = np.uint8(numbers[row] >> shift)


@_part
def _split_doubles(address: Any, rows: Any, page: Any, begin: Any) -> None:
    numbers = _carray(_doubles(address), rows)
    for byte in range(8):
        stream = page[begin + byte * rows : begin + (byte + 1) * rows]
        shift = np.uint64(8 * byte)
        for row in range(rows):
            stream[row] = np.uint8(numbers[row] >> shift)


@_jit
def noise(page: Any, rows: Any, width: Any, begin: Any) -> Any:
    """How many streams at the beginning of a page look like noise, of all but the last.

    In some rows of noise, two bytes are equal as often as chance has it (a sixth more costs one part in forty of the
    stream's size), and neighbours as seldom. Whatever it says, a page is read back the same.
    """
    if rows < 2 * _LOOKED_AT:
        return 0
    step = rows // _LOOKED_AT
    counts = np.empty(256, np.int64)
    for stream in range(width - 1):
        first = begin + stream * rows
        counts[:] = 0
        equal = neighbours = 0
        for row in range(first, first + _LOOKED_AT * step, step):
            byte = page[row]
            equal += counts[byte]
            counts[byte] += 1
            neighbours += byte == page[row + 1]
            if equal > _MOST_EQUAL:
                break
        if equal > _MOST_EQUAL or neighbours > _MOST_NEIGHBOURS:
            return stream
    return width - 1


@_part
def _put_number(out: Any, at: Any, value: Any) -> Any:
    """Writes a number of thrift's that is not negative; where it ends."""
    left = value << 1
    while left > 0x7F:
        out[at] = np.uint8(left & 0x7F | 0x80)
        left >>= 7
        at += 1
    out[at] = np.uint8(left)
    return at + 1


@_part
def _put_bytes(out: Any, at: Any, source: Any, begin: Any, end: Any) -> Any:
    copy(origin(), source.ctypes.data + begin, end - begin, out.ctypes.data + at)
    return at + end - begin


@_part
def _head_bytes(frame: Any) -> Any:
    """How long the head of a frame that zstd has made is."""
    descriptor = frame[4]
    size = np.int64(1) << (descriptor >> 6)
    is_own_window = descriptor >> 5 & 1
    if size == 1 and not is_own_window:
        size = 0
    return 5 + size + (0 if is_own_window else 1)


@_part
def _put_stored(out: Any, at: Any, page: Any, stored: Any, size: Any) -> Any:
    """Begins a frame of `size` bytes with raw blocks; where they end.

    Raw blocks leave a decoder's tables and repeated offsets as a frame begins with them, and matches count backwards:
    so another frame's blocks are right behind raw ones, and would be nowhere else.
    """
    base = out.ctypes.data
    store4(origin(), base + at, _FRAME)
    out[at + 4] = _DESCRIPTOR
    store4(origin(), base + at + 5, size)
    at += _FRAME_HEAD_BYTES
    for first in range(0, stored, _MAX_BLOCK_BYTES):
        end = min(stored, first + _MAX_BLOCK_BYTES)
        head = (end - first) << 3
        for byte in range(_BLOCK_HEAD_BYTES):
            out[at + byte] = np.uint8(head >> (8 * byte))
        at = _put_bytes(out, at + _BLOCK_HEAD_BYTES, page, first, end)
    return at


@_jit
def put_pages(
    zstd: Any,
    addresses: Any,
    places: Any,
    rows: Any,
    width: Any,
    page: Any,
    begin: Any,
    head: Any,
    tail: Any,
    frame: Any,
    room: Any,
    at: Any,
    numbers: Any,
) -> Any:
    """Makes a page of each column, one after the other; where the last ends, -1 where zstd failed or room is short.

    Args:
        zstd: the addresses of ZSTD_compressCCtx and of a context, and the level.
        addresses: where the columns lie, `rows` numbers of `width` bytes each.
        page: has room for a page; its first `begin` bytes say that no row is null.
        head, tail: what stands in a page's head before and after its compressed size.
        frame: takes what zstd makes of a page.
        room, at: where the pages go.
        numbers: takes, in the rows that `places` names, what `put_chunks` writes of each page.
    """
    for column in range(addresses.size):
        if width == 4:
            _split_floats(addresses[column], rows, page, begin)
        else:
            _split_doubles(addresses[column], rows, page, begin)
        streams = noise(page, rows, width, begin)
        stored = begin + streams * rows if streams else 0
        source = page.ctypes.data + stored
        made = _compress(zstd[0], (zstd[1], frame.ctypes.data, frame.size, source, page.size - stored, zstd[2]))
        if made <= 0:
            return -1
        skipped = 0
        length = made
        if stored:
            blocks = (stored + _MAX_BLOCK_BYTES - 1) // _MAX_BLOCK_BYTES
            skipped = _head_bytes(frame)
            length += _FRAME_HEAD_BYTES + blocks * _BLOCK_HEAD_BYTES + stored - skipped
        if head.size + _LONGEST_NUMBER + tail.size + length > room.size - at:
            return -1
        numbers[places[column], 0] = rows
        numbers[places[column], 3] = at
        at = _put_bytes(room, at, head, 0, head.size)
        at = _put_number(room, at, length)
        at = _put_bytes(room, at, tail, 0, tail.size)
        numbers[places[column], 1] = at - numbers[places[column], 3] + page.size
        if stored:
            at = _put_stored(room, at, page, stored, page.size)
        at = _put_bytes(room, at, frame, skipped, made)
        numbers[places[column], 2] = at - numbers[places[column], 3]
    return at


@_jit
def put_chunks(pieces: Any, ends: Any, numbers: Any, out: Any) -> Any:
    """Writes what the footer says of each column: a piece, and of those made here the numbers behind it.

    Args:
        pieces, ends: bytes, and where in them each column's piece ends.
        numbers: a row for each column: rows, size, compressed size, offset; the first is -1 where the piece is all.
        out: has room for the pieces and `NUMBERS_BYTES` more of each column.

    Returns:
        how many bytes were written.
    """
    at = begin = 0
    for column in range(ends.size):
        at = _put_bytes(out, at, pieces, begin, ends[column])
        begin = ends[column]
        if numbers[column, 0] >= 0:
            for n in range(4):
                out[at] = _NEXT_I64 if n < 3 else _NEXT_BUT_ONE_I64
                at = _put_number(out, at + 1, numbers[column, n])
            out[at] = out[at + 1] = 0
            at += 2
    return at


_BYTES: Any = types.uint8[::1]
_PLACES: Any = types.int64[::1]
_NUMBER = types.int64
ENTRIES: Any = {
    find_columns: types.none(_NUMBER, _PLACES, _PLACES, _PLACES, _PLACES),
    noise: _NUMBER(_BYTES, _NUMBER, _NUMBER, _NUMBER),
    put_pages: _NUMBER(*[_PLACES] * 3, _NUMBER, _NUMBER, _BYTES, _NUMBER, *[_BYTES] * 4, _NUMBER, types.int64[:, ::1]),
    put_chunks: _NUMBER(_BYTES, _PLACES, types.int64[:, ::1], _BYTES),
}
