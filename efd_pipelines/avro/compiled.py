"""Compiled: the fast decoder, a compiled kernel that interprets a plan of the schema.

It covers scalars, nullable scalars and arrays of scalars, nullable or not, which is everything that SAL writes, and
takes bodies that are exactly a message in the spelling that Avro's libraries write: arrays of one block. All others it
refuses. What belongs here: memory for the kernel, and the memory → Arrow arrays. Schemas → plans: `plans.py`. Bytes:
`kernel.py`.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.arrays import array_of, no_rows
from efd_pipelines.avro.attempts import Attempt, most_items
from efd_pipelines.avro.bodies import Bodies, Located
from efd_pipelines.avro.columns import widened
from efd_pipelines.avro.plans import ARROW, BOOLEAN, SIZES, Output, Plan, Totals, plan_of, wire_fields
from efd_pipelines.compiled import make_ready
from efd_pipelines.memory import large_buffer
from efd_pipelines.topics.layout import Layout
from efd_pipelines.topics.schemas import TopicSchema

# What is decoded at once, of bodies and of columns. Arrow counts the bytes of texts and the items of lists in 32 bits.
CHUNK_BYTES = 512 * 1024 * 1024

REASON = "not a message in the usual spelling"
_LINE_BYTES = 64
_NONE: NDArray[np.int64] = np.empty(0, np.int64)


class Compiled:
    """Decodes with the kernel.

    Args:
        worth_bytes: how many bytes of bodies it refuses before it loads the kernel, which takes a second, and several
            where compiled code is not kept: a short process that decodes a few messages is done sooner without.
    """

    def __init__(self, worth_bytes: int = 0) -> None:
        self._left_bytes = worth_bytes

    def covers(self, schema: TopicSchema) -> bool:
        return wire_fields(schema.text) is not None

    def attempt(self, bodies: Sequence[bytes], schema: TopicSchema, layout: Layout) -> Attempt:
        plan = plan_of(schema.text, layout)
        assert plan is not None
        if self._left_bytes > 0:
            self._left_bytes -= bodies.size_bytes if isinstance(bodies, Bodies) else sum(map(len, bodies))
            if self._left_bytes > 0:
                return Attempt(no_rows(plan.schema), _NONE, _refused(_NONE, len(bodies)), {})
        located = (bodies if isinstance(bodies, Bodies) else Bodies.of(bodies)).located()
        parts = [_Rows(plan, located, first, end) for first, end in _chunks(located.sizes, plan.totals.row_bytes)]
        tables = [part.table() for part in parts if part.rows]
        good = np.concatenate([part.good for part in parts]) if parts else _NONE
        return Attempt(
            table=tables[0] if len(tables) == 1 else pa.concat_tables(tables or [no_rows(plan.schema)]),
            good=good,
            refused=_refused(good, len(bodies)),
            lengths=_longest([part.lengths() for part in parts]),
        )


def _refused(good: NDArray[np.int64], bodies: int) -> dict[int, str]:
    if len(good) == bodies:
        return {}
    is_refused = np.ones(bodies, np.bool_)
    is_refused[good] = False
    return dict.fromkeys(np.flatnonzero(is_refused).tolist(), REASON)


def _longest(found: Sequence[dict[str, int]]) -> dict[str, int]:
    names = {name for lengths in found for name in lengths}
    return {name: max(lengths.get(name, 0) for lengths in found) for name in names}


class _Memory:
    """What the kernel writes to: columns with room for a row of each body."""

    def __init__(self, totals: Totals, bodies: int) -> None:
        self.stride = {size: _stride(bodies, size) for size in (1, 4, 8)}
        self.begin = {8: 0, 4: totals.columns[8] * self.stride[8] * 8}
        self.numbers = large_buffer(self.begin[4] + totals.columns[4] * self.stride[4] * 4)
        self.marks = np.empty((totals.columns[1], self.stride[1]), np.uint8)
        self.counts = np.empty((totals.arrays, bodies), np.int32)
        self.places = np.empty((totals.arrays, bodies), np.int64)
        self.text_places = np.empty((totals.columns[0], bodies), np.int64)
        self.text_sizes = np.empty((totals.columns[0], bodies), np.int32)
        self.good = np.empty(bodies, np.int64)

    def plan(self, plan: Plan, kernel: ModuleType) -> NDArray[np.int64]:
        """The plan's outputs as the kernel reads them."""
        numbers = np.zeros((len(plan.outputs), kernel.PLAN_COLUMNS), np.int64)
        for row, output in zip(numbers, plan.outputs, strict=True):
            size = output.field.size
            row[kernel.KIND] = output.field.kind
            row[kernel.IS_ARRAY] = output.field.is_array
            row[kernel.NULL] = output.field.null
            row[kernel.WIDTH] = output.width
            row[kernel.MOST] = most_items(plan.layout, output.width)
            if size:
                row[kernel.TARGET] = self.address(size, output.first)
                row[kernel.STEP] = self.stride[size] * size
            else:
                row[kernel.TARGET] = _address(self.text_places, output.first)
                row[kernel.SIZES] = _address(self.text_sizes, output.first)
                row[kernel.STEP] = self.text_places.strides[0]
            if output.validity >= 0:
                row[kernel.VALIDITY] = self.address(1, output.validity)
            if output.array >= 0:
                row[kernel.COUNTS] = _address(self.counts, output.array)
                row[kernel.PLACES] = _address(self.places, output.array)
        return numbers

    def address(self, size: int, column: int) -> int:
        if size == 1:
            return _address(self.marks, column)
        return int(self.numbers.address) + self.begin[size] + column * self.stride[size] * size


