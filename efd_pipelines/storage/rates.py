"""Rates: records and bytes a second, hour by hour, of a period's topics, against what brokers take and what is planned.

Of the largest topics each hour is counted by the archive's files: a slice of an hour is one, of longer slices each row
group's records are spread evenly between its first and last event time. What the others send is spread evenly over the
period. Bytes are Avro bytes of a mean record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efd_pipelines.archive.slices import Slice
from efd_pipelines.archive.tables import open_table
from efd_pipelines.storage.page import Section
from efd_pipelines.times import Week, from_microseconds, microseconds
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.archive.files import DataFile
    from efd_pipelines.archive.tables import TableSnapshot
    from efd_pipelines.storage.throughput import StorageReport

TOPICS = 60
MOST_WEEKS = 5
HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class TopicRate:
    """Records and MB a second of one topic: over the period, and in its busiest hour (which began at `peak_at`)."""

    topic: str
    mean_records_s: float
    mean_mb_s: float
    peak_records_s: float
    peak_mb_s: float
    peak_at: datetime | None

    def to_json(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "mean_records_s": round(self.mean_records_s, 6),
            "mean_mb_s": round(self.mean_mb_s, 9),
            "peak_records_s": round(self.peak_records_s, 6),
            "peak_mb_s": round(self.peak_mb_s, 9),
            "peak_at": None if self.peak_at is None else self.peak_at.isoformat().replace("+00:00", "Z"),
        }


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of a period from `start`: MB/s of each hour, of all topics, and the topics whose hours were counted.

    `week_mb_s` is the mean of each week since the beginning.
    """

    start: datetime
    mean_mb_s: float
    hours_mb_s: NDArray[np.float64]
    topics: tuple[TopicRate, ...]
    limits_mb_s: Mapping[str, float]
    week_mb_s: Mapping[str, float]

    @property
    def peak_mb_s(self) -> float:
        return float(self.hours_mb_s.max(initial=0.0))

    @property
    def peak_at(self) -> datetime:
        """When the busiest hour began."""
        hour = int(self.hours_mb_s.argmax()) if len(self.hours_mb_s) else 0
        return from_microseconds(microseconds(self.start) + hour * HOUR_US)

    def to_json(self) -> dict[str, Any]:
        return {
            "mean_mb_s": round(self.mean_mb_s, 9),
            "peak_mb_s": round(self.peak_mb_s, 9),
            "peak_at": self.peak_at.isoformat().replace("+00:00", "Z"),
            "peak_week": max(self.week_mb_s, key=lambda key: self.week_mb_s[key], default=None),
            "peak_week_mb_s": round(max(self.week_mb_s.values(), default=0.0), 9),
            "limits": [
                {
                    "name": name,
                    "mb_s": limit,
                    "mean_share": self.mean_mb_s / limit,
                    "peak_share": self.peak_mb_s / limit,
                }
                for name, limit in self.limits_mb_s.items()
            ],
            "topics": [topic.to_json() for topic in self.topics],
        }


