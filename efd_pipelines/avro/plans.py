"""Plans: what the kernel makes of each field of a schema, and where in a layout it goes.

What is in a plan depends on schema and layout alone; addresses come with every batch. Who decodes by it: `compiled.py`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from efd_pipelines.avro.grammar import bare
from efd_pipelines.topics.layout import Column, Layout

# In the kernel's order.
KINDS = ("boolean", "int", "long", "float", "double", "string", "bytes")
ARROW = (pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary())
# Bytes of a value in its column; 0 of texts.
SIZES = (1, 4, 8, 4, 8, 0, 0)
BOOLEAN = KINDS.index("boolean")


@dataclass(frozen=True, slots=True)
class WireField:
    """A field as it is written: `kind` counts in `KINDS`, `null` is the union's branch that is null, or -1."""

    name: str
    kind: int
    is_array: bool
    null: int

    @property
    def size(self) -> int:
        return SIZES[self.kind]


@functools.lru_cache(maxsize=4096)
def wire_fields(text: str) -> tuple[WireField, ...] | None:
    """The fields of a schema; None where one is neither a scalar nor an array of scalars, or there is none."""
    try:
        fields = [_wire_field(str(declared["name"]), declared["type"]) for declared in bare(json.loads(text))["fields"]]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None  # no schema of Avro's: `grammar` says so
    found = tuple(field for field in fields if field)
    is_covered = bool(fields) and len({field.name for field in found}) == len(fields)
    return found if is_covered else None


def _wire_field(name: str, declared: Any) -> WireField | None:
    null = -1
    if isinstance(declared, list):
        if len(declared) != 2 or declared.count("null") != 1:
            return None
        null = declared.index("null")
        declared = declared[1 - null]
    is_array = isinstance(declared, dict) and declared.get("type") == "array"
    if is_array:
        declared = declared["items"]
    if not isinstance(declared, str) or declared not in KINDS:
        return None
    return WireField(name, KINDS.index(declared), is_array, null)


@dataclass(frozen=True, slots=True)
class Output:
    """Where one field's values go.

    Args:
        columns: places in the layout with their columns; `element` None takes the whole.
        width: how many columns the kernel fills.
        first: the first of them among those of the same size; of texts among the texts.
        validity: the column of marks that says whether there is a value; -1 where there always is.
        array: the row of counts and places; -1 of a scalar.
        is_widened: whether a column has another type than the field.
    """

    field: WireField
    columns: tuple[tuple[int, Column], ...]
    width: int
    first: int
    validity: int
    array: int
    is_widened: bool

    @property
    def is_list(self) -> bool:
        return self.field.is_array and self.width == 0 and bool(self.columns)


@dataclass(slots=True)
class Totals:
    """How many columns there are of each size (0: texts), and how many arrays."""

    columns: dict[int, int] = field(default_factory=lambda: dict.fromkeys((0, 1, 4, 8), 0))
    arrays: int = 0

    @property
    def row_bytes(self) -> int:
        """What a row takes in memory; of a text or an array its size and place."""
        return sum(size * count for size, count in self.columns.items()) + 12 * (self.columns[0] + self.arrays) + 8


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A schema's fields with their places in a layout; `missing` are the layout's columns that it has no field for."""

    layout: Layout
    schema: pa.Schema
    outputs: tuple[Output, ...]
    missing: tuple[tuple[int, Column], ...]
    totals: Totals


def plan_of(text: str, layout: Layout) -> Plan | None:
    """How messages of a schema are decoded into a layout; None where the schema is not covered."""
    return _plan_of(text, _This(layout))


@dataclass(frozen=True, slots=True, eq=False)
class _This:
    """A layout as itself. To compare two by their columns takes longer than to plan; a drain keeps its layouts."""

    layout: Layout

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _This) and self.layout is other.layout

    def __hash__(self) -> int:
        return id(self.layout)


@functools.lru_cache(maxsize=64)
def _plan_of(text: str, this: _This) -> Plan | None:
    fields = wire_fields(text)
    if fields is None:
        return None
    columns: dict[str, list[tuple[int, Column]]] = {}
    for place, column in enumerate(this.layout.columns):
        columns.setdefault(column.field, []).append((place, column))
    totals = Totals()
    outputs = tuple(_output(field, columns.pop(field.name, []), totals) for field in fields)
    missing = tuple(place for places in columns.values() for place in places)
    return Plan(this.layout, this.layout.arrow_schema(), outputs, missing, totals)


def _output(wire: WireField, columns: Sequence[tuple[int, Column]], totals: Totals) -> Output:
    width = 1 if columns else 0
    validity = array = -1
    if wire.is_array:
        width = max((column.element + 1 for _, column in columns if column.element is not None), default=0)
        array, totals.arrays = totals.arrays, totals.arrays + 1
    elif wire.null >= 0 and columns:
        validity, totals.columns[1] = totals.columns[1], totals.columns[1] + 1
    first, totals.columns[wire.size] = totals.columns[wire.size], totals.columns[wire.size] + width
    kind = pa.list_(ARROW[wire.kind]) if wire.is_array and width == 0 else ARROW[wire.kind]
    is_widened = not all(column.type.equals(kind) for _, column in columns)
    return Output(wire, tuple(columns), width, first, validity, array, is_widened)
