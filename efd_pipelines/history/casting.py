"""Casting: InfluxDB's values back in the columns and types in which the dataset was sent.

InfluxDB has float64 for every float and int64 for every int, an array's elements as fields `name0`, `name1` …, and
no NaN. A value goes back to the declared type where that is exact for every value of the piece; where it is not, the
column is made as wide as the values need (float → double, int → long), or a value of another kind gets a column of its
own, `name__<type>`, by the rules of `topics/layout.py`. What InfluxDB dropped is null.
In seven topics two fields flatten to one name (efd-facts §1.5): whose value InfluxDB has kept, nobody can tell, so it
is left out, and said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.topics.layout import MAX_FLAT_COLUMNS, Arrays, Column, arrow_field, plan_layout, wider
from efd_pipelines.topics.schemas import Field, FieldType, TopicSchema

_WORDS: Mapping[pa.DataType, FieldType] = {
    pa.bool_(): "boolean",
    pa.int32(): "int",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "string",
    pa.binary(): "bytes",
}
_ELEMENT = re.compile(r"(.*?)(0|[1-9][0-9]{0,5})")
_LONGER = 4
"""An array that was this many times longer once than it is declared now is not believed to be one."""


@dataclass(frozen=True, slots=True, eq=False)
class CastBack:
    """Points as the dataset's table has rows.

    Args:
        table: the message's columns, a row for each point.
        columns: their descriptions.
        arrays: whether arrays are flat, as decided once.
        ambiguous: names of InfluxDB that two columns could claim; they are left out.
    """

    table: pa.Table
    columns: tuple[Column, ...]
    arrays: Arrays
    ambiguous: tuple[str, ...]


def cast_back(
    points: pa.Table, *, schema: TopicSchema | None, held: Sequence[Column], arrays: Arrays | None
) -> CastBack:
    """The points in the dataset's columns.

    Args:
        points: fields by InfluxDB's names and in its types; `time` is passed over.
        schema: what the topic's messages are declared as, where that is known.
        held: the message's columns that the table has.
        arrays: the dataset's decision; None takes it.
    """
    fields = {name: points[name] for name in points.column_names if name != "time"}
    declared = schema or _schema_of(held)
    if schema is None and not held and arrays is None and len(fields) > MAX_FLAT_COLUMNS:
        declared = _schema_of_arrays(fields)
    layout = plan_layout(declared, arrays=arrays, held=held, lengths=_lengths(declared, fields))
    casting = _Casting(points.num_rows, layout.arrays, _known(held, layout.columns))
    casting.always = [column.name for column in layout.columns] if schema is not None or not held else []
    casting.place(fields)
    return casting.result()


def _known(held: Sequence[Column], planned: Sequence[Column]) -> dict[str, Column]:
    """The table's columns and the planned ones by name, in the wider of the two types."""
    known = {column.name: column for column in held}
    for column in planned:
        before = known.get(column.name)
        kind = column.type if before is None else wider(before.type, column.type)
        assert kind is not None, "a column keeps its name only where its type widens"
        known[column.name] = _with_type(column, kind)
    return known


