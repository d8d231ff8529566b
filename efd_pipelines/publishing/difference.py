"""Difference: points of a time range beside those that are recorded: which lines go out, which points are deleted.

A line that is there as it is does not go out. A point with another set of fields than before is deleted first, since
writing it would leave the old fields; one that is no longer there is deleted after.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.publishing.deleting import delete, ranges_of
from efd_pipelines.publishing.influx import Written
from efd_pipelines.publishing.lines import LineBatch, serialise
from efd_pipelines.publishing.records import SCHEMA, Recorded
from efd_pipelines.publishing.rows import Points
from efd_pipelines.publishing.server import Destination, Influx
from efd_pipelines.topics.layout import TIME


class Difference:
    """Points of a time range, compared with those that are recorded.

    Args:
        is_forced: what is recorded is not believed; all lines go out.
    """

    def __init__(
        self,
        influx: Influx,
        destination: Destination,
        measurement: str,
        points: Points,
        known: Recorded,
        is_forced: bool,
    ) -> None:
        self.points = points
        self.unchanged = 0
        self.deleted = 0
        self._influx = influx
        self._destination = destination
        self._measurement = measurement
        self._known = known
        self._is_forced = is_forced
        rows = points.rows
        self._is_indexed = "salIndex" in rows.schema.names
        self._sal_index = (
            pc.fill_null(rows["salIndex"].cast(pa.int64()), -1).to_numpy()
            if self._is_indexed
            else np.full(rows.num_rows, -1, np.int64)
        )
        self._place = self._places()
        self._rows: list[NDArray[np.int64]] = []
        self._hashes: list[NDArray[np.int64]] = []
        self._marks: list[NDArray[np.int64]] = []

    def _places(self) -> NDArray[np.int64]:
        """Where each row's point is recorded, −1 where it is not."""
        if not len(self._known):
            return np.full(self.points.rows.num_rows, -1, np.int64)
        new = pl.DataFrame({"s": self._sal_index, "t": self.points.stamps})
        known = pl.DataFrame({"s": self._known.sal_index, "t": self._known.stamps}).with_row_index("place")
        joined = new.join(known.unique(["s", "t"], keep="last"), on=["s", "t"], how="left", maintain_order="left")
        return joined["place"].cast(pl.Int64).fill_null(-1).to_numpy()

    def lines(self, divisor: int) -> Iterator[LineBatch]:
        """The lines that are not there as they are; of points whose fields have changed, the old ones go first."""
        stamps = self.points.stamps // divisor
        for batch in serialise(self.points.rows, self._measurement, stamps=stamps):
            hashes = batch.hashes()
            self._rows.append(batch.rows)
            self._hashes.append(hashes)
            self._marks.append(batch.marks)
            place = self._place[batch.rows]
            if not (place >= 0).any():
                yield batch
                continue
            there = place >= 0
            other_fields = there & (self._known.marks[place] != batch.marks)
            if other_fields.any():
                self._delete(self._sal_index[batch.rows], self.points.stamps[batch.rows], other_fields)
            same = there & (self._known.hashes[place] == hashes) & (not self._is_forced)
            self.unchanged += int(same.sum())
            yield batch.chosen(~same)

    def delete_vanished(self) -> None:
        """Deletes the points that are recorded and no longer there."""
        if not len(self._known):
            return
        rows = self._written_rows()
        still = np.zeros(len(self._known), np.bool_)
        place = self._place[rows]
        still[place[place >= 0]] = True
        gone = np.concatenate([~still, np.zeros(len(rows), np.bool_)])
        sal_index = np.concatenate([self._known.sal_index, self._sal_index[rows]])
        stamps = np.concatenate([self._known.stamps, self.points.stamps[rows]])
        self._delete(sal_index, stamps, gone)
        self.deleted += int((~still).sum())

    def _delete(self, sal_index: NDArray[np.int64], stamps: NDArray[np.int64], gone: NDArray[np.bool_]) -> None:
        ranges = ranges_of(sal_index, stamps, gone)
        delete(self._influx, self._destination, self._measurement, ranges, is_indexed=self._is_indexed)

    def _written_rows(self) -> NDArray[np.int64]:
        return np.concatenate(self._rows) if self._rows else np.zeros(0, np.int64)

    def now(self, written: Written) -> Recorded:
        """The points that are there now. Where a new line was rejected, an old point stays as it was."""
        rows = self._written_rows()
        if not len(rows):
            return Recorded.none()
        found = Recorded(
            self._sal_index[rows], self.points.stamps[rows], np.concatenate(self._hashes), np.concatenate(self._marks)
        )
        if not written.rejected:
            return found
        refused = np.isin(rows, [one.row for one in written.rejected])
        places = self._place[rows[refused]]
        return Recorded.concat([found.where(~refused), _taken(self._known, places[places >= 0])])

    def rejected(self, written: Written) -> pa.Table:
        """Rejected points as the records have them."""
        rows = np.array([one.row for one in written.rejected], np.int64)
        stamps, sal_index = self.points.stamps[rows], self._sal_index[rows]
        arrays = [
            pa.array(stamps // 1000).cast(TIME),
            pa.array(sal_index, mask=sal_index < 0),
            pa.array(stamps),
            pa.nulls(len(rows), pa.int64()),
            pa.nulls(len(rows), pa.int64()),
            pa.array([one.line for one in written.rejected], pa.string()),
            pa.array([one.reason for one in written.rejected], pa.string()),
        ]
        return pa.table(arrays, schema=SCHEMA)


def _taken(recorded: Recorded, places: NDArray[np.int64]) -> Recorded:
    return Recorded(
        recorded.sal_index[places], recorded.stamps[places], recorded.hashes[places], recorded.marks[places]
    )
