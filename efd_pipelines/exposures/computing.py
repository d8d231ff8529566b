"""Computing: the values of planned columns for windows, each topic read once over the windows that lie together.

All windows of a stretch are computed at once where moments suffice, the others window by window. Columns of several
topics are put together when all of their topics have been read. What is planned: `plans.py`; who does it: `sharing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.exposures.columns import Selection
from efd_pipelines.exposures.functions import Samples
from efd_pipelines.exposures.moments import Moments, edges, interval_means, moments
from efd_pipelines.exposures.plans import Plan, PlannedColumn, Reading, reach_of
from efd_pipelines.exposures.samples import Series, series_of
from efd_pipelines.exposures.stretches import Stretches
from efd_pipelines.exposures.windows import Windows, bounds, spans

if TYPE_CHECKING:
    from efd_pipelines.archive.tables import TableSnapshot

VALUES_AT_ONCE = 24_000_000
"""Samples × fields held at once: some 100 MiB of float32, and their copies."""

GAP_US = 600_000_000
"""Windows further apart than ten minutes are read apart."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Vector:
    """The values of an unpivoted column: of shape (windows, fields), NaN for none."""

    fields: tuple[str, ...]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Values:
    """Values of windows: `values` and `samples` have shape (windows, columns); NaN is no value.

    The values of unpivoted columns are in `vectors`, by name; `samples` counts those of all their fields.
    """

    windows: Windows
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    samples: NDArray[np.int64]
    vectors: Mapping[str, Vector] = field(default_factory=dict)

    @classmethod
    def nothing(cls, columns: Sequence[PlannedColumn], windows: Windows) -> Values:
        """No value yet of any column."""
        shape = (len(windows), len(columns))
        vectors = {
            column.name: Vector(column.fields, np.full((len(windows), len(column.fields)), np.nan))
            for column in columns
            if column.fields
        }
        names = tuple(column.name for column in columns)
        return cls(windows, names, np.full(shape, np.nan), np.zeros(shape, dtype=np.int64), vectors)

    def known(self) -> NDArray[np.bool_]:
        """Which columns have a value, an unpivoted one where any field has: shape (windows, columns)."""
        known = ~np.isnan(self.values)
        for n, name in enumerate(self.columns):
            if name in self.vectors:
                known[:, n] = ~np.isnan(self.vectors[name].values).all(axis=1)
        return known


@dataclass(frozen=True, slots=True)
class Work:
    """Windows that are sorted by their beginning, and all that computing their values takes, here or elsewhere.

    `stretches` has the files of each of the `readings`. Nothing is written: it can be done again.
    """

    columns: tuple[PlannedColumn, ...]
    readings: tuple[Reading, ...]
    stretches: tuple[Stretches, ...] = field(repr=False)
    windows: Windows = field(repr=False)

    @classmethod
    def of(cls, plan: Plan, windows: Windows) -> Work:
        stretches = [_whole(plan.snapshots[reading.dataset], reading, windows) for reading in plan.readings]
        return cls(plan.columns, plan.readings, tuple(stretches), windows)

    def compute(self, progress: Progress | None = None) -> Values:
        """The values of the windows.

        Raises:
            StoreUnavailable: the archive does not answer.
        """
        windows, result = self.windows, Values.nothing(self.columns, self.windows)
        combined: dict[tuple[int, int], list[Part]] = {}
        for n, (reading, stretch) in enumerate(zip(self.readings, self.stretches, strict=True)):
            if progress is not None:
                progress(f"Joining {reading.dataset}", n, len(self.readings))
            for members in _members(reading, stretch, windows):
                some = windows.take(members)
                table = stretch.read(some.begin_us - reading.before_us, some.end_us + reading.after_us)
                for selection, columns in reading.selections.items():
                    series = series_of(table, selection, reading.declared_s)
                    _fill(self.columns, selection, columns, series, some, members, result, combined)
        for (n, member), parts in combined.items():
            _put_together(self.columns[n], n, member, parts, result)
        return result


def compute(plan: Plan, windows: Windows, progress: Progress | None = None) -> Values:
    """The values of windows that are sorted by their beginning.

    Raises:
        StoreUnavailable: the archive does not answer.
    """
    return Work.of(plan, windows).compute(progress)


def samples_of(snapshot: TableSnapshot, reading: Reading, selection: Selection, windows: Windows) -> list[Samples]:
    """The samples of each window, of one selection: for showing where a value comes from."""
    before_us, after_us = reach_of(selection)
    begin_us, end_us = windows.begin_us - before_us, windows.end_us + after_us
    stretch = Stretches.of(snapshot, reading.columns, int(begin_us.min()), int(end_us.max()))
    series = series_of(stretch.read(begin_us, end_us), selection, reading.declared_s)
    first, end = bounds(series.time_us, windows.begin_us + selection.start_offset_us, windows.end_us)
    return [_window_samples(series, windows, n, first, end) for n in range(len(windows))]


def _whole(snapshot: TableSnapshot, reading: Reading, windows: Windows) -> Stretches:
    begin_us, end_us = windows.begin_us - reading.before_us, windows.end_us + reading.after_us
    return Stretches.of(snapshot, reading.columns, int(begin_us.min()), int(end_us.max()))


def _members(reading: Reading, whole: Stretches, windows: Windows) -> list[Indices]:
    """The windows that are read together."""
    begin_us, end_us = windows.begin_us - reading.before_us, windows.end_us + reading.after_us
    longest_us = int(VALUES_AT_ONCE / whole.values_per_us) if whole.values_per_us > 0 else int(end_us.max())
    return [span.members for span in spans(begin_us, end_us, max(1, longest_us), GAP_US)]


