"""Completeness: what the archive is known to lack of a stretch of time, and what it set aside.

By the ledger: gaps that a drain passed (Kafka had let go of records before they were read) whose time touches the
stretch, weeks that were let go on purpose, and until when the dataset was read at all. Frames that could not be
decoded and rows whose time cannot be are never among the rows of a week; how many of them arrived in the stretch is
counted here by Kafka's own time stamps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from efd_pipelines.archive.audit import gaps as recorded_gaps
from efd_pipelines.archive.expiry import is_expired
from efd_pipelines.archive.losses import missing_records
from efd_pipelines.archive.reading import read_file
from efd_pipelines.archive.slices import DEAD, QUARANTINE
from efd_pipelines.errors import UnknownDataset
from efd_pipelines.times import FIRST_WEEK, Week, from_microseconds, microseconds, this_week, weeks_between

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.tables import TableSnapshot
    from efd_pipelines.topics.names import Dataset


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that Kafka no longer had: offsets of a source's partition, the end excluded, and between which archived
    rows (UTC; None where there is none). `missing` is how many are gone for good: what history gave back is not.
    """

    source: str
    partition: int
    first: int
    end: int
    kind: str
    after: datetime | None
    before: datetime | None
    missing: int

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Gap:
        missing = max(0, missing_records(found) - int(found["filled"]))
        return cls(
            str(found["source"]),
            int(found["partition"]),
            int(found["first"]),
            int(found["end"]),
            str(found.get("kind", "expired")),
            found["from"],
            found["to"],
            missing,
        )

    def touches(self, start_us: int, end_us: int) -> bool:
        after = None if self.after is None else microseconds(self.after)
        before = None if self.before is None else microseconds(self.before)
        if after is not None and before is not None and before < after:
            after, before = before, after
        return (after is None or after < end_us) and (before is None or before >= start_us)


@dataclass(frozen=True, slots=True)
class Completeness:
    """What is known to be missing between two times.

    `dead` and `quarantined` records arrived in it and are not among its rows. `expired` are weeks that were let go.
    `read_until` is when the archive last took something of the dataset: what is later may still come.
    """

    gaps: tuple[Gap, ...] = ()
    dead: int = 0
    quarantined: int = 0
    expired: tuple[str, ...] = ()
    read_until: datetime | None = None

    @property
    def missing(self) -> int:
        """How many records are gone for good, at most."""
        return sum(gap.missing for gap in self.gaps)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is known to be missing."""
        return not (self.missing or self.dead or self.quarantined or self.expired)

    def __str__(self) -> str:
        if self.is_complete:
            return "complete as far as is known"
        parts = []
        if self.missing:
            parts.append(f"{self.missing:,} records lost in {len(self.gaps)} gaps")
        parts += [
            f"{count:,} {what}" for count, what in ((self.dead, "dead"), (self.quarantined, "quarantined")) if count
        ]
        if self.expired:
            parts.append(f"week {', '.join(self.expired)} let go")
        return "; ".join(parts)


def completeness(
    archive: Archive, dataset: Dataset, snapshot: TableSnapshot, start_us: int, end_us: int
) -> Completeness:
    """What is known of a dataset between two times, the end excluded.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    return Completeness(
        tuple(gap for gap in _gaps(archive, dataset) if gap.touches(start_us, end_us)),
        _arrived(snapshot, DEAD, start_us, end_us),
        _arrived(snapshot, QUARANTINE, start_us, end_us),
        _expired(snapshot, start_us, end_us),
        _read_until(archive, dataset),
    )


def _gaps(archive: Archive, dataset: Dataset) -> list[Gap]:
    try:
        return [Gap.of(one) for one in recorded_gaps(archive, [dataset])]
    except UnknownDataset:  # the ledger may lag behind the table
        return []


def _arrived(snapshot: TableSnapshot, place: str, start_us: int, end_us: int) -> int:
    """Rows set aside whose record came to Kafka in the stretch."""
    if "kafka_timestamp" not in snapshot.schema.names:
        return 0
    schema = pa.schema([snapshot.schema.field("kafka_timestamp")])
    count = 0
    for file in snapshot.files({place}):
        stamps = read_file(snapshot, file, schema)["kafka_timestamp"].cast(pa.int64())
        inside = pc.and_(pc.greater_equal(stamps, start_us), pc.less(stamps, end_us))
        count += int(pc.sum(inside).as_py() or 0)
    return count


def _expired(snapshot: TableSnapshot, start_us: int, end_us: int) -> tuple[str, ...]:
    first = max(Week.containing(start_us), FIRST_WEEK)
    last = min(Week.containing(max(start_us, end_us - 1)), this_week())
    weeks = weeks_between(first, last)
    return tuple(week.key for week in weeks if is_expired(snapshot, week))


def _read_until(archive: Archive, dataset: Dataset) -> datetime | None:
    table = archive.ledger.table(columns=["at"])
    mine = table.filter(pc.and_(pc.equal(table["dataset"], dataset.text), pc.equal(table["table"], "raw")))
    latest = pc.max(mine["at"].cast(pa.int64())).as_py() if mine.num_rows else None
    return None if latest is None else from_microseconds(latest)
