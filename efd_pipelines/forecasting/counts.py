"""Counts: how many records and bytes each topic sent each half day.

From the ledger, as long as it has a row per commit: a week's rows become one when it is sealed. So what was counted is
kept, a file a day, by whoever asks, and each day is counted again until its week is sealed, for records that come late.
A commit that spans midday or midnight is spread over both sides; drains are minutes to an hour apart.
What belongs here: counting and keeping. What is made of the counts: `detection.py`, `anomalies.py`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from efd_pipelines.forecasting.half_days import PARTS, Counts
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    import polars as pl

    from efd_pipelines.archive.archive import Archive

DIRECTORY = "reports/anomalies/counts"
HISTORY_DAYS = 240
"""What the slowest judgement, of a creep, looks back on."""

_HALF_US = 43_200_000_000
_COUNTED_AGAIN = 9
_MOVING = ("merge", "widen", "seal", "expire", "fill", "sealed", "gap")
_KEPT = pa.schema([("topic", pa.string()), ("part", pa.int8()), ("records", pa.float64()), ("bytes", pa.float64())])


def counts(archive: Archive, last: date, days: int = HISTORY_DAYS) -> Counts:
    """Counts of `days` days up to `last`, of all topics that sent anything; keeps what the ledger will forget.

    A day of which nothing is known has no records.

    Raises:
        StoreUnavailable: the ledger cannot be read, or what was counted not be kept.
    """
    first = last - timedelta(days=days - 1)
    for day, table in _counted(archive, max(first, last - timedelta(days=_COUNTED_AGAIN - 1)), last):
        archive.store.write_bytes(f"{DIRECTORY}/{day.isoformat()}.parquet", _file(table))
    wanted = {(first + timedelta(days=n)).isoformat() for n in range(days)}
    kept = {}
    for name in sorted(archive.store.list(DIRECTORY)):
        key = name.removesuffix(".parquet")
        data = archive.store.try_read(f"{DIRECTORY}/{name}") if key in wanted else None
        if data is not None:
            kept[date.fromisoformat(key)] = pq.read_table(io.BytesIO(data), schema=_KEPT)
    return _arrays(archive, kept, first, days)


def _file(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _counted(archive: Archive, first: date, last: date) -> Iterable[tuple[date, pa.Table]]:
    """Counts of days whose weeks are not sealed, by the ledger."""
    begin_us, end_us = _midnight_us(first), _midnight_us(last + timedelta(days=1))
    halves = (end_us - begin_us) // _HALF_US
    of_weeks: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    names = ["commit_kind", "rows", "avro_bytes", "time_min", "time_max"]
    sealed: set[tuple[str, str]] = set()
    weeks = {_week(first + timedelta(days=n)) for n in range((last - first).days + 1)}
    for part in archive.ledger.in_parts(names, weeks=weeks):
        drained, sealed_here = _drained(part, begin_us, end_us)
        sealed |= sealed_here
        for dataset, week, rows, size, low, high in drained.iter_rows():
            records, sizes = of_weeks.setdefault((dataset, week), (np.zeros(halves), np.zeros(halves)))
            for half, share in _shares(low, high, begin_us, halves):
                records[half] += rows * share
                sizes[half] += size * share
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for (dataset, week), (records, sizes) in of_weeks.items():
        if (dataset, week) not in sealed:
            before = found.get(dataset, (0, 0))
            found[dataset] = (before[0] + records, before[1] + sizes)
    weeks_sealed = {week for _, week in sealed}
    for n in range(halves // len(PARTS)):
        day = first + timedelta(days=n)
        if _week(day) not in weeks_sealed and found:
            yield day, _day_table(found, n)


def _drained(part: pl.DataFrame, begin_us: int, end_us: int) -> tuple[pl.DataFrame, set[tuple[str, str]]]:
    """What was drained of these times, and the datasets' weeks that are sealed."""
    import polars as pl

    texts = [pl.col(name).cast(pl.String) for name in ("table", "week", "dataset", "commit_kind")]
    raw = part.with_columns(texts).filter((pl.col("table") == "raw") & pl.col("week").str.starts_with("2"))
    sealed = raw.filter(pl.col("commit_kind") == "sealed").select("dataset", "week").unique()
    drained = raw.filter(
        ~pl.col("commit_kind").is_in(_MOVING) & (pl.col("rows") > 0) & pl.col("time_min").is_not_null()
    ).select("dataset", "week", "rows", "avro_bytes", pl.col("time_min", "time_max").cast(pl.Int64))
    of_times = drained.filter((pl.col("time_max") >= begin_us) & (pl.col("time_min") < end_us))
    return of_times, set(sealed.iter_rows())


def _shares(low: int, high: int, begin_us: int, halves: int) -> list[tuple[int, float]]:
    """The half days that a stretch of time touches, and its share in each, of those that are asked for."""
    first, last = (low - begin_us) // _HALF_US, (high - begin_us) // _HALF_US
    if first == last:
        return [(first, 1.0)] if 0 <= first < halves else []
    length = high - low
    edges = [max(low, min(high, begin_us + n * _HALF_US)) for n in range(first, last + 2)]
    parts = [(first + n, (edges[n + 1] - edges[n]) / length) for n in range(last - first + 1)]
    return [(half, share) for half, share in parts if 0 <= half < halves]


def _day_table(found: dict[str, tuple[np.ndarray, np.ndarray]], day: int) -> pa.Table:
    """A day's rows. The first half of a UTC day is the night at the observatory."""
    rows = [
        {"topic": topic, "part": PARTS.index(part), "records": records[half], "bytes": sizes[half]}
        for topic, (records, sizes) in sorted(found.items())
        for part, half in (("night", 2 * day), ("day", 2 * day + 1))
        if records[half] > 0
    ]
    return pa.Table.from_pylist(rows, schema=_KEPT)


def _arrays(archive: Archive, kept: dict[date, pa.Table], first: date, days: int) -> Counts:
    topics = sorted({topic for table in kept.values() for topic in table["topic"].to_pylist()})
    place = {topic: n for n, topic in enumerate(topics)}
    records = np.zeros((days, len(topics), len(PARTS)), dtype=np.float32)
    sizes = np.zeros_like(records)
    for day, table in kept.items():
        at = [place[topic] for topic in table["topic"].to_pylist()]
        part = table["part"].to_numpy()
        records[(day - first).days, at, part] = table["records"].to_numpy()
        sizes[(day - first).days, at, part] = table["bytes"].to_numpy()
    datasets = [Dataset.parse(topic) for topic in topics]
    configuration = archive.settings.configuration
    return Counts(
        topics=tuple(topics),
        components=tuple(dataset.component for dataset in datasets),
        kinds=tuple(dataset.kind.value for dataset in datasets),
        declared_hz=np.array([configuration.rate_hz(dataset) for dataset in datasets]),
        days=np.datetime64(first, "D") + np.arange(days),
        records=records,
        bytes=sizes,
    )


def _week(day: date) -> str:
    return Week.containing(datetime(day.year, day.month, day.day, tzinfo=UTC)).key


def _midnight_us(day: date) -> int:
    return microseconds(datetime(day.year, day.month, day.day, tzinfo=UTC))
