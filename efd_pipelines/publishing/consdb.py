"""ConsDB: chosen columns of the 1 s tier in PostgreSQL, so that they can be joined to the exposures in SQL.

`efd_1s.<component>_<topic>`, a row for each window and salIndex; in PostgreSQL partitioned by week, so that a week
expires by dropping its partition. `time` is the window's beginning in UTC, `tai` the same in TAI, as `obs_start` and
`obs_end` of an exposure are. Names are lower case with underscores, of at most 63 bytes; units and descriptions are
comments.

A slice of the tier is written in one transaction: its rows are deleted, copied in, and its digest noted in
`efd_1s.published`. What is noted with the digest that the slice now has is left alone, so a run can be repeated, and
goes on where one was killed. SQLite, embedded, has the same tables without partitions.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.schema import CreateTable, SetColumnComment

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import good_files, read_file
from efd_pipelines.archive.slices import Slice
from efd_pipelines.archive.tables import TableSnapshot, open_table
from efd_pipelines.errors import DataError
from efd_pipelines.exposures.consdb import ConsDB
from efd_pipelines.exposures.identifiers import MAX_IDENTIFIER_BYTES, check_identifier
from efd_pipelines.tiers.tier import TIERS, aggregated
from efd_pipelines.times import Week, from_microseconds, tai_datetimes_from_utc_us
from efd_pipelines.topics.layout import column_of
from efd_pipelines.topics.names import Dataset, match

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.configuration import ConsdbPolicy

Progress = Callable[[str, int, int], None]
"""Called with the dataset, slices done, and slices in all."""

TIER = TIERS["1s"]
PUBLISHED = "published"
MAX_COLUMNS = 1600
_FIXED = ("time", "tai", "sal_index", "window_count")
_PARTITION = "_yyyymmdd"
_HASH = 8
_ROWS = 5000


class TooWide(DataError):
    """A table that PostgreSQL would not take."""

    remedy = "Choose fewer columns in `publishing.consdb_1s` of EFD_CONFIG."


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


@dataclass(frozen=True, slots=True)
class TierColumn:
    """A column of a tier, and the column of ConsDB that has it."""

    source: str
    name: str
    kind: Any
    comment: str


@dataclass(frozen=True, slots=True)
class TierTable:
    """One dataset's table in ConsDB."""

    consdb: ConsDB
    dataset: Dataset
    schema: str
    columns: tuple[TierColumn, ...]

    @property
    def name(self) -> str:
        return table_name(self.dataset)

    def table(self) -> sa.Table:
        """The table, of which rows are one for each window and salIndex."""
        fixed: list[sa.Column[Any]] = [
            sa.Column("time", sa.DateTime, primary_key=True, comment="Beginning of the window, UTC."),
            sa.Column("tai", sa.DateTime, nullable=False, comment="The same in TAI, as obs_start and obs_end are."),
            sa.Column("sal_index", sa.Integer, primary_key=True, autoincrement=False, comment="Which device; or 0."),
            sa.Column("window_count", sa.BigInteger, comment="Samples in the window."),
        ]
        named = [sa.Column(one.name, one.kind, comment=one.comment) for one in self.columns]
        made = self.consdb.table(self.schema, self.name, *fixed, *named)
        if not self.consdb.is_sqlite:
            made.dialect_options["postgresql"]["partition_by"] = "RANGE (time)"
        return made

    def partition(self, week: Week) -> str:
        """The name of a week's partition."""
        return f"{self.name}_{week.key.replace('-', '')}"


