"""Thrift: as much of its compact protocol as is needed to put the footer of a Parquet file together from parts.

What belongs here: finding the fields of a struct without knowing what they mean, and writing numbers, strings, lists
and structs. What a footer says: `pages.py`. The format: thrift's `doc/specs/thrift-compact-protocol.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

I16, I32, I64, BINARY, LIST, STRUCT = 4, 5, 6, 8, 9, 12
_TRUE, _FALSE, _I8, _DOUBLE, _SET, _MAP = 1, 2, 3, 7, 10, 11
_STOP = b"\0"
_LONG_LIST = 15


@dataclass(frozen=True, slots=True)
class Part:
    """A field of a struct or an item of a list: its type, and where it lies."""

    kind: int
    start: int
    end: int


def fields(data: bytes, at: int) -> dict[int, Part]:
    """The fields of the struct that begins at `at`, by number."""
    found: dict[int, Part] = {}
    number = 0
    while data[at] != 0:
        number, kind, at = _field_head(data, at, number)
        end = _field_end(data, at, kind)
        found[number] = Part(kind, at, end)
        at = end
    return found


def field_start(data: bytes, at: int, wanted: int) -> int:
    """Where a field's value begins, of the struct that begins at `at`; what comes after it is not looked at.

    Raises:
        KeyError: the struct has none.
    """
    number = 0
    while data[at] != 0:
        number, kind, at = _field_head(data, at, number)
        if number == wanted:
            return at
        at = _field_end(data, at, kind)
    raise KeyError(wanted)


def items(data: bytes, at: int) -> list[Part]:
    """The items of the list that begins at `at`."""
    count, kind, at = _list_head(data, at)
    found = []
    for _ in range(count):
        end = _end(data, at, kind)
        found.append(Part(kind, at, end))
        at = end
    return found


def first_item(data: bytes, at: int) -> int:
    """Where the first item begins of the list that begins at `at`."""
    return _list_head(data, at)[2]


def number(data: bytes, at: int) -> int:
    """The integer that begins at `at`."""
    value, _ = _varint(data, at)
    return (value >> 1) ^ -(value & 1)


def _field_head(data: bytes, at: int, before: int) -> tuple[int, int, int]:
    """A field's number and type, and where its value begins; `before` is the number of the field before it."""
    head = data[at]
    if head >> 4:
        return before + (head >> 4), head & 0x0F, at + 1
    shifted, at = _varint(data, at + 1)
    return (shifted >> 1) ^ -(shifted & 1), head & 0x0F, at


def _field_end(data: bytes, at: int, kind: int) -> int:
    return at if kind in (_TRUE, _FALSE) else _end(data, at, kind)


def _end(data: bytes, at: int, kind: int) -> int:
    """Where a value ends that begins at `at`."""
    if kind in (I16, I32, I64):
        while data[at] >= 0x80:
            at += 1
        return at + 1
    if kind == BINARY:
        size, at = _varint(data, at)
        return at + size
    if kind == STRUCT:
        while data[at] != 0:
            _, inner, at = _field_head(data, at, 0)
            at = _field_end(data, at, inner)
        return at + 1
    if kind in (LIST, _SET):
        count, inner, at = _list_head(data, at)
        for _ in range(count):
            at = _end(data, at, inner)
        return at
    if kind == _DOUBLE:
        return at + 8
    if kind in (_I8, _TRUE, _FALSE):
        return at + 1
    raise ValueError(f"a value of type {kind} in a Parquet footer")


def _list_head(data: bytes, at: int) -> tuple[int, int, int]:
    count, kind = data[at] >> 4, data[at] & 0x0F
    at += 1
    if count == _LONG_LIST:
        count, at = _varint(data, at)
    return count, kind, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


# Writing


def varint(value: int) -> bytes:
    """A number without a sign, seven bits a byte."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def integer(value: int) -> bytes:
    """A number with a sign."""
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def string(text: str) -> bytes:
    data = text.encode("utf-8")
    return varint(len(data)) + data


def list_head(kind: int, count: int) -> bytes:
    """What a list of so many values of one type begins with."""
    return bytes((count << 4 | kind,)) if count < _LONG_LIST else bytes((_LONG_LIST << 4 | kind,)) + varint(count)


def listed(kind: int, values: Sequence[bytes]) -> bytes:
    """A list of values of one type."""
    return list_head(kind, len(values)) + b"".join(values)


def struct(parts: Iterable[tuple[int, int, bytes]]) -> bytes:
    """A struct of fields (number, type, value), of which the numbers rise by less than 16."""
    pieces = []
    before = 0
    for field, kind, value in parts:
        pieces.append(bytes(((field - before) << 4 | kind,)))
        pieces.append(value)
        before = field
    pieces.append(_STOP)
    return b"".join(pieces)
