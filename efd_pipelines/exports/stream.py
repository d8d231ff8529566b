"""Stream: a selection's rows in the order of time, a window at a time, in little memory.

The archive's files of one slice overlap, and a slice may be 1 GiB decoded. So the range is cut into windows
that hold about `WINDOW_BYTES`; of each only the row groups that touch it are decoded, the rows sorted and
repeated records dropped. No two windows share a time, so what is cut between windows never overlaps.
What belongs here: reading in order. Making files of it: `parts.py`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from efd_pipelines.archive.files import ROW_GROUP_BYTES, DataFile
from efd_pipelines.archive.reading import conform, count_once
from efd_pipelines.archive.store import Store
from efd_pipelines.errors import ArchiveError
from efd_pipelines.exports.ranges import Ranges
from efd_pipelines.exports.selection import Source
from efd_pipelines.memory import give_back
from efd_pipelines.reading.scan import apart
from efd_pipelines.times import microseconds

WINDOW_BYTES = ROW_GROUP_BYTES * 9 // 8
"""A window has room for a row group of the archive, so that those of merged slices are decoded once."""

DECODED_BYTES = 8 * 1024 * 1024
"""So much of a row group is asked for at once: an object store's client holds it compressed, and more than once."""

_TOO_MUCH = 2
_FEW_FILES = 8  # the footers of so many are kept: one of 820 columns takes megabytes in memory
_ORDER = ("time", "salIndex", "archive_source", "kafka_partition", "kafka_offset")


