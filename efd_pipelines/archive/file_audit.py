"""One file read whole: whether its bytes are what was written, and its rows what they must be.

The name carries a hash of the content, so any bit that changed is seen without decoding. What a file with the right
hash may still have wrong was written wrong or belongs elsewhere: rows of another slice, out of order, of a schema
that is not theirs, with a time that is not that of their stamp, or set aside without need.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from efd_pipelines.archive.delta_log import slice_of_path
from efd_pipelines.archive.encoding import AHEAD_US, held_columns
from efd_pipelines.archive.files import DataFile, time_range
from efd_pipelines.archive.findings import REPORT, RESTORE, Audit, counted
from efd_pipelines.archive.ledger import hash_of_path
from efd_pipelines.archive.quarantine import CLOCK_ERROR
from efd_pipelines.archive.schemas import WriterSchemas
from efd_pipelines.archive.slices import DEAD, QUARANTINE, Slice
from efd_pipelines.archive.store import Store
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.errors import StoreUnavailable
from efd_pipelines.times import FIRST_WEEK, event_time_us
from efd_pipelines.topics.layout import plan_layout, wider
from efd_pipelines.topics.names import Dataset
from efd_pipelines.topics.schemas import TopicSchema

_COORDINATES = ("archive_source", "kafka_partition", "kafka_offset")
_ORDER = ("salIndex", "time", *_COORDINATES)
_SYSTEM = ("kafka_timestamp", "archive_schema", "archive_reason", CLOCK_ERROR)
_BLOCK_BYTES = 8 * 1024 * 1024
_HASHES: dict[int, Any] = {32: xxhash.xxh3_128, 24: hashlib.sha256}
"""By the length of the hash in the name: drained files, and those of the first release."""


class FileAudit:
    """Audits the files of one dataset, one after the other."""

    def __init__(self, audit: Audit, dataset: Dataset, snapshot: TableSnapshot, schemas: WriterSchemas) -> None:
        self._audit = audit
        self._dataset = dataset
        self._snapshot = snapshot
        self._schemas = schemas
        self._schema = snapshot.schema
        self._types = {column.name: column.type for column in self._schema}
        self._time_field = snapshot.description.get("time_field")
        self._arrays = snapshot.description.get("arrays")
        self._held = held_columns(self._schema)
        self._field_of = {column.name: column.field for column in self._held}
        self._known: dict[int, _Declared | None] = {}
        self.unread_rows = 0

    def rows_of(self, file: DataFile) -> pa.Table | None:
        """Audits a file; gives the columns that tell its rows apart, None where it cannot be read."""
        relative = f"{self._snapshot.relative}/{file.path}"
        store = self._snapshot.store
        size = store.size(relative)
        if size is None:
            self._gone(file)
            return None
        if size != file.size_bytes:
            self._found(file, "size", f"has {size:,} bytes, {file.size_bytes:,} were written", RESTORE)
        elif len(hash_of_path(file.path)) not in _HASHES:
            self._found(file, "foreign", "has no name that this project gives")
        elif not _is_as_named(store, relative):
            self._found(file, "content", "does not have the bytes that were written", RESTORE)
        try:
            return self._read(file, relative)
        except (StoreUnavailable, pa.ArrowException) as error:
            self._missing(file, getattr(error, "message", str(error)))
            return None

    def _found(self, file: DataFile, kind: str, detail: str, remedy: str = REPORT) -> None:
        self._audit.found(self._dataset.text, file.week, kind, f"{file.path}: {detail}", remedy)

    def _gone(self, file: DataFile) -> None:
        """A file that is not there; the plain audit has told of those that were gone when it looked."""
        place = self._dataset.text, file.path
        if place not in self._audit.gone:
            self._missing(file, "not in the store")
            return
        counted_rows = self._audit.gone[place]
        self.unread_rows += file.rows
        self._audit.missing += 0 if counted_rows is None else file.rows - counted_rows

    def _missing(self, file: DataFile, detail: str) -> None:
        self.unread_rows += file.rows
        self._audit.missing += file.rows
        self._found(file, "unreadable", f"{detail}; {counted(file.rows, 'row')}", RESTORE)

    def _read(self, file: DataFile, relative: str) -> pa.Table | None:
        store = self._snapshot.store
        with (
            store.errors(f"read {relative}"),
            pq.ParquetFile(store.path(relative), filesystem=store.arrow_fs) as parquet,
        ):
            rows = self._told(parquet)
            if rows.num_rows != file.rows:
                self._found(file, "rows", f"has {rows.num_rows:,} rows, the log says {file.rows:,}", RESTORE)
            self._check_columns(file, parquet.schema_arrow)
            if not set(_COORDINATES) <= set(rows.column_names):
                self._found(file, "schema", "lacks the archive's columns")
                return None
            self._check_rows(file, rows)
            if file.week != DEAD:
                self._check_schemas(file, rows, parquet)
            return rows

    def _told(self, parquet: Any) -> pa.Table:
        """The columns that tell rows apart, of the table's types as far as they can be."""
        there = [name for name in parquet.schema_arrow.names if name in self._types and _is_telling(name)]
        rows = parquet.read(columns=there)
        for n, name in enumerate(rows.column_names):
            kind = self._types[name]
            if not rows.schema.field(n).type.equals(kind):
                with contextlib.suppress(pa.ArrowException):  # `_check_columns` says so
                    rows = rows.set_column(n, name, rows[name].cast(kind))
        return rows.select([name for name in there if rows.schema.field(name).type.equals(self._types[name])])

    def _check_columns(self, file: DataFile, schema: pa.Schema) -> None:
        for column in schema:
            there = self._types.get(column.name)
            if there is None:
                self._found(file, "schema", f"has a column {column.name}, the table has not")
            elif wider(there, column.type) != there:
                self._found(file, "schema", f"{column.name} is {column.type}, the table's is {there}")

    def _check_rows(self, file: DataFile, rows: pa.Table) -> None:
        low, high = time_range(rows)
        if (low, high) != (file.time_min_us, file.time_max_us):
            self._found(file, "statistics", "its times are not those that the log says: readers would skip it")
        self._check_sources(file, rows)
        if not _is_sorted(rows):
            self._found(file, "order", "its rows are not sorted")
        if file.week == DEAD:
            self._check_dead(file, rows)
        elif file.week == QUARANTINE:
            self._check_quarantine(file, rows)
        else:
            self._check_slice(file, rows)
            self._check_times(file, rows)

    def _check_sources(self, file: DataFile, rows: pa.Table) -> None:
        """Rows have the coordinates of Kafka, or are history."""
        without = rows.filter(pc.is_null(rows["kafka_offset"]))["archive_source"]
        foreign = sum(1 for source in pc.unique(without).to_pylist() if not is_history(source))
        if foreign:
            self._found(file, "foreign", "has rows that came neither from Kafka nor from history")

    def _check_dead(self, file: DataFile, rows: pa.Table) -> None:
        nameless = rows["archive_reason"].null_count if "archive_reason" in rows.column_names else rows.num_rows
        if nameless:
            self._found(file, "foreign", f"{counted(nameless, 'row')} without a reason among the dead")

    def _check_quarantine(self, file: DataFile, rows: pa.Table) -> None:
        """Only rows whose time cannot be are set aside."""
        times = rows["time"].cast(pa.int64())
        received = rows["kafka_timestamp"].cast(pa.int64())
        is_ahead = pc.fill_null(pc.greater(times, pc.add(received, AHEAD_US)), True)
        is_early = pc.fill_null(pc.less(times, FIRST_WEEK.start_us), True)
        good = rows.num_rows - (pc.sum(pc.or_(is_ahead, is_early)).as_py() or 0)
        if good:
            self._found(file, "foreign", f"{counted(good, 'row')} in quarantine have a time that can be")

    def _check_slice(self, file: DataFile, rows: pa.Table) -> None:
        key = slice_of_path(file.path)
        try:
            of = Slice.parse(key)
        except ValueError:
            self._found(file, "foreign", "its name has no slice")
            return
        if of.week.key != file.week:
            self._found(file, "foreign", f"slice {key} does not belong to week {file.week}")
        times = rows["time"].cast(pa.int64())
        outside = pc.or_kleene(pc.less(times, of.start_us), pc.greater_equal(times, of.end_us))
        count = (pc.sum(outside).as_py() or 0) + times.null_count
        if count:
            self._found(file, "foreign", f"{counted(count, 'row')} not of slice {key}")

    def _check_times(self, file: DataFile, rows: pa.Table) -> None:
        """Event time is that of the stamp, for rows that came from Kafka; where a clock was wrong, less its error."""
        name = self._time_field
        if name not in rows.column_names or not pa.types.is_floating(rows[name].type):
            return
        stamps = rows[name].cast(pa.float64()).fill_null(np.nan).to_numpy()
        times = rows["time"].cast(pa.int64()).fill_null(0).to_numpy()
        if CLOCK_ERROR in rows.column_names:  # brought home from quarantine
            times = times + rows[CLOCK_ERROR].fill_null(0).to_numpy()
        from_kafka = pc.is_valid(rows["kafka_offset"]).to_numpy()
        wrong = from_kafka & (event_time_us(stamps) != times)
        count = int(wrong.sum())
        if count:
            self._found(file, "value", f"{counted(count, 'row')} with a time that is not that of their {name}")

    def _check_schemas(self, file: DataFile, rows: pa.Table, parquet: Any) -> None:
        """Rows have values where their schema has fields, and none where it has not."""
        there = set(parquet.schema_arrow.names)
        from_kafka = pc.is_valid(rows["kafka_offset"])
        for token in pc.unique(rows["archive_schema"]).to_pylist():
            if not token:  # JSON has none
                continue
            declared = self._declared(token)
            if declared is None:
                detail = f"its rows were written with schema {token}, which the archive does not have"
                self._found(file, "schema", detail, RESTORE)
                continue
            mask = pc.and_(pc.fill_null(pc.equal(rows["archive_schema"], token), False), from_kafka)
            for column in sorted(declared.telling):
                values = parquet.read(columns=[column])[column] if column in there else pa.nulls(rows.num_rows)
                self._check_column(file, column, pc.is_valid(values), mask, should=column in declared.required)

    def _check_column(self, file: DataFile, column: str, valid: Any, mask: Any, *, should: bool) -> None:
        wrong = pc.and_(mask, pc.invert(valid) if should else valid)
        count = pc.sum(wrong).as_py() or 0
        if count:
            what = "without a value" if should else "with a value"
            self._found(file, "schema", f"{counted(count, 'row')} {what} in {column}, against their schema")

    def _declared(self, token: int) -> _Declared | None:
        if token not in self._known:
            schema = self._schemas.text(token)
            self._known[token] = None if schema is None else self._compared(schema)
        return self._known[token]

    def _compared(self, schema: TopicSchema) -> _Declared:
        """What tells this schema from others of the same record."""
        others = [other for other in self._schemas.versions(schema) if other.token != schema.token]
        mine, required = self._columns(schema)
        differing: set[str] = set()
        fields = {field.name for field in schema.fields}
        for other in others:
            theirs, needed = self._columns(other)
            differing |= required - theirs
            differing |= {name for name in needed - mine if self._field_of.get(name) not in fields}
        return _Declared(frozenset(required), frozenset(differing))

    def _columns(self, schema: TopicSchema) -> tuple[set[str], set[str]]:
        """The columns of a schema, and those of them that always have a value."""
        layout = plan_layout(schema, arrays=self._arrays, held=self._held)
        nullable = {field.name for field in schema.fields if field.nullable}
        required = {column.name for column in layout.columns if column.element is None and column.field not in nullable}
        return {column.name for column in layout.columns}, required


@dataclass(frozen=True, slots=True)
class _Declared:
    """A schema's columns that always have a value, and those that tell it from its other versions."""

    required: frozenset[str]
    telling: frozenset[str]


def _is_telling(name: str) -> bool:
    return name in (*_ORDER, *_SYSTEM) or name.startswith("private_")


def is_history(source: str | None) -> bool:
    """Whether rows of this source did not come from Kafka."""
    return source is not None and source.startswith(("influx:", "file:"))


def _is_as_named(store: Store, relative: str) -> bool:
    """Whether the bytes have the hash that the name carries."""
    named = hash_of_path(relative)
    digest = _HASHES[len(named)]()
    with store.errors(f"read {relative}"), store.fs.open(store.path(relative), "rb") as data:
        while block := data.read(_BLOCK_BYTES):
            digest.update(block)
    return bool(digest.hexdigest()[: len(named)] == named)


def _is_sorted(rows: pa.Table) -> bool:
    keys = [(name, "ascending") for name in _ORDER if name in rows.column_names]
    order = pc.sort_indices(rows, sort_keys=keys).to_numpy()
    return bool(np.all(order[1:] > order[:-1]))
