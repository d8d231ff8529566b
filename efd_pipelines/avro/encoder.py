"""The encoder: rows of a dataset → the frames that they were made of, by the schema that they were written with.

What the decoder did is undone: elements become arrays again, widened numbers narrow, columns of a retyped field the
field. What comes out is what fastavro and salobj write: arrays in one block; a NaN keeps its
bits. What rows cannot tell apart is written in one way: of a flattened array that may be null, no elements is null.
A column that has no value where the schema needs one (InfluxDB dropped a NaN) is written as NaN, 0, false or "".

The compiled kernel takes scalars and arrays of scalars, nullable or not; schemas of nested types go through fastavro,
from the JSON text that the archive keeps of them, and rows of JSON topics become JSON again. Decoding: `decoder.py`.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.avro.frames import frame
from efd_pipelines.avro.nested import NestedTypes
from efd_pipelines.avro.plans import BOOLEAN, WireField, wire_fields
from efd_pipelines.errors import SchemaError
from efd_pipelines.topics.layout import Arrays, Column, plan_layout, wider
from efd_pipelines.topics.schemas import Field, TopicSchema

_INT, _LONG, _FLOAT, _DOUBLE, _STRING = range(1, 6)
_ZERO: Mapping[str, Any] = {
    "boolean": False,
    "int": 0,
    "long": 0,
    "float": float("nan"),
    "double": float("nan"),
    "string": "",
    "bytes": b"",
    "json": "null",
}


@dataclass(frozen=True, slots=True, eq=False)
class RowEncoder:
    """Encodes rows of a table that were written with one schema.

    Args:
        held: the message's columns of the table, arrays as it has decided.
        is_whole: whether missing elements of arrays are written up to the declared length: rows of a history, which
            dropped what was NaN.
    """

    schema: TopicSchema
    columns: Mapping[str, Sequence[Column]]
    is_whole: bool = False

    @classmethod
    def of(
        cls, schema: TopicSchema, held: Sequence[Column], arrays: Arrays | None, *, is_whole: bool = False
    ) -> RowEncoder:
        """The encoder of a schema for a table with these columns."""
        layout = plan_layout(schema, arrays=arrays, held=held, lengths=_lengths(schema, held))
        there = {column.name for column in held}
        found: dict[str, list[Column]] = {one.name: [] for one in schema.fields}
        for column in layout.columns:
            if column.name in there:
                found[column.field].append(column)
        return cls(schema, found, is_whole)

    def names(self) -> list[str]:
        """The columns that rows must have."""
        return [column.name for columns in self.columns.values() for column in columns]

    def frames(self, rows: pa.Table, schema_id: int) -> list[bytes]:
        """A frame for each row.

        Raises:
            SchemaError: the schema cannot be compiled, or does not take a value.
        """
        if not rows.num_rows:
            return []
        fields = wire_fields(self.schema.text)
        if fields is None:
            return [frame(schema_id, body) for body in self._written_one_by_one(rows)]
        return self._written(rows, fields, frame(schema_id, b""))

    def _written(self, rows: pa.Table, fields: Sequence[WireField], head: bytes) -> list[bytes]:
        banks = _Banks(rows.num_rows)
        declared = {one.name: one for one in self.schema.fields}
        plan = np.array([self._planned(banks, rows, wire, declared[wire.name]) for wire in fields], np.int64)
        kernel = _kernel()
        counts, starts = banks.matrix(banks.counts), banks.matrix(banks.starts)
        floats, numbers = banks.joined(banks.floats, np.uint8), banks.joined(banks.numbers, np.int64)
        texts, ends = banks.texts()
        out = np.empty(banks.most_bytes(len(head), fields), np.uint8)
        bounds = np.zeros(rows.num_rows + 1, np.int64)
        kernel.write_rows(
            plan.reshape(len(fields), kernel.PLAN_COLUMNS),
            counts,
            starts,
            floats,
            numbers,
            texts,
            ends,
            np.frombuffer(head, np.uint8),
            out,
            bounds,
        )
        memory, places = out[: bounds[-1]].tobytes(), bounds.tolist()
        return [memory[begin:end] for begin, end in itertools.pairwise(places)]

    def _planned(self, banks: _Banks, rows: pa.Table, wire: WireField, declared: Field) -> list[int]:
        """The numbers of a field's plan; its values go into the banks."""
        columns = self.columns[wire.name]
        first = stride = step = 0
        counts = starts = -1
        if wire.is_array and len(columns) == 1 and columns[0].element is None:
            counts, starts = banks.take_list(wire, _one(rows, columns[0]))
            step = 1
        elif wire.is_array:
            arrays = [_one(rows, column) for column in columns]
            counts = banks.take_counts(wire, arrays, (declared.length or 0) if self.is_whole else 0)
            first, stride, step = banks.take_elements(wire, arrays)
        else:
            # A column that the table lacks had no value in any row of this schema.
            values = _one(rows, columns[0]) if columns else pa.nulls(rows.num_rows, _ARROW[wire.kind])
            if wire.null >= 0:
                counts = banks.take_presence(values)
            first, stride = banks.take(wire, values)
        return [wire.kind, int(wire.is_array), wire.null, first, stride, step, counts, starts]

    def _written_one_by_one(self, rows: pa.Table) -> list[bytes]:
        document = _parsed(self.schema.text)
        fields = json.loads(self.schema.text)["fields"]
        types = NestedTypes.of(fields)
        bodies = []
        for message in messages(rows, self.schema, self.columns):
            record = {one["name"]: types.nested(one["type"], message[one["name"]]) for one in fields}
            out = io.BytesIO()
            try:
                fastavro.schemaless_writer(out, document, record)
            except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
                raise SchemaError(f"A row does not fit the schema of {self.schema.name} ({error!r})") from error
            bodies.append(out.getvalue())
        return bodies


