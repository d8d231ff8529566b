"""Tables of ConsDB: what the 1 s tier of a dataset is called there, its columns, and a week's partition.

`efd_1s.<component>_<topic>`, a row for each window and salIndex; in PostgreSQL partitioned by week. Names are lower
case with underscores, of at most 63 bytes; units and descriptions are comments. `efd_1s.published` has what was
written, slice by slice. Writing: `consdb.py`; weeks that go: `consdb_weeks.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from efd_pipelines.errors import DataError
from efd_pipelines.exposures.consdb import ConsDB
from efd_pipelines.exposures.identifiers import MAX_IDENTIFIER_BYTES
from efd_pipelines.times import Week, from_microseconds
from efd_pipelines.topics.layout import column_of
from efd_pipelines.topics.names import Dataset

PUBLISHED = "published"
MAX_COLUMNS = 1600
_FIXED = ("time", "tai", "sal_index", "window_count")
_PARTITION = "_yyyymmdd"
_HASH = 8


class TooWide(DataError):
    """A table that PostgreSQL would not take."""

    remedy = "Choose fewer columns in `publishing.consdb_1s` of EFD_CONFIG."


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


POSTGRES: Mapping[Any, str] = {
    sa.DateTime: "timestamp",
    sa.Integer: "int4",
    sa.BigInteger: "int8",
    sa.Double: "float8",
    sa.Boolean: "bool",
    sa.Text: "text",
}
"""What PostgreSQL calls the types of columns."""

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


def within(table: sa.Table, start_us: int, end_us: int) -> sa.ColumnElement[bool]:
    """The rows of a time range."""
    start, end = (from_microseconds(time_us).replace(tzinfo=None) for time_us in (start_us, end_us))
    return sa.and_(table.c.time >= start, table.c.time < end)


def noted_table(consdb: ConsDB, schema: str) -> sa.Table:
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
