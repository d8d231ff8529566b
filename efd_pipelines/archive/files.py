"""Files: writing one Parquet file of one slice, in the archive's encoding.

zstd 1, byte-stream-split for floats, dictionary for strings, statistics on `time`, `salIndex` and the private
fields only (anchors.md §1f has the measurements). Same rows, same bytes, same name: the name carries the slice and
a hash of the content, so a repeated write lands on itself. That hash is XXH3: SHA-256 took more than half as long as
encoding; certificates carry SHA-256. Wide tables of floats, where pyarrow takes its time: `pages.py`. Making a file
visible: `tables.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from efd_pipelines.archive import pages
from efd_pipelines.archive.pages import Template
from efd_pipelines.archive.store import Store
from efd_pipelines.arrays import numbers_of

ROW_GROUP_BYTES = 64 * 1024 * 1024
_MAX_ROW_GROUP = 1 << 20
_PAGE_BYTES = 1024
_FOOTER_BYTES = 1 << 16
_ORDER = ("salIndex", "time", "archive_source", "kafka_partition", "kafka_offset")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file of a table: `path` is relative to the table, times are of its rows, in UTC microseconds."""

    path: str
    week: str
    slice: str
    rows: int
    size_bytes: int
    time_min_us: int | None = None
    time_max_us: int | None = None
    uri: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class EncodedFile:
    """A file of one slice that is not in the store yet; `data` are its bytes."""

    week: str
    slice: str
    rows: int
    data: memoryview
    time_min_us: int | None
    time_max_us: int | None


@dataclass(frozen=True, slots=True)
class Widths:
    """What rows of one schema take in memory: `bits` each, and the columns at `places`, whose values differ in size."""

    bits: int
    places: tuple[int, ...]

    @classmethod
    def of(cls, schema: pa.Schema) -> Widths:
        kinds = list(enumerate(schema.types))
        fixed = {place: int(kind.bit_width) for place, kind in kinds if pa.types.is_primitive(kind)}
        return cls(sum(fixed.values()), tuple(place for place, _ in kinds if place not in fixed))

    def size_bytes(self, table: pa.Table) -> int:
        """Bytes of the rows, without what says which are null."""
        return sum(int(table.column(place).nbytes) for place in self.places) + self.bits * int(table.num_rows) // 8


@dataclass(frozen=True, eq=False)
class FileForm:
    """How rows of one schema are written: the schema with its metadata in order, and the writer's options."""

    schema: pa.Schema
    options: Mapping[str, Any]

    @cached_property
    def template(self) -> Template:
        return Template.of(self.schema, self.options)

    @cached_property
    def widths(self) -> Widths:
        return Widths.of(self.schema)

    @classmethod
    def of(cls, schema: pa.Schema) -> FileForm:
        # delta-rs gives a column's metadata back in another order every time.
        fields = [
            field.with_metadata(dict(sorted(field.metadata.items()))) if field.metadata else field for field in schema
        ]
        return cls(pa.schema(fields), writer_options(schema))


def encoded_file(week: str, slice_key: str, table: pa.Table, form: FileForm | None = None) -> EncodedFile:
    """The rows of one slice as a file; `form`, where the caller has it, must be the table's."""
    return EncodedFile(week, slice_key, table.num_rows, encode(table, form), *time_range(table))


def put_file(store: Store, relative: str, file: EncodedFile, *, partition: str = "week") -> DataFile:
    """Writes a file under the table `relative`; invisible until committed.

    Raises:
        StoreUnavailable: nothing was written.
    """
    path = f"{partition}={file.week}/{file.slice}-{content_hash(file.data)}.parquet"
    store.write_bytes(f"{relative}/{path}", file.data)
    return DataFile(
        path=path,
        week=file.week,
        slice=file.slice,
        rows=file.rows,
        size_bytes=len(file.data),
        time_min_us=file.time_min_us,
        time_max_us=file.time_max_us,
        uri=store.uri(f"{relative}/{path}"),
    )


def write_data_file(
    store: Store, relative: str, week: str, slice_key: str, table: pa.Table, *, partition: str = "week"
) -> DataFile:
    """Writes the rows of one slice under the table `relative`; invisible until committed.

    Raises:
        StoreUnavailable: nothing was written.
    """
    return put_file(store, relative, encoded_file(week, slice_key, table), partition=partition)


def content_hash(data: bytes | memoryview) -> str:
    """The hash that a file's name carries: XXH3, 128 bits, of its bytes."""
    return xxhash.xxh3_128_hexdigest(data)


def first_batch(files: Sequence[DataFile], most_bytes: int) -> list[DataFile]:
    """The first file, and as many of the next as are `most_bytes` together with it."""
    size, batch = 0, list[DataFile]()
    for file in files:
        size += file.size_bytes
        if batch and size > most_bytes:
            break
        batch.append(file)
    return batch


