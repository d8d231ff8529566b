"""Results: the tables of values per exposure, made and widened from the configuration, and written whole or not at all.

`efd_<instrument>.exposure_efd` has the observatory's shape (efd-facts.md §5.3): key day_obs and seq_num, a float
column for each of the configuration. `exposure_efd_provenance` beside it has the same key and says of each exposure
when, from which window, with which configuration and up to which version of each archive table it was computed; its
column of the same name as a value's has the number of samples behind that value. So later work finds what is stale,
and a reader what a value rests on.

Nothing is ever removed: a column that left the configuration keeps its values, NULL never replaces a value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.schema import CreateTable, SetColumnComment

from efd_pipelines.errors import DataError
from efd_pipelines.exposures.configuration import EXPOSURE_TABLE, ExposureColumn
from efd_pipelines.exposures.consdb import ConsDB
from efd_pipelines.exposures.windows import Exposures
from efd_pipelines.times import from_microseconds

PROVENANCE_TABLE = "exposure_efd_provenance"
ROWS_PER_TRANSACTION = 500
MAX_COLUMNS = 1600
"""PostgreSQL's limit of columns in a table."""


@dataclass(frozen=True, slots=True)
class Computation:
    """What one join computed with, the same for all exposures that it wrote."""

    version: str
    digest: str
    versions: Mapping[str, int]
    run: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Values:
    """Values of exposures: `values` and `samples` have shape (exposures, columns); NaN is no value.

    `windows` are the exposures with the windows that were read, padding included.
    """

    windows: Exposures
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    samples: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What one exposure's values were computed from."""

    digest: str
    begin_us: int
    end_us: int
    versions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ResultTables:
    """The tables of results of one instrument; `ensure` before anything is written or read."""

    consdb: ConsDB
    schema: str
    columns: tuple[ExposureColumn, ...]

    @property
    def values_table(self) -> sa.Table:
        named = [sa.Column(column.name, sa.Double, comment=column.comment) for column in self.columns]
        return self.consdb.table(
            self.schema,
            EXPOSURE_TABLE,
            *_key_columns(),
            sa.Column(
                "created_at",
                sa.DateTime,
                nullable=False,
                comment="When the row was first written, UTC.",
            ),
            *named,
        )

    @property
    def provenance_table(self) -> sa.Table:
        named = [
            sa.Column(column.name, sa.BigInteger, comment=f"Number of samples behind {column.name}.")
            for column in self.columns
        ]
        return self.consdb.table(
            self.schema,
            PROVENANCE_TABLE,
            *_key_columns(),
            sa.Column("computed_at", sa.DateTime, nullable=False, comment="When it was computed, UTC."),
            sa.Column("window_begin", sa.DateTime, nullable=False, comment="First instant of the window, UTC."),
            sa.Column("window_end", sa.DateTime, nullable=False, comment="Last instant of the window, UTC."),
            sa.Column("config_version", sa.Text, nullable=False, comment="Version of the configuration."),
            sa.Column("config_digest", sa.Text, nullable=False, comment="Digest of what in it decides values."),
            sa.Column(
                "versions", sa.Text, nullable=False, comment="JSON: version of each archive table that was read."
            ),
            sa.Column("run", sa.Text, nullable=False, comment="The run that computed it."),
            *named,
        )

    def ensure(self) -> None:
        """Makes the tables where there are none and adds the columns that they lack; removes nothing.

        Raises:
            DataError: a column is there with another type, or there would be more than PostgreSQL allows.
            DatabaseUnavailable: nothing was changed.
        """
        with self.consdb.reading(f"Looking at {self.schema}") as connection:
            if all(_is_as_wanted(self.consdb, connection, table) for table in self._tables()):
                return
        with self.consdb.migrating(f"Making the tables of {self.schema}") as connection:
            self.consdb.create_schema(connection, self.schema)
            for table in self._tables():
                _make_or_widen(self.consdb, connection, table)

    def write(self, values: Values, computation: Computation) -> None:
        """Values and provenance of the exposures: in transactions of 500 exposures, each whole or not at all.

        Raises:
            DataError: the database refuses, e.g. an exposure_id that another row has.
            DatabaseUnavailable: it does not answer, is full, or stays locked.
        """
        order = np.lexsort((values.windows.seq_num, values.windows.day_obs))
        for first in range(0, len(order), ROWS_PER_TRANSACTION):
            chosen = order[first : first + ROWS_PER_TRANSACTION]
            with self.consdb.writing(f"Writing {self.schema}.{EXPOSURE_TABLE}") as connection:
                connection.execute(self._upsert(self.values_table), list(_value_records(values, chosen)))
                connection.execute(
                    self._upsert(self.provenance_table),
                    list(_provenance_records(values, chosen, computation)),
                )

    def provenance(self, exposures: Exposures) -> dict[tuple[int, int], Provenance]:
        """What is written of exposures already, by (day_obs, seq_num).

        Raises:
            DatabaseUnavailable: the database does not answer.
        """
        if not len(exposures):
            return {}
        columns = self.provenance_table.columns
        query = sa.select(
            columns.day_obs,
            columns.seq_num,
            columns.config_digest,
            columns.window_begin,
            columns.window_end,
            columns.versions,
        ).where(columns.day_obs.between(int(exposures.day_obs.min()), int(exposures.day_obs.max())))
        with self.consdb.reading(f"Reading {self.schema}.{PROVENANCE_TABLE}") as connection:
            return {
                (row.day_obs, row.seq_num): Provenance(
                    row.config_digest,
                    _microseconds(row.window_begin),
                    _microseconds(row.window_end),
                    json.loads(row.versions),
                )
                for row in connection.execute(query)
            }

    def _tables(self) -> tuple[sa.Table, sa.Table]:
        return self.values_table, self.provenance_table

    def _upsert(self, table: sa.Table) -> sa.Insert:
        return self.consdb.upsert(table, keep=[column.name for column in self.columns], once=["created_at"])


