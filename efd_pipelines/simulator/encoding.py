"""Encoding: columns of values → Avro bodies, whole batches at a time.

The layout of a SAL record is nearly fixed: floats and doubles have their width, strings and most integers
are the same from one record to the next. So a batch is a matrix of bytes whose rows are the bodies, and only
what differs in length from row to row is joined in afterwards. Arrays are written as fastavro and salobj
write them: one block of count and items, then 0.
What a schema looks like: `sal.py`. Framing and sending: `producer.py`. Decoding is `efd_pipelines.avro`'s and
shares nothing with this, so that each can check the other.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.errors import SchemaError

Bytes = NDArray[np.uint8]
Column = Any
"""One value (of an array: sequence) for all records, or one for each: list or ndarray, (records,) or
(records, length). A masked array's masked entries and a list's None are null.
"""
Piece = bytes | Bytes | list[bytes]
"""Encoded: the same for all records; (records, width); or one each."""

_FLOATS: Mapping[str, str] = {"float": "<f4", "double": "<f8"}
_INTEGERS = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}


def zigzag(value: int) -> bytes:
    """An Avro int or long."""
    unsigned = (value << 1) ^ (value >> 63)
    parts = bytearray()
    while unsigned > 0x7F:
        parts.append(unsigned & 0x7F | 0x80)
        unsigned >>= 7
    parts.append(unsigned)
    return bytes(parts)


def varints(values: NDArray[np.int64]) -> Bytes | list[bytes]:
    """Rows of Avro ints or longs, end to end: `values` is (records, length)."""
    numbers = np.ascontiguousarray(values, dtype=np.int64)
    unsigned = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    longest = max(1, -(-int(unsigned.max(initial=0)).bit_length() // 7))
    if longest == 1:
        return unsigned.astype(np.uint8)
    shifts = np.arange(0, 7 * longest, 7, dtype=np.uint64)
    groups = unsigned[..., None] >> shifts
    # A group is written where there is still something to write; all but the last carry the high bit.
    written = groups > 0
    written[..., 0] = True
    out = (groups & np.uint64(0x7F)).astype(np.uint8)
    out[..., :-1] |= np.where(written[..., 1:], 0x80, 0).astype(np.uint8)
    flat = out[written]
    widths = written.sum(axis=(1, 2))
    if (widths == widths[0]).all():
        return flat.reshape(len(widths), int(widths[0]))
    return _cut(flat, widths)


@dataclass(frozen=True, slots=True)
class _FieldEncoder:
    """One field: `branches` is its union's (null's, value's) index bytes, None where it is no union."""

    name: str
    type: str
    array: bool
    branches: tuple[bytes, bytes] | None
    default: Any

    def encode(self, column: Column, records: int) -> list[Piece]:
        if self.branches is None:
            return self._values(column, records)
        null, present = self.branches
        missing = _missing(column, records)
        if missing is None:
            return [present, *self._values(column, records)]
        if missing.all():
            return [null]
        filled = _filled(column, missing, self)
        rows = _joined([present, *self._values(filled, records)], records)
        return [[null if gone else row for gone, row in zip(missing.tolist(), rows, strict=True)]]

    def _values(self, column: Column, records: int) -> list[Piece]:
        if self.type == "string":
            return [_strings(column, records)]
        values = np.asarray(column)
        if self.array:
            items = values if values.ndim == 2 else np.broadcast_to(values, (records, len(values)))
            if items.shape[1] == 0:
                return [b"\0"]
            return [zigzag(items.shape[1]), self._numbers(items), b"\0"]
        if values.ndim == 0:
            return [_row(self._numbers(values.reshape(1, 1)))]
        return [self._numbers(values[:, None])]

    def _numbers(self, values: NDArray[Any]) -> Bytes | list[bytes]:
        if self.type in _FLOATS:
            floats = np.ascontiguousarray(values.astype(_FLOATS[self.type]))
            return floats.view(np.uint8).reshape(len(values), -1)
        if self.type == "boolean":
            return np.ascontiguousarray(values.astype(np.bool_)).view(np.uint8)
        if values.dtype.kind not in "iub":
            raise TypeError(f"{values.dtype} is no integer")
        low, high = _INTEGERS[self.type]
        integers = values.astype(np.int64)
        if integers.size and (integers.min() < low or integers.max() > high):
            raise SchemaError(f"Field {self.name} is declared {self.type} and has a value beyond it")
        return varints(integers)


