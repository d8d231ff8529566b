"""ConsDB: the connection to the Consolidated Database, and its table of exposures.

PostgreSQL in production, SQLite embedded; the same statements for both. PostgreSQL has a schema per instrument
(`cdb_lsstcam.exposure`); SQLite has none, so there the schema is part of the table's name (`cdb_lsstcam_exposure`)
and everything stays in one file and one transaction. What is read: the exposures. Tables that we write: `results.py`.
`write_exposures` makes and fills an exposure table for the simulated observatory and for tests.

Errors of SQLAlchemy, psycopg and sqlite3 become ours here and nowhere else, and never carry the URL's password.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateSchema

from efd_pipelines.errors import DatabaseUnavailable, DataError, SettingsError
from efd_pipelines.exposures.identifiers import check_identifier
from efd_pipelines.exposures.subjects import EXPOSURE, Subject
from efd_pipelines.exposures.windows import Exposures
from efd_pipelines.times import Week, day_obs_interval, microseconds, tai_datetimes_from_utc_us

LOCK_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 10

_MIGRATION_LOCK = 0x0EFD
_WRITE_LOCK = 0x0EFE
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg", "sqlite": "sqlite"}


class ConsDB:
    """The database behind a SQLAlchemy URL. Connects when it is first used.

    Raises:
        SettingsError: the URL is none, or of another database than PostgreSQL and SQLite.
    """

    def __init__(self, url: str | SecretStr) -> None:
        self._url = _parse_url(url.get_secret_value() if isinstance(url, SecretStr) else url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._engine: sa.Engine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return self._url.render_as_string(hide_password=True)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def table(self, schema: str, name: str, *columns: sa.Column[Any] | sa.Constraint) -> sa.Table:
        """A table as the statements below see it; both names are checked.

        Raises:
            NameRejected: a name is not one.
        """
        check_identifier(schema)
        check_identifier(name)
        if self.is_sqlite:
            return sa.Table(f"{schema}_{name}", sa.MetaData(), *columns)
        return sa.Table(name, sa.MetaData(), *columns, schema=schema)

    def has_table(self, connection: sa.Connection, table: sa.Table) -> bool:
        return sa.inspect(connection).has_table(table.name, schema=table.schema)

    def upsert(self, table: sa.Table, keep: Sequence[str] = (), once: Sequence[str] = ()) -> sa.Insert:
        """An insert that updates the row with the same primary key.

        In columns of `keep` NULL overwrites nothing; those of `once` are only written with a new row.
        """
        keys = [column.name for column in table.primary_key]
        fixed = {*keys, *once}
        statement = sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)
        kept = set(keep)
        changes = {
            column.name: sa.func.coalesce(statement.excluded[column.name], column)
            if column.name in kept
            else statement.excluded[column.name]
            for column in table.columns
            if column.name not in fixed
        }
        return statement.on_conflict_do_update(index_elements=keys, set_=changes)

    @contextmanager
    def reading(self, what: str) -> Iterator[sa.Connection]:
        """A connection for reading; `what` is for messages.

        Raises:
            DatabaseUnavailable: the database does not answer.
            DataError: it refuses.
        """
        with self._mapped(what), self._connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self, what: str) -> Iterator[sa.Connection]:
        """One transaction: all of it is written, or nothing. A row locked by others is waited for, 30 s.

        Raises:
            DatabaseUnavailable: the database does not answer, is full, or stays locked; nothing was written.
            DataError: it refuses; nothing was written.
        """
        with self._mapped(what), self._connect() as connection:
            connection = connection.execution_options(efd_writes=True)
            with connection.begin():
                if not self.is_sqlite:
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
                yield connection

    def insert_new(self, table: sa.Table) -> sa.Insert:
        """An insert that leaves a row with the same primary key as it is."""
        statement = sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)
        return statement.on_conflict_do_nothing()

    def one_at_a_time(self, connection: sa.Connection, what: str) -> None:
        """Waits until no other transaction writes to the same; two that each wait for the other's rows could not."""
        if not self.is_sqlite:
            key = sa.func.hashtext(what)
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITE_LOCK, key)))

    @contextmanager
    def migrating(self, what: str) -> Iterator[sa.Connection]:
        """`writing`, one at a time over all processes, for changes of tables."""
        with self.writing(what) as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            yield connection

    def create_schema(self, connection: sa.Connection, schema: str) -> None:
        """Creates a schema where there is none; asks first, since creating needs rights that a writer may lack."""
        if not self.is_sqlite and not sa.inspect(connection).has_schema(check_identifier(schema)):
            connection.execute(CreateSchema(schema))

    def _connect(self) -> sa.Connection:
        if self._engine is None:
            self._engine = _create_engine(self._url)
        return self._engine.connect()

    @contextmanager
    def _mapped(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # psycopg's own come from COPY, which SQLAlchemy does not know.
            if isinstance(error, exc.SQLAlchemyError | sqlite3.Error) or _is_psycopg(error):
                raise self._error(error, what) from error
            raise

    def _error(self, error: Exception, what: str) -> DatabaseUnavailable | DataError:
        cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error
        reason = " ".join(str(cause).split()) or type(cause).__name__
        if self._url.password:
            reason = reason.replace(str(self._url.password), "***")
        return _classified(cause, f"{what} failed in ConsDB {self}: {reason}")


def _parse_url(text: str) -> sa.URL:
    remedy = "Set EFD_CONSDB_URL as postgresql://user:password@host/database or sqlite:///path."
    try:
        url = sa.make_url(text)
    except (exc.ArgumentError, ValueError):
        raise SettingsError("EFD_CONSDB_URL is no SQLAlchemy URL", remedy=remedy) from None
    backend = url.drivername.partition("+")[0]
    if backend not in _DRIVERS:
        raise SettingsError(f"EFD_CONSDB_URL is of {backend}, which is not supported", remedy=remedy)
    return url.set(drivername=_DRIVERS[backend])


def _create_engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(
            url, hide_parameters=True, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_TIMEOUT_S}
        )
    if url.database and url.database != ":memory:":
        _make_parent(Path(url.database))
    engine = sa.create_engine(url, hide_parameters=True, connect_args={"timeout": LOCK_TIMEOUT_S})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_parent(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseUnavailable(
            f"The directory of {file} cannot be made ({os.strerror(error.errno or 0)})"
        ) from error


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    """Transactions are ours (the driver begins none before DDL); a writer does not keep readers out."""
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer takes the lock at once: one that reads first and is overtaken could only fail."""
    writes = connection.get_execution_options().get("efd_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_REFUSED_BY_SQLITE = ("no such", "has no column", "syntax error", "too many", "not a database", "malformed")


def _classified(cause: BaseException, message: str) -> DatabaseUnavailable | DataError:
    """PostgreSQL tells by SQLSTATE, SQLite by words: what may pass by itself is `DatabaseUnavailable`."""
    state = getattr(cause, "sqlstate", None)
    text = str(cause).lower()
    if state == "53100" or "is full" in text:
        return DatabaseUnavailable(message, remedy="Make room for the database, then run again: nothing was written.")
    if state == "55P03" or "is locked" in text:
        return DatabaseUnavailable(message, remedy="Another client keeps it locked; run again: nothing was written.")
    if state == "42501":
        return DataError(message, remedy="Grant the user of EFD_CONSDB_URL the rights on this schema, then run again.")
    refused = state is not None and state[:2] in ("22", "23", "42", "0A", "54")
    refused = refused or isinstance(cause, sqlite3.IntegrityError | sqlite3.InterfaceError | sqlite3.DataError)
    refused = refused or (isinstance(cause, sqlite3.Error) and any(words in text for words in _REFUSED_BY_SQLITE))
    if refused or not (state or isinstance(cause, sqlite3.Error | exc.OperationalError) or _is_psycopg(cause)):
        return DataError(message, remedy="Compare the table with the configuration; nothing was written.")
    return DatabaseUnavailable(message)


def _is_psycopg(cause: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] == "psycopg" for kind in type(cause).__mro__)


_MEASURED = (
    *("s_ra", "s_dec", "sky_rotation", "azimuth", "altitude", "zenith_distance", "airmass"),
    *("exp_time", "shut_time", "dark_time", "focus_z", "dimm_seeing"),
    *("air_temp", "pressure", "humidity", "wind_speed", "wind_dir"),
)


def exposure_columns() -> list[sa.Column[Any]]:
    """The columns of `cdb_<instrument>.exposure` that we make where there is no such table (efd-facts.md §5.3).

    Times are naive TAI.
    """
    return [
        sa.Column("day_obs", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq_num", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("exposure_id", sa.BigInteger, nullable=False, unique=True),
        sa.Column("exposure_name", sa.String(20), nullable=False),
        sa.Column("controller", sa.String(1)),
        sa.Column("physical_filter", sa.String(32)),
        sa.Column("band", sa.String(32)),
        sa.Column("img_type", sa.String(64)),
        sa.Column("science_program", sa.String(64)),
        sa.Column("observation_reason", sa.String(68)),
        sa.Column("target_name", sa.String(64)),
        sa.Column("group_id", sa.String(64)),
        sa.Column("cur_index", sa.Integer),
        sa.Column("max_index", sa.Integer),
        sa.Column("exp_midpt", sa.DateTime),
        sa.Column("obs_start", sa.DateTime),
        sa.Column("obs_end", sa.DateTime),
        sa.Column("emulated", sa.Boolean),
        sa.Column("simulated", sa.Boolean),
        *(sa.Column(name, sa.Double) for name in _MEASURED),
    ]


def write_exposures(url: str | SecretStr, instrument_schema: str, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes exposures, the table too where there is none; a row with the same day_obs and seq_num is replaced.

    Rows have the columns of `exposure_columns`, those left out are NULL; `obs_start`, `obs_end` and `exp_midpt` are
    naive TAI. The visits, `visit1`, are a view of them. For the simulated observatory and for tests: in production the
    header service writes this table.

    Raises:
        DataError: a row has another column, or a time with a zone.
        DatabaseUnavailable: nothing was written.
    """
    with ConsDB(url) as consdb:
        table = consdb.table(instrument_schema, "exposure", *exposure_columns())
        records = [_exposure_record(row, table) for row in rows]
        with consdb.migrating("Writing exposures") as connection:
            consdb.create_schema(connection, instrument_schema)
            table.create(connection, checkfirst=True)
            _make_visits(consdb, connection, instrument_schema, table)
            if records:
                connection.execute(consdb.upsert(table), records)
    return len(records)


def _make_visits(consdb: ConsDB, connection: sa.Connection, schema: str, exposures: sa.Table) -> None:
    """The visits as the observatory has them: each exposure is one."""
    visits = consdb.table(schema, "visit1")
    if consdb.has_table(connection, visits):
        return
    quote = connection.dialect.identifier_preparer
    columns = ["exposure_id AS visit_id"]
    columns += [quote.quote(column.name) for column in exposures.columns if column.name != "exposure_id"]
    connection.exec_driver_sql(
        f"CREATE VIEW {quote.format_table(visits)} AS SELECT {', '.join(columns)} "  # noqa: S608 - quoted names
        f"FROM {quote.format_table(exposures)}"
    )


def _exposure_record(row: Mapping[str, Any], table: sa.Table) -> dict[str, Any]:
    unknown = sorted(set(row) - set(table.columns.keys()))
    if unknown:
        raise DataError(f"The exposure table has no column {', '.join(unknown)}", remedy="Leave it out.")
    for name in ("obs_start", "obs_end", "exp_midpt"):
        if getattr(row.get(name), "tzinfo", None) is not None:
            raise DataError(f"{name} of an exposure has a time zone", remedy="Give it as naive TAI.")
    return {column.name: row.get(column.name) for column in table.columns}


def has_visits(consdb: ConsDB, schema: str) -> bool:
    """Whether ConsDB has the visits of an instrument.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with consdb.reading(f"Reading {schema}.visit1") as connection:
        return consdb.has_table(connection, consdb.table(schema, "visit1"))


def read_exposures(
    consdb: ConsDB,
    schema: str,
    *,
    subject: Subject = EXPOSURE,
    number: int | None = None,
    week: Week | None = None,
    day_obs: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Exposures:
    """The exposures of `<schema>.exposure` whose closed window touches the week, the times, or of an observing day.

    Or its visits, of `visit1`; or the one of a number. Several conditions hold together; none means all. `end` is
    excluded. In the order of their beginnings.

    Raises:
        DataError: there is no such table.
        DatabaseUnavailable: the database does not answer.
        UsageError: there is no such observing day.
    """
    table = consdb.table(
        schema,
        subject.table,
        sa.Column("day_obs", sa.Integer, primary_key=True),
        sa.Column("seq_num", sa.Integer, primary_key=True),
        sa.Column(subject.key, sa.BigInteger),
        sa.Column("obs_start", sa.DateTime),
        sa.Column("obs_end", sa.DateTime),
    )
    columns = table.columns
    query = sa.select(table).where(columns.obs_start.is_not(None)).order_by(columns.obs_start, columns[subject.key])
    if number is not None:
        query = query.where(columns[subject.key] == number)
    if day_obs is not None:
        day_obs_interval(day_obs)
        query = query.where(columns.day_obs == day_obs)
    for first, last in ((week.start, week.end) if week else (None, None), (start, end)):
        if first is not None:
            query = query.where(sa.func.coalesce(columns.obs_end, columns.obs_start) >= naive_tai(first))
        if last is not None:
            query = query.where(columns.obs_start < naive_tai(last))
    with consdb.reading(f"Reading {schema}.{subject.table}") as connection:
        if not consdb.has_table(connection, table):
            raise DataError(
                f"ConsDB {consdb} has no table {table.fullname}",
                remedy="Check EFD_CONSDB_URL and the instrument; `efd simulate observatory --exposures` makes one.",
            )
        rows = connection.execute(query).all()
    return Exposures.of_rows(rows)


def naive_tai(when: datetime) -> datetime:
    """The naive TAI of a time with a zone, as ConsDB keeps times."""
    utc = np.array([microseconds(when)], dtype="datetime64[us]")
    tai_us = int(tai_datetimes_from_utc_us(utc).astype(np.int64)[0])
    return datetime(1970, 1, 1) + timedelta(microseconds=tai_us)
