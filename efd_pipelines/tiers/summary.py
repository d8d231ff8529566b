"""Summary: the rows of one tier over some of the archive's rows.

The windows are found from a few columns; then the others are read a tile at a time, so that memory is bounded by the
tile and the result, and never by the width of the dataset. A value that is null or NaN is no sample; where a
window has no sample of a field, its statistics are null. `first_` is the value of the window's first row as it
is, be it NaN or null, so that all of them together are one record that really was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.tiers.columns import SummaryField, TierForm
from efd_pipelines.tiers.rows import Rows
from efd_pipelines.tiers.statistics import Samples, Statistics, statistics_of, window_statistics
from efd_pipelines.tiers.windows import KEYS, Windows, find_windows
from efd_pipelines.topics.layout import TIME, Arrays

TILE_BYTES = 96 * 1024 * 1024

Results: TypeAlias = "dict[str, pa.Array[Any]]"


def summarise(
    rows: Rows,
    window_us: int,
    arrays: Arrays = "flat",
    form: TierForm | None = None,
    *,
    tile_bytes: int = TILE_BYTES,
) -> pa.Table:
    """The tier's table over `rows`, sorted by (salIndex, time); columns of `columns.tier_schema`.

    `form`, where the caller has it, must be that of the rows' schema. `tile_bytes` of values are read at a time.
    """
    form = form or TierForm.of(rows.schema, arrays)
    fields = form.fields
    windows = find_windows(_keys(rows), window_us)
    source = _Source(rows, windows)
    results: Results = {}
    plain = [one for one in fields if len(one.statistics) > 1 and not _ragged(one)]
    for tile in _tiles(plain, rows.count, tile_bytes):
        results |= source.summarise_numbers(tile)
    for one in fields:
        if len(one.statistics) > 1 and _ragged(one):
            results |= source.summarise_lists(one)
    results |= source.take_first([one for one in fields if len(one.statistics) == 1])
    return _assembled(form.schema, windows, window_us, results)


def _keys(rows: Rows) -> pa.Table:
    names = [name for name in KEYS if name in rows.schema.names]
    schema = pa.schema([rows.schema.field(name) for name in names])
    return pa.concat_tables([schema.empty_table(), *(part for _, part in rows.batches(names))])


def _ragged(one: SummaryField) -> bool:
    """Whether the archive itself keeps lists, which can be of any length."""
    return bool(pa.types.is_list(one.type))


def _has_quartiles(one: SummaryField) -> bool:
    return "q1" in one.statistics


def _computed(kind: pa.DataType) -> np.dtype[Any]:
    """In what a type is computed: floats as they are, integers as int64."""
    return np.dtype(np.int64) if pa.types.is_integer(kind) else np.dtype(kind.to_pandas_dtype())


def _tiles(fields: Iterable[SummaryField], rows: int, tile_bytes: int) -> Iterator[list[SummaryField]]:
    """Fields of one type in groups whose values fit into `tile_bytes`."""
    by_type: dict[np.dtype[Any], list[SummaryField]] = {}
    for one in fields:
        by_type.setdefault(_computed(one.type), []).append(one)
    for kind, members in by_type.items():
        room = max(1, tile_bytes // max(1, rows * kind.itemsize))
        tile: list[SummaryField] = []
        width = 0
        for one in members:
            if tile and width + len(one.sources) > room:
                yield tile
                tile, width = [], 0
            tile.append(one)
            width += len(one.sources)
        yield tile


@dataclass(slots=True)
class _Columns:
    """Values of some columns of one type, in the windows' order.

    Where the rows are in that order, they stay where Arrow has them; otherwise they are moved. `present` says of
    columns with nulls which samples are there: missing floats are NaN.
    """

    samples: Samples
    tile: NDArray[Any] | None = None
    present: dict[int, NDArray[np.bool_]] = field(default_factory=dict)

    def statistics(self, windows: Windows, *, quartiles: bool) -> Statistics:
        if not self.present or self.tile is None or self.samples.dtype.kind == "f":
            return statistics_of(self.samples, windows.starts, windows.ends, quartiles=quartiles)
        present = np.ones(self.tile.shape, bool)
        for column, there in self.present.items():
            present[column] = there
        return window_statistics(self.tile, windows.starts, windows.ends, present, quartiles=quartiles)


def _lying(parts: Sequence[pa.Table], kind: pa.DataType) -> Samples | None:
    """The values of columns as Arrow has them; None where some are null or of another type."""
    dtype = _computed(kind)
    if np.dtype(kind.to_pandas_dtype()) != dtype:
        return None
    addresses: list[list[int]] = []
    lengths: list[int] = []
    for part in parts:
        if any(one != kind for one in part.schema.types):
            return None
        for batch in part.to_batches():
            columns = batch.columns
            if any(column.null_count for column in columns):
                return None
            if batch.num_rows:
                addresses.append([_address(column, dtype.itemsize) for column in columns])
                lengths.append(batch.num_rows)
    return Samples(dtype, addresses, lengths, parts) if lengths else None


def _address(values: pa.Array[Any], size: int) -> int:
    return int(values.buffers()[1].address) + int(values.offset) * size


def _moved(
    pieces: Sequence[tuple[Any, NDArray[np.bool_] | None, pa.Table]], columns: int, samples: int, dtype: np.dtype[Any]
) -> _Columns:
    """The values of pieces of rows at their places."""
    tile = np.empty((columns, samples), dtype)
    present: dict[int, NDArray[np.bool_]] = {}
    for places, kept, part in pieces:
        for column, values in enumerate(part.columns):
            if values.null_count:
                there = present.setdefault(column, np.ones(samples, bool))
                there[places] = _kept(values.is_valid().to_numpy(), kept)
                filler = float("nan") if dtype.kind == "f" else 0
                values = pc.fill_null(values, pa.scalar(filler, values.type))
            tile[column, places] = _kept(values.to_numpy(), kept)
    return _Columns(Samples.of_tile(tile), tile, present)


def _cast(values: pa.Array[Any], kind: pa.DataType) -> pa.Array[Any]:
    """A cast that changes nothing costs as much as one that does, and there are thousands of columns."""
    return values if values.type.equals(kind) else values.cast(kind)


def _kept(values: NDArray[Any], kept: NDArray[np.bool_] | None) -> NDArray[Any]:
    return values if kept is None else values[kept]


class _Source:
    """Rows with their windows: reads fields and gives their columns."""

    def __init__(self, rows: Rows, windows: Windows) -> None:
        self._rows = rows
        self._windows = windows
        self._ranks = None if windows.has_all(rows.count) else windows.ranks(rows.count)

    def summarise_numbers(self, fields: Sequence[SummaryField]) -> Results:
        """The statistics of fields that are of one type and no lists in the archive."""
        names = [name for one in fields for name in one.sources]
        values = self._read(names, fields[0].type)
        found = values.statistics(self._windows, quartiles=_has_quartiles(fields[0]))
        figures = [_first(found.first, values, self._windows), *_figures(found, self._windows)]
        results: Results = {}
        is_plain = found.first.dtype.kind == "f" and not any(one.is_list for one in fields)
        for figure in figures:
            lying = figure.lying()
            if lying is not None and is_plain:
                results.update(zip([f"{figure.name}_{one.name}" for one in fields], lying, strict=True))
                continue
            begin = 0
            for one in fields:
                end = begin + len(one.sources)
                if lying is not None and not one.is_list:
                    column = _cast(lying[begin], one.item_type_of(figure.name))
                else:
                    column = figure.column(begin, end, one)
                results[f"{figure.name}_{one.name}"] = _even_lists(column, end - begin) if one.is_list else column
                begin = end
        return results

    def _read(self, names: Sequence[str], kind: pa.DataType) -> _Columns:
        pieces = [(*self._places(first, part.num_rows), part) for first, part in self._rows.batches(names)]
        if all(kept is None for _, kept, _ in pieces):
            in_order = sorted(pieces, key=lambda piece: piece[0].start)
            lying = _lying([part for _, _, part in in_order], kind)
            if lying is not None:
                return _Columns(lying)
        return _moved(pieces, len(names), len(self._windows.order), _computed(kind))

    def _places(self, first: int, count: int) -> tuple[Any, NDArray[np.bool_] | None]:
        """Where in the windows' order the rows from `first` on go, and which of them go anywhere."""
        if self._ranks is None:
            return slice(first, first + count), None
        ranks = self._ranks[first : first + count]
        if count and ranks[0] >= 0 and np.array_equal(ranks, np.arange(ranks[0], ranks[0] + count)):
            return slice(int(ranks[0]), int(ranks[0]) + count), None
        kept = ranks >= 0
        return ranks[kept], kept

    def take_first(self, fields: Sequence[SummaryField]) -> Results:
        """`first_` of fields of any type."""
        names = [name for one in fields for name in one.sources]
        if not names:
            return {}
        taken = self._first_rows(names)
        results: Results = {}
        for one in fields:
            columns = [taken[name].combine_chunks() for name in one.sources]
            flat = one.is_list and not _ragged(one)
            results[f"first_{one.name}"] = _listed(columns) if flat else columns[0]
        return results

    def _first_rows(self, names: Sequence[str]) -> pa.Table:
        """The windows' first rows, in their order."""
        wanted = self._windows.first_rows
        rising = np.sort(wanted)
        schema = pa.schema([self._rows.schema.field(name) for name in names])
        parts = [schema.empty_table()]
        for first, part in self._rows.batches(names):
            low, high = np.searchsorted(rising, (first, first + part.num_rows))
            parts.append(part.take(pa.array(rising[low:high] - first)))
        return pa.concat_tables(parts).take(pa.array(np.searchsorted(rising, wanted)))

    def summarise_lists(self, one: SummaryField) -> Results:
        """The statistics of a field that the archive keeps as lists, element by element."""
        name = one.sources[0]
        ranks = self._windows.ranks(self._rows.count) if self._ranks is None else self._ranks
        lists = _Lists.read(self._rows, name, ranks, len(self._windows.order))
        statistics = lists.statistics(self._windows, _computed(one.item_type), quartiles=_has_quartiles(one))
        lengths, null = lists.window_lengths(self._windows)
        results = {f"first_{one.name}": self._first_rows([name])[name].combine_chunks()}
        for figure in _figures(statistics, self._windows):
            column = figure.column(0, lists.width, one)
            results[f"{figure.name}_{one.name}"] = _uneven_lists(column, lists.width, lengths, null)
        return results