class _Casting:
    """One piece on its way into columns."""

    def __init__(self, rows: int, arrays: Arrays, known: Mapping[str, Column]) -> None:
        self.rows = rows
        self.arrays = arrays
        self.always: Sequence[str] = ()
        self._known = dict(known)
        self._made: dict[str, tuple[Column, pa.ChunkedArray]] = {}
        self._ambiguous: list[str] = []

    def result(self) -> CastBack:
        names = list(dict.fromkeys([*self.always, *self._made]))
        columns, values = [], []
        for name in names:
            column, array = self._made.get(name) or (self._known[name], _nothing(self.rows, self._known[name].type))
            columns.append(column)
            values.append(array)
        table = pa.Table.from_arrays(values, schema=pa.schema([arrow_field(column) for column in columns]))
        if not columns:
            table = pa.table({"rows": pa.nulls(self.rows)}).select([])
        return CastBack(table, tuple(columns), self.arrays, tuple(self._ambiguous))

    def place(self, fields: Mapping[str, pa.ChunkedArray]) -> None:
        """Puts each field into its column, and those that have none into new ones."""
        owners = self._owners()
        rest: dict[str, pa.ChunkedArray] = {}
        for name, values in fields.items():
            candidates = owners.get(name, [])
            if len({(column.field, column.element) for column in candidates}) > 1:
                self._ambiguous.append(name)
            elif not candidates or not self._put(candidates, values):
                rest[name] = values
        for field, elements in self._elements_of_lists(rest).items():
            self._put_list(field, [(element, rest.pop(name)) for element, name in elements])
        for name, values in rest.items():
            self._put_new(name, values)

    def _owners(self) -> dict[str, list[Column]]:
        """The columns that a name of InfluxDB could belong to, the declared ones first."""
        found: dict[str, list[Column]] = {}
        declared = set(self.always)
        for column in sorted(self._known.values(), key=lambda column: column.name not in declared):
            if not pa.types.is_list(column.type):
                found.setdefault(_flat_name(column.field, column.element), []).append(column)
        return found

    def _put(self, candidates: Sequence[Column], values: pa.ChunkedArray) -> bool:
        """Puts values into the first column that takes them exactly, else into one made wide enough."""
        if values.null_count == len(values):
            self._made.setdefault(candidates[0].name, (candidates[0], _nothing(self.rows, candidates[0].type)))
            return True
        for column in candidates:
            cast = exactly(values, column.type)
            if cast is not None:
                self._made[column.name] = column, cast
                return True
        for column in candidates:
            kind = wider(column.type, values.type)
            if kind is not None and (cast := exactly(values, kind)) is not None:
                self._made[column.name] = _with_type(column, kind), cast
                return True
        return False

    def _put_new(self, name: str, values: pa.ChunkedArray) -> None:
        if values.null_count == len(values):
            return
        field = Field(name, _WORDS[values.type])
        column = plan_layout(_schema([field]), arrays=self.arrays, held=self._known.values()).columns[0]
        self._known[column.name] = column
        self._made[column.name] = column, values.cast(column.type)

    def _elements_of_lists(self, fields: Mapping[str, pa.ChunkedArray]) -> dict[str, list[tuple[int, str]]]:
        """By array that is kept as a list, the fields that are its elements; what two claim is left out."""
        lists = {column.field for column in self._known.values() if pa.types.is_list(column.type)}
        found: dict[str, list[tuple[int, str]]] = {}
        for name in list(fields) if lists else []:
            owners = [(field, element) for field, element in _splits(name) if field in lists]
            if len(owners) > 1:
                self._ambiguous.append(name)
            elif owners:
                found.setdefault(owners[0][0], []).append((owners[0][1], name))
        return {field: sorted(elements) for field, elements in found.items()}

    def _put_list(self, field: str, elements: Sequence[tuple[int, pa.ChunkedArray]]) -> None:
        """Elements as lists, each as long as the array was at most; null where a point has none of them."""
        column = next(one for one in self._known.values() if one.field == field and pa.types.is_list(one.type))
        length = 1 + max(element for element, _ in elements)
        kind = column.type.value_type
        for _, values in elements:
            if values.null_count < len(values) and exactly(values, kind) is None:
                kind = wider(kind, values.type) or kind
        by_element = dict(elements)
        arrays = []
        for element in range(length):
            values = by_element.get(element)
            cast = None if values is None else exactly(values, kind)
            arrays.append((_nothing(self.rows, kind) if cast is None else cast).combine_chunks())
        widened = _with_type(column, pa.list_(kind))
        self._made[column.name] = widened, pa.chunked_array([_lists(arrays, self.rows, kind)])


def _lists(arrays: Sequence[pa.Array], rows: int, kind: pa.DataType) -> pa.Array:
    """Row by row what stands element by element."""
    import numpy as np

    length = len(arrays)
    across = pa.concat_arrays(arrays).take(pa.array(np.arange(rows * length).reshape(length, rows).T.reshape(-1)))
    offsets = np.arange(0, rows * length + 1, length, dtype=np.int32)
    there = np.zeros(rows, dtype=bool)
    for values in arrays:
        there |= values.is_valid().to_numpy(zero_copy_only=False)
    return pa.ListArray.from_arrays(pa.array(offsets), across, type=pa.list_(kind), mask=pa.array(~there))


