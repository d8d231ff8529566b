"""Latency: how long records take from their event time into Kafka and into the archive, as percentiles.

Into the archive: by the ledger's drains, whose records are taken to be spread evenly between the first and the last
event time of a commit; a week that is sealed has kept quantiles of them (`archive/ages.py`). Into Kafka: by the time
stamps of archived records, some thousands of each of the largest topics; brokers with LogAppendTime stamp when they
have a record, others show the producer's time, which says less.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from efd_pipelines.archive.ages import Ages, ages_of
from efd_pipelines.archive.ledger_rows import RAW, SEALED
from efd_pipelines.archive.tables import open_table
from efd_pipelines.storage.page import Section
from efd_pipelines.storage.rates import MOST_WEEKS
from efd_pipelines.times import Week
from efd_pipelines.topics.names import Dataset

if TYPE_CHECKING:
    from efd_pipelines.archive.archive import Archive
    from efd_pipelines.storage.throughput import StorageReport

PERCENTILES = (50, 90, 99, 100)
INTO_ARCHIVE = "event time → archive"
_TOPICS = 10
_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds by percentile, and of how many records; of `unknown` sealed weeks of topics it was not kept."""

    name: str
    records: int
    seconds: tuple[float, ...]
    unknown: int = 0

    def to_json(self) -> dict[str, Any]:
        percentiles = {f"p{p}_s": round(s, 3) for p, s in zip(PERCENTILES, self.seconds, strict=True)}
        return {"name": self.name, "records": self.records, **percentiles, "unknown_weeks": self.unknown}


def latencies(archive: Archive, report: StorageReport) -> list[Latency]:
    """The latencies of a report's period; none of which nothing is told, nor of more than five weeks.

    Raises:
        StoreUnavailable: the archive cannot be read.
    """
    if not report.weeks or len(report.weeks) > MOST_WEEKS:
        return []
    topics = [Dataset.parse(topic) for topic in report.topics["topic"].head(_TOPICS)]
    found = [_into_kafka(archive, topics, report.weeks), _into_archive(archive, report.weeks)]
    return [one for one in found if one is not None]


def _into_archive(archive: Archive, weeks: Sequence[Week]) -> Latency | None:
    import polars as pl

    keys = [week.key for week in weeks]
    parts, unknown, sealed_in = [], 0, set()
    columns = ["commit_kind", "rows", "time_min", "time_max", "at", "month"]
    for part in archive.ledger.in_parts(columns, keys):
        here = part.filter((pl.col("table") == RAW) & (pl.col("rows") > 0))
        drains = here.filter(pl.col("commit_kind") == "drain")
        at, first, last = (pl.col(name).cast(pl.Int64) for name in ("at", "time_min", "time_max"))
        told = drains.select("rows", (at - last).alias("least"), (at - first).alias("most")).drop_nulls()
        parts.append(Ages(*(told[name].to_numpy().astype(float) for name in ("least", "most", "rows"))).scaled(1e-6))
        sealed_in |= set(here.filter(pl.col("commit_kind") == SEALED)["month"])
    # What sealed rows say is long: it is read of the months alone in which some of these weeks have some.
    for part in archive.ledger.in_parts(["rows", "sealed"], keys, sealed_in) if sealed_in else ():
        of = part.filter((pl.col("table") == RAW) & (pl.col("rows") > 0) & (pl.col("commit_kind") == SEALED))
        kept = [json.loads(text).get("ages") for text in of["sealed"]]
        unknown += sum(one is None for one in kept)
        parts += [ages_of(one) for one in kept if one]
    ages = Ages.together(parts)
    if not ages.count:
        return None
    seconds = tuple(ages.quantiles([p / 100 for p in PERCENTILES]).tolist())
    return Latency(INTO_ARCHIVE, ages.count, seconds, unknown)


def _into_kafka(archive: Archive, topics: Sequence[Dataset], weeks: Sequence[Week]) -> Latency | None:
    ages = [age for dataset in topics if len(age := _ages(archive, dataset, weeks))]
    if not ages:
        return None
    together = np.concatenate(ages)
    seconds = Ages(together, together, np.ones(len(together))).quantiles([p / 100 for p in PERCENTILES])
    return Latency("event time → Kafka", len(together), tuple(seconds.tolist()))


def _ages(archive: Archive, dataset: Dataset, weeks: Sequence[Week]) -> NDArray[np.float64]:
    """Seconds from event time to Kafka's time stamp of the first records of a topic's newest file."""
    import pyarrow.parquet as pq

    snapshot = open_table(archive.store, archive.relative(dataset))
    files = [] if snapshot is None else snapshot.files({week.key for week in weeks})
    if snapshot is None or not files:
        return np.empty(0)
    relative = f"{snapshot.relative}/{max(files, key=lambda file: (file.slice, file.path)).path}"
    store = archive.store
    with store.errors(f"read {relative}"), pq.ParquetFile(store.path(relative), filesystem=store.arrow_fs) as parquet:
        part = parquet.read_row_group(0, ["time", "kafka_timestamp"]).slice(0, _ROWS)
    both = part.filter(pc.is_valid(part["kafka_timestamp"]))
    time, stamp = (both[name].cast(pa.int64()).to_numpy() for name in ("time", "kafka_timestamp"))
    ages: NDArray[np.float64] = (stamp - time) / 1e6
    return ages


def duration(seconds: float) -> str:
    """A time that something takes, with three digits."""
    for length, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if abs(seconds) >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def latency_section(found: Sequence[Latency]) -> Section | None:
    """The latencies as a section of the report's page."""
    if not found:
        return None
    last = found[-1]
    title = f"Half of the records take at most {duration(last.seconds[0])}, 99 % at most {duration(last.seconds[2])}"
    rows = [[one.name, f"{one.records:,}", *(duration(s) for s in one.seconds)] for one in found]
    unknown = sum(one.unknown for one in found)
    words = (
        [f"Of {unknown:,} weeks of topics it is not known: they were sealed by an older release."] if unknown else []
    )
    columns = ["way", "records", *(f"{p} %" if p < 100 else "longest" for p in PERCENTILES)]
    return Section("latency", f"{title} ({last.name})", "", words, columns, rows)