class AvroEncoder:
    """Encodes batches for one record schema of SAL's shapes: scalars, arrays of them, `["null", scalar]`."""

    def __init__(self, schema: str) -> None:
        document = json.loads(schema)
        self.name: str = f"{document.get('namespace', '')}.{document['name']}"
        self._fields = [_field_encoder(field) for field in document["fields"]]

    def encode(self, columns: Mapping[str, Column], records: int) -> list[bytes]:
        """The bodies of `records` records. A field that `columns` lacks has its default.

        Raises:
            SchemaError: a column is no field, has another length or does not fit its type.
        """
        if not records:
            return []
        unknown = columns.keys() - {field.name for field in self._fields}
        if unknown:
            raise SchemaError(f"{self.name} has no field {min(unknown)}")
        pieces: list[Piece] = []
        for field in self._fields:
            column = columns.get(field.name, field.default)
            try:
                pieces += field.encode(column, records)
            except (ValueError, TypeError, IndexError, OverflowError, AttributeError) as error:
                raise SchemaError(f"{self.name}: the values of {field.name} do not fit ({error})") from error
        for piece in pieces:
            if not isinstance(piece, bytes) and len(piece) != records:
                raise SchemaError(f"{self.name}: a column has {len(piece)} values for {records} records")
        return _joined(pieces, records)


@functools.lru_cache(maxsize=4096)
def encoder_of(schema: str) -> AvroEncoder:
    """The encoder of a schema's text."""
    return AvroEncoder(schema)


def _field_encoder(field: Mapping[str, Any]) -> _FieldEncoder:
    declared = field["type"]
    branches = None
    if isinstance(declared, list):
        null = declared.index("null")
        branches = (zigzag(null), zigzag(1 - null))
        declared = declared[1 - null]
    array = isinstance(declared, dict)
    kind = declared["items"] if isinstance(declared, dict) else declared
    if kind not in (*_FLOATS, *_INTEGERS, "boolean", "string"):
        raise SchemaError(f"Field {field['name']} has a type that SAL does not know: {kind}")
    return _FieldEncoder(field["name"], kind, array, branches, field.get("default", "" if kind == "string" else 0))


def _strings(column: Column, records: int) -> Piece:
    if isinstance(column, str):
        return _string(column)
    if isinstance(column, np.ndarray) and column.ndim == 0:
        return _string(str(column))
    known: dict[str, bytes] = {}
    return [known.get(text) or known.setdefault(text, _string(text)) for text in column]


def _string(text: str) -> bytes:
    encoded = text.encode()
    return zigzag(len(encoded)) + encoded


def _missing(column: Column, records: int) -> NDArray[np.bool_] | None:
    """Where the column is null; None where nowhere."""
    if column is None:
        return np.ones(records, dtype=np.bool_)
    if isinstance(column, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(column)
        rows = np.asarray(mask.reshape(records, -1).any(axis=1), dtype=np.bool_)
    elif isinstance(column, list):
        rows = np.fromiter((value is None for value in column), dtype=np.bool_, count=len(column))
    else:
        return None
    return rows if rows.any() else None


def _filled(column: Column, missing: NDArray[np.bool_], field: _FieldEncoder) -> Column:
    """The column with something valid where it is null."""
    if isinstance(column, np.ma.MaskedArray):
        return column.filled(0)
    present = next(value for value in column if value is not None)
    return [present if gone else value for gone, value in zip(missing.tolist(), column, strict=True)]


def _joined(pieces: Sequence[Piece], records: int) -> list[bytes]:
    """One body per record of its pieces in order."""
    parts = [_run(run, records) for run in _runs(pieces)]
    if len(parts) == 1:
        return parts[0]
    return list(map(b"".join, zip(*parts, strict=True)))


def _runs(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Neighbours that have the same width in all records together, all others alone."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        alone = isinstance(piece, list)
        if alone or not runs or isinstance(runs[-1][0], list):
            runs.append([piece])
        else:
            runs[-1].append(piece)
    return runs


def _run(run: Sequence[Piece], records: int) -> list[bytes]:
    if len(run) == 1 and isinstance(run[0], list):
        return run[0]
    if all(isinstance(piece, bytes) for piece in run):
        return [b"".join(piece for piece in run if isinstance(piece, bytes))] * records
    width = sum(len(piece) if isinstance(piece, bytes) else piece.shape[1] for piece in _fixed(run))
    rows = np.empty((records, width), dtype=np.uint8)
    at = 0
    for piece in _fixed(run):
        row = np.frombuffer(piece, dtype=np.uint8) if isinstance(piece, bytes) else piece
        rows[:, at : at + row.shape[-1]] = row
        at += row.shape[-1]
    return _cut(rows.ravel(), np.full(records, width))


def _fixed(run: Sequence[Piece]) -> list[bytes | Bytes]:
    return [piece for piece in run if not isinstance(piece, list)]


def _row(encoded: Bytes | list[bytes]) -> bytes:
    return encoded[0] if isinstance(encoded, list) else encoded.tobytes()


def _cut(flat: Bytes, widths: NDArray[np.int64]) -> list[bytes]:
    """Rows of these widths, which lie end to end in `flat`."""
    memory = flat.tobytes()
    ends = np.cumsum(widths).tolist()
    return [memory[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def frame_head(schema_id: int) -> bytes:
    """The five bytes before a body: 0x00 and the schema's id, big-endian (efd-facts §1.2)."""
    return struct.pack(">bI", 0, schema_id)
