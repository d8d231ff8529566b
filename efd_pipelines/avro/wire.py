"""Wire: single values of Avro's binary encoding, read by address, for compiled code.

Every number and length is checked against the end before it is used. Whole messages: `kernel.py`. Importing this
module imports numba.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from efd_pipelines.addresses import load1, load4, load8

BOOLEAN, INT, LONG, FLOAT, DOUBLE, STRING, BYTES = range(7)
"""The types on the wire."""

# Typed, because numba compiles a function once more for a number that it knows.
ZERO, NOWHERE = np.int64(0), np.int64(-1)
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_HIGH_BITS = -0x7F7F7F7F7F7F7F80

part = numba.njit(nogil=True, error_model="numpy")
"""For what is compiled into its caller, and not kept."""


@part
def number_at(memory: Any, at: Any, end: Any) -> Any:
    """A number and where it ends; nowhere if there is none."""
    encoded = shift = ZERO
    while True:
        if at >= end:
            return ZERO, NOWHERE
        byte = load1(memory, at)
        at += 1
        # The tenth byte has room for one bit.
        if shift == 63 and byte > 1:
            return ZERO, NOWHERE
        encoded |= (byte & 0x7F) << shift
        if byte < 0x80:
            return ((encoded >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(encoded & 1), at
        shift += 7


@part
def is_utf8(memory: Any, at: Any, end: Any) -> bool:
    while at < end:
        while end - at >= 8 and load8(memory, at) & _HIGH_BITS == 0:
            at += 8
        if at >= end:
            break
        lead = load1(memory, at)
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
        second = load1(memory, at + 1)
        if second < low or second > high:
            return False
        for following in range(at + 2, at + more + 1):
            if load1(memory, following) & 0xC0 != 0x80:
                return False
        at += more + 1
    return True


@part
def value_at(memory: Any, kind: Any, at: Any, end: Any) -> Any:
    """A value and where it ends; nowhere if there is none. Of floats it is their bits, of texts their place."""
    if kind == DOUBLE:
        return (load8(memory, at), at + 8) if end - at >= 8 else (ZERO, NOWHERE)
    if kind == FLOAT:
        return (load4(memory, at), at + 4) if end - at >= 4 else (ZERO, NOWHERE)
    if kind == BOOLEAN:
        return (load1(memory, at), at + 1) if at < end and load1(memory, at) <= 1 else (ZERO, NOWHERE)
    number, at = number_at(memory, at, end)
    if kind == LONG:
        return number, at
    if kind == INT:
        return (number, at) if _INT_MIN <= number <= _INT_MAX else (ZERO, NOWHERE)
    if at < 0 or number < 0 or number > end - at:
        return ZERO, NOWHERE
    if kind == STRING and not is_utf8(memory, at, at + number):
        return ZERO, NOWHERE
    return at, at + number


@part
def size_of(kind: Any) -> Any:
    """Bytes of a value in its column, of a text those of its place."""
    if kind == BOOLEAN:
        return 1
    return 4 if kind == INT or kind == FLOAT else 8  # noqa: SIM109  # numba makes a loop of a tuple
