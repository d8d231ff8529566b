"""Records: which points of a dataset a server has been given, and which of them it rejected.

A table of the archive's kind for each publication, server and dataset, `published/<publication>/<server>/<component>/
<name>/`: a row for each point with its stamp, a hash of its line and a mark of its set of fields. So of a slice that
changed, exactly the points that differ are written again, and those that are no longer there are deleted. Rejected
points stand whole, with the reason, in the partition `week=rejected`.
`from:<slice>` is the version of the published table that a slice was published from, `examined` the one up to which all
is; `intent` rises before anything is written and `done` after: where they differ, a process died, and the server may
have points that nobody recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.archive.delta_log import Commit, read_log
from efd_pipelines.archive.files import DataFile, write_data_file
from efd_pipelines.archive.reading import conform, read_file
from efd_pipelines.archive.slices import Slice
from efd_pipelines.archive.store import Store
from efd_pipelines.archive.tables import TableSnapshot, commit, open_table
from efd_pipelines.topics.layout import TIME
from efd_pipelines.topics.names import Dataset

REJECTED = "rejected"
EXAMINED = "examined"
INTENT, DONE = "intent", "done"

SCHEMA = pa.schema(
    [
        ("time", TIME),
        ("salIndex", pa.int64()),
        ("stamp", pa.int64()),
        ("hash", pa.int64()),
        ("mark", pa.int64()),
        ("line", pa.string()),
        ("reason", pa.string()),
    ]
)
_POINTS = pa.schema([SCHEMA.field(n) for n in range(5)])


def from_id(part: Slice) -> str:
    """The app id that carries the version which a slice was published from."""
    return f"from:{part.key}"


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """Points of a time range: salIndex (−1 for none), stamps, hashes of lines and marks of their fields, one each."""

    sal_index: NDArray[np.int64]
    stamps: NDArray[np.int64]
    hashes: NDArray[np.int64]
    marks: NDArray[np.int64]

    @classmethod
    def none(cls) -> Recorded:
        return cls(*(np.zeros(0, np.int64) for _ in range(4)))

    @classmethod
    def of(cls, table: pa.Table) -> Recorded:
        columns = (pc.fill_null(table[name], -1).to_numpy() for name in ("salIndex", "stamp", "hash", "mark"))
        return cls(*columns)

    def __len__(self) -> int:
        return len(self.stamps)

    def where(self, wanted: NDArray[np.bool_]) -> Recorded:
        return Recorded(self.sal_index[wanted], self.stamps[wanted], self.hashes[wanted], self.marks[wanted])

    def table(self) -> pa.Table:
        arrays = [
            pa.array(self.stamps // 1000).cast(TIME),
            pa.array(self.sal_index, mask=self.sal_index < 0),
            *(pa.array(values) for values in (self.stamps, self.hashes, self.marks)),
        ]
        return pa.table(arrays, schema=_POINTS)

    @classmethod
    def concat(cls, several: Sequence[Recorded]) -> Recorded:
        if not several:
            return cls.none()
        return cls(
            np.concatenate([one.sal_index for one in several]),
            np.concatenate([one.stamps for one in several]),
            np.concatenate([one.hashes for one in several]),
            np.concatenate([one.marks for one in several]),
        )


@dataclass(frozen=True, slots=True)
class RejectedPoint:
    """A point that a server did not take."""

    dataset: Dataset
    time_us: int
    reason: str
    line: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What a process that died was about to write: from which version, and which times."""

    version: int
    start_us: int
    end_us: int


