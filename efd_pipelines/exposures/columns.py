"""Columns: which columns of the archive a configuration's column is computed from, and its samples.

Fields are found by the field and element that each column of the archive carries, so that names that had to change
there keep their names here: `name` is a field, or all elements of an array; `name3` is one element, wherever the
archive keeps it. Columns with the same fields, subset and window share their samples. Arithmetic: `functions.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.errors import DataError
from efd_pipelines.exposures.configuration import EXPOSURE_TABLE, ExposureColumn, SubsetValue, TopicFields
from efd_pipelines.topics.layout import Column, column_of
from efd_pipelines.topics.names import Dataset, nearest

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
class Selection:
    """Samples that columns of a configuration share: the fields, the rows, and how far the window is moved."""

    elements: tuple[Element, ...]
    start_offset_us: int
    subset: Element | None = None
    subset_values: tuple[SubsetValue, ...] = ()


class TopicColumns:
    """The columns of one dataset, found by the names that configurations use."""

    def __init__(self, dataset: Dataset, schema: pa.Schema) -> None:
        self.dataset = dataset
        self._types = {column.name: column.type for column in schema}
        self._columns: dict[tuple[str, int | None], tuple[str, ...]] = {}
        self._lengths: dict[str, int] = {}
        for field in schema:
            column = column_of(field)
            if column is not None:
                self._add(column)

    def _add(self, column: Column) -> None:
        part = (column.field, column.element)
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


def not_computed(column: ExposureColumn) -> str | None:
    """Why a column is left out of what is computed so far, or None."""
    if EXPOSURE_TABLE not in column.tables:
        return f"{', '.join(column.tables)} are not written yet"
    if column.packed_series:
        return "packed series are not expanded in time yet"
    if len(column.topics) > 1:
        return "several topics in one column are not combined yet"
    return None


def select(column: ExposureColumn, fields: TopicFields, topic: TopicColumns) -> Selection:
    """The samples that a column takes of one of its topics.

    Raises:
        UnknownField: the topic lacks a field of it, or has it not as a number.
    """
    elements = tuple(element for name in column.measured(fields) for element in topic.numbers(name))
    if column.subset_field is None:
        return Selection(elements, column.start_offset_us)
    found = topic.find(column.subset_field)
    if len(found) > 1 or found[0].is_list:
        raise UnknownField(f"{topic.dataset}: {column.subset_field} is an array and cannot select samples")
    values = _comparable(column.subset_values, topic, found[0])
    return Selection(elements, column.start_offset_us, found[0], values)


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
        for element in (*selection.elements, *([selection.subset] if selection.subset else [])):
            needed.update(dict.fromkeys(element.columns))
    return list(needed)


def rows_selected(table: pa.Table, selection: Selection) -> NDArray[np.bool_] | None:
    """Which rows a selection takes; None: all."""
    if selection.subset is None:
        return None
    if isinstance(selection.subset_values[0], str):
        wanted = pa.array([str(value) for value in selection.subset_values])
        texts = [pc.is_in(table[column], value_set=wanted) for column in selection.subset.columns]
        found: NDArray[np.bool_] = np.logical_or.reduce([text.to_numpy() for text in texts])
        return found
    numbers = element_values(table, selection.subset)[:, 0]
    chosen: NDArray[np.bool_] = np.isin(numbers, np.array(selection.subset_values, dtype=np.float64))
    return chosen


def sample_matrix(
    table: pa.Table, elements: Sequence[Element], rows: NDArray[np.bool_] | None
) -> NDArray[np.floating[Any]]:
    """Values of shape (rows, elements), NaN for null; float32 where all are, else float64."""
    parts = [element_values(table, element) for element in elements]
    chosen = parts if rows is None else [part[rows] for part in parts]
    return chosen[0] if len(chosen) == 1 else np.concatenate(chosen, axis=1)


def element_values(table: pa.Table, element: Element) -> NDArray[np.floating[Any]]:
    """An element's values, of shape (rows, 1), or (rows, longest list) for a whole list."""
    found: NDArray[np.floating[Any]] | None = None
    for name in element.columns:
        values = _list_values(table[name], element.index) if element.is_list else _values(table[name])[:, None]
        found = values if found is None else np.where(np.isnan(found), values, found)
    assert found is not None  # an element has a column
    return found


def _values(column: Any) -> NDArray[np.floating[Any]]:
    wanted = pa.float32() if pa.types.is_float32(column.type) else pa.float64()
    numbers: NDArray[np.floating[Any]] = pc.cast(column, wanted, safe=False).to_numpy()
    return numbers


def _list_values(column: Any, index: int | None) -> NDArray[np.floating[Any]]:
    array = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy().astype(np.int64)
    items = _values(pa.chunked_array([array.flatten()]))
    width = int(lengths.max(initial=0))
    matrix = np.full((len(lengths), max(width, 1)), np.nan, dtype=items.dtype)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = items
    if index is None:
        return matrix
    if index >= matrix.shape[1]:
        return np.full((len(lengths), 1), np.nan, dtype=items.dtype)
    return matrix[:, index : index + 1]