def _key_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("day_obs", sa.Integer, primary_key=True, autoincrement=False, comment="Observing day."),
        sa.Column("seq_num", sa.Integer, primary_key=True, autoincrement=False, comment="Number in the day."),
        sa.Column("exposure_id", sa.BigInteger, nullable=False, unique=True, comment="The exposure."),
    ]


def _is_as_wanted(consdb: ConsDB, connection: sa.Connection, table: sa.Table) -> bool:
    if not consdb.has_table(connection, table):
        return False
    held = _columns_of(connection, table)
    return not any(_differs(consdb, column, held.get(column.name)) for column in table.columns)


def _columns_of(connection: sa.Connection, table: sa.Table) -> dict[str, Any]:
    found = sa.inspect(connection).get_columns(table.name, schema=table.schema)
    return {column["name"]: column for column in found}


def _differs(consdb: ConsDB, column: sa.Column[Any], held: Any) -> bool:
    if held is None or not _is_compatible(column, held):
        return True
    return not consdb.is_sqlite and held.get("comment") != column.comment


def _is_compatible(column: sa.Column[Any], held: Any) -> bool:
    """Whether a column takes the values: any float for a float, any integer for a count."""
    wanted = sa.Integer if isinstance(column.type, sa.Integer) else sa.Numeric
    return not isinstance(column.type, sa.Integer | sa.Float) or isinstance(held["type"], wanted)


def _make_or_widen(consdb: ConsDB, connection: sa.Connection, table: sa.Table) -> None:
    if not consdb.has_table(connection, table):
        _check_count(table, len(table.columns))
        connection.execute(CreateTable(table))
        held = {}
    else:
        held = _columns_of(connection, table)
        _widen(connection, table, held)
    if not consdb.is_sqlite:
        for column in table.columns:
            if held.get(column.name, {}).get("comment") != column.comment:
                connection.execute(SetColumnComment(column))


def _widen(connection: sa.Connection, table: sa.Table, held: Mapping[str, Any]) -> None:
    for column in table.columns:
        if column.name in held and not _is_compatible(column, held[column.name]):
            raise DataError(
                f"{table.fullname}.{column.name} is {held[column.name]['type']} in ConsDB, not {column.type}",
                remedy="Rename the column in the configuration, or change it in the database; nothing was written.",
            )
    new = [column for column in table.columns if column.name not in held]
    _check_count(table, len(held) + len(new))
    quote = connection.dialect.identifier_preparer
    for column in new:
        kind = column.type.compile(connection.dialect)
        connection.exec_driver_sql(
            f"ALTER TABLE {quote.format_table(table)} ADD COLUMN {quote.format_column(column)} {kind}"
        )


def _check_count(table: sa.Table, count: int) -> None:
    if count > MAX_COLUMNS:
        raise DataError(
            f"{table.fullname} would have {count} columns, PostgreSQL allows {MAX_COLUMNS}",
            remedy="Move columns that are vectors to an unpivoted table.",
        )


def _value_records(values: Values, chosen: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    created = datetime.now(UTC).replace(tzinfo=None)
    for n in chosen:
        numbers = [None if number != number else number for number in values.values[n].tolist()]
        yield {
            **_key_of(values.windows, n),
            "created_at": created,
            **dict(zip(values.columns, numbers, strict=True)),
        }


def _provenance_records(
    values: Values, chosen: NDArray[np.int64], computation: Computation
) -> Iterator[dict[str, Any]]:
    versions = json.dumps(dict(computation.versions), sort_keys=True, separators=(",", ":"))
    for n in chosen:
        known = ~np.isnan(values.values[n])
        counts = [count if has else None for count, has in zip(values.samples[n].tolist(), known, strict=True)]
        yield {
            **_key_of(values.windows, n),
            "computed_at": computation.at.astimezone(UTC).replace(tzinfo=None),
            "window_begin": _naive_utc(int(values.windows.begin_us[n])),
            "window_end": _naive_utc(int(values.windows.end_us[n])),
            "config_version": computation.version,
            "config_digest": computation.digest,
            "versions": versions,
            "run": computation.run,
            **dict(zip(values.columns, counts, strict=True)),
        }


def _key_of(exposures: Exposures, n: np.int64) -> dict[str, int]:
    return {
        "day_obs": int(exposures.day_obs[n]),
        "seq_num": int(exposures.seq_num[n]),
        "exposure_id": int(exposures.exposure_id[n]),
    }


def _naive_utc(time_us: int) -> datetime:
    return from_microseconds(time_us).replace(tzinfo=None)


def _microseconds(naive_utc: datetime) -> int:
    return int(np.datetime64(naive_utc, "us").astype(np.int64))


def keys_of(exposures: Exposures) -> Sequence[tuple[int, int]]:
    """(day_obs, seq_num) of each exposure."""
    return list(zip(exposures.day_obs.tolist(), exposures.seq_num.tolist(), strict=True))