_ARROW = (pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary())


def json_values(rows: pa.Table, held: Sequence[Column]) -> list[bytes]:
    """Rows of a JSON topic as JSON objects again; a field without a value is left out."""
    fields: dict[str, list[Column]] = {}
    for column in held:
        if column.name in rows.column_names:
            fields.setdefault(column.field, []).append(column)
    columns = {column.name: rows[column.name].to_pylist() for named in fields.values() for column in named}
    found = []
    for row in range(rows.num_rows):
        record = {}
        for name, named in fields.items():
            present = [(column, columns[column.name][row]) for column in named]
            present = [(column, value) for column, value in present if value is not None]
            if present and present[0][0].element is not None:
                record[name] = [value for _, value in sorted(present, key=lambda one: one[0].element or 0)]
            elif present:
                record[name] = _json_value(present[0][1])
        found.append(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode())
    return found


def _json_value(value: Any) -> Any:
    """The archive keeps nested values as their text; a text that was sent as text stays one."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def messages(rows: pa.Table, schema: TopicSchema, columns: Mapping[str, Sequence[Column]]) -> list[dict[str, Any]]:
    """Rows as messages: what was flattened is an array up to its last element that has a value."""
    lists = {one.name: rows[one.name].to_pylist() for named in columns.values() for one in named}
    found: list[dict[str, Any]] = []
    for row in range(rows.num_rows):
        found.append({one.name: _message_value(one, columns[one.name], lists, row) for one in schema.fields})
    return found


def _message_value(one: Field, columns: Sequence[Column], lists: Mapping[str, list[Any]], row: int) -> Any:
    if one.array and not (len(columns) == 1 and columns[0].element is None):
        items = [lists[column.name][row] for column in sorted(columns, key=lambda column: column.element or 0)]
        while items and items[-1] is None:
            items.pop()
        if not items and one.nullable:
            return None
        return [_ZERO[one.type] if item is None else item for item in items]
    value = lists[columns[0].name][row] if columns else None
    if value is None and not one.nullable:
        return [] if one.array else _ZERO[one.type]
    return value


def _lengths(schema: TopicSchema, held: Sequence[Column]) -> dict[str, int]:
    """How many elements the table has of the schema's arrays."""
    found: dict[str, int] = {}
    kinds = {one.name: _ARROW_OF[one.type] for one in schema.fields if one.array}
    for column in held:
        kind = kinds.get(column.field)
        if kind is not None and column.element is not None and wider(column.type, kind) is not None:
            found[column.field] = max(found.get(column.field, 0), column.element + 1)
    return found


_ARROW_OF: Mapping[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "json": pa.string(),
}


def _one(rows: pa.Table, column: Column) -> pa.Array:
    values = rows[column.name].combine_chunks()
    return values if isinstance(values, pa.Array) else values.chunk(0)


