"""ConsDB: its tables beside the archive's, as `consdb.<schema>.<table>`.

DuckDB's own extensions for PostgreSQL and SQLite are downloaded from the network, which a session must not need. So a
table that a statement names is read through SQLAlchemy and kept in memory for the session. That is right for exposures
and their values; a table of many millions of rows is refused, and better asked where it is.
In SQLite, which has no schemas, `cdb_lsstcam_exposure` is `consdb.cdb_lsstcam.exposure`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from efd_pipelines.errors import DataError
from efd_pipelines.exposures.consdb import ConsDB
from efd_pipelines.settings import Settings

MOST_ROWS = 5_000_000
_BATCH_ROWS = 20_000
_FLAT = re.compile(r"((?:cdb|efd)_[a-z0-9]+)_([a-z_].*)")
_SYSTEM = ("information_schema", "pg_catalog")


class TooManyRows(DataError):
    """A table of ConsDB that is not brought here."""

    remedy = "Ask it in ConsDB, or take the tier that it was made of."


class ConsdbTables:
    """Tables of the ConsDB of `settings`; connects when it is first asked."""

    def __init__(self, settings: Settings) -> None:
        self._consdb = ConsDB(settings.require_consdb())
        self._names: dict[tuple[str, str], tuple[str | None, str]] | None = None

    def close(self) -> None:
        self._consdb.close()

    def names(self) -> Mapping[tuple[str, str], tuple[str | None, str]]:
        """By schema and name as they are written here, schema and name in the database.

        Raises:
            DatabaseUnavailable: it does not answer.
        """
        if self._names is None:
            with self._consdb.reading("Looking for tables") as connection:
                self._names = dict(self._found(sa.inspect(connection)))
        return self._names

    def _found(self, inspector: Any) -> Iterator[tuple[tuple[str, str], tuple[str | None, str]]]:
        if self._consdb.is_sqlite:
            for table in [*inspector.get_table_names(), *inspector.get_view_names()]:
                parted = _FLAT.fullmatch(table)
                yield (parted[1], parted[2]) if parted else ("main", table), (None, table)
            return
        for schema in inspector.get_schema_names():
            if schema not in _SYSTEM:
                for table in [*inspector.get_table_names(schema=schema), *inspector.get_view_names(schema=schema)]:
                    yield (schema, table), (schema, table)

    def read(self, schema: str, name: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """All rows of a table.

        Raises:
            TooManyRows: there are more than are kept in memory.
            DatabaseUnavailable: the database does not answer.
        """
        held_schema, held_name = self.names()[schema, name]
        with self._consdb.reading(f"Reading {schema}.{name}") as connection:
            table = sa.Table(held_name, sa.MetaData(), schema=held_schema, autoload_with=connection)
            rows = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        if rows > MOST_ROWS:
            raise TooManyRows(f"{schema}.{name} has {rows:,} rows, more than {MOST_ROWS:,}")
        kinds = pa.schema([(column.name, _arrow_type(column.type)) for column in table.columns])
        return kinds, self._batches(table, kinds)

    def _batches(self, table: sa.Table, kinds: pa.Schema) -> Iterator[pa.RecordBatch]:
        with self._consdb.reading(f"Reading {table.fullname}") as connection:
            found = connection.execution_options(stream_results=True).execute(sa.select(table))
            for part in found.partitions(_BATCH_ROWS):
                columns = [
                    pa.array([_value(row[n], kind.type) for row in part], kind.type) for n, kind in enumerate(kinds)
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=kinds)


def _arrow_type(kind: Any) -> pa.DataType:
    if isinstance(kind, sa.Boolean):
        return pa.bool_()
    if isinstance(kind, sa.Integer):
        return pa.int64()
    if isinstance(kind, sa.Numeric):
        return pa.float64()
    if isinstance(kind, sa.DateTime):
        return pa.timestamp("us", tz="UTC") if kind.timezone else pa.timestamp("us")
    if isinstance(kind, sa.Date):
        return pa.date32()
    return pa.binary() if isinstance(kind, sa.LargeBinary) else pa.string()


def _value(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_floating(kind):
        return float(value)
    return str(value) if pa.types.is_string(kind) else value
