"""Reading: rows of a table's snapshot, from the files that count, with one type per column.

Only rows of weeks are read here; quarantine and the dead are asked for by their own names. Intervals are closed at
the beginning and open at the end, in UTC microseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from efd_pipelines.archive.files import DataFile, sort_rows
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.errors import UsageError
from efd_pipelines.topics.names import nearest

IDENTITY = ("salIndex", "private_sndStamp", "private_seqNum", "private_origin")
"""What a record of SAL is known by, whoever delivered it and how often (design.md §4)."""


def read(
    snapshot: TableSnapshot,
    *,
    columns: Sequence[str] | None = None,
    start_us: int | None = None,
    end_us: int | None = None,
    weeks: Collection[str] | None = None,
    ordered: bool = True,
) -> pa.Table:
    """Rows with `start_us` ≤ time < `end_us`, sorted by salIndex and time if `ordered`; all columns by default.

    Raises:
        UsageError: a column that the table does not have.
        StoreUnavailable: the store did not answer.
    """
    files = good_files(snapshot, weeks, start_us, end_us)
    schema = wanted_schema(snapshot, columns)
    needed = _with_order(snapshot, schema)
    parts = [_within(read_file(snapshot, file, needed), start_us, end_us) for file in files]
    table = pa.concat_tables(parts) if parts else needed.empty_table()
    return (sort_rows(table) if ordered else table).select(schema.names)


def good_files(
    snapshot: TableSnapshot,
    weeks: Collection[str] | None = None,
    start_us: int | None = None,
    end_us: int | None = None,
) -> list[DataFile]:
    """The files of weeks: neither quarantined nor dead rows."""
    files = snapshot.files(weeks, start_us, end_us)
    return [file for file in files if file.week not in (QUARANTINE, DEAD)]


def wanted_schema(snapshot: TableSnapshot, columns: Sequence[str] | None) -> pa.Schema:
    """The table's schema, or that of some of its columns in the order asked for.

    Raises:
        UsageError: a column that the table does not have, with the nearest names.
    """
    schema = snapshot.schema
    if columns is None:
        return schema
    there = set(schema.names)  # looked up once: it is a new list every time, 4 s at 4,900 columns
    missing = [name for name in columns if name not in there]
    if missing:
        hint = nearest(missing[0], schema.names)
        raise UsageError(
            f"{snapshot.relative} has no column {', '.join(missing)}{hint}",
            remedy="`efd topics --json` lists the columns of each topic.",
        )
    return pa.schema([schema.field(name) for name in columns])


def read_file(snapshot: TableSnapshot, file: DataFile, schema: pa.Schema) -> pa.Table:
    """All rows of one file as `schema` has its columns: what the file lacks is null, what is narrower is widened."""
    store = snapshot.store
    relative = f"{snapshot.relative}/{file.path}"
    with (
        store.errors(f"read {relative}"),
        pq.ParquetFile(store.path(relative), filesystem=store.arrow_fs, pre_buffer=store.is_remote) as parquet,
    ):
        there = set(parquet.schema_arrow.names)
        part = parquet.read(columns=[name for name in schema.names if name in there], use_threads=True)
        return conform(part, schema, parquet.metadata.num_rows)


def conform(part: pa.Table, schema: pa.Schema, rows: int | None = None) -> pa.Table:
    """`part` with exactly the columns and types of `schema`."""
    count = part.num_rows if rows is None else rows
    arrays: list[Any] = []
    # Looked up once: a table's `column_names` builds a list, which made this two seconds at 820 columns.
    there = dict(zip(part.column_names, part.columns, strict=True))
    for field in schema:
        column = there.get(field.name)
        if column is not None:
            arrays.append(column if column.type.equals(field.type) else column.cast(field.type))
        else:
            arrays.append(pa.chunked_array([pa.nulls(count, field.type)]))
    return pa.Table.from_arrays(arrays, schema=schema)


def count_once(table: pa.Table) -> pa.Table:
    """Rows of `table` without repeated records, the first of each kept; all rows where the identity is not there.

    Producers' retries and mirrors make records twice (design.md §4): tiers, joins and exports count them once.
    """
    keys = [name for name in IDENTITY if name in table.column_names]
    if len(keys) < len(IDENTITY) - 1 or table.num_rows < 2:
        return table
    import polars as pl

    frame = pl.DataFrame(table.select(keys))
    mask = frame.select(pl.struct(keys).is_first_distinct().alias("first"))["first"].to_arrow()
    return table if pc.all(mask).as_py() else table.filter(mask)


def _with_order(snapshot: TableSnapshot, schema: pa.Schema) -> pa.Schema:
    """The schema with what sorting and cutting need."""
    whole = snapshot.schema
    order = ("time", "salIndex", "archive_source", "kafka_partition", "kafka_offset")
    extra = [whole.field(name) for name in order if name in whole.names and name not in schema.names]
    return pa.schema([*schema, *extra])


def _within(table: pa.Table, start_us: int | None, end_us: int | None) -> pa.Table:
    if (start_us is None and end_us is None) or "time" not in table.column_names:
        return table
    time = table["time"].cast(pa.int64())
    mask = pc.is_valid(time)
    if start_us is not None:
        mask = pc.and_(mask, pc.greater_equal(time, start_us))
    if end_us is not None:
        mask = pc.and_(mask, pc.less(time, end_us))
    return table if pc.all(mask).as_py() else table.filter(mask)
