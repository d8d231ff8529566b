"""Columns: fields as Arrow arrays → the columns of a layout, exactly.

An array field becomes a column for each element, by a tiled transposition where all rows have the same length,
by selection where they do not. Nothing is rounded, cut or filled: what is missing is null, and arrays that are
longer than the layout has columns for are reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.arrays import array_of, numbers_of
from efd_pipelines.topics.layout import Column, Layout

_FLAT_KINDS = (pa.types.is_integer, pa.types.is_floating)


@dataclass(slots=True, eq=False)
class Flattening:
    """Executes a layout on batch after batch.

    `lengths`: of the array fields that were longer than the layout, the greatest length seen.
    """

    layout: Layout
    lengths: dict[str, int] = field(default_factory=dict)
    _schema: pa.Schema = field(init=False)
    _places: dict[str, list[tuple[int, Column]]] = field(init=False)

    def __post_init__(self) -> None:
        self._schema = self.layout.arrow_schema()
        self._places = {}
        for place, column in enumerate(self.layout.columns):
            self._places.setdefault(column.field, []).append((place, column))

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def table(self, fields: Mapping[str, pa.Array], rows: int) -> pa.Table:
        """The layout's columns of `rows` messages, given their fields; a field that is not given is null."""
        arrays: list[pa.Array | None] = [None] * len(self.layout.columns)
        for name, places in self._places.items():
            values = fields.get(name)
            if values is None:
                for place, column in places:
                    arrays[place] = pa.nulls(rows, column.type)
            elif len(places) == 1 and places[0][1].element is None:
                place, column = places[0]
                arrays[place] = widened(values, column.type)
            else:
                self._flatten(name, values, places, arrays)
        self._note_unplaced(fields)
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _flatten(
        self,
        name: str,
        values: pa.ListArray,
        places: Sequence[tuple[int, Column]],
        arrays: list[pa.Array | None],
    ) -> None:
        planned = 1 + max(column.element or 0 for _, column in places)
        lengths = np.diff(numbers_of(values.offsets))
        longest = int(lengths.max(initial=0))
        if longest > planned:
            self.lengths[name] = max(longest, self.lengths.get(name, 0))
        if values.null_count == 0 and bool((lengths == longest).all()):
            elements = _uniform(values, longest)
        else:
            elements = _ragged(values, lengths, min(longest, planned))
        for place, column in places:
            element = column.element or 0
            if element < len(elements):
                arrays[place] = widened(elements[element], column.type)
            else:
                arrays[place] = pa.nulls(len(values), column.type)

    def _note_unplaced(self, fields: Mapping[str, pa.Array]) -> None:
        """Arrays of which the layout knows no element yet, because their declared length is 0."""
        if self.layout.arrays == "list":
            return
        for name, values in fields.items():
            if name not in self._places and pa.types.is_list(values.type):
                longest = int(np.diff(numbers_of(values.offsets)).max(initial=0))
                if longest:
                    self.lengths[name] = max(longest, self.lengths.get(name, 0))


def _uniform(values: pa.ListArray, length: int) -> list[pa.Array]:
    """Element by element, of lists that all have `length`."""
    rows = len(values)
    start, end = values.offsets[0].as_py(), values.offsets[-1].as_py()
    items = values.values.slice(start, end - start)
    if items.null_count or not any(is_kind(items.type) for is_kind in _FLAT_KINDS):
        return [items.take(array_of(np.arange(element, rows * length, length))) for element in range(length)]
    across = np.ascontiguousarray(numbers_of(items).reshape(rows, length).T)
    flat = array_of(across.reshape(-1))
    return [flat.slice(element * rows, rows) for element in range(length)]


def _ragged(values: pa.ListArray, lengths: NDArray[np.int32], count: int) -> list[pa.Array]:
    """Element by element, null where a list is shorter."""
    starts = numbers_of(values.offsets)[:-1]
    null = numbers_of(values.is_null())
    elements = []
    for element in range(count):
        missing = null | (lengths <= element)
        elements.append(values.values.take(array_of(starts + element, missing)))
    return elements


def widened(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """The values as `kind`: the same, or wider."""
    return values if values.type.equals(kind) else pc.cast(values, kind, safe=True)