@dataclass(slots=True)
class _Banks:
    """The values of all fields; each `take` says where they begin, and how far it is from one to the next."""

    rows: int
    floats: list[NDArray[np.uint8]] = field(default_factory=list)
    numbers: list[NDArray[Any]] = field(default_factory=list)
    counts: list[NDArray[np.int64]] = field(default_factory=list)
    starts: list[NDArray[np.int64]] = field(default_factory=list)
    _texts: list[NDArray[np.uint8]] = field(default_factory=list)
    _sizes: list[NDArray[np.int64]] = field(default_factory=list)

    def take(self, wire: WireField, values: pa.Array) -> tuple[int, int]:
        """Puts values into the bank of their kind."""
        if wire.kind >= _STRING:
            begin = sum(map(len, self._sizes))
            self._take_texts(values)
            return begin, 1
        return self._take_numbers(wire, _bits(values, wire.kind))

    def take_elements(self, wire: WireField, arrays: Sequence[pa.Array]) -> tuple[int, int, int]:
        """Puts the elements of a flattened array into the bank of their kind: floats row by row, others one after the
        other; also how far it is from one element to the next."""
        if wire.kind in (_FLOAT, _DOUBLE):
            across = np.empty((self.rows, len(arrays)), np.float32 if wire.kind == _FLOAT else np.float64)
            for element, values in enumerate(arrays):
                across[:, element] = _bits(values, wire.kind)
            begin, stride = self._take_numbers(wire, across.reshape(-1))
            return begin, stride * len(arrays), stride
        begin = self.take(wire, arrays[0])[0] if arrays else 0
        for values in arrays[1:]:
            self.take(wire, values)
        return begin, 1, self.rows

    def _take_numbers(self, wire: WireField, values: NDArray[Any]) -> tuple[int, int]:
        if wire.kind in (_FLOAT, _DOUBLE):
            begin = sum(map(len, self.floats))
            self.floats.append(values.view(np.uint8))
            return begin, values.itemsize
        begin = sum(map(len, self.numbers))
        self.numbers.append(values)
        return begin, 1

    def take_counts(self, wire: WireField, arrays: Sequence[pa.Array], least: int) -> int:
        """How many elements each row has: up to its last that has a value, and at least so many; −1 where null."""
        counts = np.full(self.rows, min(least, len(arrays)), np.int64)
        for element in range(len(arrays) - 1, -1, -1):
            values = arrays[element]
            if values.null_count == 0:
                np.maximum(counts, element + 1, out=counts)
                break
            if values.null_count < len(values):
                there = values.is_valid().to_numpy(zero_copy_only=False)
                np.maximum(counts, np.where(there, element + 1, 0), out=counts)
        if wire.null >= 0:
            counts[counts == 0] = -1
        self.counts.append(counts)
        return len(self.counts) - 1

    def take_presence(self, values: pa.Array) -> int:
        there = values.is_valid().to_numpy(zero_copy_only=False)
        self.counts.append(np.where(there, 1, -1).astype(np.int64))
        return len(self.counts) - 1

    def take_list(self, wire: WireField, values: pa.Array) -> tuple[int, int]:
        """Puts the items of lists into the bank; the rows of counts and of places."""
        offsets = values.offsets.to_numpy().astype(np.int64)
        counts, starts = np.diff(offsets), offsets[:-1] - offsets[0]
        is_null = values.is_null().to_numpy(zero_copy_only=False)
        counts = np.where(is_null, -1 if wire.null >= 0 else 0, counts)
        items = values.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
        begin, stride = self.take(wire, items)
        self.counts.append(counts)
        self.starts.append(starts * stride + begin)
        return len(self.counts) - 1, len(self.starts) - 1

    def matrix(self, given: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.stack(given) if given else np.empty((0, self.rows), np.int64)

    def joined(self, bank: Sequence[NDArray[Any]], kind: Any) -> NDArray[Any]:
        return np.concatenate(bank) if bank else np.empty(0, kind)

    def texts(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of all texts, and where each ends."""
        sizes = np.concatenate([np.zeros(1, np.int64), *self._sizes])
        return np.concatenate([np.empty(0, np.uint8), *self._texts]), np.cumsum(sizes)

    def most_bytes(self, head: int, fields: Sequence[WireField]) -> int:
        """An upper bound of what is written."""
        longest = int(_kernel().LONGEST_NUMBER)
        values = sum(map(len, self.floats)) + longest * sum(map(len, self.numbers))
        values += sum(map(len, self._texts)) + longest * sum(map(len, self._sizes))
        # Of each field a union's branch, an array's count, and its end.
        return values + self.rows * (head + len(fields) * (2 + longest))

    def _take_texts(self, values: pa.Array) -> None:
        if values.null_count:
            values = values.fill_null("" if pa.types.is_string(values.type) else b"")
        _, offsets, data = values.buffers()
        if not len(values) or offsets is None:
            self._sizes.append(np.zeros(len(values), np.int64))
            return
        ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
        memory = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
        self._texts.append(memory[int(ends[0]) : int(ends[-1])])
        self._sizes.append(np.diff(ends).astype(np.int64))


def _bits(values: pa.Array, kind: int) -> NDArray[Any]:
    """Values as their kind has them; what is null is NaN or 0."""
    if kind == _FLOAT:
        return np.asarray(_filled(values, np.nan), np.float32)
    if kind == _DOUBLE:
        return np.asarray(_filled(values, np.nan), np.float64)
    if kind == BOOLEAN:
        return np.asarray(_filled(values, False)).astype(np.int64)
    return np.asarray(_filled(values, 0)).astype(np.int64)


def _filled(values: pa.Array, with_: Any) -> NDArray[Any]:
    if values.null_count:
        values = pc.fill_null(values, pa.scalar(with_, values.type))
    found: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(found)


@functools.lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    try:
        return fastavro.parse_schema(json.loads(text))
    except (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType, ValueError, KeyError, TypeError) as why:
        raise SchemaError(f"The schema cannot be compiled ({why!r})") from why


@functools.cache
def _kernel() -> ModuleType:
    """The kernel; its import takes a second."""
    from efd_pipelines.avro import writing_kernel

    return writing_kernel
