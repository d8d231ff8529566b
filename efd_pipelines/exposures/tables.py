"""Tables: where results are kept in ConsDB, made and widened from the configuration.

`efd_<instrument>.exposure_efd` and `visit1_efd` have a float column for each of the configuration, `…_unpivoted` a row
for each property and field: keys and names as the observatory has them (efd-facts.md §5.3). `…_provenance` beside them
has the same key and says of each exposure when, from which window, with which configuration and up to which version of
each archive table it was computed; its column of the same name as a value's has the number of samples behind it.
`transformation_columns` has every configuration that was used, as the digests of its columns.

Nothing is ever removed: a column that left the configuration keeps its values. What is written: `results.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable, SetColumnComment

from efd_pipelines.errors import DataError
from efd_pipelines.exposures.configuration import MAX_FIELD_NAME, ExposureColumn, Transformation
from efd_pipelines.exposures.consdb import ConsDB
from efd_pipelines.exposures.subjects import Subject

CONFIGURATIONS_TABLE = "transformation_columns"
MAX_COLUMNS = 1600
"""PostgreSQL's limit of columns in a table."""

_MAX_PROPERTY = 64


@dataclass(frozen=True, slots=True)
class ResultTables:
    """The tables of results of one instrument's exposures or visits; `ensure` before anything is written or read.

    `columns` are those of its table, `vectors` those of its unpivoted one.
    """

    consdb: ConsDB
    schema: str
    subject: Subject
    columns: tuple[ExposureColumn, ...]
    vectors: tuple[ExposureColumn, ...]

    @classmethod
    def of(cls, consdb: ConsDB, schema: str, subject: Subject, transformation: Transformation) -> ResultTables:
        chosen = subject.columns(transformation)
        return cls(
            consdb,
            schema,
            subject,
            tuple(column for column in chosen if subject.results in column.tables),
            tuple(column for column in chosen if subject.unpivoted in column.tables),
        )

    @property
    def all_columns(self) -> tuple[ExposureColumn, ...]:
        return (*self.columns, *self.vectors)

    @property
    def values_table(self) -> sa.Table:
        named = [sa.Column(column.name, sa.Double, comment=column.comment) for column in self.columns]
        return self._table(self.subject.results, *self._keys(), _created_at(), *named)

    @property
    def unpivoted_table(self) -> sa.Table:
        return self._table(
            self.subject.unpivoted,
            *self._keys(unpivoted=True),
            sa.Column("property", self._text(_MAX_PROPERTY), primary_key=True, comment="Column of the configuration."),
            sa.Column("field", self._text(MAX_FIELD_NAME), primary_key=True, comment="Field of the topic."),
            sa.Column("value", sa.Double, comment="What the property is of this field."),
            _created_at(),
        )

    @property
    def provenance_table(self) -> sa.Table:
        named = [
            sa.Column(column.name, sa.Integer, comment=f"Number of samples behind {column.name}.")
            for column in self.all_columns
        ]
        return self._table(
            self.subject.provenance,
            *self._keys(),
            sa.Column("computed_at", sa.DateTime, nullable=False, comment="When it was computed last, UTC."),
            sa.Column("window_begin", sa.DateTime, nullable=False, comment="First instant of the window, UTC."),
            sa.Column("window_end", sa.DateTime, nullable=False, comment="Last instant of the window, UTC."),
            sa.Column("config_version", sa.Text, nullable=False, comment="Version of the configuration."),
            sa.Column("config_digest", sa.Text, nullable=False, comment="Digest of what in it decides values."),
            sa.Column(
                "versions", sa.Text, nullable=False, comment="JSON: version of each archive table that was read."
            ),
            sa.Column("run", sa.Text, nullable=False, comment="The run that computed it last."),
            *named,
        )

    @property
    def configurations_table(self) -> sa.Table:
        return self._table(
            CONFIGURATIONS_TABLE,
            sa.Column("config_digest", sa.Text, primary_key=True, comment="Digest of all of its columns."),
            sa.Column("config_version", sa.Text, nullable=False, comment="Version of the configuration."),
            sa.Column("columns", sa.Text, nullable=False, comment="JSON: digest of each column."),
            sa.Column("created_at", sa.DateTime, nullable=False, comment="When it was first used, UTC."),
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

    def _tables(self) -> list[sa.Table]:
        return [
            *([self.values_table] if self.columns else []),
            *([self.unpivoted_table] if self.vectors else []),
            self.provenance_table,
            self.configurations_table,
        ]

    def _table(self, name: str, *columns: sa.Column[Any]) -> sa.Table:
        return self.consdb.table(self.schema, name, *columns)

    def _keys(self, unpivoted: bool = False) -> list[sa.Column[Any]]:
        what = self.subject.key.removesuffix("_id")
        number = (
            sa.Column(self.subject.key, sa.BigInteger, primary_key=True, autoincrement=False, comment=f"The {what}.")
            if unpivoted
            else sa.Column(self.subject.key, sa.BigInteger, nullable=False, unique=True, comment=f"The {what}.")
        )
        return [
            sa.Column("day_obs", sa.Integer, primary_key=True, autoincrement=False, comment="Observing day."),
            sa.Column("seq_num", sa.Integer, primary_key=True, autoincrement=False, comment="Number in the day."),
            number,
        ]

    def _text(self, length: int) -> sa.String:
        """Names are compared byte by byte: half the time of an insert went into the locale's order."""
        return sa.String(length) if self.consdb.is_sqlite else sa.String(length, collation="C")


def _created_at() -> sa.Column[Any]:
    return sa.Column("created_at", sa.DateTime, nullable=False, comment="When the row was first written, UTC.")


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
        wanted = [column for column in table.columns if held.get(column.name, {}).get("comment") != column.comment]
        # All in one go: one by one, a thousand comments took longer than a night's values.
        texts = [str(SetColumnComment(column).compile(connection)).strip() for column in wanted]
        if texts:
            connection.exec_driver_sql(";\n".join(texts))


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
