"""Pages: a wide Parquet file whose columns of floats are made here, and all others by pyarrow.

Of what pyarrow's writer spends on 800 columns of 10,000 floats, half is neither encoding nor compressing: levels that
say of every row that it is not null, copies, and some microseconds per column. Here a column of floats without nulls
is one page: one run of levels, the streams of bytes, one frame of zstd; all of them are made in one call of compiled
code (`page_kernel.py`), which leaves the interpreter to other threads. The other columns are written by pyarrow to a
file of their own, which becomes the beginning of this one, so that its footer's places stay right; the schema and what
else stands in a footer are pyarrow's, too.
What a reader sees is what pyarrow would have written: one row group, the same encodings and codec, no statistics of
floats. How columns are encoded: `files.py`. zstd: `compressing.py`. Merged files: `form.py`.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from efd_pipelines.archive import thrift
from efd_pipelines.archive.compressing import most_bytes, zstd
from efd_pipelines.compiled import make_ready
from efd_pipelines.memory import large_buffer

# Loading the compiled code takes as long as pyarrow needs for some megabytes.
_MIN_BYTES = 4 * 1024 * 1024
_MIN_COLUMNS = 32
# pyarrow's own pages are of 1 MiB: what a reader must hold to read one.
_MAX_PAGE_BYTES = 1024 * 1024
_MAGIC = b"PAR1"
_ENDING_BYTES = 8
# What a column takes beside its values, in its page's head and its metadata, without its name.
_COLUMN_BYTES = 1024
# parquet.thrift: types, encodings, codecs, kinds of pages, and the fields of FileMetaData, RowGroup and ColumnMetaData.
_TYPES = {4: 4, 8: 5}
_FLOAT, _DOUBLE = pa.float32(), pa.float64()
_RLE, _BYTE_STREAM_SPLIT = 3, 9
_CODECS = {"zstd": 6}
_DATA_PAGE = 0
_SCHEMA, _NUM_ROWS, _ROW_GROUPS = 2, 3, 4
_COLUMNS, _TOTAL_BYTES = 1, 2
# Fields 3 and 4 of a FileMetaData without rows.
_NO_ROWS = b"\x16\x00\x19\x0c"


# The Arrow C data interface: numbers of 64 bits in an ArrowArray, and which of them is its end.
_ARROW_ARRAY, _RELEASE = 10, 8


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What all files of one schema have in common.

    `before` and `after` are the footer without its numbers of rows and row groups. Of the columns that can be made
    here, floats, `places` and `widths` say which they are, and `starts`, by place, what their metadata begin with.
    """

    schema: pa.Schema
    options: Mapping[str, Any]
    before: bytes
    after: bytes
    places: NDArray[np.int64]
    widths: NDArray[np.int64]
    starts: Sequence[bytes]
    _rest: dict[bytes, tuple[pa.Schema, dict[str, Any], list[int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, schema: pa.Schema, options: Mapping[str, Any]) -> Template:
        sink = pa.BufferOutputStream()
        pq.ParquetWriter(sink, schema, **options).close()
        before, after = _around_rows(_footer(sink.getvalue()))
        encodings, statistics = options["column_encoding"], frozenset(options["write_statistics"])
        found = []
        starts = [b""] * len(schema)
        for place, (name, kind) in enumerate(zip(schema.names, schema.types, strict=True)):
            width = 4 if kind == _FLOAT else 8 if kind == _DOUBLE else 0
            if width and encodings.get(name) == "BYTE_STREAM_SPLIT" and name not in statistics:
                found.append((place, width))
                starts[place] = _metadata_start(name, width, options["compression"])
        places, widths = np.array(found, np.int64).reshape(-1, 2).T.copy()
        return cls(schema, options, before, after, places, widths, starts)

    def rest(self, made: NDArray[np.int64]) -> tuple[pa.Schema, dict[str, Any], list[int]]:
        """The columns that are not made here, how pyarrow writes them, and their places."""
        key = made.tobytes()
        if key not in self._rest:
            here = set(made.tolist())
            places = [place for place in range(len(self.schema)) if place not in here]
            schema = pa.schema([self.schema.field(place) for place in places])
            names = set(schema.names)
            encodings = {
                path: of for path, of in self.options["column_encoding"].items() if path.split(".")[0] in names
            }
            self._rest[key] = schema, {**self.options, "column_encoding": encodings, "store_schema": False}, places
        return self._rest[key]


@dataclass(frozen=True, slots=True, eq=False)
class Floats:
    """Columns of a table that are made here: their places, widths and addresses, good as long as the table is held."""

    table: pa.Table
    places: NDArray[np.int64]
    widths: NDArray[np.int64]
    addresses: NDArray[np.int64]


def is_wide(table: pa.Table) -> bool:
    """Whether there may be columns that are worth to be made here."""
    rows, columns = int(table.num_rows), int(table.num_columns)
    return 8 * rows <= _MAX_PAGE_BYTES and columns > _MIN_COLUMNS and 4 * rows * columns >= _MIN_BYTES


def made_here(table: pa.Table, template: Template) -> Floats | None:
    """The columns that can be made here, floats without nulls; None where they are few."""
    if zstd() is None or len(template.places) < _MIN_COLUMNS:
        return None
    batches = table.to_batches()
    if len(batches) > 1:
        table = table.combine_chunks()
        batches = table.to_batches()
    addresses, nulls = np.empty_like(template.places), np.empty_like(template.places)
    with _exported(batches[0]) as array:
        _kernel().find_columns(array, template.places, template.widths, addresses, nulls)
    for n in np.flatnonzero(nulls < 0).tolist():
        nulls[n] = table.column(int(template.places[n])).null_count
    chosen = np.flatnonzero(nulls == 0)
    if not _MIN_COLUMNS <= len(chosen) < table.num_columns:
        return None
    return Floats(table, template.places[chosen], template.widths[chosen], addresses[chosen])


@contextmanager
def _exported(batch: pa.RecordBatch) -> Iterator[int]:
    """The address of what the Arrow C data interface says of a batch: to ask each of 800 columns takes longer."""
    array = np.zeros(_ARROW_ARRAY, np.int64)
    batch._export_to_c(array.ctypes.data)
    try:
        yield array.ctypes.data
    finally:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(int(array[_RELEASE]))(array.ctypes.data)


def encode(floats: Floats, template: Template) -> memoryview | None:
    """The bytes of a file of the template's schema with one row group, of the table of the `floats`.

    None where zstd refused, or the room for the file was too small, which it never is.
    """
    rows = floats.table.num_rows
    beginning, others = _written(floats, template)
    # Memory that is not written to is not taken.
    room = large_buffer(_most_bytes(len(beginning), floats, template))
    out = np.frombuffer(room, np.uint8)
    out[: len(beginning)] = np.frombuffer(beginning, np.uint8)
    numbers = np.full((len(template.schema), 4), -1, np.int64)
    end = _put_pages(floats, template, out, len(beginning), numbers)
    if end < 0:
        return None
    total = others.total_bytes + int(numbers[floats.places, 1].sum())
    footer = _footer_of(template, _chunks(template, others, numbers), rows, total, end - len(_MAGIC))
    ending = footer + struct.pack("<I", len(footer)) + _MAGIC
    out[end : end + len(ending)] = np.frombuffer(ending, np.uint8)
    return memoryview(room).cast("B")[: end + len(ending)]


def _most_bytes(beginning: int, floats: Floats, template: Template) -> int:
    """What a file has at most."""
    pages = most_bytes(int(floats.widths.sum()) * floats.table.num_rows)
    columns = len(template.schema)
    return beginning + pages + _COLUMN_BYTES * columns + 2 * len(template.before + template.after)


# What pyarrow writes


@dataclass(frozen=True, slots=True)
class _Others:
    """The other columns' metadata, as their own file has them, and their places."""

    places: list[int]
    chunks: list[bytes]
    total_bytes: int


def _written(floats: Floats, template: Template) -> tuple[memoryview, _Others]:
    """The other columns as the beginning of a file."""
    table = floats.table
    schema, options, places = template.rest(floats.places)
    rest = [table.column(place) for place in places]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **options) as writer:
        writer.write_table(pa.Table.from_arrays(rest, schema=schema), row_group_size=table.num_rows)
    file = sink.getvalue()
    footer = _footer(file)
    group = thrift.first_item(footer, thrift.field_start(footer, 0, _ROW_GROUPS))
    columns = thrift.items(footer, thrift.field_start(footer, group, _COLUMNS))
    total_bytes = thrift.number(footer, thrift.field_start(footer, group, _TOTAL_BYTES))
    beginning = memoryview(file).cast("B")[: file.size - len(footer) - _ENDING_BYTES]
    return beginning, _Others(places, [footer[part.start : part.end] for part in columns], total_bytes)


def _around_rows(footer: bytes) -> tuple[bytes, bytes]:
    """What stands in a footer before the number of rows, here 0, and after the row groups, here none."""
    if footer.count(_NO_ROWS) == 1:
        # A schema of 800 columns takes milliseconds to pass over.
        before, _, after = footer.partition(_NO_ROWS)
        return before, after
    parts = thrift.fields(footer, 0)
    return footer[: parts[_SCHEMA].end], footer[parts[_ROW_GROUPS].end :]


def _footer(file: pa.Buffer) -> bytes:
    (size,) = struct.unpack("<I", file.slice(file.size - _ENDING_BYTES, 4).to_pybytes())
    return bytes(file.slice(file.size - _ENDING_BYTES - size, size).to_pybytes())


# What is made here


def _put_pages(floats: Floats, template: Template, room: NDArray[np.uint8], at: int, numbers: NDArray[np.int64]) -> int:
    """Puts pages into the room, and what the footer says of them into `numbers`; where they end, -1 without room."""
    library, rows = zstd(), floats.table.num_rows
    assert library is not None
    with library.context() as context:
        for width in _TYPES:
            chosen = np.flatnonzero(floats.widths == width)
            if not len(chosen) or at < 0:
                continue
            levels = _levels(rows)
            page = np.empty(len(levels) + width * rows, np.uint8)
            page[: len(levels)] = _numbered(levels)
            before, after = _page_head(rows, len(page))
            at = _kernel().put_pages(
                np.array([library.compress, context, template.options["compression_level"]], np.int64),
                floats.addresses[chosen],
                floats.places[chosen],
                rows,
                width,
                page,
                len(levels),
                _numbered(before),
                _numbered(after),
                np.empty(most_bytes(len(page)), np.uint8),
                room,
                at,
                numbers,
            )
    return at


@functools.cache
def _kernel() -> ModuleType:
    """The compiled code; loading it takes a second where the decoder's has not been loaded."""
    from efd_pipelines.archive import page_kernel

    make_ready(page_kernel.ENTRIES)
    return page_kernel


def _numbered(data: bytes) -> NDArray[np.uint8]:
    """Bytes as the kernel takes them: numba has another type for what cannot be written to."""
    return np.frombuffer(bytearray(data), np.uint8)


def _levels(rows: int) -> bytes:
    """What says that no row is null: one run of ones, after its size."""
    run = thrift.varint(rows << 1) + b"\1"
    return struct.pack("<I", len(run)) + run


def _page_head(rows: int, size: int) -> tuple[bytes, bytes]:
    """A PageHeader, without the compressed size that stands in its midst."""
    values = [rows, _BYTE_STREAM_SPLIT, _RLE, _RLE]
    page = thrift.struct([(n, thrift.I32, thrift.integer(value)) for n, value in enumerate(values, 1)])
    sizes = [(1, thrift.I32, thrift.integer(_DATA_PAGE)), (2, thrift.I32, thrift.integer(size))]
    before = thrift.struct([*sizes, (3, thrift.I32, b"")])[:-1]
    return before, thrift.struct([(5 - 3, thrift.STRUCT, page)])


def _metadata_start(name: str, width: int, compression: str) -> bytes:
    """What a ColumnChunk begins with: file_offset, no longer used; of its metadata type, encodings, name, codec."""
    before, after = _metadata_of(width, compression)
    return b"\x26\0\x1c" + before + thrift.string(name) + after


@functools.cache
def _metadata_of(width: int, compression: str) -> tuple[bytes, bytes]:
    """What stands there before and after the name."""
    encodings = thrift.listed(thrift.I32, [thrift.integer(_RLE), thrift.integer(_BYTE_STREAM_SPLIT)])
    parts = [
        (1, thrift.I32, thrift.integer(_TYPES[width])),
        (2, thrift.LIST, encodings),
        (3, thrift.LIST, thrift.listed(thrift.BINARY, [b""])),
    ]
    return thrift.struct(parts)[:-1], thrift.struct([(1, thrift.I32, thrift.integer(_CODECS[compression]))])[:-1]


def _chunks(template: Template, others: _Others, numbers: NDArray[np.int64]) -> bytes:
    """What the footer says of each column, one after the other."""
    pieces = list(template.starts)
    for place, chunk in zip(others.places, others.chunks, strict=True):
        pieces[place] = chunk
    joined = _numbered(b"".join(pieces))
    ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))
    kernel = _kernel()
    out = np.empty(len(joined) + len(pieces) * kernel.NUMBERS_BYTES, np.uint8)
    return out[: kernel.put_chunks(joined, ends, numbers, out)].tobytes()


def _footer_of(template: Template, chunks: bytes, rows: int, total: int, compressed: int) -> bytes:
    columns = thrift.list_head(thrift.STRUCT, len(template.schema)) + chunks
    group = thrift.struct(
        [
            (1, thrift.LIST, columns),
            (2, thrift.I64, thrift.integer(total)),
            (3, thrift.I64, thrift.integer(rows)),
            (5, thrift.I64, thrift.integer(len(_MAGIC))),
            (6, thrift.I64, thrift.integer(compressed)),
            (7, thrift.I16, thrift.integer(0)),
        ]
    )
    parts = [
        (_NUM_ROWS, thrift.I64, thrift.integer(rows)),
        (_ROW_GROUPS, thrift.LIST, thrift.listed(thrift.STRUCT, [group])),
    ]
    between = thrift.struct([(n - _SCHEMA, kind, value) for n, kind, value in parts])[:-1]
    return template.before + between + template.after
