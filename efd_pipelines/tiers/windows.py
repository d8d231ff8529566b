"""Windows: which rows make up which window, each record counted once.

A window begins at a multiple of its length since 1970-01-01 UTC, its begin included and its end excluded, so seconds,
minutes and hours are those of the clock, and a window never crosses the boundary of a slice or a week. Each
salIndex has windows of its own. Rows that carry the same record again (a producer's retry, a mirror) are left
out within a window, which makes the outcome independent of how much is computed at a time.
What is computed of a window: `statistics.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.archive.reading import IDENTITY

ORDER = ("salIndex", "time", "archive_source", "kafka_partition", "kafka_offset")
KEYS = tuple(dict.fromkeys((*ORDER, *IDENTITY)))
"""The columns by which windows are found, as far as a dataset has them; `time` it must have."""

_NO_INDEX = int(np.iinfo(np.int64).min)


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of some rows, by salIndex and time.

    `order` has the numbers of the rows that count, by (salIndex, time, source, partition, offset); window n has
    the rows `order[starts[n]:ends[n]]`.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    time_us: NDArray[np.int64]
    sal_index: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def counts(self) -> NDArray[np.int64]:
        return self.ends - self.starts

    @property
    def first_rows(self) -> NDArray[np.int64]:
        """The number of each window's first row."""
        return self.order[self.starts]

    @property
    def longest(self) -> int:
        return int(self.counts.max()) if len(self) else 0

    def has_all(self, rows: int) -> bool:
        """Whether all of `rows` rows count and are in order as they are."""
        return len(self.order) == rows and bool((self.order[1:] > self.order[:-1]).all())

    def ranks(self, rows: int) -> NDArray[np.int64]:
        """The place of each of `rows` rows in `order`, −1 for those that do not count."""
        ranks = np.full(rows, -1, np.int64)
        ranks[self.order] = np.arange(len(self.order))
        return ranks

    def sal_indices(self) -> pa.Array[Any] | None:
        """The salIndex of each window, null where the rows had none; None for what is not indexed."""
        if self.sal_index is None:
            return None
        return pa.array(self.sal_index, mask=self.sal_index == _NO_INDEX)


def find_windows(keys: pa.Table, window_us: int) -> Windows:
    """The windows of rows of which `keys` has the columns `KEYS`, as far as they exist. A row without time has none."""
    time = _integers(keys["time"].cast(pa.int64()))
    indexed = "salIndex" in keys.column_names
    sal_index = _integers(keys["salIndex"]) if indexed else np.zeros(len(time), np.int64)
    window = time - np.mod(time, window_us)
    order = np.arange(len(time))
    if not _in_order(time, sal_index):
        order = np.lexsort((*_ties(keys), time, sal_index))
    counted = (time != _NO_INDEX) & _counted(keys, window, order)
    order = order[counted[order]]
    kept_window, kept_index = window[order], sal_index[order]
    begins = np.empty(len(order), bool)
    begins[:1] = True
    begins[1:] = (kept_window[1:] != kept_window[:-1]) | (kept_index[1:] != kept_index[:-1])
    starts = np.flatnonzero(begins)
    first = order[starts]
    return Windows(
        order=order,
        starts=starts,
        ends=np.append(starts[1:], len(order))[: len(starts)],
        time_us=window[first],
        sal_index=sal_index[first] if indexed else None,
    )


def _in_order(time: NDArray[np.int64], sal_index: NDArray[np.int64]) -> bool:
    """Whether the rows are in the order of windows, no two at the same time, as those of a merged slice mostly are."""
    later = (sal_index[1:] > sal_index[:-1]) | ((sal_index[1:] == sal_index[:-1]) & (time[1:] > time[:-1]))
    return bool(later.all())


def _ties(keys: pa.Table) -> list[NDArray[Any]]:
    """What orders rows of the same time, the least significant first."""
    present = [name for name in reversed(ORDER[2:]) if name in keys.column_names]
    return [_source_ranks(keys[name]) if name == "archive_source" else _integers(keys[name]) for name in present]


def _source_ranks(sources: pa.ChunkedArray[Any]) -> NDArray[np.int64]:
    codes = pc.rank(pc.unique(sources), tiebreaker="dense")
    return _integers(pc.take(codes, pc.index_in(sources, value_set=pc.unique(sources))))


def _integers(column: Any) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(column.cast(pa.int64()), _NO_INDEX).to_numpy(), np.int64)


def _counted(keys: pa.Table, window: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a row is the first of its record in its window; one that does not say which record it is always is."""
    named = [name for name in IDENTITY if name in keys.column_names]
    if len(named) < len(IDENTITY) - 1 or len(window) < 2 or _numbers_rise(keys, order):
        return np.ones(len(window), bool)
    import polars as pl

    frame = pl.DataFrame(keys.select(named)).with_columns(pl.Series("window", window))
    known = pl.all_horizontal(pl.col(name).is_not_null() for name in named if name != "salIndex")
    first = pl.struct("window", *named).is_first_distinct()
    return frame.select((first | ~known).alias("counted"))["counted"].to_numpy()


def _numbers_rise(keys: pa.Table, order: NDArray[np.int64]) -> bool:
    """Whether each device's sequence numbers rise with time, as they mostly do: then no record is there twice.

    To look costs little beside polars' import, and 90 MiB less with 180,000 rows.
    """
    if "private_seqNum" not in keys.column_names or keys["private_seqNum"].null_count:
        return False
    number = _integers(keys["private_seqNum"])[order]
    rises = number[1:] > number[:-1]
    if "salIndex" in keys.column_names:
        index = _integers(keys["salIndex"])[order]
        rises = (rises & (index[1:] == index[:-1])) | (index[1:] > index[:-1])
    return bool(rises.all())
