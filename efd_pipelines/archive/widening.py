"""Widening: what happens when a field arrives with a wider type than its column (int → long, float → double).

The table's schema comes first, since delta-rs would take the wider file and leave the schema narrow; then the
narrow files of weeks that are not sealed are rewritten, under the guards `widen` and those of their slices, until a
fresh look finds none: a writer that was encoding for the narrow table meanwhile may still add one (delta-facts). Plain
Parquet readers fail on a mixture; a sealed week is none, and keeps its types until it is sealed again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from efd_pipelines.archive.delta_log import Commit
from efd_pipelines.archive.files import DataFile, write_data_file
from efd_pipelines.archive.form import form_of, survey, write_merged
from efd_pipelines.archive.reading import read_file
from efd_pipelines.archive.runs import Room, Run, merged
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.slices import QUARANTINE, seal_guard, slice_guard
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table, widen
from efd_pipelines.errors import ArchiveError, StaleWriter
from efd_pipelines.topics.layout import Column, arrow_field

GUARD = "widen"
_FILES_OF_A_COMMIT = 32


def needs_widening(held: Iterable[Column], columns: Iterable[Column]) -> bool:
    """Whether a column of the table is narrower than it must be."""
    types = {column.name: column.type for column in held}
    return any(not types.get(column.name, column.type).equals(column.type) for column in columns)


def widen_table(snapshot: TableSnapshot, columns: Iterable[Column], run: str) -> tuple[TableSnapshot, list[Commit]]:
    """The table with columns as wide as `columns`, its files rewritten; and the commits that did it.

    Raises:
        StaleWriter: another writer changed the table; nothing is half done, the next attempt goes on.
    """
    current = widen(snapshot, pa.schema([arrow_field(column) for column in columns]))
    made: list[Commit] = []
    while narrow := _narrow_files(current)[:_FILES_OF_A_COMMIT]:
        made.append(_rewrite(current, narrow, run))
        fresh = open_table(current.store, current.relative, partition=current.partition)
        if fresh is None:
            raise StaleWriter(f"{current.relative} is gone")
        current = fresh
    return current, made


def _narrow_files(snapshot: TableSnapshot) -> list[DataFile]:
    schema = snapshot.schema
    return [file for file in snapshot.files() if not _is_sealed(snapshot, file) and _is_narrow(snapshot, file, schema)]


def _is_sealed(snapshot: TableSnapshot, file: DataFile) -> bool:
    return snapshot.transaction_version(seal_guard(file.week)) is not None


def _is_narrow(snapshot: TableSnapshot, file: DataFile, schema: pa.Schema) -> bool:
    return any(not field.type.equals(schema.field(field.name).type) for field in file_schema(snapshot, file))


def file_schema(snapshot: TableSnapshot, file: DataFile) -> pa.Schema:
    """The columns of a file, as it was written."""
    path = f"{snapshot.relative}/{file.path}"
    store = snapshot.store
    with store.errors(f"read {path}"):
        return pq.read_schema(store.path(path), filesystem=store.arrow_fs)


def _rewrite(snapshot: TableSnapshot, files: Sequence[DataFile], run: str) -> Commit:
    guards = [GUARD, *sorted({slice_guard(file.slice) for file in files})]
    reached = {guard: snapshot.transaction_version(guard) for guard in guards}
    schemas = WriterSchemas(snapshot.store)
    added = [_widened(snapshot, file, schemas) for file in files]
    return commit(
        snapshot.store,
        snapshot.relative,
        snapshot,
        add=added,
        remove=files,
        transactions={guard: (version, (version or 0) + 1) for guard, version in reached.items()},
        schema=snapshot.schema,
        note={"kind": "widen", "run": run},
        partition=snapshot.partition,
        rearranges=True,
    )


def _widened(snapshot: TableSnapshot, file: DataFile, schemas: WriterSchemas) -> DataFile:
    """The file with the table's types: of the archive's weeks as a merge writes it, whatever its size."""
    whole, columns = snapshot.schema, file_schema(snapshot, file)
    if "archive_schema" in columns.names and file.week != QUARANTINE:
        return _merged_alone(snapshot, file, schemas)
    rows = read_file(snapshot, file, pa.schema([whole.field(name) for name in columns.names]))
    return write_data_file(snapshot.store, snapshot.relative, file.week, file.slice, rows, partition=snapshot.partition)


def _merged_alone(snapshot: TableSnapshot, file: DataFile, schemas: WriterSchemas) -> DataFile:
    one = survey(snapshot, file)
    form = form_of(snapshot, [one], schemas)
    with tempfile.TemporaryDirectory(prefix="efd-widen-") as scratch:
        windows = merged([Run(snapshot, one.file, form, one.low, Room(Path(scratch)))])
        written = write_merged(snapshot, file.week, file.slice, form, windows)
    if written is None or written.rows != file.rows:
        raise ArchiveError(
            f"{file.path} of {snapshot.relative} does not have the {file.rows} rows that the log says",
            remedy="Nothing was changed. `efd archive verify --deep` says which files are damaged.",
        )
    return written
