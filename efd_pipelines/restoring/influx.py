"""InfluxDB: restoring to a database of EFD_INFLUX_URL, point by point as the EFD had it.

A point is known by measurement and time, so that writing it twice changes nothing: a portion that was cut off is
written again. What has been written is noted in the archive, `restores/<server>/<component>/<name>/<week>.json`, and
believed only while the server still counts as many points of the week: a database that was lost again is restored
again. Points that the server rejects are kept beside that note, with the reason, in `<week>.rejected.jsonl`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from efd_pipelines.archive.slices import QUARANTINE
from efd_pipelines.publishing.administration import ensure, find
from efd_pipelines.publishing.influx import LineWriter, Rejected
from efd_pipelines.publishing.lines import LineBatch
from efd_pipelines.publishing.server import Destination, Influx, quoted
from efd_pipelines.restoring.lines import ambiguous_notes
from efd_pipelines.restoring.points import PointsOfDataset
from efd_pipelines.restoring.portions import Portion
from efd_pipelines.restoring.restore import Given
from efd_pipelines.restoring.rows import Order
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

ROOT = "restores"
_COUNTED = ("private_seqNum", "private_sndStamp", "private_efdStamp")


class InfluxTarget:
    """A database of a server, which is made where it is not there.

    Args:
        values_s: the pace.
        tags: fields that are tags.

    Methods raise what `publishing.influx.LineWriter` does.
    """

    outside = frozenset({QUARANTINE})
    order: Order = "time"

    def __init__(
        self,
        archive: Archive,
        influx: Influx,
        destination: Destination,
        *,
        values_s: float | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        self._archive, self._influx, self._destination = archive, influx, destination
        self._tags = tuple(tags)
        self._writer = LineWriter(influx, fields_s=values_s)
        # Of two points with one time the later must be written later.
        self._in_turn = LineWriter(influx, fields_s=values_s, at_once=1)
        place = f"{influx.url}|{destination}"
        self._root = f"{ROOT}/{hashlib.sha256(place.encode()).hexdigest()[:16]}"
        self._noted: dict[tuple[Dataset, Week], dict[str, Given]] = {}
        self._points: dict[Dataset, PointsOfDataset] = {}
        self._rejected: dict[tuple[Dataset, Week], list[Rejected]] = {}
        self._expired = 0
        self._is_ready = False

    def done(self, portion: Portion) -> Given | None:
        return self._known(portion.dataset, portion.week).get(portion.key)

    def take(self, portion: Portion, rows: Iterator[pa.Table]) -> Given:
        self._prepare()
        points = self._points.setdefault(portion.dataset, PointsOfDataset(portion.dataset, self._tags))
        given, counting = Given(), _Times(portion.week)
        for part in rows:
            self._write(points, part, given, counting, (portion.dataset, portion.week))
        given.expected = 0 if portion.is_outside else max(0, counting.count - given.left_out)
        self._note(portion, given)
        return given

    def counted(self, dataset: Dataset, week: Week) -> int | None:
        """Points of the week, by a field that all have; by the one that most have where no such is known."""
        names = self._fields(dataset)
        name = next((name for name in _COUNTED if name in names), None)
        counted = "*" if name is None else quoted(name)
        start_ns, end_ns = week.start_us * 1000, week.end_us * 1000
        statement = f"SELECT count({counted}) FROM {quoted(dataset.topic)} WHERE time >= {start_ns} AND time < {end_ns}"  # noqa: S608 - quoted
        values = [
            count for series in self._influx.query(statement, self._destination) for count in series["values"][0][1:]
        ]
        return max((int(count) for count in values if count is not None), default=0)

    def notes(self) -> Sequence[str]:
        found = []
        for (dataset, week), rejected in self._rejected.items():
            where = f"{self._path(dataset, week)}.rejected.jsonl"
            found.append(f"{dataset} {week}: {len(rejected)} points rejected ({rejected[0].reason}); kept in {where}")
        if self._expired:
            found.append(f"{self._expired} points are older than {self._destination} keeps: it dropped them")
        return found + ambiguous_notes(self._points.values())

    def _prepare(self) -> None:
        if not self._is_ready:
            if find(self._influx, self._destination) is None:
                ensure(self._influx, self._destination, None)
            self._is_ready = True

    def _write(
        self, points: PointsOfDataset, rows: pa.Table, given: Given, counting: _Times, of: tuple[Dataset, Week]
    ) -> None:
        lines = 0

        def batches() -> Iterator[LineBatch]:
            nonlocal lines
            for batch, times in points.batches(rows):
                lines += len(batch)
                counting.take(times)
                yield batch

        times = rows["time"].cast(pa.int64()).to_numpy(zero_copy_only=False)
        is_repeated = len(np.unique(times)) < len(times)
        written = (self._in_turn if is_repeated else self._writer).write(self._destination, batches())
        given.rows += written.points
        given.values += written.fields
        given.bytes += written.bytes
        given.left_out += rows.num_rows - written.points
        self._expired += written.expired
        if written.rejected:
            self._rejected.setdefault(of, []).extend(written.rejected)

    def _fields(self, dataset: Dataset) -> set[str]:
        statement = f"SHOW FIELD KEYS FROM {quoted(dataset.topic)}"
        found = self._influx.query(statement, self._destination)
        return {str(row[0]) for series in found for row in series["values"]}

    def _known(self, dataset: Dataset, week: Week) -> dict[str, Given]:
        """What has been written of a week, as far as the server still has it."""
        if (dataset, week) not in self._noted:
            data = self._archive.store.try_read(f"{self._path(dataset, week)}.json")
            noted = {} if data is None else {key: Given(**given) for key, given in json.loads(data).items()}
            if noted and not self._still_has(dataset, week, sum(given.expected for given in noted.values())):
                noted = {}
            self._noted[dataset, week] = noted
        return self._noted[dataset, week]

    def _still_has(self, dataset: Dataset, week: Week, points: int) -> bool:
        if find(self._influx, self._destination) is None:
            return False
        return (self.counted(dataset, week) or 0) >= points

    def _note(self, portion: Portion, given: Given) -> None:
        noted = self._known(portion.dataset, portion.week)
        noted[portion.key] = given
        path = self._path(portion.dataset, portion.week)
        rejected = self._rejected.get((portion.dataset, portion.week))
        if rejected:
            lines = "".join(json.dumps({"reason": one.reason, "line": one.line}) + "\n" for one in rejected)
            self._archive.store.write_bytes(f"{path}.rejected.jsonl", lines.encode())
        document: dict[str, Any] = {key: asdict(one) for key, one in noted.items()}
        self._archive.store.write_bytes(f"{path}.json", json.dumps(document, separators=(",", ":")).encode())

    def _path(self, dataset: Dataset, week: Week) -> str:
        return f"{self._root}/{dataset.path}/{week.key}"


class _Times:
    """Counts the different times within a week; they come in order."""

    def __init__(self, week: Week) -> None:
        self._week = week
        self._last: int | None = None
        self.count = 0

    def take(self, times_us: NDArray[np.int64]) -> None:
        within = times_us[(times_us >= self._week.start_us) & (times_us < self._week.end_us)]
        if len(within):
            self.count += int(np.count_nonzero(np.diff(within))) + (int(within[0]) != self._last)
            self._last = int(within[-1])