class LostFile(ArchiveError):
    """A file that the table's log has and the store has not."""

    remedy = "`efd archive verify --deep` says what else is missing. Nothing was exported."


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group of a file: times of its rows (both included) in UTC microseconds, and its size
    decoded."""

    file: DataFile
    index: int
    low_us: int
    high_us: int
    rows: int
    size_bytes: int
    footer: Any = field(repr=False, compare=False, default=None)

    def touches(self, start_us: int, end_us: int) -> bool:
        return self.low_us < end_us and self.high_us >= start_us


@dataclass(slots=True)
class Windows:
    """The rows of some files in some ranges, window by window; `repeated` counts the records dropped as repeated."""

    source: Source
    files: Sequence[DataFile]
    ranges: Ranges
    repeated: int = 0

    def __iter__(self) -> Iterator[pa.Table]:
        """Rows sorted by time, then salIndex, source, partition and offset, with the columns that are read."""
        for files in apart(self.files):
            groups = [group for file in files for group in self._row_groups(file, len(files) <= _FEW_FILES)]
            yield from self._sweep([group for group in groups if group.rows and self._wants(group)])

    def _sweep(self, groups: Sequence[RowGroup]) -> Iterator[pa.Table]:
        if not groups:
            return
        start = max(self.ranges.start_us, min(group.low_us for group in groups))
        last = min(self.ranges.end_us, max(group.high_us for group in groups) + 1)
        while start < last:
            give_back()
            start, rows = self._window(groups, start, last)
            ready = [self._once(rows)]
            del rows
            if ready[0].num_rows:
                yield ready.pop()  # nothing is held here while the next window is read

    def _window(self, groups: Sequence[RowGroup], start: int, last: int) -> tuple[int, pa.Table]:
        """The next window's end and its rows; halved where it turns out to hold far more than expected."""
        end = window_end(groups, start, last)
        while True:
            rows = self._read(groups, start, end)
            if rows is not None:
                return end, rows
            end = start + (end - start) // 2

    def _read(self, groups: Sequence[RowGroup], start: int, end: int) -> pa.Table | None:
        """The rows of a window, or None where they are far too many and the window can be made smaller."""
        parts, size = [], 0
        for group in groups:
            if group.touches(start, end):
                part = self._decode(group, start, end)
                parts.append(part)
                size += part.nbytes
                if size > _TOO_MUCH * WINDOW_BYTES and end - start > 1:
                    return None
        return pa.concat_tables(parts) if parts else self.source.reading.empty_table()

    def _once(self, rows: pa.Table) -> pa.Table:
        if not _is_sorted(rows):
            keys = [(name, "ascending") for name in _ORDER if name in rows.column_names]
            rows = rows.take(pc.sort_indices(rows, sort_keys=keys))
        if self.source.counts_once:
            every = rows.num_rows
            rows = count_once(rows)
            self.repeated += every - rows.num_rows
        return rows

    def _decode(self, group: RowGroup, start: int, end: int) -> pa.Table:
        with opened(self.source.store, self.source.relative, group.file, group.footer) as parquet:
            there = set(parquet.schema_arrow.names)
            names = [name for name in self.source.reading.names if name in there]
            step = max(1, len(names) * DECODED_BYTES // group.size_bytes)
            parts = [
                parquet.read_row_group(group.index, columns=names[first : first + step], use_threads=True)
                for first in range(0, len(names), step)
            ]
        columns = {name: column for part in parts for name, column in zip(part.column_names, part.columns, strict=True)}
        rows = conform(pa.table(columns), self.source.reading, group.rows)
        if start <= group.low_us and group.high_us < end and self.ranges.cover(group.low_us, group.high_us):
            return rows
        time = rows["time"].cast(pa.int64()).to_numpy()
        return rows.filter(pa.array((time >= start) & (time < end) & self.ranges.contain(time)))

    def _wants(self, group: RowGroup) -> bool:
        return bool(self.ranges.within(group.low_us, group.high_us + 1))

    def _row_groups(self, file: DataFile, keep_footer: bool) -> list[RowGroup]:
        with opened(self.source.store, self.source.relative, file) as parquet:
            footer = parquet.metadata
        names = set(self.source.reading.names)
        paths = [footer.schema.column(n).path for n in range(footer.num_columns)]
        columns = [n for n, path in enumerate(paths) if path.partition(".")[0] in names]
        kept = footer if keep_footer else None
        time = paths.index("time")
        return [_row_group(file, footer, n, columns, time, kept) for n in range(footer.num_row_groups)]


def _is_sorted(rows: pa.Table) -> bool:
    """Whether each row is later than the one before, as in a file of one device: then they need no copy."""
    time = rows["time"].cast(pa.int64()).to_numpy()
    return bool((time[1:] > time[:-1]).all())


def window_end(groups: Sequence[RowGroup], start: int, last: int) -> int:
    """Where a window from `start` should end to hold about `WINDOW_BYTES`.

    By preference where a row group begins: then none is decoded twice.
    """
    low = np.array([group.low_us for group in groups])
    high = np.array([group.high_us + 1 for group in groups])
    density = np.array([group.size_bytes for group in groups]) / (high - low)

    def size_until(end: int) -> float:
        within = np.minimum(high, end) - np.maximum(low, start)
        return float((density * np.maximum(within, 0)).sum())

    beginnings = [*np.unique(low[(low > start) & (low < last)]).tolist(), last]
    fitting = bisect.bisect_right(beginnings, float(WINDOW_BYTES), key=size_until)
    if fitting:
        return int(beginnings[fitting - 1])
    share = WINDOW_BYTES / size_until(beginnings[0])
    return max(start + 1, start + int((beginnings[0] - start) * share))


@contextmanager
def opened(store: Store, table: str, file: DataFile, footer: Any = None) -> Iterator[Any]:
    """The file as pyarrow reads it; its footer, where it is known, is not read again.

    Raises:
        LostFile: it is not there.
        StoreUnavailable: the store did not answer.
    """
    relative = f"{table}/{file.path}"
    with store.errors(f"read {relative}"):
        try:
            parquet = pq.ParquetFile(
                store.path(relative), filesystem=store.arrow_fs, pre_buffer=store.is_remote, metadata=footer
            )
        except FileNotFoundError as error:
            raise LostFile(f"{store.uri(relative)} is not there") from error
        with parquet:
            yield parquet


def _row_group(file: DataFile, footer: Any, index: int, columns: Sequence[int], time: int, kept: Any) -> RowGroup:
    """Fixed-width values are counted as they are in memory, others by their encoded size."""
    group = footer.row_group(index)
    statistics = group.column(time).statistics
    if statistics is not None and statistics.has_min_max:
        low, high = microseconds(statistics.min), microseconds(statistics.max)
    else:
        low, high = low_us(file), high_us(file)
    size = 0
    for n in columns:
        column = group.column(n)
        width = _WIDTHS.get(column.physical_type)
        size += column.num_values * width if width else column.total_uncompressed_size
    return RowGroup(file, index, low, high, group.num_rows, max(size, 1), kept)


_WIDTHS = {"INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}


def low_us(file: DataFile) -> int:
    return _known(file, file.time_min_us)


def high_us(file: DataFile) -> int:
    return _known(file, file.time_max_us)


def _known(file: DataFile, time_us: int | None) -> int:
    if time_us is None:
        raise ArchiveError(f"The log says nothing of the times in {file.path}")
    return time_us
