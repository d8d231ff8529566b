"""Bulk: many rows into one table at once, those that are there already updated.

PostgreSQL takes them by binary COPY into a staging table of the transaction, and from there in one statement; rows of
which none is there yet go straight into the table, in a third of the time. SQLite takes them by one prepared statement.
All leave what they do not write as it is. Which rows, and what becomes of NULL: `results.py`.

In the staging table every row is equally long, so that numpy can lay all of them out at once: NULL is NaN there, or the
smallest integer, and texts are numbers of a second table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from efd_pipelines.exposures.consdb import ConsDB

MISSING = np.iinfo(np.int32).min
"""What stands for NULL among integers of 32 bits."""

_COPY_HEAD = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_END = b"\xff\xff"
_EPOCH_2000 = np.datetime64("2000-01-01", "us")
_TYPES: Mapping[str, tuple[str, str]] = {
    "int32": ("integer", ">i4"),
    "int64": ("bigint", ">i8"),
    "float64": ("double precision", ">f8"),
    "datetime64[us]": ("timestamp", ">i8"),
}


@dataclass(frozen=True, slots=True)
class Texts:
    """Columns of texts: `codes` says of each row which of `values` it has."""

    columns: tuple[str, ...]
    codes: NDArray[np.int32]
    values: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a table, column by column: int32, int64, float64 or datetime64[us], and texts.

    NaN, and `MISSING` among int32, are NULL.
    """

    numbers: Mapping[str, NDArray[Any]]
    texts: Texts | None = None
    _nulls: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(next(iter(self.numbers.values())))

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.numbers, *(self.texts.columns if self.texts else ()))

    def has_null(self, name: str) -> bool:
        """Whether a column has NULL in any row."""
        if name not in self._nulls:
            values = self.numbers.get(name)
            self._nulls[name] = values is not None and bool(_is_null(values).any())
        return self._nulls[name]


def upsert(
    consdb: ConsDB,
    connection: sa.Connection,
    table: sa.Table,
    rows: Rows,
    *,
    once: Sequence[str] = (),
    nulls_overwrite: bool = False,
) -> None:
    """Writes rows; one with the same primary key is updated, in the columns given and no other.

    NULL overwrites nothing unless `nulls_overwrite`; the columns of `once` are only written with a new row.
    """
    if not len(rows):
        return
    keys = [column.name for column in table.primary_key]
    changed = [name for name in rows.columns if name not in keys and name not in once]
    kept = set() if nulls_overwrite else {name for name in changed if rows.has_null(name)}
    quote = connection.dialect.identifier_preparer.quote
    target = connection.dialect.identifier_preparer.format_table(table)
    own = "target" if not consdb.is_sqlite else target
    changes = [
        f"{quote(name)} = "
        + (f"coalesce(excluded.{quote(name)}, {own}.{quote(name)})" if name in kept else f"excluded.{quote(name)}")
        for name in changed
    ]
    action = f"UPDATE SET {', '.join(changes)}" if changes else "NOTHING"
    names = ", ".join(quote(name) for name in rows.columns)
    conflict = f"ON CONFLICT ({', '.join(quote(name) for name in keys)}) DO {action}"
    if consdb.is_sqlite:
        places = ", ".join("?" * len(rows.columns))
        connection.exec_driver_sql(
            f"INSERT INTO {target} ({names}) VALUES ({places}) {conflict}",  # noqa: S608 - quoted names
            list(_tuples(rows)),
        )
        return
    staging = _stage(connection, rows)
    connection.exec_driver_sql(f"INSERT INTO {target} AS target ({names}) {_selected(rows, staging, quote)} {conflict}")


