"""Shapes: the columns that are written, and how each is made of those that were read.

Arrays stay as the archive has them, become a column of lists, or a column for each element; time is UTC, TAI or both;
the exposure that a row belongs to is a column. A shape has one schema, whatever older files have, and is the same in
every process. Which columns are read: `selection.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.errors import DataError, UsageError
from efd_pipelines.exports.ranges import ExposureWindows
from efd_pipelines.exports.request import ArraysWanted, TimeScale
from efd_pipelines.times import tai_datetimes_from_utc_us
from efd_pipelines.topics.layout import TIME, wider

TAI_TIME = pa.field("tai_time", pa.timestamp("us"), metadata={"description": "TAI, as ConsDB has it", "units": ""})
_FIXED_BYTES = 8


class TooLong(DataError):
    """An array that has more items than its schema declares."""

    remedy = "Export the topic with its arrays as lists."


@dataclass(frozen=True, slots=True)
class Made:
    """One column that is written, and what of: itself, elements that become a list, or an element of a list."""

    column: Any
    kind: Literal["same", "list", "element", "tai", "subject"]
    sources: tuple[str, ...] = ()
    element: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns of an export of one dataset, in order."""

    columns: tuple[Made, ...]

    @property
    def schema(self) -> pa.Schema:
        """What every file has: columns with units and descriptions, all nullable."""
        return pa.schema([made.column for made in self.columns])

    @property
    def moves_values(self) -> bool:
        """Whether values are put together anew, which takes their memory several times."""
        return any(made.kind in ("list", "element") for made in self.columns)

    def apply(self, rows: pa.Table, windows: ExposureWindows | None = None) -> pa.Table:
        """The rows as they are written; `windows` are those of the exposures.

        Raises:
            TooLong: an array has more items than its schema declares.
        """
        return pa.Table.from_arrays([_made(one, rows, windows) for one in self.columns], schema=self.schema)


def shape_of(
    columns: Iterable[Any],
    arrays: ArraysWanted = "archived",
    time_scale: TimeScale = "utc",
    lengths: Mapping[str, int] | None = None,
    subject: str | None = None,
) -> Shape:
    """The shape for columns of a table that has `time`.

    Args:
        lengths: for flat arrays, how long those are that the table has as lists, by field.
        subject: the name of the column that tells the exposure.

    Raises:
        UsageError: an array is to be flat whose length is not declared.
    """
    made: list[Made] = []
    for group in _grouped(columns) if arrays == "list" else ([column] for column in columns):
        first = group[0]
        if first.name == "time":
            made += _times(first, time_scale)
        elif arrays == "list" and _element(first) is not None:
            made.append(_listed(group))
        elif arrays == "flat" and pa.types.is_list(first.type):
            made += _elements(first, lengths or {})
        else:
            made.append(Made(plain(first), "same", (first.name,)))
    if subject is not None:
        there = {one.column.name.lower() for one in made}
        if subject in there:
            raise UsageError(f"A topic has a field {subject} of its own", remedy="Leave it out with --fields.")
        place = next((n + 1 for n, one in enumerate(made) if one.column.name == "salIndex"), len(_leading(made)))
        description = {"description": "Of ConsDB: in whose window the row is", "units": ""}
        made.insert(place, Made(pa.field(subject, pa.int64(), metadata=description), "subject"))
    return Shape(_distinct(made))


def plain(column: Any) -> Any:
    """The column with units and descriptions, nullable: files must not differ in that.

    delta-rs gives the metadata of a column in another order each time, which would change the files' bytes.
    """
    return column.with_nullable(True).with_metadata(dict(sorted((column.metadata or {}).items())))


def row_bytes(schema: pa.Schema, loose: Mapping[str, float] | None = None) -> float:
    """Bytes of a row in memory; `loose` has those of texts and lists, by column."""
    size = 0.0
    for column in schema:
        if pa.types.is_primitive(column.type) and not pa.types.is_boolean(column.type):
            size += column.type.bit_width / 8
        elif pa.types.is_boolean(column.type):
            size += 1 / 8
        else:
            size += (loose or {}).get(column.name, 4.0 * _FIXED_BYTES)
    return max(size, 1.0)


def _leading(made: Sequence[Made]) -> list[Made]:
    return [one for one in made if one.column.name in ("time", "tai_time")]


