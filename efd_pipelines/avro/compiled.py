"""Compiled: the fast decoder, a compiled kernel that interprets a plan of the schema.

It covers scalars, nullable scalars and arrays of scalars, nullable or not, which is everything that SAL writes, and
takes bodies that are exactly a message in the spelling that Avro's libraries write: arrays of one block. All others it
refuses. What belongs here: schemas → plans, and the kernel's memory → Arrow arrays. Bytes: `kernel.py`.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.avro.attempts import Attempt
from efd_pipelines.avro.bodies import Bodies
from efd_pipelines.avro.columns import widened
from efd_pipelines.avro.grammar import bare
from efd_pipelines.topics.layout import Column, Layout
from efd_pipelines.topics.schemas import TopicSchema

# Lists and texts have offsets of 32 bits.
CHUNK_BYTES = 512 * 1024 * 1024

REASON = "not a message in the usual spelling"

_KINDS = ("boolean", "int", "long", "float", "double", "string", "bytes")
_ARROW = (pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary())
_SIZES = (1, 4, 8, 4, 8, 0, 0)
_BOOLEAN = _KINDS.index("boolean")
_LINE_BYTES = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _WireField:
    """A field as it is written: `kind` counts in `_KINDS`, `null` is the union's branch that is null, or -1."""

    name: str
    kind: int
    is_array: bool
    null: int


class Compiled:
    """Decodes with the kernel."""

    def covers(self, schema: TopicSchema) -> bool:
        return _wire_fields(schema.text) is not None

    def attempt(self, bodies: Sequence[bytes], schema: TopicSchema, layout: Layout) -> Attempt:
        fields = _wire_fields(schema.text)
        assert fields is not None
        lying = bodies if isinstance(bodies, Bodies) else Bodies(bodies)
        plan = _Plan.of(fields, layout)
        schema_of_rows = layout.arrow_schema()
        tables, good = [], []
        lengths: dict[str, int] = {}
        for first, end in _chunks(lying.sizes):
            rows = _Rows(plan, lying if end - first == len(lying) else lying[first:end])
            tables.append(pa.Table.from_arrays(rows.arrays(layout), schema=schema_of_rows))
            good.append(rows.good + first)
            for name, length in rows.lengths(layout).items():
                lengths[name] = max(length, lengths.get(name, 0))
        if not tables:
            return Attempt(schema_of_rows.empty_table(), np.empty(0, np.int64), {}, {})
        indices = np.concatenate(good)
        is_refused = np.ones(len(lying), np.bool_)
        is_refused[indices] = False
        refused = dict.fromkeys(np.flatnonzero(is_refused).tolist(), REASON)
        return Attempt(pa.concat_tables(tables), indices, refused, lengths)


@functools.lru_cache(maxsize=4096)
def _wire_fields(text: str) -> tuple[_WireField, ...] | None:
    """The fields of a schema; None where one is neither a scalar nor an array of scalars."""
    fields = [_wire_field(str(declared["name"]), declared["type"]) for declared in bare(json.loads(text))["fields"]]
    return tuple(field for field in fields if field) if fields and all(fields) else None


def _wire_field(name: str, declared: Any) -> _WireField | None:
    null = -1
    if isinstance(declared, list):
        if len(declared) != 2 or declared.count("null") != 1:
            return None
        null = declared.index("null")
        declared = declared[1 - null]
    is_array = isinstance(declared, dict) and declared.get("type") == "array"
    if is_array:
        declared = declared["items"]
    if not isinstance(declared, str) or declared not in _KINDS:
        return None
    return _WireField(name, _KINDS.index(declared), is_array, null)


