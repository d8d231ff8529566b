"""Layout: how the fields of a schema become columns of a dataset.

Arrays are flattened to `name0…nameN-1`, as in the EFD; a dataset whose schema would pass 2,000 columns when first
seen keeps lists, for ever (design.md §4). Delta compares names without case, so names that collide are
looked for without case, flattened ones too, and the later field takes the unambiguous form: an array
`name__0…name__N-1`, anything else `name__`. A field whose type changed beyond widening (int → long, float → double)
gets a column of its own, `name__<type>`. What a table has once named stays: its columns carry their field and element.
The decision is the archive's, the execution `efd_pipelines.avro`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyarrow as pa

from efd_pipelines.topics.schemas import Field, TopicSchema

Arrays = Literal["flat", "list"]

MAX_FLAT_COLUMNS = 2000
SYSTEM_COLUMNS: Mapping[str, pa.DataType] = {
    "kafka_partition": pa.int32(),
    "kafka_offset": pa.int64(),
    "kafka_timestamp": pa.timestamp("us", tz="UTC"),
    "kafka_key": pa.binary(),
    "archive_source": pa.string(),
    "archive_schema": pa.int64(),
    "archive_frame": pa.binary(),
    "archive_reason": pa.string(),
    "archive_clock_error": pa.int64(),
}
TIME = pa.timestamp("us", tz="UTC")
RESERVED = frozenset({"time", "week", *SYSTEM_COLUMNS})

_TYPES: Mapping[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "json": pa.string(),
}
_WIDER = {(pa.int32(), pa.int64()): pa.int64(), (pa.float32(), pa.float64()): pa.float64()}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: the whole of a field (`element` None), or one element of an array."""

    name: str
    field: str
    element: int | None
    type: pa.DataType
    units: str = ""
    description: str = ""


@dataclass(frozen=True)
class Layout:
    """The columns that a schema's records are decoded into, in the schema's order."""

    columns: tuple[Column, ...]
    arrays: Arrays

    def arrow_schema(self) -> pa.Schema:
        return self._arrow_schema

    @cached_property
    def _arrow_schema(self) -> pa.Schema:
        return pa.schema([arrow_field(column) for column in self.columns])


def arrow_field(column: Column) -> pa.Field[pa.DataType]:
    """The column with its units, description, field and element in the metadata."""
    element = {} if column.element is None else {"element": str(column.element)}
    # Sorted, as files have it.
    metadata = {"description": column.description, **element, "field": column.field, "units": column.units}
    return pa.field(column.name, column.type, metadata=metadata)


def column_of(field: pa.Field[pa.DataType]) -> Column | None:
    """The column that `arrow_field` wrote, or None for one of the system's."""
    metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    if "field" not in metadata:
        return None
    element = int(metadata["element"]) if "element" in metadata else None
    units, description = metadata.get("units", ""), metadata.get("description", "")
    return Column(field.name, metadata["field"], element, field.type, units, description)


def flat_width(schema: TopicSchema) -> int:
    """How many columns the schema has with its arrays flattened."""
    return sum((field.length or 1) if field.array else 1 for field in schema.fields)


def wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds both without loss (int → long, float → double), or None."""
    if one.equals(other):
        return one
    if pa.types.is_list(one) and pa.types.is_list(other):
        items = wider(one.value_type, other.value_type)
        return None if items is None else pa.list_(items)
    return _WIDER.get((one, other)) or _WIDER.get((other, one))


def plan_layout(
    schema: TopicSchema,
    *,
    arrays: Arrays | None = None,
    held: Iterable[Column] = (),
    lengths: Mapping[str, int] | None = None,
) -> Layout:
    """The columns for records of `schema`.

    Args:
        arrays: the dataset's decision; None takes it (`MAX_FLAT_COLUMNS`).
        held: the columns that the dataset's table has: they keep their names.
        lengths: lengths of arrays that were seen and pass the declared ones.
    """
    if arrays is None:
        arrays = "flat" if flat_width(schema) <= MAX_FLAT_COLUMNS else "list"
    names = _Names(held)
    columns: list[Column] = []
    for field in schema.fields:
        columns += _columns(field, arrays, names, (lengths or {}).get(field.name, 0))
    return Layout(tuple(columns), arrays)


def _columns(field: Field, arrays: Arrays, names: _Names, seen: int) -> Sequence[Column]:
    kind = _TYPES[field.type]
    if not field.array:
        return [_column(field, None, kind, names.of(field, [None], kind)[0])]
    if arrays == "list":
        listed = pa.list_(kind)
        return [_column(field, None, listed, names.of(field, [None], listed)[0])]
    elements = list(range(max(field.length or 0, seen)))
    named = names.of(field, elements, kind)
    return [_column(field, element, kind, name) for element, name in zip(elements, named, strict=True)]


def _column(field: Field, element: int | None, kind: pa.DataType, name: str) -> Column:
    return Column(name, field.name, element, kind, field.units, field.description)


class _Names:
    """Gives out column names: what is held keeps its name, what collides gets the unambiguous form."""

    def __init__(self, held: Iterable[Column]) -> None:
        self._taken = {name.lower() for name in RESERVED}
        self._held: dict[tuple[str, int | None], list[Column]] = {}
        for column in held:
            self._held.setdefault((column.field, column.element), []).append(column)
            self._taken.add(column.name.lower())

    def of(self, field: Field, elements: Sequence[int | None], kind: pa.DataType) -> list[str]:
        kept = {element: self._kept(field.name, element, kind) for element in elements}
        new = [element for element in elements if kept[element] is None]
        retyped = any(self._held.get((field.name, element)) for element in new)
        base = f"{field.name}__{_type_word(kind)}" if retyped else field.name
        while any(_name(base, element).lower() in self._taken for element in new):
            base += "_" if base.endswith("__") else "__"
        for element in new:
            kept[element] = _name(base, element)
            self._taken.add(_name(base, element).lower())
        return [str(kept[element]) for element in elements]

    def _kept(self, field: str, element: int | None, kind: pa.DataType) -> str | None:
        for column in self._held.get((field, element), []):
            if wider(column.type, kind) is not None:
                return column.name
        return None


def _name(base: str, element: int | None) -> str:
    return base if element is None else f"{base}{element}"


def _type_word(kind: pa.DataType) -> str:
    inner = kind.value_type if pa.types.is_list(kind) else kind
    return next(word for word, arrow in _TYPES.items() if arrow.equals(inner))
