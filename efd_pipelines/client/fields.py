"""Fields: what names of fields mean in a table of the archive.

A field is called as in the EFD: `zForce17` is the element of an array, whether the table has a column of it or keeps
the array as a list. `*` is all fields of the message, globs are understood. The columns of Kafka and of the archive are
given where they are named. Of a tier, `xForce` stands for its statistics, `mean_xForce` for the one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import pyarrow as pa

from efd_pipelines.client.refusals import UnknownField
from efd_pipelines.errors import UsageError
from efd_pipelines.tiers.columns import STATISTICS
from efd_pipelines.topics.layout import RESERVED
from efd_pipelines.topics.names import nearest

Columns = Mapping[str, "pa.Field[pa.DataType]"]
_GLOB = re.compile(r"[*?\[]")
_OF_WINDOWS = ("window_size", "count", "salIndex")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One column of an answer: its name, the table's column, and the element where that is a list."""

    name: str
    column: str
    element: int | None
    type: pa.DataType
    units: str = ""
    description: str = ""


def asked_fields(fields: str | bytes | Iterable[str] | None) -> tuple[str, ...]:
    """The fields as a list; None is all.

    Raises:
        UsageError: none.
    """
    if fields is None:
        return ("*",)
    if isinstance(fields, bytes):
        fields = fields.decode()
    names = [fields] if isinstance(fields, str) else [str(name) for name in fields]
    if not names:
        raise UsageError("No field is given", remedy='Name fields, or "*" for all.')
    return tuple(dict.fromkeys(names))


def columns_by_name(schema: pa.Schema) -> Columns:
    """A schema's fields by name: looking names up in the schema itself makes a list of all, each time."""
    return {field.name: field for field in schema}


def fields_of(columns: Columns) -> list[str]:
    """The names of a message's fields, in the table's order."""
    return [name for name in columns if name not in RESERVED]


def wanted(topic: str, columns: Columns, fields: Sequence[str], statistics: Sequence[str] = ()) -> list[Wanted]:
    """What the fields are in a table; with `statistics`, in a tier's table.

    Raises:
        UnknownField: the table has no such field; with the nearest names.
    """
    plain = _summarised(columns) if statistics else fields_of(columns)
    found: dict[str, Wanted] = {}
    for name in fields:
        for one in _matching(topic, plain, columns, name):
            parts = _statistics_of(columns, one, statistics) if statistics else _some(_column(columns, one))
            if not parts:
                raise UnknownField(f"{topic} has no field {one}{nearest(one, plain)}")
            found.update({part.name: part for part in parts if part.name not in found})
    return list(found.values())


def _matching(topic: str, plain: Sequence[str], columns: Columns, name: str) -> Sequence[str]:
    if name == "*":
        return plain
    if not _GLOB.search(name) or name in columns:
        return [name]
    matched = [one for one in plain if fnmatchcase(one, name)]
    if not matched:
        raise UnknownField(f"{topic} has no field that is like {name}{nearest(name, plain)}")
    return matched


def _column(columns: Columns, name: str) -> Wanted | None:
    """A column, or an element of one that is a list; None where there is neither."""
    field = columns.get(name)
    if field is not None and name != "time":
        return Wanted(name, name, None, field.type, _text(field, b"units"), _text(field, b"description"))
    lists = [one for one in columns.values() if pa.types.is_list(one.type) and _is_element(name, one.name)]
    if not lists:
        return None
    field = max(lists, key=lambda one: len(one.name))
    element = int(name[len(field.name) :])
    return Wanted(
        name, field.name, element, field.type.value_type, _text(field, b"units"), _text(field, b"description")
    )


def _is_element(name: str, base: str) -> bool:
    return name.startswith(base) and name[len(base) :].isdigit()


def _some(one: Wanted | None) -> list[Wanted]:
    return [] if one is None else [one]


def _summarised(columns: Columns) -> list[str]:
    """The fields that a tier summarises: each has a `first_`."""
    return [name.removeprefix("first_") for name in columns if name.startswith("first_")]


def _statistics_of(columns: Columns, name: str, statistics: Sequence[str]) -> list[Wanted]:
    """The statistics of a field in a tier; of texts and booleans there is the first alone. A column as it is called."""
    if name in _OF_WINDOWS or name.partition("_")[0] in STATISTICS:
        whole = _column(columns, name)
        if whole is not None:
            return [whole]
    found = [one for statistic in statistics for one in _some(_column(columns, f"{statistic}_{name}"))]
    return found or _some(_column(columns, f"first_{name}"))


def _text(field: pa.Field[pa.DataType], key: bytes) -> str:
    text: bytes = (field.metadata or {}).get(key, b"")
    return text.decode()


def needed_columns(parts: Sequence[Wanted]) -> list[str]:
    """The table's columns that must be read."""
    return list(dict.fromkeys(["time", *(one.column for one in parts)]))


def answer_schema(parts: Sequence[Wanted]) -> pa.Schema:
    """The columns of an answer: `time`, and what was wanted, with units and descriptions as metadata."""
    fields = [pa.field("time", pa.timestamp("us", tz="UTC"))]
    for one in parts:
        fields.append(pa.field(one.name, one.type, metadata={"units": one.units, "description": one.description}))
    return pa.schema(fields)


def answered(rows: pa.Table, parts: Sequence[Wanted], schema: pa.Schema) -> pa.Table:
    """Rows of the table as an answer."""
    there = dict(zip(rows.column_names, rows.columns, strict=True))
    arrays = [there["time"]]
    for one in parts:
        column = there[one.column]
        arrays.append(column if one.element is None else _element(column, one.element, one.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _element(column: pa.ChunkedArray, element: int, kind: pa.DataType) -> pa.ChunkedArray:
    """An element of each list, null where it is shorter."""
    import polars as pl

    values = pl.Series(column).list.get(element, null_on_oob=True)
    return pa.chunked_array([values.to_arrow().cast(kind)])