@dataclass(frozen=True, slots=True)
class _Output:
    """Where one field's values go.

    Args:
        columns: places in the layout with their columns; `element` None takes the whole.
        width: how many columns the kernel fills.
        first: the first of them among those of the same size; of texts among the texts.
        validity: the column of marks that says whether there is a value; -1 where there always is.
        array: the row of counts and places; -1 of a scalar.
        scratch: how many bytes of scratch lie before its own.
    """

    field: _WireField
    columns: tuple[tuple[int, Column], ...]
    width: int
    first: int
    validity: int
    array: int
    scratch: int

    @property
    def size(self) -> int:
        return _SIZES[self.field.kind]

    @property
    def is_list(self) -> bool:
        return self.field.is_array and self.width == 0 and bool(self.columns)


@dataclass(slots=True)
class _Totals:
    """How many columns there are of each size (0: texts), how many arrays, and bytes of scratch for a row."""

    columns: dict[int, int] = field(default_factory=lambda: dict.fromkeys((0, 1, 4, 8), 0))
    arrays: int = 0
    scratch: int = 0


@dataclass(frozen=True, slots=True)
class _Plan:
    """A schema's fields with their places in a layout."""

    outputs: tuple[_Output, ...]
    totals: _Totals

    @classmethod
    def of(cls, fields: Sequence[_WireField], layout: Layout) -> _Plan:
        columns: dict[str, list[tuple[int, Column]]] = {}
        for place, column in enumerate(layout.columns):
            columns.setdefault(column.field, []).append((place, column))
        totals = _Totals()
        outputs = tuple(_output(field, tuple(columns.get(field.name, ())), totals) for field in fields)
        return cls(outputs, totals)


def _output(wire: _WireField, columns: tuple[tuple[int, Column], ...], totals: _Totals) -> _Output:
    size = _SIZES[wire.kind]
    width = 1 if columns else 0
    validity = array = -1
    scratch = totals.scratch
    if wire.is_array:
        width = max((column.element + 1 for _, column in columns if column.element is not None), default=0)
        array, totals.arrays = totals.arrays, totals.arrays + 1
        totals.scratch += width * 8
    elif wire.null >= 0 and columns:
        validity, totals.columns[1] = totals.columns[1], totals.columns[1] + 1
    first, totals.columns[size] = totals.columns[size], totals.columns[size] + width
    return _Output(wire, columns, width, first, validity, array, scratch)


class _Memory:
    """What the kernel writes to: columns with room for a row of each body."""

    def __init__(self, totals: _Totals, bodies: int, tile_rows: int) -> None:
        self.stride = {size: _stride(bodies, size) for size in (1, 4, 8)}
        self.begin = {8: 0, 4: totals.columns[8] * self.stride[8] * 8}
        size_bytes = self.begin[4] + totals.columns[4] * self.stride[4] * 4
        self.numbers = pa.allocate_buffer(size_bytes)
        self.marks = np.empty((totals.columns[1], self.stride[1]), np.uint8)
        self.counts = np.empty((totals.arrays, bodies), np.int32)
        self.places = np.empty((totals.arrays, bodies), np.int64)
        self.text_places = np.empty((totals.columns[0], bodies), np.int64)
        self.text_sizes = np.empty((totals.columns[0], bodies), np.int32)
        self.scratch = np.empty(tile_rows * totals.scratch, np.uint8)
        self.good = np.empty(bodies, np.int64)

    def plan(self, outputs: Sequence[_Output], kernel: ModuleType) -> NDArray[np.int64]:
        """The outputs as the kernel reads them."""
        plan = np.zeros((len(outputs), kernel.PLAN_COLUMNS), np.int64)
        for row, output in zip(plan, outputs, strict=True):
            row[kernel.KIND] = output.field.kind
            row[kernel.IS_ARRAY] = output.field.is_array
            row[kernel.NULL] = output.field.null
            row[kernel.WIDTH] = output.width
            if output.size:
                row[kernel.TARGET] = self.address(output.size, output.first)
                row[kernel.STEP] = self.stride[output.size] * output.size
            elif output.width:
                row[kernel.TEXT_PLACES] = _address(self.text_places, output.first)
                row[kernel.TEXT_SIZES] = _address(self.text_sizes, output.first)
                row[kernel.STEP] = len(self.good)
            if output.validity >= 0:
                row[kernel.VALIDITY] = self.address(1, output.validity)
            if output.array >= 0:
                row[kernel.COUNTS] = _address(self.counts, output.array)
                row[kernel.PLACES] = _address(self.places, output.array)
                row[kernel.SCRATCH] = self.scratch.ctypes.data + kernel.TILE_ROWS * output.scratch
        return plan

    def address(self, size: int, column: int) -> int:
        if size == 1:
            return _address(self.marks, column)
        return int(self.numbers.address) + self.begin[size] + column * self.stride[size] * size