class _Rows:
    """Rows of the bodies from `first` to before `end`; `good` are their bodies."""

    def __init__(self, plan: Plan, located: Located, first: int, end: int) -> None:
        self.plan = plan
        # Texts are read where they lie until they are joined.
        self.held = located
        self.memory = _Memory(plan.totals, end - first)
        self.kernel = _kernel()
        numbers = self.memory.plan(plan, self.kernel)
        self.rows: int = self.kernel.decode_rows(
            numbers.ctypes.data,
            len(numbers),
            located.addresses[first:].ctypes.data,
            located.sizes[first:].ctypes.data,
            end - first,
            self.memory.good.ctypes.data,
        )
        self.good = self.memory.good[: self.rows] + first

    def lengths(self) -> dict[str, int]:
        """Of arrays that have more items than columns, the most."""
        if self.plan.layout.arrays == "list":
            return {}
        longest = self.memory.counts[:, : self.rows].max(axis=1, initial=0).tolist()
        arrays = [output for output in self.plan.outputs if output.array >= 0]
        return {output.field.name: longest[output.array] for output in arrays if longest[output.array] > output.width}

    def table(self) -> pa.Table:
        """The layout's columns."""
        arrays: list[pa.Array | None] = [None] * len(self.plan.layout.columns)
        cutting = _Cutting(self.memory, self.rows)
        for output in self.plan.outputs:
            values = self._values(output, cutting) if output.columns else []
            if output.is_widened:
                for place, column in output.columns:
                    arrays[place] = widened(values[column.element or 0], column.type)
            else:
                for place, column in output.columns:
                    arrays[place] = values[column.element or 0]
        for place, column in self.plan.missing:
            arrays[place] = pa.nulls(self.rows, column.type)
        return pa.Table.from_arrays(arrays, schema=self.plan.schema)

    def _values(self, output: Output, cutting: _Cutting) -> list[pa.Array]:
        """A field's columns."""
        if output.is_list:
            return [self._list(output)]
        if output.field.is_array:
            return self._elements(output, cutting)
        validity = cutting.marks(output.validity) if output.validity >= 0 else None
        return [self._column(output, 0, validity, cutting)]

    def _elements(self, output: Output, cutting: _Cutting) -> list[pa.Array]:
        """Element by element, null where an array is shorter."""
        elements = range(output.width)
        counts = self.memory.counts[output.array, : self.rows]
        if counts.min(initial=output.width) >= output.width:
            if output.field.size:
                return cutting.columns(output.field.kind, output.first, output.width)
            return [self._column(output, element, None, cutting) for element in elements]
        is_there = np.zeros((output.width, self.memory.stride[1]), np.bool_)
        is_there[:, : self.rows] = counts > np.arange(output.width)[:, None]
        packed = _Packed(is_there, self.rows)
        return [self._column(output, element, packed.row(element), cutting) for element in elements]

    def _column(self, output: Output, element: int, validity: pa.Buffer | None, cutting: _Cutting) -> pa.Array:
        kind, column = output.field.kind, output.first + element
        if not output.field.size:
            places, sizes = self.memory.text_places[column], self.memory.text_sizes[column]
            return self._texts(kind, places[: self.rows], sizes[: self.rows], validity)
        if validity is None:
            return cutting.columns(kind, column, 1)[0]
        return cutting.column(kind, column, validity)

    def _texts(
        self, kind: int, places: NDArray[np.int64], sizes: NDArray[np.int32], validity: pa.Buffer | None
    ) -> pa.Array:
        offsets = np.empty(len(places) + 1, np.int32)
        data = np.empty(int(sizes.sum(dtype=np.int64)), np.uint8)
        self.kernel.copy_texts(
            places.ctypes.data, sizes.ctypes.data, len(places), offsets.ctypes.data, data.ctypes.data
        )
        return pa.Array.from_buffers(ARROW[kind], len(places), [validity, pa.py_buffer(offsets), pa.py_buffer(data)])

    def _list(self, output: Output) -> pa.Array:
        kind, size = output.field.kind, output.field.size
        counts, places = self.memory.counts[output.array], self.memory.places[output.array]
        ends = np.cumsum(np.maximum(counts[: self.rows], 0), dtype=np.int64)
        total = int(ends[-1]) if self.rows else 0
        items = np.empty(total, f"u{size or 8}")
        text_sizes = np.empty(0 if size else total, np.int32)
        self.kernel.copy_items(
            kind, counts.ctypes.data, places.ctypes.data, self.rows, items.ctypes.data, text_sizes.ctypes.data
        )
        if not size:
            values = self._texts(kind, items.view(np.int64), text_sizes, None)
        elif kind == BOOLEAN:
            values = array_of(items.view(np.bool_))
        else:
            values = pa.Array.from_buffers(ARROW[kind], total, [None, pa.py_buffer(items)])
        offsets = np.concatenate([np.zeros(1, np.int32), ends.astype(np.int32)])
        is_null = counts[: self.rows] < 0
        mask = array_of(is_null) if is_null.any() else None
        return pa.ListArray.from_arrays(array_of(offsets), values, mask=mask)


