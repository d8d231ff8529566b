"""Sources: what a history must be able to do to fill the archive.

A source knows measurements by dataset and gives points piece by piece, in order of time, so that a week is never held
in memory and whoever is killed loses one piece. It gives what it has, in its own types; `casting.py` makes rows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from efd_pipelines.history.intervals import Interval
from efd_pipelines.topics.names import Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """All points that a source has of an interval: `time` in UTC and its fields, null where a point has none."""

    interval: Interval
    points: pa.Table

    @property
    def values(self) -> int:
        """How many values were given: what a server has to find, decode and send."""
        columns = (self.points[name] for name in self.points.column_names if name != "time")
        return sum(len(column) - column.null_count for column in columns)

    def stretches(self, apart_us: int) -> list[Interval]:
        """From point to point, where they are no further apart."""
        times = np.sort(self.points["time"].cast(pa.int64()).to_numpy())
        if not len(times):
            return []
        breaks = np.flatnonzero(np.diff(times) > apart_us)
        firsts, lasts = times[np.concatenate([[0], breaks + 1])], times[np.concatenate([breaks, [len(times) - 1]])]
        return [Interval(first, last + 1) for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)]


class HistorySource(Protocol):
    """InfluxDB, or files exported from it."""

    @property
    def name(self) -> str:
        """What rows from here are marked with (`archive_source`)."""
        ...

    def datasets(self) -> frozenset[Dataset]:
        """Which datasets it has something of."""
        ...

    def about(self, dataset: Dataset, intervals: Sequence[Interval]) -> int:
        """About how many values it has of them; cheap."""
        ...

    def pieces(self, dataset: Dataset, interval: Interval) -> Iterator[Piece]:
        """The interval in pieces, in order of time; they cover it.

        Raises:
            InfluxUnavailable: the server did not answer; pieces given before stand.
        """
        ...