class _Rows:
    """Rows of some bodies."""

    def __init__(self, plan: _Plan, bodies: Bodies) -> None:
        self.plan = plan
        self.kernel = _kernel()
        self.memory = _Memory(plan.totals, len(bodies), self.kernel.TILE_ROWS)
        numbers = self.memory.plan(plan.outputs, self.kernel)
        # Texts are read where they lie until they are joined.
        addresses, self.held = bodies.addresses()
        self.rows: int = self.kernel.decode_rows(
            numbers.ctypes.data,
            len(numbers),
            addresses.ctypes.data,
            bodies.sizes.ctypes.data,
            len(bodies),
            self.memory.good.ctypes.data,
        )
        self.good = self.memory.good[: self.rows]

    def lengths(self, layout: Layout) -> dict[str, int]:
        """Of arrays that have more items than columns, the most."""
        if layout.arrays == "list":
            return {}
        longest = self.memory.counts[:, : self.rows].max(axis=1, initial=0).tolist()
        arrays = [output for output in self.plan.outputs if output.array >= 0]
        return {output.field.name: longest[output.array] for output in arrays if longest[output.array] > output.width}

    def arrays(self, layout: Layout) -> list[pa.Array]:
        """The layout's columns."""
        arrays: list[pa.Array | None] = [None] * len(layout.columns)
        cutting = _Cutting(self.memory, self.rows)
        for output in self.plan.outputs:
            if not output.columns:
                continue
            if output.is_list:
                values = [self._list(output)]
            elif output.field.is_array:
                values = self._elements(output, cutting)
            else:
                validity = cutting.marks(output.validity) if output.validity >= 0 else None
                values = [self._column(output, 0, validity, cutting)]
            for place, column in output.columns:
                arrays[place] = widened(values[column.element or 0], column.type)
        return [
            pa.nulls(self.rows, column.type) if array is None else array
            for array, column in zip(arrays, layout.columns, strict=True)
        ]

    def _elements(self, output: _Output, cutting: _Cutting) -> list[pa.Array]:
        """Element by element, null where an array is shorter."""
        elements = range(output.width)
        counts = self.memory.counts[output.array, : self.rows]
        if counts.min(initial=output.width) >= output.width:
            return [self._column(output, element, None, cutting) for element in elements]
        is_there = np.zeros((output.width, self.memory.stride[1]), np.bool_)
        is_there[:, : self.rows] = counts > np.arange(output.width)[:, None]
        packed = _Packed(is_there, self.rows)
        return [self._column(output, element, packed.row(element), cutting) for element in elements]

    def _column(self, output: _Output, element: int, validity: pa.Buffer | None, cutting: _Cutting) -> pa.Array:
        kind, column = output.field.kind, output.first + element
        if output.size:
            return cutting.column(kind, column, validity)
        places, sizes = self.memory.text_places[column], self.memory.text_sizes[column]
        return self._texts(kind, places[: self.rows], sizes[: self.rows], validity)

    def _texts(
        self, kind: int, places: NDArray[np.int64], sizes: NDArray[np.int32], validity: pa.Buffer | None
    ) -> pa.Array:
        offsets = np.empty(len(places) + 1, np.int32)
        data = np.empty(int(sizes.sum(dtype=np.int64)), np.uint8)
        self.kernel.copy_texts(
            places.ctypes.data, sizes.ctypes.data, len(places), offsets.ctypes.data, data.ctypes.data
        )
        return pa.Array.from_buffers(_ARROW[kind], len(places), [validity, pa.py_buffer(offsets), pa.py_buffer(data)])

    def _list(self, output: _Output) -> pa.Array:
        kind = output.field.kind
        counts, places = self.memory.counts[output.array], self.memory.places[output.array]
        ends = np.cumsum(np.maximum(counts[: self.rows], 0), dtype=np.int64)
        total = int(ends[-1]) if self.rows else 0
        items = np.empty(total, f"u{output.size or 8}")
        text_sizes = np.empty(0 if output.size else total, np.int32)
        self.kernel.copy_items(
            kind, counts.ctypes.data, places.ctypes.data, self.rows, items.ctypes.data, text_sizes.ctypes.data
        )
        if not output.size:
            values = self._texts(kind, items.view(np.int64), text_sizes, None)
        elif kind == _BOOLEAN:
            values = pa.array(items.view(np.bool_))
        else:
            values = pa.Array.from_buffers(_ARROW[kind], total, [None, pa.py_buffer(items)])
        offsets = np.concatenate([np.zeros(1, np.int32), ends.astype(np.int32)])
        is_null = counts[: self.rows] < 0
        mask = pa.array(is_null) if is_null.any() else None
        return pa.ListArray.from_arrays(pa.array(offsets), values, mask=mask)


