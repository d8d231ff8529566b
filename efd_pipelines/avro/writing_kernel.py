"""Writing kernel: columns → Avro bodies, compiled once for all schemas; the counterpart of `kernel.py`.

A schema is a plan, some numbers for each field, which the kernel interprets. All values come in three long arrays
("banks"): floats as bytes, so that a row's items of an array are copied at once; other numbers; texts. Each field's
plan says where its values lie in its bank. Importing this module imports numba. Making banks and plans of a table's
columns: `encoder.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from efd_pipelines.compiled import cache_directory

# A plan's columns. COUNTS is a row of counts (−1: null) or −1 where the field is a scalar that is never null. A row's
# first value lies at FIRST + row · STRIDE of its bank, or where the row STARTS of places says, if that is not −1; from
# an array's element to the next it is STEP.
KIND, IS_ARRAY, NULL, FIRST, STRIDE, STEP, COUNTS, STARTS = range(8)
PLAN_COLUMNS = 8
BOOLEAN, INT, LONG, FLOAT, DOUBLE, STRING, BYTES = range(7)
LONGEST_NUMBER = 10
"""Bytes of the longest Avro number."""

_DIRECTORY = cache_directory()
if _DIRECTORY is not None and not numba.config.CACHE_DIR:  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(_DIRECTORY)  # type: ignore[attr-defined]
_jit: Callable[[Callable[..., Any]], Any] = numba.njit(nogil=True, cache=_DIRECTORY is not None)
_part: Callable[[Callable[..., Any]], Any] = numba.njit(nogil=True)


@_part
def _put_number(out: Any, at: Any, value: Any) -> Any:
    """Writes an Avro int or long; where it ends."""
    left = np.uint64((value << 1) ^ (value >> 63))
    while left > np.uint64(0x7F):
        out[at] = np.uint8((left & np.uint64(0x7F)) | np.uint64(0x80))
        left >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(left)
    return at + 1


@_part
def _put_bytes(out: Any, at: Any, source: Any, begin: Any, end: Any) -> Any:
    for byte in range(begin, end):
        out[at] = source[byte]
        at += 1
    return at


@_part
def _put_items(
    out: Any, at: Any, kind: Any, count: Any, place: Any, step: Any, numbers: Any, texts: Any, ends: Any
) -> Any:
    """Writes so many values that are no floats; where they end."""
    for _ in range(count):
        if kind == BOOLEAN:
            out[at] = np.uint8(numbers[place])
            at += 1
        elif kind < STRING:
            at = _put_number(out, at, numbers[place])
        else:
            at = _put_number(out, at, ends[place + 1] - ends[place])
            at = _put_bytes(out, at, texts, ends[place], ends[place + 1])
        place += step
    return at


@_jit
def write_rows(
    plan: Any,
    counts: Any,
    starts: Any,
    floats: Any,
    numbers: Any,
    texts: Any,
    ends: Any,
    head: Any,
    out: Any,
    bounds: Any,
) -> None:
    """Writes `head` and the body of each row to `out`; row n ends at `bounds[n + 1]`."""
    at = np.int64(0)
    for row in range(len(bounds) - 1):
        at = _put_bytes(out, at, head, 0, len(head))
        for field in range(len(plan)):
            kind = plan[field, KIND]
            null = plan[field, NULL]
            count = np.int64(1) if plan[field, COUNTS] < 0 else counts[plan[field, COUNTS], row]
            if null >= 0:
                at = _put_number(out, at, null if count < 0 else np.int64(1) - null)
                if count < 0:
                    continue
            place = plan[field, FIRST] + row * plan[field, STRIDE]
            if plan[field, STARTS] >= 0:
                place = starts[plan[field, STARTS], row]
            is_array = plan[field, IS_ARRAY] != 0
            if is_array and count > 0:
                at = _put_number(out, at, count)
            if FLOAT <= kind <= DOUBLE:
                size = np.int64(4) if kind == FLOAT else np.int64(8)
                at = _put_bytes(out, at, floats, place, place + count * size)
            else:
                at = _put_items(out, at, kind, count, place, plan[field, STEP], numbers, texts, ends)
            if is_array:
                out[at] = np.uint8(0)
                at += 1
        bounds[row + 1] = at