def insert(consdb: ConsDB, connection: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Writes rows without a NULL, of which none may be there already."""
    if consdb.is_sqlite or rows.texts is None:
        upsert(consdb, connection, table, rows)
        return
    quote = connection.dialect.identifier_preparer
    names = ", ".join(quote.quote(name) for name in rows.columns)
    with connection.connection.cursor().copy(
        f"COPY {quote.format_table(table)} ({names}) FROM STDIN (FORMAT binary)"
    ) as copy:
        copy.write(_copied_with_texts(rows.numbers, rows.texts))


def _selected(rows: Rows, staging: str, quote: Any) -> str:
    parts = [f"s.{quote(name)}" if not rows.has_null(name) else _or_null(rows, name, quote) for name in rows.numbers]
    if rows.texts is None:
        return f"SELECT {', '.join(parts)} FROM {staging} s"  # noqa: S608
    parts += [f"t.{quote(name)}" for name in rows.texts.columns]
    return f"SELECT {', '.join(parts)} FROM {staging} s JOIN {staging}_texts t USING (efd_code)"  # noqa: S608


def _or_null(rows: Rows, name: str, quote: Any) -> str:
    nothing = "'NaN'" if rows.numbers[name].dtype == np.float64 else str(MISSING)
    return f"nullif(s.{quote(name)}, {nothing})"


def _stage(connection: sa.Connection, rows: Rows) -> str:
    """Makes the staging table, of this transaction alone, and fills it; its name."""
    quote = connection.dialect.identifier_preparer.quote
    number = connection.info["efd_staging"] = connection.info.get("efd_staging", 0) + 1
    staging = f"efd_staging_{number}"
    columns = dict(rows.numbers)
    if rows.texts is not None:
        columns["efd_code"] = rows.texts.codes
    kinds = ", ".join(f"{quote(name)} {_TYPES[str(values.dtype)][0]}" for name, values in columns.items())
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {staging} ({kinds}) ON COMMIT DROP")
    cursor = connection.connection.cursor()
    with cursor.copy(f"COPY {staging} FROM STDIN (FORMAT binary)") as copy:
        copy.write(_copied(columns))
    if rows.texts is not None:
        texts = ", ".join(f"{quote(name)} text" for name in rows.texts.columns)
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {staging}_texts (efd_code integer, {texts}) ON COMMIT DROP")
        with cursor.copy(f"COPY {staging}_texts FROM STDIN") as copy:
            for code, values in enumerate(rows.texts.values):
                copy.write_row((code, *values))
    return staging


def _copied(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """PostgreSQL's binary COPY format: for each row the number of fields, for each field its length and its bytes."""
    return _COPY_HEAD + _laid_out(columns, len(columns)).tobytes() + _COPY_END


def _copied_with_texts(columns: Mapping[str, NDArray[Any]], texts: Texts) -> bytes:
    """The same, with the texts behind the numbers."""
    numbers = _laid_out(columns, len(columns) + len(texts.columns))
    heads = numbers.view(f"V{numbers.dtype.itemsize}").tolist()
    encoded = [[text.encode() for text in values] for values in texts.values]
    tails = [b"".join(len(text).to_bytes(4, "big") + text for text in values) for values in encoded]
    rows = zip(heads, map(tails.__getitem__, texts.codes.tolist()), strict=True)
    return b"".join([_COPY_HEAD, *chain.from_iterable(rows), _COPY_END])


def _laid_out(columns: Mapping[str, NDArray[Any]], fields: int) -> NDArray[Any]:
    form: list[tuple[str, str]] = [("fields", ">i2")]
    for n, values in enumerate(columns.values()):
        form += [(f"length{n}", ">i4"), (f"value{n}", _TYPES[str(values.dtype)][1])]
    count = len(next(iter(columns.values())))
    rows = np.empty(count, dtype=form)
    rows["fields"] = fields
    for n, values in enumerate(columns.values()):
        rows[f"length{n}"] = values.dtype.itemsize
        rows[f"value{n}"] = (values - _EPOCH_2000).astype(np.int64) if values.dtype.kind == "M" else values
    return rows


def _tuples(rows: Rows) -> Iterator[tuple[Any, ...]]:
    columns: list[Sequence[Any]] = [_python(name, rows) for name in rows.numbers]
    if rows.texts is not None:
        chosen = [rows.texts.values[code] for code in rows.texts.codes.tolist()]
        columns += [[texts[n] for texts in chosen] for n in range(len(rows.texts.columns))]
    return zip(*columns, strict=True)


def _python(name: str, rows: Rows) -> list[Any]:
    values = rows.numbers[name]
    if values.dtype.kind == "M":
        # As SQLAlchemy reads them back.
        return [str(value).replace("T", " ") for value in values]
    found: list[Any] = values.tolist()
    if rows.has_null(name):
        null = _is_null(values).tolist()
        return [None if missing else value for value, missing in zip(found, null, strict=True)]
    return found


def _is_null(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    if values.dtype == np.int32:
        return np.asarray(values == MISSING)
    return np.zeros(len(values), dtype=bool)