@dataclass(frozen=True, slots=True)
class Part:
    """The samples that one topic gives to a column of several."""

    names: tuple[str, ...]
    samples: Samples


def _fill(
    planned: Sequence[PlannedColumn],
    selection: Selection,
    columns: tuple[int, ...],
    series: Series,
    windows: Windows,
    members: Indices,
    result: Values,
    combined: dict[tuple[int, int], list[Part]],
) -> None:
    first, end = bounds(series.time_us, windows.begin_us + selection.start_offset_us, windows.end_us)
    if not (end > first).any():
        return
    alone = [n for n in columns if not planned[n].is_combined]
    if alone:
        for interval_us in dict.fromkeys(planned[n].interval_us for n in alone):
            group = _Group.of(series, first, end, interval_us)
            some = [n for n in alone if planned[n].interval_us == interval_us]
            result.samples[np.ix_(members, np.array(some))] = group.counts[:, None]
            _fill_columns(planned, some, group, members, result)
    for n in columns:
        if planned[n].is_combined:
            names = _names(selection, len(series.block))
            for row in np.flatnonzero(end > first).tolist():
                part = Part(names, _window_samples(series, windows, row, first, end))
                combined.setdefault((n, int(members[row])), []).append(part)


def _names(selection: Selection, count: int) -> tuple[str, ...]:
    """The name of each field; a list of the archive has as many elements as it turned out to have."""
    if len(selection.names) == count:
        return selection.names
    return tuple(f"{selection.names[0]}{n}" for n in range(count))


@dataclass(frozen=True, slots=True)
class _Group:
    """The samples of windows that columns are computed from, and their moments, of each field and of all together.

    `counts` has how many values each window has, before they were reduced.
    """

    series: Series
    first: Indices
    end: Indices
    each: Moments
    pooled: Moments
    counts: Indices

    @classmethod
    def of(cls, series: Series, first: Indices, end: Indices, interval_us: int | None) -> _Group:
        """The samples as they are, or the means of intervals in their place."""
        if interval_us is None:
            found = moments(series.block, first, end)
            pooled = found.pooled()
            return cls(series, first, end, found, pooled, pooled.count[:, 0])
        means = interval_means(series.time_us, series.block, first, end, interval_us)
        found = moments(means.block, means.first, means.end)
        reduced = Series(means.time_us, means.block)
        return cls(reduced, means.first, means.end, found, found.pooled(), means.counts)


def _fill_columns(
    planned: Sequence[PlannedColumn], columns: list[int], group: _Group, members: Indices, result: Values
) -> None:
    windows = result.windows.take(members)
    for n in columns:
        column = planned[n]
        found = _at_once(column, group)
        if found is not None:
            if column.fields:
                result.vectors[column.name].values[members] = found
            else:
                result.values[members, n] = found[:, 0]
            continue
        for row in np.flatnonzero(group.pooled.count[:, 0] > 0).tolist():
            samples = _window_samples(group.series, windows, row, group.first, group.end)
            _set(column, n, int(members[row]), samples, result)


def _at_once(column: PlannedColumn, group: _Group) -> NDArray[np.float64] | None:
    """The values of all windows, of shape (windows, fields or 1); None for a function of a window's samples."""
    function = column.function
    if function.from_edges is not None:
        pooled = not column.fields
        return function.from_edges(edges(group.series.block, group.first, group.end, pooled=pooled))
    if function.from_moments is not None:
        return function.of_many(group.each if column.fields else group.pooled, column.arguments)
    return None


def _set(column: PlannedColumn, n: int, member: int, samples: Samples, result: Values) -> None:
    if column.fields:
        for place in range(len(column.fields)):
            value = column.function.of_samples(samples.field(place), column.arguments)
            result.vectors[column.name].values[member, place] = value
    else:
        result.values[member, n] = column.function.of_samples(samples, column.arguments)


def _window_samples(series: Series, windows: Windows, row: int, first: Indices, end: Indices) -> Samples:
    low, high = int(first[row]), int(end[row])
    window = int(windows.begin_us[row]), int(windows.end_us[row])
    return Samples.of(series.time_us[low:high], series.block[:, low:high].T, *window)


def _put_together(column: PlannedColumn, n: int, member: int, parts: list[Part], result: Values) -> None:
    samples = together(parts, column.fields)
    result.samples[member, n] = samples.valid.size
    if column.interval_us is not None:
        samples = reduced(samples, column.interval_us)
    _set(column, n, member, samples, result)


def reduced(samples: Samples, interval_us: int) -> Samples:
    """The samples of one window as the means of intervals."""
    whole = np.array([0]), np.array([len(samples.time_us)])
    means = interval_means(samples.time_us, samples.values.T, *whole, interval_us)
    return Samples(means.time_us, means.block.T, samples.begin_us, samples.end_us)


def together(parts: list[Part], fields: tuple[str, ...]) -> Samples:
    """The samples of several topics in the order of time; fields of one name are one quantity."""
    names = fields or tuple(dict.fromkeys(name for part in parts for name in part.names))
    place = {name: n for n, name in enumerate(names)}
    rows = sum(len(part.samples.time_us) for part in parts)
    values = np.full((rows, len(names)), np.nan)
    at = 0
    for part in parts:
        until = at + len(part.samples.time_us)
        values[at:until, [place[name] for name in part.names]] = part.samples.values
        at = until
    time_us = np.concatenate([part.samples.time_us for part in parts])
    order = np.argsort(time_us, kind="stable")
    one = parts[0].samples
    return Samples(time_us[order], values[order], one.begin_us, one.end_us)