@dataclass(frozen=True, slots=True)
class _Lists:
    """The lists of all samples: (samples, longest list) of values, and the length of each, −1 for null."""

    values: NDArray[Any]
    lengths: NDArray[np.int64]

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    @classmethod
    def read(cls, rows: Rows, name: str, ranks: NDArray[np.int64], samples: int) -> _Lists:
        lengths = np.full(samples, -1, np.int64)
        parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]] = []
        for first, part in rows.batches([name]):
            kept = ranks[first : first + part.num_rows] >= 0
            lists = part[name].filter(pa.array(kept)).combine_chunks()
            places = ranks[first : first + part.num_rows][kept]
            sizes = pc.fill_null(pc.list_value_length(lists), -1).to_numpy().astype(np.int64)
            lengths[places] = sizes
            parts.append((places, np.maximum(sizes, 0), lists.flatten().to_numpy(zero_copy_only=False)))
        width = int(max(lengths.max(initial=0), 0))
        kind = _computed(rows.schema.field(name).type.value_type)
        values = np.full((samples, width), np.nan if kind.kind == "f" else 0, kind)
        for places, sizes, flat in parts:
            element = np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            values[np.repeat(places, sizes), element] = flat
        return cls(values, lengths)

    def statistics(self, windows: Windows, kind: np.dtype[Any], *, quartiles: bool) -> Statistics:
        tile = np.ascontiguousarray(self.values.T)
        whole = kind.kind == "f" or bool((self.lengths == self.width).all())
        present = None if whole else np.arange(self.width)[:, None] < self.lengths[None, :]
        return window_statistics(tile, windows.starts, windows.ends, present, quartiles=quartiles)

    def window_lengths(self, windows: Windows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The longest list of each window, and whether there was none at all."""
        if not len(windows):
            return np.zeros(0, np.int64), np.zeros(0, bool)
        longest = np.maximum.reduceat(self.lengths, windows.starts)
        return np.maximum(longest, 0), longest < 0


@dataclass(frozen=True, slots=True)
class _Figure:
    """One statistic of all columns, (columns, windows); `missing` is None where none is."""

    name: str
    values: NDArray[Any]
    missing: NDArray[np.bool_] | None

    def lying(self) -> list[pa.Array[Any]] | None:
        """The values of each column where they lie: `pa.array` takes ten times as long, and there are thousands."""
        if self.missing is not None:
            return None
        windows, stride = self.values.shape[1], self.values.strides[0] // self.values.itemsize
        memory = pa.foreign_buffer(self.values.ctypes.data, self.values.strides[0] * len(self.values), self.values)
        whole = pa.Array.from_buffers(_ARROW[self.values.dtype], stride * len(self.values), [None, memory])
        return [whole.slice(n * stride, windows) for n in range(len(self.values))]

    def column(self, begin: int, end: int, one: SummaryField) -> pa.Array[Any]:
        """The values of some columns, window by window, in the type that the tier has them in."""
        wanted = one.item_type_of(self.name)
        mask = None if self.missing is None else self.missing[begin:end]
        if mask is not None and not mask.any():
            mask = None
        if end == begin + 1:
            return _cast(pa.array(self.values[begin], mask=None if mask is None else mask[0]), wanted)
        items = self.values[begin:end].T.ravel()
        return _cast(pa.array(items, mask=None if mask is None else mask.T.ravel()), wanted)


def _first(values: NDArray[Any], columns: _Columns, windows: Windows) -> _Figure:
    """The first sample of each window, null where it is."""
    if not columns.present:
        return _Figure("first", values, None)
    missing = np.zeros(values.shape, bool)
    for column, there in columns.present.items():
        missing[column] = ~there[windows.starts]
    return _Figure("first", values, missing)


_ARROW = {np.dtype(name): getattr(pa, name)() for name in ("float32", "float64", "int64")}


def _figures(statistics: Statistics, windows: Windows) -> Iterator[_Figure]:
    least = statistics.least
    count = windows.counts
    if least < 2 and statistics.missing is not None:
        count = count - statistics.missing
    for name, values, needed in (
        ("min", statistics.minimum, 1),
        ("max", statistics.maximum, 1),
        ("mean", statistics.mean, 1),
        ("median", statistics.median, 1),
        ("stdev", statistics.stdev, 2),
        ("q1", statistics.q1, 1),
        ("q3", statistics.q3, 1),
    ):
        if values is None:
            continue
        yield _Figure(name, values, np.broadcast_to(count < needed, values.shape) if least < needed else None)


def _listed(columns: Sequence[pa.Array[Any]]) -> pa.Array[Any]:
    """Columns of equal length, element for element, as lists."""
    count, width = len(columns[0]), len(columns)
    across = np.arange(count * width).reshape(width, count).T.ravel()
    return _even_lists(pa.concat_arrays(list(columns)).take(pa.array(across)), width)


def _even_lists(items: pa.Array[Any], width: int) -> pa.Array[Any]:
    """Lists of `width` items; null where all of them are, as where the field itself is not there."""
    offsets = pa.array(np.arange(0, len(items) + 1, width, dtype=np.int32))
    if not items.null_count:
        return pa.ListArray.from_arrays(offsets, items)
    null = ~items.is_valid().to_numpy(zero_copy_only=False).reshape(-1, width).any(axis=1)
    return pa.ListArray.from_arrays(offsets, items, mask=pa.array(null))


def _uneven_lists(
    items: pa.Array[Any], width: int, lengths: NDArray[np.int64], null: NDArray[np.bool_]
) -> pa.Array[Any]:
    """The first `lengths` of `width` items of each window; null where there was no list."""
    kept = (np.arange(width)[None, :] < lengths[:, None]).ravel()
    offsets = pa.array(np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, items.filter(pa.array(kept)), mask=pa.array(null))


def _assembled(schema: pa.Schema, windows: Windows, window_us: int, results: Results) -> pa.Table:
    columns: dict[str, pa.Array[Any]] = {
        "time": pa.array(windows.time_us).cast(TIME),
        "window_size": pa.array(np.full(len(windows), window_us / 1e6)),
        "count": pa.array(windows.counts),
    }
    index = windows.sal_indices()
    if index is not None:
        columns["salIndex"] = index.cast(schema.field("salIndex").type)
    columns |= results
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