def publish_consdb(
    archive: Archive,
    datasets: Iterable[Dataset] | None = None,
    weeks: Collection[str] | None = None,
    *,
    again: bool = False,
    progress: Progress | None = None,
) -> ConsdbResult:
    """Writes what of the policy's datasets has changed since it was written; all weeks by default.

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
                    work = _Publishing(consdb, policy.schema_name, dataset, snapshot, _columns_of(policy, dataset))
                    work.publish(weeks, again, result, progress)
    result.seconds = time.monotonic() - started
    return result


def drop_weeks(consdb: ConsDB, schema: str, dataset: Dataset, weeks: Sequence[Week]) -> int:
    """Lets weeks of a dataset's table go; how many there were. What is noted of them goes with them.

    Raises:
        DatabaseUnavailable: nothing of the week was changed.
    """
    table, noted = TierTable(consdb, dataset, schema, ()), _noted_table(consdb, schema)
    dropped = 0
    for week in weeks:
        with consdb.migrating(f"Dropping {week} of {schema}.{table.name}") as connection:
            if not consdb.has_table(connection, noted):
                return dropped
            mine = sa.and_(noted.c.topic == dataset.text, noted.c.week == week.key)
            found = connection.execute(sa.delete(noted).where(mine)).rowcount
            if consdb.is_sqlite:
                whole = table.table()
                if consdb.has_table(connection, whole):
                    connection.execute(sa.delete(whole).where(_within(whole, week.start_us, week.end_us)))
            else:
                name = check_identifier(table.partition(week))
                connection.exec_driver_sql(f'DROP TABLE IF EXISTS "{schema}"."{name}"')
            dropped += bool(found)
    return dropped


def published_weeks(consdb: ConsDB, schema: str) -> dict[Dataset, list[Week]]:
    """The weeks of which something is noted as written, by dataset."""
    noted = _noted_table(consdb, schema)
    with consdb.reading(f"Reading {schema}.{PUBLISHED}") as connection:
        if not consdb.has_table(connection, noted):
            return {}
        found: dict[Dataset, list[Week]] = {}
        rows = connection.execute(sa.select(noted.c.topic, noted.c.week).distinct().order_by(noted.c.week))
        for topic, week in rows:
            found.setdefault(Dataset.parse(topic), []).append(Week.parse(week))
        return found


def expire(archive: Archive, before: Week) -> int:
    """Drops all weeks before one, of all datasets; how many."""
    schema = archive.settings.configuration.publishing.consdb_1s.schema_name
    with ConsDB(archive.settings.require_consdb()) as consdb:
        return sum(
            drop_weeks(consdb, schema, dataset, [week for week in weeks if week.start_us < before.start_us])
            for dataset, weeks in published_weeks(consdb, schema).items()
        )


@dataclass(slots=True)
class _Publishing:
    """One dataset on its way into its table."""

    consdb: ConsDB
    schema: str
    dataset: Dataset
    snapshot: TableSnapshot
    globs: Sequence[str]

    def publish(
        self, weeks: Collection[str] | None, again: bool, result: ConsdbResult, progress: Progress | None
    ) -> None:
        columns = chosen_columns(self.snapshot.schema, self.globs)
        target = TierTable(self.consdb, self.dataset, self.schema, columns)
        slices = _slices(self.snapshot, weeks)
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
        noted = _noted_table(self.consdb, self.schema)
        with self.consdb.reading(f"Reading {self.schema}.{PUBLISHED}") as connection:
            if not self.consdb.has_table(connection, noted):
                return {}
            query = sa.select(noted.c.slice, noted.c.digest).where(noted.c.topic == self.dataset.text)
            return {row.slice: row.digest for row in connection.execute(query)}

    def _ensure(self, target: TierTable, weeks: Sequence[Week]) -> None:
        """Makes the tables, the columns and the weeks' partitions that are not there."""
        table, noted = target.table(), _noted_table(self.consdb, self.schema)
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
        table, noted = target.table(), _noted_table(self.consdb, self.schema)
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
            connection.execute(sa.delete(table).where(_within(table, part.start_us, part.end_us)))
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
    kinds = [_POSTGRES[type(column.type)] for column in table.columns]
    with connection.connection.cursor().copy(f"COPY efd_staging ({names}) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(kinds)
        for row in rows:
            copy.write_row(row)
    connection.exec_driver_sql(f"INSERT INTO {whole} ({names}) SELECT {names} FROM efd_staging")  # noqa: S608


_POSTGRES: Mapping[Any, str] = {
    sa.DateTime: "timestamp",
    sa.Integer: "int4",
    sa.BigInteger: "int8",
    sa.Double: "float8",
    sa.Boolean: "bool",
    sa.Text: "text",
}
_KINDS: Mapping[pa.DataType, Any] = {
    pa.float32(): sa.Double,
    pa.float64(): sa.Double,
    pa.int32(): sa.Integer,
    pa.int64(): sa.BigInteger,
    pa.bool_(): sa.Boolean,
    pa.string(): sa.Text,
}


def chosen_columns(schema: pa.Schema, globs: Sequence[str]) -> tuple[TierColumn, ...]:
    """The columns of a tier that any of the globs means, in its order; lists and bytes are no columns of a table."""
    found: list[TierColumn] = []
    taken = set(_FIXED)
    for column in schema:
        if column.name in ("time", "salIndex", "count", "window_size") or column.type not in _KINDS:
            continue
        if any(fnmatchcase(column.name, glob) for glob in globs):
            name = identifier(column.name, taken)
            taken.add(name)
            found.append(TierColumn(column.name, name, _KINDS[column.type], _comment(column)))
    return tuple(found)


def _comment(column: pa.Field[Any]) -> str:
    """What the column is, and its unit."""
    origin = column_of(column)
    metadata = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
    units = (origin.units if origin else metadata.get("units", "")) or "unitless"
    what = f"{metadata.get('statistic', '')} of {origin.field if origin else column.name}".strip()
    description = origin.description if origin else ""
    return f"{what}. {description} [{units}]".replace(".. ", ". ")


def table_name(dataset: Dataset) -> str:
    """The name of a dataset's table; what would be too long with a partition's ending is cut and gets a hash."""
    bare = f"{dataset.component.lower()}_{dataset.name}".replace("@", "_").replace(".", "_")
    return identifier(bare, (), MAX_IDENTIFIER_BYTES - len(_PARTITION), unique=dataset.text)


def identifier(
    text: str, taken: Collection[str] = (), most: int = MAX_IDENTIFIER_BYTES, *, unique: str | None = None
) -> str:
    """A name that PostgreSQL keeps as it is: lower case with underscores.

    What would be too long, or is taken, is cut and ends with a hash of `unique` (the text itself by default).

    >>> identifier("mean_actualPosition")
    'mean_actual_position'
    """
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", text)
    name = re.sub(r"[^a-z0-9_]", "_", snake.lower())
    name = f"_{name}" if name[:1].isdigit() else name
    if len(name) <= most and name not in taken:
        return name
    digest = hashlib.sha256((unique or text).encode()).hexdigest()[:_HASH]
    return f"{name[: most - _HASH - 1]}_{digest}"


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


def _within(table: sa.Table, start_us: int, end_us: int) -> sa.ColumnElement[bool]:
    start, end = (from_microseconds(time_us).replace(tzinfo=None) for time_us in (start_us, end_us))
    return sa.and_(table.c.time >= start, table.c.time < end)


def _noted_table(consdb: ConsDB, schema: str) -> sa.Table:
    """What has been written, slice by slice."""
    return consdb.table(
        schema,
        PUBLISHED,
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("slice", sa.Text, primary_key=True),
        sa.Column("week", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("written_at", sa.DateTime, nullable=False),
    )
