"""Splitting: numbers into streams of their bytes, compiled: Parquet's encoding BYTE_STREAM_SPLIT, column by column.

Importing this module imports numba, which takes a second: only `pages.py` does, and only when it makes pages. The
compiled code is kept on disk (`efd_pipelines.compiled`); no compiler is needed.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import extending, types

from efd_pipelines.compiled import cache_directory

_DIRECTORY = cache_directory()
if _DIRECTORY is not None and not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(_DIRECTORY)  # type: ignore[attr-defined]
_jit = numba.njit(nogil=True, cache=_DIRECTORY is not None, error_model="numpy")


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
# Rows that are looked at to tell noise; of them pairs of equal bytes, by chance 511, and equal neighbours, by chance 2.
_LOOKED_AT = 512
_MOST_EQUAL = 600
_MOST_NEIGHBOURS = 12
_floats = _numbers(types.uint32)
_doubles = _numbers(types.uint64)


@_jit
def split_floats(addresses: Any, rows: Any, pages: Any, begin: Any) -> None:
    """Writes the first byte of every number, then every second one, and so on; a column a row of `pages`.

    Args:
        addresses: where the columns lie, `rows` numbers of four bytes each.
        begin: where in a page the streams begin.
    """
    for column in range(addresses.size):
        numbers = _carray(_floats(addresses[column]), rows)
        for byte in range(4):
            stream = pages[column, begin + byte * rows : begin + (byte + 1) * rows]
            shift = np.uint32(8 * byte)
            for row in range(rows):
                stream[row] = np.uint8(numbers[row] >> shift)


@_jit
def split_doubles(addresses: Any, rows: Any, pages: Any, begin: Any) -> None:
    """The same for numbers of eight bytes."""
    for column in range(addresses.size):
        numbers = _carray(_doubles(addresses[column]), rows)
        for byte in range(8):
            stream = pages[column, begin + byte * rows : begin + (byte + 1) * rows]
            shift = np.uint64(8 * byte)
            for row in range(rows):
                stream[row] = np.uint8(numbers[row] >> shift)


@_jit
def noise(pages: Any, rows: Any, width: Any, begin: Any) -> Any:
    """How many streams at the beginning of each page look like noise, of all but the last.

    In some rows of noise, two bytes are equal as often as chance has it (a sixth more costs one part in forty of the
    stream's size), and neighbours as seldom. Whatever it says, a page is read back the same.
    """
    found = np.zeros(pages.shape[0], np.int64)
    if rows < 2 * _LOOKED_AT:
        return found
    step = rows // _LOOKED_AT
    counts = np.empty(256, np.int64)
    for page in range(pages.shape[0]):
        for stream in range(width - 1):
            first = begin + stream * rows
            counts[:] = 0
            equal = neighbours = 0
            for row in range(first, first + _LOOKED_AT * step, step):
                byte = pages[page, row]
                equal += counts[byte]
                counts[byte] += 1
                neighbours += byte == pages[page, row + 1]
                if equal > _MOST_EQUAL:
                    break
            if equal > _MOST_EQUAL or neighbours > _MOST_NEIGHBOURS:
                break
            found[page] += 1
    return found


_SIGNATURE: Any = types.none(types.int64[::1], types.int64, types.uint8[:, ::1], types.int64)
_NOISE: Any = types.int64[::1](types.uint8[:, ::1], types.int64, types.int64, types.int64)
ENTRIES = {split_floats: _SIGNATURE, split_doubles: _SIGNATURE, noise: _NOISE}