def rates(archive: Archive, report: StorageReport, now: datetime | None = None, most: int = TOPICS) -> Rates | None:
    """The rates of a report's period; None where nothing came, where no week has begun, and of more than five weeks.

    Raises:
        StoreUnavailable: the archive cannot be read.
    """
    if not report.weeks or len(report.weeks) > MOST_WEEKS or not (report.topics["messages"] > 0).any():
        return None
    start_us = report.weeks[0].start_us
    end_us = min(report.weeks[-1].end_us, microseconds(now or datetime.now(UTC)))
    count = -(-(end_us - start_us) // HOUR_US)
    if count <= 0:
        return None
    seconds = (end_us - start_us) / 1e6
    lengths = np.full(count, 3600.0)
    lengths[-1] = seconds - 3600.0 * (count - 1)
    whole = np.zeros(count)
    found = []
    counted = report.topics[report.topics["messages"] > 0]
    for row in counted.head(most).to_dict("records"):
        records = _hourly(archive, Dataset.parse(row["topic"]), report.weeks, start_us, count)
        mean_bytes = row["avro_mb"] * 1e6 / row["messages"]
        if not records.any():
            records = row["messages"] * lengths / seconds
        found.append(_rate(row["topic"], records / lengths, mean_bytes, row["messages"] / seconds, start_us))
        whole += records * mean_bytes
    rest = counted.iloc[most:]["avro_mb"].sum() * 1e6
    hours = (whole / lengths + rest / seconds) / 1e6
    limits = dict(archive.settings.configuration.reports.limits_mb_s)
    mean = float((hours * lengths).sum() / seconds)
    return Rates(report.weeks[0].start, mean, hours, tuple(found), limits, _weekly(report))


def _weekly(report: StorageReport) -> dict[str, float]:
    import polars as pl

    from efd_pipelines.storage.tidy import RECEIVED

    of = report.gathered.totals.filter(pl.col("store") == RECEIVED).group_by("week").agg(pl.col("bytes").sum())
    return {week: size / 1e6 / (7 * 86400) for week, size in sorted(of.iter_rows())}


def _rate(
    topic: str, records_s: NDArray[np.float64], mean_bytes: float, mean_records_s: float, start_us: int
) -> TopicRate:
    peak = int(records_s.argmax())
    return TopicRate(
        topic,
        mean_records_s,
        mean_records_s * mean_bytes / 1e6,
        float(records_s[peak]),
        float(records_s[peak]) * mean_bytes / 1e6,
        from_microseconds(start_us + peak * HOUR_US),
    )


def _hourly(
    archive: Archive, dataset: Dataset, weeks: Sequence[Week], start_us: int, count: int
) -> NDArray[np.float64]:
    """Records of each hour; nothing where the archive has no table of it."""
    found = np.zeros(count)
    snapshot = open_table(archive.store, archive.relative(dataset))
    if snapshot is None:
        return found
    keys = {week.key for week in weeks}
    for file in snapshot.files(keys):
        for rows, first_us, last_us in _stretches(snapshot, file):
            _spread(found, rows, first_us - start_us, last_us - start_us)
    return found


def _stretches(snapshot: TableSnapshot, file: DataFile) -> list[tuple[int, int, int]]:
    """A file's rows with their first and last times: one stretch for an hour's slice, else one per row group."""
    import pyarrow.parquet as pq

    of = Slice.parse(file.slice)
    if file.time_min_us is None or file.time_max_us is None:
        return [(file.rows, of.start_us, of.end_us - 1)]
    if file.time_max_us - file.time_min_us < HOUR_US:
        return [(file.rows, file.time_min_us, file.time_max_us)]
    store, relative = snapshot.store, f"{snapshot.relative}/{file.path}"
    with store.errors(f"read {relative}"), pq.ParquetFile(store.path(relative), filesystem=store.arrow_fs) as parquet:
        column = parquet.schema_arrow.names.index("time")
        groups = [parquet.metadata.row_group(n) for n in range(parquet.num_row_groups)]
        found = []
        for group in groups:
            told = group.column(column).statistics
            if told is None or not told.has_min_max:
                return [(file.rows, file.time_min_us, file.time_max_us)]
            found.append((group.num_rows, microseconds(told.min), microseconds(told.max)))
        return found


def _spread(hours: NDArray[np.float64], rows: int, first_us: int, last_us: int) -> None:
    """Counts rows evenly between two times, the ends included."""
    first, last = (min(max(us // HOUR_US, 0), len(hours) - 1) for us in (first_us, last_us))
    if first == last:
        hours[first] += rows
        return
    edges = np.clip(np.arange(first, last + 2) * HOUR_US, first_us, last_us + 1)
    hours[first : last + 1] += rows * np.diff(edges) / (last_us + 1 - first_us)


def rates_section(found: Rates) -> Section:
    """The hourly rates as a section of the report's page."""
    from efd_pipelines.storage import charts

    limit, most = min(found.limits_mb_s.items(), key=lambda one: one[1], default=("", 0.0))
    against = f": {100 * found.peak_mb_s / most:.2g} % of {limit} ({most:g} MB/s)" if most else ""
    title = f"{found.mean_mb_s:.3g} MB/s on average, at most {found.peak_mb_s:.3g} MB/s in an hour{against}"
    svg = charts.hours("rates", title, list(found.hours_mb_s), found.limits_mb_s, found.start)
    words = [f"The busiest hour began at {found.peak_at:%Y-%m-%d %H:%M} UTC. Avro bytes, by event time."]
    rows = [
        [
            one.topic,
            f"{one.mean_records_s:,.4g}",
            f"{one.peak_records_s:,.4g}",
            f"{one.mean_mb_s:.3g}",
            f"{one.peak_mb_s:.3g}",
            "" if one.peak_at is None else f"{one.peak_at:%Y-%m-%d %H:%M}",
        ]
        for one in found.topics
    ]
    columns = ["topic", "records/s", "in the peak hour", "MB/s", "in the peak hour ", "peak hour (UTC)"]
    return Section("rates", title, svg, words, columns, rows)
