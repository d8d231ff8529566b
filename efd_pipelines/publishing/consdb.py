"""ConsDB: chosen columns of the 1 s tier in PostgreSQL, so that they can be joined to the exposures in SQL.

`time` is the window's beginning in UTC, `tai` the same in TAI, as `obs_start` and `obs_end` of an exposure are.

A slice of the tier is written in one transaction: its rows are deleted, copied in, and its digest noted in
`efd_1s.published`. What is noted with the digest that the slice now has is left alone, so a run can be repeated, and
goes on where one was killed. SQLite, embedded, has the same tables without partitions. What the tables are called and
have: `consdb_tables.py`; which weeks are kept: `consdb_weeks.py`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.schema import CreateTable, SetColumnComment

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import good_files, read_file
from efd_pipelines.archive.slices import Slice
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.exposures.consdb import ConsDB
from efd_pipelines.exposures.identifiers import check_identifier
from efd_pipelines.publishing.consdb_tables import (
    MAX_COLUMNS,
    POSTGRES,
    PUBLISHED,
    TierColumn,
    TierTable,
    TooWide,
    chosen_columns,
    noted_table,
    within,
)
from efd_pipelines.publishing.consdb_weeks import drop_weeks, due_weeks, has_run_out
from efd_pipelines.tiers.tier import TIERS, aggregated
from efd_pipelines.times import Week, from_microseconds, tai_datetimes_from_utc_us
from efd_pipelines.topics.names import Dataset, match

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.configuration import ConsdbPolicy

Progress = Callable[[str, int, int], None]
"""Called with the dataset, slices done, and slices in all."""

TIER = TIERS["1s"]
_ROWS = 5000


@dataclass(slots=True)
class ConsdbResult:
    """What a run did: rows and slices written, slices found as they were, weeks dropped."""

    rows: int = 0
    slices: int = 0
    unchanged: int = 0
    tables: int = 0
    dropped: int = 0
    seconds: float = 0.0
    by_component_week: dict[tuple[str, str], int] = field(default_factory=dict)


def publish_consdb(
    archive: Archive,
    datasets: Iterable[Dataset] | None = None,
    weeks: Collection[str] | None = None,
    *,
    again: bool = False,
    progress: Progress | None = None,
) -> ConsdbResult:
    """Writes what of the policy's datasets has changed since it was written; all weeks by default.

    Weeks that the policy keeps no longer are not written, and where all weeks are meant those that are there go.

    Args:
        again: write also what is noted as written.

    Raises:
        DatabaseUnavailable: the database did not answer; slices written before stand.
        DataError: it refuses a table.
        StoreUnavailable: the archive's store did not answer.
    """
    started = time.monotonic()
    settings = archive.settings
    policy, result = settings.configuration.publishing.consdb_1s, ConsdbResult()
    wanted = [one for one in (archive.datasets() if datasets is None else datasets) if _columns_of(policy, one)]
    chosen = [one for one in sorted(set(wanted)) if aggregated(one, settings.configuration, TIER)]
    if chosen:
        with ConsDB(settings.require_consdb()) as consdb:
            for dataset in chosen:
                snapshot = open_table(archive.store, archive.relative(dataset, TIER.name))
                if snapshot is not None:
                    work = _Publishing(consdb, policy, dataset, snapshot)
                    work.publish(weeks, again, result, progress)
    if weeks is None:
        result.dropped = drop_weeks(archive, due_weeks(archive), f"kept for {policy.retention_days} days")
    result.seconds = time.monotonic() - started
    return result


@dataclass(slots=True)
class _Publishing:
    """One dataset on its way into its table."""

    consdb: ConsDB
    policy: ConsdbPolicy
    dataset: Dataset
    snapshot: TableSnapshot

    @property
    def schema(self) -> str:
        return self.policy.schema_name

    def publish(
        self, weeks: Collection[str] | None, again: bool, result: ConsdbResult, progress: Progress | None
    ) -> None:
        columns = chosen_columns(self.snapshot.schema, _columns_of(self.policy, self.dataset))
        target = TierTable(self.consdb, self.dataset, self.schema, columns)
        there = _slices(self.snapshot, weeks)
        slices = {key: files for key, files in there.items() if not has_run_out(self.policy, Slice.parse(key).week)}
        noted = self._noted()
        result.tables += 1
        changed = {key: files for key, files in slices.items() if again or noted.get(key) != _digest(files, columns)}
        result.unchanged += len(slices) - len(changed)
        if not changed:
            return
        self._ensure(target, sorted({Slice.parse(key).week for key in changed}, key=lambda week: week.start_us))
        for number, (key, files) in enumerate(changed.items()):
            rows = self._write(target, Slice.parse(key), files)
            result.rows += rows
            result.slices += 1
            of = (self.dataset.component, Slice.parse(key).week.key)
            result.by_component_week[of] = result.by_component_week.get(of, 0) + rows
            if progress is not None:
                progress(self.dataset.text, number + 1, len(changed))

    def _noted(self) -> dict[str, str]:
        noted = noted_table(self.consdb, self.schema)
        with self.consdb.reading(f"Reading {self.schema}.{PUBLISHED}") as connection:
            if not self.consdb.has_table(connection, noted):
                return {}
            query = sa.select(noted.c.slice, noted.c.digest).where(noted.c.topic == self.dataset.text)
            return {row.slice: row.digest for row in connection.execute(query)}

    def _ensure(self, target: TierTable, weeks: Sequence[Week]) -> None:
        """Makes the tables, the columns and the weeks' partitions that are not there."""
        table, noted = target.table(), noted_table(self.consdb, self.schema)
        if len(table.columns) > MAX_COLUMNS:
            raise TooWide(f"{self.schema}.{target.name} would have {len(table.columns)} columns")
        with self.consdb.migrating(f"Making {self.schema}.{target.name}") as connection:
            self.consdb.create_schema(connection, self.schema)
            noted.create(connection, checkfirst=True)
            if self.consdb.has_table(connection, table):
                self._add_columns(connection, table)
            else:
                connection.execute(CreateTable(table))
            if not self.consdb.is_sqlite:
                for column in table.columns:
                    connection.execute(SetColumnComment(column))
                for week in weeks:
                    self._add_partition(connection, target, week)

    def _add_columns(self, connection: sa.Connection, table: sa.Table) -> None:
        held = {one["name"] for one in sa.inspect(connection).get_columns(table.name, schema=table.schema)}
        quote = connection.dialect.identifier_preparer
        for column in table.columns:
            if column.name not in held:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(
                    f"ALTER TABLE {quote.format_table(table)} ADD COLUMN {quote.format_column(column)} {kind}"
                )

    def _add_partition(self, connection: sa.Connection, target: TierTable, week: Week) -> None:
        name, whole = check_identifier(target.partition(week)), check_identifier(target.name)
        connection.exec_driver_sql(
            f'CREATE TABLE IF NOT EXISTS "{self.schema}"."{name}" PARTITION OF "{self.schema}"."{whole}" '
            f"FOR VALUES FROM ('{week.key}') TO ('{week.end:%Y-%m-%d}')"
        )

    def _write(self, target: TierTable, part: Slice, files: Sequence[DataFile]) -> int:
        """One slice in one transaction."""
        table, noted = target.table(), noted_table(self.consdb, self.schema)
        rows = self._rows(target, files)
        record = {
            "topic": self.dataset.text,
            "slice": part.key,
            "week": part.week.key,
            "digest": _digest(files, target.columns),
            "rows": len(rows),
            "written_at": datetime.now(UTC).replace(tzinfo=None),
        }
        with self.consdb.writing(f"Writing {self.schema}.{target.name}") as connection:
            connection.execute(sa.delete(table).where(within(table, part.start_us, part.end_us)))
            if self.consdb.is_sqlite:
                names = [column.name for column in table.columns]
                for first in range(0, len(rows), _ROWS):
                    some = rows[first : first + _ROWS]
                    connection.execute(sa.insert(table), [dict(zip(names, row, strict=True)) for row in some])
            elif rows:
                _copy(connection, table, rows)
            connection.execute(self.consdb.upsert(noted), [record])
        return len(rows)

    def _rows(self, target: TierTable, files: Sequence[DataFile]) -> list[tuple[Any, ...]]:
        there = set(self.snapshot.schema.names)
        names = [name for name in ("time", "salIndex", "count") if name in there]
        schema = pa.schema([self.snapshot.schema.field(name) for name in names])
        for one in target.columns:
            schema = schema.append(self.snapshot.schema.field(one.source))
        rows = pa.concat_tables([read_file(self.snapshot, file, schema) for file in files])
        times = rows["time"].cast(pa.int64()).to_numpy()
        utc = [from_microseconds(int(time_us)).replace(tzinfo=None) for time_us in times]
        tai = tai_datetimes_from_utc_us(times.view("datetime64[us]")).tolist()
        index = rows["salIndex"].to_pylist() if "salIndex" in names else [0] * rows.num_rows
        index = [value or 0 for value in index]
        columns = [rows[one.source].to_pylist() for one in target.columns]
        return list(zip(utc, tai, index, rows["count"].to_pylist(), *columns, strict=True))