def exactly(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    """The values in another type, where none of them changes; else None."""
    if values.type.equals(kind):
        return values
    if pa.types.is_boolean(kind):
        return _booleans(values)
    if pa.types.is_boolean(values.type) or pa.types.is_string(kind):
        return None
    try:
        if pa.types.is_floating(values.type) and pa.types.is_floating(kind):
            narrow = pc.cast(values, kind, safe=False)
            return narrow if _all(pc.equal(pc.cast(narrow, values.type), values)) else None
        return pc.cast(values, kind, safe=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _booleans(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return None
    is_one = pc.equal(values, pc.cast(pa.scalar(1), values.type))
    is_zero = pc.equal(values, pc.cast(pa.scalar(0), values.type))
    return is_one if _all(pc.or_(is_one, is_zero)) else None


def _all(which: pa.ChunkedArray) -> bool:
    return bool(pc.all(which, skip_nulls=True, min_count=0).as_py())


def _nothing(rows: int, kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(rows, kind)])


def _with_type(column: Column, kind: pa.DataType) -> Column:
    return Column(column.name, column.field, column.element, kind, column.units, column.description)


def _flat_name(field: str, element: int | None) -> str:
    return field if element is None else f"{field}{element}"


def _splits(name: str) -> Iterable[tuple[str, int]]:
    """The ways in which a name may be an array's and an element's number."""
    for place in range(max(1, len(name) - 6), len(name)):
        matched = _ELEMENT.fullmatch(name[place:])
        if matched and not matched[1]:
            yield name[:place], int(matched[2])


def _lengths(schema: TopicSchema, fields: Iterable[str]) -> dict[str, int]:
    """Of the schema's arrays, those that have more elements in InfluxDB than are declared."""
    arrays = {field.name: field.length or 0 for field in schema.fields if field.array}
    declared = {field.name for field in schema.fields}
    found: dict[str, int] = {}
    for name in fields if arrays else ():
        if name in declared:
            continue
        for field, element in _splits(name):
            length = arrays.get(field)
            if length is not None and length <= element < _LONGER * max(length, _LONGER):
                found[field] = max(found.get(field, 0), element + 1)
    return found


def _schema_of(held: Sequence[Column]) -> TopicSchema:
    """What the table's columns say that the messages were."""
    fields: dict[str, Field] = {}
    for column in held:
        is_list = pa.types.is_list(column.type)
        word = _WORDS[column.type.value_type if is_list else column.type]
        known = fields.get(column.field)
        if known is None or column.element is not None:
            length = None if column.element is None else max(column.element + 1, (known and known.length) or 0)
            array = is_list or column.element is not None
            fields[column.field] = Field(
                column.field, word, array, length, units=column.units, description=column.description
            )
    return _schema(fields.values())


def _schema_of_arrays(fields: Mapping[str, pa.ChunkedArray]) -> TopicSchema:
    """Fields without any declaration: names that count up from 0 in one type are taken for an array."""
    arrays: dict[str, list[str]] = {}
    claimed: set[str] = set()
    for first in sorted((name for name in fields if name[-1:] == "0" and len(name) > 1), key=len):
        elements: list[str] = []
        while (name := f"{first[:-1]}{len(elements)}") in fields and fields[name].type.equals(fields[first].type):
            elements.append(name)
        if len(elements) > 1 and claimed.isdisjoint(elements):
            arrays[first[:-1]] = elements
            claimed.update(elements)
    found = [Field(name, _WORDS[values.type]) for name, values in fields.items() if name not in claimed]
    for base, elements in arrays.items():
        found.append(Field(base, _WORDS[fields[elements[0]].type], array=True, length=len(elements)))
    return _schema(found)


def _schema(fields: Iterable[Field]) -> TopicSchema:
    return TopicSchema(text="", token=0, namespace="", name="", description="", fields=tuple(fields))
