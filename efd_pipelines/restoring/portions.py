"""Portions: what a restore gives back at once, and takes note of: the rows of one slice of one dataset.

A week of a dataset has a portion for each of its slices, and where the target takes them, one for the quarantined rows
and one for the dead that Kafka got within the week: these have no event time that could be. Which they are is decided
by one snapshot of the dataset's table, whose files stay readable for a week whatever is merged meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.files import DataFile
from efd_pipelines.archive.reading import read_file
from efd_pipelines.archive.slices import DEAD, QUARANTINE, Slice
from efd_pipelines.archive.tables import TableSnapshot
from efd_pipelines.times import Week
from efd_pipelines.topics.layout import SYSTEM_COLUMNS
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive

_HOUR_US = 3_600_000_000
OUTSIDE = (QUARANTINE, DEAD)


@dataclass(frozen=True, slots=True)
class Portion:
    """Rows of one slice, or of quarantine or the dead, of one dataset and week.

    Args:
        number: rises from portion to portion of a dataset's week: hours since 1970, those outside after the slices.
        rows: how many the table has; of quarantine and the dead, those of this week.
    """

    dataset: Dataset
    week: Week
    key: str
    number: int
    rows: int
    snapshot: TableSnapshot = field(repr=False)
    files: tuple[DataFile, ...] = field(repr=False)

    @property
    def is_outside(self) -> bool:
        return self.key in OUTSIDE

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def name(self) -> str:
        return f"{self.dataset} {self.week} {self.key}"


def portions_of(
    archive: Archive, datasets: Sequence[Dataset], weeks: Sequence[Week], *, outside: Collection[str] = OUTSIDE
) -> list[Portion]:
    """What there is of the datasets and weeks, dataset by dataset in the order of time.

    Args:
        outside: of `quarantine` and `dead`, which are wanted.

    Raises:
        UnknownDataset: one is not in the archive.
        StoreUnavailable: the store did not answer.
    """
    found: list[Portion] = []
    for dataset in datasets:
        snapshot = archive.snapshot(dataset)
        for week in sorted(weeks, key=lambda week: week.start_us):
            found += _slices(dataset, week, snapshot)
            found += [one for key in OUTSIDE if key in outside for one in _outside(dataset, week, key, snapshot)]
    return found


def _slices(dataset: Dataset, week: Week, snapshot: TableSnapshot) -> list[Portion]:
    files: dict[str, list[DataFile]] = {}
    for file in snapshot.files({week.key}):
        files.setdefault(file.slice, []).append(file)
    return [
        Portion(
            dataset,
            week,
            key,
            Slice.parse(key).start_us // _HOUR_US,
            sum(file.rows for file in of),
            snapshot,
            tuple(of),
        )
        for key, of in sorted(files.items())
    ]


def _outside(dataset: Dataset, week: Week, key: str, snapshot: TableSnapshot) -> list[Portion]:
    files = snapshot.files({key})
    wanted = pa.schema([pa.field("kafka_timestamp", SYSTEM_COLUMNS["kafka_timestamp"])])
    rows = sum(received_within(read_file(snapshot, file, wanted), week).num_rows for file in files)
    number = week.end_us // _HOUR_US + OUTSIDE.index(key)
    return [Portion(dataset, week, key, number, rows, snapshot, tuple(files))] if rows else []


def received_within(rows: pa.Table, week: Week) -> pa.Table:
    """The rows whose Kafka time stamp lies in the week."""
    stamps = rows["kafka_timestamp"].cast(pa.int64())
    mask = pc.and_(pc.greater_equal(stamps, week.start_us), pc.less(stamps, week.end_us))
    return rows.filter(pc.fill_null(mask, False))
