"""What tests of the Dagster layer are made of: rows in an archive, topics on a broker that is not there."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from efd_pipelines.archive.archive import Archive
from efd_pipelines.archive.backlog import Backlog
from efd_pipelines.archive.slices import SliceUnit
from efd_pipelines.kafka.brokers import TopicConfig, Watermarks
from efd_pipelines.kafka.catalogue import Catalogue, CatalogueTopic
from efd_pipelines.simulator.fixtures import builtin_topic
from efd_pipelines.times import Week, microseconds
from efd_pipelines.topics.names import Dataset
from efd_pipelines_tests.unit.tiers.builders import SECOND_US, archive_rows, rows

FAST = Dataset("lsst.sal.MTM1M3.hardpointActuatorData")
SLOW = Dataset("lsst.sal.ESS.temperature")


def archived(archive: Archive, dataset: Dataset, week: Week | str, count: int = 10, *, first_offset: int = 0) -> None:
    """Commits rows of the first seconds of a week, twenty a second, as a drain does."""
    monday = Week.parse(week) if isinstance(week, str) else week
    times = monday.start_us + np.arange(count) * (SECOND_US // 20)
    table = rows(times, {"value": np.arange(count, dtype=np.float64)}, first_offset=first_offset)
    archive_rows(archive, dataset, table, unit=SliceUnit.HOUR)


def waiting(
    topic: str, *, records: int = 100, due: bool = True, last_at: datetime | None = None, freshness: str = "normal"
) -> Backlog:
    """A topic with records that are not archived."""
    return Backlog(
        dataset=Dataset(topic),
        topic=topic,
        records=records,
        bytes_estimate=records * 1024,
        last_at=last_at,
        due=due,
        freshness="fast" if freshness == "fast" else "normal",
    )


def on_brokers(name: str, *, topic_id: str = "id", records: int = 10, schema: str | None = None) -> CatalogueTopic:
    """A topic as discovery sees it, e.g. of `MTMount.azimuth`."""
    return CatalogueTopic(
        topic=f"lsst.sal.{name}",
        dataset=Dataset(f"lsst.sal.{name}"),
        topic_id=topic_id,
        partitions=(0,),
        watermarks={0: Watermarks(0, records)},
        config=TopicConfig("delete", 108_000_000, "CreateTime", 1_048_588),
        covered=True,
        value_format="avro",
        schema_text=schema or builtin_topic(name).avro_schema(),
        schema_version=1,
        schema_ids=(7,),
    )


def a_catalogue(*topics: CatalogueTopic, retired: tuple[CatalogueTopic, ...] = ()) -> Catalogue:
    ordered = tuple(sorted(topics, key=lambda topic: topic.dataset.text))
    return Catalogue(read_at=datetime.now(UTC), cluster_id="cluster", topics=ordered, retired=retired)


def at(text: str) -> datetime:
    """A time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def us(text: str) -> int:
    return microseconds(at(text))