class _Packed:
    """Marks of one byte as bits; each row of them begins at a byte."""

    def __init__(self, marks: NDArray[Any], rows: int) -> None:
        self._stride = marks.shape[1]
        self._size = -(-rows // 8)
        self.buffer = pa.py_buffer(np.packbits(marks.reshape(-1), bitorder="little"))

    def row(self, number: int) -> pa.Buffer:
        return self.buffer.slice(number * self._stride // 8, self._size)


class _Cutting:
    """Columns of numbers as pieces of the memory."""

    def __init__(self, memory: _Memory, rows: int) -> None:
        self._memory = memory
        self._rows = rows
        self._packed = _Packed(memory.marks, rows)
        self._whole: dict[int, pa.Array] = {}

    def marks(self, column: int) -> pa.Buffer:
        return self._packed.row(column)

    def columns(self, kind: int, first: int, count: int) -> list[pa.Array]:
        """Columns without nulls, cut from one long array: that takes a third of the time of making each."""
        whole, rows = self._long(kind), self._rows
        stride = self._memory.stride[SIZES[kind]]
        begin = self._memory.begin.get(SIZES[kind], 0) // SIZES[kind] + first * stride
        return [whole.slice(place, rows) for place in range(begin, begin + count * stride, stride)]

    def column(self, kind: int, column: int, validity: pa.Buffer) -> pa.Array:
        size = SIZES[kind]
        if kind == BOOLEAN:
            data = self._packed.row(column)
        else:
            begin = self._memory.begin[size] + column * self._memory.stride[size] * size
            data = self._memory.numbers.slice(begin, self._rows * size)
        return pa.Array.from_buffers(ARROW[kind], self._rows, [validity, data])

    def _long(self, kind: int) -> pa.Array:
        if kind not in self._whole:
            buffer = self._packed.buffer if kind == BOOLEAN else self._memory.numbers
            items = buffer.size * 8 if kind == BOOLEAN else buffer.size // SIZES[kind]
            self._whole[kind] = pa.Array.from_buffers(ARROW[kind], items, [None, buffer])
        return self._whole[kind]


def _address(rows: NDArray[Any], row: int) -> int:
    return int(rows.ctypes.data) + row * rows.strides[0]


def _stride(rows: int, size: int) -> int:
    """Items from one column to the next: an odd number of cache lines, or columns would share the cache's sets."""
    lines = -(-rows * size // _LINE_BYTES) | 1
    return lines * _LINE_BYTES // size


def _chunks(sizes: NDArray[np.int64], row_bytes: int) -> Iterator[tuple[int, int]]:
    """First and end of runs of bodies of at most `CHUNK_BYTES`, of theirs and of columns, or of one body."""
    ends = np.cumsum(sizes)
    most = max(1, CHUNK_BYTES // row_bytes)
    first = 0
    while first < len(sizes):
        before = int(ends[first - 1]) if first else 0
        end = int(np.searchsorted(ends, before + CHUNK_BYTES, side="right"))
        end = min(max(first + 1, end), first + most)
        yield first, end
        first = end


def load() -> None:
    """Has the kernel ready, if it is not."""
    _kernel()


@functools.cache
def _kernel() -> ModuleType:
    """The kernel; its import takes a second, and compiling it some more where that has not been kept."""
    # numba makes so many objects that looking for garbage among them took a sixth of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        from efd_pipelines.avro import kernel

        make_ready(kernel.ENTRIES)
    finally:
        if was_enabled:
            gc.enable()
    return kernel
