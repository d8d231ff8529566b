"""Form: what a merged file looks like, so that the same records give the same bytes.

Columns are those of the writer schemas that the rows were written with: `time`, the newest schema's fields in its
order, others by name, the system's; a column that no schema of the rows declares is there when it has a value. Row
groups end where 64 MiB are full, counted row by row. Nothing of it depends on batches, restarts or the order of
arrival. How a column is encoded: `files.py`. Reading rows in order: `runs.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from efd_pipelines.archive.encoding import held_columns
from efd_pipelines.archive.files import ROW_GROUP_BYTES, DataFile, time_range, writer_options
from efd_pipelines.archive.positions import decided_arrays
from efd_pipelines.archive.runs import Key, hash_of, low_key, reading
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.arrays import filled, numbers_of
from efd_pipelines.memory import give_back
from efd_pipelines.topics.layout import SYSTEM_COLUMNS, TIME, arrow_field, plan_layout

_FORM = 1
_NOTE = b"efd"
_MAX_GROUP_ROWS = 1 << 20
_SYSTEM = ("kafka_partition", "kafka_offset", "kafka_timestamp", "kafka_key", "archive_source", "archive_schema")
_LIST_OVERHEAD_BYTES = 4


@dataclass(frozen=True, slots=True)
class Survey:
    """What must be known of a file before its rows are merged.

    `newest` has the last event time, in UTC microseconds, of rows written with each schema (token). `columns` are
    the file's; `is_merged` says that it was written by a merge, so that each of its columns is declared or has a value.
    """

    file: DataFile
    low: Key
    columns: pa.Schema
    newest: Mapping[int, int]
    is_merged: bool


def survey(snapshot: TableSnapshot, file: DataFile) -> Survey:
    """Looks at a file's footer, and where a merge has not left it there, at the schemas of its rows.

    Raises:
        DamagedFile: it is gone, or no Parquet file.
        StoreUnavailable: the store did not answer.
    """
    store, relative = snapshot.store, f"{snapshot.relative}/{file.path}"
    with reading(snapshot, file), pq.ParquetFile(store.path(relative), filesystem=store.arrow_fs) as parquet:
        footer = parquet.metadata
        note = (footer.metadata or {}).get(_NOTE)
        known = json.loads(note) if note else {}
        is_merged = known.get("form") == _FORM
        newest = known["schemas"] if is_merged else _newest(parquet)
        columns = parquet.schema_arrow.remove_metadata()
        return Survey(file, low_key(footer, file), columns, {int(k): v for k, v in newest.items()}, is_merged)


def _newest(parquet: Any) -> dict[int, int]:
    found: dict[int, int] = {}
    if "archive_schema" in parquet.schema_arrow.names:
        for n in range(parquet.num_row_groups):
            _count_newest(found, parquet.read_row_group(n, ["time", "archive_schema"]))
    return found


def _count_newest(found: dict[int, int], rows: pa.Table) -> None:
    times = pa.table({"token": rows["archive_schema"], "time": rows["time"].cast(pa.int64())})
    for row in times.group_by("token").aggregate([("time", "max")]).to_pylist():
        token, last = row["token"], row["time_max"]
        if token is not None and last is not None:
            found[token] = max(last, found.get(token, last))


def form_of(snapshot: TableSnapshot, surveys: Sequence[Survey], schemas: WriterSchemas) -> pa.Schema:
    """The columns of a file of these rows, with the table's types, units and descriptions of the newest schema."""
    table = {column.name: column for column in snapshot.schema}
    newest, older = _declared(snapshot, surveys, schemas)
    known = {"time", *_SYSTEM, *newest, *older}
    there = {name for one in surveys for name in one.columns.names}
    valued = _with_values(snapshot, surveys, sorted(name for name in there - known if name in table))
    rest = older | {name: table[name] for name in valued if name not in SYSTEM_COLUMNS}
    system = [name for name in SYSTEM_COLUMNS if name in valued or (name in _SYSTEM and name in table)]
    fields = [
        pa.field("time", TIME),
        *newest.values(),
        *(rest[name] for name in sorted(rest)),
        *(pa.field(name, SYSTEM_COLUMNS[name]) for name in system),
    ]
    return in_order(pa.schema([field.with_type(table[field.name].type) for field in fields]))