class Records:
    """The records of one dataset, as they are now."""

    def __init__(self, store: Store, place: str, dataset: Dataset) -> None:
        self._store = store
        self.dataset = dataset
        self.relative = f"{place}/{dataset.path}"
        self.snapshot: TableSnapshot | None = open_table(store, self.relative)

    def reached(self, app_id: str) -> int:
        """The version of an app id, −1 where there is none."""
        version = None if self.snapshot is None else self.snapshot.transaction_version(app_id)
        return -1 if version is None else version

    @property
    def examined(self) -> int:
        return self.reached(EXAMINED)

    def published_from(self, part: Slice) -> int:
        return max(self.reached(from_id(part)), -1)

    def is_moving(self) -> bool:
        """Whether a process writes just now, or died while it did."""
        return self.reached(INTENT) != self.reached(DONE)

    def interrupted(self) -> Interrupted | None:
        """What was about to be written when a process died; None where none did."""
        if self.snapshot is None or not self.is_moving():
            return None
        made = next(iter(read_log(self._store, self.relative, self.snapshot.version)), None)
        note: Mapping[str, Any] = {} if made is None else made.note
        if note.get("kind") != INTENT:
            return Interrupted(-1, -(2**62), 2**62)
        return Interrupted(int(note["from"]), int(note["start"]), int(note["end"]))

    def files(self, parts: Sequence[Slice]) -> list[DataFile]:
        """The files of slices, points and rejected."""
        keys = {part.key for part in parts}
        weeks = {part.week.key for part in parts} | {REJECTED}
        return [] if self.snapshot is None else [file for file in self.snapshot.files(weeks) if file.slice in keys]

    def points(self, parts: Sequence[Slice]) -> Recorded:
        """The points of slices that the server has been given."""
        found = [
            Recorded.of(read_file(self.snapshot, file, _POINTS))
            for file in self.files(parts)
            if self.snapshot is not None and file.week != REJECTED
        ]
        return Recorded.concat(found)

    def rejected_rows(self, parts: Sequence[Slice]) -> pa.Table:
        """The rejected points of slices, rows of `SCHEMA`."""
        files = [file for file in self.files(parts) if file.week == REJECTED]
        tables = [read_file(self.snapshot, file, SCHEMA) for file in files if self.snapshot is not None]
        return pa.concat_tables([SCHEMA.empty_table(), *tables])

    def rejected(self) -> list[RejectedPoint]:
        """All points that the server rejected, in the order of slices."""
        if self.snapshot is None:
            return []
        tables = [read_file(self.snapshot, file, SCHEMA) for file in self.snapshot.files({REJECTED})]
        return [
            RejectedPoint(self.dataset, int(row["stamp"]) // 1000, row["reason"], row["line"])
            for table in tables
            for row in table.to_pylist()
        ]

    def counts(self) -> dict[str, int]:
        """Points by week, and under `rejected` those that were."""
        counts: dict[str, int] = {}
        for file in [] if self.snapshot is None else self.snapshot.files():
            counts[file.week] = counts.get(file.week, 0) + file.rows
        return counts

    def intend(self, version: int, start_us: int, end_us: int, run: str) -> None:
        """Says that points of a time range are about to be written, before any is.

        Raises:
            StaleWriter: another process writes.
        """
        reached = self.reached(INTENT)
        note = {"kind": INTENT, "run": run, "from": version, "start": start_us, "end": end_us}
        self._commit({INTENT: (None if reached < 0 else reached, reached + 1)}, note)

    def record(
        self,
        version: int,
        parts: Sequence[Slice],
        points: Recorded,
        rejected: pa.Table,
        examined: int | None,
        run: str,
        touched: Sequence[Slice] = (),
    ) -> None:
        """Records what the server now has of slices, in place of what was recorded; of `touched`, the version.

        Raises:
            StaleWriter: another process has written: what the server has is not known.
        """
        add = [file for part in parts for file in self._write(part, points, rejected)]
        moved = {from_id(part): version for part in (*parts, *touched)} | {DONE: self.reached(INTENT)}
        if examined is not None:
            moved[EXAMINED] = max(examined, self.examined)
        transactions = {
            app_id: (None if self.reached(app_id) < 0 else self.reached(app_id), max(new, self.reached(app_id)))
            for app_id, new in moved.items()
            if new >= 0
        }
        self._commit(transactions, {"kind": "publish", "run": run}, add, self.files(parts))

    def forget(self, files: Sequence[DataFile], run: str) -> None:
        """Takes files away: their points have run out, or their database is gone."""
        if files:
            slices = {Slice.parse(file.slice) for file in files}
            moved = {from_id(part): (self.reached(from_id(part)), self.reached(from_id(part))) for part in slices}
            there = {app_id: versions for app_id, versions in moved.items() if versions[0] >= 0}
            self._commit(dict(there), {"kind": "forget", "run": run}, (), files)

    def _write(self, part: Slice, points: Recorded, rejected: pa.Table) -> list[DataFile]:
        inside = (points.stamps >= part.start_us * 1000) & (points.stamps < part.end_us * 1000)
        found = []
        if inside.any():
            rows = conform(points.where(inside).table(), SCHEMA)
            order = [("salIndex", "ascending"), ("stamp", "ascending")]
            rows = rows.take(pc.sort_indices(rows, sort_keys=order))
            found.append(write_data_file(self._store, self.relative, part.week.key, part.key, rows))
        stamps = rejected["stamp"]
        mask = pc.and_(pc.greater_equal(stamps, part.start_us * 1000), pc.less(stamps, part.end_us * 1000))
        refused = rejected.filter(mask)
        if refused.num_rows:
            found.append(write_data_file(self._store, self.relative, REJECTED, part.key, refused))
        return found

    def _commit(
        self,
        transactions: Mapping[str, tuple[int | None, int]],
        note: Mapping[str, Any],
        add: Sequence[DataFile] = (),
        remove: Sequence[DataFile] = (),
    ) -> Commit:
        made = commit(
            self._store,
            self.relative,
            self.snapshot,
            add=add,
            remove=remove,
            transactions=transactions,
            schema=SCHEMA,
            description={"dataset": self.dataset.text, "of": self.relative.split("/")[1]},
            note=note,
            retries=0,
        )
        self.snapshot = open_table(self._store, self.relative)
        return made