class _Packed:
    """Marks of one byte as bits; each row of them begins at a byte."""

    def __init__(self, marks: NDArray[Any], rows: int) -> None:
        self._stride = marks.shape[1]
        self._size = -(-rows // 8)
        self.buffer = pa.py_buffer(np.packbits(marks.reshape(-1), bitorder="little"))

    def row(self, number: int) -> pa.Buffer:
        return self.buffer.slice(number * self._stride // 8, self._size)


class _Cutting:
    """Columns as pieces of the memory. Cutting pieces from one long array costs a third of making arrays."""

    def __init__(self, memory: _Memory, rows: int) -> None:
        self._memory = memory
        self._rows = rows
        self._packed = _Packed(memory.marks, rows)
        self._long: dict[int, pa.Array] = {}

    def marks(self, column: int) -> pa.Buffer:
        return self._packed.row(column)

    def column(self, kind: int, column: int, validity: pa.Buffer | None) -> pa.Array:
        size = _SIZES[kind]
        if validity is None:
            begin = self._memory.begin.get(size, 0) // size + column * self._memory.stride[size]
            return self._whole(kind).slice(begin, self._rows)
        if kind == _BOOLEAN:
            data = self._packed.row(column)
        else:
            begin = self._memory.begin[size] + column * self._memory.stride[size] * size
            data = self._memory.numbers.slice(begin, self._rows * size)
        return pa.Array.from_buffers(_ARROW[kind], self._rows, [validity, data])

    def _whole(self, kind: int) -> pa.Array:
        if kind not in self._long:
            buffer = self._packed.buffer if kind == _BOOLEAN else self._memory.numbers
            items = buffer.size * 8 if kind == _BOOLEAN else buffer.size // _SIZES[kind]
            self._long[kind] = pa.Array.from_buffers(_ARROW[kind], items, [None, buffer])
        return self._long[kind]


def _address(rows: NDArray[Any], row: int) -> int:
    return int(rows.ctypes.data) + row * rows.strides[0]


def _stride(rows: int, size: int) -> int:
    """Items from one column to the next: an odd number of cache lines, or columns would share the cache's sets."""
    lines = -(-rows * size // _LINE_BYTES) | 1
    return lines * _LINE_BYTES // size


def _chunks(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First and end of runs of bodies that are at most `CHUNK_BYTES` together, or one."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + CHUNK_BYTES, side="right")))
        yield first, end
        first = end


@functools.cache
def _kernel() -> ModuleType:
    """The kernel; its import takes a second, and compiling it some more where that has not been kept."""
    from efd_pipelines.avro import kernel

    return kernel