def _times(column: Any, time_scale: TimeScale) -> list[Made]:
    utc, tai = Made(plain(column.with_type(TIME)), "same", ("time",)), Made(TAI_TIME, "tai", ("time",))
    return {"utc": [utc], "tai": [tai], "both": [utc, tai]}[time_scale]


def _grouped(columns: Iterable[Any]) -> list[list[Any]]:
    """Columns, those of one flattened array together in the order of its elements, where its first one stood."""
    groups: dict[tuple[str, ...], list[Any]] = {}
    for column in columns:
        key = ("array", _base(column)) if _element(column) is not None else ("column", column.name)
        groups.setdefault(key, []).append(column)
    return [sorted(group, key=lambda column: _element(column) or 0) for group in groups.values()]


def _element(column: Any) -> int | None:
    text = (column.metadata or {}).get(b"element")
    return None if text is None else int(text)


def _base(column: Any) -> str:
    return str(column.name).removesuffix(str(_element(column)))


def _listed(group: Sequence[Any]) -> Made:
    item = functools.reduce(lambda one, other: wider(one, other) or one, (column.type for column in group))
    metadata = {key: value for key, value in sorted((group[0].metadata or {}).items()) if key != b"element"}
    column = pa.field(_base(group[0]).rstrip("_") or group[0].name, pa.list_(item), metadata=metadata)
    return Made(column, "list", tuple(one.name for one in group))


def _elements(column: Any, lengths: Mapping[str, int]) -> list[Made]:
    field = (column.metadata or {}).get(b"field", column.name.encode()).decode()
    length = lengths.get(field)
    if not length:
        raise UsageError(
            f"The length of the array {column.name} is not declared", remedy="Export it as a list, or leave it out."
        )
    metadata = dict(column.metadata or {})
    return [
        Made(
            pa.field(
                f"{column.name}{n}",
                column.type.value_type,
                metadata=dict(sorted({**metadata, b"element": str(n).encode()}.items())),
            ),
            "element",
            (column.name,),
            n,
            length,
        )
        for n in range(length)
    ]


def _distinct(made: Sequence[Made]) -> tuple[Made, ...]:
    """Names that collide, which only made ones can, take the form with `_` that the archive gives them."""
    taken = {one.column.name.lower() for one in made if one.kind not in ("list", "element")}
    found = []
    for one in made:
        if one.kind in ("list", "element"):
            name = one.column.name
            while name.lower() in taken:
                name = f"{name}_"
            taken.add(name.lower())
            one = Made(one.column.with_name(name), one.kind, one.sources, one.element, one.length)
        found.append(one)
    return tuple(found)


def _made(one: Made, rows: pa.Table, windows: ExposureWindows | None) -> Any:
    if one.kind == "same":
        column = rows[one.sources[0]]
        return column if column.type.equals(one.column.type) else column.cast(one.column.type)
    if one.kind == "list":
        return _as_list(one, rows)
    if one.kind == "element":
        return _as_element(one, rows[one.sources[0]].combine_chunks())
    time_us = rows["time"].cast(pa.int64()).to_numpy()
    if one.kind == "subject":
        if windows is None:
            return pa.nulls(rows.num_rows, pa.int64())
        return windows.numbers_at(time_us)
    return pa.array(tai_datetimes_from_utc_us(time_us.astype("datetime64[us]")), one.column.type)


def _as_list(one: Made, rows: pa.Table) -> Any:
    """Null where a row has none of the elements: then its message did not have the array."""
    item, count = one.column.type.value_type, len(one.sources)
    columns = [rows[name].combine_chunks().cast(item) for name in one.sources]
    apart = pa.concat_arrays(columns)
    order = np.arange(count * rows.num_rows).reshape(count, rows.num_rows).T.ravel()
    there = functools.reduce(pc.or_, (column.is_valid() for column in columns))
    offsets = np.arange(0, (rows.num_rows + 1) * count, count, dtype=np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), apart.take(pa.array(order)), type=one.column.type, mask=pc.invert(there)
    )


def _as_element(one: Made, lists: Any) -> Any:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    if len(lengths) and int(lengths.max()) > one.length:
        raise TooLong(f"{one.sources[0]} has {int(lengths.max())} items where its schema declares {one.length}")
    begins = np.cumsum(lengths) - lengths
    place = np.where(lengths > one.element, begins + one.element, 0)
    if not len(lists.flatten()):
        return pa.nulls(len(lists), one.column.type)
    return lists.flatten().take(pa.array(place, mask=lengths <= one.element))
