"""Samples: the values that a selection takes of a table of the archive's rows.

A block has one row per field and one column per sample, float32 where all fields are, else float64; NaN is null.
Which columns are meant: `columns.py`. Reading the rows: `stretches.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.exposures.columns import Element, Selection
from efd_pipelines.exposures.moments import Block

Microseconds = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Series:
    """Samples in the order of time: `time_us` UTC, `block` of shape (fields, samples)."""

    time_us: Microseconds
    block: Block


def series_of(table: pa.Table, selection: Selection, declared_s: float) -> Series:
    """The samples of a selection among rows in the order of time; packed arrays are expanded.

    `declared_s` is the topic's declared time from one record to the next.
    """
    rows = rows_selected(table, selection)
    chosen = table if rows is None else table.filter(pa.array(rows))
    if selection.packing is not None:
        return _expanded(chosen, selection, declared_s)
    time_us = chosen["time"].cast(pa.int64()).to_numpy()
    return Series(time_us, sample_block(chosen, selection.elements))


def _expanded(table: pa.Table, selection: Selection, declared_s: float) -> Series:
    from efd_pipelines.exposures.packed import element_times

    packing = selection.packing
    assert packing is not None
    count = 1 if packing.indices is None else len(packing.indices)
    fields = [sample_block(table, selection.elements[n : n + count]) for n in range(0, len(selection.elements), count)]
    width = max(len(field) for field in fields)
    length = packing.length or width
    instants = element_times(table, packing, length, declared_s).ravel()
    order = np.argsort(instants, kind="stable")
    block = np.full((len(fields), len(instants)), np.nan, dtype=np.result_type(*fields))
    for n, field in enumerate(fields):
        whole = np.full((width, table.num_rows), np.nan, dtype=block.dtype)
        whole[: len(field)] = field
        block[n] = whole.T.ravel()[order]
    return Series(instants[order], block)


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


def sample_block(table: pa.Table, elements: Sequence[Element]) -> Block:
    """Values of shape (elements, rows); a whole list gives as many as the longest is long."""
    parts = [element_values(table, element).T for element in elements]
    return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)


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
