"""Columns: which columns of the archive a configuration's column is computed from.

Fields are found by the field and element that each column of the archive carries, so that names that had to change
there keep their names here: `name` is a field, or all elements of an array; `name3` is one element, wherever the
archive keeps it. Columns with the same fields, subset and look-back share their samples. What the samples are:
`samples.py`. Arrays that are series in time: `packed.py`. Arithmetic: `functions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from efd_pipelines.errors import DataError
from efd_pipelines.exposures.configuration import ExposureColumn, SubsetValue, TopicFields
from efd_pipelines.topics.layout import Column, column_of
from efd_pipelines.topics.names import Dataset, nearest

REFERENCES = ("cRIO_timestamp", "cRioTimestamp", "timestamp")
"""Fields with the instant of an array's first element, the first that a topic has (efd-facts.md §1.4)."""

INTERVALS = ("interval",)
_INDEX = re.compile(r"0|[1-9]\d*")


class UnknownField(DataError):
    """A configuration names a field that its topic does not have, or not as a number."""

    remedy = "Mend the configuration; `efd exposures check` lists what it names and topics lack."


@dataclass(frozen=True, slots=True)
class Element:
    """One number of each sample, or, of a list with `index` None, all of it.

    `columns` hold it one after the other: a field whose type changed has a column for each type.
    """

    columns: tuple[str, ...]
    index: int | None = None
    is_list: bool = False


