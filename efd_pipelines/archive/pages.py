"""Pages: a wide Parquet file whose columns of floats are made here, and all others by pyarrow.

Of what pyarrow's writer spends on 800 columns of 10,000 floats, half is neither encoding nor compressing: levels that
say of every row that it is not null, copies, and some microseconds per column. Here a column of floats without nulls
is one page: one run of levels, the streams of bytes (`splitting.py`), one frame of zstd (`compressing.py`); many
columns in one call, without the interpreter. The other columns are written by pyarrow to a file of their own, which
becomes the beginning of this one, so that its footer's places stay right; the schema and what else stands in a footer
are pyarrow's, too.
What a reader sees is what pyarrow would have written: one row group, the same encodings and codec, no statistics of
floats. How columns are encoded: `files.py`. Merged files: `form.py`.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from efd_pipelines.archive import thrift
from efd_pipelines.archive.compressing import compressed
from efd_pipelines.compiled import make_ready

# Loading the compiled code takes as long as pyarrow needs for some megabytes.
_MIN_BYTES = 4 * 1024 * 1024
_MIN_COLUMNS = 32
# pyarrow's own pages are of 1 MiB: what a reader must hold to read one.
_MAX_PAGE_BYTES = 1024 * 1024
# Pages that are made in one go stay in the cache until they are compressed.
_TOGETHER_BYTES = 2 * 1024 * 1024
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


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What all files of one schema have in common.

    `before` and `after` are the footer without its numbers of rows and row groups. `floats` are the columns that can be
    made here, by their places: their widths, and what their metadata begin with.
    """

    schema: pa.Schema
    options: Mapping[str, Any]
    before: bytes
    after: bytes
    floats: Mapping[int, tuple[int, bytes]]
    _rest: dict[tuple[int, ...], tuple[pa.Schema, dict[str, Any], list[int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, schema: pa.Schema, options: Mapping[str, Any]) -> Template:
        sink = pa.BufferOutputStream()
        pq.ParquetWriter(sink, schema, **options).close()
        before, after = _around_rows(_footer(sink.getvalue()))
        encodings, statistics = options["column_encoding"], frozenset(options["write_statistics"])
        floats = {}
        for place, (name, kind) in enumerate(zip(schema.names, schema.types, strict=True)):
            width = 4 if kind == _FLOAT else 8 if kind == _DOUBLE else 0
            if width and encodings.get(name) == "BYTE_STREAM_SPLIT" and name not in statistics:
                floats[place] = width, _metadata_start(name, width, options["compression"])
        return cls(schema, options, before, after, floats)

    def rest(self, made: Sequence[int]) -> tuple[pa.Schema, dict[str, Any], list[int]]:
        """The columns that are not made here, how pyarrow writes them, and their places."""
        key = tuple(made)
        if key not in self._rest:
            here = set(made)
            places = [place for place in range(len(self.schema)) if place not in here]
            schema = pa.schema([self.schema.field(place) for place in places])
            names = set(schema.names)
            encodings = {
                path: of for path, of in self.options["column_encoding"].items() if path.split(".")[0] in names
            }
            self._rest[key] = schema, {**self.options, "column_encoding": encodings, "store_schema": False}, places
        return self._rest[key]


def is_wide(table: pa.Table) -> bool:
    """Whether there may be columns that are worth to be made here."""
    rows, columns = int(table.num_rows), int(table.num_columns)
    return 8 * rows <= _MAX_PAGE_BYTES and columns > _MIN_COLUMNS and 4 * rows * columns >= _MIN_BYTES


def made_here(table: pa.Table, template: Template) -> list[int]:
    """Places of the columns that can be made here, floats without nulls; none where they are few."""
    columns = [(place, table.column(place)) for place in template.floats]
    places = [place for place, column in columns if column.num_chunks == 1 and column.null_count == 0]
    return places if _MIN_COLUMNS <= len(places) < table.num_columns else []


def encode(table: pa.Table, template: Template, made: Sequence[int]) -> memoryview:
    """The bytes of a file of the template's schema with one row group; `made` are the places that `made_here` found."""
    rows = table.num_rows
    beginning, others = _written(table, template, made)
    # Memory that is not written to is not taken.
    room = memoryview(pa.allocate_buffer(_most_bytes(len(beginning), rows, template, made))).cast("B")
    end = len(beginning)
    room[:end] = beginning
    chunks: dict[int, bytes] = {}
    total = others.total_bytes
    for place, size, parts, length in _pages(table, template, made):
        begin = end
        for part in parts:
            end += len(part)
            room[end - len(part) : end] = part
        written = end - begin
        chunks[place] = _chunk(template.floats[place][1], rows, written - length + size, written, begin)
        total += written - length + size
    left = iter(others.chunks)
    ordered = [chunks[place] if place in chunks else next(left) for place in range(table.num_columns)]
    footer = _footer_of(template, ordered, rows, total, end - len(_MAGIC))
    ending = footer + struct.pack("<I", len(footer)) + _MAGIC
    room[end : end + len(ending)] = ending
    return room[: end + len(ending)]


def _most_bytes(beginning: int, rows: int, template: Template, made: Sequence[int]) -> int:
    """What a file has at most: zstd adds a 256th to what it cannot compress, and some bytes."""
    pages = sum(template.floats[place][0] * rows for place in made)
    return (
        beginning
        + pages
        + pages // 128
        + _COLUMN_BYTES * len(template.schema)
        + 2 * len(template.before + template.after)
    )


# What pyarrow writes


@dataclass(frozen=True, slots=True)
class _Others:
    """The other columns' metadata, as their own file has them."""

    chunks: list[bytes]
    total_bytes: int


def _written(table: pa.Table, template: Template, made: Sequence[int]) -> tuple[memoryview, _Others]:
    """The other columns as the beginning of a file."""
    schema, options, places = template.rest(made)
    rest = [table.column(place) for place in places]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **options) as writer:
        writer.write_table(pa.Table.from_arrays(rest, schema=schema), row_group_size=table.num_rows)
    file = sink.getvalue()
    footer = _footer(file)
    groups = thrift.items(footer, thrift.fields(footer, 0)[_ROW_GROUPS].start)
    group = thrift.fields(footer, groups[0].start)
    chunks = [footer[part.start : part.end] for part in thrift.items(footer, group[_COLUMNS].start)]
    beginning = memoryview(file).cast("B")[: file.size - len(footer) - _ENDING_BYTES]
    return beginning, _Others(chunks, thrift.number(footer, group[_TOTAL_BYTES]))


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


def _pages(table: pa.Table, template: Template, made: Sequence[int]) -> Iterator[tuple[int, int, list[Any], int]]:
    """Of each column its place, its page's size, the page's head and the page compressed in parts, and their length."""
    for width in _TYPES:
        places = [place for place in made if template.floats[place][0] == width]
        if not places:
            continue
        levels = _levels(table.num_rows)
        size = len(levels) + width * table.num_rows
        pages = np.empty((max(1, min(len(places), _TOGETHER_BYTES // size)), size), np.uint8)
        before, after = _page_head(table.num_rows, size)
        pages[:, : len(levels)] = np.frombuffer(levels, np.uint8)
        for first in range(0, len(places), len(pages)):
            batch = places[first : first + len(pages)]
            noise = _split(table, batch, width, pages, len(levels))
            frames = compressed(pages[: len(batch)], noise, template.options["compression_level"])
            for place, parts in zip(batch, frames, strict=True):
                length = sum(map(len, parts))
                yield place, size, [before + thrift.integer(length) + after, *parts], length


def _split(table: pa.Table, places: Sequence[int], width: int, pages: Any, begin: int) -> list[int]:
    """Fills the pages; how many bytes at the beginning of each are noise, or what says that no row is null."""
    splitting = _splitting()
    arrays = [table.column(place).chunk(0) for place in places]
    addresses = np.array([array.buffers()[1].address + width * array.offset for array in arrays], np.int64)
    split = splitting.split_floats if width == 4 else splitting.split_doubles
    split(addresses, table.num_rows, pages, begin)
    streams = splitting.noise(pages[: len(places)], table.num_rows, width, begin)
    return [begin + of * table.num_rows if of else 0 for of in streams.tolist()]


@functools.cache
def _splitting() -> ModuleType:
    """The compiled code; loading it takes a second where the decoder's has not been loaded."""
    from efd_pipelines.archive import splitting

    make_ready(splitting.ENTRIES)
    return splitting


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
    """The first fields of a ColumnMetaData: type, encodings, name, codec."""
    before, after = _metadata_of(width, compression)
    return before + thrift.string(name) + after


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


def _chunk(start: bytes, rows: int, size: int, compressed_size: int, offset: int) -> bytes:
    """A ColumnChunk: its metadata, of which fields 5, 6, 7 and 9 are these numbers; file_offset is no longer used."""
    numbers = thrift.integer(rows), thrift.integer(size), thrift.integer(compressed_size), thrift.integer(offset)
    return b"\x26\0\x1c%b\x16%b\x16%b\x16%b\x26%b\0\0" % (start, *numbers)


def _footer_of(template: Template, chunks: Sequence[bytes], rows: int, total: int, compressed: int) -> bytes:
    group = thrift.struct(
        [
            (1, thrift.LIST, thrift.listed(thrift.STRUCT, chunks)),
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