def _copy(connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Binary COPY into a staging table of this transaction, and from there into the partitions."""
    quote = connection.dialect.identifier_preparer
    names = ", ".join(quote.format_column(column) for column in table.columns)
    whole = quote.format_table(table)
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE efd_staging (LIKE {whole}) ON COMMIT DROP")
    kinds = [POSTGRES[type(column.type)] for column in table.columns]
    with connection.connection.cursor().copy(f"COPY efd_staging ({names}) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(kinds)
        for row in rows:
            copy.write_row(row)
    connection.exec_driver_sql(f"INSERT INTO {whole} ({names}) SELECT {names} FROM efd_staging")  # noqa: S608


def _columns_of(policy: ConsdbPolicy, dataset: Dataset) -> tuple[str, ...]:
    """The globs of columns that are wanted of a dataset."""
    return tuple(glob for one in policy.tables if match([one.topic], dataset.text) for glob in one.columns)


def _slices(snapshot: TableSnapshot, weeks: Collection[str] | None) -> dict[str, list[DataFile]]:
    found: dict[str, list[DataFile]] = {}
    for file in good_files(snapshot, weeks):
        found.setdefault(file.slice, []).append(file)
    return found


def _digest(files: Sequence[DataFile], columns: Sequence[TierColumn]) -> str:
    """What a slice is: its files, whose names carry hashes of their content, and the columns chosen."""
    named = [sorted(file.path for file in files), [(one.source, one.name) for one in columns]]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()
