"""Counts: whether InfluxDB has as many points as have been published to it, and the tier has rows, week by week.

Counted by the field that every point has: `count` of a tier, `private_seqNum` of records. One question for each
database and week; weeks of which part has run out are not compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.ledger import RAW
from efd_pipelines.archive.tables import open_table
from efd_pipelines.publishing.policy import COUNT, SEQUENCE, Publication, measurement_of
from efd_pipelines.publishing.records import REJECTED, Records, RejectedPoint
from efd_pipelines.publishing.server import Destination, DestinationMissing, Influx, column
from efd_pipelines.publishing.stale import State
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

_THREADS = 4


@dataclass(frozen=True, slots=True)
class Published:
    """One dataset's week: points that were published, and how many the server has; None where that was not asked.

    `rows` are those of the tier, None for what is published as it was sent (a record that came twice is one point), and
    where the tier has changed since.
    """

    dataset: Dataset
    week: Week
    database: str
    published: int
    there: int | None = None
    rows: int | None = None

    @property
    def is_equal(self) -> bool:
        return self.there in (None, self.published) and self.rows in (None, self.published)


def recorded(archive: Archive, publication: Publication, url: str, datasets: Iterable[Dataset]) -> list[Records]:
    """What is recorded of datasets that have something, in their order."""
    place = publication.place(url)
    known = State.load(archive.store, place).examined
    wanted = [one for one in datasets if publication.table_of(one) is not None and one.text in known]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [one for one in pool.map(lambda dataset: Records(archive.store, place, dataset), wanted) if one.snapshot]


def published(
    archive: Archive,
    publication: Publication,
    url: str,
    datasets: Iterable[Dataset] | None = None,
    weeks: Collection[str] | None = None,
) -> list[Published]:
    """The points that are recorded as published, by dataset and week.

    Raises:
        StoreUnavailable: the archive's store did not answer.
    """
    found = []
    for records in recorded(archive, publication, url, archive.datasets() if datasets is None else datasets):
        for key, count in sorted(records.counts().items()):
            if key != REJECTED and (weeks is None or key in weeks):
                week = Week.parse(key)
                database = publication.destination(records.dataset, week.start_us).database
                found.append(Published(records.dataset, week, database, count))
    return found


def rejected(
    archive: Archive, publication: Publication, url: str, datasets: Iterable[Dataset] | None = None
) -> list[RejectedPoint]:
    """The points that the server has rejected and that have not been taken since."""
    every = recorded(archive, publication, url, archive.datasets() if datasets is None else datasets)
    return [point for records in every for point in records.rejected()]


def compare(
    archive: Archive,
    influx: Influx,
    publication: Publication,
    datasets: Iterable[Dataset] | None = None,
    weeks: Collection[str] | None = None,
    now: datetime | None = None,
) -> list[Published]:
    """Published weeks with what the server has of each; without, where part has run out or is just being written.

    Raises:
        InfluxUnavailable: it does not answer.
    """
    oldest_us = publication.oldest_us(now or datetime.now(UTC))
    every = published(archive, publication, influx.url, datasets, weeks)
    wanted = [one for one in every if one.week.start_us >= oldest_us]
    counts: dict[tuple[str, Week], Mapping[str, int]] = {}
    for one in wanted:
        for destination in _destinations(publication, one):
            key = (destination.database, one.week)
            if key not in counts:
                counts[key] = _counted(influx, destination, one.week)
    rows = _rows(archive, publication, influx.url, {one.dataset for one in wanted})
    found = [_with_counts(publication, one, counts, rows) if one.week.start_us >= oldest_us else one for one in every]
    moving = {one.dataset for one in found if not one.is_equal and _is_moving(archive, publication, influx.url, one)}
    return [replace(one, there=None, rows=None) if one.dataset in moving else one for one in found]


def _is_moving(archive: Archive, publication: Publication, url: str, one: Published) -> bool:
    """Whether points are being written just now, or have been since they were counted."""
    records = Records(archive.store, publication.place(url), one.dataset)
    return records.is_moving() or records.counts().get(one.week.key, 0) != one.published


def _with_counts(
    publication: Publication,
    one: Published,
    counts: Mapping[tuple[str, Week], Mapping[str, int]],
    rows: Mapping[Dataset, Mapping[str, int]],
) -> Published:
    databases = {destination.database for destination in _destinations(publication, one)}
    there = sum(counts[database, one.week].get(measurement_of(one.dataset), 0) for database in databases)
    of_tier = rows[one.dataset].get(one.week.key, 0) if one.dataset in rows else None
    return replace(one, there=there, rows=of_tier)


def _rows(
    archive: Archive, publication: Publication, url: str, datasets: Collection[Dataset]
) -> dict[Dataset, dict[str, int]]:
    """Rows of tiers by week, of datasets of which everything is published."""
    known = State.load(archive.store, publication.place(url)).examined
    found: dict[Dataset, dict[str, int]] = {}
    for dataset in datasets:
        table = publication.table_of(dataset)
        snapshot = None if table in (None, RAW) else open_table(archive.store, archive.relative(dataset, table))
        if snapshot is not None and snapshot.version == known.get(dataset.text):
            found[dataset] = {}
            for file in snapshot.files():
                found[dataset][file.week] = found[dataset].get(file.week, 0) + file.rows
    return found


def _destinations(publication: Publication, one: Published) -> list[Destination]:
    """Where a week's points are: in two databases where a year begins within it."""
    times = (one.week.start_us, one.week.end_us - 1)
    return sorted({publication.destination(one.dataset, time) for time in times})


def _counted(influx: Influx, destination: Destination, week: Week) -> dict[str, int]:
    """Points of a week, by measurement."""
    found: dict[str, int] = {}
    for marker in (COUNT, SEQUENCE):
        statement = (
            f'SELECT count("{marker}") FROM /.*/ WHERE time >= {week.start_us * 1000} AND time < {week.end_us * 1000}'  # noqa: S608
        )
        try:
            series = influx.query(statement, destination)
        except DestinationMissing:
            return {}
        for one in series:
            name = str(one["name"])
            # A topic may have a field that is called as the other marker: the larger number is the points'.
            found[name] = max(found.get(name, 0), int(column(one, "count")[0]))
    return found


def unpublished(
    archive: Archive, publication: Publication, url: str, datasets: Iterable[Dataset] | None = None
) -> list[Dataset]:
    """Datasets that the ledger knows a newer version of than has been published."""
    place = publication.place(url)
    known = State.load(archive.store, place).examined
    latest = archive.ledger.latest().select(["table", "dataset", "version"]).to_pylist()
    versions = {(row["table"], row["dataset"]): int(row["version"]) for row in latest}
    found = []
    for dataset in archive.datasets() if datasets is None else datasets:
        table = publication.table_of(dataset)
        if table is not None and versions.get((table, dataset.text), -1) > known.get(dataset.text, -1):
            found.append(dataset)
    return found