def sort_rows(table: pa.Table) -> pa.Table:
    """Rows by (salIndex, time, source, partition, offset), as every file has them.

    Those of history have no offset: of one time and source they are in the order of their values, column by column.
    """
    there = set(table.schema.names)
    names = [name for name in _ORDER if name in there]
    if not names or table.num_rows < 2 or _is_sorted(table, names):
        return table
    names += _breaking_ties(table, names)
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in names])
    return pc.take(table, order, boundscheck=False)


def _breaking_ties(table: pa.Table, names: Sequence[str]) -> list[str]:
    """The columns that tell rows without an offset apart; lists have no order."""
    if "kafka_offset" not in names or not table["kafka_offset"].null_count:
        return []
    return sorted(of.name for of in table.schema if of.name not in names and not pa.types.is_list(of.type))


def _is_sorted(table: pa.Table, names: Sequence[str]) -> bool:
    """Whether the rows are in order already, as one partition's mostly are: moving 800 columns costs much more."""
    undecided = np.ones(table.num_rows - 1, dtype=np.bool_)
    for name in names:
        column = table[name]
        if column.null_count:
            return False
        ranks = _ranks(column)
        if bool((undecided & (ranks[1:] < ranks[:-1])).any()):
            return False
        undecided &= ranks[1:] == ranks[:-1]
    return True


def _ranks(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers that are in the order of the values."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_string(column.type):
        texts = column.combine_chunks().dictionary_encode()
        order = np.argsort(np.argsort(np.array(texts.dictionary.to_pylist(), object)))
        return np.asarray(order[numbers_of(texts.indices)])
    return numbers_of(column)


def time_range(table: pa.Table) -> tuple[int | None, int | None]:
    """Smallest and largest `time` in UTC microseconds; None where there is none."""
    if "time" not in table.column_names:
        return None, None
    extremes = pc.min_max(table["time"].cast(pa.int64()))
    return extremes["min"].as_py(), extremes["max"].as_py()


def encode(table: pa.Table, form: FileForm | None = None) -> memoryview:
    """The bytes of a Parquet file with the rows of `table`."""
    form = form or FileForm.of(table.schema)
    if not table.schema.equals(form.schema, check_metadata=True):
        table = pa.Table.from_arrays(table.columns, schema=form.schema)
    group_rows = row_group_rows(table, form.widths)
    if group_rows == table.num_rows and pages.is_wide(table):
        floats = pages.made_here(table, form.template)
        made = None if floats is None else pages.encode(floats, form.template)
        if made is not None:
            return made
    # A buffer that grows is copied several times, which took a tenth of the encoding.
    room = pa.allocate_buffer(_most_bytes(table, form, group_rows))
    try:
        sink = pa.FixedSizeBufferWriter(room)
        _write(table, form, sink, group_rows)
        return memoryview(room)[: sink.tell()]
    except OSError:
        growing = pa.BufferOutputStream()
        _write(table, form, growing, group_rows)
        return memoryview(growing.getvalue())


def _write(table: pa.Table, form: FileForm, sink: Any, group_rows: int) -> None:
    with pq.ParquetWriter(sink, form.schema, **form.options) as writer:
        writer.write_table(table, row_group_size=group_rows)


def _most_bytes(table: pa.Table, form: FileForm, group_rows: int) -> int:
    """What the file hardly ever passes: nothing compressed, a page and a footer's entry of each column and group."""
    pages = int(table.num_columns) * max(1, -(-int(table.num_rows) // group_rows))
    return form.widths.size_bytes(table) * 9 // 8 + _PAGE_BYTES * pages + _FOOTER_BYTES


def row_group_rows(table: pa.Table, widths: Widths | None = None) -> int:
    """Rows of a group of 64 MiB or less, such that the last is not a small rest."""
    rows = int(table.num_rows)
    per_row = max(1, (widths or Widths.of(table.schema)).size_bytes(table) // max(1, rows))
    most = min(_MAX_ROW_GROUP, max(1, ROW_GROUP_BYTES // per_row))
    groups = max(1, -(-rows // most))
    return max(1, -(-rows // groups))


def writer_options(schema: pa.Schema) -> dict[str, Any]:
    """How each column is encoded, as pyarrow's writer takes it."""
    dictionary, encodings, statistics = [], {}, []
    for column in schema:
        path, kind = column.name, column.type
        if pa.types.is_list(kind):
            path, kind = f"{path}.list.element", kind.value_type
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            dictionary.append(path)
        elif pa.types.is_floating(kind):
            encodings[path] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_integer(kind) or pa.types.is_timestamp(kind):
            encodings[path] = "DELTA_BINARY_PACKED"
        if column.name in ("time", "salIndex") or column.name.startswith("private_"):
            statistics.append(path)
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": dictionary,
        "column_encoding": encodings,
        "write_statistics": statistics,
    }