@dataclass(frozen=True, slots=True)
class Packing:
    """How the arrays of a topic are series in time, the same for all fields of a selection.

    `indices` are the elements taken, None where the archive keeps lists: then all of them. `length` is how many an
    array has (0: as many as the list is long). `reference` has the instant of the first element, TAI unix seconds,
    `interval` the seconds from one to the next; None where the topic has no such field.
    """

    indices: tuple[int, ...] | None
    length: int
    reference: Element | None
    interval: Element | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Samples that columns of a configuration share: the fields, the rows, and how far the window is moved.

    `names` has the name of each element; of a packed selection, of each field.
    """

    elements: tuple[Element, ...]
    names: tuple[str, ...]
    start_offset_us: int
    subset: Element | None = None
    subset_values: tuple[SubsetValue, ...] = ()
    packing: Packing | None = None

    @property
    def read(self) -> tuple[Element, ...]:
        """All elements that have to be read for it."""
        timing = () if self.packing is None else (self.packing.reference, self.packing.interval)
        return (*self.elements, *(element for element in (self.subset, *timing) if element is not None))


class TopicColumns:
    """The columns of one dataset, found by the names that configurations use."""

    def __init__(self, dataset: Dataset, schema: pa.Schema) -> None:
        self.dataset = dataset
        self._types = {column.name: column.type for column in schema}
        self._columns: dict[tuple[str, int | None], tuple[str, ...]] = {}
        self._lengths: dict[str, int] = {}
        self._units: dict[str, str] = {}
        for field in schema:
            column = column_of(field)
            if column is not None:
                self._add(column)

    def _add(self, column: Column) -> None:
        part = (column.field, column.element)
        self._units[column.field] = column.units
        self._columns[part] = (*self._columns.get(part, ()), column.name)
        if column.element is not None:
            self._lengths[column.field] = max(self._lengths.get(column.field, 0), column.element + 1)

    @property
    def names(self) -> list[str]:
        """The names by which fields and elements are called."""
        return sorted({field if n is None else f"{field}{n}" for field, n in self._columns} | set(self._lengths))

    def numbers(self, name: str) -> tuple[Element, ...]:
        """The elements of a name, all of them numbers.

        Raises:
            UnknownField: there is none, there are several, or it is no number.
        """
        elements = self.find(name)
        for element in elements:
            if any(not _is_number(self._item_type(column)) for column in element.columns):
                raise UnknownField(f"{self.dataset}: {name} is no number")
        return elements

    def find(self, name: str) -> tuple[Element, ...]:
        """The elements of a name.

        Raises:
            UnknownField: there is none, or there are several that it could mean.
        """
        if (name, None) in self._columns:
            return (self._whole(name),)
        if name in self._lengths:
            parts = [self._columns.get((name, n)) for n in range(self._lengths[name])]
            return tuple(Element(part) for part in parts if part is not None)
        meant = list(self._indexed(name))
        if len(meant) > 1:
            raise UnknownField(f"{self.dataset}: {name} may mean an element of several arrays")
        if not meant:
            raise UnknownField(f"{self.dataset} has no field {name}{nearest(name, self.names)}")
        return (meant[0],)

    def indices(self, field: str) -> list[int]:
        """The elements that a flattened array has."""
        return [n for n in range(self._lengths.get(field, 0)) if (field, n) in self._columns]

    def length(self, field: str) -> int:
        """How many elements an array has; 0 where it is kept as lists."""
        return self._lengths.get(field, 0)

    def array(self, name: str) -> tuple[str, list[int] | None]:
        """The array that a name means, and its elements: all, or one; None for all of a list.

        Raises:
            UnknownField: it is no array of numbers.
        """
        if (name, None) in self._columns or name in self._lengths:
            (first, *_) = self.numbers(name)
            if first.is_list:
                return name, None
            if name in self._lengths:
                return name, self.indices(name)
        for cut in range(len(name) - 1, 0, -1):
            base, digits = name[:cut], name[cut:]
            if _INDEX.fullmatch(digits) and (base, int(digits)) in self._columns:
                self.numbers(name)
                return base, [int(digits)]
        self.find(name)
        raise UnknownField(f"{self.dataset}: {name} is no array, and no packed series")

    def elements(self, field: str, indices: tuple[int, ...] | None) -> tuple[Element, ...]:
        """Some elements of an array; None for all of a list."""
        if indices is None:
            return (self._whole(field),)
        return tuple(Element(self._columns[(field, n)]) for n in indices)

    def first_of(self, names: Sequence[str]) -> Element | None:
        """The first of some fields that the topic has as one number that counts seconds."""
        for name in names:
            if (name, None) in self._columns and self._units.get(name) in ("second", "s", ""):
                element = self._whole(name)
                if not element.is_list and all(_is_number(self._types[column]) for column in element.columns):
                    return element
        return None

    def _whole(self, field: str) -> Element:
        columns = self._columns[(field, None)]
        return Element(columns, is_list=pa.types.is_list(self._types[columns[0]]))

    def _indexed(self, name: str) -> Iterable[Element]:
        for cut in range(len(name) - 1, 0, -1):
            base, digits = name[:cut], name[cut:]
            if not _INDEX.fullmatch(digits):
                continue
            if (base, int(digits)) in self._columns:
                yield Element(self._columns[(base, int(digits))])
            elif (base, None) in self._columns and self._whole(base).is_list:
                yield Element(self._columns[(base, None)], int(digits), is_list=True)

    def _item_type(self, column: str) -> pa.DataType:
        found = self._types[column]
        return found.value_type if isinstance(found, pa.ListType) else found

    def is_text(self, element: Element) -> bool:
        return any(pa.types.is_string(self._types[column]) for column in element.columns)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def select(column: ExposureColumn, fields: TopicFields, topic: TopicColumns) -> Selection:
    """The samples that a column takes of one of its topics.

    Raises:
        UnknownField: the topic lacks a field of it, or has it not as a number, or not as a column needs it.
    """
    subset, values = _subset(column, topic)
    if column.packed_series:
        elements, names, packing = _packed(column, fields, topic)
        return Selection(elements, names, column.start_offset_us, subset, values, packing)
    elements, names = _plain(column, fields, topic)
    return Selection(elements, names, column.start_offset_us, subset, values)


def _plain(
    column: ExposureColumn, fields: TopicFields, topic: TopicColumns
) -> tuple[tuple[Element, ...], tuple[str, ...]]:
    elements: list[Element] = []
    names: list[str] = []
    for name in column.measured(fields):
        found = topic.numbers(name)
        if column.store_unpivoted and any(element.is_list and element.index is None for element in found):
            raise UnknownField(f"{topic.dataset} keeps {name} as a list: name its elements, {name}0, {name}1 …")
        elements += found
        names += [name] if len(found) == 1 else [f"{name}{n}" for n in topic.indices(name)]
    return tuple(elements), tuple(names)


def _packed(
    column: ExposureColumn, fields: TopicFields, topic: TopicColumns
) -> tuple[tuple[Element, ...], tuple[str, ...], Packing]:
    arrays: dict[str, list[int] | None] = {}
    for name in column.measured(fields):
        field, indices = topic.array(name)
        known = arrays.setdefault(field, indices)
        if known is not None and indices is not None and known is not indices:
            known += indices
    shapes = {(None if some is None else tuple(sorted(some)), topic.length(field)) for field, some in arrays.items()}
    if len(shapes) > 1:
        raise UnknownField(f"{topic.dataset}: the arrays of {column.name} have not the same elements")
    ((indices_taken, length),) = shapes
    elements = [element for field in arrays for element in topic.elements(field, indices_taken)]
    packing = Packing(indices_taken, length, topic.first_of(REFERENCES), topic.first_of(INTERVALS))
    return tuple(elements), tuple(arrays), packing


def _subset(column: ExposureColumn, topic: TopicColumns) -> tuple[Element | None, tuple[SubsetValue, ...]]:
    if column.subset_field is None:
        return None, ()
    found = topic.find(column.subset_field)
    if len(found) > 1 or found[0].is_list:
        raise UnknownField(f"{topic.dataset}: {column.subset_field} is an array and cannot select samples")
    return found[0], _comparable(column.subset_values, topic, found[0])


def _comparable(values: Sequence[SubsetValue], topic: TopicColumns, element: Element) -> tuple[SubsetValue, ...]:
    """The values as the field has them: text for text, else numbers."""
    if topic.is_text(element):
        return tuple(sorted(str(value) for value in values))
    try:
        return tuple(sorted(float(value) for value in values))
    except ValueError:
        raise UnknownField(f"{topic.dataset}: {element.columns[0]} is a number, the subset_value is not") from None


def columns_to_read(selections: Iterable[Selection]) -> list[str]:
    """The archive's columns that selections need, each once."""
    needed: dict[str, None] = {}
    for selection in selections:
        for element in selection.read:
            needed.update(dict.fromkeys(element.columns))
    return list(needed)