def _declared(
    snapshot: TableSnapshot, surveys: Sequence[Survey], schemas: WriterSchemas
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The columns that the rows' newest schema declares, and those that only older ones do."""
    held = held_columns(snapshot.schema)
    arrays = decided_arrays(snapshot, held)
    names = {column.name for column in held}
    newest: dict[str, Any] = {}
    older: dict[str, Any] = {}
    for n, token in enumerate(_tokens(surveys)):
        schema = schemas.text(token)
        if schema is None:
            continue
        for column in plan_layout(schema, arrays=arrays, held=held).columns:
            if column.name in names and column.name not in newest:
                (older if n else newest).setdefault(column.name, arrow_field(column))
    return newest, older


def _tokens(surveys: Sequence[Survey]) -> list[int]:
    """The schemas of the rows, that of the latest row first."""
    last: dict[int, int] = {}
    for one in surveys:
        for token, time_us in one.newest.items():
            last[token] = max(time_us, last.get(token, time_us))
    return sorted(last, key=lambda token: (-last[token], token))


def _with_values(snapshot: TableSnapshot, surveys: Sequence[Survey], names: Sequence[str]) -> list[str]:
    """Which of the columns, that no schema declares, have a value: an array that was longer than its schema says."""
    found = {name for one in surveys if one.is_merged for name in names if name in one.columns.names}
    for one in surveys:
        wanted = [name for name in names if name not in found and name in one.columns.names]
        if wanted and not one.is_merged:
            found |= _valued_in(snapshot, one.file, wanted)
    return sorted(found)


def _valued_in(snapshot: TableSnapshot, file: DataFile, names: Sequence[str]) -> set[str]:
    store, relative = snapshot.store, f"{snapshot.relative}/{file.path}"
    found: set[str] = set()
    with reading(snapshot, file), pq.ParquetFile(store.path(relative), filesystem=store.arrow_fs) as parquet:
        for n in range(parquet.num_row_groups):
            rows = parquet.read_row_group(n, list(names))
            found |= {name for name in names if rows[name].null_count < rows.num_rows}
    return found


def in_order(schema: pa.Schema) -> pa.Schema:
    """The schema with each column's metadata sorted: Parquet keeps its order, and Delta gives it back in any."""
    fields = [
        field.with_metadata(dict(sorted(field.metadata.items()))) if field.metadata else field for field in schema
    ]
    return pa.schema(fields)


def row_groups(windows: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of sorted windows in groups of 64 MiB: a group ends with the row that fills it."""
    waiting: list[pa.Table] = []
    count = size = 0
    for window in windows:
        ends = np.cumsum(_row_bytes(window))
        start = 0
        while start < window.num_rows:
            before = int(ends[start - 1]) if start else 0
            full = int(np.searchsorted(ends, before + ROW_GROUP_BYTES - size)) + 1
            end = min(full, start + _MAX_GROUP_ROWS - count, window.num_rows)
            waiting.append(window.slice(start, end - start))
            count, size = count + end - start, size + int(ends[end - 1]) - before
            start = end
            if size >= ROW_GROUP_BYTES or count >= _MAX_GROUP_ROWS:
                yield _joined(waiting)
                count = size = 0
    if waiting:
        yield _joined(waiting)


def _joined(waiting: list[pa.Table]) -> pa.Table:
    group = pa.concat_tables(waiting).combine_chunks()
    waiting.clear()
    return group


def _row_bytes(rows: pa.Table) -> NDArray[np.int64]:
    """Bytes of each row, by its values alone: a null of fixed width counts as much as a value."""
    fixed = sum(_width(column.type) for column in rows.schema)
    sizes = np.full(rows.num_rows, fixed, dtype=np.int64)
    for column in rows.schema:
        if pa.types.is_list(column.type):
            lengths = pc.list_value_length(rows[column.name])
            sizes += numbers_of(filled(lengths, 0)) * max(_LIST_OVERHEAD_BYTES, _width(column.type.value_type))
        elif pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            sizes += numbers_of(filled(pc.binary_length(rows[column.name]), 0))
    return sizes


def _width(kind: pa.DataType) -> int:
    if pa.types.is_list(kind) or pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _LIST_OVERHEAD_BYTES
    return max(1, int(kind.bit_width) // 8)


def write_merged(
    snapshot: TableSnapshot, week: str, key: str, schema: pa.Schema, windows: Iterable[pa.Table]
) -> DataFile | None:
    """Writes sorted windows of rows as one file of a slice, row group by row group; invisible until committed.

    None where there are no rows.

    Raises:
        StoreFull, StoreUnavailable: nothing was written.
    """
    store, directory = snapshot.store, f"{snapshot.relative}/{snapshot.partition}={week}"
    found = _Found()
    with store.new_file(directory) as path:
        with store.errors(f"write to {directory}"), pq.ParquetWriter(path, schema, **writer_options(schema)) as writer:
            for group in row_groups(windows):
                found.count(group)
                writer.write_table(group, row_group_size=group.num_rows)
                give_back()
            writer.add_key_value_metadata({_NOTE.decode(): found.note()})
        if not found.rows:
            return None
        name = f"{snapshot.partition}={week}/{key}-{hash_of(path)}.parquet"
        size = path.stat().st_size
        store.keep_file(path, f"{snapshot.relative}/{name}")
    return DataFile(
        name, week, key, found.rows, size, found.low_us, found.high_us, store.uri(f"{snapshot.relative}/{name}")
    )


@dataclass(slots=True)
class _Found:
    """What is counted of rows as they are written."""

    rows: int = 0
    low_us: int | None = None
    high_us: int | None = None
    newest: dict[int, int] = field(default_factory=dict)

    def count(self, group: pa.Table) -> None:
        low, high = time_range(group)
        if low is not None and high is not None:
            self.low_us = low if self.low_us is None else min(low, self.low_us)
            self.high_us = high if self.high_us is None else max(high, self.high_us)
        self.rows += group.num_rows
        _count_newest(self.newest, group)

    def note(self) -> str:
        schemas = {str(token): self.newest[token] for token in sorted(self.newest)}
        return json.dumps({"form": _FORM, "schemas": schemas}, separators=(",", ":"))
